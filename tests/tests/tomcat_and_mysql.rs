//! The second worked example on one machine: a page of Tomcat's that keeps its rows in a MySQL server.

use std::fs;
use std::process::Command;
use std::time::Duration;

use tests::support::image::layout_of;
use tests::support::program;
use tests::{Node, Output, within};

/// As the example names them; a mirror of docker.io has what this repo builds.
const MYSQL: &str = "mysql";
const TOMCAT: &str = "kubeguide/tomcat-app:v1";

/// A server with a database to make, or a JVM, on a machine that others use too.
const START: Duration = Duration::from_secs(120);

/// The password of root, with what would break out of a string of SQL or of a shell.
const PASSWORD: &str = "MYSQL_ROOT_PASSWORD=it's \\ \"123456\" $HOME";

fn node() -> Node {
    let node = Node::fresh();
    let registry = node.registry();
    fs::write(
        node.config_root().join("registries.d/docker.toml"),
        format!("[host.\"docker.io\"]\nmirrors = [\"{}\"]\n", registry.host()),
    )
    .expect("the folder is ours");
    registry.push(&node.netns, &layout_of("mysql"), "library/mysql");
    registry.push(&node.netns, &layout_of("tomcat"), "kubeguide/tomcat-app:v1");
    node
}

/// Starts the server with its data in a volume, and waits until it serves.
fn mysql(node: &Node, options: &[&str]) -> String {
    let named = ["--name", "mysql", "-v", "data:/var/lib/mysql"];
    let id = node.detached(&[&named, options, &[MYSQL]].concat());
    within(START, "the server to serve", || {
        let log = node.agent(&["logs", "mysql"]);
        let alive = node.agent(&["ps", "-q", "--no-trunc"]).ok().contains(&id);
        assert!(alive, "{}{}", log.stdout, log.stderr);
        log.stderr.contains("port: 3306").then_some(())
    });
    node.ip("mysql").to_string()
}

/// Starts the web server for a database at an address, and returns where its page is.
fn tomcat(node: &Node, mysql: &str) -> String {
    let host = format!("MYSQL_SERVICE_HOST={mysql}");
    let _ = node.detached(&[
        "--name",
        "myweb",
        "-e",
        &host,
        "-e",
        "MYSQL_SERVICE_PORT=3306",
        "-e",
        PASSWORD,
        TOMCAT,
    ]);
    let url = format!("http://{}:8080/", node.ip("myweb"));
    within(START, "the web server to answer", || {
        let output = ask(node, &[&url]);
        (output.code == 0 && output.stdout.ends_with("302")).then_some(())
    });
    format!("{url}demo/")
}

/// Asks by curl, and gives the page time to be compiled.
fn ask(node: &Node, words: &[&str]) -> Output {
    let mut curl: Command = node.netns.command("curl");
    curl.args(["--silent", "--show-error", "--max-time", "60", "--write-out", "%{http_code}"]).args(words);
    program::run(&mut curl, b"", START)
}

#[test]
fn a_page_writes_and_reads_rows_that_outlive_the_server() {
    let node = node();
    let address = mysql(&node, &["-e", PASSWORD]);
    let page = tomcat(&node, &address);
    let empty = ask(&node, &[&page]).ok();
    assert!(empty.ends_with("200") && empty.contains("<th>Name</th>") && !empty.contains("<td>"), "{empty}");
    for (name, level) in [("google", "100"), ("<b>ümlaut</b> '; DROP TABLE users", "7")] {
        let (name, level) = (format!("name={name}"), format!("level={level}"));
        let said = ask(&node, &["--data-urlencode", &name, "--data-urlencode", &level, &page]).ok();
        assert!(said.ends_with("303"), "{said}");
    }
    let rows = "<tr><td>google</td><td>100</td></tr>\n\
                <tr><td>&lt;b&gt;ümlaut&lt;/b&gt; '; DROP TABLE users</td><td>7</td></tr>\n";
    let full = ask(&node, &[&page]).ok();
    assert!(full.contains(rows), "{full}");
    let refused = ask(&node, &["--data", "name=x&level=high", &page]).ok();
    assert!(refused.ends_with("400"), "{refused}");

    // While the server is away the page says so, and it ends in order.
    assert_eq!(node.agent(&["stop", "mysql"]).ok(), "mysql");
    let log = node.agent(&["logs", "mysql"]);
    assert!(log.stderr.contains("Shutdown complete"), "{}", log.stderr);
    assert_eq!(node.inspect("mysql")["State"]["ExitCode"], 0);
    assert_eq!(node.agent(&["rm", "mysql"]).ok(), "mysql");
    let away = ask(&node, &[&page]).ok();
    assert!(away.ends_with("503") && away.contains("The database does not answer"), "{away}");

    // Another server on the same volume has the rows, and needs no password to make a database with.
    let address = mysql(&node, &[]);
    assert_eq!(node.agent(&["rm", "-f", "myweb"]).ok(), "myweb");
    let page = tomcat(&node, &address);
    let again = ask(&node, &[&page]).ok();
    assert!(again.contains(rows), "{again}");
}

#[test]
fn a_database_is_not_made_without_a_password_or_half() {
    let node = node();
    let line = node.agent(&["run", "-q", "--rm", MYSQL]).refused(1);
    assert!(line.contains("set MYSQL_ROOT_PASSWORD"), "{line}");

    // One that was killed while it was made is made anew.
    let words = ["--name", "killed", "-v", "data:/var/lib/mysql", "-e", PASSWORD, MYSQL];
    let _ = node.detached(&words);
    let volume = node.root().join("volumes/data/data");
    within(START, "the database to be half made", || (fs::read_dir(&volume).ok()?.count() > 2).then_some(()));
    assert_eq!(node.agent(&["rm", "-f", "killed"]).ok(), "killed");
    assert!(volume.join(".half-made").exists());
    let _ = mysql(&node, &["-e", PASSWORD]);
    let query = [
        "exec",
        "mysql",
        "sh",
        "-c",
        "exec mariadb --password=\"$MYSQL_ROOT_PASSWORD\" -Ne 'SELECT CURRENT_USER()'",
    ];
    assert_eq!(node.agent(&query).ok(), "root@localhost");
    let denied = node.agent(&["exec", "mysql", "mariadb", "--password=wrong", "-e", "SELECT 1"]);
    assert!(denied.code == 1 && denied.stderr.contains("Access denied"), "{denied:?}");
}

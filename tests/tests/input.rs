//! Bad input: one clear line, the right exit code, and nothing left.

use std::fs;
use std::process::Command;

use serde_json::json;
use tests::support::node::binary;
use tests::support::program::{self, LIMIT};
use tests::{Image, Node, PROBE};

/// Arguments, the exit code, and a word that the line must hold.
type Case<'a> = (&'a [&'a str], i32, &'a str);

fn check(node: &Node, cases: &[Case<'_>]) {
    for (words, code, word) in cases {
        let output = node.agent(words);
        let line = std::panic::catch_unwind(|| output.clone().refused(*code));
        let line = line.unwrap_or_else(|_| panic!("agent {}", words.join(" ")));
        assert!(line.starts_with("agent: ") && line.contains(word), "agent {}: {line}", words.join(" "));
    }
    node.assert_nothing_left();
}

#[test]
fn wrong_arguments_are_told_in_one_line() {
    let node = Node::offline();
    check(
        &node,
        &[
            (&[], 1, "no command given"),
            (&["frobnicate"], 1, "frobnicate"),
            (&["--frob", "ps"], 1, "--frob"),
            (&["ps", "--frob"], 1, "--frob"),
            (&["run"], 125, "IMAGE"),
            (&["run", "--frob", PROBE], 125, "--frob"),
            (&["exec", "x"], 125, "COMMAND"),
            (&["run", "--memory", "5m", PROBE], 125, "6m"),
            (&["run", "--memory", "lots", PROBE], 125, "lots"),
            (&["run", "--memory", "-1", PROBE], 125, "-1"),
            (&["run", "--memory", "18446744073709551616k", PROBE], 125, "18446744073709551616k"),
            (&["run", "--cpus", "0", PROBE], 125, "0"),
            (&["run", "--cpus", "two", PROBE], 125, "two"),
            (&["run", "--pids-limit", "0", PROBE], 125, "0"),
            (&["run", "--network", "frob", PROBE], 125, "frob"),
            (&["run", "-p", "80:80/frob", PROBE], 125, "frob"),
            (&["run", "-p", "70000:80", PROBE], 125, "70000"),
            (&["run", "-v", "nowhere", PROBE], 125, "nowhere"),
            (&["run", "-v", "/a:b", PROBE], 125, "absolute"),
            (&["run", "-v", "../a:/b", PROBE], 125, "../a"),
            (&["run", "-e", "=x", PROBE], 125, "=x"),
            (&["run", "--pull", "sometimes", PROBE], 125, "sometimes"),
            (&["run", "--platform", "frob/frob/frob/frob", PROBE], 125, "frob"),
            (&["kill", "-s", "FROB", "x"], 1, "FROB"),
            (&["stop", "-t", "soon", "x"], 1, "soon"),
            (&["logs", "--since", "someday", "x"], 1, "someday"),
            (&["ps", "--filter", "colour=red"], 1, "colour"),
            (&["ps", "--format", "xml"], 1, "xml"),
            (&["pull", "UPPER/case"], 1, "UPPER"),
            (&["pull", "a b"], 1, "a b"),
            (&["pull", ""], 1, ""),
            (&["pull", "registry.test/x@sha256:12"], 1, "12"),
            (&["run", "-"], 125, ""),
            (&["run", &"a".repeat(5000)], 125, ""),
        ],
    );
}

#[test]
fn what_is_not_there_is_told_in_one_line() {
    let node = Node::new();
    for verb in ["logs", "stop", "kill", "rm", "wait", "inspect", "trace", "rmi"] {
        let output = node.agent(&[verb, "nosuch"]);
        assert_eq!(output.code, 1, "{verb}: {}", output.stderr);
        assert!(output.stderr.contains("nosuch") && output.stderr.lines().count() == 1, "{verb}: {output:?}");
    }
    check(
        &node,
        &[
            (&["exec", "nosuch", "true"], 1, "nosuch"),
            (&["run", "registry.test/nosuch:1"], 125, "registry.test/nosuch:1"),
            (&["run", "registry.test/probe:nosuch"], 125, "nosuch"),
            (&["pull", "registry.test/nosuch"], 1, "nosuch"),
            (&["run", "--platform", "linux/s390x", PROBE], 125, "s390x"),
        ],
    );
}

#[test]
fn what_cannot_be_had_of_an_image_is_told_in_one_line() {
    let node = Node::new();
    let nothing = Image::on("probe").set("Entrypoint", json!(null)).set("Cmd", json!(null));
    let empty = node.push_and_pull("empty", &nothing);
    let stranger = node.push_and_pull("stranger", &Image::on("probe").set("User", json!("stranger")));
    check(
        &node,
        &[
            (&["run", &empty], 125, "command"),
            (&["run", &stranger], 125, "stranger"),
            (&["run", "--entrypoint", "/nosuch", PROBE], 127, "/nosuch"),
            (&["run", "--entrypoint", "nosuch", PROBE], 127, "nosuch"),
            (&["run", "--entrypoint", "/etc/passwd", PROBE], 126, "/etc/passwd"),
            (&["run", "--entrypoint", "/home", PROBE], 126, "/home"),
            (&["run", "-u", "stranger", PROBE], 125, "stranger"),
            (&["run", "-u", "0:stranger", PROBE], 125, "stranger"),
            (&["run", "-u", "4294967296", PROBE], 125, "4294967296"),
            (&["run", "-w", "relative", PROBE], 125, "relative"),
            (&["run", "-w", "/etc/passwd", PROBE], 125, "/etc/passwd"),
            (&["run", "--name", "-x", PROBE], 125, "-x"),
            (&["run", "--name", "a/b", PROBE], 125, "a/b"),
            (&["run", "--hostname", "a b", PROBE], 125, "a b"),
            (&["run", "--cap-add", "FROB", PROBE], 125, "FROB"),
            (&["run", "--tmpfs", "/x:frob", PROBE], 125, "frob"),
            (&["run", "--tmpfs", "/proc/sys", PROBE], 125, "/proc"),
            (&["run", "-v", "a1:/x", "-v", "b1:/x/", PROBE], 125, "/x"),
            (&["run", "--network", "none", "-p", "80:80", PROBE], 125, "publish"),
            (&["run", "-p", "80:80", "-p", "80:81", PROBE], 125, "80"),
        ],
    );
}

#[test]
fn a_registry_that_is_down_is_told_in_one_line() {
    let mut node = Node::fresh();
    node.stop_registry();
    let line = node.agent(&["run", PROBE]).refused(125);
    assert!(line.contains("cannot reach") && line.contains("127.0.0.1"), "{line}");
    let line = node.agent(&["pull", PROBE]).refused(1);
    assert!(line.contains(PROBE), "{line}");
    // One that speaks no HTTP.
    let listener = node.netns.listen(std::net::Ipv4Addr::LOCALHOST, 0).expect("a free port");
    let host = listener.local_addr().expect("it listens").to_string();
    let text = format!("[host.\"{host}\"]\nplain-http = true\n");
    fs::write(node.config_root().join("registries.d/other.toml"), text).expect("the folder is ours");
    let answering = std::thread::spawn(move || {
        for stream in listener.incoming().take(1) {
            drop(std::io::Write::write_all(&mut stream.expect("it came"), b"220 this is no registry\r\n"));
        }
    });
    let line = node.agent(&["pull", &format!("{host}/x")]).refused(1);
    assert!(line.contains(&host), "{line}");
    answering.join().expect("it does not panic");
    node.assert_nothing_left();
}

#[test]
fn a_configuration_that_is_wrong_is_told_in_one_line() {
    let node = Node::new();
    for (text, word) in [
        ("[host.\"x\"\n", "line 1"),
        ("[host.\"registry.example\"]\nmirors = []\n", "mirors"),
        ("[host.\"registry.example\"]\nusername = \"a\"\n", "password"),
        ("[host.\"registry.test\"]\n", "registry.test"),
    ] {
        let path = node.config_root().join("registries.d/wrong.toml");
        fs::write(&path, text).expect("the folder is ours");
        let line = node.agent(&["pull", PROBE]).refused(1);
        assert!(line.contains(word) && line.contains("wrong.toml"), "{line}");
        fs::remove_file(path).expect("it is ours");
    }
}

#[test]
fn it_must_be_run_as_root() {
    let node = Node::offline();
    // A copy that anyone may run: what was built lies where others may not look.
    let folder = tempfile::tempdir().expect("a folder can be made");
    let agent = folder.path().join("agent");
    fs::copy(binary("agent"), &agent).expect("it was built");
    for path in [folder.path(), &agent] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(path, mode).expect("it is ours");
    }
    let as_nobody = |words: &[&str]| {
        let mut command = Command::new("setpriv");
        node.environment(&mut command);
        command
            .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"])
            .arg(&agent)
            .args(words);
        program::run(&mut command, b"", LIMIT)
    };
    for words in [&["ps"][..], &["pull", PROBE], &["images"]] {
        let line = as_nobody(words).refused(1);
        assert!(line.contains("root") && line.contains("sudo"), "{line}");
    }
    as_nobody(&["run", PROBE]).refused(125);
    assert!(as_nobody(&["--help"]).ok().contains("Usage"));
    assert!(as_nobody(&["version"]).ok().starts_with("agent "));
    assert!(!node.root().exists() && !node.run_root().exists());
}

#[test]
fn help_and_version_go_to_standard_output() {
    let node = Node::offline();
    for words in [&["--help"][..], &["run", "--help"], &["--version"], &["version"]] {
        let output = node.agent(words);
        assert!(output.code == 0 && output.stderr.is_empty() && !output.stdout.is_empty(), "{words:?}");
    }
    let help = node.agent(&["run", "--help"]).ok();
    for flag in [
        "--detach",
        "--interactive",
        "--tty",
        "--rm",
        "--name",
        "--env",
        "--volume",
        "--publish",
        "--user",
        "--workdir",
        "--entrypoint",
        "--hostname",
        "--cpus",
        "--memory",
        "--pids-limit",
        "--network",
        "--cap-add",
        "--cap-drop",
        "--read-only",
        "--tmpfs",
        "--pull",
    ] {
        assert!(help.contains(flag), "{flag}");
    }
}

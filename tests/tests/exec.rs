//! `agent exec`: further processes in a container, with its namespaces and our streams.

use std::fs;
use std::time::Duration;

use serde_json::json;
use tests::support::node::json;
use tests::support::terminal::Terminal;
use tests::{Node, PROBE, within};

#[test]
fn exec_joins_the_container() {
    let node = Node::new();
    node.detached(&["--name", "waits", "--hostname", "box", "-e", "A=one", "-u", "app", PROBE, "wait"]);
    node.log_with("waits", "ready");
    let report = json(&node.agent(&["exec", "waits", "/probe", "report"]).ok());
    let first = node.pid("waits");
    for (kind, identity) in report["namespaces"].as_object().expect("there are some") {
        let link = fs::read_link(format!("/proc/{first}/ns/{kind}")).expect("it runs");
        assert_eq!(identity, link.to_str().expect("it is plain"), "{kind}");
    }
    assert_eq!(report["hostname"], "box");
    assert_eq!(report["env"]["A"], "one");
    assert_eq!(report["uid"], 1000);
    assert!(report["pids"].as_array().is_some_and(|pids| pids.contains(&json!(1)) && pids.len() == 2));
    assert_eq!(report["fds"].as_object().map(serde_json::Map::len), Some(3), "{}", report["fds"]);
    assert_eq!((&report["no_new_privs"], &report["seccomp"]), (&json!(true), &json!(2)));
    for cgroup in report["cgroups"].as_array().into_iter().flatten() {
        assert_eq!(cgroup["path"], "/", "{cgroup}");
    }
    let words = ["exec", "-u", "0", "-w", "/etc", "-e", "B=two", "waits", "/probe"];
    let report = json(&node.agent(&words).ok());
    assert_eq!(
        (&report["uid"], &report["cwd"], &report["env"]["B"]),
        (&json!(0), &json!("/etc"), &json!("two"))
    );
    assert_eq!(node.agent_fed(&["exec", "-i", "waits", "/probe", "cat"], "hello").ok(), "hello");
    assert_eq!(node.agent(&["exec", "waits", "/probe", "exit", "7"]).code, 7);
    node.agent(&["exec", "waits", "/nosuch"]).refused(127);
    node.agent(&["exec", "waits", "/etc/passwd"]).refused(126);
    assert_eq!(node.agent(&["exec", "-d", "waits", "/probe", "wait"]).ok(), "");
    within(Duration::from_secs(10), "the detached process", || {
        let report = json(&node.agent(&["exec", "waits", "/probe"]).ok());
        (report["pids"].as_array().map(Vec::len) == Some(3)).then_some(())
    });
    assert_eq!(node.agent(&["stop", "waits"]).ok(), "waits");
    let line = node.agent(&["exec", "waits", "/probe"]).refused(1);
    assert!(line.contains("not running"), "{line}");
}

#[test]
fn exec_loses_nothing_on_the_way() {
    let node = Node::new();
    node.detached(&["--name", "waits", PROBE, "wait"]);
    node.log_with("waits", "ready");
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..20 {
                    assert_eq!(
                        node.agent_fed(&["exec", "-i", "waits", "/probe", "cat"], "hello").ok(),
                        "hello"
                    );
                }
            });
        }
    });
    let flood = node.agent(&["exec", "waits", "/probe", "flood", "20000000"]);
    assert_eq!((flood.code, flood.stdout.len(), flood.stderr.as_str()), (0, 20_000_000, ""));
    let flood = node.agent(&["exec", "waits", "/probe", "flood", "5000000", "--stderr"]);
    assert_eq!((flood.code, flood.stdout.as_str(), flood.stderr.len()), (0, "", 5_000_000));
    let text = "0123456789abcdef".repeat(1 << 16);
    assert!(node.agent_fed(&["exec", "-i", "waits", "/probe", "cat"], &text).ok() == text, "lost on the way");
}

#[test]
fn exec_has_a_terminal_too() {
    let node = Node::new();
    node.detached(&["--name", "waits", PROBE, "wait"]);
    node.log_with("waits", "ready");
    let mut command = node.command();
    command.args(["exec", "-it", "waits", "/probe", "tty", "--watch"]);
    let mut terminal = Terminal::start(&command, 20, 70);
    let first = within(Duration::from_secs(10), "the size", || {
        let seen = json(terminal.wait_for("}").trim());
        (seen["rows"] == 20).then_some(seen)
    });
    assert_eq!((&first["stdin"], &first["controlling"]), (&json!(true), &json!(true)));
    terminal.write("\x03");
    assert_eq!(terminal.finish().0, 0);
}

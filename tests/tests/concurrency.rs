//! Many containers at once.

use std::collections::BTreeSet;
use std::thread;

use tests::support::extent;
use tests::{Node, PROBE};

#[test]
fn many_containers_start_and_go_at_once() {
    let count = extent::count(20, 50);
    let node = Node::new();
    let names: Vec<String> = (0..count).map(|at| format!("c{at}")).collect();
    let each = |work: &(dyn Fn(&str) + Sync)| {
        thread::scope(|scope| {
            for name in &names {
                scope.spawn(move || work(name));
            }
        });
    };
    each(&|name| {
        node.detached(&["--name", name, "-p", "80", PROBE, "listen", "80"]);
    });
    assert_eq!(node.agent(&["ps", "-q"]).ok().lines().count(), count);
    let ips: BTreeSet<_> = names.iter().map(|name| node.ip(name)).collect();
    assert_eq!(ips.len(), count, "every container has an address of its own");
    let ports: BTreeSet<String> = names
        .iter()
        .map(|name| node.inspect(name)["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"].to_string())
        .collect();
    assert_eq!(ports.len(), count, "and a port");
    let (first, last) = (&names[0], &names[count - 1]);
    node.log_with(last, "listening");
    let told = node.agent(&["exec", first, "/probe", "connect", &node.ip(last).to_string(), "80"]).ok();
    assert!(told.contains("true"), "{told}");
    each(&|name| {
        let _ = node.agent(&["rm", "-f", name]).ok();
    });
    assert_eq!(node.agent(&["ps", "-aq"]).ok(), "");
    node.assert_nothing_left();
}

#[test]
fn many_pulls_of_one_image_are_one() {
    let node = Node::fresh();
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| drop(node.agent(&["run", "--rm", tests::BASE, "true"]).ok()));
        }
    });
    assert_eq!(node.agent(&["images", "-q"]).ok().lines().count(), 1);
    node.assert_nothing_left();
}

#[test]
fn one_name_is_given_once() {
    let node = Node::new();
    let outputs: Vec<_> = thread::scope(|scope| {
        let start = || node.agent(&["run", "-d", "--name", "one", PROBE, "wait"]);
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
        threads.into_iter().map(|thread| thread.join().expect("it does not panic")).collect()
    });
    let (won, lost): (Vec<_>, Vec<_>) = outputs.into_iter().partition(|output| output.code == 0);
    assert_eq!(won.len(), 1, "{won:?}");
    for output in lost {
        assert!(output.refused(125).contains("in use"));
    }
    assert_eq!(node.agent(&["ps", "-aq", "--no-trunc"]).ok(), won[0].stdout.trim_end());
}

#[test]
fn stop_remove_and_exec_at_once_leave_nothing() {
    let node = Node::new();
    for round in 0..5 {
        node.detached(&["--name", "one", PROBE, "wait"]);
        thread::scope(|scope| {
            for words in [
                &["stop", "one"][..],
                &["rm", "-f", "one"],
                &["exec", "one", "/probe", "exit", "0"],
                &["kill", "one"],
                &["rm", "-f", "one"],
                &["ps", "-a"],
                &["wait", "one"],
            ] {
                let node = &node;
                scope.spawn(move || {
                    let output = node.agent(words);
                    // Who comes late is told so; nobody breaks.
                    assert!(
                        output.stderr.lines().count() <= 1 && !output.stderr.contains("panicked"),
                        "round {round}, {words:?}: {output:?}"
                    );
                });
            }
        });
        let _ = node.agent(&["rm", "-f", "one"]);
        node.assert_nothing_left();
    }
}

//! `agent reset`: the machine as it was before.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::{BASE, Node, PROBE};

/// What the host's settings are that the network changes. iptables-nft leaves tables that it has looked at, without a rule.
fn settings(node: &Node) -> String {
    // Of tables that iptables itself made on the way nothing is left but their names.
    node.netns.shell(
        "sysctl net.ipv4.ip_forward net.ipv4.conf.all.route_localnet; ip -o addr show
         iptables-save | grep -E '^-|^:[^ ]+ -'",
    )
}

#[test]
fn a_reset_takes_everything_away() {
    let node = Node::fresh();
    node.netns
        .shell("sysctl -qw net.ipv4.ip_forward=0; iptables -t nat -N OTHERS; iptables -A FORWARD -j ACCEPT");
    let before = settings(&node);
    assert_eq!(node.shared(), Vec::<String>::new());
    node.pull(PROBE);
    node.pull(BASE);
    node.detached(&["--name", "runs", "-p", "8080:80", "-v", "data:/data", PROBE, "wait"]);
    node.detached(&["--name", "ended", PROBE, "exit", "0"]);
    assert_eq!(node.agent(&["wait", "ended"]).ok(), "0");
    assert_ne!(settings(&node), before);

    let line = node.agent(&["reset"]).refused(1);
    assert!(line.contains("--force"), "{line}");
    assert_eq!(node.agent(&["ps", "-q"]).ok().lines().count(), 1, "nothing happened");

    assert_eq!(node.agent(&["reset", "--force"]).ok(), "");
    node.assert_nothing_left();
    assert_eq!(node.shared(), Vec::<String>::new());
    assert_eq!(settings(&node), before);
    // Twice is no failure, and everything begins anew.
    assert_eq!(node.agent(&["reset", "--force"]).ok(), "");
    assert_eq!(node.agent(&["images", "-q"]).ok(), "");
    assert_eq!(node.agent(&["run", "-q", "--rm", PROBE, "out", "again"]).ok(), "again");
    assert_eq!(node.agent(&["reset", "--force"]).ok(), "");
}

#[test]
fn a_reset_after_kills_takes_everything_away() {
    let node = Node::new();
    node.detached(&["--name", "runs", "-p", "8080:80", PROBE, "wait"]);
    node.log_with("runs", "ready");
    for pid in node.monitors() {
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it runs");
    }
    let pull = node.start(&["pull", BASE]);
    tests::within(std::time::Duration::from_secs(20), "a layer to come", || {
        let tmp = fs::read_dir(node.root().join("tmp")).ok()?.flatten().next();
        tmp.map(drop)
    });
    pull.signal(Signal::SIGKILL);
    pull.finish();
    assert_eq!(node.agent(&["reset", "--force"]).ok(), "");
    node.assert_nothing_left();
    assert_eq!(node.shared(), Vec::<String>::new());
}

#[test]
fn a_reset_leaves_what_is_not_its_own() {
    let node = Node::new();
    let other = Node::new();
    other.detached(&["--name", "runs", PROBE, "wait"]);
    other.log_with("runs", "ready");
    node.detached(&["--name", "runs", PROBE, "wait"]);
    // Somebody keeps other things in the same folder, and a container has a folder of the host.
    let (kept, bound) = (node.root().join("kept"), node.dir().join("bound"));
    fs::write(&kept, "x").expect("root may");
    fs::create_dir(&bound).expect("root may");
    fs::write(bound.join("file"), "x").expect("root may");
    node.detached(&["-v", &format!("{}:/data", bound.display()), PROBE, "wait"]);
    assert_eq!(node.agent(&["reset", "--force"]).ok(), "");
    assert!(kept.exists() && bound.join("file").exists());
    assert_eq!(other.agent(&["exec", "runs", "/probe", "exit", "6"]).code, 6);
    fs::remove_file(kept).expect("it is there");
}

//! What goes between a container and whoever runs it: streams, terminals, signals, logs.

use std::fs;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;
use tests::support::node::json;
use tests::support::program;
use tests::support::terminal::Terminal;
use tests::{Node, PROBE, within};

#[test]
fn standard_streams_are_the_callers() {
    let node = Node::new();
    let output = node.agent_fed(&["run", "--rm", "-i", PROBE, "cat"], "one\ntwo");
    assert_eq!((output.code, output.stdout.as_str()), (0, "one\ntwo"), "{}", output.stderr);
    // Without -i nothing is read of it.
    assert_eq!(node.agent_fed(&["run", "--rm", PROBE, "cat"], "one\n").ok(), "");
    let output = node.agent(&["run", "--rm", PROBE, "err", "to", "stderr"]);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("", "to stderr\n"));
    // Large, and both ways at once.
    let text = "0123456789abcdef".repeat(1 << 16);
    assert!(node.agent_fed(&["run", "--rm", "-i", PROBE, "cat"], &text).ok() == text, "lost on the way");
    // A reader that goes away ends the command, not the container.
    let mut reader = Command::new("sh");
    node.environment(&mut reader);
    let agent = tests::support::node::binary("agent");
    let line = format!("{} run --name piped {PROBE} flood 1000000 | head -c 10", agent.display());
    assert_eq!(program::run(reader.args(["-c", &line]), b"", program::LIMIT).stdout, "000000000000 .."[..10]);
    assert_eq!(node.agent(&["wait", "piped"]).ok(), "0");
}

#[test]
fn signals_are_passed_on() {
    let node = Node::new();
    let waiting = node.start(&["run", "--name", "waits", PROBE, "wait"]);
    waiting.wait_for("ready");
    for (signal, name) in
        [(Signal::SIGHUP, "SIGHUP"), (Signal::SIGUSR1, "SIGUSR1"), (Signal::SIGALRM, "SIGALRM")]
    {
        waiting.signal(signal);
        waiting.wait_for(&format!("{{\"signal\":\"{name}\"}}"));
    }
    assert_eq!(node.agent(&["kill", "-s", "USR2", "waits"]).ok(), "waits");
    waiting.wait_for("SIGUSR2");
    waiting.signal(Signal::SIGINT);
    let output = waiting.finish();
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert!(output.stdout.ends_with("{\"signal\":\"SIGINT\"}\n"), "{}", output.stdout);
}

#[test]
fn logs_are_kept_and_followed() {
    let node = Node::new();
    let id = node.detached(&["--name", "waits", PROBE, "wait"]);
    node.log_with("waits", "ready");
    let following = node.start(&["logs", "-f", "waits"]);
    following.wait_for("ready");
    assert_eq!(node.agent(&["kill", "-s", "USR1", "waits"]).ok(), "waits");
    following.wait_for("SIGUSR1");
    assert_eq!(node.agent(&["stop", "waits"]).ok(), "waits");
    let followed = following.finish();
    assert_eq!(followed.code, 0, "{}", followed.stderr);
    let all = node.agent(&["logs", "waits"]);
    assert_eq!(all.stdout, followed.stdout);
    assert_eq!(all.stdout.lines().count(), 3, "{}", all.stdout);
    assert!(node.agent(&["logs", "--tail", "1", "waits"]).ok().contains("SIGTERM"));
    let timed = node.agent(&["logs", "-t", "waits"]).ok();
    assert!(timed.lines().all(|line| line.starts_with("20") && line.contains("Z {")), "{timed}");
    // On disk it is what CRI says: time, stream, tag, text.
    let path = node.inspect(&id)["LogPath"].as_str().map(str::to_owned).expect("it has a log");
    let log = fs::read_to_string(path).expect("it is there while the container is");
    assert!(log.lines().all(|line| line.split(' ').nth(1) == Some("stdout")), "{log}");
    assert!(log.lines().all(|line| line.split(' ').nth(2) == Some("F")), "{log}");
    // Streams are kept apart.
    assert_eq!(node.agent(&["run", "--name", "errs", PROBE, "err", "bad"]).code, 0);
    let logged = node.agent(&["logs", "errs"]);
    assert_eq!((logged.stdout.as_str(), logged.stderr.as_str()), ("", "bad\n"));
}

#[test]
fn a_terminal_is_the_containers() {
    let node = Node::new();
    let mut command = node.command();
    command.args(["run", "--rm", "-it", PROBE, "tty", "--watch"]).env("TERM", "xterm");
    let mut terminal = Terminal::start(&command, 33, 101);
    let line = terminal.wait_for("}");
    let seen = json(&line);
    assert_eq!(
        (&seen["stdin"], &seen["stdout"], &seen["stderr"]),
        (&json!(true), &json!(true), &json!(true))
    );
    assert_eq!(seen["controlling"], true);
    assert_eq!(seen["name"], "/dev/pts/0");
    terminal.resize(44, 132);
    let resized = within(Duration::from_secs(10), "the new size", || {
        let seen = json(terminal.wait_for("}").trim());
        (seen["rows"] == 44).then_some(seen)
    });
    assert_eq!(resized["cols"], 132);
    // The interrupt character is the container's.
    terminal.write("\x03");
    assert_eq!(terminal.finish().0, 0);

    // Without an input that is a terminal there can be none.
    node.agent(&["run", "--rm", "-it", PROBE]).refused(125);
    // Its output alone may be one.
    let output = node.agent(&["run", "--rm", "-t", PROBE, "tty"]);
    assert_eq!(json(&output.ok())["stdout"], true);
}

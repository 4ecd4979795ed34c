//! Further processes in a running container.

use std::fs::File;
use std::io::Read;
use std::time::Instant;

use runtime::{ContainerOptions, ExecOptions, RuntimeError};

use crate::node::{LIMIT, Node, named, names_in};

fn script(text: &str) -> ExecOptions {
    ExecOptions { command: ["sh", "-c", text].map(str::to_owned).to_vec(), ..Default::default() }
}

#[test]
fn a_further_process_shares_the_container_and_tells_its_exit_code() {
    let node = Node::new();
    let options = ContainerOptions { env: vec!["MINE=2".to_owned()], ..named("app", "sleep 1000") };
    let container = node.run(options, false).unwrap();
    // It has no standard output of ours to be read here, so that it tells by files and exit codes.
    let exec = |options: &ExecOptions| node.runtime.exec("app", options).unwrap().wait().unwrap();
    assert_eq!(exec(&script("echo $MINE $$ > /tmp/told; exit 5")), 5);
    let told =
        std::fs::read_to_string(node.path("lib/containers").join(&container.id).join("upper/tmp/told"));
    let told = told.unwrap();
    let pid = told.strip_prefix("2 ").and_then(|pid| pid.trim().parse::<i32>().ok());
    assert!(pid.is_some_and(|pid| (2..100).contains(&pid)), "in its pid namespace: {told:?}");
    assert_eq!(exec(&script("kill -TERM $$")), 143);
    let user =
        ExecOptions { user: Some("12:34".to_owned()), ..script("test $(id -u) = 12 -a $(id -g) = 34") };
    assert_eq!(exec(&user), 0);
    assert_eq!(exec(&ExecOptions { workdir: Some("/usr".to_owned()), ..script("test $PWD = /usr") }), 0);
    assert_eq!(exec(&ExecOptions { command: vec!["/no/such".to_owned()], ..Default::default() }), 127);
    let left = names_in(&node.path("run/containers").join(&container.id));
    assert!(left.iter().all(|name| !name.starts_with("exec-")), "{left:?}");

    node.runtime.remove("app", true).unwrap();
    assert!(matches!(node.runtime.exec("app", &script("true")), Err(RuntimeError::NotFound { .. })));
    node.assert_empty();
}

#[test]
fn a_terminal_is_handed_over() {
    let node = Node::new();
    node.run(named("app", "sleep 1000"), false).unwrap();
    let exec = node
        .runtime
        .exec("app", &ExecOptions { tty: true, ..script("test -t 0 && echo seen $TERM") })
        .unwrap();
    let mut terminal = File::from(exec.terminal().expect("a terminal").try_clone_to_owned().unwrap());
    let mut said = Vec::new();
    // The end of a terminal is EIO.
    let error = terminal.read_to_end(&mut said).expect_err("the other side closes");
    assert_eq!(error.raw_os_error(), Some(nix::errno::Errno::EIO as i32));
    assert_eq!(String::from_utf8_lossy(&said), "seen xterm\r\n");
    assert_eq!(exec.wait().unwrap(), 0);

    let missing = ExecOptions { tty: true, command: vec!["/no/such".to_owned()], ..Default::default() };
    assert_eq!(node.runtime.exec("app", &missing).unwrap().wait().unwrap(), 127);
    node.runtime.remove("app", true).unwrap();
    node.assert_empty();
}

#[test]
fn a_signal_reaches_it() {
    let node = Node::new();
    node.run(named("app", "sleep 1000"), false).unwrap();
    let exec = node
        .runtime
        .exec("app", &ExecOptions { tty: true, ..script("trap 'exit 9' TERM; echo up; sleep 1000 & wait") });
    let exec = exec.unwrap();
    let mut terminal = File::from(exec.terminal().expect("a terminal").try_clone_to_owned().unwrap());
    let mut said = [0; 2];
    terminal.read_exact(&mut said).unwrap();
    exec.kill(15).unwrap();
    assert_eq!(exec.wait().unwrap(), 9);
    node.runtime.remove("app", true).unwrap();
    node.assert_empty();
}

#[test]
fn a_detached_command_goes_on_and_one_that_cannot_is_told() {
    let node = Node::new();
    let container = node.run(named("app", "sleep 1000"), false).unwrap();
    let detached = |options: ExecOptions| ExecOptions { detach: true, ..options };
    let told = node.path("lib/containers").join(&container.id).join("upper/tmp/told");
    drop(node.runtime.exec("app", &detached(script("sleep 0.1; echo done > /tmp/told"))).unwrap());
    let begun = Instant::now();
    while std::fs::read_to_string(&told).unwrap_or_default() != "done\n" {
        assert!(begun.elapsed() < LIMIT, "it does not go on");
        std::thread::yield_now();
    }
    let missing = ExecOptions { command: vec!["/no/such".to_owned()], ..Default::default() };
    let error = node.runtime.exec("app", &detached(missing)).expect_err("there is no such command");
    assert_eq!(error.exit_code(), 127);
    assert!(error.to_string().contains("/no/such"), "{error}");
    let with_terminal = ExecOptions { tty: true, ..detached(script("true")) };
    assert!(matches!(node.runtime.exec("app", &with_terminal), Err(RuntimeError::Option { .. })));
    node.runtime.remove("app", true).unwrap();
    node.assert_empty();
}

#[test]
fn a_container_that_has_ended_takes_none() {
    let node = Node::new();
    node.run_to_end(named("app", "true"));
    assert!(matches!(node.runtime.exec("app", &script("true")), Err(RuntimeError::NotRunning { .. })));
    assert!(matches!(node.runtime.exec("app", &ExecOptions::default()), Err(RuntimeError::Option { .. })));
    node.runtime.remove("app", false).unwrap();
    node.assert_empty();
}

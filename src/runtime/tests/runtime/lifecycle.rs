//! A container's life as its user wants it: run, seen, stopped, removed.

use std::fs;
use std::time::{Duration, Instant};

use runtime::{ContainerOptions, ContainerState, Limits, MountOption, RuntimeError};

use crate::node::{LIMIT, Node, named, names_in, shell};

#[test]
fn an_attached_run_says_what_the_command_says_and_leaves_nothing() {
    let node = Node::new();
    let ended = node.run_to_end(ContainerOptions {
        remove: true,
        env: vec!["MINE=2".to_owned()],
        ..shell("echo $FROM_IMAGE $MINE; hostname >&2; exit 3")
    });
    assert_eq!((ended.stdout.as_str(), ended.exit.exit_code), ("1 2\n", 3));
    assert_eq!(ended.stderr.trim().len(), 12, "the host name is the short id");
    node.assert_empty();
}

#[test]
fn a_detached_container_outlives_its_starter() {
    let node = Node::new();
    let container =
        node.run(named("app", "trap 'exit 7' USR1; echo up; while :; do sleep 0.05; done"), false).unwrap();
    assert!(container.stdio.is_none());

    let other = node.reopened();
    let view = other.find("app").unwrap();
    assert_eq!(view.id, container.id);
    assert!(matches!(view.state, ContainerState::Running { pid, .. } if pid == container.pid), "{view:?}");
    assert_eq!(other.find(&view.id[..8]).unwrap().id, view.id);
    assert_eq!(other.list().unwrap().len(), 1);
    assert_eq!(other.image_in_use(&node.image.id).as_deref(), Some("app"));
    assert!(matches!(other.remove("app", false), Err(RuntimeError::Running { .. })));

    let waiter = std::thread::spawn({
        let third = node.reopened();
        move || third.wait("app")
    });
    let begun = Instant::now();
    while !fs::read_to_string(&view.log_path).unwrap_or_default().contains(" stdout F up") {
        assert!(begun.elapsed() < LIMIT, "no output");
        std::thread::yield_now();
    }
    other.stop("app", LIMIT).unwrap();
    assert_eq!(waiter.join().unwrap().unwrap(), 7, "by the image's stop signal");
    assert_eq!(node.exit_code("app"), Some(7));
    assert_eq!(names_in(&node.path("run/containers")), Vec::<String>::new());
    other.stop("app", LIMIT).unwrap();
    assert!(matches!(other.kill("app", 15), Err(RuntimeError::NotRunning { .. })));
    assert_eq!(other.wait("app").unwrap(), 7);
    assert!(!other.trace(&view.id).unwrap().is_empty());
    other.remove("app", false).unwrap();
    assert!(matches!(other.find("app"), Err(RuntimeError::NotFound { .. })));
    node.assert_empty();
}

#[test]
fn a_container_that_does_not_heed_the_stop_signal_is_killed() {
    let node = Node::new();
    node.run(named("deaf", "trap '' USR1 TERM; while :; do sleep 1; done"), false).unwrap();
    node.runtime.stop("deaf", Duration::from_millis(50)).unwrap();
    assert_eq!(node.exit_code("deaf"), Some(137));
    node.runtime.remove("deaf", false).unwrap();
    node.assert_empty();
}

#[test]
fn force_removes_what_runs() {
    let node = Node::new();
    node.run(named("app", "sleep 1000"), false).unwrap();
    node.runtime.remove("app", true).unwrap();
    let attached = node.run(named("app", "sleep 1000"), true).unwrap();
    node.runtime.remove(&attached.id, true).unwrap();
    node.assert_empty();
}

#[test]
fn a_created_container_waits_for_nothing_and_can_be_removed() {
    let node = Node::new();
    let view = node.runtime.create(named("app", "true"), &node.image).unwrap();
    assert_eq!(view.state, ContainerState::Created);
    assert_eq!(node.runtime.wait("app").unwrap(), 0);
    assert_eq!(node.reopened().reap().unwrap(), Vec::<String>::new());
    node.runtime.remove("app", false).unwrap();
    node.assert_empty();
}

#[test]
fn what_cannot_be_started_leaves_nothing_and_says_why() {
    let node = Node::new();
    let holder = node.runtime.create(named("taken", "true"), &node.image).unwrap();
    let cases = [
        (
            ContainerOptions { command: vec!["/no/such/command".to_owned()], ..shell("") },
            127,
            "/no/such/command",
        ),
        (ContainerOptions { command: vec!["/etc/passwd".to_owned()], ..shell("") }, 126, "/etc/passwd"),
        (ContainerOptions { user: Some("nobody-here".to_owned()), ..shell("true") }, 125, "nobody-here"),
        (ContainerOptions { user: Some("1:2:3".to_owned()), ..shell("true") }, 125, "USER:GROUP"),
        (ContainerOptions { cap_add: vec!["WARP".to_owned()], ..shell("true") }, 125, "WARP"),
        (named("taken", "true"), 125, holder.id.as_str()),
    ];
    for (options, code, part) in cases {
        for attached in [true, false] {
            let error = node.run(options.clone(), attached).expect_err(part);
            let text = error.to_string();
            assert_eq!(error.exit_code(), code, "{text}");
            assert!(text.contains(part) && !text.contains('\n'), "{text}");
        }
    }
    node.runtime.remove("taken", false).unwrap();
    node.assert_empty();
}

#[test]
fn limits_reach_the_cgroup() {
    let node = Node::new();
    let limits = Limits { cpu_milli: Some(500), memory: Some(64 << 20), pids: Some(50) };
    let container = node.run(ContainerOptions { limits, ..named("app", "sleep 1000") }, false).unwrap();
    let v1 = |controller: &str, file: &str| node.cgroup_folder(controller).join(&container.id).join(file);
    let v2 = |file: &str| node.cgroup_folder("").join(&container.id).join(file);
    let read =
        |one: std::path::PathBuf, other| fs::read_to_string(one).or_else(|_| fs::read_to_string(other));
    let quota = read(v1("cpu", "cpu.cfs_quota_us"), v2("cpu.max")).unwrap();
    assert_eq!(quota.split_whitespace().next(), Some("50000"));
    let memory = read(v1("memory", "memory.limit_in_bytes"), v2("memory.max")).unwrap();
    assert_eq!(memory.trim(), (64 << 20).to_string());
    assert_eq!(read(v1("pids", "pids.max"), v2("pids.max")).unwrap().trim(), "50");
    node.runtime.remove("app", true).unwrap();
    node.assert_empty();
}

#[test]
fn mounts_are_made_and_volumes_outlive_their_container() {
    let node = Node::new();
    let missing = node.path("missing/folder");
    let mounts = vec![
        MountOption::Bind { source: missing.clone(), target: "/mnt/bound".into(), read_only: false },
        MountOption::Bind { source: missing.clone(), target: "/mnt/fixed".into(), read_only: true },
        MountOption::Volume { name: "data".to_owned(), target: "/mnt/volume".into(), read_only: false },
        MountOption::Tmpfs { target: "/mnt/memory".into(), options: vec!["size=1m".to_owned()] },
    ];
    let ended = node.run_to_end(ContainerOptions {
        remove: true,
        read_only: true,
        mounts: mounts.clone(),
        ..shell(
            "echo a > /mnt/bound/a; echo b > /mnt/volume/b; echo c > /mnt/memory/c && cat /mnt/*/?; \
             touch /mnt/fixed/d /etc/e 2>/dev/null; echo $?",
        )
    });
    assert_eq!(ended.stdout, "a\na\nc\nb\n1\n", "{}", ended.stderr);
    assert_eq!(fs::read_to_string(missing.join("a")).unwrap(), "a\n");
    assert_eq!(names_in(&missing), ["a"]);
    let again = node.run_to_end(ContainerOptions { remove: true, mounts, ..shell("cat /mnt/volume/b") });
    assert_eq!(again.stdout, "b\n");
    node.assert_empty();
}

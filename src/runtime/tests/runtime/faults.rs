//! What is left when somebody is killed, or the machine stops: always found again, and finished or undone.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Instant;

use runtime::{ContainerOptions, ContainerState, Runtime, RuntimeError};

use crate::network::own_network;
use crate::node::{LIMIT, Node, follow, named, names_in, shell};

/// The pid of the monitor: the parent of the container's first process.
fn monitor_of(pid: i32) -> i32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap();
    parent.trim().parse().unwrap()
}

fn kill(pid: i32) {
    let pidfd = sys::process::pidfd_open(pid).unwrap();
    sys::process::pidfd_send_signal(&pidfd, 9).unwrap();
    assert!(sys::process::wait_readable_for(&pidfd, LIMIT).unwrap());
}

/// Freezes the processes of a cgroup of v1.
fn freeze(cgroup: &Path) {
    let state = cgroup.join("freezer.state");
    fs::write(&state, "FROZEN").unwrap();
    let begun = Instant::now();
    while fs::read_to_string(&state).unwrap() != "FROZEN\n" {
        assert!(begun.elapsed() < LIMIT, "it does not freeze");
        std::thread::yield_now();
    }
}

fn reap_one(runtime: &Runtime, id: &str) {
    let begun = Instant::now();
    // The lock is free when the kernel has closed the dead monitor's descriptors.
    while runtime.reap().unwrap() != [id] {
        assert!(begun.elapsed() < LIMIT, "nobody holds it");
        std::thread::yield_now();
    }
}

#[test]
fn a_container_whose_monitor_was_killed_is_ended_and_recorded() {
    let node = Node::new();
    let container = node.run(named("app", "sleep 1000"), false).unwrap();
    kill(monitor_of(container.pid));
    reap_one(&node.reopened(), &container.id);
    let ContainerState::Exited(exit) = node.find("app").state else { panic!("it has ended") };
    assert_eq!(exit.exit_code, 137);
    assert!(exit.error.unwrap().contains("monitor was killed"));
    assert!(!fs::exists(format!("/proc/{}/cwd", container.pid)).unwrap());
    assert_eq!(node.runtime.wait("app").unwrap(), 137);
    node.runtime.remove("app", false).unwrap();
    node.assert_empty();
}

/// Needs the freezer of cgroup v1, in which a process outlives even SIGKILL.
#[test]
fn a_process_that_outlives_its_monitor_is_ended_by_whoever_sees_it() {
    let node = Node::new();
    let freezer = node.cgroup_folder("freezer");
    if !freezer.parent().is_some_and(|root| root.join("cgroup.procs").exists()) {
        eprintln!("skipped: there is no freezer of cgroup v1");
        return;
    }
    for (name, remove) in [("kept", false), ("gone", true)] {
        let container = node.run(ContainerOptions { remove, ..named(name, "sleep 1000") }, false).unwrap();
        freeze(&freezer.join(&container.id));
        kill(monitor_of(container.pid));
        assert!(fs::exists(format!("/proc/{}/cwd", container.pid)).unwrap(), "it cannot die yet");
        let begun = Instant::now();
        let listed = || node.runtime.list().unwrap().into_iter().find(|view| view.id == container.id);
        // The lock is free when the kernel has closed the dead monitor's descriptors.
        while listed().is_some_and(|view| view.state.word() == "running") {
            assert!(begun.elapsed() < LIMIT, "nobody ends it");
        }
        assert!(!fs::exists(format!("/proc/{}/cwd", container.pid)).unwrap());
        assert_eq!(listed().map(|view| view.state.word()), (!remove).then_some("exited"));
    }
    assert_eq!(node.exit_code("kept"), Some(137));
    node.runtime.remove("kept", false).unwrap();

    let container = node.run(named("frozen", "sleep 1000"), false).unwrap();
    freeze(&freezer.join(&container.id));
    node.runtime.remove("frozen", true).unwrap();
    node.assert_empty();
}

#[test]
fn one_that_was_to_be_removed_is_removed_when_its_monitor_was_killed() {
    let node = Node::new();
    let container = node.run(ContainerOptions { remove: true, ..shell("sleep 1000") }, false).unwrap();
    kill(monitor_of(container.pid));
    reap_one(&node.runtime, &container.id);
    node.assert_empty();
}

#[test]
fn the_one_who_runs_it_attached_cleans_up_after_a_killed_monitor() {
    let node = Node::new();
    let container = node.run(ContainerOptions { remove: true, ..shell("sleep 1000") }, true).unwrap();
    kill(monitor_of(container.pid));
    node.runtime.cleanup(&container.id).unwrap();
    node.runtime.cleanup(&container.id).unwrap();
    node.assert_empty();
}

#[test]
fn one_who_runs_it_attached_and_is_stopped_keeps_nobody_from_cleaning_up() {
    let node = Node::new();
    let container = node.run(ContainerOptions { remove: true, ..shell("sleep 1000") }, true).unwrap();
    kill(monitor_of(container.pid));
    // Our own runtime does nothing, as if it were stopped.
    reap_one(&node.reopened(), &container.id);
    node.runtime.cleanup(&container.id).unwrap();
    node.assert_empty();
}

#[test]
fn what_a_killed_creator_left_is_removed_with_its_name() {
    let node = Node::new();
    node.run_to_end(named("other", "true"));
    let half = "ab".repeat(32);
    fs::create_dir_all(node.path("lib/containers").join(&half).join("init/etc")).unwrap();
    symlink(&half, node.path("lib/names/app")).unwrap();
    fs::create_dir(node.path("run/containers").join(&half)).unwrap();
    fs::write(node.path("run/containers").join(&half).join("lock"), "").unwrap();

    assert!(matches!(node.runtime.find("app"), Err(RuntimeError::NotFound { .. })));
    assert!(matches!(node.runtime.find(&half), Err(RuntimeError::NotFound { .. })));
    assert_eq!(node.runtime.list().unwrap().len(), 1);
    let again = node.run_to_end(ContainerOptions { remove: true, ..named("app", "echo mine") });
    assert_eq!(again.stdout, "mine\n", "the name was free again");
    assert_eq!(names_in(&node.path("lib/containers")).len(), 1);
    node.runtime.remove("other", false).unwrap();
    node.assert_empty();
}

#[test]
fn a_run_that_was_killed_before_its_start_is_undone() {
    let node = Node::new();
    let view = node.runtime.create(named("app", "true"), &node.image).unwrap();
    // As `run` makes it, killed between the container's creation and its start.
    let start = node.path("lib/containers").join(&view.id).join("start.json");
    fs::write(start, r#"{"time":"2026-01-01T00:00:00Z"}"#).unwrap();
    let run_dir = node.path("run/containers").join(&view.id);
    fs::create_dir(&run_dir).unwrap();
    fs::write(run_dir.join("lock"), "").unwrap();
    assert_eq!(node.runtime.reap().unwrap(), [view.id]);
    node.assert_empty();
}

#[test]
fn a_removal_that_was_cut_short_is_finished() {
    let node = Node::new();
    node.run_to_end(named("app", "true"));
    let view = node.find("app");
    // As after a kill between the first and the second step of it.
    fs::create_dir(node.path("run/containers").join(&view.id)).unwrap();
    fs::remove_file(node.path("lib/containers").join(&view.id).join("container.json")).unwrap();
    assert_eq!(node.runtime.reap().unwrap(), [view.id]);
    node.assert_empty();
}

#[test]
fn after_a_reboot_what_ran_has_ended_and_what_was_to_go_is_gone() {
    let node = Node::new();
    let kept = node.run(named("kept", "sleep 1000"), false).unwrap();
    let gone = node.run(ContainerOptions { remove: true, ..named("gone", "sleep 1000") }, false).unwrap();
    node.run_to_end(named("ended", "exit 4"));
    let created = node.runtime.create(named("created", "true"), &node.image).unwrap();
    let half = "cd".repeat(32);
    fs::create_dir_all(node.path("lib/containers").join(&half).join("upper")).unwrap();
    for container in [&kept, &gone] {
        kill(monitor_of(container.pid));
    }
    fs::remove_dir_all(node.path("run")).unwrap();

    let runtime = node.reopened();
    let ContainerState::Exited(exit) = runtime.find("kept").unwrap().state else { panic!("it has ended") };
    assert_eq!(exit.exit_code, 255);
    assert!(exit.error.unwrap().contains("machine stopped"));
    assert!(runtime.find("gone").unwrap_err().is_not_found());
    assert_eq!(node.exit_code("ended"), Some(4));
    assert_eq!(runtime.find(&created.id).unwrap().state, ContainerState::Created);
    assert!(!node.path("lib/containers").join(half).exists());
    assert_eq!(names_in(&node.path("run/containers")), Vec::<String>::new());
    for name in ["kept", "ended", "created"] {
        runtime.remove(name, false).unwrap();
    }
    node.assert_empty();
}

#[test]
fn a_damaged_record_hides_no_other_container() {
    let node = Node::new();
    node.run_to_end(named("good", "true"));
    let bad = node.runtime.create(named("bad", "true"), &node.image).unwrap();
    let record = node.path("lib/containers").join(&bad.id).join("container.json");
    let whole = fs::read(&record).unwrap();
    fs::write(&record, "{").unwrap();
    let names: Vec<String> = node.runtime.list().unwrap().into_iter().map(|view| view.name).collect();
    assert_eq!(names, ["good"]);
    assert!(matches!(node.runtime.find("bad"), Err(RuntimeError::Damaged { .. })));
    fs::write(&record, whole).unwrap();
    node.runtime.remove("bad", false).unwrap();
    node.runtime.remove("good", false).unwrap();
    node.assert_empty();
}

#[test]
fn a_container_with_a_damaged_record_can_be_removed() {
    let node = Node::new();
    let created = node.runtime.create(named("created", "true"), &node.image).unwrap();
    let running = node.run(named("running", "sleep 1000"), false).unwrap();
    node.run_to_end(named("ended", "true"));
    let ended = node.find("ended");
    let bundle = |id: &str| node.path("lib/containers").join(id);
    fs::write(bundle(&created.id).join("container.json"), "").unwrap();
    fs::write(bundle(&running.id).join("container.json"), "{}").unwrap();
    fs::write(bundle(&ended.id).join("exit.json"), "").unwrap();

    let error = node.runtime.remove("running", false).unwrap_err();
    assert!(matches!(error, RuntimeError::Running { .. }), "{error}");
    node.runtime.remove("running", true).unwrap();
    assert!(!fs::exists(format!("/proc/{}/cwd", running.pid)).unwrap());
    node.runtime.remove(&created.id[..12], false).unwrap();
    node.runtime.remove("ended", true).unwrap();
    assert!(node.runtime.remove("created", true).unwrap_err().is_not_found());
    node.assert_empty();
}

#[test]
fn after_a_reboot_a_torn_record_goes_with_its_name_and_a_strange_one_stays() {
    let node = Node::new();
    let torn = node.runtime.create(named("torn", "true"), &node.image).unwrap();
    let strange = node.runtime.create(named("strange", "true"), &node.image).unwrap();
    let record = |id: &str| node.path("lib/containers").join(id).join("container.json");
    fs::write(record(&torn.id), "").unwrap();
    fs::write(record(&strange.id), r#"{"of":"another version"}"#).unwrap();
    fs::remove_dir_all(node.path("run")).unwrap();

    let runtime = node.reopened();
    assert_eq!(names_in(&node.path("lib/containers")), std::slice::from_ref(&strange.id));
    assert_eq!(names_in(&node.path("lib/names")), ["strange"]);
    runtime.create(named("torn", "true"), &node.image).unwrap();
    for name in ["torn", "strange"] {
        runtime.remove(name, true).unwrap();
    }
    node.assert_empty();
}

#[test]
fn a_reset_takes_damaged_containers_and_leaves_those_of_other_roots() {
    own_network();
    let node = Node::new();
    let damaged = node.run(named("damaged", "sleep 1000"), false).unwrap();
    fs::write(node.path("lib/containers").join(&damaged.id).join("container.json"), "").unwrap();
    let controller = if node.cgroup_folder("memory").exists() { "memory" } else { "" };
    let foreign = node.cgroup_folder(controller).join("foreign");
    fs::create_dir(&foreign).unwrap();
    let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    fs::write(foreign.join("cgroup.procs"), child.id().to_string()).unwrap();

    node.reopened().reset().unwrap();
    assert!(!fs::exists(format!("/proc/{}/cwd", damaged.pid)).unwrap());
    assert!(child.try_wait().unwrap().is_none(), "it is somebody else's");
    child.kill().unwrap();
    child.wait().unwrap();
    fs::remove_dir(&foreign).unwrap();
    node.reopened().reset().unwrap();
    assert!(!node.cgroup_folder(controller).exists());
    assert!(!node.path("lib").exists() && !node.path("run").exists());
}

#[test]
fn many_at_once_do_not_get_in_each_others_way() {
    let node = Node::new();
    std::thread::scope(|scope| {
        for at in 0..4 {
            let node = &node;
            scope.spawn(move || {
                let runtime = node.reopened();
                for round in 0..3 {
                    let options =
                        ContainerOptions { remove: true, ..named("same", &format!("echo {at} {round}")) };
                    // One of them has the name; the others are told so.
                    match runtime.run(options, &node.image, true) {
                        Ok(container) => {
                            let ended = follow(container.stdio.as_ref().unwrap());
                            assert_eq!(ended.stdout, format!("{at} {round}\n"));
                            runtime.cleanup(&container.id).unwrap();
                        }
                        Err(error) => assert!(error.to_string().contains("in use by container"), "{error}"),
                    }
                }
            });
        }
    });
    node.assert_empty();
}

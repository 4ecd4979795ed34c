//! Limits that hold: processor time, memory, processes; and output that nobody reads.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::json;
use tests::support::node::json;
use tests::{Node, PROBE, within};

#[test]
fn a_busy_loop_is_throttled_to_its_cpu_quota() {
    let node = Node::new();
    // Two threads, so that half a processor is clearly less than what they would take.
    let told = node.probe(&["--cpus", "0.5"], &["spin", "2", "2"]);
    let share = told["share"].as_f64().unwrap_or_default();
    assert!((0.35..0.65).contains(&share), "{told}");
    // The kernel counts the same.
    let id = node.detached(&["--name", "busy", "--cpus", "0.25", PROBE, "spin", "100", "2"]);
    let folder = node.cgroup_folder("cpu", &id);
    let throttled = || {
        let text = fs::read_to_string(folder.join("cpu.stat")).expect("it runs");
        let line = text.lines().find_map(|line| line.strip_prefix("nr_throttled "));
        line.and_then(|count| count.parse::<u64>().ok()).unwrap_or_default()
    };
    within(Duration::from_secs(20), "throttled periods", || (throttled() >= 5).then_some(()));
    let used = || {
        let folder = node.cgroup_folder("cpuacct", &id);
        match fs::read_to_string(folder.join("cpuacct.usage")) {
            Ok(text) => text.trim().parse::<f64>().expect("it is a number") / 1e9,
            Err(_) => {
                let text = fs::read_to_string(folder.join("cpu.stat")).expect("it runs");
                let line = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
                line.and_then(|count| count.parse::<f64>().ok()).expect("it is a number") / 1e6
            }
        }
    };
    let (start, before) = (Instant::now(), used());
    within(Duration::from_secs(20), "more throttled periods", || (throttled() >= 20).then_some(()));
    let share = (used() - before) / start.elapsed().as_secs_f64();
    assert!((0.1..0.4).contains(&share), "{share} of a processor instead of 0.25");
}

#[test]
fn without_a_limit_a_busy_loop_gets_a_whole_cpu() {
    let node = Node::new();
    // More than the quota of the other test, even where others compute as well.
    let told = node.probe(&[], &["spin", "1"]);
    assert!(told["share"].as_f64().is_some_and(|share| share > 0.55), "{told}");
}

#[test]
fn an_allocation_beyond_the_limit_is_killed_and_reported() {
    let node = Node::new();
    let output = node.agent(&["run", "--name", "greedy", "--memory", "32m", PROBE, "alloc", "256"]);
    assert_eq!(output.code, 137, "{output:?}");
    assert!(output.stderr.contains("memory limit") && output.stderr.lines().count() == 1, "{output:?}");
    let furthest = output.stdout.lines().last().map(json).expect("it told how far it came");
    assert!(furthest["touched_mib"].as_u64().is_some_and(|mib| mib < 64), "{furthest}");
    let state = &node.inspect("greedy")["State"];
    assert_eq!((&state["OOMKilled"], &state["ExitCode"]), (&json!(true), &json!(137)));
    assert!(node.agent(&["ps", "-a"]).ok().contains("Exited (137)"));
    // What stays below is not touched, and being killed otherwise is not blamed on memory.
    assert_eq!(node.agent(&["run", "--rm", "--memory", "64m", PROBE, "alloc", "24"]).code, 0);
    node.detached(&["--name", "waits", "--memory", "64m", PROBE, "wait"]);
    assert_eq!(node.agent(&["kill", "waits"]).ok(), "waits");
    assert_eq!(node.agent(&["wait", "waits"]).ok(), "137");
    assert_eq!(node.inspect("waits")["State"]["OOMKilled"], false);
}

#[test]
fn a_fork_bomb_ends_at_its_limit() {
    let node = Node::new();
    let told = node.probe(&["--pids-limit", "20"], &["fork", "1000"]);
    assert_eq!((&told["started"], &told["refused"]), (&json!(19), &json!("EAGAIN")));
    // One that stays is removed with all its children.
    let id = node.detached(&["--pids-limit", "100", PROBE, "fork", "1000", "--hold"]);
    node.log_with(&id, "EAGAIN");
    assert_eq!(node.agent(&["rm", "-f", &id]).ok(), id);
    node.assert_nothing_left();
}

/// The most memory a process ever had, in bytes.
fn high_water(pid: i32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib << 10)
}

/// The container's monitor: the parent of its first process.
fn monitor_of(pid: i32) -> i32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).expect("it has a parent");
    parent.trim().parse().expect("it is a number")
}

/// Far below what is written through it.
const MONITOR_LIMIT: u64 = 24 << 20;

#[test]
fn a_flood_of_output_does_not_fill_the_monitor() {
    let node = Node::new();
    node.detached(&["--name", "flood", PROBE, "flood", "100000000"]);
    let monitor = monitor_of(node.pid("flood"));
    let mut most = 0;
    within(Duration::from_secs(60), "the end of the flood", || {
        most = high_water(monitor).unwrap_or(most);
        high_water(monitor).is_none().then_some(())
    });
    assert!(most > 0 && most < MONITOR_LIMIT, "the monitor grew to {most} bytes");
    assert_eq!(node.agent(&["wait", "flood"]).ok(), "0");
    let log = node.agent(&["logs", "--tail", "1", "flood"]).ok();
    assert!(log.starts_with("000000999999 "), "{log}");
}

#[test]
fn output_that_nobody_reads_waits() {
    let node = Node::new();
    let (reader, writer) = std::io::pipe().expect("a pipe can be made");
    let mut command = node.command();
    command.args(["run", "--name", "flood", PROBE, "flood", "20000000"]);
    let mut agent = command.stdout(writer).spawn().expect("agent was built");
    drop(command);
    let pid = within(Duration::from_secs(20), "the container", || {
        let rows = node.agent(&["ps", "-q"]).ok();
        (!rows.is_empty()).then(|| node.pid("flood"))
    });
    let monitor = monitor_of(pid);
    // The writer stands still once every buffer is full: its time on the processor does not grow any more.
    let ticks = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it waits for its reader");
        let after = stat.rsplit_once(')').map(|(_, after)| after.to_owned()).expect("a name in brackets");
        after.split_whitespace().skip(11).take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    let mut last = (Instant::now(), ticks());
    within(Duration::from_secs(20), "the writer to stand still", || {
        if ticks() != last.1 {
            last = (Instant::now(), ticks());
        }
        (last.0.elapsed() > Duration::from_millis(500)).then_some(())
    });
    let most = high_water(monitor).expect("it lives as long as its container");
    assert!(most < MONITOR_LIMIT, "the monitor grew to {most} bytes");
    // Nothing is lost when it is read after all.
    let mut count = 0_u64;
    let mut reader = std::io::BufReader::new(reader);
    count += std::io::copy(&mut reader, &mut std::io::sink()).expect("a pipe can be read");
    assert_eq!((count, agent.wait().expect("our own child").code()), (20_000_000, Some(0)));
}

//! `agent run` and what comes after it: the worked example, exit codes, options, stop, rm, as docker's users know them.

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::fs;
use std::time::{Duration, Instant};
use tests::support::node::json;
use tests::{APP, BASE, Image, Layer, Node, PROBE, within};

const GREETING: &str = "This is a small app for kubernetes...\n";

#[test]
fn the_worked_example_answers_at_its_own_address() {
    let node = Node::new();
    let app = node.start(&["run", APP]);
    app.wait_for("app: listening on 0.0.0.0:2580");
    let id = node.agent(&["ps", "-q"]).ok();
    let ip = node.ip(&id);
    let curl = |path: &str| node.netns.curl(&format!("http://{ip}:2580{path}"));
    assert_eq!(curl("/").ok(), format!("{GREETING}200"));
    assert_eq!(curl("/elsewhere").ok(), "404 not found\n404");
    // Nothing is published that was not asked for.
    assert_ne!(node.netns.curl("http://127.0.0.1:2580/").code, 0);

    app.signal(Signal::SIGTERM);
    let output = app.finish();
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert_eq!(output.stdout, "app: listening on 0.0.0.0:2580\napp: Terminated, ending\n");
    assert_eq!(node.agent(&["ps", "-q"]).ok(), "");
    let state = &node.inspect(&id)["State"];
    assert_eq!((&state["Status"], &state["ExitCode"]), (&json!("exited"), &json!(0)));
    assert_eq!(node.agent(&["rm", &id]).ok(), id);
    assert_eq!(node.agent(&["ps", "-aq"]).ok(), "");
    node.assert_nothing_left();
}

#[test]
fn a_published_port_answers_from_everywhere() {
    let node = Node::new();
    let neighbour = node.neighbour();
    let id = node.detached(&["--name", "app", "-p", "2580:2580", "--cpus", "0.5", "--memory", "64m", APP]);
    node.log_with("app", "listening");
    let answer = format!("{GREETING}200");
    assert_eq!(node.netns.curl("http://127.0.0.1:2580/").ok(), answer);
    assert_eq!(node.netns.curl("http://192.0.2.1:2580/").ok(), answer);
    assert_eq!(neighbour.curl("http://192.0.2.1:2580/").ok(), answer);
    // From another container: at its own address, and at the published port of the host's.
    for address in [node.ip("app").to_string(), "192.0.2.1".to_owned()] {
        let script =
            format!("exec 3<>/dev/tcp/{address}/2580; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3");
        let said = node.agent(&["run", "--rm", BASE, "bash", "-c", &script]).ok();
        assert!(said.starts_with("HTTP/1.1 200 OK") && said.ends_with(GREETING.trim_end()), "{said}");
    }

    let table = node.agent(&["ps"]).ok();
    let rows: Vec<&str> = table.lines().collect();
    assert_eq!(rows.len(), 2, "{table}");
    for heading in ["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"] {
        assert!(rows[0].contains(heading), "{table}");
    }
    for cell in [&id[..12], APP, "\"app\"", "Up ", "0.0.0.0:2580->2580/tcp", "app"] {
        assert!(rows[1].contains(cell), "{cell} is missing in {table}");
    }
    let row = json(&node.agent(&["ps", "--format", "json"]).ok());
    assert_eq!((&row["Names"], &row["State"]), (&json!("app"), &json!("running")));
    assert_eq!(node.agent(&["logs", "app"]).ok(), "app: listening on 0.0.0.0:2580");
    assert_eq!(node.agent(&["exec", "app", "cat", "/proc/1/comm"]).ok(), "app");

    let told = node.inspect("app");
    assert_eq!(told["Name"], "/app");
    assert_eq!(told["Id"], id);
    assert_eq!(told["State"]["Running"], true);
    assert_eq!(told["HostConfig"]["NanoCpus"], 500_000_000);
    assert_eq!(told["HostConfig"]["Memory"], 64 << 20);
    assert_eq!(told["HostConfig"]["PortBindings"]["2580/tcp"][0]["HostPort"], "2580");
    assert!(told["Config"]["Cmd"].as_array().is_some_and(|words| words == &[json!("app")]));

    assert_eq!(node.agent(&["stop", "app"]).ok(), "app");
    assert_eq!(node.inspect("app")["State"]["ExitCode"], 0);
    assert!(node.agent(&["ps", "-a"]).ok().contains("Exited (0)"));
    assert_ne!(node.netns.curl("http://127.0.0.1:2580/").code, 0);
    assert_eq!(node.agent(&["rm", "app"]).ok(), "app");
    node.assert_nothing_left();
}

#[test]
fn exit_codes_are_dockers() {
    let node = Node::new();
    let check = |words: &[&str], code: i32| {
        let output = node.agent(&[&["run", "--rm"], words].concat());
        assert_eq!(output.code, code, "{words:?}: {}", output.stderr);
        output
    };
    check(&[PROBE, "exit", "0"], 0);
    check(&[PROBE, "exit", "3"], 3);
    check(&[PROBE, "exit", "255"], 255);
    for (entrypoint, code) in
        [("/no/such", 127), ("nosuch", 127), ("/etc/passwd", 126), ("/etc", 126), ("", 125)]
    {
        let line = node.agent(&["run", "--rm", "--entrypoint", entrypoint, PROBE]).refused(code);
        assert!(entrypoint.is_empty() || line.contains(entrypoint), "{line}");
    }
    node.agent(&["run", "--rm", "--user", "nosuch", PROBE]).refused(125);

    let waiting = node.start(&["run", "--name", "waits", PROBE, "wait"]);
    waiting.wait_for("ready");
    assert_eq!(node.agent(&["kill", "waits"]).ok(), "waits");
    assert_eq!(waiting.finish().code, 137);
    assert_eq!(node.agent(&["wait", "waits"]).ok(), "137");
    // Stopping and removing what has ended, and removing what is not there, as docker does.
    assert_eq!(node.agent(&["stop", "waits"]).ok(), "waits");
    assert_eq!(node.agent(&["rm", "waits"]).ok(), "waits");
    node.agent(&["rm", "waits"]).refused(1);
    assert_eq!(node.agent(&["rm", "-f", "waits"]).code, 0);
    node.assert_nothing_left();
}

#[test]
fn options_reach_the_process() {
    let node = Node::new();
    let report = node.probe(
        &[
            "-e",
            "A=one",
            "-e",
            "PATH=/elsewhere",
            "-e",
            "HOME",
            "-u",
            "app",
            "-w",
            "/new/folder",
            "--hostname",
            "box",
            "--label",
            "x=y",
        ],
        &["report", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/etc/mtab"],
    );
    assert_eq!(report["env"]["A"], "one");
    assert_eq!(report["env"]["PATH"], "/elsewhere");
    assert_eq!(report["env"]["PROBE_IMAGE"], "yes");
    assert_eq!(report["env"]["HOME"], node.dir().to_str().expect("it is plain"));
    assert_eq!((&report["uid"], &report["gid"]), (&json!(1000), &json!(1000)));
    let mut groups: Vec<u64> =
        report["groups"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
    groups.retain(|group| *group != 1000);
    assert_eq!(groups, [1, 2000, 2001]);
    assert_eq!(report["cwd"], "/new/folder");
    assert_eq!(report["hostname"], "box");
    assert_eq!(report["paths"]["/etc/hostname"]["content"], "box\n");
    let hosts = report["paths"]["/etc/hosts"]["content"].as_str().unwrap_or_default();
    assert!(hosts.starts_with("127.0.0.1\tlocalhost\n") && hosts.ends_with("\tbox\n"), "{hosts}");
    assert!(
        report["paths"]["/etc/resolv.conf"]["content"].as_str().is_some_and(|t| t.contains("nameserver"))
    );
    assert_eq!(report["paths"]["/etc/mtab"]["target"], "/proc/mounts");

    let check = |user: &str, uid: u32, gid: u32| {
        let report = node.probe(&["-u", user], &[]);
        assert_eq!((&report["uid"], &report["gid"]), (&json!(uid), &json!(gid)), "{user}");
    };
    check("lonely", 1001, 4242);
    check("app:web", 1000, 2001);
    check("1234", 1234, 0);
    check("1234:77", 1234, 77);
    // What the image says, and what replaces it.
    let report = node.probe(&[], &[]);
    assert_eq!((&report["cwd"], &report["env"]["PATH"]), (&json!("/home"), &json!("/")));
    assert_eq!(report["argv"], json!(["/probe"]));
    let report = node.probe(&["--entrypoint", "/probe"], &["report", "/x"]);
    assert_eq!(report["argv"], json!(["/probe", "report", "/x"]));
    node.assert_nothing_left();
}

#[test]
fn stop_is_patient_and_then_is_not() {
    let node = Node::new();
    let stubborn = node.detached(&["--name", "stubborn", PROBE, "wait", "--ignore-term"]);
    node.log_with("stubborn", "ready");
    let start = Instant::now();
    assert_eq!(node.agent(&["stop", "-t", "1", "stubborn"]).ok(), "stubborn");
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert_eq!(node.inspect(&stubborn)["State"]["ExitCode"], 137);
    assert!(node.agent(&["logs", "stubborn"]).ok().contains("SIGTERM"));
    // The image may name another signal.
    let image = Image::on("probe").set("StopSignal", json!("SIGQUIT"));
    let quits = node.push_and_pull("quits", &image);
    node.detached(&["--name", "quits", &quits, "wait"]);
    node.log_with("quits", "ready");
    let start = Instant::now();
    assert_eq!(node.agent(&["stop", "quits"]).ok(), "quits");
    assert!(start.elapsed() < Duration::from_secs(8), "it waited");
    assert!(node.agent(&["logs", "quits"]).ok().contains("SIGQUIT"));
    // A running one is removed only by force.
    node.detached(&["--name", "busy", PROBE, "wait"]);
    let line = node.agent(&["rm", "busy"]).refused(1);
    assert!(line.contains("busy") && line.contains("running"), "{line}");
    assert_eq!(node.agent(&["rm", "-f", "busy", "quits", "stubborn"]).ok(), "busy\nquits\nstubborn");
    node.assert_nothing_left();
}

#[test]
fn orphans_are_reaped_and_go_with_their_container() {
    let node = Node::new();
    // The first process leaves orphans behind; when it ends they end.
    let script = "sleep 1000 & sleep 1000 & echo $!";
    assert_ne!(node.agent(&["run", "--rm", BASE, "sh", "-c", script]).ok(), "");
    let told = json(&node.agent(&["run", "--rm", PROBE, "orphan"]).ok());
    assert_eq!((&told["reparented_to"], &told["reaped_here"]), (&json!(1), &json!(true)));
    node.assert_nothing_left();
}

#[test]
fn names_and_ids_stand_for_containers() {
    let node = Node::new();
    let id = node.detached(&["--name", "one", PROBE, "wait"]);
    assert_eq!(node.inspect(&id[..12])["Name"], "/one");
    assert_eq!(node.inspect(&id[..3])["Name"], "/one");
    let line = node.agent(&["run", "-d", "--name", "one", PROBE, "wait"]).refused(125);
    assert!(line.contains("one") && line.contains(&id[..12]), "{line}");
    assert_eq!(node.agent(&["ps", "-q"]).ok(), id[..12]);
    assert_eq!(node.agent(&["rm", "-f", &id[..12]]).ok(), id[..12]);
    // The name is free again.
    let other = node.detached(&["--name", "one", PROBE, "wait"]);
    assert_ne!(other, id);
    // One that is to be removed at its end is, without anyone waiting for it.
    node.detached(&["--rm", "--name", "short", PROBE, "exit", "0"]);
    within(Duration::from_secs(10), "its removal", || {
        (!node.agent(&["ps", "-a"]).ok().contains("short")).then_some(())
    });
}

#[test]
fn every_step_leaves_its_trace() {
    let node = Node::new();
    let id = node.detached(&["--name", "waits", PROBE, "wait"]);
    node.log_with("waits", "ready");
    let steps = |subject: &str| -> Vec<(String, String)> {
        let text = node.agent(&["trace", "--format", "json", subject]).ok();
        let word = |record: &Value, key: &str| record[key].as_str().unwrap_or_default().to_owned();
        text.lines().map(json).map(|record| (word(&record, "part"), word(&record, "step"))).collect()
    };
    let pulled = steps(PROBE);
    assert!(pulled.iter().any(|(part, step)| part == "image" && step.contains("layer")), "{pulled:?}");
    let ran = steps(&id);
    for (part, step) in
        [("runtime", "container.create"), ("runtime", "network.attach"), ("shim", "cgroup.create")]
    {
        assert!(ran.iter().any(|one| (one.0.as_str(), one.1.as_str()) == (part, step)), "{step} in {ran:?}");
    }
    assert_eq!(steps("waits"), ran);
}

#[test]
fn an_image_of_one_file_is_enough() {
    let node = Node::new();
    let probe = fs::read(tests::support::node::binary("probe")).expect("it was built");
    let image = Image::new().layer(Layer::new().program("p", probe)).set("Cmd", json!(["/p", "report", "/"]));
    let lonely = node.push("lonely", &image);
    let report = json(&node.agent(&["run", "--rm", &lonely]).ok());
    assert_eq!((&report["pid"], &report["uid"], &report["cwd"]), (&json!(1), &json!(0), &json!("/")));
    assert_eq!(report["paths"]["/"]["entries"], json!(["dev", "etc", "p", "proc", "sys"]));
}

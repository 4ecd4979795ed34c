//! `agent run`: the worked example, exit codes, options, streams and signals, as docker's users know them.

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};
use tests::support::node::json;
use tests::support::program;
use tests::support::terminal::Terminal;
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

#[test]
fn volumes_are_shared_and_outlive_containers() {
    let node = Node::new();
    let host = node.dir().join("shared");
    fs::create_dir(&host).expect("the folder is ours");
    fs::write(host.join("in"), "from the host").expect("the folder is ours");
    let host = host.to_str().expect("it is plain");
    let run = |options: &[&str], script: &str| {
        node.agent(&[&["run", "--rm"], options, &[BASE, "sh", "-c", script]].concat())
    };
    let bind = format!("{host}:/data");
    assert_eq!(run(&["-v", &bind], "cat /data/in; echo back >/data/out").ok(), "from the host");
    assert_eq!(fs::read_to_string(format!("{host}/out")).expect("it was written"), "back\n");
    let output = run(&["-v", &format!("{bind}:ro")], "cat /data/in; echo no >/data/out");
    assert_ne!(output.code, 0);
    assert!(
        output.stdout == "from the host" && output.stderr.contains("Read-only file system"),
        "{output:?}"
    );
    // A file too.
    let file = format!("{host}/in:/etc/in:ro");
    assert_eq!(run(&["-v", &file], "cat /etc/in").ok(), "from the host");
    // A volume by name is made, filled, and there for the next.
    assert_eq!(run(&["-v", "store:/var/store"], "echo kept >/var/store/file").ok(), "");
    assert_eq!(
        run(&["-v", "store:/elsewhere:ro"], "cat /elsewhere/file; >/elsewhere/x || echo no").stdout,
        "kept\nno\n"
    );
    // Memory of its own.
    let mounts =
        run(&["--tmpfs", "/scratch:size=1m,mode=700"], "echo x >/scratch/x; grep /scratch /proc/mounts").ok();
    assert!(mounts.contains(" /scratch tmpfs ") && mounts.contains("size=1024k"), "{mounts}");
    // What is mounted read-only is, all the way down but for what was mounted otherwise.
    let output = run(
        &["--read-only", "--tmpfs", "/tmp"],
        ">/tmp/x && echo tmp; >/x || echo root; >/etc/x || echo etc",
    );
    assert_eq!(output.stdout, "tmp\nroot\netc\n", "{}", output.stderr);
    node.assert_nothing_left();
}

#[test]
fn images_are_pulled_when_asked_for() {
    let mut node = Node::fresh();
    let line = node.agent(&["run", "--rm", "--pull", "never", PROBE, "out", "x"]).refused(125);
    assert!(line.contains(PROBE), "{line}");
    assert_eq!(node.agent(&["run", "--rm", PROBE, "out", "x"]).ok(), "x");
    let images = node.agent(&["images"]).ok();
    assert!(images.lines().nth(1).is_some_and(|row| row.contains("registry.test/probe")), "{images}");

    // A new image under the old name is seen by those who ask for it.
    let first = node.agent(&["images", "-q"]).ok();
    let other = Image::on("probe").set("Env", json!(["PATH=/", "SECOND=yes"]));
    node.push("probe", &other);
    assert_eq!(node.probe(&[], &[])["env"]["SECOND"], Value::Null);
    assert_eq!(node.probe(&["--pull", "missing"], &[])["env"]["SECOND"], Value::Null);
    assert_eq!(node.probe(&["--pull", "always"], &[])["env"]["SECOND"], "yes");
    assert_ne!(node.agent(&["images", "-q", PROBE]).ok(), first);
    node.stop_registry();
    assert_eq!(node.agent(&["run", "--rm", "--pull", "never", PROBE, "out", "x"]).ok(), "x");
    assert_eq!(node.agent(&["run", "--rm", PROBE, "out", "x"]).ok(), "x");
    let line = node.agent(&["run", "--rm", "--pull", "always", PROBE, "out", "x"]).refused(125);
    assert!(line.contains("127.0.0.1"), "{line}");

    for id in node.agent(&["images", "-q"]).ok().lines() {
        let _ = node.agent(&["rmi", "-f", id]).ok();
    }
    assert_eq!(node.agent(&["images", "-q"]).ok(), "");
    let layers = fs::read_dir(node.root().join("layers")).expect("it is there");
    let left: Vec<_> = layers.flatten().map(|entry| entry.file_name()).filter(|name| name != "l").collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn changes_stay_in_their_container() {
    let node = Node::new();
    let write = "echo changed >/etc/debian_version; rm /bin/ls; mkdir /new; cat /etc/debian_version";
    assert_eq!(node.agent(&["run", "--name", "one", BASE, "sh", "-c", write]).ok(), "changed");
    let look = "test ! -e /new && test -e /bin/ls && cat /etc/debian_version";
    let version = node.agent(&["run", "--rm", BASE, "sh", "-c", look]).ok();
    assert!(version.starts_with("12."), "{version}");
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
fn a_private_registry_asks_who_is_there() {
    let mut node = Node::offline();
    tests::support::storage::fill(node.dir());
    node.serve(tests::Registry::start_private(&node.netns, node.dir()));
    let line = node.agent(&["pull", PROBE]).refused(1);
    assert!(line.contains("refused access"), "{line}");
    let host = node.registry().host();
    let configure = |password: &str| {
        let text = format!(
            "[host.\"registry.test\"]\nmirrors = [\"{host}\"]\n\n\
             [host.\"{host}\"]\nplain-http = true\nusername = \"reader\"\npassword = \"{password}\"\n"
        );
        fs::write(node.config_root().join("registries.d/test.toml"), text).expect("the folder is ours");
    };
    configure("wrong");
    let line = node.agent(&["pull", PROBE]).refused(1);
    assert!(line.contains("refused access") && !line.contains("wrong"), "{line}");
    configure("secret");
    assert_eq!(node.agent(&["run", "--rm", PROBE, "out", "let in"]).ok(), "let in");
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

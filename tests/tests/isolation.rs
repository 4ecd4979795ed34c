//! What a container's processes can see and do, asserted from inside by the payload and from outside by /proc and
//! the cgroup files.

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Value, json};
use tests::support::node::json;
use tests::{APP, Node, PROBE};

/// docker's default capabilities (moby, `oci/caps/defaults.go`).
const CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// Bits of the mask in /proc/PID/status, by the numbers of capability.h.
const CAPABILITY_MASK: u64 = 1 << 0 // CHOWN
    | 1 << 1 // DAC_OVERRIDE
    | 1 << 3 // FOWNER
    | 1 << 4 // FSETID
    | 1 << 5 // KILL
    | 1 << 6 // SETGID
    | 1 << 7 // SETUID
    | 1 << 8 // SETPCAP
    | 1 << 10 // NET_BIND_SERVICE
    | 1 << 13 // NET_RAW
    | 1 << 18 // SYS_CHROOT
    | 1 << 27 // MKNOD
    | 1 << 29 // AUDIT_WRITE
    | 1 << 31; // SETFCAP

const NAMESPACES: [&str; 6] = ["cgroup", "ipc", "mnt", "net", "pid", "uts"];

fn strings(value: &Value) -> BTreeSet<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn fields<'a>(list: &'a Value, field: &str) -> BTreeSet<&'a str> {
    list.as_array().into_iter().flatten().filter_map(|entry| entry[field].as_str()).collect()
}

#[test]
fn a_process_sees_itself_alone() {
    let node = Node::new();
    let report = node.probe(&[], &["report"]);
    assert_eq!((&report["pid"], &report["ppid"], &report["pids"]), (&json!(1), &json!(0), &json!([1])));
    for (kind, identity) in report["namespaces"].as_object().expect("there are some") {
        let host = fs::read_link(format!("/proc/self/ns/{kind}")).expect("the kernel has it");
        let differs = identity.as_str() != host.to_str();
        let own = NAMESPACES.contains(&kind.trim_end_matches("_for_children"));
        assert_eq!(differs, own, "{kind}: {identity}");
    }
    assert_ne!(report["namespaces"]["net"], node.netns.identity());
    assert_eq!(report["hostname"].as_str().map(str::len), Some(12));
    // Descriptors: the three, pipes and /dev/null, and nothing else.
    let fds = report["fds"].as_object().expect("there are some");
    assert_eq!(fds.keys().collect::<Vec<_>>(), ["0", "1", "2"], "{fds:?}");
    assert_eq!(fds["0"], "/dev/null");
    for cgroup in report["cgroups"].as_array().expect("there are some") {
        let shared = ["cpuset", "systemd", ""].iter().any(|name| {
            let names = cgroup["controllers"].as_array().map(Vec::len);
            (name.is_empty() && names == Some(0)) || cgroup["controllers"].to_string().contains(name)
        });
        assert!(cgroup["path"] == "/" || shared, "{cgroup}");
    }
    assert_eq!(
        report["env"].as_object().map(|env| env.keys().cloned().collect::<Vec<_>>()).unwrap_or_default(),
        ["HOME", "HOSTNAME", "PATH", "PROBE_IMAGE"]
    );
    assert_eq!(fields(&report["interfaces"], "name"), BTreeSet::from(["eth0", "lo"]));
    let routes = report["routes"].as_array().expect("there are some");
    assert!(routes.iter().any(|route| route["destination"] == "0.0.0.0/0" && route["interface"] == "eth0"));
    assert_eq!(report["sysctls"]["net.ipv4.ip_unprivileged_port_start"], "0");

    // Without a network there is loopback, and it is up.
    let report = node.probe(&["--network", "none"], &["report"]);
    assert_eq!(fields(&report["interfaces"], "name"), BTreeSet::from(["lo"]));
    assert_eq!(report["interfaces"][0]["up"], true);
    assert_ne!(report["namespaces"]["net"], node.netns.identity());
    // With the host's it is the host's.
    let report = node.probe(&["--network", "host"], &["report"]);
    assert_eq!(report["namespaces"]["net"], node.netns.identity());
}

#[test]
fn rights_are_dockers() {
    let node = Node::new();
    let report = node.probe(&[], &["report"]);
    let default: BTreeSet<&str> = CAPABILITIES.into();
    for set in ["permitted", "effective", "bounding"] {
        assert_eq!(strings(&report["capabilities"][set]), default, "{set}");
    }
    // CVE-2022-29162: inheritable capabilities come back where files ask for them.
    for set in ["inheritable", "ambient"] {
        assert!(strings(&report["capabilities"][set]).is_empty(), "{set}");
    }
    assert_eq!((&report["no_new_privs"], &report["seccomp"]), (&json!(true), &json!(2)));
    assert_eq!(report["umask"], "0022");
    assert_eq!(report["oom_score_adj"], 0);

    let report =
        node.probe(&["--cap-drop", "ALL", "--cap-add", "chown", "--cap-add", "CAP_SYS_TIME"], &["report"]);
    for set in ["permitted", "effective", "bounding"] {
        let expected = BTreeSet::from(["CAP_CHOWN", "CAP_SYS_TIME"]);
        assert_eq!(strings(&report["capabilities"][set]), expected, "{set}");
    }
    // Another user than root has none, and could get no more than the default ones.
    let report = node.probe(&["-u", "app"], &["report"]);
    for set in ["permitted", "effective", "inheritable", "ambient"] {
        assert!(strings(&report["capabilities"][set]).is_empty(), "{set}");
    }
    assert_eq!(strings(&report["capabilities"]["bounding"]), default);
}

#[test]
fn what_must_not_be_done_cannot_be_done() {
    let node = Node::new();
    let told = node.probe(&[], &["syscall"]);
    // What docker grants as well.
    let granted = [
        "chroot",
        "mknod",
        "packet_socket",
        "ptrace_init",
        "ptrace_parent",
        "raw_socket",
        "setgid",
        "setgroups",
        "setuid",
    ];
    let expected: &[(&str, &[&str])] = &[
        ("cgroup_mkdir", &["EROFS"]),
        ("open_dev_kmsg", &["ENOENT"]),
        ("open_dev_mem", &["ENOENT"]),
        ("oom_score_adj", &["EACCES"]),
        ("read_kcore", &["empty", "ENOENT"]),
        ("read_keys", &["empty", "ENOENT"]),
        ("read_timer_list", &["empty", "ENOENT"]),
        ("write_proc_sys", &["EROFS"]),
        ("write_proc_irq", &["EROFS", "ENOENT"]),
        ("write_sysrq_trigger", &["EROFS", "ENOENT"]),
        ("write_sys_power", &["EROFS", "ENOENT"]),
        ("write_core_pattern", &["EROFS"]),
        ("write_uevent_helper", &["EROFS", "ENOENT"]),
    ];
    for (attempt, result) in told.as_object().expect("it is one") {
        let result = result.as_str().unwrap_or_default();
        let special = expected.iter().find(|(name, _)| name == attempt).map(|(_, results)| *results);
        match special {
            _ if granted.contains(&attempt.as_str()) => assert_eq!(result, "ok", "{attempt}"),
            Some(results) => assert!(results.contains(&result), "{attempt}: {result}"),
            None => assert_eq!(result, "EPERM", "{attempt}"),
        }
    }
    // A user without capabilities can do none of what they grant.
    let told = node.probe(&["-u", "app"], &["syscall"]);
    for attempt in ["chroot", "packet_socket", "raw_socket", "setgid", "setgroups", "setuid"] {
        assert_eq!(told[attempt], "EPERM", "{attempt}");
    }
    assert_eq!(told["mknod"], "EACCES");
}

#[test]
fn the_file_system_is_the_containers_own() {
    let node = Node::new();
    let masked = [
        "/proc/acpi",
        "/proc/asound",
        "/proc/interrupts",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/sched_debug",
        "/proc/scsi",
        "/proc/timer_list",
        "/proc/timer_stats",
        "/sys/devices/virtual/powercap",
        "/sys/firmware",
    ];
    let read_only =
        ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/sys", "/sys/fs/cgroup", "/sys/kernel"];
    let paths = [&["report", "/", "/proc/sysrq-trigger"], &masked[..], &read_only].concat();
    let report = node.probe(&[], &paths);
    let mounts = report["mounts"].as_array().expect("there are some");
    let may_be_mounted = |point: &str| {
        let own = ["/", "/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys", "/sys/fs/cgroup"];
        let ours = own.contains(&point) || masked.contains(&point) || read_only.contains(&point);
        ours || point == "/proc/sysrq-trigger" || point.starts_with("/sys/fs/cgroup/")
    };
    for mount in mounts {
        let word = |key: &str| mount[key].as_str().unwrap_or_default();
        assert!(may_be_mounted(word("mountpoint")), "{mount}");
        assert!(
            ["overlay", "proc", "tmpfs", "devpts", "mqueue", "sysfs", "cgroup", "cgroup2"]
                .contains(&word("fstype")),
            "{mount}"
        );
        // CVE-2021-30465 and its kin need mounts to spread.
        assert_eq!(mount["propagation"], json!([]), "{mount}");
        if word("fstype") == "cgroup" {
            assert!(strings(&mount["options"]).contains("ro"), "{mount}");
        }
    }
    for path in masked {
        let access = &report["paths"][path];
        match access["kind"].as_str() {
            Some("absent") => {}
            Some("directory") => {
                assert_eq!((&access["entries"], &access["write"]), (&json!([]), &json!("EROFS")), "{path}");
            }
            _ => assert_eq!(access["content"], "", "{path}"),
        }
    }
    for path in read_only.into_iter().chain(["/proc/sysrq-trigger"]) {
        let access = &report["paths"][path];
        assert!(access["kind"] == "absent" || access["write"] == "EROFS", "{path}: {access}");
    }
    assert_eq!(report["paths"]["/"]["write"], "ok");
    assert_eq!(node.probe(&["--read-only"], &["report", "/"])["paths"]["/"]["write"], "EROFS");
}

#[test]
fn devices_are_these_and_no_others() {
    let node = Node::new();
    let check = |options: &[&str], more: &[&str]| {
        let report = match options {
            ["-t"] => json(node.agent(&["run", "--rm", "-t", PROBE]).ok().trim()),
            _ => node.probe(options, &[]),
        };
        let mut found: Vec<String> = Vec::new();
        for device in report["devices"].as_array().expect("there are some") {
            let word = |key: &str| device[key].as_str().unwrap_or_default();
            let what = match word("kind") {
                "symlink" => format!("-> {}", word("target")),
                "char" => format!("{}:{} {}", device["major"], device["minor"], word("mode")),
                kind => format!("{kind} {}", word("mode")),
            };
            found.push(format!("{} {what}", word("path")));
        }
        let mut expected: Vec<String> = [
            "/dev/core -> /proc/kcore",
            "/dev/fd -> /proc/self/fd",
            "/dev/full 1:7 0666",
            "/dev/mqueue directory 1777",
            "/dev/null 1:3 0666",
            "/dev/ptmx -> pts/ptmx",
            "/dev/pts directory 0755",
            "/dev/random 1:8 0666",
            "/dev/shm directory 1777",
            "/dev/stderr -> /proc/self/fd/2",
            "/dev/stdin -> /proc/self/fd/0",
            "/dev/stdout -> /proc/self/fd/1",
            "/dev/tty 5:0 0666",
            "/dev/urandom 1:9 0666",
            "/dev/zero 1:5 0666",
        ]
        .iter()
        .chain(more)
        .map(|line| (*line).to_owned())
        .collect();
        expected.sort();
        let first_word = |line: &String| line.split(' ').next().map(str::to_owned);
        found.sort_by_key(first_word);
        expected.sort_by_key(first_word);
        assert_eq!(found, expected, "{options:?}");
    };
    check(&[], &[]);
    check(&["-t"], &["/dev/console 136:0 0620"]);
}

#[test]
fn the_kernel_says_the_same_from_outside() {
    let node = Node::new();
    let limits = ["--cpus", "0.5", "--memory", "64m", "--pids-limit", "50"];
    let id = node.detached(&[&limits[..], &["--name", "app", APP]].concat());
    node.log_with("app", "listening");
    let pid = node.pid("app");
    for kind in NAMESPACES {
        let link = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("it runs");
        assert_ne!(link(&pid.to_string()), link("self"), "{kind}");
    }
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {name}")).trim().to_owned()
    };
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(u64::from_str_radix(&field(set), 16), Ok(CAPABILITY_MASK), "{set}");
    }
    for set in ["CapInh", "CapAmb"] {
        assert_eq!(u64::from_str_radix(&field(set), 16), Ok(0), "{set}");
    }
    assert_eq!((field("NoNewPrivs"), field("Seccomp")), ("1".to_owned(), "2".to_owned()));
    assert_eq!(field("NSpid").split_whitespace().collect::<Vec<_>>(), [&pid.to_string(), "1"]);
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count();
    // The server has opened two more: its listener and its signals.
    assert_eq!(fds, 5);
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("it runs");
    let root = mounts.lines().next().expect("it has a root");
    assert!(root.split(' ').nth(4) == Some("/") && root.contains(" - overlay "), "{root}");
    // The host sees none of the container's mounts.
    let ours = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
    assert!(!ours.contains(node.dir().to_str().expect("it is plain")), "{ours}");

    let read = |controller: &str, file: &str| {
        let path = node.cgroup_folder(controller, &id).join(file);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        text.trim().to_owned()
    };
    let v2 = fs::exists("/sys/fs/cgroup/cgroup.controllers").expect("it can be asked");
    let expected: &[(&str, &str, &str)] = match v2 {
        true => &[("", "cpu.max", "50000 100000"), ("", "memory.max", "67108864"), ("", "pids.max", "50")],
        false => &[
            ("cpu", "cpu.cfs_quota_us", "50000"),
            ("cpu", "cpu.cfs_period_us", "100000"),
            ("memory", "memory.limit_in_bytes", "67108864"),
            ("pids", "pids.max", "50"),
        ],
    };
    for (controller, file, value) in expected {
        assert_eq!(read(controller, file), *value, "{file}");
    }
    let controllers: &[&str] =
        if v2 { &[""] } else { &["cpu", "cpuacct", "memory", "pids", "devices", "freezer", "blkio"] };
    for controller in controllers {
        assert_eq!(read(controller, "cgroup.procs"), pid.to_string(), "{controller}");
    }
    if !v2 {
        let devices = read("devices", "devices.list");
        assert!(
            !devices.lines().any(|line| line.starts_with("a ") || line.contains("b *:* rw")),
            "{devices}"
        );
        assert!(devices.lines().any(|line| line == "c 1:3 rwm"), "{devices}");
    }
    // What lies in the store is for nobody but root (CVE-2024-25621).
    for folder in [node.root(), node.run_root()] {
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &fs::metadata(&folder).expect("it is there").permissions(),
        );
        assert_eq!(mode & 0o7777, 0o700, "{}", folder.display());
    }
}

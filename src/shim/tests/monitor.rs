//! The monitor and `exec`, driven over the control socket as `runtime` drives them. The root filesystem is an overlay over
//! the host's own root, so that no image is needed. Needs root.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use container::monitor::{ControlSocket, FromMonitor, MonitorSpec, RootfsSpec, ToMonitor};
use container::stdio::FRAME_BYTES;
use container::{ExitRecord, FailedStart, Frame, StdioSocket};
use nix::sys::socket::MsgFlags;
use serde_json::{Value, json};
use tempfile::TempDir;

const SHIM: &str = env!("CARGO_BIN_EXE_shim");

/// A container about to be started.
struct Case {
    folder: TempDir,
    config: Value,
    spec: MonitorSpec,
    cgroup: String,
}

impl Case {
    fn new(name: &str, args: &[&str]) -> Self {
        // On tmpfs, since an overlay's upper layer may not lie below its own lower one.
        let folder = tempfile::Builder::new().prefix("shim-").tempdir_in("/dev/shm").expect("a folder");
        let path = |name: &str| folder.path().join(name);
        for name in ["bundle", "run", "rootfs", "upper", "work"] {
            fs::create_dir(path(name)).expect("made");
        }
        let cgroup = format!("/agent-shim-{}-{name}", std::process::id());
        let config = json!({
            "ociVersion": "1.2.0",
            "process": {
                "terminal": false,
                "user": {"uid": 0, "gid": 0},
                "args": args,
                "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
                "cwd": "/",
                "noNewPrivileges": true,
                "capabilities": {"bounding": ["CAP_CHOWN", "CAP_KILL"], "effective": ["CAP_CHOWN", "CAP_KILL"],
                    "permitted": ["CAP_CHOWN", "CAP_KILL"], "inheritable": [], "ambient": []},
            },
            "root": {"path": path("rootfs")},
            "hostname": "inside",
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                 "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                 "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
                {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
                {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
                 "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]},
            ],
            "linux": {
                "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "uts"}, {"type": "ipc"}, {"type": "network"},
                    {"type": "cgroup"}],
                "cgroupsPath": cgroup,
                "maskedPaths": ["/proc/cpuinfo", "/proc/acpi", "/no/such/path"],
                "readonlyPaths": ["/proc/sys"],
            },
        });
        let spec = MonitorSpec {
            id: name.to_owned(),
            bundle: path("bundle"),
            run_dir: path("run"),
            rootfs: RootfsSpec::Overlay {
                lower: vec!["/".to_owned()],
                links: path("bundle"),
                upper: path("upper"),
                work: path("work"),
                volatile: true,
            },
            log_path: path("log"),
            exit_path: path("exit.json"),
            sync_exit: false,
            stdin: false,
            cleanup_command: vec!["/usr/bin/touch".to_owned(), "-r/".to_owned()],
            wait_for_network: false,
        };
        Case { folder, config, spec, cgroup }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn begin(self) -> Running {
        fs::write(self.path("bundle/config.json"), self.config.to_string()).expect("written");
        let lock = File::create(self.path("run/lock")).expect("made");
        let lock = nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusive).expect("free");
        let (control, theirs) = ControlSocket::pair().expect("a pair");
        let (client, other) = StdioSocket::pair().expect("a pair");
        let monitor = Command::new(SHIM)
            .arg("monitor")
            .stdin(Stdio::from(theirs.into_fd()))
            .spawn()
            .expect("shim is built");
        control
            .send(&ToMonitor::Begin(Box::new(self.spec.clone())), &[lock.as_fd(), other.as_fd()])
            .expect("it listens");
        // Unlocking is by the last descriptor, not by us.
        std::mem::forget(lock);
        Running { case: self, control: Some(control), client: Some(client), monitor }
    }
}

/// A container whose monitor was told to begin.
struct Running {
    case: Case,
    control: Option<ControlSocket>,
    client: Option<StdioSocket>,
    monitor: Child,
}

impl Running {
    fn started(&self) -> Result<i32, FailedStart> {
        let control = self.control.as_ref().expect("still open");
        loop {
            match control.receive().expect("readable").expect("the monitor lives").0 {
                FromMonitor::Started { pid } => return Ok(pid),
                FromMonitor::Failed(failed) => return Err(failed),
                FromMonitor::Stage(_) | FromMonitor::Namespaces { .. } => {}
            }
        }
    }

    fn client(&self) -> &StdioSocket {
        self.client.as_ref().expect("still open")
    }

    /// All output up to the end, and the end.
    fn output(&self) -> (String, String, ExitRecord) {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let mut buffer = vec![0; FRAME_BYTES + 1];
        loop {
            match self.client().receive(&mut buffer, MsgFlags::empty()).expect("readable") {
                Some(Frame::Stdout(bytes)) => stdout.extend_from_slice(bytes),
                Some(Frame::Stderr(bytes)) => stderr.extend_from_slice(bytes),
                Some(Frame::Exited(record)) => {
                    let text = |bytes| String::from_utf8(bytes).expect("text");
                    return (text(stdout), text(stderr), record);
                }
                Some(_) => {}
                None => panic!("the monitor left without saying how it ended"),
            }
        }
    }

    /// A command in the container, yet to be run.
    fn exec(&self, args: &[&str]) -> Command {
        let process = self.case.path("run/process.json");
        let mut description = self.case.config["process"].clone();
        description["args"] = json!(args);
        fs::write(&process, description.to_string()).expect("written");
        let mut command = Command::new(SHIM);
        command.args(["exec", "--bundle"]).arg(self.case.path("bundle"));
        command.arg("--run-dir").arg(self.case.path("run")).arg("--process").arg(process);
        command
    }

    /// Says that we have cleaned up, and checks what the monitor leaves.
    fn released(mut self) -> Case {
        self.control.take().expect("still open").send(&ToMonitor::Released, &[]).expect("it listens");
        assert!(self.monitor.wait().expect("ours").success());
        self.case.assert_no_cgroup();
        self.case
    }
}

impl Case {
    fn assert_no_cgroup(&self) {
        for controller in fs::read_dir("/sys/fs/cgroup").expect("mounted") {
            let path = controller.expect("readable").path().join(self.cgroup.trim_start_matches('/'));
            assert!(!path.exists(), "{} is left", path.display());
        }
    }
}

fn run(name: &str, args: &[&str]) -> (String, String, ExitRecord) {
    let running = Case::new(name, args).begin();
    running.started().expect("it starts");
    let output = running.output();
    let case = running.released();
    let log = fs::read_to_string(case.path("log")).expect("a log");
    assert_eq!(log.lines().filter(|line| line.contains(" stdout ")).count(), output.0.lines().count());
    let exit: ExitRecord =
        serde_json::from_slice(&fs::read(case.path("exit.json")).expect("recorded")).expect("json");
    assert_eq!(exit, output.2);
    output
}

#[test]
fn output_and_exit_code_arrive() {
    let (stdout, stderr, exit) = run("output", &["sh", "-c", "echo out; echo err >&2; exit 3"]);
    assert_eq!((stdout.as_str(), stderr.as_str()), ("out\n", "err\n"));
    assert_eq!((exit.exit_code, exit.signal, exit.oom_killed), (3, None, false));
}

#[test]
fn a_signal_is_told_as_128_and_its_number() {
    let (_, _, exit) = run("signal", &["sh", "-c", "sh -c 'kill -9 $$'; exit $?"]);
    assert_eq!(exit.exit_code, 137);
}

#[test]
fn it_is_pid_1_of_a_machine_of_its_own() {
    let script = "echo $$; hostname; ls /sys/class/net; ls -d /proc/[0-9]* | wc -l; umask; cat /proc/self/cgroup | \
                  cut -d: -f3 | sort -u; stat -c %T,%t /dev/null; ls -l /proc/self/fd | wc -l; wc -c < /proc/cpuinfo; \
                  echo x 2>/dev/null > /proc/sys/kernel/domainname || echo read-only; grep -c ' /dev/shm ' /proc/mounts";
    let (stdout, stderr, exit) = run("alone", &["sh", "-c", script]);
    assert_eq!(exit.exit_code, 1, "{stdout}{stderr}");
    let lines: Vec<&str> = stdout.lines().map(str::trim).collect();
    let cgroups = lines.iter().filter(|line| line.starts_with('/')).count();
    assert!(cgroups >= 1, "{stdout}");
    assert_eq!(&lines[..3], ["1", "inside", "lo"], "{stdout}");
    // The shell, ls and wc may all be there while ls looks.
    assert!(lines[3].parse::<u32>().expect("a count") <= 4, "{stdout}");
    assert_eq!(lines[4], "0022");
    // Nothing of the host's mounts is left: grep found none.
    assert_eq!(&lines[lines.len() - 2..], ["read-only", "0"], "{stdout}");
    assert!(lines.contains(&"1,3") || lines.contains(&"3,1"), "{stdout}");
    assert_eq!(lines[lines.len() - 3], "0", "/proc/cpuinfo is masked: {stdout}");
}

#[test]
fn what_cannot_be_executed_is_told_with_its_code() {
    for (name, command, code) in [
        ("missing", "no-such-command", 127),
        ("missing-path", "/no/such/command", 127),
        ("folder", "/etc", 126),
        ("data", "/etc/passwd", 126),
    ] {
        let running = Case::new(name, &[command]).begin();
        let failed = running.started().expect_err("it cannot");
        assert_eq!(failed.exit_code, code, "{}", failed.message);
        assert!(failed.message.contains(command), "{}", failed.message);
        let case = running.released();
        assert!(!case.path("exit.json").exists());
    }
}

#[test]
fn a_link_where_proc_belongs_is_refused() {
    let mut case = Case::new("procless", &["true"]);
    let hostile = case.path("hostile");
    fs::create_dir(&hostile).expect("made");
    std::os::unix::fs::symlink("/etc", hostile.join("proc")).expect("made");
    let RootfsSpec::Overlay { lower, .. } = &mut case.spec.rootfs else { panic!("an overlay") };
    lower.insert(0, hostile.to_str().expect("text").to_owned());
    let running = case.begin();
    let failed = running.started().expect_err("refused");
    assert!(failed.message.contains("symbolic link"), "{}", failed.message);
    running.released();
}

#[test]
fn input_reaches_it_and_ends() {
    let mut case = Case::new("input", &["sort"]);
    case.spec.stdin = true;
    let running = case.begin();
    running.started().expect("it starts");
    let lines: String = (0..20_000).rev().map(|number| format!("{number:06}\n")).collect();
    for chunk in lines.as_bytes().chunks(FRAME_BYTES) {
        running.client().send(&Frame::Stdin(chunk), MsgFlags::empty()).expect("sent");
    }
    running.client().send(&Frame::StdinEnd, MsgFlags::empty()).expect("sent");
    let (stdout, _, exit) = running.output();
    assert_eq!(exit.exit_code, 0);
    assert_eq!((stdout.len(), &stdout[..14]), (lines.len(), "000000\n000001\n"));
    running.released();
}

#[test]
fn a_terminal_has_a_size_and_is_the_controlling_one() {
    let mut case =
        Case::new("terminal", &["sh", "-c", "stty size; tty; read line; stty size; echo got $line"]);
    case.config["process"]["terminal"] = json!(true);
    case.config["process"]["consoleSize"] = json!({"height": 11, "width": 22});
    case.spec.stdin = true;
    let running = case.begin();
    running.started().expect("it starts");
    let mut first = Vec::new();
    let mut buffer = vec![0; FRAME_BYTES + 1];
    while !first.ends_with(b"/dev/pts/0\r\n") {
        match running.client().receive(&mut buffer, MsgFlags::empty()).expect("readable") {
            Some(Frame::Stdout(bytes)) => first.extend_from_slice(bytes),
            Some(Frame::Started(_)) => {}
            other => panic!("unexpected {other:?}"),
        }
    }
    assert_eq!(first, b"11 22\r\n/dev/pts/0\r\n");
    running.client().send(&Frame::Resize { rows: 33, cols: 77 }, MsgFlags::empty()).expect("sent");
    running.client().send(&Frame::Stdin(b"hello\n"), MsgFlags::empty()).expect("sent");
    let (stdout, _, exit) = running.output();
    assert_eq!(exit.exit_code, 0, "{stdout}");
    for expected in ["33 77\r\n", "got hello\r\n"] {
        assert!(stdout.contains(expected), "{stdout:?}");
    }
    running.released();
}

#[test]
fn the_container_dies_with_its_monitor() {
    let mut running = Case::new("orphan", &["sleep", "1000"]).begin();
    let pid = running.started().expect("it starts");
    let pidfd = sys::process::pidfd_open(pid).expect("it lives");
    running.monitor.kill().expect("ours");
    running.monitor.wait().expect("ours");
    sys::process::wait_readable(&pidfd).expect("it ends");
    container::cgroup::Cgroup::at(&running.case.cgroup)
        .expect("fine")
        .remove()
        .expect("removable by its path alone");
    running.case.assert_no_cgroup();
}

#[test]
fn a_parent_that_dies_before_the_network_is_connected_leaves_nothing() {
    let mut case = Case::new("parentless", &["sleep", "1000"]);
    case.spec.wait_for_network = true;
    let mark = case.path("cleaned");
    case.spec.cleanup_command =
        vec!["/bin/sh".to_owned(), "-c".to_owned(), format!("echo $0 > {}", mark.display())];
    let mut running = case.begin();
    loop {
        let control = running.control.as_ref().expect("still open");
        match control.receive().expect("readable").expect("the monitor lives").0 {
            FromMonitor::Namespaces { pid } => {
                assert!(Path::new(&format!("/proc/{pid}/ns/net")).exists());
                break;
            }
            FromMonitor::Stage(_) => {}
            other => panic!("unexpected {other:?}"),
        }
    }
    running.control = None;
    assert!(running.monitor.wait().expect("ours").success());
    assert_eq!(fs::read_to_string(mark).expect("the clean-up command was run"), "parentless\n");
    running.case.assert_no_cgroup();
}

#[test]
fn a_second_client_hears_of_the_end_without_output() {
    let running = Case::new("second", &["sh", "-c", "echo noise; sleep 0.2"]).begin();
    running.started().expect("it starts");
    let waiter = StdioSocket::connect(&running.case.path("run/attach.sock")).expect("it listens");
    let mut buffer = vec![0; FRAME_BYTES + 1];
    let mut seen = Vec::new();
    while let Some(frame) = waiter.receive(&mut buffer, MsgFlags::empty()).expect("readable") {
        seen.push(match frame {
            Frame::Started(_) => "started",
            Frame::Exited(_) => "exited",
            _ => "other",
        });
    }
    assert_eq!(seen, ["started", "exited"]);
    running.output();
    running.released();
}

#[test]
fn a_client_that_does_not_read_is_waited_for_until_somebody_says_finish() {
    let running =
        Case::new("stuck", &["sh", "-c", "head -c 5000000 /dev/zero & sleep 0.3; kill -9 -1; exit 7"])
            .begin();
    let pid = running.started().expect("it starts");
    let pidfd = sys::process::pidfd_open(pid).expect("it lives");
    sys::process::wait_readable(&pidfd).expect("it ends");
    let other = StdioSocket::connect(&running.case.path("run/attach.sock")).expect("it still listens");
    let lock = File::open(running.case.path("run/lock")).expect("there");
    assert!(lock.try_lock_shared().is_err(), "the monitor waits for its client");
    other.send(&Frame::Finish, MsgFlags::empty()).expect("sent");
    let mut buffer = vec![0; FRAME_BYTES + 1];
    let mut seen = None;
    while let Some(frame) = other.receive(&mut buffer, MsgFlags::empty()).expect("readable") {
        if let Frame::Exited(exit) = frame {
            seen = Some(exit.exit_code);
        }
    }
    assert_eq!(seen, Some(7));
    running.released();
}

#[test]
fn a_client_that_hangs_up_costs_nothing_while_its_input_waits() {
    let mut case = Case::new("hungup", &["sleep", "1000"]);
    case.spec.stdin = true;
    let mut running = case.begin();
    let pid = running.started().expect("it starts");
    let chunk = vec![0; FRAME_BYTES];
    // More than the pipe and the socket hold.
    while running.client().send(&Frame::Stdin(&chunk), MsgFlags::MSG_DONTWAIT).is_ok() {}
    running.client = None;
    let ticks = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", running.monitor.id())).expect("it lives");
        let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_ascii_whitespace().collect();
        fields[11].parse::<u64>().expect("a number") + fields[12].parse::<u64>().expect("a number")
    };
    let before = ticks();
    let limit = std::time::Duration::from_millis(500);
    let pidfd = sys::process::pidfd_open(pid).expect("it lives");
    assert!(!sys::process::wait_readable_for(&pidfd, limit).expect("it lives on"));
    assert!(ticks() - before < 10, "the monitor spins");
    sys::process::pidfd_send_signal(&pidfd, nix::libc::SIGKILL).expect("ours");
    running.released();
}

#[test]
fn a_process_of_exec_ends_when_its_terminal_is_let_go_of() {
    let mut running = Case::new("exec-terminal", &["sleep", "1000"]).begin();
    let pid = running.started().expect("it starts");
    running.case.config["process"]["terminal"] = json!(true);
    let path = running.case.path("run/console.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).expect("bound");
    let mut shim =
        running.exec(&["sleep", "1000"]).arg("--console-socket").arg(&path).spawn().expect("shim is built");
    let (connection, _) = listener.accept().expect("it connects");
    let mut name = [0; 64];
    let (_, terminal) =
        sys::fd::receive_with_fds(connection.as_fd(), &mut [std::io::IoSliceMut::new(&mut name)])
            .expect("sent");
    assert_eq!(terminal.len(), 1);
    drop(terminal);
    let pidfd = sys::process::pidfd_open(shim.id() as i32).expect("not reaped yet");
    let ended = sys::process::wait_readable_for(&pidfd, std::time::Duration::from_secs(10)).expect("watched");
    if !ended {
        shim.kill().expect("ours");
    }
    let code = shim.wait().expect("ours").code();
    let container = sys::process::pidfd_open(pid).expect("it lives");
    sys::process::pidfd_send_signal(&container, nix::libc::SIGKILL).expect("ours");
    running.output();
    running.released();
    assert_eq!((ended, code), (true, Some(128 + nix::libc::SIGHUP)));
}

#[test]
fn exec_never_passes_our_descriptors_on() {
    let running = Case::new("exec-stdio", &["sleep", "1000"]).begin();
    let pid = running.started().expect("it starts");
    let script = "chmod 4777 /proc/self/fd/1; cat; echo more >> /proc/self/fd/0; echo error >&2; exit 3";
    let (input, output) = (running.case.path("input"), running.case.path("output"));
    let lines: String = (0..40_000).map(|number| format!("{number}\n")).collect();
    fs::write(&input, &lines).expect("written");
    let done = running
        .exec(&["sh", "-c", script])
        .stdin(File::options().read(true).write(true).open(&input).expect("there"))
        .stdout(File::create(&output).expect("made"))
        .output()
        .expect("shim is built");
    assert_eq!(done.status.code(), Some(3));
    assert!(done.stderr.ends_with(b"error\n"), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(fs::read_to_string(&output).expect("read"), lines);
    assert_eq!(fs::read_to_string(&input).expect("read"), lines, "our input is as it was");
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&output).expect("there").permissions());
    assert_eq!(mode & 0o7000, 0, "our output has the mode it had");
    let pidfd = sys::process::pidfd_open(pid).expect("it lives");
    sys::process::pidfd_send_signal(&pidfd, nix::libc::SIGKILL).expect("ours");
    running.released();
}

#[test]
fn exec_runs_inside_with_our_stdio_and_returns_its_code() {
    let running = Case::new("exec", &["sleep", "1000"]).begin();
    let pid = running.started().expect("it starts");
    let output = running
        .exec(&[
            "sh",
            "-c",
            "hostname; cat /proc/1/comm; cat /proc/self/cgroup | cut -d: -f3 | sort -u; exit 5",
        ])
        .output()
        .expect("shim is built");
    assert_eq!(output.status.code(), Some(5), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout.starts_with(b"inside\nsleep\n/\n"), "{}", String::from_utf8_lossy(&output.stdout));
    let output = running.exec(&["no-such-command"]).output().expect("shim is built");
    assert_eq!(output.status.code(), Some(127));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no-such-command"));

    let pidfd = sys::process::pidfd_open(pid).expect("it lives");
    sys::process::pidfd_send_signal(&pidfd, nix::libc::SIGKILL).expect("ours");
    assert_eq!(running.output().2.signal, Some(nix::libc::SIGKILL));
    let output = running.exec(&["true"]).output().expect("shim is built");
    assert_eq!(output.status.code(), Some(125));
    running.released();
}

//! The root filesystem by either driver: the same to the container, its own, and gone with it.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use runtime::{ContainerOptions, NetworkMode};

use crate::node::{LIMIT, Node, image, named, names_in, open, shell, short_folder};

/// Says everything there is to what lies in /data. Links of folders are counted by some file systems and not by others.
const DESCRIBE: &str = "stat -c '%n %a %u:%g' / /etc; cd /data; for path in $(find . | sort); do \
    if [ -d $path ]; then stat -c '%n %F %a %u:%g %y' $path; \
    else stat -c '%N %F %a %u:%g %y %s %t:%T %h' $path; fi; \
    if [ -f $path ]; then cat $path; fi; done; cat /etc/hostname >&2";

/// Forces a driver, as if the kernel had answered so.
fn answer(node: &Node, driver: &str) {
    let line = format!("{driver} {}\n", node.path("lib").display());
    fs::write(node.path("run/rootfs-driver"), line).unwrap();
}

fn answered(node: &Node) -> String {
    fs::read_to_string(node.path("run/rootfs-driver")).unwrap().split(' ').next().unwrap().to_owned()
}

/// Programs of the host with what they are linked against: as little as makes a container.
fn system(layer: &Path) {
    let mut files = BTreeSet::new();
    for name in ["sh", "cat", "find", "ls", "mkdir", "rm", "sort", "stat", "touch", "true"] {
        let program = fs::canonicalize(Path::new("/bin").join(name)).unwrap();
        let output = Command::new("ldd").arg(&program).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        files.extend(said.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from));
        fs::create_dir_all(layer.join("bin")).unwrap();
        fs::copy(program, layer.join("bin").join(name)).unwrap();
    }
    for file in files {
        let copy = layer.join(file.strip_prefix("/").unwrap());
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::copy(file, copy).unwrap();
    }
}

fn data(layer: &Path) -> PathBuf {
    let data = layer.join("data");
    fs::create_dir_all(&data).unwrap();
    data
}

/// A system, and something of every kind.
fn lower(layer: &Path) {
    system(layer);
    let data = data(layer);
    for (name, text) in [("plain", "text\n"), ("deleted", "x"), ("setuid", "x"), ("replaced", "x")] {
        fs::write(data.join(name), text).unwrap();
    }
    chown(data.join("setuid"), Some(12), Some(34)).unwrap();
    fs::set_permissions(data.join("setuid"), fs::Permissions::from_mode(0o6751)).unwrap();
    fs::hard_link(data.join("plain"), data.join("same")).unwrap();
    symlink("/etc/shadow", data.join("link")).unwrap();
    mknod(&data.join("fifo"), SFlag::S_IFIFO, Mode::S_IRWXU, 0).unwrap();
    mknod(&data.join("null"), SFlag::S_IFCHR, Mode::S_IRUSR, makedev(1, 3)).unwrap();
    fs::create_dir(data.join("folder")).unwrap();
    fs::write(data.join("folder/file"), "x").unwrap();
    fs::set_permissions(layer, fs::Permissions::from_mode(0o700)).unwrap();
    // What an image has in these places is not what the container sees.
    symlink("/data", layer.join("etc")).unwrap();
}

fn upper(layer: &Path) {
    let data = data(layer);
    mknod(&data.join("deleted"), SFlag::S_IFCHR, Mode::empty(), makedev(0, 0)).unwrap();
    fs::create_dir(data.join("replaced")).unwrap();
    fs::write(data.join("new"), "new\n").unwrap();
    fs::set_permissions(layer, fs::Permissions::from_mode(0o751)).unwrap();
}

fn small_node() -> Node {
    Node::with_layers(short_folder("/tmp"), &[&upper, &lower])
}

/// Runs this test once more in a process with the variable set; true in that process.
fn with_variable(value: &str, test: &str) -> bool {
    if std::env::var_os("AGENT_ROOTFS_DRIVER").is_some() {
        return true;
    }
    let again = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env("AGENT_ROOTFS_DRIVER", value)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&again.stdout);
    assert!(
        again.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&again.stderr)
    );
    false
}

#[test]
fn a_container_cannot_tell_a_copy_from_an_overlay() {
    let node = small_node();
    let mut seen = Vec::new();
    for driver in ["overlay", "copy"] {
        answer(&node, driver);
        let ended = node.run_to_end(ContainerOptions { remove: true, ..shell(DESCRIBE) });
        assert_eq!((ended.exit.exit_code, ended.stderr.len()), (0, 13), "{driver}: {}", ended.stderr);
        seen.push(ended.stdout);
    }
    assert_eq!(seen[0], seen[1]);
    for part in
        ["/ 751 0:0\n/etc 755 0:0\n", "./setuid' regular file 6751 12:34", "./replaced directory", "new\n"]
    {
        assert!(seen[1].contains(part), "{part:?} in {}", seen[1]);
    }
    assert!(!seen[1].contains("deleted"));
    node.assert_empty();
}

#[test]
fn what_is_written_to_a_copy_stays_in_it_and_goes_with_it() {
    if !with_variable("copy", "rootfs::what_is_written_to_a_copy_stays_in_it_and_goes_with_it") {
        return;
    }
    let node = small_node();
    let layers = node.runtime.images().layer_dirs(&node.image);
    let plain = layers[1].join("data/plain");
    let before = fs::metadata(&plain).unwrap();
    let write = "echo mine > /data/plain; rm -r /data/folder /data/new; mkdir /data/made; touch /data/made/x; \
        echo 10.9.8.7 > /etc/hosts; ls /data/made; cat /data/same";
    let ended = node.run_to_end(named("writer", write));
    assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("x\nmine\n", ""));
    let bundle = node.path("lib/containers").join(node.find("writer").id);
    assert_eq!(fs::read_to_string(bundle.join("rootfs/data/plain")).unwrap(), "mine\n");
    assert!(!bundle.join("upper").exists());

    let after = fs::metadata(&plain).unwrap();
    assert_eq!(
        (before.mtime_nsec(), before.nlink(), before.size()),
        (after.mtime_nsec(), after.nlink(), after.size())
    );
    assert_eq!(fs::read_to_string(&plain).unwrap(), "text\n");
    assert!(layers[0].join("data/new").exists() && layers[1].join("data/folder/file").exists());
    let other =
        node.run_to_end(ContainerOptions { remove: true, ..shell("cat /data/plain /data/folder/file") });
    assert_eq!(other.stdout, "text\nx");

    let fixed =
        ContainerOptions { remove: true, read_only: true, ..shell("touch /data/x 2>&1 || cat /data/plain") };
    assert!(node.run_to_end(fixed).stdout.ends_with("Read-only file system\ntext\n"));
    node.runtime.remove("writer", false).unwrap();
    assert!(!node.path("run/rootfs-driver").exists(), "the kernel was not asked");
    node.assert_empty();
}

#[test]
fn a_copy_on_the_bridge_knows_its_address() {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
    let node = small_node();
    answer(&node, "copy");
    let options = ContainerOptions {
        network: NetworkMode::Bridge,
        hostname: Some("box.lan".to_owned()),
        ..named("app", "cat /etc/hosts; ls -A /data/etc /data/hosts")
    };
    let ended = node.run_to_end(options);
    let last = ended.stdout.lines().last().unwrap().to_owned();
    let (ip, names) = last.split_once('\t').unwrap();
    assert!(ip.parse::<std::net::Ipv4Addr>().is_ok(), "{last}");
    assert_eq!(names, "box.lan box");
    let folder = node.path("lib/containers").join(node.find("app").id);
    assert_eq!(fs::metadata(folder.join("rootfs/etc/hosts")).unwrap().mode() & 0o7777, 0o644);
    node.runtime.remove("app", false).unwrap();
    let network = network::Network::new(network::NetworkConfig::new(node.path("run"))).unwrap();
    assert_eq!(network.attached().unwrap(), Vec::<String>::new());
    node.assert_empty();
}

#[test]
fn a_copy_that_was_cut_short_by_a_kill_is_removed() {
    const ROOTS: &str = "AGENT_TEST_ROOTS";
    if let Some(folder) = std::env::var_os(ROOTS) {
        open(Path::new(&folder)).create(named("half", "true"), &image(1)).unwrap();
        return;
    }
    let many = |layer: &Path| {
        for at in 0..20_000 {
            let folder = data(layer).join((at % 50).to_string());
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join(at.to_string()), "x").unwrap();
        }
    };
    let node = Node::with_layers(short_folder("/dev/shm"), &[&many]);
    let mut creator = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "rootfs::a_copy_that_was_cut_short_by_a_kill_is_removed"])
        .env(ROOTS, node.folder())
        .env("AGENT_ROOTFS_DRIVER", "copy")
        .spawn()
        .unwrap();
    let begun = Instant::now();
    let containers = node.path("lib/containers");
    loop {
        assert!(begun.elapsed() < LIMIT, "nothing is copied");
        if let [id] = &names_in(&containers)[..]
            && names_in(&containers.join(id).join("rootfs/data")).len() > 5
        {
            break;
        }
        std::thread::yield_now();
    }
    creator.kill().unwrap();
    creator.wait().unwrap();
    let id = names_in(&containers).remove(0);
    assert!(!containers.join(&id).join("container.json").exists(), "it was not done yet");
    assert_eq!(node.runtime.reap().unwrap(), [id]);
    node.assert_empty();
}

#[test]
fn the_kernel_is_asked_once_and_its_answer_is_kept() {
    let node = small_node();
    node.run_to_end(ContainerOptions { remove: true, ..shell("true") });
    assert_eq!(answered(&node), "overlay");
    for damaged in ["", "overlay /elsewhere\n", "overlay"] {
        fs::write(node.path("run/rootfs-driver"), damaged).unwrap();
        let view = node.runtime.create(named("app", "true"), &node.image).unwrap();
        assert_eq!(answered(&node), "overlay", "{damaged:?}");
        let bundle = node.path("lib/containers").join(&view.id);
        assert!(bundle.join("upper").exists() && !bundle.join("ask").exists());
        node.runtime.remove("app", false).unwrap();
    }
    node.assert_empty();
}

#[test]
fn an_unknown_driver_is_refused() {
    if !with_variable("zfs", "rootfs::an_unknown_driver_is_refused") {
        return;
    }
    let node = small_node();
    let error = node.run(shell("true"), true).expect_err("there is no such driver").to_string();
    assert_eq!(error, "invalid AGENT_ROOTFS_DRIVER=zfs: want overlay or copy");
    node.assert_empty();
}

/// Collects what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn where_overlay_is_refused_the_image_is_copied_with_one_warning() {
    // Below an overlay another one cannot have its writable layer.
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS).unwrap();
    let nothing = None::<&str>;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).unwrap();
    let folder = short_folder("/tmp");
    let at = |name: &str| {
        let path = folder.path().join(name);
        fs::create_dir(&path).unwrap();
        path.display().to_string()
    };
    let options = format!("lowerdir={},upperdir={},workdir={}", at("l"), at("u"), at("w"));
    let place = at("m");
    mount(Some("overlay"), place.as_str(), Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .unwrap();

    let node = Node::with_layers(short_folder(&place), &[&lower]);
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    tracing::subscriber::with_default(subscriber, || {
        for _ in 0..2 {
            let ended = node.run_to_end(ContainerOptions { remove: true, ..shell("cat /data/plain") });
            assert_eq!(ended.stdout, "text\n", "{}", ended.stderr);
        }
    });
    assert_eq!(answered(&node), "copy");
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let warnings: Vec<&str> =
        log.lines().filter(|line| line.contains("WARN") && line.contains("overlay")).collect();
    assert_eq!(warnings.len(), 1, "{log}");
    assert!(warnings[0].contains("get a copy") && warnings[0].contains("error="), "{log}");
    node.assert_empty();
    umount2(place.as_str(), MntFlags::MNT_DETACH).unwrap();
}

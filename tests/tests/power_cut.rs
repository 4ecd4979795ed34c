//! A power cut, at any moment of a pull, of one that moves a tag, of a removal, of a load: what is listed then is
//! whole, what a command had done when it returned stays done, and the next pull works.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use tests::support::extent::count;
use tests::support::node::json;
use tests::support::power::{Recording, RecordingDisk, write_sparse};
use tests::support::program::{self, LIMIT, tool};
use tests::support::random::Random;
use tests::support::tree;
use tests::{Image, Layer, Node, Output};

/// Bytes of the disk.
const SIZE: u64 = 64 << 20;
const NAME: &str = "registry.test/moving:latest";

/// The images that NAME stands for, one after the other: ids, and the root that a plain pull of each gave.
type Whole = BTreeMap<String, PathBuf>;

/// What happened to NAME meanwhile: nothing else may be seen during it, and only `after` when it is over.
struct Phase {
    what: &'static str,
    /// Moments of the recording.
    from: usize,
    to: usize,
    before: Option<String>,
    after: Option<String>,
}

#[test]
fn a_power_cut_leaves_whole_images_or_none() {
    in_own_mounts(|| {
        let node = Node::fresh();
        let mut random = Random::seeded();
        let folder = |name: &str| {
            let folder = node.dir().join(name);
            fs::create_dir(&folder).expect("the folder is ours");
            folder
        };
        let (recorded, mounted, memory) = (folder("recorded"), folder("mounted"), folder("memory"));
        // Replayed disks need not outlive anything.
        let _memory = Mounted::memory(&memory);

        let disk = RecordingDisk::start(&recorded, empty_disk(&memory.join("empty")));
        let (phases, whole) = {
            let _mounted = Mounted::mount(&disk.file(), &mounted);
            record(&node, &disk, &mounted, &mut random)
        };
        let recording = disk.finish();

        for (phase, moment) in moments(&recording, &phases, &mut random) {
            let over = moment == phase.to;
            let told = format!("{}, power cut at {moment} of {}..{}", phase.what, phase.from, phase.to);
            let file = memory.join("replayed");
            write_sparse(&file, &recording.cut(moment, &mut random)).expect("memory is left");
            let replayed = std::panic::catch_unwind(AssertUnwindSafe(|| {
                let _mounted = Mounted::mount(&file, &mounted);
                let found = check(&node, &mounted, &whole);
                assert!(found == phase.after || (!over && found == phase.before), "{NAME} is {found:?}");
                come_back(&node, &mounted, &whole);
            }));
            if let Err(panic) = replayed {
                eprintln!("{told}");
                std::panic::resume_unwind(panic);
            }
        }
    });
}

/// Does what is recorded, and what a plain pull gives beside it.
fn record(node: &Node, disk: &RecordingDisk, root: &Path, random: &mut Random) -> (Vec<Phase>, Whole) {
    let mut whole = Whole::new();
    let (mut phases, mut before) = (Vec::new(), None);
    let mut phase = |what, after: Option<String>, words: &[&str]| {
        let others = Others::start(root);
        let from = disk.now();
        let output = agent(node, root, words);
        let to = disk.now();
        drop(others);
        assert_eq!(output.code, 0, "{what}: {}", output.stderr);
        phases.push(Phase { what, from, to, before: before.clone(), after: after.clone() });
        before = after;
    };
    let common = some_files("common", 30, random);
    for (version, what) in [("one", "a pull"), ("two", "a pull that moves a tag")] {
        let image = Image::on("probe").layer(common.clone()).layer(some_files(version, 12, random));
        node.push("moving", &image.layer(Layer::new().file("version", version).whiteout("common/", "3")));
        let plain = node.dir().join(version);
        assert_eq!(agent(node, &plain, &["pull", "-q", NAME]).ok(), NAME);
        let id = agent(node, &plain, &["images", "-q", "--no-trunc"]).ok();
        whole.insert(id.clone(), plain);
        phase(what, Some(id), &["pull", "-q", NAME]);
    }
    phase("a removal", None, &["rmi", NAME]);
    let (last, plain) = whole.iter().find(|(_, plain)| plain.ends_with("two")).expect("it was pulled");
    let saved = node.dir().join("saved");
    let saved = saved.to_str().expect("it is plain");
    assert_eq!(agent(node, plain, &["save", "-o", saved, NAME]).ok(), "");
    phase("a load", Some(last.clone()), &["load", "-q", "-i", saved]);
    (phases, whole)
}

/// Moments to cut the power at: the end of each phase, when its command has returned, and some before, half of them
/// right after a flush.
fn moments<'a>(recording: &Recording, phases: &'a [Phase], random: &mut Random) -> Vec<(&'a Phase, usize)> {
    let mut moments = Vec::new();
    for phase in phases {
        let flushes = recording.flushes(phase.from, phase.to);
        assert!(!flushes.is_empty(), "{} flushed nothing", phase.what);
        for round in 0..count(4, 80) {
            let moment = match round % 2 {
                0 => phase.from as u64 + random.below((phase.to - phase.from) as u64),
                _ => flushes[usize::try_from(random.below(flushes.len() as u64)).expect("it fits")] as u64,
            };
            moments.push((phase, usize::try_from(moment).expect("it fits")));
        }
        moments.push((phase, phase.to));
    }
    moments
}

/// Asserts that all that is listed is whole and runs; returns the id that NAME stands for.
fn check(node: &Node, root: &Path, whole: &Whole) -> Option<String> {
    let rows = agent(node, root, &["images", "--no-trunc", "--format", "json"]).ok();
    let mut named = None;
    for row in rows.lines().map(json) {
        let id = row["ID"].as_str().expect("an image has an id").to_owned();
        assert_whole(root, &whole[&id]);
        let words = ["run", "--rm", "--pull", "never", "--network", "none", &id, "out", "well"];
        assert_eq!(agent(node, root, &words).ok(), "well");
        if row["Repository"] != "<none>" {
            assert_eq!(named.replace(id), None, "{rows}");
        }
    }
    named
}

/// What the next user does, and what must be true then.
fn come_back(node: &Node, root: &Path, whole: &Whole) {
    assert_eq!(agent(node, root, &["pull", "-q", NAME]).ok(), NAME);
    let found = check(node, root, whole).expect("it was just pulled");
    assert!(whole[&found].ends_with("two"), "an old image was pulled");
    let listed = agent(node, root, &["images", "-q"]).ok();
    let words: Vec<&str> = ["rmi", "-f"].into_iter().chain(listed.lines()).collect();
    let _ = agent(node, root, &words).ok();
    for folder in ["content/blobs/sha256", "layers/l", "images", "tmp", "locks"] {
        assert_eq!(names(&root.join(folder)), Vec::<String>::new(), "{folder}");
    }
    assert_eq!(names(&root.join("layers")), ["l"]);
}

/// Asserts that a root holds all that a plain pull gives.
fn assert_whole(root: &Path, plain: &Path) {
    for chain in names(&plain.join("layers")) {
        let (found, expected) = (root.join("layers").join(&chain), plain.join("layers").join(&chain));
        if chain == "l" {
            for link in names(&expected) {
                let read = |folder: &Path| fs::read_link(folder.join(&link)).expect("a layer has a link");
                assert_eq!(read(&found), read(&expected));
            }
        } else {
            let read = |folder: &Path| {
                let mut tree = tree::read(&folder.join("fs"), &[]).expect("a layer can be read");
                // When what no archive describes was made, the root and whiteouts, is not the image's affair.
                for (path, words) in &mut tree {
                    if path == Path::new("") || words.starts_with("character device 0:0") {
                        words.truncate(words.find(", changed").expect("it is told of everything"));
                    }
                }
                tree
            };
            tree::assert_equal(&read(&found), &read(&expected));
            assert_same_file(&found.join("layer.json"), &expected.join("layer.json"));
        }
    }
    for blob in names(&plain.join("content/blobs/sha256")) {
        let path = Path::new("content/blobs/sha256").join(blob);
        assert_same_file(&root.join(&path), &plain.join(&path));
    }
}

fn assert_same_file(found: &Path, expected: &Path) {
    let read = |path: &Path| fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(read(found) == read(expected), "{} is damaged", found.display());
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut names: Vec<_> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn agent(node: &Node, root: &Path, words: &[&str]) -> Output {
    program::run(node.command().env("AGENT_ROOT", root).args(words), b"", LIMIT)
}

fn some_files(folder: &str, count: usize, random: &mut Random) -> Layer {
    (0..count).fold(Layer::new().dir(folder), |layer, index| {
        let size = random.below(40_000);
        layer.file(&format!("{folder}/{index}"), random.bytes(usize::try_from(size).expect("it fits")))
    })
}

/// The content of a disk with an empty file system.
fn empty_disk(scratch: &Path) -> Vec<u8> {
    let path = scratch.to_str().expect("it is plain");
    File::create(scratch).and_then(|file| file.set_len(SIZE)).expect("memory is left");
    // Nothing of it is written later, behind everybody's back.
    let lazily = "lazy_itable_init=0,lazy_journal_init=0";
    let _ = tool(["mke2fs", "-q", "-t", "ext4", "-b", "4096", "-E", lazily, path]);
    fs::read(scratch).expect("it was just made")
}

/// A mounted disk, or memory, until dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn memory(at: &Path) -> Self {
        mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("root may");
        Mounted(at.to_owned())
    }

    fn mount(file: &Path, at: &Path) -> Self {
        let [file, path] = [file, at].map(|path| path.to_str().expect("it is plain"));
        // Without the crutch that lets a rename wait for data, which other file systems have not.
        let _ = tool(["mount", "-o", "loop,noauto_da_alloc", file, path]);
        Mounted(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // After a failure whoever still uses it does not matter.
        let flags = if thread::panicking() { MntFlags::MNT_DETACH } else { MntFlags::empty() };
        let unmounted = umount2(&self.0, flags);
        assert!(thread::panicking() || unmounted.is_ok(), "{}: {unmounted:?}", self.0.display());
    }
}

/// Other users of a disk, who sync their own files all the time: with them goes whatever names the journal holds,
/// whether or not the data of these is there.
struct Others {
    over: std::sync::Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Others {
    fn start(disk: &Path) -> Self {
        let over = std::sync::Arc::new(AtomicBool::new(false));
        let seen = std::sync::Arc::clone(&over);
        let mut file = File::create(disk.join("others")).expect("the disk is ours");
        let thread = thread::spawn(move || {
            while !seen.load(Ordering::Relaxed) {
                file.write_all(b"x").and_then(|()| file.sync_all()).expect("the disk is ours");
            }
        });
        Others { over, thread: Some(thread) }
    }
}

impl Drop for Others {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(thread::JoinHandle::join);
        assert!(thread::panicking() || matches!(ended, Some(Ok(()))));
    }
}

/// Does `work` where its mounts are nobody else's, and go with it however it ends.
fn in_own_mounts(work: impl FnOnce() + Send) {
    thread::scope(|scope| {
        let inside = || {
            unshare(CloneFlags::CLONE_NEWNS).expect("root may");
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("root may");
            work();
        };
        if let Err(panic) = scope.spawn(inside).join() {
            std::panic::resume_unwind(panic);
        }
    });
}

//! `agent cp` copies between a container and this machine by docker's rules, while the container runs and when it does
//! not, and whatever the container does meanwhile, never beyond the two places that were named.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use tests::support::extent;
use tests::support::program::{self, LIMIT};
use tests::support::terminal::Terminal;
use tests::{BASE, Node, Output, within};

/// A path as text.
fn text(path: &Path) -> &str {
    path.to_str().expect("the folders of tests have plain names")
}

/// Copies from or to the container `cc`; a path that begins with `@` is below the test's folder.
fn cp(node: &Node, words: &[&str]) -> Output {
    let words: Vec<String> = words
        .iter()
        .map(|word| match word.strip_prefix('@') {
            Some(path) => format!("{}/{path}", text(node.dir())),
            None => (*word).to_owned(),
        })
        .collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    node.agent(&[&["cp", "-q"], &words[..]].concat())
}

/// A container `cc` with some files, and some files here; then in the given state.
fn scene(driver: &str, running: bool) -> Node {
    let mut node = Node::new();
    node.pull(BASE);
    node.set("AGENT_ROOTFS_DRIVER", driver);
    let script = "mkdir -p /box/sub /other; echo file >/box/file; echo deep >/box/sub/deep; ln -s file /box/link; \
        ln -s /box /to-box; ln -s /box/file /to-file; ln -s /other/new /dangling; echo old >/other/old; echo done; \
        exec sleep 1000";
    node.detached(&["--name", "cc", "-v", "kept:/volume", BASE, "sh", "-c", script]);
    node.log_with("cc", "done");
    if !running {
        assert_eq!(node.agent(&["stop", "-t", "0", "cc"]).code, 0);
    }
    let here = node.dir().join("here");
    fs::create_dir_all(here.join("dir/sub")).expect("the folder is ours");
    fs::write(here.join("file"), "mine\n").expect("ours");
    fs::write(here.join("dir/sub/deep"), "mine too\n").expect("ours");
    symlink("file", here.join("link")).expect("ours");
    node
}

/// The content of a file of the container, by another way than `cp`.
fn inside(node: &Node, path: &str) -> String {
    let archive = node.dir().join("inside.tar");
    assert_eq!(node.agent(&["export", "-o", text(&archive), "cc"]).ok(), "");
    let output = program::run(Command::new("tar").args(["-xOf", text(&archive), path]), b"", LIMIT);
    if output.code == 0 { output.stdout } else { "absent".to_owned() }
}

fn check(driver: &str, running: bool) {
    let node = scene(driver, running);
    let node = &node;
    let here = |path: &str| fs::read_to_string(node.dir().join(path)).unwrap_or_else(|_| "absent".to_owned());
    let ok = |words: &[&str]| assert_eq!(cp(node, words).ok(), "", "{words:?}");
    let no = |words: &[&str], expected: &str| {
        let line = cp(node, words).refused(1);
        assert!(line.contains(expected), "{words:?}: {line}");
    };
    fs::create_dir_all(node.dir().join("out/there")).expect("ours");
    // A file to a new name, onto a file, into a folder.
    ok(&["cc:/box/file", "@out/new"]);
    assert_eq!(here("out/new"), "file\n");
    fs::write(node.dir().join("out/onto"), "before").expect("ours");
    ok(&["cc:box/file", "@out/onto"]);
    assert_eq!(here("out/onto"), "file\n");
    ok(&["cc:/box/file", "@out/there"]);
    assert_eq!(here("out/there/file"), "file\n");
    no(&["cc:/box/file", "@out/missing/"], "no such directory");
    no(&["cc:/box/file", "@out/missing/file"], "no such directory");
    // A folder to a new name, into a folder, onto a file; what is in it.
    ok(&["cc:/box", "@out/box"]);
    assert_eq!((here("out/box/file"), here("out/box/sub/deep")), ("file\n".into(), "deep\n".into()));
    ok(&["cc:/box", "@out/there"]);
    assert_eq!(here("out/there/box/sub/deep"), "deep\n");
    ok(&["cc:/box/.", "@out/there"]);
    assert_eq!(here("out/there/sub/deep"), "deep\n");
    no(&["cc:/box", "@out/new"], "cannot copy a directory to a file");
    // Once more onto itself; but nothing in the place of what is of another kind.
    ok(&["cc:/box", "@out/there"]);
    fs::create_dir_all(node.dir().join("out/kinds/file")).expect("ours");
    no(&["cc:/box/.", "@out/kinds"], "cannot overwrite a directory with a non-directory");
    fs::remove_dir(node.dir().join("out/kinds/file")).expect("ours");
    fs::remove_dir_all(node.dir().join("out/kinds/sub")).unwrap_or_default();
    fs::write(node.dir().join("out/kinds/sub"), "").expect("ours");
    no(&["cc:/box/.", "@out/kinds"], "cannot overwrite a non-directory with a directory");
    // Links: copied as such, or what they lead to.
    ok(&["cc:/to-file", "@out/link"]);
    let link = fs::read_link(node.dir().join("out/link")).expect("a link");
    assert_eq!(link, Path::new("/box/file"));
    ok(&["-L", "cc:/to-file", "@out/followed"]);
    assert_eq!(here("out/followed"), "file\n");
    ok(&["cc:/to-box/", "@out/through"]);
    assert_eq!(here("out/through/sub/deep"), "deep\n");

    // The other way.
    ok(&["@here/file", "cc:/new"]);
    assert_eq!(inside(node, "new"), "mine\n");
    ok(&["@here/file", "cc:/to-box"]);
    assert_eq!(inside(node, "box/file"), "mine\n");
    ok(&["@here/file", "cc:/dangling"]);
    assert_eq!(inside(node, "other/new"), "mine\n");
    ok(&["@here/dir", "cc:/box"]);
    assert_eq!(inside(node, "box/dir/sub/deep"), "mine too\n");
    ok(&["@here/dir/.", "cc:/other"]);
    assert_eq!(inside(node, "other/sub/deep"), "mine too\n");
    ok(&["@here/dir", "cc:/fresh"]);
    assert_eq!(inside(node, "fresh/sub/deep"), "mine too\n");
    ok(&["@here/link", "cc:/other/"]);
    let listed = node.agent(&["diff", "cc"]).ok();
    assert!(listed.lines().any(|line| line == "A /other/link"), "{listed}");
    ok(&["-L", "@here/link", "cc:/other/real"]);
    assert_eq!(inside(node, "other/real"), "mine\n");
    no(&["@here/file", "cc:/missing/"], "no such directory");
    no(&["@here/dir", "cc:/other/old"], "cannot copy a directory to a file");
    no(&["@here/missing", "cc:/x"], "here/missing: No such file or directory");
    no(&["cc:/missing", "@out/x"], "cc:/missing: No such file or directory");
    no(&["missing:/x", "@out/x"], "no such container: missing");
    // A mount is where it is for the container.
    ok(&["@here/file", "cc:/volume"]);
    let volume = node.root().join("volumes/kept/data/file");
    assert_eq!(fs::read_to_string(volume).expect("in the volume"), "mine\n");
    ok(&["cc:/volume/file", "@out/from-volume"]);
    assert_eq!(here("out/from-volume"), "mine\n");
    assert_eq!(inside(node, "volume/file"), "absent");
    if !running {
        node.assert_nothing_runs();
    }
}

#[test]
fn files_are_copied_while_it_runs() {
    check("overlay", true);
}

#[test]
fn files_are_copied_when_it_has_ended() {
    check("overlay", false);
}

#[test]
fn files_are_copied_where_layers_are_not_mounted() {
    for running in [true, false] {
        check("copy", running);
    }
}

#[test]
fn archives_come_and_go_by_the_standard_streams() {
    let node = scene("overlay", true);
    let agent = tests::support::node::binary("agent");
    let shell = |line: &str| {
        let mut command = Command::new("bash");
        node.environment(&mut command);
        let line = format!("cd {}; {line}", text(node.dir()));
        command.arg("-euo").arg("pipefail").arg("-c").arg(line).env("AGENT", &agent);
        program::run(&mut command, b"", LIMIT)
    };
    assert_eq!(
        shell("$AGENT cp cc:/box - | tar -t | sort").ok(),
        "box/\nbox/file\nbox/link\nbox/sub/\nbox/sub/deep"
    );
    assert_eq!(shell("$AGENT cp cc:/box/. - | tar -t | sort").ok(), "./\nfile\nlink\nsub/\nsub/deep");
    assert_eq!(shell("$AGENT cp cc:/box/file - | tar -xO").ok(), "file");
    // Owners come with the stream, and links on the way are the container's.
    let stream =
        "tar -c --owner=7 --group=8 --transform='s,^here,to-box,' here/file here/dir | $AGENT cp - cc:/";
    assert_eq!(shell(stream).ok(), "");
    let stat = node
        .agent(&["exec", "cc", "stat", "-c", "%u:%g %F", "/box/file", "/to-box", "/box/dir/sub/deep"])
        .ok();
    assert_eq!(stat, "7:8 regular file\n0:0 symbolic link\n7:8 regular file");
    let refused = shell("tar -c here | $AGENT cp - cc:/box/link").refused(1);
    assert!(refused.contains("cc:/box/link: it must be a directory"), "{refused}");
    let refused = shell("echo nonsense, and a whole block of it | $AGENT cp - cc:/box").refused(1);
    assert!(refused.contains("archive is damaged"), "{refused}");
    // Nobody reads on.
    let cut = shell("set +o pipefail; $AGENT cp cc:/usr - | head -c 10 | wc -c");
    assert_eq!((cut.ok().as_str(), shell("$AGENT cp -q cc:/box/file @ 2>&1").code), ("10", 0));
    let mut command = node.command();
    let (code, shown) = Terminal::start(command.args(["cp", "cc:/box", "-"]), 24, 80).finish();
    assert!(code == 1 && shown.contains("not written to a terminal"), "{shown}");
}

#[test]
fn owners_and_rights_are_kept_only_when_asked_for() {
    let node = scene("overlay", true);
    let make = "cp /bin/true /box/setuid; chown 7:8 /box/setuid; chmod 6755 /box/setuid; mknod /box/null c 1 3; mkfifo /box/fifo; \
        touch -d @1.5 /box/file";
    let _ = node.agent(&["exec", "cc", "sh", "-c", make]).ok();
    let stat = |path: &str| fs::symlink_metadata(node.dir().join(path)).expect("it was copied");
    assert_eq!(cp(&node, &["cc:/box/setuid", "@plain"]).ok(), "");
    let plain = stat("plain");
    assert_eq!((plain.uid(), plain.gid(), plain.mode() & 0o7777), (0, 0, 0o755));
    assert_eq!(cp(&node, &["-a", "cc:/box/setuid", "@kept"]).ok(), "");
    let kept = stat("kept");
    assert_eq!((kept.uid(), kept.gid(), kept.mode() & 0o7777), (7, 8, 0o6755));
    // A device is nothing to have by accident.
    let output = cp(&node, &["cc:/box", "@box"]);
    assert!(output.code == 0 && output.stderr.contains("box/null\" is a device"), "{output:?}");
    assert!(!node.dir().join("box/null").exists() && stat("box/fifo").file_type().is_fifo());
    assert_eq!(cp(&node, &["-a", "cc:/box", "@whole"]).ok(), "");
    assert!(stat("whole/null").file_type().is_char_device() && stat("whole/fifo").file_type().is_fifo());
    let time = stat("whole/file");
    assert_eq!((time.mtime(), time.mtime_nsec()), (1, 500_000_000));
    // Into the container alike.
    let mine = node.dir().join("here/file");
    fs::set_permissions(&mine, fs::Permissions::from_mode(0o4711)).expect("ours");
    std::os::unix::fs::chown(&mine, Some(7), Some(8)).expect("root may");
    fs::set_permissions(&mine, fs::Permissions::from_mode(0o4711)).expect("ours");
    assert_eq!(cp(&node, &["@here/file", "cc:/plain"]).ok(), "");
    assert_eq!(cp(&node, &["-a", "@here/file", "cc:/kept"]).ok(), "");
    let stat = node.agent(&["exec", "cc", "stat", "-c", "%u:%g %a", "/plain", "/kept"]).ok();
    assert_eq!(stat, "0:0 711\n7:8 4711");
    // What was done is told, unless not.
    let told = node.agent(&["cp", text(&mine), "cc:/told"]);
    assert_eq!((told.code, told.stderr.as_str()), (0, "Successfully copied 5B to cc:/told\n"));
}

#[test]
fn what_is_read_only_is_not_written() {
    let node = Node::new();
    node.pull(BASE);
    fs::write(node.dir().join("file"), "x").expect("ours");
    node.detached(&[
        "--name",
        "cc",
        "--read-only",
        "-v",
        "kept:/ro:ro",
        "-v",
        "other:/rw",
        BASE,
        "sleep",
        "1000",
    ]);
    for _ in 0..2 {
        for path in ["cc:/new", "cc:/ro/new"] {
            let refused = cp(&node, &["@file", path]).refused(1);
            assert!(refused.contains("Read-only file system"), "{refused}");
        }
        assert_eq!(cp(&node, &["@file", "cc:/rw"]).ok(), "");
        let _ = node.agent(&["stop", "-t", "0", "cc"]).ok();
    }
}

#[test]
fn arguments_that_make_no_sense_are_refused() {
    let node = Node::offline();
    for (words, expected) in [
        (["a", "b"], "CONTAINER:PATH"),
        (["a:/x", "b:/x"], "copying between containers is not supported"),
        (["", "cc:/x"], "the source is empty"),
        (["cc:", "x"], "the source is empty"),
        (["x", "cc:"], "the destination is empty"),
    ] {
        let refused = node.agent(&["cp", words[0], words[1]]).refused(1);
        assert!(refused.contains(expected), "{words:?}: {refused}");
    }
}

#[test]
fn a_copy_that_is_killed_leaves_nothing_mounted_and_nothing_locked() {
    let node = scene("overlay", false);
    let id = node.inspect("cc")["Id"].as_str().expect("an id").to_owned();
    // It waits for an archive that does not come.
    let mut copying = node.start(&["cp", "-", "cc:/box"]);
    copying.write("x");
    let run_dir = node.run_root().join("containers").join(&id);
    within(LIMIT, "the container to be held", || run_dir.join("lock").exists().then_some(()));
    copying.signal(nix::sys::signal::Signal::SIGKILL);
    drop(copying);
    assert_eq!(cp(&node, &["@here/file", "cc:/after"]).ok(), "");
    assert_eq!(inside(&node, "after"), "mine\n");
    node.assert_nothing_runs();
    assert!(!run_dir.exists());
}

/// Exchanges folders for links to places of the host, as fast as a shell can, while files are copied over them.
#[test]
fn links_that_a_container_exchanges_meanwhile_lead_nowhere_outside() {
    let node = Node::new();
    node.pull(BASE);
    let victim: PathBuf = node.dir().join("victim");
    fs::create_dir_all(victim.join("sub")).expect("ours");
    fs::write(victim.join("secret"), "the host's own").expect("ours");
    fs::write(victim.join("sub/secret"), "the host's own").expect("ours");
    let script = format!(
        "mkdir -p /data/dir/sub; echo fine >/data/dir/secret; echo fine >/data/dir/sub/secret; ln -s {0} /data/link; \
         echo ready; cd /data; while :; do mv dir real; mv link dir; mv dir link; mv real dir; \
         mv dir/sub dir/real; ln -s {0}/sub dir/sub; rm dir/sub; mv dir/real dir/sub; done",
        victim.display()
    );
    node.detached(&["--name", "cc", BASE, "sh", "-c", &script]);
    node.log_with("cc", "ready");
    let here = node.dir().join("here");
    fs::create_dir_all(here.join("sub")).expect("ours");
    for file in ["new", "secret", "sub/new", "sub/secret"] {
        fs::write(here.join(file), "written by cp").expect("ours");
    }
    let archive = node.dir().join("here.tar");
    let _ = program::tool(["tar", "-cf", text(&archive), "-C", text(&here), "."]);
    let archive = String::from_utf8_lossy(&fs::read(&archive).expect("made")).into_owned();
    let mut came = 0;
    for round in 0..extent::count(25, 300) {
        // What comes of each depends on the moment: all that counts is where it does not lead.
        let out = format!("out-{round}");
        fs::create_dir(node.dir().join(&out)).expect("ours");
        for from in ["cc:/data/dir/.", "cc:/data/dir/secret", "cc:/data/dir/sub/secret"] {
            came += usize::from(cp(&node, &["-L", from, &format!("@{out}")]).code == 0);
        }
        cp(&node, &["@here/.", "cc:/data/dir"]);
        cp(&node, &["@here/new", "cc:/data/dir/sub/new"]);
        node.agent_fed(&["cp", "-", "cc:/data/dir"], &archive);
        let found =
            Command::new("grep").args(["-rl", "the host's own", text(&node.dir().join(&out))]).output();
        assert!(found.expect("grep").stdout.is_empty(), "the host's file came out of the container");
        for (path, names) in [("", ["secret", "sub"].as_slice()), ("sub", &["secret"])] {
            let mut there: Vec<String> = fs::read_dir(victim.join(path))
                .expect("ours")
                .map(|entry| entry.expect("ours").file_name().to_string_lossy().into_owned())
                .collect();
            there.sort();
            assert_eq!(there, names, "written beyond the container");
        }
        assert_eq!(fs::read_to_string(victim.join("secret")).expect("ours"), "the host's own");
        assert_eq!(fs::read_to_string(victim.join("sub/secret")).expect("ours"), "the host's own");
    }
    assert!(came > 0, "none was ever copied: it was no race");
}

/// What a container has is not followed where it is put.
#[test]
fn links_of_a_container_are_not_followed_here() {
    let node = scene("overlay", true);
    let victim = node.dir().join("victim");
    fs::create_dir(&victim).expect("ours");
    let make = format!(
        "mkdir /one /two /two/sub; ln -s {} /one/sub; echo x >/two/sub/file; ln /two/sub/file /two/again",
        victim.display()
    );
    let _ = node.agent(&["exec", "cc", "sh", "-c", &make]).ok();
    fs::create_dir(node.dir().join("out")).expect("ours");
    assert_eq!(cp(&node, &["cc:/one/.", "@out"]).ok(), "");
    let refused = cp(&node, &["cc:/two/.", "@out"]).refused(1);
    assert!(refused.contains("cannot overwrite a non-directory with a directory"), "{refused}");
    assert_eq!(fs::read_dir(&victim).expect("ours").count(), 0);
    // Nor are the kernel's files taken for the container's, which hold nothing by themselves; and its root is whole
    // without them.
    for path in ["cc:/proc", "cc:/proc/version", "cc:/sys/kernel"] {
        let refused = cp(&node, &[path, "@out/kernel"]).refused(1);
        assert!(refused.contains("of a file system of the kernel's"), "{refused}");
    }
    let refused = cp(&node, &["-L", "cc:/proc/1/root/etc/passwd", "@out/passwd"]).refused(1);
    assert!(refused.contains("Too many levels of symbolic links"), "{refused}");
    assert_eq!(cp(&node, &["cc:/", "@root"]).code, 0);
    assert!(node.dir().join("root/etc/passwd").is_file());
    assert_eq!(fs::read_dir(node.dir().join("root/proc")).expect("an empty place").count(), 0);
}

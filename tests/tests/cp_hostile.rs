//! `agent cp` where something is in its way: devices, mounts, another copy. It refuses, and changes none of them.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use tests::support::program::{self, LIMIT};
use tests::{BASE, Node};

/// A path as text.
fn text(path: &Path) -> &str {
    path.to_str().expect("the folders of tests have plain names")
}

/// A container `cc` that has made its files.
fn scene(options: &[&str], script: &str) -> Node {
    let node = Node::new();
    node.pull(BASE);
    fs::write(node.dir().join("file"), "mine\n").expect("the folder is ours");
    let script = format!("{script}; echo done; exec sleep 1000");
    let words = [&["--name", "cc"], options, &[BASE, "sh", "-c", &script]].concat();
    node.detached(&words);
    node.log_with("cc", "done");
    node
}

#[test]
fn what_is_neither_file_nor_folder_is_not_replaced() {
    let node = scene(&[], "mkfifo /fifo");
    let (device, fifo) = (node.dir().join("null"), node.dir().join("fifo"));
    let _ = program::tool(["mknod", text(&device), "c", "1", "3"]);
    let _ = program::tool(["mkfifo", text(&fifo)]);
    let file = node.dir().join("file");
    for (from, to) in [
        ("cc:/etc/debian_version", text(&device)),
        ("cc:/etc/debian_version", text(&fifo)),
        (text(&file), "cc:/dev/null"),
        (text(&file), "cc:/fifo"),
    ] {
        let refused = node.agent(&["cp", "-q", from, to]).refused(1);
        assert!(refused.contains("must be a directory or a regular file"), "{to}: {refused}");
    }
    let kind = |path: &Path| fs::symlink_metadata(path).expect("it is there").file_type();
    assert!(kind(&device).is_char_device() && kind(&fifo).is_fifo());
    let _ = node.agent(&["exec", "cc", "sh", "-c", "test -c /dev/null && test -p /fifo"]).ok();
}

#[test]
fn a_mounted_file_is_not_taken_away() {
    let dir = tempfile::tempdir().expect("a folder");
    let mounted = dir.path().join("mounted");
    fs::write(&mounted, "the host's\n").expect("ours");
    let (free, fixed) = (format!("{}:/free", text(&mounted)), format!("{}:/fixed:ro", text(&mounted)));
    let node = scene(&["-v", &free, "-v", &fixed], "mkdir /dir");
    let file = node.dir().join("file");
    for running in [true, false] {
        for to in ["cc:/free", "cc:/fixed"] {
            let refused = node.agent(&["cp", "-q", text(&file), to]).refused(1);
            assert!(refused.contains("Device or resource busy"), "{to}: {refused}");
        }
        if running {
            let seen = node.agent(&["exec", "cc", "cat", "/free", "/fixed"]).ok();
            assert_eq!(seen, "the host's\nthe host's");
            let _ = node.agent(&["stop", "-t", "0", "cc"]).ok();
        }
    }
    assert_eq!(fs::read_to_string(&mounted).expect("ours"), "the host's\n");
}

#[test]
fn two_copies_that_wait_for_each_other_come_to_an_end() {
    let node = scene(&[], "mkdir /dir");
    let _ = node.agent(&["stop", "-t", "0", "cc"]).ok();
    let mut command = Command::new("bash");
    node.environment(&mut command);
    // Far more than fits into the pipe, so that the first has the container until the second reads.
    let line = "set -o pipefail; \"$AGENT\" cp cc:/usr - | \"$AGENT\" cp - cc:/dir";
    let agent = tests::support::node::binary("agent");
    let output = program::run(command.args(["-c", line]).env("AGENT", agent), b"", LIMIT);
    assert!(
        output.code != 0 && output.stderr.contains("container cc is being copied to or from"),
        "{output:?}"
    );
    // Nobody has it any more.
    let file = node.dir().join("file");
    assert_eq!(node.agent(&["cp", "-q", text(&file), "cc:/dir"]).ok(), "");
    node.assert_nothing_runs();
}

#[test]
fn links_to_what_is_left_out_are_left_out() {
    let script = "mkdir /box; mknod /box/a c 1 3; ln /box/a /box/b; echo x >/box/c; ln /box/c /box/d";
    let node = scene(&[], script);
    let out = node.dir().join("out");
    fs::create_dir(&out).expect("ours");
    // In the place of the device there is something of the user's, which is not to get another name.
    fs::write(out.join("a"), "mine\n").expect("ours");
    let output = node.agent(&["cp", "-q", "cc:/box/.", text(&out)]);
    assert!(output.code == 0 && output.stderr.matches("is a device").count() == 2, "{output:?}");
    let names = |name: &str| fs::metadata(out.join(name)).map(|stat| (stat.ino(), stat.nlink())).ok();
    assert!(names("b").is_none() && names("a").is_some_and(|(_, count)| count == 1));
    assert!(names("c") == names("d") && names("c").is_some_and(|(_, count)| count == 2));
}

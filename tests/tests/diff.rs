//! `agent diff` lists what a container changed of its image, while it runs and after, however its root came to be.

use serde_json::json;
use tests::support::node::json as parse;
use tests::{BASE, Node, PROBE};

/// Changes of every kind, and what is none.
const SCRIPT: &str = "echo changed >/etc/debian_version; rm /bin/ls; mkdir /new; echo x >/new/file; rm -rf /usr/share/doc; \
    chmod 700 /opt; mkdir -p /var/tmp/a/b; rm -r /var/tmp/a; echo 1.2.3.4 x >>/etc/hosts; touch -a /etc/passwd; ln /bin/true /true; \
    echo same >/etc/motd.new; rm /etc/motd.new; rm -rf /srv; echo x >/srv; rm /etc/shells; mkdir /etc/shells; \
    rm -rf /usr/share/base-files; mkdir /usr/share/base-files; echo new >/usr/share/base-files/profile; \
    mknod /dev/x c 1 3; echo x >/volume/x; echo x >/memory/x; ln -s target /link; printf 'a\\nb' >'/new/two\nlines'";

const EXPECTED: &[&str] = &[
    "C /etc",
    "C /etc/debian_version",
    "C /etc/shells",
    "A /link",
    "A /new",
    "A /new/file",
    "A /new/two\\nlines",
    "C /opt",
    "C /srv",
    "A /true",
    "C /usr",
    "C /usr/bin",
    "D /usr/bin/ls",
    "C /usr/share",
    "C /usr/share/base-files",
    "D /usr/share/doc",
];

/// The lines of a list, but for files of a folder that Debian may fill otherwise tomorrow.
fn lines(text: &str) -> Vec<&str> {
    text.lines().filter(|line| !line.contains("/base-files/")).collect()
}

fn check(driver: &str) {
    let mut node = Node::new();
    node.pull(BASE);
    node.set("AGENT_ROOTFS_DRIVER", driver);
    let script = SCRIPT.replace("two\nlines", "two\\nlines");
    let script = format!("{script}; echo done; exec sleep 1000");
    let options = ["--name", "changing", "-v", "kept:/volume", "--tmpfs", "/memory"];
    node.detached(&[&options[..], &[BASE, "sh", "-c", &script]].concat());
    node.log_with("changing", "done");

    let running = node.agent(&["diff", "changing"]).ok();
    assert_eq!(lines(&running), EXPECTED, "{running}");
    // What is new in a folder in place of another is told, and what went with that one.
    assert!(running.contains("C /usr/share/base-files/profile\n"), "{running}");
    assert!(running.contains("D /usr/share/base-files/"), "{running}");
    assert_eq!(node.agent(&["stop", "-t", "0", "changing"]).code, 0);
    assert_eq!(node.agent(&["diff", "changing"]).ok(), running);

    let all = parse(&node.agent(&["diff", "--format", "json", "changing"]).ok());
    assert_eq!(all["added"], json!(["/link", "/new", "/new/file", "/new/two\\nlines", "/true"]));
}

#[test]
fn changes_of_an_overlay_are_listed() {
    check("overlay");
}

#[test]
fn changes_of_a_copy_are_listed() {
    check("copy");
}

#[test]
fn a_container_that_changed_nothing_has_an_empty_list() {
    let node = Node::new();
    let _ = node.agent(&["run", "--name", "quiet", PROBE, "report"]).ok();
    assert_eq!(node.agent(&["diff", "quiet"]).ok(), "");
    let refused = node.agent(&["diff", "missing"]).refused(1);
    assert!(refused.contains("no such container: missing"), "{refused}");
}

//! What a container writes: to itself, to folders of the host, to volumes, to memory.

use std::fs;

use tests::{BASE, Node};

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
fn changes_stay_in_their_container() {
    let node = Node::new();
    let write = "echo changed >/etc/debian_version; rm /bin/ls; mkdir /new; cat /etc/debian_version";
    assert_eq!(node.agent(&["run", "--name", "one", BASE, "sh", "-c", write]).ok(), "changed");
    let look = "test ! -e /new && test -e /bin/ls && cat /etc/debian_version";
    let version = node.agent(&["run", "--rm", BASE, "sh", "-c", look]).ok();
    assert!(version.starts_with("12."), "{version}");
}

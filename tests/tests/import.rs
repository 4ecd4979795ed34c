//! `agent import`: a root file system becomes an image.

use std::fs;
use std::path::Path;

use serde_json::json;
use tests::support::program::{LIMIT, run, tool};
use tests::{Node, PROBE};

/// An archive of the payload's root file system, from the layer of a node that has pulled it.
fn rootfs(node: &Node) -> String {
    let layers = fs::read_dir(node.root().join("layers")).expect("it is there").flatten();
    let layer = layers.map(|entry| entry.path().join("fs")).find(|path| path.join("probe").exists());
    let file = node.dir().join("rootfs.tar").to_string_lossy().into_owned();
    drop(tool(["tar", "-C", &layer.expect("it has one").to_string_lossy(), "-cf", &file, "."]));
    file
}

#[test]
fn a_root_file_system_becomes_an_image() {
    let node = Node::new();
    let file = rootfs(&node);
    let machine = Node::offline();
    let name = "registry.test/imported:1";
    let words = [
        &["import", "-m", "by hand", "-c", r#"ENTRYPOINT ["/probe"]"#, "-c", r#"CMD ["out", "default"]"#][..],
        &["--change", "ENV A=1 B='2 3'", "-c", "EXPOSE 80 53/udp", "-c", "LABEL k=v", "-c", "USER 7:8"],
        &["-c", "VOLUME /data", "-c", "WORKDIR /tmp/x", "-c", "STOPSIGNAL SIGINT", &file, name],
    ];
    let output = machine.agent(&words.concat());
    assert_eq!(output.stderr, "");
    let id = output.ok();
    assert!(id.starts_with("sha256:") && id.len() == 71, "{id}");
    let told = machine.inspect(name);
    assert_eq!((told["Id"].as_str(), told["RepoTags"][0].as_str()), (Some(id.as_str()), Some(name)));
    assert_eq!((told["Os"].as_str(), told["Architecture"].as_str()), (Some("linux"), Some("amd64")));
    let config = &told["Config"];
    for (key, expected) in [
        ("Entrypoint", json!(["/probe"])),
        ("Cmd", json!(["out", "default"])),
        ("Env", json!(["A=1", "B=2 3"])),
        ("ExposedPorts", json!({"80/tcp": {}, "53/udp": {}})),
        ("Labels", json!({"k": "v"})),
        ("User", json!("7:8")),
        ("Volumes", json!({"/data": {}})),
        ("WorkingDir", json!("/tmp/x")),
        ("StopSignal", json!("SIGINT")),
    ] {
        assert_eq!(config[key], expected, "{key}: {config}");
    }
    assert_eq!(machine.agent(&["run", "--rm", "--pull", "never", name]).ok(), "default");
    let report = machine.agent(&["run", "--rm", "--pull", "never", name, "report"]).ok();
    let report: serde_json::Value = serde_json::from_str(&report).expect("a report");
    assert_eq!((report["uid"].as_u64(), report["env"]["B"].as_str()), (Some(7), Some("2 3")), "{report}");
    // It goes on like any other.
    let saved = machine.dir().join("saved.tar").to_string_lossy().into_owned();
    let _ = machine.agent(&["save", "-o", &saved, name]).ok();
    let raw = tool(["skopeo", "inspect", "--config", &format!("oci-archive:{saved}")]);
    let raw: serde_json::Value = serde_json::from_str(&raw).expect("a configuration");
    assert_eq!(raw["history"][0]["comment"], "by hand");
    assert_eq!(raw["rootfs"]["diff_ids"].as_array().map(Vec::len), Some(1));
}

#[test]
fn it_comes_plain_or_packed_and_from_a_pipe() {
    let node = Node::new();
    let file = rootfs(&node);
    drop(tool(["gzip", "-k", &file]));
    drop(tool(["zstd", "-q", &file]));
    drop(tool(["bash", "-c", &format!("xz -0 < {file} > {file}.xz")]));
    let machine = Node::offline();
    let import = |source: &str, words: &[&str]| {
        let mut command = std::process::Command::new("bash");
        machine.environment(&mut command);
        command.env("AGENT", machine.command().get_program());
        let words = words.join(" ");
        run(command.args(["-c", &format!("$AGENT import {words} < {source}")]), b"", LIMIT)
    };
    let probe = ["-c", r#"'ENTRYPOINT ["/probe"]'"#];
    for packing in ["", ".gz", ".zst"] {
        let id = import(&format!("{file}{packing}"), &[&probe[..], &["-"]].concat()).ok();
        let ran = machine.agent(&["run", "--rm", "--pull", "never", &id, "out", "well"]).ok();
        assert_eq!(ran, "well", "{packing}");
        // Whatever it was packed by, it is the same layer.
        let layers = fs::read_dir(machine.root().join("layers")).expect("it is there").count();
        assert_eq!(layers, 2);
    }
    let images = machine.agent(&["images"]).ok();
    assert_eq!(images.lines().filter(|line| line.contains("<none>")).count(), 3, "{images}");
    let line = import(&format!("{file}.xz"), &["-"]).refused(1);
    assert!(line.contains("compressed with xz"), "{line}");
    let line = import("/dev/null", &["-"]).refused(1);
    assert!(line.contains("empty"), "{line}");
    let line = import("/etc/passwd", &["-", "x"]).refused(1);
    assert!(line.contains("archive is damaged"), "{line}");
    assert_eq!(machine.agent(&["images", "-q"]).ok().lines().count(), 3);

    let line = machine.agent(&["import", "https://registry.test/x.tar"]).refused(1);
    assert!(line.contains("curl"), "{line}");
    let line = machine.agent(&["import", "/etc"]).refused(1);
    assert!(line.contains("folder"), "{line}");
    let line = machine.agent(&["import", "-c", "RUN x", &file]).refused(1);
    assert!(line.contains("RUN"), "{line}");
    let pinned = format!("x@sha256:{}", "0".repeat(64));
    let line = machine.agent(&["import", &file, &pinned]).refused(1);
    assert!(line.contains("digest"), "{line}");
    let arm = machine.agent(&["import", "--platform", "linux/arm64/v8", &file, "arm"]).ok();
    let told = machine.inspect(&arm);
    assert_eq!((told["Architecture"].as_str(), told["Variant"].as_str()), (Some("arm64"), Some("v8")));
    assert!(Path::new(&file).exists() && node.agent(&["images", "-q", PROBE]).ok().lines().count() == 1);
}

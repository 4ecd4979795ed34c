//! What images are called, listed and told by: `agent tag`, `images`, `history`, `inspect`, `rmi`, and the same below
//! `agent image`.

use serde_json::{Value, json};
use tests::support::node::json;
use tests::{Image, Layer, Node, PROBE};

const OTHER: &str = "registry.test/other:1";

#[test]
fn an_image_has_every_name_it_is_given() {
    let node = Node::new();
    let id = node.agent(&["images", "-q"]).ok();
    assert_eq!(node.agent(&["tag", PROBE, OTHER]).ok(), "");
    assert_eq!(node.agent(&["image", "tag", &id, "short"]).ok(), "");
    assert_eq!(node.agent(&["images", "-q"]).ok(), id, "it is one image");
    let told = node.inspect(OTHER);
    assert_eq!(told["RepoTags"], json!(["short:latest", OTHER, PROBE]));
    // No registry knows the names given here.
    let digests = told["RepoDigests"].as_array().expect("a list");
    assert!(
        digests.len() == 1
            && digests[0].as_str().is_some_and(|name| name.starts_with("registry.test/probe@sha256:")),
        "{digests:?}"
    );
    let named = node.agent(&["images", "--digests", "--format", "{{.Repository}}:{{.Tag}} {{.Digest}}"]).ok();
    assert!(
        named.contains("short:latest <none>\n") && named.contains(&format!("{PROBE} sha256:")),
        "{named}"
    );
    assert_eq!(node.agent(&["run", "--rm", "--pull", "never", "short", "out", "x"]).ok(), "x");

    let removed = node.agent(&["rmi", PROBE, OTHER]).ok();
    let [first, digest, second] = removed.lines().collect::<Vec<_>>()[..] else { panic!("{removed}") };
    assert_eq!((first, second), (&*format!("Untagged: {PROBE}"), &*format!("Untagged: {OTHER}")));
    assert!(digest.starts_with("Untagged: registry.test/probe@sha256:"), "{removed}");
    let removed = node.agent(&["image", "rm", "short"]).ok();
    assert!(removed.starts_with("Untagged: short:latest\nDeleted: sha256:"), "{removed}");
    assert_eq!(removed.lines().count(), 3, "the image and its layer: {removed}");
}

#[test]
fn names_that_cannot_be_given_are_refused() {
    let node = Node::new();
    let pinned = format!("registry.test/x@sha256:{}", "0".repeat(64));
    for (words, expected) in [
        (["tag", PROBE, &pinned], "@"),
        (["tag", PROBE, "UPPER"], "lower case"),
        (["tag", "registry.test/none", "x"], "no such image: registry.test/none"),
        (["tag", "0000000", "x"], "no such image: 0000000"),
    ] {
        let line = node.agent(&words).refused(1);
        assert!(line.contains(expected), "{line}");
    }
    let several = node.agent(&["rmi", "registry.test/none", PROBE, "0000000"]);
    assert_eq!((several.code, several.stderr.lines().count()), (1, 2), "{several:?}");
    assert_eq!(node.agent(&["images", "-q"]).ok(), "", "the one between them went");
}

#[test]
fn an_image_that_loses_its_name_dangles() {
    let node = Node::new();
    let first = node.agent(&["images", "-q", "--no-trunc"]).ok();
    let other = node.push_and_pull("other", &Image::on("probe").set("Labels", json!({"tier": "front"})));
    assert_eq!(node.agent(&["tag", &other, PROBE]).ok(), "");
    let line = json(&node.agent(&["images", "-f", "dangling=true", "--no-trunc", "--format", "json"]).ok());
    assert_eq!(
        (&line["Repository"], &line["Tag"], &line["ID"]),
        (&json!("<none>"), &json!("<none>"), &json!(first))
    );
    assert_eq!(node.agent(&["run", "--rm", &first, "out", "by id"]).ok(), "by id");
    // A name gives it back, and takes the place of none.
    assert_eq!(node.agent(&["tag", &first, "again"]).ok(), "");
    assert_eq!(node.agent(&["images", "-q", "-f", "dangling=true"]).ok(), "");
    assert_eq!(node.agent(&["images", "--format", "{{.Repository}}"]).ok().lines().count(), 3);
}

#[test]
fn filters_pick_images() {
    let node = Node::new();
    let image = |created: &str, tier: &str| {
        Image::on("probe").tell("created", json!(created)).set("Labels", json!({"tier": tier, "all": ""}))
    };
    let old = node.push_and_pull("a/old", &image("2020-01-01T00:00:00Z", "back"));
    let new = node.push_and_pull("a/new", &image("2022-01-01T00:00:00Z", "front"));
    let check = |filters: &[&str], expected: &[&str]| {
        let mut words = vec!["images", "--format", "{{.Repository}}:{{.Tag}}"];
        words.extend(filters);
        assert_eq!(node.agent(&words).ok().lines().collect::<Vec<_>>(), expected, "{filters:?}");
    };
    check(&[], &[&new, &old, PROBE]);
    check(&["-a"], &[&new, &old, PROBE]);
    check(&["-f", "label=tier=front"], &[&new]);
    check(&["-f", "label=all", "-f", "label=tier=back"], &[&old]);
    check(&["-f", "label!=all"], &[PROBE]);
    check(&["-f", "before=registry.test/a/new"], &[&old, PROBE]);
    check(&["-f", &format!("since={old}")], &[&new]);
    check(&["-f", "until=2021-01-01"], &[&old, PROBE]);
    check(&["-f", "reference=registry.test/a/*"], &[&new, &old]);
    check(&["-f", "reference=registry.test/*:latest"], &[PROBE]);
    check(&["-f", "reference=*/a/new", "-f", "reference=*/probe"], &[&new, PROBE]);
    check(&["registry.test/a/o*"], &[&old]);
    check(&["registry.test/a"], &[]);
    check(&["-f", "dangling=false", "registry.test/a/new:latest"], &[&new]);
    assert_eq!(node.agent(&["image", "ls", "-q", "-f", "label=all"]).ok().lines().count(), 2);
    for (filter, word) in
        [("color=red", "color"), ("before=registry.test/none", "no such image"), ("label", "no filter")]
    {
        let line = node.agent(&["images", "-f", filter]).refused(1);
        assert!(line.contains(word), "{line}");
    }
    let line = node.agent(&["images", "--format", "{{.Nothing}}"]).refused(1);
    assert!(line.contains("no field Nothing") && line.contains("Repository"), "{line}");
    let table =
        node.agent(&["images", "--format", "table {{.Tag}}\\t{{.ID}}", "-f", "label=tier=front"]).ok();
    assert!(table.starts_with("TAG      IMAGE ID\nlatest   "), "{table}");
}

#[test]
fn a_history_tells_what_each_step_weighs() {
    let node = Node::new();
    let long = format!("RUN {}\tend", "x".repeat(60));
    let image = Image::new()
        .layer(Layer::new().file("a", vec![b'x'; 2000]))
        .layer(Layer::new().file("b", vec![b'x'; 30_000]))
        .tell(
            "history",
            json!([
                {"created": "2023-01-01T00:00:00Z", "created_by": "ADD a"},
                {"created": "2023-01-02T00:00:00Z", "created_by": "ENV A=\u{1b}[31m", "empty_layer": true},
                {"created": "2023-01-03T00:00:00Z", "created_by": long, "comment": "the last"},
            ]),
        );
    let name = node.push_and_pull("told", &image);
    let table = node.agent(&["history", &name]).ok();
    let rows: Vec<&str> = table.lines().collect();
    assert_eq!(rows.len(), 4, "{table}");
    assert!(rows[0].starts_with("IMAGE ") && rows[0].ends_with("COMMENT"), "{table}");
    let short = node.agent(&["images", "-q", &name]).ok();
    assert!(
        rows[1].starts_with(&short) && rows[1].contains("30kB") && rows[1].ends_with("the last"),
        "{table}"
    );
    assert!(rows[1].contains(&format!("RUN {}…", "x".repeat(40))), "{table}");
    assert!(rows[2].starts_with("<missing>") && rows[2].contains(" 0B"), "{table}");
    assert!(rows[2].contains("ENV A=?[31m"), "{table}");
    assert!(rows[3].contains("ADD a") && rows[3].contains("2kB"), "{table}");

    let whole =
        node.agent(&["image", "history", "--no-trunc", "--human=false", "--format", "json", &name]).ok();
    let rows: Vec<Value> = whole.lines().map(json).collect();
    assert_eq!(rows[0]["ID"], node.inspect(&name)["Id"]);
    assert_eq!(rows[0]["CreatedBy"], json!(format!("RUN {} end", "x".repeat(60))));
    assert_eq!(
        (&rows[0]["Size"], &rows[0]["CreatedSince"]),
        (&json!("30000"), &json!("2023-01-03T00:00:00Z"))
    );
    assert_eq!(node.agent(&["history", "-q", &name]).ok(), format!("{short}\n<missing>\n<missing>"));
    assert!(node.agent(&["history", "registry.test/none"]).refused(1).contains("no such image"));
    // Layers that nobody tells of are there all the same.
    let silent = node.push_and_pull("silent", &Image::new().layer(Layer::new().file("a", "x")));
    assert_eq!(node.agent(&["history", "--format", "{{.Size}}", &silent]).ok(), "1B");
}

#[test]
fn an_inspection_can_be_asked_for_one_thing() {
    let node = Node::new();
    let id = node.agent(&["image", "inspect", "-f", "{{.Id}}", PROBE]).ok();
    assert_eq!(id, node.agent(&["images", "-q", "--no-trunc"]).ok());
    let line =
        node.agent(&["inspect", "-f", "{{.Os}}/{{.Architecture}} {{json .Config.Entrypoint}}", PROBE]).ok();
    assert_eq!(line, "linux/amd64 [\"/probe\"]");
    let told = node.inspect(PROBE);
    assert_eq!(told["GraphDriver"]["Name"], "overlay");
    let top = told["GraphDriver"]["Data"]["UpperDir"].as_str().expect("it has a layer");
    assert!(std::path::Path::new(top).join("probe").is_file(), "{top}");
    let line = node.agent(&["inspect", "-f", "{{.State.Pid}}", PROBE]).refused(1);
    assert!(line.contains("no field State"), "{line}");
    let line = node.agent(&["inspect", "-f", "{{range .RepoTags}}x{{end}}", PROBE]).refused(1);
    assert!(line.contains("{{range .RepoTags}}"), "{line}");
    node.detached(&["--name", "probe", PROBE, "wait"]);
    assert_eq!(node.agent(&["inspect", "-f", "{{.Name}} {{.State.Running}}", "probe"]).ok(), "/probe true");
    assert_eq!(node.agent(&["ps", "--format", "{{.Names}}={{.Image}}"]).ok(), format!("probe={PROBE}"));
    // A container of that name is no image.
    let found = node.agent(&["image", "inspect", "probe"]);
    assert_eq!((found.code, found.stderr.as_str()), (1, "agent: no such image: probe\n"));
}

//! Archives of images that no honest program makes, each with a word of what is said about it; and what such archives
//! are built with. For tests alone; whoever fuzzes has seeds here.

use serde_json::{Value, json};
use tar::{EntryType, Header};

use crate::digest::Digest;

/// An archive that must be refused.
pub(crate) struct Hostile {
    pub(crate) name: &'static str,
    pub(crate) bytes: Vec<u8>,
    /// What the refusal must say.
    pub(crate) says: &'static str,
}

/// An archive under construction.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tar(pub(crate) Vec<u8>);

impl Tar {
    pub(crate) fn entry(mut self, kind: EntryType, name: &str, link: &str, content: &[u8]) -> Tar {
        let mut header = Header::new_gnu();
        let old = header.as_old_mut();
        old.name[..name.len()].copy_from_slice(name.as_bytes());
        old.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        header.set_device_major(1).expect("this kind of header has it");
        header.set_device_minor(3).expect("this kind of header has it");
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn file(self, name: &str, content: impl AsRef<[u8]>) -> Tar {
        self.entry(EntryType::Regular, name, "", content.as_ref())
    }

    pub(crate) fn json(self, name: &str, content: &Value) -> Tar {
        self.file(name, content.to_string())
    }

    pub(crate) fn blob(self, content: impl AsRef<[u8]>) -> Tar {
        let name = format!("blobs/sha256/{}", Digest::of(content.as_ref()).hex());
        self.file(&name, content)
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Tar {
        self.entry(EntryType::Symlink, name, target, b"")
    }

    pub(crate) fn hardlink(self, name: &str, target: &str) -> Tar {
        self.entry(EntryType::Link, name, target, b"")
    }

    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

/// A layer of one file.
pub(crate) fn layer(content: &str) -> Vec<u8> {
    Tar::default().file("file", content).end()
}

/// A configuration over these layers.
pub(crate) fn config(layers: &[&[u8]]) -> String {
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(layer)).collect();
    json!({
        "architecture": "amd64", "os": "linux", "config": {"Cmd": ["/file"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
    .to_string()
}

/// A descriptor of exact bytes.
pub(crate) fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({
        "mediaType": format!("application/vnd.oci.image.{media_type}"),
        "digest": Digest::of(bytes),
        "size": bytes.len(),
    })
}

/// The manifest of an image of plain layers.
pub(crate) fn manifest(config: &str, layers: &[&[u8]]) -> String {
    let layers: Vec<Value> = layers.iter().map(|layer| descriptor("layer.v1.tar", layer)).collect();
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("config.v1+json", config.as_bytes()),
        "layers": layers,
    })
    .to_string()
}

/// A layout with one image, whose entry of the index was changed by `change`.
pub(crate) fn layout(change: impl FnOnce(&mut Value)) -> Tar {
    let layer = layer("x");
    let config = config(&[&layer]);
    let manifest = manifest(&config, &[&layer]);
    let mut entry = descriptor("manifest.v1+json", manifest.as_bytes());
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": "registry.test/x:1"});
    change(&mut entry);
    Tar::default()
        .file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#)
        .json("index.json", &json!({"schemaVersion": 2, "manifests": [entry]}))
        .blob(manifest)
        .blob(config)
        .blob(layer)
}

/// Docker's list of one image.
pub(crate) fn listed(config: &str, layers: &[&str]) -> Value {
    json!([{"Config": config, "RepoTags": ["registry.test/x:1"], "Layers": layers}])
}

/// Every kind of hostility that is known.
pub(crate) fn all() -> Vec<Hostile> {
    let layer_x = layer("x");
    let config_x = config(&[&layer_x]);
    let docker = || Tar::default().file("c.json", &config_x).file("a/layer.tar", &layer_x);
    let list = || listed("c.json", &["a/layer.tar"]);
    let of = |name, archive: Tar, says| Hostile { name, bytes: archive.end(), says };
    let digest_of_nothing = Digest::of(b"");
    let wrong_name = format!("blobs/sha256/{}", digest_of_nothing.hex());
    let long = vec![b' '; 5 << 20];
    let mut cut = layout(|_| ()).end();
    cut.truncate(cut.len() / 2 / 512 * 512 - 100);
    let mut sparse = Header::new_gnu();
    sparse.set_entry_type(EntryType::GNUSparse);
    sparse.as_old_mut().name[..1].copy_from_slice(b"s");
    sparse.set_mode(0o644);
    sparse.set_uid(0);
    sparse.set_gid(0);
    sparse.set_mtime(0);
    sparse.set_size(0);
    // A terabyte of nothing.
    sparse.as_gnu_mut().expect("it is one").realsize[..11].copy_from_slice(b"17777777777");
    sparse.set_cksum();
    let sparse = Tar(sparse.as_bytes().to_vec());
    // Nothing of them comes, so whoever waits for them fails in another way.
    let mut promised = Header::new_gnu();
    promised.as_old_mut().name[..13].copy_from_slice(b"manifest.json");
    promised.set_size(7 << 30);
    for set in [Header::set_uid, Header::set_gid, Header::set_mtime] {
        set(&mut promised, 0);
    }
    promised.set_mode(0o644);
    promised.set_cksum();
    let promised = promised.as_bytes().to_vec();
    let nested = |depth: usize| {
        let (mut tar, mut entry) = (layout(|_| ()), Value::Null);
        let mut bytes = json!({"schemaVersion": 2, "manifests": []}).to_string();
        for _ in 0..depth {
            tar = tar.blob(&bytes);
            entry = descriptor("index.v1+json", bytes.as_bytes());
            bytes = json!({"schemaVersion": 2, "manifests": [entry]}).to_string();
        }
        tar.with_index(&json!({"schemaVersion": 2, "manifests": [entry]}))
    };
    vec![
        of("nothing", Tar::default(), "holds no images"),
        of("a root file system", Tar::default().file("bin/sh", "x").symlink("sh", "/bin/sh"), "agent import"),
        Hostile { name: "no archive", bytes: vec![b'x'; 4096], says: "no tar archive" },
        Hostile { name: "an archive that is cut", bytes: cut, says: "ends within" },
        of("`..` in a name", docker().json("manifest.json", &list()).file("../x", "x"), "leads out"),
        of("`..` deep in a name", docker().file("a/../../x", "x"), "leads out"),
        of("an absolute name", docker().file("/etc/x", "x"), "leads out"),
        of(
            "a link that leads up",
            docker().symlink("a/l", "../../../etc/passwd").json("manifest.json", &listed("c.json", &["a/l"])),
            "leads out",
        ),
        of(
            "a link that is absolute",
            docker().symlink("l", "/etc/passwd").json("manifest.json", &listed("l", &["a/layer.tar"])),
            "leads out",
        ),
        of(
            "a hard link that leads up",
            docker().hardlink("l", "../etc/passwd").json("manifest.json", &listed("l", &["a/layer.tar"])),
            "leads out",
        ),
        of(
            "links in a circle",
            docker().symlink("l", "k").symlink("k", "l").json("manifest.json", &listed("l", &[])),
            "too many links",
        ),
        of(
            "a link to nothing",
            docker().symlink("l", "m").json("manifest.json", &listed("l", &[])),
            "is missing",
        ),
        of(
            "names in the list that lead out",
            docker().json("manifest.json", &listed("../../etc/passwd", &[])),
            "leads out",
        ),
        of(
            "absolute names in the list",
            docker().json("manifest.json", &listed("c.json", &["/etc/passwd"])),
            "leads out",
        ),
        of(
            "a folder in the place of a layer",
            docker()
                .entry(EntryType::Directory, "d/", "", b"")
                .json("manifest.json", &listed("c.json", &["d"])),
            "is missing",
        ),
        of(
            "a device in the place of a layer",
            docker().entry(EntryType::Char, "d", "", b"").json("manifest.json", &listed("c.json", &["d"])),
            "is missing",
        ),
        of(
            "two lists",
            docker().json("manifest.json", &list()).json("manifest.json", &listed("d.json", &[])),
            "two entries",
        ),
        of("two layers of a name", docker().file("a/layer.tar", "other"), "two entries"),
        of("a layer and a link of a name", docker().symlink("a/layer.tar", "../c.json"), "two entries"),
        Hostile { name: "a list of gigabytes", bytes: promised, says: "more than 4194304 bytes" },
        of("a list of megabytes", docker().file("manifest.json", &long), "more than 4194304 bytes"),
        of("an index of megabytes", Tar::default().file("index.json", &long), "more than 4194304 bytes"),
        of(
            "a configuration of megabytes",
            Tar::default().file("c.json", &long).json("manifest.json", &listed("c.json", &[])),
            "more than 4194304 bytes",
        ),
        of("a list that is none", docker().json("manifest.json", &json!("a")), "cannot be read"),
        of("a manifest without a schema", docker().json("manifest.json", &json!({"a": 1})), "schemaVersion"),
        of(
            "a folder's manifest of a configuration that is another",
            Tar::default()
                .file("manifest.json", manifest(&config_x, &[&layer_x]))
                .file(&Digest::of(config_x.as_bytes()).hex(), "{}"),
            "was promised",
        ),
        of(
            "a folder's manifest of a layer that is another",
            Tar::default()
                .file("manifest.json", manifest(&config_x, &[&layer_x]))
                .file(&Digest::of(config_x.as_bytes()).hex(), &config_x)
                .file(&Digest::of(&layer_x).hex(), "other"),
            "was promised",
        ),
        of("a list without an image", docker().json("manifest.json", &json!([])), "no image"),
        of(
            "a list of thousands of images",
            docker().json("manifest.json", &json!(vec![json!({"Config": "c.json", "Layers": []}); 1001])),
            "more than 1000 images",
        ),
        of(
            "a list of thousands of names",
            docker().json("manifest.json", &json!([{"Config": "c.json", "RepoTags": vec!["x"; 1001]}])),
            "more than 1000 images",
        ),
        of(
            "a list of thousands of layers",
            docker().json("manifest.json", &listed("c.json", &["a/layer.tar"; 401])),
            "more than 400 layers",
        ),
        of(
            "an index of thousands of images",
            layout(|_| ()).with_index(&json!({
                "schemaVersion": 2,
                "manifests": vec![json!({"digest": digest_of_nothing, "size": 0}); 1001],
            })),
            "more than 1000 images",
        ),
        of(
            "a list of two configurations",
            docker().file("manifest.json", r#"[{"Config":"c.json","Config":"c.json","Layers":[]}]"#),
            "duplicate",
        ),
        of(
            "a configuration of no layers",
            docker().json("manifest.json", &listed("c.json", &[])),
            "its manifest has 0 layers",
        ),
        of(
            "a configuration that is none",
            docker().json("manifest.json", &listed("a/layer.tar", &["a/layer.tar"])),
            "configuration cannot be read",
        ),
        of(
            "a layer that is another",
            docker().file("b", layer("y")).json("manifest.json", &listed("c.json", &["b"])),
            "was promised",
        ),
        of(
            "a layer of a compression that is not known",
            docker().file("b", b"\xfd7zXZ\0\0").json("manifest.json", &listed("c.json", &["b"])),
            "compressed with xz",
        ),
        of(
            "a name that is none",
            docker().json(
                "manifest.json",
                &json!([{"Config": "c.json", "RepoTags": ["../x"], "Layers": ["a/layer.tar"]}]),
            ),
            "invalid image reference",
        ),
        of(
            "a name that is pinned to another digest",
            docker().json(
                "manifest.json",
                &json!([{
                    "Config": "c.json", "Layers": ["a/layer.tar"],
                    "RepoTags": [format!("registry.test/x@{digest_of_nothing}")],
                }]),
            ),
            "gives the name",
        ),
        of(
            "docker before 1.10",
            Tar::default().json("repositories", &json!({"x": {"1": "abc"}})),
            "before 1.10",
        ),
        of("a blob that is not what its name says", layout(|_| ()).file(&wrong_name, "x"), "was promised"),
        of(
            "a manifest that is missing",
            layout(|entry| entry["digest"] = json!(digest_of_nothing)),
            "is missing",
        ),
        of("a manifest of another length", layout(|entry| entry["size"] = json!(5)), "were promised"),
        of("a manifest of gigabytes", layout(|entry| entry["size"] = json!(5_u64 << 30)), "more than"),
        of("a length below nothing", layout(|entry| entry["size"] = json!(-1)), "cannot be read"),
        of(
            "a digest that is a path",
            layout(|entry| entry["digest"] = json!("sha256:../../etc/passwd")),
            "cannot be read",
        ),
        of(
            "a manifest that is called an index",
            layout(|entry| entry["mediaType"] = json!("application/vnd.oci.image.index.v1+json")),
            "cannot be read",
        ),
        of(
            "a name of the layout that is pinned to another digest",
            layout(|entry| {
                let name = format!("registry.test/x@{digest_of_nothing}");
                entry["annotations"]["io.containerd.image.name"] = json!(name);
            }),
            "gives the name",
        ),
        of(
            "nothing but an attestation",
            layout(|entry| entry["annotations"]["vnd.docker.reference.type"] = json!("attestation-manifest")),
            "no image",
        ),
        of(
            "an index that is a manifest too",
            Tar::default().file("index.json", r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#),
            "no index",
        ),
        of("indexes in indexes", nested(6), "too deep"),
        of("an index of nothing", nested(1), "no image for"),
        of("a sparse file", sparse, "sparse"),
    ]
}

impl Tar {
    /// Puts another `index.json` in the place of the first entry but one.
    fn with_index(self, index: &Value) -> Tar {
        let rest = self.0;
        let (layout_entries, text) = (1024, index.to_string());
        // oci-layout: a header and a block; index.json: a header and its blocks.
        let size = Header::from_byte_slice(&rest[layout_entries..layout_entries + 512]).entry_size();
        let size = usize::try_from(size.expect("it was just written")).expect("small");
        let after = layout_entries + 512 + size.next_multiple_of(512);
        let mut tar = Tar(rest[..layout_entries].to_vec()).file("index.json", text);
        tar.0.extend_from_slice(&rest[after..]);
        tar
    }
}

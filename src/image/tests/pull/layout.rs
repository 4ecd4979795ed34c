//! Images put together by the test: layers as `tar` entries, written as an OCI layout.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use image::Digest;
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

/// How a layer is compressed.
#[derive(Clone, Copy)]
pub enum Packing {
    Plain,
    Gzip,
    Zstd,
}

/// One layer's archive, entry by entry.
pub struct Layer(Builder<Vec<u8>>);

impl Layer {
    pub fn new() -> Layer {
        Layer(Builder::new(Vec::new()))
    }

    fn header(kind: EntryType, mode: u32, size: usize) -> Header {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(1000);
        header.set_gid(100);
        header.set_mtime(1_500_000_000);
        header.set_size(size as u64);
        header.set_device_major(0).expect("ustar");
        header.set_device_minor(0).expect("ustar");
        header
    }

    /// Extended records for the entry that follows.
    pub fn pax(mut self, records: &[(&str, &[u8])]) -> Layer {
        self.0.append_pax_extensions(records.iter().copied()).expect("in memory");
        self
    }

    pub fn file(mut self, path: &str, mode: u32, data: &[u8]) -> Layer {
        let mut header = Layer::header(EntryType::Regular, mode, data.len());
        self.0.append_data(&mut header, path, data).expect("in memory");
        self
    }

    pub fn folder(mut self, path: &str, mode: u32) -> Layer {
        let mut header = Layer::header(EntryType::Directory, mode, 0);
        self.0.append_data(&mut header, path, &b""[..]).expect("in memory");
        self
    }

    pub fn link(mut self, kind: EntryType, path: &str, target: &str) -> Layer {
        let mut header = Layer::header(kind, 0o777, 0);
        self.0.append_link(&mut header, path, target).expect("in memory");
        self
    }

    pub fn symlink(self, path: &str, target: &str) -> Layer {
        self.link(EntryType::Symlink, path, target)
    }

    pub fn hardlink(self, path: &str, target: &str) -> Layer {
        self.link(EntryType::Link, path, target)
    }

    pub fn device(mut self, kind: EntryType, path: &str, major: u32, minor: u32) -> Layer {
        let mut header = Layer::header(kind, 0o640, 0);
        header.set_device_major(major).expect("ustar");
        header.set_device_minor(minor).expect("ustar");
        self.0.append_data(&mut header, path, &b""[..]).expect("in memory");
        self
    }

    pub fn whiteout(self, path: &str) -> Layer {
        self.file(path, 0o600, b"")
    }

    pub fn end(self) -> Vec<u8> {
        self.0.into_inner().expect("in memory")
    }
}

/// An OCI layout with one image, tagged `t`.
pub struct Layout {
    folder: TempDir,
    pub manifest: Value,
    pub manifest_digest: String,
    pub layers: Vec<String>,
}

impl Layout {
    /// An image of these layers, bottom first; `label` makes its configuration different from others.
    pub fn new(layers: &[(&[u8], Packing)], label: &str) -> Layout {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(folder.path().join("blobs/sha256")).expect("a folder");
        fs::write(folder.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("written");
        let mut layout =
            Layout { folder, manifest: Value::Null, manifest_digest: String::new(), layers: Vec::new() };
        let mut descriptors = Vec::new();
        let mut diff_ids = Vec::new();
        for (archive, packing) in layers {
            let (suffix, blob) = match packing {
                Packing::Plain => ("", archive.to_vec()),
                Packing::Gzip => ("+gzip", gzip(archive)),
                Packing::Zstd => ("+zstd", zstd::encode_all(*archive, 3).expect("in memory")),
            };
            diff_ids.push(Digest::of(archive).to_string());
            let descriptor = layout.add(&blob, &format!("application/vnd.oci.image.layer.v1.tar{suffix}"));
            layout.layers.push(descriptor["digest"].as_str().expect("text").to_owned());
            descriptors.push(descriptor);
        }
        let config = json!({
            "created": "2020-01-02T03:04:05Z", "architecture": "amd64", "os": "linux",
            "config": {"Cmd": ["app"], "Labels": {"label": label}},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = layout.add(config.to_string().as_bytes(), "application/vnd.oci.image.config.v1+json");
        layout.manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config, "layers": descriptors,
        });
        let manifest =
            layout.add(layout.manifest.to_string().as_bytes(), "application/vnd.oci.image.manifest.v1+json");
        layout.manifest_digest = manifest["digest"].as_str().expect("text").to_owned();
        layout.tag(manifest);
        layout
    }

    /// The image of another layout, whose configuration promises another diffID for its one layer.
    pub fn lying(honest: &Layout, diff_id: &str) -> Layout {
        let layout = Layout::new(&[], "lying");
        for layer in &honest.layers {
            fs::copy(honest.blob(layer), layout.blob(layer)).expect("copied");
        }
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        });
        let mut manifest = honest.manifest.clone();
        manifest["config"] =
            layout.add(config.to_string().as_bytes(), "application/vnd.oci.image.config.v1+json");
        layout.tag(layout.add(manifest.to_string().as_bytes(), "application/vnd.oci.image.manifest.v1+json"));
        layout
    }

    /// Puts the image behind an index that offers it for amd64 and something else for arm64.
    pub fn behind_index(self) -> Layout {
        let other = Layout::new(&[], "other");
        let text = other.manifest.to_string();
        let mut foreign = self.add(text.as_bytes(), "application/vnd.oci.image.manifest.v1+json");
        foreign["platform"] = json!({"os": "linux", "architecture": "arm64", "variant": "v8"});
        let config = other.manifest["config"]["digest"].as_str().expect("text").to_owned();
        let bytes = fs::read(other.blob(&config)).expect("there");
        self.add(&bytes, "");
        let mut own =
            self.add(self.manifest.to_string().as_bytes(), "application/vnd.oci.image.manifest.v1+json");
        own["platform"] = json!({"os": "linux", "architecture": "amd64"});
        let index = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [foreign, own],
        });
        let index = self.add(index.to_string().as_bytes(), "application/vnd.oci.image.index.v1+json");
        self.tag(index);
        self
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn config_digest(&self) -> &str {
        self.manifest["config"]["digest"].as_str().expect("text")
    }

    fn blob(&self, digest: &str) -> PathBuf {
        self.path().join("blobs/sha256").join(digest.strip_prefix("sha256:").expect("sha256"))
    }

    fn add(&self, bytes: &[u8], media_type: &str) -> Value {
        let digest = Digest::of(bytes).to_string();
        fs::write(self.blob(&digest), bytes).expect("written");
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    fn tag(&self, mut descriptor: Value) {
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": "t"});
        let index = json!({"schemaVersion": 2, "manifests": [descriptor]});
        fs::write(self.path().join("index.json"), index.to_string()).expect("written");
    }
}

/// Two members, as some compressors write them.
fn gzip(bytes: &[u8]) -> Vec<u8> {
    let half = bytes.len() / 2;
    let mut packed = Vec::new();
    for part in [&bytes[..half], &bytes[half..]] {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(part).expect("in memory");
        packed.extend(encoder.finish().expect("in memory"));
    }
    packed
}

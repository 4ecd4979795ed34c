//! Images made by hand as OCI layouts: layers of one's own, on an image of this repo or on nothing.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::layer::{Layer, digest};

/// An image under construction.
#[derive(Debug, Clone, Default)]
pub struct Image {
    base: Option<&'static str>,
    layers: Vec<Layer>,
    config: ImageConfig,
    beside: ImageConfig,
    annotations: ImageConfig,
}

/// What an image says of how it is run, as the `config` of the image specification.
pub type ImageConfig = serde_json::Map<String, Value>;

/// What is in a written layout.
#[derive(Debug, Clone)]
pub struct Written {
    /// Digest of the manifest.
    pub manifest: String,
    /// Digests of the layers made by hand, as transferred.
    pub layers: Vec<String>,
}

impl Image {
    /// One of nothing but its own layers.
    pub fn new() -> Self {
        Self::default()
    }

    /// One on top of the layers of `target/images/NAME`, with its configuration.
    pub fn on(base: &'static str) -> Self {
        let (_, config) = documents(base);
        let config = config["config"].as_object().cloned().unwrap_or_default();
        Image { base: Some(base), config, ..Self::default() }
    }

    /// Adds a layer on top.
    pub fn layer(mut self, layer: Layer) -> Self {
        self.layers.push(layer);
        self
    }

    /// Sets a value of its configuration, such as `Cmd`, `User`, `WorkingDir`.
    pub fn set(mut self, key: &str, value: Value) -> Self {
        self.config.insert(key.to_owned(), value);
        self
    }

    /// Sets a value of the document beside its `config`, such as `created` or `history`.
    pub fn tell(mut self, key: &str, value: Value) -> Self {
        self.beside.insert(key.to_owned(), value);
        self
    }

    /// Annotates its manifest.
    pub fn annotate(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.to_owned(), json!(value));
        self
    }

    /// Makes it for this architecture of Linux, and its variant if any.
    pub fn platform(self, architecture: &str, variant: Option<&str>) -> Self {
        let image = self.tell("architecture", json!(architecture));
        match variant {
            Some(variant) => image.tell("variant", json!(variant)),
            None => image,
        }
    }

    /// Writes it as a layout with the tag `latest` into the new folder `layout`.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, layout: &Path) -> Written {
        let blobs = layout.join("blobs/sha256");
        fs::create_dir_all(&blobs).expect("a temporary folder can be written");
        let put = |bytes: &[u8]| {
            let digest = digest(bytes);
            fs::write(blobs.join(&digest[7..]), bytes).expect("a temporary folder can be written");
            digest
        };
        let (mut layers, mut diff_ids) = (Vec::new(), Vec::new());
        if let Some(base) = self.base {
            let (manifest, config) = documents(base);
            layers = manifest["layers"].as_array().cloned().expect("a manifest has layers");
            diff_ids = config["rootfs"]["diff_ids"].as_array().cloned().expect("a configuration has them");
            for layer in &layers {
                let name = &layer["digest"].as_str().expect("a layer has a digest")[7..];
                let from = layout_of(base).join("blobs/sha256").join(name);
                fs::copy(from, blobs.join(name)).expect("the base image is complete");
            }
        }
        let mut own = Vec::new();
        for layer in &self.layers {
            let compressed = layer.compressed();
            own.push(put(&compressed));
            layers.push(json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                "digest": own.last(),
                "size": compressed.len(),
            }));
            diff_ids.push(json!(layer.diff_id()));
        }
        let mut config = json!({
            "created": "2024-01-01T00:00:00Z",
            "architecture": "amd64",
            "os": "linux",
            "config": self.config,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        for (key, value) in &self.beside {
            config[key] = value.clone();
        }
        let config = config.to_string();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": put(config.as_bytes()),
                "size": config.len(),
            },
            "layers": layers,
            "annotations": self.annotations,
        });
        let manifest = manifest.to_string();
        let written = Written { manifest: put(manifest.as_bytes()), layers: own };
        name_latest(layout, "application/vnd.oci.image.manifest.v1+json", &written.manifest);
        written
    }

    /// Writes several, each for a platform of its own, as a layout whose tag `latest` is an index of them, into the
    /// new folder `layout`. Returns the digests of their manifests.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write_index(images: &[Image], layout: &Path) -> Vec<String> {
        let blobs = layout.join("blobs/sha256");
        let digests: Vec<String> = images.iter().map(|image| image.write(layout).manifest).collect();
        let entries = images.iter().zip(&digests).map(|(image, digest)| {
            let mut platform = json!({ "os": "linux", "architecture": "amd64" });
            for key in ["architecture", "variant"] {
                if let Some(value) = image.beside.get(key) {
                    platform[key] = value.clone();
                }
            }
            json!({
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": digest,
                "size": fs::metadata(blobs.join(&digest[7..])).expect("it was just written").len(),
                "platform": platform,
            })
        });
        let media_type = "application/vnd.oci.image.index.v1+json";
        let entries: Vec<Value> = entries.collect();
        let index = json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": entries }).to_string();
        let name = digest(index.as_bytes());
        fs::write(blobs.join(&name[7..]), index).expect("a temporary folder can be written");
        name_latest(layout, media_type, &name);
        digests
    }
}

/// Makes a folder with a document among its blobs a layout where that is `latest`.
fn name_latest(layout: &Path, media_type: &str, digest: &str) {
    let blob = layout.join("blobs/sha256").join(&digest[7..]);
    let index = json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": media_type,
            "digest": digest,
            "size": fs::metadata(blob).expect("it was just written").len(),
            "annotations": { "org.opencontainers.image.ref.name": "latest" },
        }],
    });
    for (name, text) in
        [("index.json", index.to_string()), ("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#.to_owned())]
    {
        fs::write(layout.join(name), text).expect("a temporary folder can be written");
    }
}

/// The layout of an image of this repo.
///
/// # Panics
/// When it was not built.
pub fn layout_of(name: &str) -> PathBuf {
    let layout = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/images").join(name);
    assert!(layout.join("index.json").is_file(), "there is no image {name}: run scripts/build-images first");
    layout
}

/// The manifest and configuration of an image of this repo.
fn documents(name: &str) -> (Value, Value) {
    let layout = layout_of(name);
    let read = |path: &Path| -> Value {
        let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let blob = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().expect("a descriptor has a digest");
        read(&layout.join("blobs/sha256").join(&digest[7..]))
    };
    let manifest = blob(&read(&layout.join("index.json"))["manifests"][0]);
    let config = blob(&manifest["config"]);
    (manifest, config)
}

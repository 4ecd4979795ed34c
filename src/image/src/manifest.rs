//! The documents of an image: index, manifest, configuration. Read from exact bytes, bounded and checked.
//!
//! Image-spec `image-index.md`, `manifest.md` and `config.md`, and Docker's schema 2. A document that could
//! be read as two kinds is refused, for two readers would see two images (GHSA-5j5w-g665-5m35).

use std::collections::BTreeMap;

use oci_spec::image::ImageConfiguration;
use serde::Deserialize;

use crate::digest::Digest;
use crate::error::{ImageError, Result};
use crate::platform::Platform;
use crate::reference::Reference;

/// The longest index, manifest or configuration that is read, in bytes (distribution's own limit).
pub(crate) const DOCUMENT_MAX: u64 = 4 << 20;
/// Overlayfs takes 500 layers; no builder makes as many.
pub(crate) const LAYERS_MAX: usize = 400;

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// What a registry is asked for, in order of preference.
pub(crate) const ACCEPTED: [&str; 4] = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST];

/// How the bytes of a layer's tar are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

impl Packing {
    /// What the first bytes of a file tell; else the name of a compression that is not supported.
    pub(crate) fn sniff(first: &[u8]) -> std::result::Result<Packing, &'static str> {
        match first {
            [0x1f, 0x8b, ..] => Ok(Packing::Gzip),
            // A frame, and a skippable one (RFC 8878, 3.1).
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Packing::Zstd),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Err("xz"),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Err("bzip2"),
            [0x04, 0x22, 0x4d, 0x18, ..] => Err("lz4"),
            [b'P', b'K', 3, 4, ..] => Err("zip"),
            _ => Ok(Packing::Plain),
        }
    }
}

/// What one document refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layer {
    pub(crate) digest: Digest,
    /// Compressed bytes.
    pub(crate) size: u64,
    pub(crate) packing: Packing,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    /// Bottom first.
    pub(crate) layers: Vec<Layer>,
}

/// One image of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    pub(crate) descriptor: Descriptor,
    pub(crate) platform: Option<Platform>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Document {
    Index(Vec<IndexEntry>),
    Manifest(Manifest),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    schema_version: Option<u32>,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
    manifests: Option<Vec<RawDescriptor>>,
    // The layers of Docker's schema 1.
    fs_layers: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: i64,
    platform: Option<RawPlatform>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct RawPlatform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    variant: Option<String>,
}

/// What a document says that it is; the specification's own need not say it, and are what is `implied`.
pub(crate) fn media_type(bytes: &[u8], implied: &str) -> String {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Said {
        media_type: Option<String>,
    }
    let said: Option<Said> = serde_json::from_slice(bytes).ok();
    said.and_then(|said| said.media_type).unwrap_or_else(|| implied.to_owned())
}

/// Reads an index or a manifest. `media_type` is what the server called it, `what` names it in errors.
pub(crate) fn parse(bytes: &[u8], media_type: Option<&str>, what: &str) -> Result<Document> {
    document(bytes, media_type).map_err(|reason| ImageError::Refused { what: what.to_owned(), reason })
}

fn document(bytes: &[u8], served: Option<&str>) -> std::result::Result<Document, String> {
    // Serde refuses a key that is given twice.
    let raw: RawDocument =
        serde_json::from_slice(bytes).map_err(|error| format!("it is no manifest: {error}"))?;
    if raw.schema_version == Some(1) || raw.fs_layers.is_some() {
        return Err("it is of Docker's schema 1, which is not supported; push the image again".into());
    }
    if raw.schema_version != Some(2) {
        return Err("its schemaVersion is not 2".into());
    }
    let image = raw.config.is_some() || raw.layers.is_some();
    if image && raw.manifests.is_some() {
        return Err("it can be read both as an index and as a manifest".into());
    }
    let kinds: [&str; 2] = if image { [OCI_MANIFEST, DOCKER_MANIFEST] } else { [OCI_INDEX, DOCKER_LIST] };
    for (source, media_type) in [("says", raw.media_type.as_deref()), ("is served as", served)] {
        let Some(media_type) = media_type else { continue };
        let generic = source == "is served as" && !ACCEPTED.contains(&media_type);
        if !generic && !kinds.contains(&media_type) {
            let kind = if image { "a manifest" } else { "an index" };
            return Err(format!("it has the form of {kind} but {source} {media_type}"));
        }
    }
    if let (Some(own), Some(served)) = (raw.media_type.as_deref(), served)
        && ACCEPTED.contains(&served)
        && own != served
    {
        return Err(format!("it says {own} but is served as {served}"));
    }
    match (raw.config, raw.layers, raw.manifests) {
        (Some(config), Some(layers), None) => {
            manifest(config, layers, raw.artifact_type).map(Document::Manifest)
        }
        (None, None, Some(manifests)) => index(manifests).map(Document::Index),
        _ => Err("it has neither config and layers nor manifests".into()),
    }
}

fn manifest(
    config: RawDescriptor,
    layers: Vec<RawDescriptor>,
    artifact_type: Option<String>,
) -> std::result::Result<Manifest, String> {
    if !matches!(config.media_type.as_str(), OCI_CONFIG | DOCKER_CONFIG) {
        let kind = artifact_type.unwrap_or(config.media_type);
        return Err(format!("it is not a container image but an artifact of type {kind:?}"));
    }
    if layers.len() > LAYERS_MAX {
        return Err(format!("it has {} layers, {LAYERS_MAX} are the limit", layers.len()));
    }
    let config = descriptor(&config)?;
    if config.size > DOCUMENT_MAX {
        return Err(format!("its configuration has {} bytes, {DOCUMENT_MAX} are the limit", config.size));
    }
    let mut checked = Vec::with_capacity(layers.len());
    for layer in &layers {
        let Descriptor { digest, size } = descriptor(layer)?;
        checked.push(Layer { digest, size, packing: packing(&layer.media_type)? });
    }
    Ok(Manifest { config, layers: checked })
}

fn index(manifests: Vec<RawDescriptor>) -> std::result::Result<Vec<IndexEntry>, String> {
    let mut entries = Vec::new();
    for raw in &manifests {
        if !matches!(raw.media_type.as_str(), OCI_MANIFEST | DOCKER_MANIFEST)
            || raw.annotations.contains_key("vnd.docker.reference.type")
        {
            // Nested indexes, attestations and artifacts are no images to run.
            continue;
        }
        let platform = raw.platform.as_ref().map(|platform| Platform {
            os: platform.os.clone(),
            architecture: platform.architecture.clone(),
            variant: platform.variant.clone().filter(|variant| !variant.is_empty()),
        });
        entries.push(IndexEntry { descriptor: descriptor(raw)?, platform });
    }
    Ok(entries)
}

fn descriptor(raw: &RawDescriptor) -> std::result::Result<Descriptor, String> {
    let digest =
        raw.digest.parse().map_err(|error| format!("its descriptor of {:?}: {error}", raw.digest))?;
    let size =
        u64::try_from(raw.size).map_err(|_| format!("its descriptor of {digest} has a negative size"))?;
    Ok(Descriptor { digest, size })
}

fn packing(media_type: &str) -> std::result::Result<Packing, String> {
    match media_type {
        OCI_LAYER | "application/vnd.docker.image.rootfs.diff.tar" => Ok(Packing::Plain),
        "application/vnd.oci.image.layer.v1.tar+gzip"
        | "application/vnd.docker.image.rootfs.diff.tar.gzip" => Ok(Packing::Gzip),
        "application/vnd.oci.image.layer.v1.tar+zstd"
        | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Ok(Packing::Zstd),
        foreign if foreign.contains("foreign") || foreign.contains("nondistributable") => {
            Err(format!("its layer of type {foreign} must be fetched elsewhere, which is not supported"))
        }
        other => Err(format!("its layer has the unknown type {other:?}")),
    }
}

/// The digests of all that an index lists, as they are written: other things than images too.
pub(crate) fn listed(bytes: &[u8]) -> Vec<String> {
    #[derive(Deserialize)]
    struct Listed {
        #[serde(default)]
        manifests: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        digest: String,
    }
    let listed: Option<Listed> = serde_json::from_slice(bytes).ok();
    listed.into_iter().flat_map(|listed| listed.manifests).map(|entry| entry.digest).collect()
}

/// The image of an index that serves `wanted` best.
pub(crate) fn choose(entries: &[IndexEntry], wanted: &Platform, reference: &Reference) -> Result<Descriptor> {
    let mut best: Option<(u8, &IndexEntry)> = None;
    for entry in entries {
        // An image that says nothing about its platform serves when none that does fits.
        let fit = entry.platform.as_ref().map_or(Some(0), |platform| platform.fit(wanted));
        if let Some(fit) = fit
            && best.is_none_or(|(found, _)| fit > found)
        {
            best = Some((fit, entry));
        }
    }
    best.map(|(_, entry)| entry.descriptor.clone()).ok_or_else(|| ImageError::NoPlatform {
        reference: reference.to_string(),
        wanted: wanted.clone(),
        available: entries.iter().filter_map(|entry| entry.platform.clone()).collect(),
    })
}

/// What the store needs to know of a configuration.
#[derive(Debug, Clone)]
pub(crate) struct ConfigFacts {
    /// Bottom first, one for each layer of the manifest.
    pub(crate) diff_ids: Vec<Digest>,
    pub(crate) platform: Platform,
    pub(crate) created: Option<String>,
}

/// Reads a configuration and checks it against its manifest.
pub(crate) fn config(bytes: &[u8], manifest: &Manifest, what: &str) -> Result<ConfigFacts> {
    let refused = |reason: String| ImageError::Refused { what: what.to_owned(), reason };
    let config: ImageConfiguration = serde_json::from_slice(bytes)
        .map_err(|error| refused(format!("its configuration cannot be read: {error}")))?;
    let rootfs = config.rootfs();
    if rootfs.typ() != "layers" {
        return Err(refused(format!("its rootfs is of the unknown type {:?}", rootfs.typ())));
    }
    if rootfs.diff_ids().len() != manifest.layers.len() {
        return Err(refused(format!(
            "its manifest has {} layers and its configuration {}",
            manifest.layers.len(),
            rootfs.diff_ids().len()
        )));
    }
    let mut diff_ids = Vec::with_capacity(manifest.layers.len());
    for text in rootfs.diff_ids() {
        diff_ids.push(text.parse().map_err(|error| refused(format!("its diffID {text:?}: {error}")))?);
    }
    Ok(ConfigFacts {
        diff_ids,
        platform: Platform {
            os: config.os().to_string(),
            architecture: config.architecture().to_string(),
            variant: config.variant().clone().filter(|variant| !variant.is_empty()),
        },
        created: config.created().clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn config_descriptor(size: i64) -> String {
        format!(r#"{{"mediaType":"{OCI_CONFIG}","digest":"{D}","size":{size}}}"#)
    }

    #[test]
    fn manifests_and_indexes_are_told_apart() {
        let layer = format!(
            r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{D}","size":7}}"#
        );
        let manifest =
            format!(r#"{{"schemaVersion":2,"config":{},"layers":[{layer}]}}"#, config_descriptor(3));
        let Document::Manifest(read) =
            parse(manifest.as_bytes(), Some(OCI_MANIFEST), "x").expect("well formed")
        else {
            panic!("a manifest");
        };
        assert_eq!((read.config.size, read.layers[0].size, read.layers[0].packing), (3, 7, Packing::Gzip));
        let index = format!(
            r#"{{"schemaVersion":2,"manifests":[
            {{"mediaType":"{DOCKER_MANIFEST}","digest":"{D}","size":1,"platform":{{"os":"linux","architecture":"arm64"}}}},
            {{"mediaType":"{OCI_MANIFEST}","digest":"{D}","size":2,"platform":{{"os":"linux","architecture":"amd64"}}}},
            {{"mediaType":"{OCI_MANIFEST}","digest":"{D}","size":3,"annotations":{{"vnd.docker.reference.type":"attestation-manifest"}}}}]}}"#
        );
        let Document::Index(entries) = parse(index.as_bytes(), None, "x").expect("well formed") else {
            panic!("an index");
        };
        let reference = "a".parse().expect("a reference");
        let amd64 = "linux/amd64".parse().expect("a platform");
        assert_eq!(choose(&entries, &amd64, &reference).expect("offered").size, 2);
        let s390x = "linux/s390x".parse().expect("a platform");
        let error = choose(&entries, &s390x, &reference).expect_err("not offered").to_string();
        assert!(error.contains("linux/s390x") && error.contains("linux/arm64, linux/amd64"), "{error}");
    }

    #[test]
    fn what_is_ambiguous_or_unknown_is_refused() {
        let config = config_descriptor(3);
        let big = config_descriptor(5 << 20);
        let negative = config_descriptor(-1);
        let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
        for (text, served, word) in [
            (format!(r#"{{"schemaVersion":2,"config":{config},"layers":[],"manifests":[]}}"#), None, "both"),
            (r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#.into(), None, "both"),
            (
                format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","config":{config},"layers":[]}}"#),
                None,
                "form of",
            ),
            (
                format!(r#"{{"schemaVersion":2,"config":{config},"layers":[]}}"#),
                Some(DOCKER_LIST),
                "served as",
            ),
            (
                format!(
                    r#"{{"schemaVersion":2,"mediaType":"{DOCKER_MANIFEST}","config":{config},"layers":[]}}"#
                ),
                Some(OCI_MANIFEST),
                "served as",
            ),
            (
                format!(r#"{{"schemaVersion":2,"config":{config},"config":{config},"layers":[]}}"#),
                None,
                "duplicate",
            ),
            (r#"{"schemaVersion":1,"fsLayers":[]}"#.into(), None, "schema 1"),
            (r#"{"manifests":[]}"#.into(), None, "schemaVersion"),
            ("[]".into(), None, "no manifest"),
            ("".into(), None, "no manifest"),
            (format!(r#"{{"schemaVersion":2,"config":{big},"layers":[]}}"#), None, "limit"),
            (format!(r#"{{"schemaVersion":2,"config":{negative},"layers":[]}}"#), None, "negative"),
            (
                format!(
                    r#"{{"schemaVersion":2,"config":{config},"layers":[{{"mediaType":"{foreign}","digest":"{D}","size":1}}]}}"#
                ),
                None,
                "elsewhere",
            ),
            (
                format!(
                    r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.cncf.helm.config.v1+json","digest":"{D}","size":1}},"layers":[]}}"#
                ),
                None,
                "helm",
            ),
        ] {
            let error = parse(text.as_bytes(), served, "x").expect_err(&text).to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}

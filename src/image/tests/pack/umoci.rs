//! What umoci makes of layers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use image::Digest;

/// Unpacks archives as the layers of an image, bottom first, and returns its root. A further call goes to another
/// folder of `dir`.
pub fn unpack(layers: &[&Path], dir: &Path) -> PathBuf {
    let count = fs::read_dir(dir).expect("a folder").count();
    let layout = dir.join(format!("layout-{count}"));
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("a folder");
    let put = |bytes: &[u8]| {
        let digest = Digest::of(bytes);
        fs::write(blobs.join(digest.hex()), bytes).expect("a file");
        (digest, bytes.len())
    };
    let archives: Vec<(Digest, usize)> =
        layers.iter().map(|layer| put(&fs::read(layer).expect("a layer"))).collect();
    let diff_ids: Vec<String> = archives.iter().map(|(digest, _)| format!("\"{digest}\"")).collect();
    let config = put(format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        diff_ids.join(",")
    )
    .as_bytes());
    let descriptor = |kind: &str, (digest, size): &(Digest, usize)| {
        format!(r#"{{"mediaType":"application/vnd.oci.image.{kind}","digest":"{digest}","size":{size}}}"#)
    };
    let layers: Vec<String> = archives.iter().map(|blob| descriptor("layer.v1.tar", blob)).collect();
    let manifest = put(format!(
        r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#,
        descriptor("config.v1+json", &config),
        layers.join(",")
    )
    .as_bytes());
    let manifest = descriptor("manifest.v1+json", &manifest);
    let manifest = manifest.replace('}', r#","annotations":{"org.opencontainers.image.ref.name":"latest"}}"#);
    fs::write(layout.join("index.json"), format!(r#"{{"schemaVersion":2,"manifests":[{manifest}]}}"#))
        .expect("a file");
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("a file");
    run(&format!("{}:latest", layout.display()), &dir.join(format!("bundle-{count}")))
}

/// Unpacks an image of this repo.
pub fn unpack_image(name: &str, dir: &Path) -> PathBuf {
    let layout = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/images").join(name);
    assert!(layout.join("index.json").is_file(), "there is no image {name}: run scripts/build-images first");
    run(&format!("{}:latest", layout.display()), &dir.join("bundle"))
}

fn run(image: &str, bundle: &Path) -> PathBuf {
    let output = Command::new("umoci").args(["unpack", "--image", image]).arg(bundle).output();
    let output = output.expect("umoci is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    bundle.join("rootfs")
}

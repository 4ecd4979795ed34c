//! An image, in the shape of docker's `GET /images/NAME/json`.

use anyhow::Result;
use image::{Image, ImageStore};
use serde_json::{Value, json};

use crate::commands::familiar;

/// All that is known of an image. docker's keys that would say nothing true here are left out.
pub(super) fn describe(store: &ImageStore, image: &Image) -> Result<Value> {
    let config = serde_json::to_value(&image.config)?;
    let field = |name: &str| config.get(name).cloned().unwrap_or(Value::Null);
    let text = |name: &str| config.get(name).cloned().unwrap_or(json!(""));
    // What stands in the name of a pull by digest is told once, among the digests.
    let tags = image.references.iter().filter(|reference| !reference.contains('@'));
    let mut digests: Vec<&String> = image.references.iter().filter(|name| is_bare_digest(name)).collect();
    digests.extend(&image.repo_digests);
    digests.sort();
    digests.dedup();
    let comment = image.config.history().iter().flatten().last().and_then(|last| last.comment().clone());
    let layers = store.layer_dirs(image);
    let lower: Vec<String> = layers.iter().skip(1).map(|layer| layer.display().to_string()).collect();
    let mut data = serde_json::Map::new();
    if let Some(top) = layers.first() {
        data.insert("UpperDir".to_owned(), json!(top));
    }
    if !lower.is_empty() {
        data.insert("LowerDir".to_owned(), json!(lower.join(":")));
    }
    Ok(json!({
        "Id": image.id,
        "RepoTags": tags.map(|tag| familiar(tag)).collect::<Vec<_>>(),
        "RepoDigests": digests.into_iter().map(|name| familiar(name)).collect::<Vec<_>>(),
        "Comment": comment.unwrap_or_default(),
        "Created": field("created"),
        "Author": text("author"),
        "Architecture": image.platform.architecture,
        "Variant": image.platform.variant,
        "Os": image.platform.os,
        "Size": image.size,
        "GraphDriver": { "Name": "overlay", "Data": data },
        "Config": field("config"),
        "RootFS": {
            "Type": "layers",
            "Layers": image.config.rootfs().diff_ids(),
        },
    }))
}

/// `repository@digest`, without a tag.
fn is_bare_digest(name: &str) -> bool {
    name.parse::<image::Reference>().is_ok_and(|name| name.tag().is_none() && name.digest().is_some())
}

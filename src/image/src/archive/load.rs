//! Loading images from a file into the store.

use std::fs;

use api::trace::Tracer;

use super::oci::Offer;
use super::{ArchiveInput, Offers};
use crate::assemble::{Assembler, Assembly, AssemblyOptions, ImageVariant, Sources};
use crate::digest::Digest;
use crate::error::{ImageError, Result};
use crate::platform::Platform;
use crate::progress::{LayerState, PullProgress, Silent};
use crate::pull::PullOptions;
use crate::reference::Reference;
use crate::store::layout;
use crate::store::{Image, ImageStore};

/// An image that was loaded.
#[derive(Debug)]
pub struct Loaded {
    /// It.
    pub image: Image,
    /// The names that the file gives it; none for an image without a name.
    pub names: Vec<Reference>,
}

impl ImageStore {
    /// Loads every image of a file, under the names that it has there, and says so of each through `loaded`.
    ///
    /// All documents, and all digests but those of compressed layers' content, are checked before the first image is
    /// made. When one fails after that, those before it stay, and nothing of it does.
    pub async fn load(
        &self,
        input: ArchiveInput,
        options: &PullOptions,
        progress: &dyn PullProgress,
        tracer: &Tracer,
        loaded: &mut (dyn FnMut(Loaded) + Send),
    ) -> Result<()> {
        let assembler = Assembler::begin(self)?;
        let outcome = load(&assembler, input, options, progress, tracer, loaded).await;
        let ended = assembler.end(outcome.is_err()).await;
        outcome.and(ended)
    }
}

async fn load(
    assembler: &Assembler<'_>,
    input: ArchiveInput,
    options: &PullOptions,
    progress: &dyn PullProgress,
    tracer: &Tracer,
    loaded: &mut (dyn FnMut(Loaded) + Send),
) -> Result<()> {
    let mut offers = spool(assembler, input, options, tracer).await?;
    let mut layers = 0;
    for at in 0..offers.listed.len() {
        let offer = offers.open(at)?;
        let progress = Shifted { progress, by: layers };
        layers += offer.layers.len();
        let names = offer.names.clone();
        let image = assemble(assembler, offer, options, &progress, tracer).await?;
        loaded(Loaded { image, names });
    }
    Ok(())
}

/// Takes the files into the work folder.
async fn spool(
    assembler: &Assembler<'_>,
    input: ArchiveInput,
    options: &PullOptions,
    tracer: &Tracer,
) -> Result<Offers> {
    let mut step = tracer.step("image", "archive.read");
    step.fact("archive", &input.what);
    let folder = assembler.path("spool");
    layout::make_folder(&folder)?;
    let wanted = options.platform.clone().unwrap_or_else(Platform::host);
    let (limits, held) = (options.limits.clone(), assembler.hold());
    let reading = tokio::task::spawn_blocking(move || {
        let offers = input.read(&folder, &wanted, &limits);
        drop(held);
        offers
    });
    let offers = reading.await.expect("reading does not panic")?;
    step.fact("images", offers.listed.len());
    Ok(offers)
}

/// Makes an image whose files are in the work folder.
pub(super) async fn assemble(
    assembler: &Assembler<'_>,
    offer: Offer,
    options: &PullOptions,
    progress: &dyn PullProgress,
    tracer: &Tracer,
) -> Result<Image> {
    let Offer { names, digest, manifest_digest, manifest, config, documents, layers } = offer;
    if let Some(wanted) = options.platform.as_ref().filter(|wanted| config.platform.fit(wanted).is_none()) {
        return Err(ImageError::NoPlatform {
            reference: names.first().map_or_else(|| manifest_digest.to_string(), Reference::to_string),
            wanted: wanted.clone(),
            available: vec![config.platform],
        });
    }
    for kept in &layers {
        // By another name, for it may belong to other images of the file too.
        let given = assembler.path("given");
        fs::hard_link(&kept.path, &given).map_err(ImageError::io("link", &kept.path))?;
        assembler.adopt(&given, &kept.digest)?;
        // Where the blob is the same file already, nothing was renamed (rename(2)).
        layout::remove_file(&given)?;
    }
    let variant = ImageVariant { digest: manifest_digest, manifest, config };
    let mut assembly = Assembly { name: None, local: true, digest, variant, others: Vec::new(), documents };
    let options = AssemblyOptions { parallel: options.parallel, limits: options.limits.clone() };
    let nowhere = Sources::none();
    let mut names = names.iter().map(|name| Some(name.to_string()));
    assembly.name = names.next().flatten();
    let mut image = assembler.assemble(&assembly, &nowhere, &options, progress, tracer).await?;
    for name in names {
        assembly.name = name;
        // Its layers are all there.
        image = assembler.assemble(&assembly, &nowhere, &options, &Silent, tracer).await?;
    }
    Ok(image)
}

/// Lets the layers of several images follow one another.
struct Shifted<'p> {
    progress: &'p dyn PullProgress,
    by: usize,
}

impl PullProgress for Shifted<'_> {
    fn layer(&self, index: usize, digest: &Digest, bytes: u64) {
        self.progress.layer(self.by + index, digest, bytes);
    }

    fn state(&self, index: usize, state: LayerState) {
        self.progress.state(self.by + index, state);
    }

    fn bytes(&self, index: usize, bytes: u64) {
        self.progress.bytes(self.by + index, bytes);
    }
}

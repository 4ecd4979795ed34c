//! Pulling an image: resolve its name, fetch and unpack the layers that are missing, make it visible.

mod mend;
mod resolve;

use api::trace::Tracer;

use crate::assemble::{Assembler, AssemblyOptions};
use crate::error::{ImageError, Result};
use crate::platform::Platform;
use crate::progress::PullProgress;
use crate::reference::Reference;
use crate::registries::Registries;
use crate::store::{Image, ImageStore, ingest};
use crate::unpack::Limits;

/// How an image is pulled.
#[derive(Debug, Clone)]
pub struct PullOptions {
    /// The platform to pull for; the host's when none is given.
    pub platform: Option<Platform>,
    /// Keep what the index has for other platforms too, for pushing or saving it on.
    pub all_platforms: bool,
    /// How many layers are fetched and unpacked at once; `max-parallel` in registries.d limits those of one registry.
    pub parallel: usize,
    /// How much one layer may be.
    pub limits: Limits,
}

impl Default for PullOptions {
    fn default() -> Self {
        PullOptions { platform: None, all_platforms: false, parallel: 4, limits: Limits::default() }
    }
}

impl ImageStore {
    /// Pulls what a reference stands for at its registry, or at the first mirror that has it, and gives it
    /// that name here.
    ///
    /// Layers that are here already, or that another process is making, are not fetched. When it fails, or is
    /// dropped, only layers that are complete and verified remain, and the bytes of others that came so far, for the
    /// next attempt.
    pub async fn pull(
        &self,
        reference: &Reference,
        options: &PullOptions,
        progress: &dyn PullProgress,
        tracer: &Tracer,
    ) -> Result<Image> {
        let registries = Registries::read(&self.config_root)?;
        progress.resolving(&reference.to_string());
        let (assembly, sources) =
            resolve::resolve(&self.layout, &registries, reference, options, tracer).await?;
        if let Some(record) = self.unchanged(&assembly, progress)? {
            return self.image(&record);
        }
        let assembler = Assembler::begin(self)?;
        let how = AssemblyOptions { parallel: options.parallel, limits: options.limits.clone() };
        let pulled = assembler.assemble(&assembly, &sources, &how, progress, tracer).await;
        // What is complete is of use to the next attempt, if there can be one that does better.
        let mut ended = assembler.end(!matches!(pulled, Err(ImageError::Registry { .. }))).await;
        if pulled.as_ref().is_err_and(ImageError::is_refused) {
            let layers = assembly.variant.manifest.layers.iter().map(|layer| layer.digest);
            ended = ended.and(ingest::forget(&self.layout, layers));
        }
        pulled.and_then(|image| ended.map(|()| image))
    }

    /// Every tag that the reference's repository has at its registry, or at the first mirror that answers.
    pub async fn remote_tags(&self, reference: &Reference) -> Result<Vec<String>> {
        let registries = Registries::read(&self.config_root)?;
        resolve::tags(&registries, reference).await
    }
}

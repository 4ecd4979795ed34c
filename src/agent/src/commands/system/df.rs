//! `agent system df`: what takes how much room, and how much of it could be had back.

use anyhow::{Result, bail};
use clap::Args;
use image::{ImageUsage, StoreUsage};
use jiff::Timestamp;
use runtime::{ContainerState, ContainerView, MountOption, Runtime, VolumeUsage};
use serde_json::{Value, json};

use crate::commands::images::NONE;
use crate::commands::{familiar, ps, short};
use crate::exit::Exit;
use crate::print::{self, Column, Format};

const COLUMNS: [Column; 5] = [
    ("TYPE", "Type"),
    ("TOTAL", "TotalCount"),
    ("ACTIVE", "Active"),
    ("SIZE", "Size"),
    ("RECLAIMABLE", "Reclaimable"),
];

const IMAGES: [Column; 8] = [
    ("REPOSITORY", "Repository"),
    ("TAG", "Tag"),
    ("IMAGE ID", "ID"),
    ("CREATED", "CreatedSince"),
    ("SIZE", "Size"),
    ("SHARED SIZE", "SharedSize"),
    ("UNIQUE SIZE", "UniqueSize"),
    ("CONTAINERS", "Containers"),
];

const CONTAINERS: [Column; 8] = [
    ("CONTAINER ID", "ID"),
    ("IMAGE", "Image"),
    ("COMMAND", "Command"),
    ("LOCAL VOLUMES", "LocalVolumes"),
    ("SIZE", "Size"),
    ("CREATED", "RunningFor"),
    ("STATUS", "Status"),
    ("NAMES", "Names"),
];

const VOLUMES: [Column; 3] = [("VOLUME NAME", "Name"), ("LINKS", "Links"), ("SIZE", "Size")];

/// Show how much room images, containers and volumes take
///
/// Images: their unpacked layers and the blobs these came in, each counted once however many images share it. Partial
/// downloads are what a pull that was cut short left for the next; `image prune` removes those too.
#[derive(Debug, Args)]
pub(crate) struct Df {
    /// Each image, container and volume
    #[arg(short, long)]
    verbose: bool,
    /// table, json (an object a line), or a template such as '{{.Type}}: {{.Size}}'
    #[arg(long, default_value = "table", hide_default_value = true, value_parser = print::parse_format)]
    format: Format,
}

/// Everything that takes room.
struct Usage {
    store: StoreUsage,
    containers: Vec<(ContainerView, u64)>,
    volumes: Vec<VolumeUsage>,
}

impl Df {
    pub(crate) fn run(self, runtime: &Runtime) -> Result<Exit> {
        if self.verbose && self.format != Format::Table {
            bail!("--verbose is for people: leave out --format");
        }
        let usage = Usage {
            store: runtime.images().usage()?,
            containers: runtime.container_usage()?,
            volumes: runtime.volume_usage()?,
        };
        if self.verbose {
            usage.verbose(Timestamp::now())?;
        } else {
            print::list(&self.format, &COLUMNS, usage.summary())?;
        }
        Ok(Exit::Success)
    }
}

impl Usage {
    /// A line of each kind.
    fn summary(&self) -> [Value; 4] {
        let used = |image: &ImageUsage| self.users(image) > 0;
        let is_running = |view: &ContainerView| matches!(view.state, ContainerState::Running { .. });
        let active = self.store.images.iter().filter(|image| used(image)).count();
        let (bytes, reclaimable) = (self.store.bytes(), self.store.reclaimable(used));
        // Bytes, whether it is active, and whether it could go.
        let containers = self.containers.iter().map(|(view, bytes)| {
            let running = is_running(view);
            (*bytes, running, !running)
        });
        let volumes =
            self.volumes.iter().map(|volume| (volume.bytes, volume.active, volume.containers.is_empty()));
        let partial = self.store.partial.iter().map(|(bytes, held)| (*bytes, *held, !held));
        [
            line("Images", self.store.images.len(), active, bytes, reclaimable),
            sum("Containers", containers),
            sum("Local Volumes", volumes),
            sum("Partial Downloads", partial),
        ]
    }

    /// How many containers were made from an image.
    fn users(&self, image: &ImageUsage) -> usize {
        self.containers.iter().filter(|(view, _)| view.image_id == image.summary.id).count()
    }

    fn verbose(&self, now: Timestamp) -> Result<()> {
        let images = self.store.images.iter().map(|image| {
            let (bytes, shared) = (self.store.bytes_of(&image.content), self.store.shared(image));
            let created = image.summary.created;
            json!({
                "Repository": image.summary.repository().unwrap_or_else(|| NONE.to_owned()),
                "Tag": image.summary.tag().unwrap_or_else(|| NONE.to_owned()),
                "ID": short(&image.summary.id),
                "CreatedSince": created.map_or("N/A".to_owned(), |created| print::ago(created, now)),
                "Size": print::size(bytes),
                "SharedSize": print::size(shared),
                "UniqueSize": print::size(bytes - shared),
                "Containers": self.users(image),
            })
        });
        let containers = self.containers.iter().map(|(view, bytes)| {
            let volume = |mount: &&MountOption| matches!(mount, MountOption::Volume { .. });
            json!({
                "ID": view.short_id(),
                "Image": familiar(&view.options.image),
                "Command": ps::command(&view.args, false),
                "LocalVolumes": view.options.mounts.iter().filter(volume).count(),
                "Size": print::size(*bytes),
                "RunningFor": print::ago(view.created, now),
                "Status": ps::status(&view.state, now),
                "Names": view.name,
            })
        });
        let volumes = self.volumes.iter().map(|volume| {
            json!({
                "Name": volume.name,
                "Links": volume.containers.len(),
                "Size": print::size(volume.bytes),
            })
        });
        print::out("Images space usage:\n\n")?;
        print::list(&Format::Table, &IMAGES, images)?;
        print::out("\nContainers space usage:\n\n")?;
        print::list(&Format::Table, &CONTAINERS, containers)?;
        print::out("\nLocal Volumes space usage:\n\n")?;
        print::list(&Format::Table, &VOLUMES, volumes)
    }
}

/// The line of a kind whose things share nothing.
fn sum(kind: &str, all: impl Iterator<Item = (u64, bool, bool)>) -> Value {
    let (mut count, mut active, mut bytes, mut reclaimable) = (0, 0, 0, 0);
    for (own, is_active, may_go) in all {
        count += 1;
        active += usize::from(is_active);
        bytes += own;
        reclaimable += if may_go { own } else { 0 };
    }
    line(kind, count, active, bytes, reclaimable)
}

fn line(kind: &str, total: usize, active: usize, bytes: u64, reclaimable: u64) -> Value {
    let reclaimable = match (u128::from(reclaimable) * 100).checked_div(u128::from(bytes)) {
        None => print::size(reclaimable),
        Some(percent) => format!("{} ({percent}%)", print::size(reclaimable)),
    };
    json!({
        "Type": kind,
        "TotalCount": total.to_string(),
        "Active": active.to_string(),
        "Size": print::size(bytes),
        "Reclaimable": reclaimable,
    })
}

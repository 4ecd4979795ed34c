//! Reads: `list`, `find`. One damaged container never hides the others. They change nothing, but for a container whose
//! monitor was killed while its process goes on: nobody else would end that, so whoever sees it does.

use std::fs;

use container::ExitRecord;
use container::state::ProcessRecord;
use jiff::Timestamp;

use crate::error::{FileContext, RuntimeError};
use crate::layout::names_in;
use crate::lifeline::LifeLine;
use crate::options::ContainerOptions;
use crate::record::{self, Record};
use crate::runtime::Runtime;
use crate::view::{ContainerState, ContainerView};
use crate::{id, names};

impl Runtime {
    /// Every complete container, newest first.
    ///
    /// # Errors
    /// When the folder of containers cannot be read.
    pub fn list(&self) -> Result<Vec<ContainerView>, RuntimeError> {
        let mut views = Vec::new();
        for id in self.ids()? {
            match self.view(&id) {
                Ok(Some(view)) => views.push(view),
                Ok(None) => {}
                Err(error) => tracing::warn!(id, %error, "a container cannot be read"),
            }
        }
        views.sort_by(|a, b| (b.created, &a.id).cmp(&(a.created, &b.id)));
        Ok(views)
    }

    /// The container with this full id, this name, or the only one whose id begins so; in this order.
    ///
    /// # Errors
    /// [`RuntimeError::NotFound`], [`RuntimeError::Ambiguous`]; a record that cannot be read.
    pub fn find(&self, name_or_id: &str) -> Result<ContainerView, RuntimeError> {
        let id = self.resolve(name_or_id)?;
        self.view(&id)?.ok_or_else(|| RuntimeError::NotFound { name: name_or_id.to_owned() })
    }

    /// As [`Runtime::find`], but a container whose files are damaged is found too, with nothing but its id and a name to
    /// call it by.
    pub(crate) fn find_damaged(&self, name_or_id: &str) -> Result<ContainerView, RuntimeError> {
        let id = self.resolve(name_or_id)?;
        match self.view(&id) {
            Err(RuntimeError::Damaged { path, source }) => {
                tracing::warn!(id, path = %path.display(), error = %source, "a container is damaged");
                Ok(ContainerView {
                    name: name_or_id.to_owned(),
                    log_path: self.layout.bundle(&id).log(),
                    id,
                    image_id: String::new(),
                    options: ContainerOptions::default(),
                    args: Vec::new(),
                    created: Timestamp::UNIX_EPOCH,
                    state: ContainerState::Created,
                    network: None,
                })
            }
            other => other?.ok_or_else(|| RuntimeError::NotFound { name: name_or_id.to_owned() }),
        }
    }

    /// The id of the complete container that is meant, damaged or not.
    fn resolve(&self, name_or_id: &str) -> Result<String, RuntimeError> {
        let not_found = || RuntimeError::NotFound { name: name_or_id.to_owned() };
        if id::is_id(name_or_id) && self.is_complete(name_or_id) {
            return Ok(name_or_id.to_owned());
        }
        if id::is_name(name_or_id)
            && let Some(id) = names::lookup(&self.layout, name_or_id)?
            && self.is_complete(&id)
        {
            return Ok(id);
        }
        if !id::is_hex(name_or_id) {
            return Err(not_found());
        }
        let mut found = self.ids()?.into_iter().filter(|id| id.starts_with(name_or_id));
        let Some(id) = found.next() else { return Err(not_found()) };
        if found.next().is_some() {
            return Err(RuntimeError::Ambiguous { prefix: name_or_id.to_owned() });
        }
        Ok(id)
    }

    /// Whether the container's creation was finished and its removal not begun.
    fn is_complete(&self, id: &str) -> bool {
        self.layout.bundle(id).record().exists()
    }

    /// The ids of all complete containers, damaged or not.
    pub(crate) fn complete_ids(&self) -> Result<Vec<String>, RuntimeError> {
        let mut ids = self.ids()?;
        ids.retain(|id| self.is_complete(id));
        Ok(ids)
    }

    /// The name of a container that was made from the image with this id, or the id of one that is just being made,
    /// if there is one.
    pub fn image_in_use(&self, image_id: &str) -> Option<String> {
        let ids =
            self.ids().inspect_err(|error| tracing::warn!(%error, "containers cannot be listed")).ok()?;
        // The claim first: it goes when the record is there.
        ids.iter().find_map(|id| match self.claims(id, image_id) {
            true => Some(id.clone()),
            false => match Record::read(&self.layout.bundle(id)) {
                Ok(record) => record.filter(|record| record.image_id == image_id).map(|record| record.name),
                Err(error) => {
                    tracing::warn!(id, %error, "a container cannot be read");
                    None
                }
            },
        })
    }

    /// The name of a container that was made from the image with this id and runs, or is about to, if there is one: its
    /// layers are mounted.
    pub fn image_mounted(&self, image_id: &str) -> Option<String> {
        let ids =
            self.ids().inspect_err(|error| tracing::warn!(%error, "containers cannot be listed")).ok()?;
        ids.iter().find_map(|id| match self.claims(id, image_id) {
            true => Some(id.clone()),
            false => {
                let record = Record::read(&self.layout.bundle(id)).ok().flatten();
                let record = record.filter(|record| record.image_id == image_id)?;
                // Who cannot be asked is taken to run.
                let runs = !matches!(self.state(id), Ok(ContainerState::Created | ContainerState::Exited(_)));
                let held = LifeLine::is_held(&self.layout.run_dir(id)).unwrap_or(true);
                (runs || held).then_some(record.name)
            }
        })
    }

    /// Whether a container that is not complete is being made from the image.
    fn claims(&self, id: &str, image_id: &str) -> bool {
        let claimed = fs::read_to_string(self.layout.bundle(id).claim());
        // What its maker left behind is about to be swept up.
        let is_made = || LifeLine::is_held(&self.layout.run_dir(id)).unwrap_or(true);
        claimed.is_ok_and(|claimed| claimed == image_id) && is_made()
    }

    fn ids(&self) -> Result<Vec<String>, RuntimeError> {
        let containers = self.layout.containers();
        let mut ids = names_in(&containers).file("read", &containers)?;
        ids.retain(|id| id::is_id(id));
        Ok(ids)
    }

    /// The container as it is now; `None` when it is not complete.
    fn view(&self, id: &str) -> Result<Option<ContainerView>, RuntimeError> {
        let view = self.read(id)?;
        let runs = view.as_ref().is_some_and(|view| matches!(view.state, ContainerState::Running { .. }));
        if !runs || LifeLine::is_held(&self.layout.run_dir(id))? {
            return Ok(view);
        }
        match self.reap_one(id) {
            Ok(_) => self.read(id),
            Err(error) => {
                tracing::warn!(id, %error, "failed to clean up after a container");
                Ok(view)
            }
        }
    }

    fn read(&self, id: &str) -> Result<Option<ContainerView>, RuntimeError> {
        let bundle = self.layout.bundle(id);
        let Some(record) = Record::read(&bundle)? else { return Ok(None) };
        let state = self.state(id)?;
        let network = match &state {
            ContainerState::Running { .. } => record::read(&self.layout.network_record(id))?,
            ContainerState::Created | ContainerState::Exited(_) => None,
        };
        Ok(Some(ContainerView {
            id: record.id,
            name: record.name,
            image_id: record.image_id,
            options: record.options,
            args: record.args,
            created: record.created,
            state,
            network,
            log_path: bundle.log(),
        }))
    }

    /// What the kernel says of the container, or its exit record.
    pub(crate) fn state(&self, id: &str) -> Result<ContainerState, RuntimeError> {
        let bundle = self.layout.bundle(id);
        if let Some(exit) = record::read::<ExitRecord>(&bundle.exit())? {
            return Ok(ContainerState::Exited(exit));
        }
        let run_dir = self.layout.run_dir(id);
        let Some(process) = ProcessRecord::read(&run_dir).file("read the process record in", &run_dir)?
        else {
            // It may have ended and been cleaned up between the two reads.
            let exit = record::read::<ExitRecord>(&bundle.exit())?;
            return Ok(exit.map_or(ContainerState::Created, ContainerState::Exited));
        };
        let running = ContainerState::Running { pid: process.pid, started_at: process.started_at };
        let lives = process.open().file("inspect the process recorded in", &run_dir)?.is_some();
        // One that has just ended is not over before its monitor has written down how.
        if lives || LifeLine::is_held(&run_dir)? {
            return Ok(running);
        }
        let exit = record::read::<ExitRecord>(&bundle.exit())?;
        Ok(ContainerState::Exited(exit.unwrap_or_else(|| ExitRecord {
            exit_code: 137,
            signal: None,
            oom_killed: false,
            started_at: process.started_at,
            finished_at: Timestamp::now(),
            error: Some("the container's monitor was killed before its end".to_owned()),
        })))
    }
}

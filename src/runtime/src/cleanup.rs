//! The end of a container: everything of it outside its bundle undone, and the bundle too where it is to go. All of
//! it is safe to repeat, and whoever is killed half way leaves a life-line for the next to take.

use std::fs;
use std::io;

use api::trace;
use container::cgroup::Cgroup;
use container::state::ProcessRecord;

use crate::error::{FileContext, RuntimeError};
use crate::layout::{Bundle, names_in};
use crate::lifeline::{LifeLine, Tried};
use crate::monitor::Held;
use crate::record::{self, Record, StartRecord};
use crate::runtime::Runtime;
use crate::{id, names, oci, tree};

/// The exit code of a container whose monitor was killed: as if its process had been, which it then is.
const LOST_EXIT_CODE: i32 = 137;

/// The exit code of a container that the machine's end ended; docker's.
const MACHINE_EXIT_CODE: i32 = 255;

/// What becomes of the bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// As the user said at its creation.
    AsRecorded,
    /// It goes.
    Remove,
}

impl Runtime {
    /// Cleans up after a container that has ended: its cgroup, its network, and itself if it is to be removed. Waits
    /// for a monitor that still sees to it. That nothing is left to clean up is fine.
    ///
    /// # Errors
    /// What could not be undone; the next [`Runtime::reap`] tries again.
    pub fn cleanup(&self, id: &str) -> Result<(), RuntimeError> {
        self.finish(id, Fate::AsRecorded)
    }

    pub(crate) fn finish(&self, id: &str, fate: Fate) -> Result<(), RuntimeError> {
        let held = self.held().remove(id);
        if let Some(Held { monitor }) = held {
            // The monitor lets go of the life-line as soon as it has told its clients of the end.
            if let Some(line) = LifeLine::wait(&self.layout.run_dir(id))? {
                self.clean(line, id, fate)?;
            }
            return monitor.release();
        }
        match LifeLine::wait(&self.layout.run_dir(id))? {
            Some(line) => self.clean(line, id, fate),
            None => Ok(()),
        }
    }

    /// Cleans up after every container that nobody sees to: their processes, their creators or both were killed.
    /// Returns their ids. One that cannot be cleaned up is logged and left for the next time.
    ///
    /// # Errors
    /// When the run folder cannot be read.
    pub fn reap(&self) -> Result<Vec<String>, RuntimeError> {
        let containers = self.layout.run_containers();
        let mut reaped = Vec::new();
        for id in names_in(&containers).file("read", &containers)? {
            match self.reap_one(&id) {
                Ok(true) => reaped.push(id),
                Ok(false) => {}
                Err(error) => tracing::warn!(id, %error, "failed to clean up after a container"),
            }
        }
        Ok(reaped)
    }

    /// Cleans up after the container if nobody sees to it; returns whether that was so.
    pub(crate) fn reap_one(&self, id: &str) -> Result<bool, RuntimeError> {
        match LifeLine::try_take(&self.layout.run_dir(id))? {
            Tried::Locked(line) => self.clean(line, id, Fate::AsRecorded).map(|()| true),
            Tried::Held | Tried::Gone => Ok(false),
        }
    }

    /// Removes the container whatever it is.
    pub(crate) fn discard(&self, line: LifeLine, id: &str) -> Result<(), RuntimeError> {
        self.clean(line, id, Fate::Remove)
    }

    /// Undoes everything of the container outside its bundle, decides what becomes of the bundle, and lets go of
    /// the life-line last of all.
    pub(crate) fn clean(&self, line: LifeLine, id: &str, fate: Fate) -> Result<(), RuntimeError> {
        let tracer = self.tracer(id);
        let step = tracer.step("runtime", "cgroup.remove");
        let cgroup = Cgroup::at(&oci::cgroup_path(&self.config.cgroup_parent, id))?;
        cgroup.kill_all()?;
        cgroup.remove()?;
        drop(step);
        let mark = self.layout.network_mark(id);
        if fs::exists(&mark).file("inspect", &mark)? {
            let _step = tracer.step("runtime", "network.detach");
            self.network()?.detach(id)?;
        }
        let bundle = self.layout.bundle(id);
        let record = match Record::read(&bundle) {
            // It cannot say what is to become of it, so only an order to go counts.
            Err(error) if fate == Fate::AsRecorded => {
                tracing::warn!(id, %error, "a container's record cannot be read");
                return line.finish();
            }
            Err(_) => None,
            Ok(record) => record,
        };
        let stays = match &record {
            Some(record) if fate == Fate::AsRecorded && !record.options.remove => settle(&bundle, &line)?,
            _ => false,
        };
        if !stays {
            let _step = tracer.step("runtime", "container.remove");
            // It was in use until now.
            let image = record.as_ref().map_or("", |record| &record.image_id);
            if let Err(error) = self.images().mark_used(image) {
                tracing::warn!(id, %error, "failed to note the use of an image");
            }
            self.remove_bundle(&bundle, id, record.as_ref())?;
        }
        if !stays {
            // Before the run folder, without which nobody would find what is left.
            let rings = self.layout.trace();
            trace::remove(&rings, id).file("remove a trace below", &rings)?;
        }
        line.finish()
    }

    /// Removes the bundle: the record first, without which the rest is something that was never completed.
    fn remove_bundle(&self, bundle: &Bundle, id: &str, record: Option<&Record>) -> Result<(), RuntimeError> {
        match fs::remove_file(bundle.record()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).file("remove", &bundle.record());
            }
            _ => {}
        }
        match record {
            Some(record) => names::release(&self.layout, &record.name, id)?,
            None => names::release_all(&self.layout, id)?,
        }
        tree::remove(bundle.path()).file("remove", bundle.path())
    }

    /// The first thing after a boot: what the machine's end cut short is finished or undone.
    pub(crate) fn sweep(&self) -> Result<(), RuntimeError> {
        let containers = self.layout.containers();
        for id in names_in(&containers).file("read", &containers)? {
            if !id::is_id(&id) {
                continue;
            }
            if let Err(error) = self.sweep_one(&id) {
                tracing::warn!(id, %error, "failed to sweep up a container");
            }
        }
        Ok(())
    }

    fn sweep_one(&self, id: &str) -> Result<(), RuntimeError> {
        let bundle = self.layout.bundle(id);
        let mut fate = Fate::AsRecorded;
        let cut_short = match Record::read(&bundle) {
            // A power cut lost it, as it may where the container is to go at its end, or soon after the creation.
            Err(RuntimeError::Damaged { path, source }) if record::is_torn(&source) => {
                tracing::warn!(id, path = %path.display(), "a container's record was torn; the container is removed");
                fate = Fate::Remove;
                true
            }
            Err(error) => return Err(error),
            Ok(None) => true,
            Ok(Some(record)) if record.options.remove => true,
            Ok(Some(_)) => {
                let started = record::read::<StartRecord>(&bundle.start())?;
                match started.filter(|_| !bundle.exit().exists()) {
                    None => false,
                    Some(start) => {
                        let error = "the machine stopped while the container ran";
                        record::write_lost_exit(&bundle, MACHINE_EXIT_CODE, start.time, error)?;
                        true
                    }
                }
            }
        };
        if !cut_short {
            return Ok(());
        }
        let line = LifeLine::create(&self.layout.run_dir(id))?;
        self.clean(line, id, fate)
    }
}

/// Makes sure that a complete container which is to stay has an exit record if its command ever ran. Returns
/// whether it stays: one that was run but never came so far does not.
fn settle(bundle: &Bundle, line: &LifeLine) -> Result<bool, RuntimeError> {
    if bundle.exit().exists() {
        return Ok(true);
    }
    let run_dir = line.run_dir();
    if let Some(process) = ProcessRecord::read(run_dir).file("read the process record in", run_dir)? {
        let error = "the container's monitor was killed, and the container with it";
        record::write_lost_exit(bundle, LOST_EXIT_CODE, process.started_at, error)?;
        return Ok(true);
    }
    Ok(!bundle.start().exists())
}

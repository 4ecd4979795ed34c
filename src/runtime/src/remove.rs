//! `rm`: a container removed, with force while it runs.

use crate::cleanup::Fate;
use crate::error::RuntimeError;
use crate::lifeline::{LifeLine, Tried};
use crate::runtime::Runtime;
use crate::view::ContainerState;

impl Runtime {
    /// Removes the container and everything of it but its named volumes. One that runs is killed with `force` and
    /// refused without. That its record is damaged is no hindrance.
    ///
    /// # Errors
    /// [`RuntimeError::NotFound`], [`RuntimeError::Running`], [`RuntimeError::Starting`],
    /// [`RuntimeError::Unkillable`], and what clean-up meets; what was begun then, [`Runtime::reap`] finishes.
    pub fn remove(&self, name_or_id: &str, force: bool) -> Result<(), RuntimeError> {
        self.reap()?;
        let view = self.find_damaged(name_or_id)?;
        let id = view.id.as_str();
        let run_dir = self.layout.run_dir(id);
        loop {
            match LifeLine::try_take(&run_dir)? {
                Tried::Locked(line) => return self.clean(line, id, Fate::Remove),
                Tried::Gone => {
                    // Cleaned up already. Only the removal itself needs a life-line.
                    let line = LifeLine::create(&run_dir)?;
                    return self.clean(line, id, Fate::Remove);
                }
                Tried::Held => {}
            }
            match self.state(id)? {
                ContainerState::Created => return Err(RuntimeError::Starting { name: view.name }),
                ContainerState::Running { .. } if !force && self.living(&view)?.is_some() => {
                    return Err(RuntimeError::Running { name: view.name });
                }
                ContainerState::Running { .. } => self.end_process(&view)?,
                ContainerState::Exited(_) => {}
            }
            // Whoever holds it lets go soon, since the process is no more; what is left then, the next round sees.
            if self.held().contains_key(id) {
                return self.finish(id, Fate::Remove);
            }
            self.hurry(id)?;
            if let Some(line) = LifeLine::wait(&run_dir)? {
                return self.clean(line, id, Fate::Remove);
            }
        }
    }
}

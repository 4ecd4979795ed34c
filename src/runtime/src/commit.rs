//! `commit`: a new image of a container's image and what the container changed.

use std::any::Any;
use std::time::{Duration, Instant};

use container::Frame;
use container::cgroup::Cgroup;
use image::change::{list, object};
use image::pack::Packed;
use image::{CommitOptions, ContainerChanges, Image};
use nix::sys::socket::MsgFlags;
use serde_json::{Map, Value, json};

use crate::error::RuntimeError;
use crate::files::ContainerFiles;
use crate::oci;
use crate::options::ContainerOptions;
use crate::record::Record;
use crate::runtime::Runtime;
use crate::view::ContainerState;

/// How long a container's processes may take to stand still: one that hangs in the kernel does not.
const FREEZE_LIMIT: Duration = Duration::from_secs(10);

impl Runtime {
    /// Makes an image of the container's image, its changes and its configuration; what lies in its mounts is no part of
    /// it. With `pause`, its processes stand still while its files are read.
    ///
    /// # Errors
    /// [`RuntimeError::NotFound`], [`RuntimeError::ImageGone`], [`RuntimeError::NotPaused`], and what the image store
    /// refuses; nothing is left then.
    pub async fn commit(
        &self,
        name_or_id: &str,
        pause: bool,
        mut options: CommitOptions,
    ) -> Result<(Image, Packed), RuntimeError> {
        let (record, bundle) = self.record(name_or_id)?;
        let image = self.images().resolve(&record.image_id)?.ok_or_else(|| RuntimeError::ImageGone {
            name: record.name.clone(),
            image: record.options.image.clone(),
        })?;
        let ContainerFiles { top, below, excluded } = self.files(&record, &bundle)?;
        let tracer = self.tracer(&record.id);
        let mut step = tracer.step("runtime", "container.commit");
        let hold: Box<dyn Any + Send> = match pause && self.runs(&record.id)? {
            true => Box::new(self.freeze(&record)?),
            false => Box::new(()),
        };
        options.created_by = record.args.join(" ");
        let there = bundle.record();
        let still_there = Box::new(move || std::fs::metadata(there).map(drop));
        let files = ContainerChanges { top, below, excluded, hold, still_there };
        let configure = |config: &mut Map<String, Value>| configure(config, &record.options);
        let made = match self.images().commit(&image, files, configure, &options, &tracer).await {
            // Whatever it failed at comes of that.
            Err(_) if Record::read(&bundle)?.is_none() => {
                drop(step);
                return Err(self.removed_meanwhile(name_or_id, &record.id)?);
            }
            other => other?,
        };
        step.fact("image", &made.0.id);
        Ok(made)
    }

    fn runs(&self, id: &str) -> Result<bool, RuntimeError> {
        Ok(matches!(self.state(id)?, ContainerState::Running { .. }))
    }

    /// Lets the container's monitor stop its processes, and waits until they stand still. They go on when what is
    /// returned is dropped, or we are gone: the monitor sees to it.
    fn freeze(&self, record: &Record) -> Result<impl Any + Send, RuntimeError> {
        let monitor = |source| RuntimeError::Monitor { operation: "ask", id: record.id.clone(), source };
        let Some(socket) = self.connect_monitor(&record.id)? else { return Ok(None) };
        socket.send(&Frame::Freeze, MsgFlags::empty()).map_err(monitor)?;
        let cgroup = Cgroup::at(&oci::cgroup_path(&self.config.cgroup_parent, &record.id))?;
        let deadline = Instant::now() + FREEZE_LIMIT;
        while !cgroup.is_frozen()? {
            if !self.runs(&record.id)? {
                break;
            }
            if Instant::now() > deadline {
                return Err(RuntimeError::NotPaused { name: record.name.clone() });
            }
            // The kernel tells nobody when it is done (v1): it is asked.
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(Some(socket))
    }
}

/// Makes a container's configuration of its image's, as docker records it.
fn configure(config: &mut Map<String, Value>, options: &ContainerOptions) {
    for variable in &options.env {
        let name = |text: &str| text.split('=').next().unwrap_or_default().to_owned();
        let env = list(config, "Env");
        match env.iter_mut().find(|old| old.as_str().map(name) == Some(name(variable))) {
            Some(old) => *old = json!(variable),
            None => env.push(json!(variable)),
        }
    }
    if let Some(entrypoint) = &options.entrypoint {
        config.insert("Entrypoint".to_owned(), json!(entrypoint));
        config.remove("Cmd");
    }
    if !options.command.is_empty() {
        config.insert("Cmd".to_owned(), json!(options.command));
    }
    for (key, value) in [("User", &options.user), ("WorkingDir", &options.workdir)] {
        if let Some(value) = value {
            config.insert(key.to_owned(), json!(value));
        }
    }
    for (label, value) in &options.labels {
        object(config, "Labels").insert(label.clone(), json!(value));
    }
    for port in &options.ports {
        let protocol = port.protocol.to_string();
        object(config, "ExposedPorts").insert(format!("{}/{protocol}", port.container_port), json!({}));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(image: Value, options: &ContainerOptions, expected: Value) {
        let mut config = image.as_object().cloned().unwrap_or_default();
        configure(&mut config, options);
        assert_eq!(Value::Object(config), expected);
    }

    #[test]
    fn what_a_container_was_run_with_is_its_images_configuration() {
        let image = json!({"Env": ["A=1", "B=2"], "Entrypoint": ["/e"], "Cmd": ["c"], "Labels": {"x": "1"}, "Other": 1});
        check(image.clone(), &ContainerOptions::default(), image.clone());
        let options = ContainerOptions {
            command: vec!["sh".into(), "-c".into()],
            env: vec!["B=3".into(), "C=4".into()],
            user: Some("7".into()),
            workdir: Some("/w".into()),
            labels: [("y".to_owned(), "2".to_owned())].into(),
            ..Default::default()
        };
        let expected = json!({
            "Env": ["A=1", "B=3", "C=4"], "Entrypoint": ["/e"], "Cmd": ["sh", "-c"], "User": "7", "WorkingDir": "/w",
            "Labels": {"x": "1", "y": "2"}, "Other": 1,
        });
        check(image.clone(), &options, expected);
        let options = ContainerOptions { entrypoint: Some(vec!["/own".into()]), ..Default::default() };
        let expected =
            json!({"Env": ["A=1", "B=2"], "Entrypoint": ["/own"], "Labels": {"x": "1"}, "Other": 1});
        check(image, &options, expected);
        check(json!(null), &ContainerOptions::default(), json!({}));
    }
}

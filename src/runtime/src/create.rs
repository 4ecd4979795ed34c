//! `create`: a container's bundle, everything of it but a process.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use container::ExitRecord;
use container::capability::{self, CapabilityPlan};
use container::cgroup;
use image::Image;
use jiff::Timestamp;

use crate::error::{FileContext, RuntimeError};
use crate::layout::{make_private, names_in};
use crate::lifeline::LifeLine;
use crate::oci::Surroundings;
use crate::options::{ContainerOptions, MountOption, NetworkMode};
use crate::record::{self, Owner, Record, StartRecord};
use crate::rootfs::RootfsDriver;
use crate::runtime::Runtime;
use crate::view::ContainerView;
use crate::{check, id, init_layer, names, oci, process, signal};

/// A folder for each processor of the machine.
const CPUS: &str = "/sys/devices/system/cpu";

/// What a container is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To be there.
    Keep,
    /// To be started at once: if it never is, it goes.
    Start,
}

/// A complete container whose life-line is in our hand.
#[derive(Debug)]
pub(crate) struct Created {
    pub(crate) record: Record,
    pub(crate) line: LifeLine,
}

impl Runtime {
    /// Makes a container without starting it.
    ///
    /// # Errors
    /// Options that cannot be had, a name that is taken, and what the file system refuses; nothing is left then.
    pub fn create(&self, options: ContainerOptions, image: &Image) -> Result<ContainerView, RuntimeError> {
        let create = || {
            self.reap()?;
            let Created { record, line } = self.create_held(options, image, Purpose::Keep)?;
            // Nothing of it is outside its bundle.
            line.finish()?;
            self.find(&record.id)
        };
        create().map_err(RuntimeError::at_start)
    }

    /// Makes a container and keeps its life-line. What fails half way is undone.
    pub(crate) fn create_held(
        &self,
        options: ContainerOptions,
        image: &Image,
        purpose: Purpose,
    ) -> Result<Created, RuntimeError> {
        let restricts_devices = cgroup::hierarchy().restricts_devices();
        check::container(&options, restricts_devices)?;
        let args = process::args(&options, &image.config)?;
        let plan = oci::capabilities(&options, capability::host()?, restricts_devices)?;
        if !plan.missing.is_empty() {
            tracing::warn!(missing = ?plan.missing, "capabilities that containers usually have are not available");
        }

        let id = id::new_id()?;
        let tracer = self.tracer(&id);
        let mut step = tracer.step("runtime", "container.create");
        let line = LifeLine::create(&self.layout.run_dir(&id))?;
        match self.fill_bundle(&id, options, image, purpose, args, &plan) {
            Ok(record) => {
                step.fact("name", &record.name).fact("image", &record.image_id);
                Ok(Created { record, line })
            }
            Err(error) => {
                drop(step);
                // The first error is the one to tell.
                if let Err(error) = self.discard(line, &id) {
                    tracing::warn!(id, %error, "failed to undo a failed creation");
                }
                Err(error)
            }
        }
    }

    /// Writes everything of the bundle, the record last.
    fn fill_bundle(
        &self,
        id: &str,
        options: ContainerOptions,
        image: &Image,
        purpose: Purpose,
        args: Vec<String>,
        plan: &CapabilityPlan,
    ) -> Result<Record, RuntimeError> {
        let bundle = self.layout.bundle(id);
        make_private(bundle.path()).file("create", bundle.path())?;
        // Before the record names the image, this does, so that it is not removed under us.
        fs::write(bundle.claim(), &image.id).file("write", &bundle.claim())?;
        self.images().claim(image)?;
        let name = names::take(&self.layout, options.name.as_deref(), id)?;
        self.make_sources(&options.mounts)?;
        let hostname = hostname(&options, id)?;
        init_layer::make(&bundle.init_layer(), options.network, &hostname)?;
        let driver = RootfsDriver::choose(&self.layout, &bundle)?;
        let rootfs = driver.prepare(&bundle, self.images(), image, options.remove, &self.tracer(id))?;
        let process = process::first(&options, &image.config, args.clone(), &hostname, plan.to_oci());
        let spec = oci::spec(
            &options,
            process,
            plan,
            &Surroundings {
                id,
                rootfs: bundle.rootfs(),
                hostname: &hostname,
                cgroup_parent: &self.config.cgroup_parent,
                limits_swap: cgroup::limits_swap(),
                restricts_devices: cgroup::hierarchy().restricts_devices(),
                throttles: throttles(Path::new(CPUS)).file("read", Path::new(CPUS))?,
                volume_data: &|name| self.layout.volume_data(name),
            },
        )?;
        record::write(&bundle.config(), &spec, !options.remove)?;
        if !options.remove {
            ExitRecord::reserve(&bundle.exit()).file("reserve room for", &bundle.exit())?;
        }
        // One that is to be removed at its end needs no such record: it goes in any case.
        if purpose == Purpose::Start && !options.remove {
            record::write(&bundle.start(), &StartRecord { time: Timestamp::now() }, true)?;
        }
        let stop_signal = image.config.config().as_ref().and_then(|config| config.stop_signal().as_deref());
        let record = Record {
            id: id.to_owned(),
            name,
            owner: Owner::User,
            image_id: image.id.clone(),
            options,
            args,
            created: Timestamp::now(),
            stop_signal: stop_signal.and_then(signal::number).unwrap_or(signal::TERM),
            hostname,
            rootfs,
        };
        record.write(&bundle)?;
        fs::remove_file(bundle.claim()).file("remove", &bundle.claim())?;
        Ok(record)
    }

    /// Makes volumes, and folders of the host that are to be bound and do not exist, as `docker run -v` does.
    fn make_sources(&self, mounts: &[MountOption]) -> Result<(), RuntimeError> {
        for mount in mounts {
            match mount {
                MountOption::Bind { source, .. } if !exists(source)? => {
                    fs::create_dir_all(source).file("create", source)?;
                }
                MountOption::Volume { name, .. } => {
                    let data: PathBuf = self.layout.volume_data(name);
                    if let Some(volume) = data.parent() {
                        make_private(volume).file("create", volume)?;
                    }
                    if !exists(&data)? {
                        fs::create_dir(&data).file("create", &data)?;
                        // For the users of the container, whatever the umask.
                        let mode = fs::Permissions::from_mode(0o755);
                        fs::set_permissions(&data, mode).file("change the mode of", &data)?;
                    }
                }
                MountOption::Bind { .. } | MountOption::Tmpfs { .. } => {}
            }
        }
        Ok(())
    }
}

/// The paths below `cpus` by which the heat of each processor can be read, as docker covers them: from outside a
/// container it tells what others do (moby, `oci/defaults.go`).
fn throttles(cpus: &Path) -> io::Result<Vec<String>> {
    let is_cpu = |name: &str| name.strip_prefix("cpu").is_some_and(|number| number.parse::<u32>().is_ok());
    let names = names_in(cpus)?.into_iter().filter(|name| is_cpu(name));
    let mut paths: Vec<String> = names
        .map(|name| cpus.join(name).join("thermal_throttle"))
        .filter(|path| path.exists())
        .map(|path| path.display().to_string())
        .collect();
    paths.sort();
    Ok(paths)
}

fn exists(path: &Path) -> Result<bool, RuntimeError> {
    fs::exists(path).file("inspect", path)
}

/// As docker: the short id, but on the host's network the host's own.
fn hostname(options: &ContainerOptions, id: &str) -> Result<String, RuntimeError> {
    match (&options.hostname, options.network) {
        (Some(hostname), _) => Ok(hostname.clone()),
        (None, NetworkMode::Host) => {
            let path = Path::new("/proc/sys/kernel/hostname");
            Ok(fs::read_to_string(path).file("read", path)?.trim().to_owned())
        }
        (None, NetworkMode::Bridge | NetworkMode::None) => Ok(id[..12].to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_processor_that_tells_its_heat_is_found() {
        let folder = tempfile::tempdir().unwrap();
        for path in ["cpu0/thermal_throttle", "cpu11/thermal_throttle", "cpu2", "cpufreq/thermal_throttle"] {
            fs::create_dir_all(folder.path().join(path)).unwrap();
        }
        let expected =
            ["cpu0", "cpu11"].map(|cpu| format!("{}/{cpu}/thermal_throttle", folder.path().display()));
        assert_eq!(throttles(folder.path()).unwrap(), expected);
        assert!(throttles(&folder.path().join("missing")).unwrap().is_empty());
    }
}

//! A container's files as its processes see them, mounts included: a running one's through its first process, one
//! that does not run mounted in a mount namespace of ours that nobody else is in. Held by descriptor either way, so
//! that nothing is left on the machine, whatever becomes of us.
//!
//! Code of the container is never run for it, nor a library of it loaded (CVE-2019-14271): all is done by this process on
//! descriptors.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use container::monitor::RootfsSpec;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use sys::mount::{AttributeChange, attr};

use crate::error::{FileContext, RuntimeError};
use crate::layout::Bundle;
use crate::lifeline::LifeLine;
use crate::options::MountOption;
use crate::record::Record;
use crate::runtime::Runtime;

/// How long another copy, a start or the end of the container is waited for. Not for ever: of two copies with a pipe
/// between them, the one that has the container may wait for the other.
const BUSY_LIMIT: Duration = Duration::from_secs(5);

/// A container's root, and what keeps it there.
#[derive(Debug)]
pub(crate) struct RootView {
    root: OwnedFd,
    stopped: Option<Stopped>,
}

/// What was mounted for a container that does not run.
#[derive(Debug)]
struct Stopped {
    /// The mount namespace, which lives as long as this is open. Before the life-line, so that nothing is mounted any
    /// more when others may start or remove the container.
    namespace: File,
    line: LifeLine,
}

impl Runtime {
    /// Opens the root of a container.
    pub(crate) fn open_root(&self, name_or_id: &str) -> Result<RootView, RuntimeError> {
        self.reap()?;
        let id = self.find(name_or_id)?.id;
        let deadline = Instant::now() + BUSY_LIMIT;
        loop {
            let view = self.find(&id)?;
            if let Some((process, _pidfd)) = self.living(&view)? {
                let path = format!("/proc/{}/root", process.pid);
                let path = Path::new(&path);
                let root = open_folder(path);
                // Its pid may have become another's before the folder was opened, but not if it lives still.
                if self.living(&view)?.is_some_and(|(same, _)| same == process) {
                    return Ok(RootView { root: root.file("open", path)?, stopped: None });
                }
            }
            let Some(line) = LifeLine::try_create(&self.layout.run_dir(&id))? else {
                if Instant::now() > deadline {
                    return Err(RuntimeError::Busy { name: view.name });
                }
                // Nobody tells when a lock becomes free to whoever does not wait for that alone.
                std::thread::sleep(Duration::from_millis(10));
                continue;
            };
            match self.mount_stopped(&id) {
                Ok(Some((root, namespace))) => {
                    return Ok(RootView { root, stopped: Some(Stopped { namespace, line }) });
                }
                // It was started, or removed, before the life-line was ours.
                Ok(None) => line.finish()?,
                Err(error) => {
                    line.finish()?;
                    return Err(error);
                }
            }
        }
    }

    /// Mounts the root of a container whose life-line is ours; `None` when it is no more.
    fn mount_stopped(&self, id: &str) -> Result<Option<(OwnedFd, File)>, RuntimeError> {
        let bundle = self.layout.bundle(id);
        let Some(record) = Record::read(&bundle)? else { return Ok(None) };
        // A mount namespace belongs to a thread, and so does the working directory that layers are relative to.
        let mounting =
            std::thread::scope(|scope| scope.spawn(|| self.mount_in_own_namespace(&record, &bundle)).join());
        mounting.expect("mounting does not panic").map(Some)
    }

    fn mount_in_own_namespace(
        &self,
        record: &Record,
        bundle: &Bundle,
    ) -> Result<(OwnedFd, File), RuntimeError> {
        let place = bundle.rootfs();
        let mounted = || -> io::Result<OwnedFd> {
            unshare(CloneFlags::CLONE_NEWNS)?;
            // What is unmounted on the machine meanwhile is not kept busy by us.
            let slave = MsFlags::MS_SLAVE | MsFlags::MS_REC;
            mount(None::<&str>, "/", None::<&str>, slave, None::<&str>)?;
            match &record.rootfs {
                RootfsSpec::Ready => {
                    let tree = File::open(&place)?;
                    sys::mount::attach(sys::mount::copy_tree(&tree, false)?, &tree)?;
                }
                RootfsSpec::Overlay { lower, links, upper, work, .. } => {
                    // Never volatile: that could be mounted once only.
                    let options = container::overlay::options(lower, upper, work, false)?;
                    nix::unistd::chdir(links)?;
                    let flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
                    mount(Some("overlay"), &place, Some("overlay"), flags, Some(options.as_str()))?;
                }
            }
            let root = open_folder(&place)?;
            if record.options.read_only {
                let change = AttributeChange { set: attr::RDONLY, ..Default::default() };
                sys::mount::set_attributes(&root, change)?;
            }
            Ok(root)
        };
        let root = mounted().file("mount the container's files at", &place)?;
        for option in &record.options.mounts {
            self.mount_in(&root, option)?;
        }
        let own = Path::new("/proc/thread-self/ns/mnt");
        Ok((root, File::open(own).file("open", own)?))
    }

    /// Mounts what the user mounts in the container. A place that is missing was never mounted at, and has nothing.
    fn mount_in(&self, root: &OwnedFd, option: &MountOption) -> Result<(), RuntimeError> {
        let (source, read_only) = match option {
            MountOption::Bind { source, read_only, .. } => (source.clone(), *read_only),
            MountOption::Volume { name, read_only, .. } => (self.layout.volume_data(name), *read_only),
            // What was in memory went with the container.
            MountOption::Tmpfs { .. } => return Ok(()),
        };
        let attach = || -> io::Result<()> {
            let how = OpenHow::new()
                .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
                .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
            let target = match openat2(root, option.target(), how) {
                Err(nix::errno::Errno::ENOENT) => return Ok(()),
                other => other?,
            };
            let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
            let source = nix::fcntl::open(&source, flags, nix::sys::stat::Mode::empty())?;
            let copy = sys::mount::copy_tree(&source, true)?;
            if read_only {
                let change = AttributeChange { set: attr::RDONLY, recursive: true, ..Default::default() };
                sys::mount::set_attributes(&copy, change)?;
            }
            sys::mount::attach(&copy, &target)
        };
        attach().file("mount", &source)
    }
}

impl RootView {
    pub(crate) fn root(&self) -> io::Result<OwnedFd> {
        self.root.try_clone()
    }

    /// Lets go of the container.
    pub(crate) fn close(self) -> Result<(), RuntimeError> {
        drop(self.root);
        match self.stopped {
            None => Ok(()),
            Some(Stopped { namespace, line }) => {
                drop(namespace);
                line.finish()
            }
        }
    }
}

fn open_folder(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    Ok(nix::fcntl::open(path, flags, nix::sys::stat::Mode::empty())?)
}

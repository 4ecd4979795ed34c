//! Profiles from files: the OCI form as it stands in a bundle, and docker's, whose rules say for which
//! capabilities, machines and kernels they hold.
//!
//! Source: the runtime specification's `linux.seccomp`; docker's `profiles/seccomp` types.

use std::fs;
use std::path::Path;

use oci_spec::runtime::{
    Arch, Capabilities, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompBuilder,
    LinuxSeccompFilterFlag, LinuxSyscall, LinuxSyscallBuilder,
};
use serde::Deserialize;
use serde::de::Error as _;

use super::{SeccompError, invalid};

/// A kernel's version and patch level, as `minKernel` counts: "6.1".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kernel {
    /// The first number of the release.
    pub version: u32,
    /// The second.
    pub patch_level: u32,
}

impl Kernel {
    /// The running kernel.
    ///
    /// # Errors
    /// [`SeccompError::KernelRelease`] when /proc does not tell.
    pub fn running() -> Result<Kernel, SeccompError> {
        let read = || {
            let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
            Kernel::from_release(&release)
                .ok_or_else(|| std::io::Error::other(format!("unexpected release {:?}", release.trim())))
        };
        read().map_err(|source| SeccompError::KernelRelease { source })
    }

    /// Reads "6.1", "6.1.0-13-amd64" or "5.10-rc1".
    #[must_use]
    pub fn from_release(release: &str) -> Option<Kernel> {
        let (version, rest) = release.trim().split_once('.')?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        Some(Kernel { version: version.parse().ok()?, patch_level: rest[..digits].parse().ok()? })
    }
}

/// Reads the profile in the file at `path`, with the rules that hold for a container whose bounding set is
/// `bounding` on the running kernel.
///
/// # Errors
/// Any [`SeccompError`] but `Install` and `TooLarge`; a file that is missing, empty or without a default action is
/// one, never a container without a filter (CVE-2023-2431).
pub fn load(path: &Path, bounding: &Capabilities) -> Result<LinuxSeccomp, SeccompError> {
    let text =
        fs::read_to_string(path).map_err(|source| SeccompError::Read { path: path.to_owned(), source })?;
    parse_named(&text, path, bounding, Kernel::running()?)
}

/// As [`load`], of text that is already here; `kernel` is the one to decide `minKernel` by.
pub fn parse(text: &str, bounding: &Capabilities, kernel: Kernel) -> Result<LinuxSeccomp, SeccompError> {
    parse_named(text, Path::new(""), bounding, kernel)
}

fn parse_named(
    text: &str,
    path: &Path,
    bounding: &Capabilities,
    kernel: Kernel,
) -> Result<LinuxSeccomp, SeccompError> {
    let empty = || SeccompError::Empty { path: path.to_owned() };
    if text.trim().is_empty() {
        return Err(empty());
    }
    let profile: Option<Profile> =
        serde_json::from_str(text).map_err(|source| SeccompError::Parse { path: path.to_owned(), source })?;
    let profile = profile.ok_or_else(empty)?;
    let default_action = profile.default_action.ok_or_else(empty)?;
    profile.settle(default_action, bounding, kernel)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: Option<LinuxSeccompAction>,
    default_errno_ret: Option<u32>,
    architectures: Option<Vec<Arch>>,
    arch_map: Option<Vec<ArchMapEntry>>,
    flags: Option<Vec<LinuxSeccompFilterFlag>>,
    listener_path: Option<std::path::PathBuf>,
    listener_metadata: Option<String>,
    syscalls: Option<Vec<Rule>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMapEntry {
    architecture: Arch,
    sub_architectures: Option<Vec<Arch>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    name: Option<String>,
    names: Option<Vec<String>>,
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    args: Option<Vec<LinuxSeccompArg>>,
    includes: Option<Scope>,
    excludes: Option<Scope>,
}

/// When a rule holds (`includes`) or does not (`excludes`).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Scope {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    #[serde(default, deserialize_with = "min_kernel")]
    min_kernel: Option<Kernel>,
}

fn min_kernel<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Kernel>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
    if text.is_empty() {
        return Ok(None);
    }
    Kernel::from_release(&text)
        .map(Some)
        .ok_or_else(|| D::Error::custom(format!("minKernel {text:?} is not of the form \"4.8\"")))
}

/// Docker's name of the machine this program is for.
const MACHINE: &str = "amd64";

impl Profile {
    fn settle(
        self,
        default_action: LinuxSeccompAction,
        bounding: &Capabilities,
        kernel: Kernel,
    ) -> Result<LinuxSeccomp, SeccompError> {
        let architectures = self.architectures.unwrap_or_default();
        let arch_map = self.arch_map.unwrap_or_default();
        if !architectures.is_empty() && !arch_map.is_empty() {
            return Err(invalid("it has both architectures and archMap; keep one"));
        }
        let mapped = arch_map.into_iter().find(|entry| entry.architecture == Arch::ScmpArchX86_64);
        let architectures = match mapped {
            Some(entry) => std::iter::once(entry.architecture)
                .chain(entry.sub_architectures.unwrap_or_default())
                .collect(),
            None => architectures,
        };
        let mut rules = Vec::new();
        for rule in self.syscalls.unwrap_or_default() {
            if rule.holds(bounding, kernel) {
                rules.push(rule.settle()?);
            }
        }
        let mut profile = LinuxSeccompBuilder::default()
            .default_action(default_action)
            .architectures(architectures)
            .syscalls(rules);
        if let Some(errno) = self.default_errno_ret {
            profile = profile.default_errno_ret(errno);
        }
        if let Some(flags) = self.flags {
            profile = profile.flags(flags);
        }
        if let Some(listener) = self.listener_path.filter(|path| !path.as_os_str().is_empty()) {
            profile = profile.listener_path(listener);
        }
        if let Some(metadata) = self.listener_metadata {
            profile = profile.listener_metadata(metadata);
        }
        Ok(profile.build().expect("every field has a default"))
    }
}

impl Rule {
    fn holds(&self, bounding: &Capabilities, kernel: Kernel) -> bool {
        let has = |name: &String| {
            // A capability no kernel of ours knows is one the container lacks.
            crate::capability::parse(name).is_ok_and(|capability: Capability| bounding.contains(&capability))
        };
        let excluded = self.excludes.as_ref().is_some_and(|scope| {
            scope.arches().iter().any(|arch| arch == MACHINE)
                || scope.caps().iter().any(has)
                || scope.min_kernel.is_some_and(|least| kernel >= least)
        });
        let included = self.includes.as_ref().is_none_or(|scope| {
            (scope.arches().is_empty() || scope.arches().iter().any(|arch| arch == MACHINE))
                && scope.caps().iter().all(has)
                && scope.min_kernel.is_none_or(|least| kernel >= least)
        });
        included && !excluded
    }

    fn settle(self) -> Result<LinuxSyscall, SeccompError> {
        let mut names = self.names.unwrap_or_default();
        if let Some(name) = self.name.filter(|name| !name.is_empty()) {
            if !names.is_empty() {
                return Err(invalid(format!("the rule for {name} has both name and names; keep one")));
            }
            names.push(name);
        }
        let mut rule = LinuxSyscallBuilder::default().names(names).action(self.action);
        if let Some(errno) = self.errno_ret {
            rule = rule.errno_ret(errno);
        }
        if let Some(args) = self.args.filter(|args| !args.is_empty()) {
            rule = rule.args(args);
        }
        Ok(rule.build().expect("every field has a default"))
    }
}

impl Scope {
    fn caps(&self) -> &[String] {
        self.caps.as_deref().unwrap_or_default()
    }

    fn arches(&self) -> &[String] {
        self.arches.as_deref().unwrap_or_default()
    }
}

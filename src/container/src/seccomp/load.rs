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
    parse_named(text, Path::new("(given as text)"), bounding, kernel)
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

#[cfg(test)]
mod tests {
    use super::*;

    const DOCKER: &str = r#"{
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "comment": "ours",
        "archMap": [
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
            {"architecture": "SCMP_ARCH_RISCV64", "subArchitectures": null}
        ],
        "syscalls": [
            {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": null, "comment": "", "includes": {}, "excludes": {}},
            {"name": "old", "action": "SCMP_ACT_ALLOW", "args": []},
            {"names": ["admin"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["both"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN", "CAP_BPF"]}},
            {"names": ["not_admin"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38, "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["future"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_TIME_TRAVEL"]}},
            {"names": ["amd"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64", "x32"]}},
            {"names": ["arm"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm", "arm64"]}},
            {"names": ["not_amd"], "action": "SCMP_ACT_ALLOW", "excludes": {"arches": ["amd64"]}},
            {"names": ["since_6_1"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "6.1"}},
            {"names": ["since_6_10"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "6.10"}},
            {"names": ["until_6_1"], "action": "SCMP_ACT_ALLOW", "excludes": {"minKernel": "6.1"}},
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW",
             "args": [{"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]}
        ]
    }"#;

    #[test]
    fn dockers_conditions_decide_which_rules_hold() {
        let check = |capabilities: &[Capability], release: &str, expected: &[&str]| {
            let kernel = Kernel::from_release(release).unwrap();
            let profile = parse(DOCKER, &capabilities.iter().copied().collect(), kernel).unwrap();
            let rules = profile.syscalls().as_ref().unwrap();
            let names: Vec<&str> = rules.iter().flat_map(|rule| rule.names()).map(String::as_str).collect();
            assert_eq!(names, expected, "{capabilities:?} {release}");
            assert_eq!(
                profile.architectures().as_deref(),
                Some(&[Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32][..])
            );
            assert_eq!(profile.default_errno_ret(), Some(1));
        };
        check(&[], "6.1.0-13-amd64\n", &["read", "old", "not_admin", "amd", "since_6_1", "clone"]);
        check(&[], "5.10-rc1", &["read", "old", "not_admin", "amd", "until_6_1", "clone"]);
        check(&[], "6.18.44", &["read", "old", "not_admin", "amd", "since_6_1", "since_6_10", "clone"]);
        check(&[Capability::SysAdmin], "6.1", &["read", "old", "admin", "amd", "since_6_1", "clone"]);
        check(
            &[Capability::SysAdmin, Capability::Bpf],
            "6.1",
            &["read", "old", "admin", "both", "amd", "since_6_1", "clone"],
        );
    }

    #[test]
    fn the_oci_form_comes_through_unchanged() {
        let json = r#"{"defaultAction":"SCMP_ACT_TRACE","defaultErrnoRet":9,"architectures":["SCMP_ARCH_X86"],
            "flags":["SECCOMP_FILTER_FLAG_LOG"],"listenerPath":"/run/l","listenerMetadata":"m",
            "syscalls":[{"names":["read","write"],"action":"SCMP_ACT_ERRNO","errnoRet":5,
                "args":[{"index":1,"value":18446744073709551615,"valueTwo":2,"op":"SCMP_CMP_GT"}]}]}"#;
        let expected: LinuxSeccomp = serde_json::from_str(json).unwrap();
        let kernel = Kernel { version: 6, patch_level: 1 };
        assert_eq!(parse(json, &Capabilities::new(), kernel).unwrap(), expected);
        // What we write ourselves reads back the same.
        let ours = super::super::default_profile(&Capabilities::new());
        let text = serde_json::to_string(&ours).unwrap();
        assert_eq!(parse(&text, &Capabilities::new(), kernel).unwrap(), ours);
    }

    #[test]
    fn a_named_file_is_read_or_refused() {
        let directory = tempfile::tempdir().unwrap();
        let check = |name: &str, content: Option<&[u8]>, expected: &str| {
            let path = directory.path().join(name);
            if let Some(content) = content {
                fs::write(&path, content).unwrap();
            }
            let text = match load(&path, &Capabilities::new()) {
                Ok(profile) => format!("loaded {}", profile.default_action()),
                Err(error) => error.to_string(),
            };
            assert!(text.contains(expected), "{name}: {text}");
        };
        check("good", Some(br#"{"defaultAction":"SCMP_ACT_LOG"}"#), "loaded SCMP_ACT_LOG");
        check("missing", None, "failed to read seccomp profile");
        check(".", None, "failed to read seccomp profile");
        check("empty", Some(b""), "is empty; give it a \"defaultAction\"");
        check("braces", Some(b"{}"), "is empty");
        check("binary", Some(b"\xff\xfe"), "failed to read");
        check("text", Some(b"unconfined"), "failed to parse");
    }

    #[test]
    fn releases_are_read() {
        let check = |release: &str, expected: Option<(u32, u32)>| {
            let found = Kernel::from_release(release).map(|kernel| (kernel.version, kernel.patch_level));
            assert_eq!(found, expected, "{release}");
        };
        check("4.8", Some((4, 8)));
        check("6.1.0-13-amd64", Some((6, 1)));
        check("6.18.44-fc-v445\n", Some((6, 18)));
        check("5.10-rc1", Some((5, 10)));
        check("5.10+", Some((5, 10)));
        check("6", None);
        check("6.", None);
        check("six.one", None);
        check("", None);
        assert!(Kernel::running().unwrap() >= Kernel { version: 3, patch_level: 0 });
    }
}

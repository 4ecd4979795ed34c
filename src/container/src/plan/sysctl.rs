//! Kernel settings: only those that belong to a namespace the container has of its own, and only as plain names
//! (CVE-2022-0811 came of a separator smuggled in).

use std::collections::HashMap;
use std::path::PathBuf;

use super::PlanError;

/// Settings of the IPC namespace, below `kernel.`.
const IPC: [&str; 8] = ["msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced"];

/// The settings as paths below /proc/sys.
pub(super) fn checked(
    settings: &Option<HashMap<String, String>>,
    namespaces: u64,
) -> Result<Vec<(PathBuf, String)>, PlanError> {
    let mut checked = Vec::new();
    for (name, value) in settings.iter().flatten() {
        let invalid =
            |reason: &str| PlanError::Invalid { what: format!("sysctl {name}"), reason: reason.to_owned() };
        let plain = |part: &str| {
            !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
        };
        let parts: Vec<&str> = name.split('.').collect();
        if parts.len() < 2 || !parts.iter().copied().all(plain) {
            return Err(invalid("a name is words joined by dots"));
        }
        if value.bytes().any(|byte| byte == 0 || byte == b'\n') {
            return Err(invalid("a value is one line"));
        }
        let owner = match parts.as_slice() {
            ["net", ..] => libc::CLONE_NEWNET,
            ["kernel", setting] if IPC.contains(setting) => libc::CLONE_NEWIPC,
            ["fs", "mqueue", _] => libc::CLONE_NEWIPC,
            ["kernel", "domainname"] => libc::CLONE_NEWUTS,
            _ => return Err(invalid("it is not of a namespace, so it would change the host")),
        };
        if namespaces & owner as u64 == 0 {
            return Err(invalid("the container shares that namespace with the host"));
        }
        checked.push((parts.iter().collect(), value.clone()));
    }
    checked.sort();
    Ok(checked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_settings_of_own_namespaces_pass() {
        let all = (libc::CLONE_NEWNET | libc::CLONE_NEWIPC) as u64;
        for (name, value, namespaces, expected) in [
            ("net.ipv4.ip_forward", "1", all, true),
            ("net.ipv4.ip_forward", "1", 0, false),
            ("kernel.shmmax", "1", all, true),
            ("kernel.core_pattern", "|/x", all, false),
            ("fs.mqueue.msg_max", "1", all, true),
            ("fs.file-max", "1", all, false),
            ("net.ipv4/../../kernel/core_pattern", "x", all, false),
            ("net..x", "1", all, false),
            ("net", "1", all, false),
            ("net.ipv4.x", "1\n2", all, false),
        ] {
            let settings = Some(HashMap::from([(name.to_owned(), value.to_owned())]));
            assert_eq!(checked(&settings, namespaces).is_ok(), expected, "{name}");
        }
    }
}

//! Kernel settings under /proc/sys/net, which shows the calling thread's network namespace.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::NetworkError;
use crate::state::{StateDir, StateLock, read_record, record_names, remove_record, write_record};

/// Lets the host route between its interfaces.
const IP_FORWARD: &str = "net.ipv4.ip_forward";

/// Turns on IPv4 forwarding. That it was off is recorded first, for [`restore`].
pub(crate) fn enable_forwarding(state: &StateDir, lock: &StateLock) -> Result<(), NetworkError> {
    let path = path_of(IP_FORWARD);
    let value = fs::read_to_string(&path).map_err(|source| error("read", &path, source))?;
    if value.trim() == "1" {
        return Ok(());
    }
    write_record(lock, &state.sysctls(), IP_FORWARD, value.trim())?;
    write(&path, "1")
}

/// Puts recorded settings back as they were.
pub(crate) fn restore(state: &StateDir, lock: &StateLock) -> Result<(), NetworkError> {
    for name in record_names(&state.sysctls())? {
        let record = state.sysctls().join(&name);
        if let Some(value) = read_record(&record)? {
            write(&path_of(&name), &value)?;
        }
        remove_record(lock, &record)?;
    }
    Ok(())
}

/// Lets packets from 127.0.0.1 leave by the bridge, for the host's own connections to published
/// ports. Only safe once the rules that drop 127.0.0.0/8 from outside stand.
pub(crate) fn allow_loopback_routes(interface: &str) -> Result<(), NetworkError> {
    write(Path::new(&format!("/proc/sys/net/ipv4/conf/{interface}/route_localnet")), "1")
}

/// Makes the interface deaf to router advertisements, which any container may send (CVE-2020-10749).
/// A kernel without IPv6 hears none.
pub(crate) fn refuse_router_advertisements(interface: &str) -> Result<(), NetworkError> {
    let path = PathBuf::from(format!("/proc/sys/net/ipv6/conf/{interface}/accept_ra"));
    match fs::write(&path, "0") {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(error("write", &path, source)),
        _ => Ok(()),
    }
}

fn path_of(name: &str) -> PathBuf {
    Path::new("/proc/sys").join(name.replace('.', "/"))
}

fn write(path: &Path, value: &str) -> Result<(), NetworkError> {
    fs::write(path, value).map_err(|source| error("write", path, source))
}

fn error(operation: &'static str, path: &Path, source: io::Error) -> NetworkError {
    NetworkError::Sysctl { operation, path: path.to_owned(), source }
}

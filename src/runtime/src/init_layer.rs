//! The init layer: what every root filesystem needs and no image should bring, laid between the image's layers and
//! the writable one. Our files of /etc, and folders to mount the kernel's file systems on.
//!
//! As files of a layer rather than mounts they can be written by the container, count as its own data, and need no
//! mount each.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use crate::error::{FileContext, RuntimeError};
use crate::options::NetworkMode;

const HOSTS_PATH: &str = "/etc/hosts";

/// Where the host keeps its resolver's settings; the second one where the first only names a local stub.
const RESOLV_CONF: &str = "/etc/resolv.conf";
const RESOLVED_CONF: &str = "/run/systemd/resolve/resolv.conf";

/// For a container whose host has no name server that can be reached from it; docker's choice.
const PUBLIC_NAME_SERVERS: &str = "nameserver 8.8.8.8\nnameserver 8.8.4.4\n";

const LOOPBACK_HOSTS: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
    fe00::\tip6-localnet\nff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n";

/// Makes the layer in the folder `layer`.
pub(crate) fn make(layer: &Path, network: NetworkMode, hostname: &str) -> Result<(), RuntimeError> {
    for folder in ["", "etc", "proc", "sys", "dev"] {
        let path = layer.join(folder);
        fs::create_dir(&path).file("create", &path)?;
        // Whatever the umask: the container's users see these.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).file("change the mode of", &path)?;
    }
    let hosts = match network {
        NetworkMode::Host => read(Path::new(HOSTS_PATH))?.unwrap_or_else(|| LOOPBACK_HOSTS.to_owned()),
        NetworkMode::Bridge | NetworkMode::None => LOOPBACK_HOSTS.to_owned(),
    };
    write(&layer.join("etc/hosts"), &hosts)?;
    write(&layer.join("etc/hostname"), &format!("{hostname}\n"))?;
    write(&layer.join("etc/resolv.conf"), &resolver(network)?)?;
    let mtab = layer.join("etc/mtab");
    symlink("/proc/mounts", &mtab).file("create", &mtab)
}

/// Adds the container's own name and address to the layer, or to the copy of all layers that it is part of. Only before
/// the layer is mounted: overlayfs does not expect its lower layers to change.
pub(crate) fn write_address(tree: &Path, ip: Ipv4Addr, hostname: &str) -> Result<(), RuntimeError> {
    let path = tree.join("etc/hosts");
    let open = || -> io::Result<File> {
        let root = File::open(tree)?;
        // Among files of an image: it is ours, and nothing else is ever written.
        let how = OpenHow::new()
            .flags(OFlag::O_WRONLY | OFlag::O_TRUNC | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
        Ok(File::from(openat2(&root, "etc/hosts", how)?))
    };
    let mut file = open().file("open", &path)?;
    file.write_all(own_hosts(ip, hostname).as_bytes()).file("write", &path)
}

fn own_hosts(ip: Ipv4Addr, hostname: &str) -> String {
    // `box.example.org` is also found as `box`.
    match hostname.split_once('.') {
        Some((short, _)) => format!("{LOOPBACK_HOSTS}{ip}\t{hostname} {short}\n"),
        None => format!("{LOOPBACK_HOSTS}{ip}\t{hostname}\n"),
    }
}

fn resolver(network: NetworkMode) -> Result<String, RuntimeError> {
    let of_host = read(Path::new(RESOLV_CONF))?.unwrap_or_default();
    if network != NetworkMode::Bridge {
        return Ok(of_host);
    }
    if let Some(text) = reachable(&of_host) {
        return Ok(text);
    }
    let behind_stub = read(Path::new(RESOLVED_CONF))?.unwrap_or_default();
    Ok(reachable(&behind_stub).unwrap_or_else(|| {
        let rest: String = of_host
            .lines()
            .filter(|line| name_server(line).is_none())
            .map(|line| format!("{line}\n"))
            .collect();
        rest + PUBLIC_NAME_SERVERS
    }))
}

/// The settings without the name servers that only the host itself reaches; `None` when no other is left.
fn reachable(text: &str) -> Option<String> {
    let local = |server: &str| server.starts_with("127.") || server == "::1" || server == "0.0.0.0";
    let kept: Vec<&str> = text.lines().filter(|line| !name_server(line).is_some_and(local)).collect();
    let any = kept.iter().any(|line| name_server(line).is_some());
    any.then(|| kept.iter().map(|line| format!("{line}\n")).collect())
}

fn name_server(line: &str) -> Option<&str> {
    line.trim().strip_prefix("nameserver")?.split_whitespace().next()
}

fn read(path: &Path) -> Result<Option<String>, RuntimeError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(source).file("read", path),
    }
}

fn write(path: &Path, text: &str) -> Result<(), RuntimeError> {
    fs::write(path, text).file("write", path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).file("change the mode of", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_of_the_host_itself_are_left_out() {
        for (text, expected) in [
            ("nameserver 10.0.0.1\nsearch a\n", Some("nameserver 10.0.0.1\nsearch a\n")),
            ("nameserver 127.0.0.53\nnameserver 10.0.0.1", Some("nameserver 10.0.0.1\n")),
            ("nameserver 127.0.0.53\noptions edns0\n", None),
            ("nameserver ::1\n", None),
            ("# nothing\n", None),
        ] {
            assert_eq!(reachable(text).as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn the_layer_has_the_files_whatever_the_umask() {
        let folder = tempfile::tempdir().unwrap();
        let layer = folder.path().join("init");
        make(&layer, NetworkMode::Bridge, "box").unwrap();
        let mode = |name: &str| fs::symlink_metadata(layer.join(name)).unwrap().permissions().mode() & 0o7777;
        for folder in ["", "etc", "proc", "sys", "dev"] {
            assert_eq!(mode(folder), 0o755, "{folder}");
        }
        for file in ["etc/hosts", "etc/hostname", "etc/resolv.conf"] {
            assert_eq!(mode(file), 0o644, "{file}");
        }
        assert_eq!(fs::read_to_string(layer.join("etc/hostname")).unwrap(), "box\n");
        assert_eq!(fs::read_link(layer.join("etc/mtab")).unwrap(), Path::new("/proc/mounts"));
        write_address(&layer, Ipv4Addr::new(10, 1, 2, 3), "box.lan").unwrap();
        let hosts = fs::read_to_string(layer.join("etc/hosts")).unwrap();
        assert!(hosts.starts_with("127.0.0.1\tlocalhost\n") && hosts.ends_with("\n10.1.2.3\tbox.lan box\n"));
        assert_eq!(mode("etc/hosts"), 0o644);

        let outside = folder.path().join("outside");
        fs::write(&outside, "untouched").unwrap();
        fs::remove_file(layer.join("etc/hosts")).unwrap();
        symlink(&outside, layer.join("etc/hosts")).unwrap();
        write_address(&layer, Ipv4Addr::new(10, 1, 2, 3), "box").expect_err("it is a link");
        assert_eq!(fs::read_to_string(outside).unwrap(), "untouched");
    }
}

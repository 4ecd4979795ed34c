//! `--volume` and `--tmpfs`: what is mounted where.

use std::path::{Component, Path, PathBuf};

use runtime::MountOption;

use super::Parsed;

/// Parses `HOST:CONTAINER[:OPTIONS]` or `NAME:CONTAINER[:OPTIONS]`; the options are `ro` and `rw`.
pub(crate) fn parse_volume(text: &str) -> Parsed<MountOption> {
    let mut parts = text.split(':');
    let (source, target, options) = match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(source), Some(target), options, None) => (source, target, options),
        (Some(only), None, _, _) if only.starts_with('/') => {
            return Err(format!(
                "'{text}' is an anonymous volume, which is not offered: name it, as in data:{only}"
            ));
        }
        _ => {
            return Err(format!(
                "'{text}' is not a volume: write HOST-PATH:PATH or NAME:PATH, then :ro if wished"
            ));
        }
    };
    let target = absolute(target, text)?;
    let mut read_only = false;
    for option in options.into_iter().flat_map(|options| options.split(',')) {
        match option {
            "ro" => read_only = true,
            "rw" => read_only = false,
            other => return Err(format!("'{text}' has the unknown option '{other}': use ro or rw")),
        }
    }
    if source.starts_with('/') {
        return Ok(MountOption::Bind { source: PathBuf::from(source), target, read_only });
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    if source.len() < 2 || !source.as_bytes()[0].is_ascii_alphanumeric() || !source.bytes().all(plain) {
        return Err(format!(
            "'{source}' is no volume's name (two or more of a-z A-Z 0-9 _ . -, beginning with a letter or digit): \
             for a folder of the host give its absolute path"
        ));
    }
    Ok(MountOption::Volume { name: source.to_owned(), target, read_only })
}

/// Parses `PATH[:OPTIONS]`, the options as mount(8) takes them for a tmpfs.
pub(crate) fn parse_tmpfs(text: &str) -> Parsed<MountOption> {
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    let target = absolute(target, text)?;
    let options = options.split(',').filter(|option| !option.is_empty()).map(str::to_owned).collect();
    Ok(MountOption::Tmpfs { target, options })
}

/// A path of the container: absolute, not its root, without `..`.
fn absolute(target: &str, text: &str) -> Parsed<PathBuf> {
    let path = Path::new(target);
    if !path.is_absolute() {
        return Err(format!("'{text}': the path in the container must be absolute, not '{target}'"));
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(format!("'{text}': the path in the container must not hold '..'"));
    }
    if path.components().count() == 1 {
        return Err(format!("'{text}': the container's root itself cannot be mounted over"));
    }
    Ok(path.components().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_binds_or_named() {
        let bind = |source: &str, target: &str, read_only| MountOption::Bind {
            source: source.into(),
            target: target.into(),
            read_only,
        };
        let volume = |name: &str, target: &str, read_only| MountOption::Volume {
            name: name.to_owned(),
            target: target.into(),
            read_only,
        };
        let check =
            |text: &str, expected: MountOption| assert_eq!(parse_volume(text), Ok(expected), "{text}");
        check("/srv:/data", bind("/srv", "/data", false));
        check("/srv:/data:ro", bind("/srv", "/data", true));
        check("/srv:/data:rw", bind("/srv", "/data", false));
        check("data:/var/lib/x", volume("data", "/var/lib/x", false));
        check("my-data.1:/x/:ro", volume("my-data.1", "/x", true));
    }

    #[test]
    fn what_is_no_volume_is_refused() {
        let texts = [
            "",
            "/only",
            "a:b",
            "/a:b",
            "/a:/",
            "/a:/b/../c",
            "/a:/b:rx",
            "/a:/b:ro:x",
            "./a:/b",
            "x:/b",
            ":/b",
        ];
        for text in texts {
            assert!(parse_volume(text).is_err(), "{text}");
        }
        assert!(parse_volume("/only").is_err_and(|line| line.contains("anonymous")));
    }

    #[test]
    fn a_tmpfs_has_options() {
        let tmpfs = |target: &str, options: &[&str]| MountOption::Tmpfs {
            target: target.into(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
        };
        assert_eq!(parse_tmpfs("/tmp"), Ok(tmpfs("/tmp", &[])));
        assert_eq!(parse_tmpfs("/tmp:size=64m,mode=1777"), Ok(tmpfs("/tmp", &["size=64m", "mode=1777"])));
        assert!(parse_tmpfs("tmp").is_err());
    }
}

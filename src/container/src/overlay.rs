//! The options of a container's overlay mount, for whoever mounts it: its first process, or one that looks into a
//! container that does not run.

use std::io;
use std::path::Path;

/// mount(2) takes a page of options, with the null byte at its end.
const MAX_OPTIONS: usize = 4095;

/// The options for these layers, top first. Relative ones are relative to the working directory.
///
/// # Errors
/// Paths that are not UTF-8, and more of them than the kernel takes.
pub fn options(lower: &[String], upper: &Path, work: &Path, volatile: bool) -> io::Result<String> {
    let invalid = |reason| io::Error::new(io::ErrorKind::InvalidInput, reason);
    let text = |path: &Path| {
        path.to_str().map(escape).ok_or_else(|| invalid(format!("path {} is not UTF-8", path.display())))
    };
    let lower: Vec<String> = lower.iter().map(|layer| escape(layer)).collect();
    let mut options =
        format!("lowerdir={},upperdir={},workdir={}", lower.join(":"), text(upper)?, text(work)?);
    // Whatever the kernel's defaults: the upper layer holds its files whole, so that it can be read by itself.
    options.push_str(",redirect_dir=off,metacopy=off");
    if volatile {
        options.push_str(",volatile");
    }
    if options.len() > MAX_OPTIONS {
        return Err(invalid(format!(
            "the image has too many layers for one overlay mount: {} bytes of options, {MAX_OPTIONS} are possible",
            options.len()
        )));
    }
    Ok(options)
}

/// overlayfs parts layers at colons and options at commas, and takes a backslash before either.
fn escape(path: &str) -> String {
    let mut escaped = String::with_capacity(path.len());
    for character in path.chars() {
        if matches!(character, ':' | ',' | '\\') {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators_in_paths_are_escaped_and_too_long_lists_refused() {
        let options = options(&["a:b".to_owned(), "c".to_owned()], Path::new("/u,p"), Path::new("/w"), true);
        let expected = "lowerdir=a\\:b:c,upperdir=/u\\,p,workdir=/w,redirect_dir=off,metacopy=off,volatile";
        assert_eq!(options.expect("short"), expected);
        let many = vec!["x".repeat(20); 300];
        assert!(super::options(&many, Path::new("/u"), Path::new("/w"), false).is_err());
    }
}

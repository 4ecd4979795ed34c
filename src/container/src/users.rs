//! Who a container's process is: an image's or `--user`'s `user[:group]`, looked up in the texts of the
//! container's own /etc/passwd and /etc/group.
//!
//! The caller reads those files from inside the root filesystem and bounds their size; nothing here opens a file
//! or asks the machine's name service. Sources: the image specification's `config.User`; docker's meaning of it;
//! CVE-2024-40635 (an id past 2^31-1 wrapped around to root) and CVE-2022-36109 (the primary group belongs among
//! the additional ones).

/// The largest user or group id a container may have.
pub const LARGEST_ID: u32 = i32::MAX as u32;

/// Why a user or group cannot be resolved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// A user name /etc/passwd does not have.
    #[error(
        "unknown user {name:?}: the image's /etc/passwd has no such name; name one it has, or give a number"
    )]
    UnknownUser {
        /// As it was given.
        name: String,
    },
    /// A group name /etc/group does not have.
    #[error(
        "unknown group {name:?}: the image's /etc/group has no such name; name one it has, or give a number"
    )]
    UnknownGroup {
        /// As it was given.
        name: String,
    },
    /// A number that is no valid id.
    #[error("{id} is out of range for a user or group id; the largest is {LARGEST_ID}")]
    OutOfRange {
        /// As it was given, or as the image's file has it.
        id: String,
    },
    /// More than a user and a group.
    #[error("user {spec:?} is not of the form USER or USER:GROUP")]
    Malformed {
        /// As it was given.
        spec: String,
    },
}

/// A user, ready for setgroups, setgid and setuid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedUser {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Every supplementary group, the primary one first, none twice.
    pub additional_gids: Vec<u32>,
    /// The home directory: /etc/passwd's if it is an absolute path, else "/".
    pub home: String,
    /// The name, if /etc/passwd has one.
    pub name: Option<String>,
}

/// Resolves `spec` and the extra groups of `--group-add` against the texts of /etc/passwd and /etc/group (empty
/// where the image has none). An empty user means root; a number need not be listed. Without a group the user's
/// own groups count, with one only that. A number is always an id, never a name.
///
/// # Errors
/// A name that is not listed, a number past [`LARGEST_ID`], or a spec with more than one colon.
pub fn resolve(
    spec: &str,
    passwd: &str,
    group: &str,
    group_add: &[String],
) -> Result<ResolvedUser, UserError> {
    let (user, group_name) = spec.split_once(':').unwrap_or((spec, ""));
    if group_name.contains(':') {
        return Err(UserError::Malformed { spec: spec.to_owned() });
    }
    let uid = if user.is_empty() { Some(0) } else { number(user)? };
    let account = accounts(passwd).find(|account| match uid {
        Some(uid) => account.uid == i64::from(uid),
        None => account.name == user,
    });
    let (uid, own_gid) = match (&account, uid) {
        (Some(account), _) => (id(account.uid)?, account.gid),
        (None, Some(uid)) => (uid, 0),
        (None, None) => return Err(UserError::UnknownUser { name: user.to_owned() }),
    };
    let mut additional_gids = Vec::new();
    let gid = if group_name.is_empty() {
        let gid = id(own_gid)?;
        additional_gids.push(gid);
        if let Some(account) = &account {
            for group in
                groups(group).filter(|group| group.members.split(',').any(|name| name == account.name))
            {
                additional_gids.push(id(group.gid)?);
            }
        }
        gid
    } else {
        let gid = group_id(group_name, group)?;
        additional_gids.push(gid);
        gid
    };
    for extra in group_add {
        additional_gids.push(group_id(extra, group)?);
    }
    let mut seen = std::collections::HashSet::new();
    additional_gids.retain(|gid| seen.insert(*gid));
    let home = account.as_ref().map(|account| account.home).filter(|home| home.starts_with('/'));
    Ok(ResolvedUser {
        uid,
        gid,
        additional_gids,
        home: home.unwrap_or("/").to_owned(),
        name: account.map(|account| account.name.to_owned()),
    })
}

fn group_id(name: &str, file: &str) -> Result<u32, UserError> {
    if let Some(gid) = number(name)? {
        return Ok(gid);
    }
    let group = groups(file).find(|group| group.name == name);
    id(group.ok_or_else(|| UserError::UnknownGroup { name: name.to_owned() })?.gid)
}

/// The id `text` is if it is a number at all; a name otherwise.
fn number(text: &str) -> Result<Option<u32>, UserError> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    let parsed = text.parse::<u32>().ok().filter(|id| *id <= LARGEST_ID);
    parsed.map(Some).ok_or_else(|| UserError::OutOfRange { id: text.to_owned() })
}

/// An id out of one of the image's files.
fn id(number: i64) -> Result<u32, UserError> {
    let id = u32::try_from(number).ok().filter(|id| *id <= LARGEST_ID);
    id.ok_or_else(|| UserError::OutOfRange { id: number.to_string() })
}

/// A line of passwd(5).
struct Account<'t> {
    name: &'t str,
    uid: i64,
    gid: i64,
    home: &'t str,
}

/// The well-formed lines. One with a field missing is left out rather than read as id 0.
fn accounts(passwd: &str) -> impl Iterator<Item = Account<'_>> {
    lines(passwd).filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let _password = fields.next()?;
        let (uid, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let _full_name = fields.next()?;
        Some(Account { name, uid, gid, home: fields.next()? })
    })
}

/// A line of group(5).
struct Group<'t> {
    name: &'t str,
    gid: i64,
    /// User names, joined by commas.
    members: &'t str,
}

fn groups(file: &str) -> impl Iterator<Item = Group<'_>> {
    lines(file).filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let _password = fields.next()?;
        let gid = fields.next()?.parse().ok()?;
        Some(Group { name, gid, members: fields.next().unwrap_or("") })
    })
}

/// Lines that can be entries: NUL would cut a name or home short in the environment.
fn lines(file: &str) -> impl Iterator<Item = &str> {
    file.lines().map(str::trim).filter(|line| !line.starts_with('#') && !line.contains('\0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "\
# comment:x:7:7::/:
root:x:0:0:root:/root:/bin/sh
short:x:5
bad:x:five:5::/:/bin/sh

web:x:1000:1001:Web,,,:/srv/web:
nohome:x:1002:1002:::
relative:x:1003:1003::srv:/bin/sh
twice:x:1004:1004::/first:
twice:x:1005:1005::/second:
42:x:1042:1042::/named-42:
huge:x:2147483648:0::/:
wrap:x:4294967296:0::/:
minus:x:-1:0::/:
biggroup:x:1006:4294967297::/:
+nis::::::
zero\0:x:0:0::/zero:
";
    const GROUP: &str = "\
root:x:0:
broken:x
wheel:x:10:root,web
web:x:1001:
video:x:44:web,other
hugegroup:x:4294967296:
dup:x:1001:web
webby:x:50:webby
nofield:x:60
";

    /// User, group, additional groups, home, name.
    type Expected<'e> = (u32, u32, &'e [u32], &'e str, Option<&'e str>);

    fn check(spec: &str, group_add: &[&str], expected: Result<Expected<'_>, UserError>) {
        let group_add: Vec<String> = group_add.iter().map(ToString::to_string).collect();
        let found = resolve(spec, PASSWD, GROUP, &group_add);
        let expected = expected.map(|(uid, gid, additional, home, name)| ResolvedUser {
            uid,
            gid,
            additional_gids: additional.to_vec(),
            home: home.to_owned(),
            name: name.map(str::to_owned),
        });
        assert_eq!(found, expected, "{spec:?} {group_add:?}");
    }

    #[test]
    fn specs_resolve_as_docker_does() {
        check("", &[], Ok((0, 0, &[0, 10], "/root", Some("root"))));
        check("root", &[], Ok((0, 0, &[0, 10], "/root", Some("root"))));
        check("0", &[], Ok((0, 0, &[0, 10], "/root", Some("root"))));
        check("web", &[], Ok((1000, 1001, &[1001, 10, 44], "/srv/web", Some("web"))));
        check("1000", &[], Ok((1000, 1001, &[1001, 10, 44], "/srv/web", Some("web"))));
        check("web:", &[], Ok((1000, 1001, &[1001, 10, 44], "/srv/web", Some("web"))));
        check("web:video", &[], Ok((1000, 44, &[44], "/srv/web", Some("web"))));
        check("web:7", &[], Ok((1000, 7, &[7], "/srv/web", Some("web"))));
        check("web:nofield", &[], Ok((1000, 60, &[60], "/srv/web", Some("web"))));
        check("1000:1001", &[], Ok((1000, 1001, &[1001], "/srv/web", Some("web"))));
        check(":video", &[], Ok((0, 44, &[44], "/root", Some("root"))));
        check("0007", &[], Ok((7, 0, &[0], "/", None)));
        check("65534:65534", &[], Ok((65534, 65534, &[65534], "/", None)));
        check("2147483647:2147483647", &[], Ok((LARGEST_ID, LARGEST_ID, &[LARGEST_ID], "/", None)));
        check("nohome", &[], Ok((1002, 1002, &[1002], "/", Some("nohome"))));
        check("relative", &[], Ok((1003, 1003, &[1003], "/", Some("relative"))));
        check("twice", &[], Ok((1004, 1004, &[1004], "/first", Some("twice"))));
        // A number is an id even where an account is called so.
        check("42", &[], Ok((42, 0, &[0], "/", None)));
        check("1042", &[], Ok((1042, 1042, &[1042], "/named-42", Some("42"))));
    }

    #[test]
    fn added_groups_follow_the_users_own_once_each() {
        check(
            "web",
            &["video", "99", "wheel", "99"],
            Ok((1000, 1001, &[1001, 10, 44, 99], "/srv/web", Some("web"))),
        );
        check("web:7", &["video"], Ok((1000, 7, &[7, 44], "/srv/web", Some("web"))));
        check("5", &["0"], Ok((5, 0, &[0], "/", None)));
    }

    #[test]
    fn what_is_not_listed_is_refused() {
        let user = |name: &str| Err(UserError::UnknownUser { name: name.to_owned() });
        let group = |name: &str| Err(UserError::UnknownGroup { name: name.to_owned() });
        check("nobody", &[], user("nobody"));
        check("short", &[], user("short"));
        check("bad", &[], user("bad"));
        check("+nis", &[], user("+nis"));
        check("zero", &[], user("zero"));
        check("Root", &[], user("Root"));
        check(" root", &[], user(" root"));
        check("-", &[], user("-"));
        check("# comment", &[], user("# comment"));
        check("web:nogroup", &[], group("nogroup"));
        check("web:broken", &[], group("broken"));
        check("web", &["audio"], group("audio"));
        check("web", &[""], group(""));
        check("a:b:c", &[], Err(UserError::Malformed { spec: "a:b:c".to_owned() }));
    }

    #[test]
    fn ids_out_of_range_never_wrap() {
        let range = |id: &str| Err(UserError::OutOfRange { id: id.to_owned() });
        for id in ["2147483648", "4294967295", "4294967296", "18446744073709551616", "-1", "-0"] {
            check(id, &[], range(id));
            check(&format!("web:{id}"), &[], range(id));
            check("web", &[id], range(id));
        }
        check("huge", &[], range("2147483648"));
        check("wrap", &[], range("4294967296"));
        check("minus", &[], range("-1"));
        check("biggroup", &[], range("4294967297"));
        check("biggroup:7", &[], Ok((1006, 7, &[7], "/", Some("biggroup"))));
        check("web:hugegroup", &[], range("4294967296"));
    }

    #[test]
    fn an_image_without_the_files_has_numbers_only() {
        let found = resolve("", "", "", &[]).unwrap();
        assert_eq!((found.uid, found.gid, found.home.as_str(), found.name), (0, 0, "/", None));
        assert_eq!(resolve("5:6", "", "", &[]).unwrap().additional_gids, [6]);
        assert!(resolve("root", "", "", &[]).is_err());
    }
}

//! The process of a container: what the user and the image say of it together. Pure.

use std::path::PathBuf;

use oci_spec::image::{Config, ImageConfiguration};
use oci_spec::runtime::{BoxBuilder, LinuxCapabilities, Process, ProcessBuilder, User, UserBuilder};

use crate::error::RuntimeError;
use crate::options::{ContainerOptions, ExecOptions, TerminalSize};

/// The search path of a process that is given none.
pub(crate) const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const DEFAULT_TERM: &str = "TERM=xterm";

/// The arguments: the entrypoint, then the command, by docker's rules. An entrypoint of the user's drops the image's
/// command too, since that was meant for the image's entrypoint.
pub(crate) fn args(
    options: &ContainerOptions,
    image: &ImageConfiguration,
) -> Result<Vec<String>, RuntimeError> {
    let config = image.config().as_ref();
    let of_image = |field: fn(&Config) -> &Option<Vec<String>>| -> &[String] {
        config.and_then(|config| field(config).as_deref()).unwrap_or_default()
    };
    let (entrypoint, default_command) = match &options.entrypoint {
        Some(entrypoint) => (entrypoint.as_slice(), &[][..]),
        None => (of_image(Config::entrypoint), of_image(Config::cmd)),
    };
    let command = if options.command.is_empty() { default_command } else { &options.command };
    let args = [entrypoint, command].concat();
    // An empty first argument is no command either: `--entrypoint ""` reaches us so, and execve has no such file.
    match args.first() {
        Some(first) if !first.is_empty() => Ok(args),
        _ => Err(RuntimeError::NoCommand { image: options.image.clone() }),
    }
}

/// The first process.
pub(crate) fn first(
    options: &ContainerOptions,
    image: &ImageConfiguration,
    args: Vec<String>,
    hostname: &str,
    capabilities: LinuxCapabilities,
) -> Process {
    let config = image.config().as_ref();
    let mut env = vec![DEFAULT_PATH.to_owned(), format!("HOSTNAME={hostname}")];
    if options.tty {
        env.push(DEFAULT_TERM.to_owned());
    }
    if let Some(of_image) = config.and_then(|config| config.env().as_ref()) {
        // An image may hold anything; what is no variable could not be passed on.
        let sound = |variable: &&String| {
            variable.split_once('=').is_some_and(|(name, _)| !name.is_empty()) && !variable.contains('\0')
        };
        merge(&mut env, of_image.iter().filter(sound));
    }
    merge(&mut env, &options.env);
    let workdir = options
        .workdir
        .as_deref()
        .or_else(|| config.and_then(|config| config.working_dir().as_deref()))
        .filter(|workdir| !workdir.is_empty())
        .unwrap_or("/");
    let user = options
        .user
        .as_deref()
        .or_else(|| config.and_then(|config| config.user().as_deref()))
        .unwrap_or_default();
    let mut process = ProcessBuilder::default()
        .terminal(options.tty)
        .user(self::user(user))
        .args(args)
        .env(env)
        // An image's may be relative, and means the root then.
        .cwd(PathBuf::from("/").join(workdir))
        .capabilities(capabilities)
        .no_new_privileges(true)
        .build()
        .expect("every field has a default");
    process.set_console_size(options.terminal_size.map(console_size));
    process
}

fn console_size(size: TerminalSize) -> oci_spec::runtime::Box {
    BoxBuilder::default()
        .height(u64::from(size.rows))
        .width(u64::from(size.cols))
        .build()
        .expect("both fields are set")
}

/// A further process in a container whose first one is `first`.
pub(crate) fn further(first: &Process, options: &ExecOptions) -> Process {
    let mut process = first.clone();
    let mut env = first.env().clone().unwrap_or_default();
    if options.tty && !env.iter().any(|variable| variable.starts_with("TERM=")) {
        env.push(DEFAULT_TERM.to_owned());
    }
    merge(&mut env, &options.env);
    process.set_terminal(Some(options.tty));
    process.set_console_size(options.terminal_size.map(console_size));
    process.set_args(Some(options.command.clone()));
    process.set_env(Some(env));
    if let Some(workdir) = &options.workdir {
        process.set_cwd(PathBuf::from(workdir));
    }
    if let Some(user) = &options.user {
        process.set_user(self::user(user));
    }
    process
}

/// Who the process is. Only `uid:gid` in numbers is complete; of everything else the shim finds the rest in the
/// container's /etc/passwd and /etc/group, for which it takes the text as `username`.
fn user(spec: &str) -> User {
    let numbers = spec.split_once(':').and_then(|(uid, gid)| Some((number(uid)?, number(gid)?)));
    let builder = match numbers {
        Some((uid, gid)) => UserBuilder::default().uid(uid).gid(gid),
        None if spec.is_empty() => UserBuilder::default().username("0"),
        None => UserBuilder::default().username(spec),
    };
    builder.build().expect("every field has a default")
}

fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|id| digits && *id <= container::users::LARGEST_ID)
}

/// Sets variables: one that is there already changes in its place.
fn merge<'v>(env: &mut Vec<String>, more: impl IntoIterator<Item = &'v String>) {
    let name = |variable: &str| variable.split_once('=').map_or(variable.len(), |(name, _)| name.len());
    for variable in more {
        let wanted = &variable[..name(variable)];
        match env.iter_mut().find(|old| &old[..name(old)] == wanted) {
            Some(old) => old.clone_from(variable),
            None => env.push(variable.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use oci_spec::image::{ConfigBuilder, ImageConfigurationBuilder};

    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn image(config: ConfigBuilder) -> ImageConfiguration {
        ImageConfigurationBuilder::default().config(config.build().unwrap()).build().unwrap()
    }

    #[test]
    fn entrypoint_and_command_are_joined_as_docker_does() {
        let both = || ConfigBuilder::default().entrypoint(words("/e x")).cmd(words("c d"));
        for (config, entrypoint, command, expected) in [
            (both(), None, "", Some("/e x c d")),
            (both(), None, "u", Some("/e x u")),
            (both(), Some("/mine"), "", Some("/mine")),
            (both(), Some("/mine a"), "u", Some("/mine a u")),
            (both(), Some(""), "u v", Some("u v")),
            (both(), Some(""), "", None),
            (ConfigBuilder::default().cmd(words("c d")), None, "", Some("c d")),
            (ConfigBuilder::default(), None, "u", Some("u")),
            (ConfigBuilder::default(), None, "", None),
        ] {
            let options = ContainerOptions {
                image: "a/b".to_owned(),
                entrypoint: entrypoint.map(words),
                command: words(command),
                ..Default::default()
            };
            let got = args(&options, &image(config));
            match expected {
                Some(expected) => assert_eq!(got.unwrap(), words(expected)),
                None => {
                    assert_eq!(got.unwrap_err().to_string(), "no command given and the image a/b has none")
                }
            }
        }
    }

    #[test]
    fn a_later_variable_wins_in_the_place_of_the_earlier() {
        let config = ConfigBuilder::default().env(words("PATH=/image A=1 B=2 broken =x"));
        let options = ContainerOptions { env: words("A=3 C=4 C=5"), tty: true, ..Default::default() };
        let process = first(&options, &image(config), words("x"), "box", LinuxCapabilities::default());
        assert_eq!(
            process.env().as_ref().unwrap(),
            &words("PATH=/image HOSTNAME=box TERM=xterm A=3 B=2 C=5")
        );
    }

    #[test]
    fn user_and_folder_come_from_the_user_then_the_image() {
        let config = || ConfigBuilder::default().user("www").working_dir("srv");
        for (user, workdir, expected) in [
            (None, None, (0, 0, Some("www"), "/srv")),
            (Some("7"), None, (0, 0, Some("7"), "/srv")),
            (Some("7:8"), Some("/x"), (7, 8, None, "/x")),
            (Some("7:users"), None, (0, 0, Some("7:users"), "/srv")),
            (Some("+7:+8"), None, (0, 0, Some("+7:+8"), "/srv")),
        ] {
            let options = ContainerOptions {
                user: user.map(str::to_owned),
                workdir: workdir.map(str::to_owned),
                ..Default::default()
            };
            let process = first(&options, &image(config()), words("x"), "box", LinuxCapabilities::default());
            let who = process.user();
            let got = (who.uid(), who.gid(), who.username().as_deref(), process.cwd().to_str().unwrap());
            assert_eq!(got, expected);
        }
        let nobody = first(
            &ContainerOptions::default(),
            &image(ConfigBuilder::default()),
            words("x"),
            "box",
            LinuxCapabilities::default(),
        );
        assert_eq!(nobody.user().username().as_deref(), Some("0"));
        assert_eq!(nobody.cwd().to_str(), Some("/"));
        assert_eq!(nobody.no_new_privileges(), Some(true));
    }

    #[test]
    fn a_further_process_differs_only_where_it_was_asked_to() {
        let options = ContainerOptions { user: Some("7:8".to_owned()), ..Default::default() };
        let capabilities = LinuxCapabilities::default();
        let first = first(&options, &image(ConfigBuilder::default()), words("x"), "box", capabilities);
        let plain = further(&first, &ExecOptions { command: words("sh -c y"), ..Default::default() });
        assert_eq!(plain.args().as_ref().unwrap(), &words("sh -c y"));
        assert_eq!((plain.user(), plain.cwd(), plain.env()), (first.user(), first.cwd(), first.env()));
        let other = further(
            &first,
            &ExecOptions {
                command: words("sh"),
                env: words("A=1"),
                workdir: Some("/w".to_owned()),
                user: Some("web".to_owned()),
                tty: true,
                ..Default::default()
            },
        );
        assert_eq!(other.user().username().as_deref(), Some("web"));
        assert_eq!(other.terminal(), Some(true));
        assert!(other.env().as_ref().unwrap().ends_with(&words("TERM=xterm A=1")));
        assert_eq!(other.capabilities(), first.capabilities());
    }
}

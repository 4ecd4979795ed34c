//! The command line as data: the global options, and one verb with its own.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::commands::cleanup::Cleanup;
use crate::commands::commit::Commit;
use crate::commands::cp::Cp;
use crate::commands::diff::Diff;
use crate::commands::exec::Exec;
use crate::commands::export::Export;
use crate::commands::history::History;
use crate::commands::image::ImageCommand;
use crate::commands::images::Images;
use crate::commands::import::Import;
use crate::commands::inspect::Inspect;
use crate::commands::kill::Kill;
use crate::commands::load::Load;
use crate::commands::login::Login;
use crate::commands::logout::Logout;
use crate::commands::logs::Logs;
use crate::commands::ps::Ps;
use crate::commands::pull::Pull;
use crate::commands::push::Push;
use crate::commands::reset::Reset;
use crate::commands::rm::Rm;
use crate::commands::rmi::Rmi;
use crate::commands::run::Run;
use crate::commands::save::Save;
use crate::commands::stop::Stop;
use crate::commands::system::SystemCommand;
use crate::commands::tag::Tag;
use crate::commands::trace::Trace;
use crate::commands::wait::Wait;

/// Runs containers on this machine: pulls images, unpacks, isolates, limits and connects them.
#[derive(Debug, Parser)]
#[command(name = "agent", version, disable_help_subcommand = true, max_term_width = 110, about)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// What every verb takes, before it or after it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Where images, containers and volumes are kept
    #[arg(
        long,
        global = true,
        env = "AGENT_ROOT",
        hide_env_values = true,
        value_name = "DIR",
        default_value = "/var/lib/agent"
    )]
    pub(crate) root: PathBuf,
    /// Where the state of what runs is kept, which does not outlive the machine's boot
    #[arg(
        long,
        global = true,
        env = "AGENT_RUN_ROOT",
        hide_env_values = true,
        value_name = "DIR",
        default_value = "/run/agent"
    )]
    pub(crate) run_root: PathBuf,
    /// Where the configuration lies (registries.d/)
    #[arg(
        long,
        global = true,
        env = "AGENT_CONFIG_ROOT",
        hide_env_values = true,
        value_name = "DIR",
        default_value = "/etc/agent"
    )]
    pub(crate) config_root: PathBuf,
    /// Work in this network namespace, such as /run/netns/NAME
    #[arg(long, global = true, env = "AGENT_NETNS", hide_env_values = true, value_name = "PATH")]
    pub(crate) netns: Option<PathBuf>,
    /// The cgroup below which containers get theirs
    #[arg(
        long,
        global = true,
        env = "AGENT_CGROUP_PARENT",
        hide_env_values = true,
        value_name = "PATH",
        default_value = "/agent"
    )]
    pub(crate) cgroup_parent: String,
    /// The program that runs containers; else `shim` beside this one
    #[arg(long, global = true, env = "AGENT_SHIM", hide_env_values = true, value_name = "PATH", hide = true)]
    pub(crate) shim: Option<PathBuf>,
    /// Least severity of what is logged to standard error
    #[arg(long, global = true, value_name = "LEVEL", value_enum, default_value_t)]
    pub(crate) log_level: LogLevel,
    /// How it is written
    #[arg(long, global = true, value_name = "FORMAT", value_enum, default_value_t)]
    pub(crate) log_format: LogFormat,
}

/// Severities of the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogLevel {
    Error,
    #[default]
    Warn,
    Info,
    Debug,
    Trace,
}

/// Formats of the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    #[default]
    Text,
    Json,
}

/// Formats of a trace: a table with headings, or one JSON object a line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    #[default]
    Table,
    Json,
}

/// What is to be done; one file of `commands` each.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    Run(Box<Run>),
    Ps(Ps),
    Logs(Logs),
    Exec(Exec),
    Stop(Stop),
    Kill(Kill),
    Rm(Rm),
    Wait(Wait),
    Inspect(Inspect),
    Pull(Pull),
    Push(Push),
    Images(Images),
    Rmi(Rmi),
    Commit(Commit),
    Cp(Cp),
    Diff(Diff),
    Export(Export),
    Save(Save),
    Load(Load),
    Import(Import),
    Tag(Tag),
    History(History),
    Image(ImageCommand),
    System(SystemCommand),
    Login(Login),
    Logout(Logout),
    Trace(Trace),
    Reset(Reset),
    #[command(hide = true)]
    Cleanup(Cleanup),
    /// Show the version
    Version,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Cli {
        Cli::try_parse_from(line.split_whitespace()).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_options_stand_before_or_after_the_verb() {
        for line in ["agent --root /a ps -q", "agent ps --root /a -q", "agent ps -q --root=/a"] {
            assert_eq!(parse(line).global.root, PathBuf::from("/a"), "{line}");
        }
    }

    #[test]
    fn what_follows_the_image_is_the_containers() {
        let check = |line: &str, image: &str, command: &[&str], detach: bool| {
            let Verb::Run(run) = parse(line).verb else { panic!("{line} is a run") };
            let expected: Vec<&str> = [&[image], command].concat();
            assert_eq!(
                (run.image_and_command, run.detach),
                (expected.iter().map(ToString::to_string).collect(), detach),
                "{line}"
            );
        };
        check("agent run app", "app", &[], false);
        check("agent run -d app", "app", &[], true);
        check("agent run app -d", "app", &["-d"], false);
        check("agent run -d app sh -c x -d --name y", "app", &["sh", "-c", "x", "-d", "--name", "y"], true);
        check("agent run app sh -- -d", "app", &["sh", "--", "-d"], false);
        check("agent run -- app --root /a --help", "app", &["--root", "/a", "--help"], false);
        check("agent run app --version", "app", &["--version"], false);
        check("agent run -dit app -h", "app", &["-h"], true);
    }

    #[test]
    fn what_follows_the_container_is_the_commands() {
        let Verb::Exec(exec) = parse("agent exec -it -u 1 c ls -l --root x -- -d").verb else {
            panic!("it is an exec")
        };
        assert_eq!((exec.detach, exec.tty), (false, true));
        assert_eq!(exec.container_and_command, ["c", "ls", "-l", "--root", "x", "--", "-d"]);
    }

    #[test]
    fn h_is_the_host_name_of_a_run() {
        let Verb::Run(run) = parse("agent run -h box -m 64m -p 80:80 app").verb else {
            panic!("it is a run")
        };
        assert_eq!((run.hostname.as_deref(), run.memory), (Some("box"), Some(64 << 20)));
    }
}

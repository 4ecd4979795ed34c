//! `agent`: the command line. It parses, opens the runtime on its folders, and hands over to one verb.

mod attach;
mod cli;
mod commands;
mod exit;
mod flags;
mod log;
mod output;
mod print;
mod progress;
mod startup;
mod usage;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use runtime::RuntimeError;

use crate::cli::{Cli, Verb};
use crate::exit::Exit;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error).into(),
    };
    let keeps_small_codes = matches!(cli.verb, Verb::Run(_));
    exit_of(dispatch(cli), keeps_small_codes).into()
}

fn dispatch(cli: Cli) -> Result<Exit> {
    match &cli.verb {
        Verb::Version => {
            print::line(concat!("agent ", env!("CARGO_PKG_VERSION")))?;
            return Ok(Exit::Success);
        }
        Verb::Login(verb) => {
            startup::begin(&cli.global, &cli.verb)?;
            return verb.run(&cli.global.config_root);
        }
        Verb::Logout(verb) => return verb.run(),
        _ => {}
    }
    let runtime = startup::open(&cli.global, &cli.verb)?;
    match cli.verb {
        Verb::Run(verb) => verb.run(&runtime),
        Verb::Ps(verb) => verb.run(&runtime),
        Verb::Logs(verb) => verb.run(&runtime),
        Verb::Exec(verb) => verb.run(&runtime),
        Verb::Stop(verb) => verb.run(&runtime),
        Verb::Kill(verb) => verb.run(&runtime),
        Verb::Rm(verb) => verb.run(&runtime),
        Verb::Wait(verb) => verb.run(&runtime),
        Verb::Inspect(verb) => verb.run(&runtime),
        Verb::Pull(verb) => verb.run(&runtime),
        Verb::Push(verb) => verb.run(&runtime),
        Verb::Images(verb) => verb.run(&runtime),
        Verb::Rmi(verb) => verb.run(&runtime),
        Verb::Commit(verb) => verb.run(&runtime),
        Verb::Cp(verb) => verb.run(&runtime),
        Verb::Diff(verb) => verb.run(&runtime),
        Verb::Export(verb) => verb.run(&runtime),
        Verb::Save(verb) => verb.run(&runtime),
        Verb::Load(verb) => verb.run(&runtime),
        Verb::Import(verb) => verb.run(&runtime),
        Verb::Tag(verb) => verb.run(&runtime),
        Verb::History(verb) => verb.run(&runtime),
        Verb::Image(verb) => verb.run(&runtime),
        Verb::System(verb) => verb.run(&runtime),
        Verb::Trace(verb) => verb.run(&runtime),
        Verb::Reset(verb) => verb.run(runtime),
        Verb::Cleanup(verb) => verb.run(&runtime),
        Verb::Login(_) | Verb::Logout(_) | Verb::Version => {
            unreachable!("answered above, because it needs neither root nor runtime")
        }
    }
}

/// Answers arguments that are no order to do something: help, the version, or mistakes.
fn refuse(error: &clap::Error) -> Exit {
    if let ErrorKind::DisplayHelp | ErrorKind::DisplayVersion = error.kind() {
        return Exit::all(print::out(&error.render().to_string()).is_ok());
    }
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let verb = usage::verb_of(&Cli::command(), &arguments);
    complain(&usage::line(error, verb.as_deref()));
    usage::exit(verb.as_deref())
}

/// Says what went wrong, if it did: the chain of causes, once, on one line. `run` keeps the small exit codes for
/// its command.
fn exit_of(result: Result<Exit>, keeps_small_codes: bool) -> Exit {
    let error = match result {
        Ok(exit) => return exit,
        Err(error) => error,
    };
    complain(&format!("{error:#}"));
    let code = error.chain().find_map(|cause| cause.downcast_ref()).map_or(1, RuntimeError::exit_code);
    match code {
        125 => Exit::AgentFailed,
        126 => Exit::NotExecutable,
        127 => Exit::NotFound,
        _ if keeps_small_codes => Exit::AgentFailed,
        _ => Exit::Failure,
    }
}

/// Ends the program here and now, although another thread is busy.
fn leave(result: Result<Exit>) -> ! {
    std::process::exit(exit_of(result, false).code().into())
}

/// Writes one line to standard error; whether anyone reads it changes nothing.
fn complain(line: &str) {
    let line = line.replace('\n', " ");
    drop(writeln!(std::io::stderr(), "agent: {}", line.trim_end()));
}

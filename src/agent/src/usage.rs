//! Wrong arguments, in one line: what is wrong, how to mend it, and where to read more.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::exit::Exit;

/// The line for the user.
pub(crate) fn line(error: &clap::Error, verb: Option<&str>) -> String {
    let text = error.render().to_string();
    let mut paragraphs = text.split("\n\n");
    let first = paragraphs.next().unwrap_or_default();
    let what = match (error.kind(), std::error::Error::source(error)) {
        (ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand, _) => {
            "no command given".to_owned()
        }
        (ErrorKind::MissingRequiredArgument, _) => format!("missing {}", missing(error)),
        (ErrorKind::TooFewValues, _) => format!("want {}", missing(error)),
        (ErrorKind::ValueValidation, Some(reason)) => {
            let (argument, reason) = (argument(error), reason.to_string());
            match error.get(ContextKind::InvalidValue) {
                // Our own reasons quote the value, those of numbers do not.
                Some(ContextValue::String(value)) if !reason.contains(value.as_str()) => {
                    format!("{argument}: '{value}' cannot be used: {reason}")
                }
                _ => format!("{argument}: {reason}"),
            }
        }
        _ => one_line(first.trim_start_matches("error: ")),
    };
    // What is near to it, that is; not how to pass it as a value, which nobody wants.
    let tip = paragraphs.find_map(|paragraph| paragraph.trim().strip_prefix("tip: a similar "));
    let tip = tip.and_then(|tips| tips.lines().next());
    let tip = tip.map(|tip| format!(" (a similar {})", tip.trim())).unwrap_or_default();
    let verb = verb.map(|verb| format!("{verb} ")).unwrap_or_default();
    format!("{what}{tip}; see 'agent {verb}--help'")
}

/// How a run of the program with wrong arguments ends: `run` and `exec` keep the small codes for the command.
pub(crate) fn exit(verb: Option<&str>) -> Exit {
    match verb {
        Some("run" | "exec") => Exit::AgentFailed,
        _ => Exit::Failure,
    }
}

/// The verb among `arguments` (without the program's name), although they are wrong; `image ls` is one of two words.
pub(crate) fn verb_of(command: &clap::Command, arguments: &[OsString]) -> Option<String> {
    let takes_value = |name: &str| {
        let own = |argument: &&clap::Arg| argument.get_long() == Some(name);
        command.get_arguments().find(own).is_some_and(|argument| argument.get_action().takes_values())
    };
    let mut words: Vec<&str> = Vec::new();
    let mut within = command;
    let mut arguments = arguments.iter().map(|argument| argument.to_string_lossy());
    while let Some(argument) = arguments.next() {
        match argument.strip_prefix("--") {
            Some(flag) if takes_value(flag) => drop(arguments.next()),
            Some(_) => {}
            None => match within.find_subcommand(argument.as_ref()) {
                Some(verb) => {
                    words.push(verb.get_name());
                    within = verb;
                }
                None => break,
            },
        }
    }
    (!words.is_empty()).then(|| words.join(" "))
}

/// The flag whose value is wrong, without its placeholder.
fn argument(error: &clap::Error) -> String {
    match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(argument)) => {
            argument.split(' ').next().unwrap_or_default().trim_end_matches("...").to_owned()
        }
        _ => "arguments".to_owned(),
    }
}

/// The arguments that are missing, such as `<IMAGE>`.
fn missing(error: &clap::Error) -> String {
    match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::Strings(arguments)) => arguments.join(" ").replace("...", ""),
        Some(ContextValue::String(argument)) => argument.replace("...", ""),
        _ => "arguments".to_owned(),
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::{CommandFactory, Parser};

    #[test]
    fn each_mistake_has_one_line() {
        let check = |line: &str, code: u8, expected: &str| {
            let error = Cli::try_parse_from(line.split_whitespace()).expect_err(line);
            let arguments: Vec<OsString> = line.split_whitespace().skip(1).map(OsString::from).collect();
            let verb = verb_of(&Cli::command(), &arguments);
            assert_eq!(
                (super::line(&error, verb.as_deref()).as_str(), exit(verb.as_deref()).code()),
                (expected, code)
            );
        };
        check("agent", 1, "no command given; see 'agent --help'");
        check("agent frob", 1, "unrecognized subcommand 'frob'; see 'agent --help'");
        check("agent run", 125, "missing <IMAGE>; see 'agent run --help'");
        check("agent exec", 125, "missing <CONTAINER> <COMMAND>; see 'agent exec --help'");
        check("agent exec box", 125, "want <CONTAINER> <COMMAND>; see 'agent exec --help'");
        check("agent run -x app", 125, "unexpected argument '-x' found; see 'agent run --help'");
        check("agent stop", 1, "missing <CONTAINER>; see 'agent stop --help'");
        check("agent image rm", 1, "missing <IMAGE>; see 'agent image rm --help'");
        check("agent image", 1, "no command given; see 'agent image --help'");
        check(
            "agent --root /x run --nam y app",
            125,
            "unexpected argument '--nam' found (a similar argument exists: '--name'); see 'agent run --help'",
        );
        check(
            "agent run -m 5m app",
            125,
            "--memory: '5m' is too little memory: give 6m or more; see 'agent run --help'",
        );
        check(
            "agent stop -t soon x",
            1,
            "--time: 'soon' cannot be used: invalid digit found in string; see 'agent stop --help'",
        );
        check(
            "agent ps --format xml",
            1,
            "--format: 'xml' is no format: use table, json, or a template such as '{{.ID}}'; see 'agent ps --help'",
        );
    }
}

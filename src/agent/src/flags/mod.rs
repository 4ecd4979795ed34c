//! The values of command-line flags: each parser takes the text after the flag and gives the value or one
//! line that says what is wrong with it and what would be right. Nothing here touches the machine except
//! that `--env NAME` reads one variable of our own environment.

mod cpus;
mod env;
mod mount;
mod network;
mod port;
mod signal;
mod size;
mod span;

pub(crate) use cpus::parse_cpus;
pub(crate) use env::{EnvFlag, parse_label};
pub(crate) use mount::{parse_tmpfs, parse_volume};
pub(crate) use network::parse_network;
pub(crate) use port::PublishFlag;
pub(crate) use signal::parse_signal;
pub(crate) use size::parse_memory;
pub(crate) use span::{parse_since, parse_span};

/// How a parser of a flag's value fails: one line for the user.
pub(crate) type Parsed<T> = Result<T, String>;

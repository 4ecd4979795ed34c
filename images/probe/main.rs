//! `probe`: the payload of the tests. Run inside a container it reports, as one JSON object a line,
//! what it sees from there; its sub-commands are the workloads that limits, signals and networks are
//! tested with. It is static, so that an image of nothing but this file runs.

#![forbid(unsafe_code)]

mod attempts;
mod load;
mod net;
mod paths;
mod process;
mod report;
mod terminal;

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::{Result, bail};

const USAGE: &str = "usage: probe [report [PATH..]]   what is seen from here; PATHs are opened and listed too
       probe syscall [NAME..]      try what a container must not do, one child each
       probe spin SECONDS [THREADS] | alloc MIB [--hold] | fork N [--hold] | flood BYTES [--stderr]
       probe exit CODE | sleep SECONDS | wait [--ignore-term] | orphan
       probe out TEXT.. | err TEXT.. | cat | tty [--watch]
       probe listen PORT [--udp] | connect ADDRESS PORT [--udp]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("probe: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(words: &[&str]) -> Result<ExitCode> {
    match words {
        [] => report::print(&[])?,
        ["report", paths @ ..] => report::print(paths)?,
        ["syscall", names @ ..] => attempts::print(names)?,
        [attempts::CHILD, name] => return attempts::child(name),
        ["spin", seconds] => load::spin(seconds.parse()?, 1)?,
        ["spin", seconds, threads] => load::spin(seconds.parse()?, threads.parse()?)?,
        ["alloc", mib, hold @ ..] => load::alloc(mib.parse()?, flag(hold, "--hold")?)?,
        ["fork", count, hold @ ..] => load::fork(count.parse()?, flag(hold, "--hold")?)?,
        [load::FORKED] => load::forked()?,
        ["flood", bytes, stderr @ ..] => load::flood(bytes.parse()?, flag(stderr, "--stderr")?)?,
        ["exit", code] => return Ok(ExitCode::from(code.parse::<u8>()?)),
        ["sleep", seconds] => std::thread::sleep(std::time::Duration::from_secs_f64(seconds.parse()?)),
        ["wait", ignore @ ..] => process::wait(flag(ignore, "--ignore-term")?)?,
        ["orphan"] => process::orphan()?,
        [process::MIDDLE] => process::middle()?,
        [process::ORPHAN, parent] => process::orphaned(parent.parse()?)?,
        ["out", text @ ..] => println!("{}", text.join(" ")),
        ["err", text @ ..] => eprintln!("{}", text.join(" ")),
        ["cat"] => drop(std::io::copy(&mut std::io::stdin().lock(), &mut std::io::stdout().lock())?),
        ["tty", watch @ ..] => terminal::print(flag(watch, "--watch")?)?,
        ["listen", port, udp @ ..] => net::listen(port.parse()?, flag(udp, "--udp")?)?,
        ["connect", address, port, udp @ ..] => {
            let peer = SocketAddr::new(address.parse()?, port.parse()?);
            return net::connect(peer, flag(udp, "--udp")?);
        }
        _ => bail!("no such command\n{USAGE}"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether `name` is given in `rest`, where nothing else may stand.
fn flag(rest: &[&str], name: &str) -> Result<bool> {
    match rest {
        [] => Ok(false),
        [only] if *only == name => Ok(true),
        _ => bail!("expected nothing or {name}, got {rest:?}\n{USAGE}"),
    }
}

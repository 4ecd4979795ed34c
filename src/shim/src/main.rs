//! The small program that runs a container: its monitor, its first process until exec, and further processes
//! that join it. Single-threaded throughout, so that it may clone itself.

mod exec;
mod failure;
mod monitor;
mod rootfs;
mod stages;
mod start;

use std::process::ExitCode;

fn main() -> ExitCode {
    // What a container's processes may see of us, while we are still us, is nothing: neither our memory nor our
    // descriptors through /proc. exec(2) sets it back.
    if let Err(errno) = nix::sys::prctl::set_dumpable(false) {
        eprintln!("shim: failed to protect the process: {errno}");
        return ExitCode::from(125);
    }
    let mut args = std::env::args_os().skip(1);
    let verb = args.next();
    match verb.as_ref().and_then(|verb| verb.to_str()) {
        Some("monitor") => monitor::main(),
        Some("exec") => exec::main(args),
        Some("--version") => {
            println!("shim {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("shim: expected one of: monitor, exec, --version; it is run by agent, not by hand");
            ExitCode::from(2)
        }
    }
}

//! Loads for the limits: processor time, memory, processes, output.

use std::io::{Read, Write};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use nix::time::{ClockId, clock_gettime};
use serde_json::json;

use crate::{paths, process};

/// The name under which `fork` starts its children.
pub(crate) const FORKED: &str = "fork-child";

const MIB: usize = 1 << 20;
const PAGE: usize = 4096;

/// Computes for `seconds` of wall time on `threads` threads; prints how much processor time it got.
pub(crate) fn spin(seconds: f64, threads: usize) -> Result<()> {
    let limit = Duration::try_from_secs_f64(seconds)?;
    let start = Instant::now();
    let cpu_before = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?;
    let count = |start: Instant| {
        let mut iterations = 0_u64;
        while start.elapsed() < limit {
            for _ in 0..1000 {
                iterations = std::hint::black_box(iterations + 1);
            }
        }
        iterations
    };
    let iterations: u64 = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(|| count(start))).collect();
        let own = count(start);
        own + others.into_iter().map(|other| other.join().unwrap_or_default()).sum::<u64>()
    });
    let cpu = Duration::from(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)? - cpu_before);
    let wall = start.elapsed();
    println!(
        "{}",
        json!({
            "iterations": iterations,
            "wall_ms": wall.as_millis(),
            "cpu_ms": cpu.as_millis(),
            "share": cpu.as_secs_f64() / wall.as_secs_f64(),
        })
    );
    Ok(())
}

/// Takes memory and writes to every page of it, telling each MiB so that a killed run shows how far it came.
pub(crate) fn alloc(mib: usize, hold: bool) -> Result<()> {
    let mut taken: Vec<Vec<u8>> = Vec::new();
    for touched in 1..=mib {
        let mut block = vec![0_u8; MIB];
        block.iter_mut().step_by(PAGE).for_each(|byte| *byte = 1);
        taken.push(std::hint::black_box(block));
        if touched % 16 == 0 || touched == mib {
            println!("{}", json!({ "touched_mib": touched }));
        }
    }
    if hold {
        process::wait(false)?;
    }
    Ok(())
}

/// Starts up to `count` children that live until this process ends; prints how many could be had.
pub(crate) fn fork(count: usize, hold: bool) -> Result<()> {
    let mut children: Vec<Child> = Vec::new();
    let mut refused = None;
    while children.len() < count {
        let child = process::again().arg(FORKED).stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
        match child {
            Ok(child) => children.push(child),
            Err(error) => {
                refused = Some(paths::outcome::<()>(&Err(error)));
                break;
            }
        }
    }
    println!("{}", json!({ "asked": count, "started": children.len(), "refused": refused }));
    if hold {
        process::wait(false)?;
    }
    for mut child in children {
        drop(child.stdin.take());
        child.wait()?;
    }
    Ok(())
}

/// Lives until its parent closes the pipe.
pub(crate) fn forked() -> Result<()> {
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// Writes exactly `bytes` bytes, in numbered lines of 100, so that a reader sees what is missing.
pub(crate) fn flood(bytes: usize, to_stderr: bool) -> Result<()> {
    let sink: Box<dyn Write> =
        if to_stderr { Box::new(std::io::stderr()) } else { Box::new(std::io::stdout().lock()) };
    let mut sink = std::io::BufWriter::with_capacity(64 << 10, sink);
    let mut left = bytes;
    let mut number = 0_u64;
    while left > 0 {
        let line = format!("{number:012} {:.<86}\n", "");
        let take = left.min(line.len());
        sink.write_all(&line.as_bytes()[..take])?;
        left -= take;
        number += 1;
    }
    sink.flush().map_err(|error| anyhow!("failed to write {bytes} bytes: {error}"))
}

//! Unpacks a plain layer archive from memory into an empty folder and says how long that took, to be compared
//! with `tar x` of the same archive: `unpack ARCHIVE FOLDER`.

use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use image::unpack::below::Below;
use image::unpack::{Limits, unpack};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(archive), Some(folder), None) = (arguments.next(), arguments.next(), arguments.next()) else {
        return Err("usage: unpack ARCHIVE FOLDER".into());
    };
    let archive = std::fs::read(archive)?;
    std::fs::create_dir(&folder)?;
    let begun = Instant::now();
    let settled = unpack(&archive[..], &folder, &Limits::default())?.settle(&Below::nothing())?;
    let seconds = begun.elapsed().as_secs_f64();
    println!("{seconds:.3} s, {} entries, {} bytes", settled.entries, settled.bytes);
    Ok(())
}

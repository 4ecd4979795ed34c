//! The verbs, one file each: its options, and what it does with the runtime.

pub(crate) mod cleanup;
pub(crate) mod commit;
pub(crate) mod cp;
pub(crate) mod diff;
pub(crate) mod exec;
pub(crate) mod export;
pub(crate) mod history;
pub(crate) mod image;
pub(crate) mod images;
pub(crate) mod import;
pub(crate) mod inspect;
pub(crate) mod kill;
pub(crate) mod load;
pub(crate) mod login;
pub(crate) mod logout;
pub(crate) mod logs;
pub(crate) mod ps;
pub(crate) mod pull;
pub(crate) mod push;
pub(crate) mod reset;
pub(crate) mod rm;
pub(crate) mod rmi;
pub(crate) mod run;
pub(crate) mod save;
pub(crate) mod stop;
pub(crate) mod system;
pub(crate) mod tag;
pub(crate) mod trace;
pub(crate) mod wait;

use anyhow::Result;

use crate::exit::Exit;

/// A reference as people write it, where it can be read.
fn familiar(reference: &str) -> String {
    reference.parse::<::image::Reference>().map_or_else(|_| reference.to_owned(), |parsed| parsed.familiar())
}

/// An id without its algorithm, its first twelve digits.
fn short(id: &str) -> String {
    id.split_once(':').map_or(id, |(_, digits)| digits).chars().take(12).collect()
}

/// Does `act` for each name, and prints what it gives; one that fails is complained of and does not keep the
/// others from being tried.
fn for_each(names: &[String], act: impl Fn(&str) -> Result<String>) -> Result<Exit> {
    let mut all = true;
    for name in names {
        match act(name) {
            Ok(done) => crate::print::line(&done)?,
            Err(error) => {
                crate::complain(&format!("{error:#}"));
                all = false;
            }
        }
    }
    Ok(Exit::all(all))
}

//! `agent logout`: forgets who we are to a registry.

use anyhow::Result;
use clap::Args;
use image::login::{logout, registry_host};

use crate::exit::Exit;
use crate::print;

/// Log out from a registry
#[derive(Debug, Args)]
pub(crate) struct Logout {
    /// The registry
    #[arg(value_name = "HOST", default_value = "docker.io", value_parser = registry_host)]
    host: String,
}

impl Logout {
    pub(crate) fn run(&self) -> Result<Exit> {
        let host = &self.host;
        match logout(host)? {
            true => print::line(&format!("Removing login credentials for {host}"))?,
            false => print::line(&format!("Not logged in to {host}"))?,
        }
        Ok(Exit::Success)
    }
}

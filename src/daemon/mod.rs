//! What makes a process a daemon: its directories, its lock, its background, its user and its log.
//! The master is what then runs in it; the order of start-up is in [`start`].

use std::path::PathBuf;

use crate::config::Main;

pub mod background;
pub mod directories;
mod failure;
pub mod logging;
pub mod node;
pub mod pidfile;
pub mod privileges;

pub use failure::{Failure, status};

/// Version of this program, as in Cargo.toml.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Where a daemon keeps its files.
#[derive(Clone, Debug)]
pub struct Files {
    /// Pidfile and port, absent while no daemon runs.
    pub run: PathBuf,
    /// What survives the daemon.
    pub data: PathBuf,
    name: String,
}

impl Files {
    /// Of the daemon with these settings.
    pub fn of(main: &Main) -> Self {
        Self {
            run: main.working_dir.join("run"),
            data: main.working_dir.join("data"),
            name: main.name.clone(),
        }
    }

    /// The admin port's number, as text.
    pub fn port(&self) -> PathBuf {
        self.run.join(format!("{}.port", self.name))
    }

    /// The scoreboard.
    pub fn board(&self) -> PathBuf {
        self.data.join(format!("{}.board", self.name))
    }

    /// The daemon's identity in the store.
    pub fn node(&self) -> PathBuf {
        self.data.join(format!("{}.node", self.name))
    }

    /// Where a slot's script notes its finished runs.
    pub fn progress(&self, pool: &str, slot: u32) -> PathBuf {
        self.data
            .join(format!("{}.progress", self.name))
            .join(format!("{pool}.{slot}"))
    }
}

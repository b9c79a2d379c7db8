//! What makes a process a daemon: its directories, its lock, its background, its user and its log.
//! [`prepare`] does all that can fail, in order, before the first fork; the master is what then runs.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::TcpListener;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use nix::sys::signal::Signal;
use nix::sys::socket::{Backlog, listen};

use crate::config::{LogTarget, Main};
use crate::sys::signals;

pub mod background;
pub mod directories;
mod failure;
pub mod log_queue;
pub mod logging;
pub mod node;
pub mod pidfile;
pub mod privileges;
mod socket;

pub use failure::{Failure, status};
pub use socket::Socket;

/// Version of this program, as in Cargo.toml.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Connections that may wait to be accepted. The standard library asks for 128; more at once would be dropped, and try
/// again after a second.
const BACKLOG: i32 = 1024;

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

    /// Writes the port's file anew. Whatever is there is removed first: nothing is written through a link.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn write_port(&self, port: u16) -> io::Result<()> {
        let _ = fs::remove_file(self.port());
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o640)
            .open(self.port())?;
        writeln!(file, "{port}")
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

/// What the master stands on.
#[derive(Debug)]
pub struct Prepared {
    /// Where files are.
    pub files: Files,
    /// Held to the end.
    pub pidfile: pidfile::Pidfile,
    /// The admin port, bound.
    pub listener: TcpListener,
    /// Its second listener.
    pub socket: Option<Socket>,
    /// This daemon's identity in the store.
    pub node: String,
    /// Drawn for this start: no other start's tokens look alike.
    pub nonce: u64,
}

impl Prepared {
    /// At the end: takes the files away that say that a daemon runs, the pidfile as the last one.
    pub fn leave(self) {
        let _ = fs::remove_file(self.files.port());
        if let Some(socket) = self.socket {
            socket.remove();
        }
        self.pidfile.remove();
    }
}

/// Makes the directories, takes the lock, binds, becomes the user and starts the log. Nothing is left behind when one
/// of these fails.
///
/// # Errors
/// Each with its message and exit status, see [`status`].
pub fn prepare(main: &Main) -> Result<Prepared, Failure> {
    let account = privileges::Account::of(main)?;
    if let Some(account) = &account {
        account.act_as()?;
    }
    let files = Files::of(main);
    ensure_directories(main, &files)?;
    // Whoever reads the pidfile may send these at once, and their default action would kill us until the master takes them.
    signals::ignore(&[Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2]);
    // The lock comes before the port: of two starts at once the loser names the winner, not a port in use.
    let pidfile = pidfile::Pidfile::lock(&main.pid_file)?;
    let rest = || {
        if let Some(account) = &account {
            account.back_to_root()?;
        }
        let listener = bind(main)?;
        if let Some(account) = &account {
            account.become_for_good()?;
        }
        logging::start(&main.log, main.log_level).map_err(|err| cannot_open_log(main, &err))?;
        let node =
            node::load_or_create(&files.node()).map_err(|err| cannot_use_node(&files, &err))?;
        let nonce = node::random_u64().map_err(|err| cannot_use_node(&files, &err))?;
        // As that user: he has to reach it, and to take it away at the end. The last step, since it leaves a file.
        let socket = main.unixsocket.as_deref().map(Socket::bind).transpose()?;
        Ok((listener, socket, node, nonce))
    };
    match rest() {
        Ok((listener, socket, node, nonce)) => Ok(Prepared {
            files,
            pidfile,
            listener,
            socket,
            node,
            nonce,
        }),
        Err(failure) => {
            pidfile.remove();
            Err(failure)
        }
    }
}

/// What [`prepare`] would refuse, as far as it is seen while another daemon holds the lock and the port.
///
/// # Errors
/// As [`prepare`].
pub fn rehearse(main: &Main) -> Result<(), Failure> {
    let account = privileges::Account::of(main)?;
    if let Some(account) = &account {
        account.act_as()?;
    }
    let files = Files::of(main);
    let outcome = ensure_directories(main, &files)
        .and_then(|()| logging::try_out(&main.log).map_err(|err| cannot_open_log(main, &err)))
        .and_then(|()| {
            // Drawing one is for who holds the lock.
            let node = node::load(&files.node());
            node.map(drop).map_err(|err| cannot_use_node(&files, &err))
        });
    if let Some(account) = &account {
        account.back_to_root()?;
    }
    outcome
}

fn ensure_directories(main: &Main, files: &Files) -> Result<(), Failure> {
    directories::ensure(&main.working_dir)?;
    directories::ensure(&files.run)?;
    directories::ensure(&files.data)?;
    match &main.log {
        LogTarget::Daily { directory, .. } => directories::ensure(directory),
        // Where the operator wants one file is his to answer for; that it can be opened is seen later.
        LogTarget::File(path) => path
            .parent()
            .filter(|parent| !parent.exists())
            .map_or(Ok(()), directories::ensure),
        LogTarget::Stderr => Ok(()),
    }
}

fn cannot_open_log(main: &Main, err: &io::Error) -> Failure {
    let message = format!("cannot open log {}: {err}", main.log);
    Failure::new(status::CANNOT_CREATE, message)
}

fn cannot_use_node(files: &Files, err: &io::Error) -> Failure {
    let message = format!("cannot use {}: {err}", files.node().display());
    Failure::new(status::CANNOT_CREATE, message)
}

/// Binds the admin port.
///
/// # Errors
/// 69 when it is taken or there is no such address, 77 when only root may have it.
pub fn bind(main: &Main) -> Result<TcpListener, Failure> {
    let bound = TcpListener::bind((main.host.as_str(), main.port)).and_then(|listener| {
        listen(&listener, Backlog::new(BACKLOG)?)?;
        Ok(listener)
    });
    bound.map_err(|err| {
        let status = match err.kind() {
            std::io::ErrorKind::PermissionDenied => status::NOT_PERMITTED,
            _ => status::UNAVAILABLE,
        };
        let cure = match err.kind() {
            std::io::ErrorKind::AddrInUse => "; choose another main.port, or 0 for any",
            _ => "",
        };
        Failure::new(
            status,
            format!("cannot listen on {}:{}: {err}{cure}", main.host, main.port),
        )
    })
}

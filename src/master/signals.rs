//! Signals to the master, collected by a self-pipe in its loop; none kills it by default action.

use std::io::{self, IsTerminal};

use mio::{Interest, Registry, Token};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2};
use signal_hook_mio::v1_0::Signals;

use crate::daemon::background::Ground;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// A child has ended.
    Reap,
    /// Stop; the second time at once.
    Stop,
    /// Replace the workers one by one.
    Reload,
    /// Reopen the log.
    ReopenLog,
    /// A signal whose feature is to come, by name.
    Unsupported(&'static str),
}

/// The signals of the master.
pub struct MasterSignals {
    signals: Signals,
    hangup: Wish,
}

impl MasterSignals {
    /// Installs the handlers and registers their pipe.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn install(registry: &Registry, token: Token, ground: Ground) -> io::Result<Self> {
        let all = [
            SIGCHLD, SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2, SIGTTIN, SIGTTOU,
        ];
        let mut signals = Signals::new(all)?;
        registry.register(&mut signals, token, Interest::READABLE)?;
        // A terminal that goes away sends HUP to what runs in it.
        let hangup = match ground {
            Ground::Foreground if io::stdin().is_terminal() => Wish::Stop,
            Ground::Foreground | Ground::Background => Wish::Reload,
        };
        Ok(Self { signals, hangup })
    }

    /// What has arrived.
    pub fn pending(&mut self) -> Vec<Wish> {
        let hangup = self.hangup;
        let wish = |signal| match signal {
            SIGTERM | SIGINT => Wish::Stop,
            SIGHUP => hangup,
            SIGUSR1 => Wish::ReopenLog,
            SIGUSR2 => Wish::Unsupported("USR2"),
            SIGTTIN => Wish::Unsupported("TTIN"),
            SIGTTOU => Wish::Unsupported("TTOU"),
            _ => Wish::Reap,
        };
        self.signals.pending().map(wish).collect()
    }
}

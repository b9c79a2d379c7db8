//! Who a process is: a pid on the scoreboard may have gone to another process since it was written there, so its start
//! time stands with it, and nobody is killed unless both match.

use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use crate::sys::process;

/// A process, told from a later one with the same pid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// 0: none.
    pub pid: i32,
    /// In clock ticks since boot, see [`crate::sys::process::start_time`].
    pub start_time: u64,
}

impl Identity {
    /// Of a process that lives.
    pub fn of(pid: i32) -> Self {
        Self {
            pid,
            start_time: process::start_time(pid).unwrap_or(0),
        }
    }

    /// Whether this very process still lives (or was not reaped yet).
    pub fn is_alive(self) -> bool {
        self.pid > 0 && process::start_time(self.pid) == Some(self.start_time)
    }

    /// Kills the process with its group, and waits until it is dead.
    pub fn end_group(self) {
        // Watched first: the descriptor then speaks of this process and of no later one.
        let Ok(watch) = process::watch(self.pid) else {
            return;
        };
        if !self.is_alive() {
            return;
        }
        let _ = process::signal_group(self.pid, Signal::SIGKILL);
        let mut fds = [PollFd::new(watch.as_fd(), PollFlags::POLLIN)];
        while poll(&mut fds, PollTimeout::NONE).is_err() {}
    }
}

//! A seat: what the master holds for a slot beside the supervisor's state. Where it is pinned, where its record is,
//! the channel to its process.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::sys::signal::Signal;

use crate::channel::message::{ToMaster, ToWorker};
use crate::channel::{MasterEnd, Received};
use crate::scoreboard::{Record, Scoreboard};
use crate::sys::process;

/// Messages taken from one channel in one round: one who floods does not hold the others up.
const MESSAGES_PER_ROUND: usize = 64;

/// Who sits there.
#[derive(Clone, Debug)]
pub enum Occupant {
    /// A worker of a pool.
    Worker {
        /// Place in the settings' pools.
        pool: usize,
        /// Number of the slot in its pool.
        slot: u32,
        /// Number across pools.
        number: usize,
        /// Place of its record.
        place: usize,
        /// Where it is pinned.
        core: Option<usize>,
    },
    /// The keeper.
    Keeper,
}

/// The master's side of one slot.
#[derive(Debug)]
pub struct Seat {
    /// Who sits there.
    pub occupant: Occupant,
    channel: Option<(u64, MasterEnd)>,
    watch: Option<(i32, OwnedFd)>,
}

impl Seat {
    /// Empty.
    pub fn new(occupant: Occupant) -> Self {
        Self {
            occupant,
            channel: None,
            watch: None,
        }
    }

    /// The slot's record; none for the keeper.
    pub fn record<'a>(&self, board: &'a Scoreboard) -> Option<Record<'a>> {
        match self.occupant {
            Occupant::Worker { place, .. } => Some(board.record(place)),
            Occupant::Keeper => None,
        }
    }

    /// Talks to a new process from now on.
    pub fn connect(
        &mut self,
        generation: u64,
        end: MasterEnd,
        registry: &Registry,
        token: Token,
    ) -> io::Result<()> {
        self.disconnect(registry);
        registry.register(&mut SourceFd(&end.as_raw_fd()), token, Interest::READABLE)?;
        self.channel = Some((generation, end));
        Ok(())
    }

    /// The epoll set is shared with children until they close it, so a descriptor leaves it before it is closed.
    pub fn disconnect(&mut self, registry: &Registry) {
        if let Some((_, end)) = self.channel.take() {
            let _ = registry.deregister(&mut SourceFd(&end.as_raw_fd()));
        }
    }

    /// Sends, unless another generation lives here by now. False: not sent.
    pub fn send(&self, generation: u64, message: &ToWorker) -> bool {
        self.channel
            .as_ref()
            .is_some_and(|(lives, end)| *lives == generation && end.send(message))
    }

    /// Messages that have arrived, with their sender's generation; true when there may be more.
    pub fn receive(&self, into: &mut Vec<(u64, ToMaster)>) -> bool {
        let Some((generation, end)) = &self.channel else {
            return false;
        };
        for _ in 0..MESSAGES_PER_ROUND {
            match end.receive() {
                Received::Message(message) => into.push((*generation, message)),
                Received::Garbage(err) => {
                    let err = err.to_string();
                    log::error!("cannot read message of a worker gen={generation} err={err:?}");
                }
                // The end of a process is told by its exit.
                Received::Empty | Received::Closed => return false,
            }
        }
        true
    }

    /// Another process, no child of ours, holds the slot's lock: wakes the loop by `token` when it ends.
    pub fn watch(&mut self, pid: i32, registry: &Registry, token: Token) -> io::Result<()> {
        let watch = process::watch(pid)?;
        registry.register(&mut SourceFd(&watch.as_raw_fd()), token, Interest::READABLE)?;
        self.watch = Some((pid, watch));
        Ok(())
    }

    /// The watched process, if it does not hold the lock any more.
    pub fn vacated(&mut self, board: &Scoreboard, registry: &Registry) -> Option<i32> {
        let Occupant::Worker { place, .. } = self.occupant else {
            return None;
        };
        let holder = board.holder(place).ok().flatten();
        let (pid, watch) = self.watch.take_if(|(pid, _)| holder != Some(*pid))?;
        let _ = registry.deregister(&mut SourceFd(&watch.as_raw_fd()));
        Some(pid)
    }

    /// Kills all that the script of the worker in this seat has started, if that very script still lives: what was
    /// counted as its memory, sessions of their own included.
    pub fn kill_descent_of_script(&self, board: &Scoreboard) {
        let Some(script) = self.record(board).map(|record| record.script()) else {
            return;
        };
        if script.is_alive() {
            for pid in process::descent(script.pid) {
                let _ = process::signal(pid, Signal::SIGKILL);
            }
        }
    }

    /// Signals the script's group of the worker in this seat, if that very script still lives.
    pub fn signal_script(&self, board: &Scoreboard, signal: Signal) {
        let Some(script) = self.record(board).map(|record| record.script()) else {
            return;
        };
        if script.is_alive() {
            let _ = process::signal_group(script.pid, signal);
        }
    }
}

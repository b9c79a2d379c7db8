//! The keeper: watches the queues and wakes idle workers, so that a thousand of them cost the store nothing.
//!
//! The store tells it once when a key changes. It then rings one doorbell at once, asks for the lengths again (which
//! arms the store's notice), and rings for as many workers as are idle and have work (`pool`). While nobody is idle it does
//! not ask; who goes idle while it does not watch rings the keeper. Its other duties are the reserved lists that no worker
//! will come for (`estate`), the
//! figures that somebody asks for (`census`, `age`), and jobs whose time has come (`due`).

use std::path::PathBuf;
use std::sync::Arc;

use nix::sys::eventfd::EventFd;
use nix::unistd::getppid;

use crate::channel::WorkerEnd;
use crate::channel::message::ToMaster;
use crate::config::Config;
use crate::queue;
use crate::scoreboard::Scoreboard;
use crate::worker::control::Control;

mod age;
mod census;
mod due;
mod estate;
mod pool;

pub use census::WANTED_FOR;
use pool::PoolKeeper;

/// Exit status of a keeper that the kernel gave no descriptors.
const STATUS_CANNOT_START: i32 = 69;

/// What a keeper is born with.
pub struct Birth<'a> {
    /// The daemon's settings.
    pub config: &'a Config,
    /// The daemon's node in the store.
    pub node: &'a str,
    /// Of this start of the daemon.
    pub nonce: u64,
    /// Which keeper it is.
    pub generation: u64,
    /// Its end of the channel.
    pub channel: Arc<WorkerEnd>,
    /// Where it sees who is idle.
    pub board: Arc<Scoreboard>,
    /// The slots of this daemon.
    pub slots: Vec<Slot>,
    /// Where the script of a slot (pool and number) notes its runs.
    pub page: &'a (dyn Fn(&str, u32) -> PathBuf + Sync),
    /// Wakes one idle worker per unit; per pool.
    pub doorbells: &'a [EventFd],
    /// Rung by a worker that goes idle while the keeper does not watch; per pool.
    pub keeper_bells: &'a [EventFd],
}

/// A slot of this daemon.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// The pool's place in the settings.
    pub pool: usize,
    /// The slot's number in it.
    pub slot: u32,
    /// Place of its record.
    pub place: usize,
}

impl Birth<'_> {
    /// It never opens a list of its own, so pool and slot name none.
    fn identity(&self) -> queue::Identity {
        queue::Identity {
            node: self.node.into(),
            nonce: self.nonce,
            pool: "keeper".into(),
            slot: 0,
            generation: self.generation,
        }
    }
}

/// Keeps house until told to leave; returns the exit status.
pub fn live(birth: Birth<'_>) -> i32 {
    let master = getppid();
    let channel = Arc::clone(&birth.channel);
    let control = Control {
        channel: Arc::clone(&channel),
        board: Arc::clone(&birth.board),
        place: None,
        care: None,
        memory_limit_bytes: u64::MAX,
        shutdown_timeout: birth.config.main.shutdown_timeout,
    };
    let orders = match control.start() {
        Ok(orders) => orders,
        Err(err) => {
            log::error!("cannot start keeper err={:?}", err.to_string());
            return STATUS_CANNOT_START;
        }
    };
    channel.send(&ToMaster::Reclaimed);
    channel.send(&ToMaster::Ready);
    let pools = 0..birth.config.pools.len();
    let keepers: Vec<_> = pools
        .filter_map(|pool| PoolKeeper::new(&birth, pool))
        .collect();
    std::thread::scope(|scope| {
        for mut keeper in keepers {
            let orders = &orders;
            scope.spawn(move || {
                keeper.run(orders);
                // Without a master its workers may live, and a new one may be starting others: their slots are theirs.
                if getppid() == master {
                    keeper.hand_back();
                }
            });
        }
    });
    0
}

//! The keeper: watches the queue and wakes idle workers, so that a thousand of them cost the store nothing.
//!
//! The store tells it once when the key changes. It then rings one doorbell at once, asks for the length again (which
//! arms the store's notice), and rings for as many workers as are idle and have work. While nobody is idle it does not
//! ask; who goes idle while it does not watch rings the keeper. Its other duty is the reserved lists that no worker
//! will come for (`estate`).

use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::eventfd::EventFd;
use nix::unistd::getppid;

use crate::channel::WorkerEnd;
use crate::channel::message::ToMaster;
use crate::config;
use crate::queue::{self, Backoff, QueueError, Tracking, Watch};
use crate::scoreboard::{QueueSample, Scoreboard, State};
use crate::sys::clock;
use crate::worker::control::{Control, Orders, round_up};

mod estate;

/// How often the length is asked for when nothing happens: a lost notice costs no more than this.
const ASK_EVERY: Duration = Duration::from_secs(5);

/// The same, when the store refuses to tell of changes.
const ASK_EVERY_UNTRACKED: Duration = Duration::from_millis(100);

/// Exit status of a keeper that the kernel gave no descriptors.
const STATUS_CANNOT_START: i32 = 69;

/// What a keeper is born with.
pub struct Birth<'a> {
    /// The queue of the pool it serves.
    pub queue: &'a config::Queue,
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
    /// The slots of this daemon: pool, slot and place of the record.
    pub slots: Vec<(String, u32, usize)>,
    /// Where the script of a slot notes its runs.
    pub page: &'a dyn Fn(&str, u32) -> PathBuf,
    /// Wakes one idle worker per unit.
    pub doorbell: &'a EventFd,
    /// Rung by a worker that goes idle while the keeper does not watch.
    pub keeper_bell: &'a EventFd,
    /// From the master's end to ours.
    pub shutdown_timeout: Duration,
}

/// Keeps house until told to leave; returns the exit status.
pub fn live(birth: Birth<'_>) -> i32 {
    let master = getppid();
    let channel = Arc::clone(&birth.channel);
    let control = Control {
        channel: Arc::clone(&channel),
        board: Arc::clone(&birth.board),
        place: None,
        memory_limit_bytes: u64::MAX,
        shutdown_timeout: birth.shutdown_timeout,
    };
    let orders = match control.start() {
        Ok(orders) => orders,
        Err(err) => {
            log::error!("cannot start keeper: {err}");
            return STATUS_CANNOT_START;
        }
    };
    channel.send(&ToMaster::Reclaimed);
    channel.send(&ToMaster::Ready);
    // It never opens a list of its own, so pool and slot name none.
    let identity = queue::Identity {
        node: birth.node.into(),
        nonce: birth.nonce,
        pool: "keeper".into(),
        slot: 0,
        generation: birth.generation,
    };
    let estate = estate::Estate::new(birth.queue, identity, &birth.slots, birth.page);
    let mut keeper = Keeper {
        places: birth.slots.iter().map(|(_, _, place)| *place).collect(),
        board: &birth.board,
        doorbell: birth.doorbell,
        keeper_bell: birth.keeper_bell,
        watch: Watch::new(birth.queue),
        is_tracked: true,
        ask_at: Instant::now(),
        backoff: Backoff::new(u64::from(std::process::id())),
        outage: None,
        queue: birth.queue,
        estate,
    };
    keeper.run(&orders);
    // Without a master its workers may live, and a new one may be starting others: their slots are theirs.
    if getppid() == master {
        keeper.hand_back();
    }
    0
}

struct Keeper<'a> {
    places: Vec<usize>,
    board: &'a Scoreboard,
    doorbell: &'a EventFd,
    keeper_bell: &'a EventFd,
    watch: Watch,
    is_tracked: bool,
    /// When the length is asked for at the latest.
    ask_at: Instant,
    backoff: Backoff,
    /// Since when the store is away.
    outage: Option<Instant>,
    queue: &'a config::Queue,
    estate: estate::Estate<'a>,
}

impl Keeper<'_> {
    /// One connection after the other.
    fn run(&mut self, orders: &Orders) {
        while !orders.must_leave() {
            let ended = self.open().and_then(|()| self.keep(orders));
            self.board.keeper_watches().store(0, Ordering::SeqCst);
            let Err(err) = ended else { break };
            let is_new = self.is_away();
            // Told after the pause: when the store refused the start, the master has said so and we are to leave.
            if !orders.wait(self.backoff.next_delay()) && is_new {
                self.tell_away(&err);
            }
        }
    }

    /// The workers have left before us; those that were killed still hold jobs.
    fn hand_back(&mut self) {
        if self.outage.is_some() {
            return;
        }
        if let Err(err) = self.estate.settle_all(self.board) {
            log::warn!(
                "jobs of killed workers stay reserved until the next start err={err:?}",
                err = err.to_string()
            );
        }
    }

    /// True when it was there until now.
    fn is_away(&mut self) -> bool {
        self.board.set_queue_sample(QueueSample {
            is_connected: false,
            ..self.board.queue_sample()
        });
        let is_new = self.outage.is_none();
        self.outage.get_or_insert_with(Instant::now);
        is_new
    }

    fn tell_away(&self, err: &QueueError) {
        match err {
            QueueError::Unavailable(_) => log::warn!(
                "redis unavailable addr={} err={:?}",
                self.queue.address,
                err.to_string()
            ),
            _ => log::error!("{err}"),
        }
    }

    /// It has told a length. A connection alone proves nothing: the store may refuse every command on it.
    fn is_back(&mut self) {
        if let Some(since) = self.outage.take() {
            log::info!(
                "redis back addr={} down_ms={}",
                self.queue.address,
                since.elapsed().as_millis()
            );
        }
        self.backoff.reset();
    }

    fn open(&mut self) -> Result<(), QueueError> {
        self.is_tracked = match self.watch.open()? {
            Tracking::On => true,
            Tracking::Refused(err) => {
                if self.is_tracked {
                    log::warn!("redis refuses to tell of changes, asking every 100 ms err={err:?}");
                }
                false
            }
        };
        self.estate.settle(self.board)?;
        self.ask()
    }

    /// Serves one connection until it breaks, or until told to leave.
    fn keep(&mut self, orders: &Orders) -> Result<(), QueueError> {
        while !orders.must_leave() {
            let deadline = self
                .watch
                .deadline()
                .map_or(self.ask_at, |deadline| deadline.min(self.ask_at));
            self.wait(orders, deadline);
            let mut is_asked = self.keeper_bell.read().is_ok();
            while let Some(event) = self.watch.read()? {
                match event {
                    queue::Event::Invalidated => is_asked |= self.changed(),
                    queue::Event::Lengths(lengths) => {
                        self.is_back();
                        self.ring(lengths.iter().sum());
                    }
                }
            }
            let is_due = Instant::now() >= self.ask_at;
            if is_due {
                self.estate.settle(self.board)?;
            }
            if is_asked || is_due {
                self.ask()?;
            }
        }
        Ok(())
    }

    fn wait(&self, orders: &Orders, deadline: Instant) {
        let left = round_up(deadline.saturating_duration_since(Instant::now()));
        let fds: Vec<BorrowedFd<'_>> = [
            Some(orders.wake()),
            Some(self.keeper_bell.as_fd()),
            self.watch.fd(),
        ]
        .into_iter()
        .flatten()
        .collect();
        let mut fds: Vec<PollFd<'_>> = fds
            .into_iter()
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        let _ = poll(&mut fds, left);
    }

    /// The key has changed: true when it is worth asking how.
    fn changed(&mut self) -> bool {
        self.board.keeper_watches().store(0, Ordering::SeqCst);
        // Who registers as idle from here on sees that nobody watches, and rings us.
        let is_anybody_idle = self.idle() > 0;
        if is_anybody_idle {
            self.ring_times(1);
        }
        is_anybody_idle
    }

    fn ask(&mut self) -> Result<(), QueueError> {
        self.ask_at = Instant::now()
            + if self.is_tracked {
                ASK_EVERY
            } else {
                ASK_EVERY_UNTRACKED
            };
        self.board.keeper_watches().store(1, Ordering::SeqCst);
        self.watch.ask()
    }

    fn ring(&self, waiting: u64) {
        let sampled_ms = clock::monotonic().as_millis() as u64;
        self.board.set_queue_sample(QueueSample {
            is_connected: true,
            waiting,
            sampled_ms,
        });
        self.ring_times(waiting.min(self.idle()));
    }

    fn ring_times(&self, times: u64) {
        // Rings that nobody answered yet (a stopped worker) are not added to.
        while self.doorbell.read().is_ok() {}
        if times > 0 {
            let _ = self.doorbell.write(times);
        }
    }

    fn idle(&self) -> u64 {
        self.places
            .iter()
            .filter(|place| self.board.record(**place).state() == State::Idle)
            .count() as u64
    }
}

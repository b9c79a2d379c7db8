//! The keeper's watch over the queue of one pool: rings its doorbell when there is work for an idle worker, and looks
//! after what nobody else does (`estate`, `census`). A thread of the keeper for each pool, so that a server that stalls
//! holds up its own pool and no other.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::eventfd::EventFd;

use super::Birth;
use super::census::Census;
use super::estate::Estate;
use crate::config;
use crate::queue::{self, Backoff, QueueError, Tracking, Watch};
use crate::scoreboard::{Scoreboard, State};
use crate::sys::clock;
use crate::worker::control::{Orders, round_up};

/// How often the length is asked for when nothing happens: a lost notice costs no more than this.
const ASK_EVERY: Duration = Duration::from_secs(5);

/// The same, when the store refuses to tell of changes.
const ASK_EVERY_UNTRACKED: Duration = Duration::from_millis(100);

/// One pool's.
pub struct PoolKeeper<'a> {
    places: Vec<usize>,
    board: &'a Scoreboard,
    /// The pool's place in the settings.
    pool: usize,
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
    /// Says what befalls the server; other pools of the same server do not repeat it.
    is_speaker: bool,
    /// Numbers of this pool's queues on the scoreboard, and which of its keys each is.
    queues: Vec<(usize, usize)>,
    estate: Estate<'a>,
    census: Census,
}

impl<'a> PoolKeeper<'a> {
    /// Of the pool at this place of the settings; none if it has no queue.
    pub fn new(birth: &'a Birth<'a>, pool: usize) -> Option<Self> {
        let queue = birth.config.pools[pool].queue.as_ref()?;
        let numbers = birth.config.queues();
        let queues: Vec<(usize, usize)> = (0..)
            .zip(numbers)
            .filter(|(_, (of, _))| *of == pool)
            .map(|(number, (_, key))| (number, key))
            .collect();
        // A queue of several pools is looked after by the first.
        let own = config::Queue {
            keys: queues
                .iter()
                .map(|(_, key)| queue.keys[*key].clone())
                .collect(),
            ..queue.clone()
        };
        let earlier = birth.config.pools[..pool].iter();
        let is_speaker = !earlier
            .filter_map(|pool| pool.queue.as_ref())
            .any(|other| other.address == queue.address);
        let seed = u64::from(std::process::id()) ^ (pool as u64) << 32;
        Some(Self {
            places: birth
                .slots
                .iter()
                .filter(|slot| slot.pool == pool)
                .map(|slot| slot.place)
                .collect(),
            board: &birth.board,
            pool,
            doorbell: &birth.doorbells[pool],
            keeper_bell: &birth.keeper_bells[pool],
            watch: Watch::new(queue),
            is_tracked: true,
            ask_at: Instant::now(),
            backoff: Backoff::new(seed),
            outage: None,
            queue,
            is_speaker,
            estate: Estate::new(&own, birth),
            census: Census::new(&own, queues.iter().map(|(number, _)| *number).collect()),
            queues,
        })
    }

    /// One connection after the other.
    pub fn run(&mut self, orders: &Orders) {
        while !orders.must_leave() {
            let ended = self.open().and_then(|()| self.keep(orders));
            self.board
                .keeper_watches(self.pool)
                .store(0, Ordering::SeqCst);
            let Err(err) = ended else { break };
            let is_new = self.is_away();
            // Told after the pause: when the store refused the start, the master has said so and we are to leave.
            if !orders.wait(self.backoff.next_delay()) && is_new {
                self.tell_away(&err);
            }
        }
    }

    /// The workers have left before us; those that were killed still hold jobs.
    pub fn hand_back(&mut self) {
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
        for (number, _) in &self.queues {
            self.board.set_queue_connected(*number, false);
        }
        let is_new = self.outage.is_none();
        self.outage.get_or_insert_with(Instant::now);
        is_new
    }

    fn tell_away(&self, err: &QueueError) {
        match err {
            QueueError::Unavailable(_) => log::log!(
                self.level(log::Level::Warn),
                "redis unavailable addr={} err={:?}",
                self.queue.address,
                err.to_string()
            ),
            _ => log::error!("{err}"),
        }
    }

    fn level(&self, level: log::Level) -> log::Level {
        match self.is_speaker {
            true => level,
            false => log::Level::Debug,
        }
    }

    /// It has told a length. A connection alone proves nothing: the store may refuse every command on it.
    fn is_back(&mut self) {
        if let Some(since) = self.outage.take() {
            log::log!(
                self.level(log::Level::Info),
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
            let census = self.census.next_deadline(self.board, clock::monotonic());
            let deadlines = [
                self.watch.deadline(),
                census.map(|left| Instant::now() + left),
            ];
            let deadlines = deadlines.into_iter().flatten();
            self.wait(orders, deadlines.fold(self.ask_at, Instant::min));
            let mut is_asked = self.keeper_bell.read().is_ok();
            while let Some(event) = self.watch.read()? {
                match event {
                    queue::Event::Invalidated => is_asked |= self.changed(),
                    queue::Event::DelayedChanged => {}
                    queue::Event::Lengths(waiting) => {
                        self.is_back();
                        self.ring(&waiting);
                    }
                }
            }
            let is_due = Instant::now() >= self.ask_at;
            if is_due {
                self.estate.settle(self.board)?;
            }
            self.census.take(self.board, clock::monotonic())?;
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
        self.board
            .keeper_watches(self.pool)
            .store(0, Ordering::SeqCst);
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
        self.board
            .keeper_watches(self.pool)
            .store(1, Ordering::SeqCst);
        self.watch.ask()
    }

    fn ring(&self, waiting: &[u64]) {
        for (number, key) in &self.queues {
            let waiting = waiting.get(*key).copied().unwrap_or(0);
            self.board
                .set_queue_waiting(*number, waiting, clock::monotonic());
        }
        let waiting = waiting
            .iter()
            .fold(0u64, |sum, waiting| sum.saturating_add(*waiting));
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

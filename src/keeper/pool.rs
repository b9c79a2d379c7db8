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
use super::due::Delays;
use super::estate::Estate;
use crate::config;
use crate::queue::{self, QueueError, Tracking, Watch};
use crate::scoreboard::{Scoreboard, State};
use crate::sys::clock;
use crate::worker::control::{Orders, round_up};
use crate::worker::outage::Outages;

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
    outages: Outages<'a>,
    queue: &'a config::Queue,
    /// Warns of how the server is set up; other pools of the same server do not repeat it.
    is_speaker: bool,
    has_looked_at_server: bool,
    /// Numbers of this pool's queues on the scoreboard, and which of its keys each is.
    queues: Vec<(usize, usize)>,
    estate: Estate<'a>,
    census: Census,
    delays: Delays,
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
        let numbers_of_pool = birth.config.queue_numbers(pool)?;
        let server = (&queue.address, queue.timeout);
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
            outages: Outages::new(&birth.board, numbers_of_pool, server, seed),
            queue,
            is_speaker,
            has_looked_at_server: false,
            estate: Estate::new(&own, birth),
            census: Census::new(&own, queues.iter().map(|(number, _)| *number).collect()),
            delays: Delays::new(&own),
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
            for (number, _) in &self.queues {
                self.board.set_queue_connected(*number, false);
            }
            let delay = self.outages.failed(&err);
            orders.wait(delay);
        }
    }

    /// The workers have left before us; those that were killed still hold jobs.
    pub fn hand_back(&mut self) {
        // Tried also when the store was away just now, since the next start may be far; that it still is is no news.
        if let Err(err) = self.estate.settle_all(self.board)
            && !self.outages.is_away()
        {
            log::warn!(
                "jobs of killed workers stay reserved until the next start err={err:?}",
                err = err.to_string()
            );
        }
    }

    fn open(&mut self) -> Result<(), QueueError> {
        self.outages.attempt();
        self.is_tracked = match self.watch.open()? {
            Tracking::On => true,
            Tracking::Refused(err) => {
                if self.is_tracked && self.is_speaker {
                    log::warn!("redis refuses to tell of changes, asking every 100 ms err={err:?}");
                }
                false
            }
        };
        self.delays.begin(self.is_tracked);
        self.estate.settle(self.board)?;
        self.look_at_server();
        self.ask()
    }

    /// The starting command has looked as well, but it tells a terminal, if anybody, and a server may come later.
    fn look_at_server(&mut self) {
        if !self.is_speaker || self.has_looked_at_server {
            return;
        }
        // What else it finds will be met, and told, by those who work.
        if let Ok(checked) = queue::check(self.queue) {
            self.has_looked_at_server = true;
            checked.warning.iter().for_each(|why| log::warn!("{why}"));
        }
    }

    /// Serves one connection until it breaks, or until told to leave.
    fn keep(&mut self, orders: &Orders) -> Result<(), QueueError> {
        while !orders.must_leave() {
            let census = self.census.next_deadline(self.board, clock::monotonic());
            let now = clock::monotonic();
            let delays = [self.delays.look_at(), self.delays.ask_at()];
            let delays = delays.into_iter().flatten();
            let left = delays.map(|at| at.saturating_sub(now)).chain(census).min();
            let deadlines = [
                self.watch.deadline(),
                left.map(|left| Instant::now() + left),
            ];
            let deadlines = deadlines.into_iter().flatten();
            self.wait(orders, deadlines.fold(self.ask_at, Instant::min));
            let mut is_asked = self.keeper_bell.read().is_ok();
            if self.watch.deadline().is_none() {
                // Nothing is owed: what breaks now breaks by itself.
                self.outages.attempt();
            }
            while let Some(event) = self.watch.read()? {
                match event {
                    queue::Event::Invalidated => is_asked |= self.changed(),
                    queue::Event::DelayedChanged => self.delays.changed(),
                    queue::Event::Lengths(waiting) => {
                        self.outages.back();
                        match self.watch.deadline() {
                            None => self.delays.answered(),
                            Some(_) => self.delays.partly_answered(),
                        }
                        self.ring(&waiting);
                    }
                }
            }
            let is_due = Instant::now() >= self.ask_at;
            if is_due {
                self.outages.attempt();
                self.estate.settle(self.board)?;
            }
            self.census.take(self.board, clock::monotonic())?;
            self.delays.take(clock::monotonic())?;
            // Not asked already: the answer to that question may not cover what has changed.
            let now = clock::monotonic();
            is_asked |= self.delays.ask_at().is_some_and(|at| at <= now);
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
        if self.watch.deadline().is_none() {
            self.outages.attempt();
        }
        self.delays.asked();
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

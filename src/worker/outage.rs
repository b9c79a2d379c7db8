//! What one process (a worker, a keeper's thread) knows of its store being away or refusing it: since when, when to ask
//! again, and whether it is the one to tell the operator. An outage is two lines in the log, `redis unavailable` and
//! `redis back`, whatever the number of processes that see it: they agree by the scoreboard.

use std::time::Duration;

use crate::config::{Address, QueueNumbers};
use crate::queue::{Backoff, QueueError};
use crate::scoreboard::{Outage, Scoreboard};
use crate::sys::clock;

/// A connection that breaks may have been broken for long, or alone: only the next attempt, on a new one, tells whether
/// the store is away.
const TELLING_FAILURES: u32 = 2;

/// One process's view of the store that it needs.
pub struct Outages<'a> {
    of_server: Outage<'a>,
    of_queue: Outage<'a>,
    address: &'a Address,
    /// An attempt that takes longer has met a store that has stalled.
    timeout: Duration,
    backoff: Backoff,
    /// When the current attempt began.
    began: Duration,
    /// The first of the failures in a row.
    since: Duration,
    failures: u32,
    /// Something failed, or may have failed for our predecessor, and did not succeed since.
    is_pending: bool,
}

impl<'a> Outages<'a> {
    /// Before the first attempt. `seed` differs from process to process.
    pub fn new(
        board: &'a Scoreboard,
        numbers: QueueNumbers,
        (address, timeout): (&'a Address, Duration),
        seed: u64,
    ) -> Self {
        Self {
            of_server: board.outage(numbers.of_server),
            of_queue: board.refusal(numbers.own),
            address,
            timeout,
            backoff: Backoff::new(seed),
            began: clock::monotonic(),
            since: Duration::ZERO,
            failures: 0,
            // Our predecessor may have told of an outage and died in it.
            is_pending: true,
        }
    }

    /// The store is asked for something now.
    pub fn attempt(&mut self) {
        self.began = clock::monotonic();
    }

    /// It failed, and not because a reservation was lost. Answers when to try again.
    pub fn failed(&mut self, err: &QueueError) -> Duration {
        let now = clock::monotonic();
        if self.failures == 0 {
            self.since = self.began;
        }
        self.failures = self.failures.saturating_add(1);
        self.is_pending = true;
        let has_stalled = now.saturating_sub(self.began) >= self.timeout;
        if self.failures >= TELLING_FAILURES || has_stalled {
            self.tell_away(err);
        }
        self.backoff.next_delay()
    }

    fn tell_away(&self, err: &QueueError) {
        match err {
            QueueError::Unavailable(_) if self.of_server.begin(self.began, self.since) => {
                log::warn!(
                    "redis unavailable addr={} err={:?}",
                    self.address,
                    err.to_string()
                );
            }
            QueueError::Refused(_) if self.of_queue.begin(self.began, self.since) => {
                log::error!("{err}");
            }
            QueueError::Unavailable(_) | QueueError::Refused(_) | QueueError::Lost => {}
        }
    }

    /// The store did a part of what is needed; the rest may still fail.
    pub fn partly_back(&mut self) {
        self.failures = 0;
        self.backoff.reset();
    }

    /// The store did all that is needed.
    pub fn back(&mut self) {
        if !std::mem::replace(&mut self.is_pending, false) {
            return;
        }
        self.partly_back();
        let now = clock::monotonic();
        let ended = [self.of_server, self.of_queue].map(|outage| outage.end(self.began, now));
        if let Some(down) = ended.into_iter().flatten().max() {
            let (address, down_ms) = (self.address, down.as_millis());
            log::info!("redis back addr={address} down_ms={down_ms}");
        }
    }

    /// Whether the last attempt failed.
    pub fn is_away(&self) -> bool {
        self.failures > 0
    }
}

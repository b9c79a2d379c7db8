//! What the keeper tells of the queues, on the scoreboard's header: whether it watches a pool's queue, and what it saw
//! of each. And what the master tells the keeper: that somebody wants to know.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{Outage, Scoreboard, header};

/// Pools of a daemon.
pub const MAX_POOLS: usize = 256;

/// Queues of a daemon, those of all its pools together.
pub const MAX_QUEUES: usize = 1024;

const WATCHES: usize = header::END;
const QUEUES: usize = WATCHES + MAX_POOLS;
const QUEUE_WORDS: usize = 16;

/// First word behind.
pub(super) const END: usize = QUEUES + MAX_QUEUES * QUEUE_WORDS;

/// Words of a queue. The order is the file's format.
mod word {
    pub const CONNECTED: usize = 0;
    pub const WAITING: usize = 1;
    pub const WAITING_AT_MS: usize = 2;
    pub const RESERVED: usize = 3;
    pub const DELAYED: usize = 4;
    pub const DEAD: usize = 5;
    pub const OLDEST_MS: usize = 6;
    pub const COUNTED_AT_MS: usize = 7;
    pub const OUTAGE: usize = 8;
    pub const REFUSAL: usize = 9;
}

/// A refusal that comes and goes (one of several keys is of another type) is told no more often.
const REFUSAL_QUIET: Duration = Duration::from_secs(10);

/// What the keeper saw of a queue. Times are those of the monotonic clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueSample {
    /// The keeper has a connection.
    pub is_connected: bool,
    /// Jobs waiting, and when; none: not known yet.
    pub waiting: Option<(u64, Duration)>,
    /// The rest; none as long as nobody has asked.
    pub counts: Option<Counts>,
}

/// What is counted only for who asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Jobs in workers' hands, of all daemons.
    pub reserved: u64,
    /// Jobs that are not due yet.
    pub delayed: u64,
    /// Buried jobs.
    pub dead: u64,
    /// How long the next job has been waiting, at least.
    pub oldest: Duration,
    /// When this was counted.
    pub at: Duration,
}

impl Scoreboard {
    /// 1 while the keeper is told of the next change of this pool's queue; a worker that goes idle while it is 0 must ring
    /// the keeper, so that it looks again.
    pub fn keeper_watches(&self, pool: usize) -> &AtomicU64 {
        self.words.word(WATCHES + pool % MAX_POOLS)
    }

    /// Somebody has asked for the queues' figures.
    pub fn ask_for_counts(&self, now: Duration) {
        self.words
            .word(header::ASKED_MS)
            .store(millis(now).max(1), Ordering::Relaxed);
    }

    /// When somebody last asked; none: nobody ever did.
    pub fn counts_asked_at(&self) -> Option<Duration> {
        let asked = self.words.word(header::ASKED_MS).load(Ordering::Relaxed);
        (asked > 0).then(|| Duration::from_millis(asked))
    }

    /// What the keeper last saw of the queue with this number.
    pub fn queue_sample(&self, queue: usize) -> QueueSample {
        let load = |place| self.queue_word(queue, place).load(Ordering::Relaxed);
        let time = |place| {
            Some(load(place))
                .filter(|at| *at > 0)
                .map(Duration::from_millis)
        };
        QueueSample {
            is_connected: load(word::CONNECTED) != 0,
            waiting: time(word::WAITING_AT_MS).map(|at| (load(word::WAITING), at)),
            counts: time(word::COUNTED_AT_MS).map(|at| Counts {
                reserved: load(word::RESERVED),
                delayed: load(word::DELAYED),
                dead: load(word::DEAD),
                oldest: Duration::from_millis(load(word::OLDEST_MS)),
                at,
            }),
        }
    }

    /// For the keeper, which alone writes it.
    pub fn set_queue_connected(&self, queue: usize, is_connected: bool) {
        self.set_queue_words(queue, &[(word::CONNECTED, u64::from(is_connected))]);
    }

    /// For the keeper: so many jobs wait.
    pub fn set_queue_waiting(&self, queue: usize, waiting: u64, now: Duration) {
        let at = millis(now).max(1);
        self.set_queue_words(
            queue,
            &[
                (word::CONNECTED, 1),
                (word::WAITING, waiting),
                (word::WAITING_AT_MS, at),
            ],
        );
    }

    /// For the keeper.
    pub fn set_queue_counts(&self, queue: usize, counts: Counts) {
        self.set_queue_words(
            queue,
            &[
                (word::RESERVED, counts.reserved),
                (word::DELAYED, counts.delayed),
                (word::DEAD, counts.dead),
                (word::OLDEST_MS, millis(counts.oldest)),
                (word::COUNTED_AT_MS, millis(counts.at).max(1)),
            ],
        );
    }

    /// The outages of a server, by the number of its first queue.
    pub fn outage(&self, queue: usize) -> Outage<'_> {
        Outage::new(self.queue_word(queue, word::OUTAGE), Duration::ZERO)
    }

    /// The refusals of the queue with this number.
    pub fn refusal(&self, queue: usize) -> Outage<'_> {
        Outage::new(self.queue_word(queue, word::REFUSAL), REFUSAL_QUIET)
    }

    /// At the daemon's start: what another daemon's keeper saw is old, and perhaps of other queues.
    pub fn forget_queues(&self) {
        self.words
            .word(header::ASKED_MS)
            .store(0, Ordering::Relaxed);
        for place in WATCHES..END {
            let word = self.words.word(place);
            // Untouched pages of the file stay untouched.
            if word.load(Ordering::Relaxed) != 0 {
                word.store(0, Ordering::Relaxed);
            }
        }
    }

    fn queue_word(&self, queue: usize, place: usize) -> &AtomicU64 {
        self.words
            .word(QUEUES + queue % MAX_QUEUES * QUEUE_WORDS + place)
    }

    fn set_queue_words(&self, queue: usize, values: &[(usize, u64)]) {
        for (place, value) in values {
            self.queue_word(queue, *place)
                .store(*value, Ordering::Relaxed);
        }
    }
}

fn millis(time: Duration) -> u64 {
    time.as_millis() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_queue_has_figures_of_its_own_until_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let board = Scoreboard::open(&dir.path().join("t.board")).unwrap();
        let now = Duration::from_millis(1234);
        assert_eq!(board.queue_sample(0), QueueSample::default());
        board.set_queue_waiting(0, 5, now);
        let counts = Counts {
            reserved: 1,
            delayed: 2,
            dead: 3,
            oldest: Duration::from_millis(4),
            at: now,
        };
        board.set_queue_counts(MAX_QUEUES - 1, counts);
        let first = board.queue_sample(0);
        assert_eq!((first.waiting, first.counts), (Some((5, now)), None));
        assert!(first.is_connected);
        assert_eq!(board.queue_sample(MAX_QUEUES - 1).counts, Some(counts));
        board.set_queue_connected(0, false);
        assert!(!board.queue_sample(0).is_connected);
        board
            .keeper_watches(MAX_POOLS - 1)
            .store(1, Ordering::Relaxed);
        board.ask_for_counts(now);
        assert_eq!(board.counts_asked_at(), Some(now));
        board.forget_queues();
        assert_eq!(board.queue_sample(0), QueueSample::default());
        assert_eq!(
            board.keeper_watches(MAX_POOLS - 1).load(Ordering::Relaxed),
            0
        );
        assert_eq!(board.counts_asked_at(), None);
    }
}

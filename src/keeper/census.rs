//! Counts what lies in the queues of a pool, once a second for as long as somebody asked within the last minute: for
//! `INFO`. Nobody asks, nothing is counted, and there is no connection for it.

use std::time::Duration;

use super::age::History;
use crate::config;
use crate::queue::{QueueError, Sampler};
use crate::scoreboard::{Counts, Scoreboard};

const EVERY: Duration = Duration::from_secs(1);

/// For how long counting goes on after somebody has asked.
pub const WANTED_FOR: Duration = Duration::from_secs(60);

/// The counting of one pool's queues. Times are those of the monotonic clock.
pub struct Census {
    settings: config::Queue,
    sampler: Option<Sampler>,
    /// Number on the scoreboard and history of each key.
    queues: Vec<(usize, History)>,
    next: Duration,
}

impl Census {
    /// Of the keys of `settings`, whose numbers on the scoreboard are `numbers`.
    pub fn new(settings: &config::Queue, numbers: Vec<usize>) -> Self {
        Self {
            settings: settings.clone(),
            sampler: None,
            queues: numbers
                .into_iter()
                .map(|number| (number, History::default()))
                .collect(),
            next: Duration::ZERO,
        }
    }

    /// How long until the next count; none while nobody wants any.
    pub fn next_deadline(&self, board: &Scoreboard, now: Duration) -> Option<Duration> {
        self.is_wanted(board, now)
            .then(|| self.next.saturating_sub(now))
    }

    /// Counts, if it is time.
    ///
    /// # Errors
    /// As the store answers.
    pub fn take(&mut self, board: &Scoreboard, now: Duration) -> Result<(), QueueError> {
        if !self.is_wanted(board, now) {
            self.sampler = None;
            return Ok(());
        }
        if now < self.next {
            return Ok(());
        }
        self.next = now + EVERY;
        let settings = &self.settings;
        let sampler = self.sampler.get_or_insert_with(|| Sampler::new(settings));
        let samples = sampler.sample()?;
        for ((number, history), sample) in self.queues.iter_mut().zip(samples) {
            board.set_queue_waiting(*number, sample.waiting, now);
            let counts = Counts {
                reserved: sample.reserved,
                delayed: sample.delayed,
                dead: sample.dead,
                oldest: history.oldest(now, sample.taken, sample.waiting),
                at: now,
            };
            board.set_queue_counts(*number, counts);
        }
        Ok(())
    }

    fn is_wanted(&self, board: &Scoreboard, now: Duration) -> bool {
        let asked = board.counts_asked_at();
        !self.queues.is_empty() && asked.is_some_and(|asked| now.saturating_sub(asked) < WANTED_FOR)
    }
}

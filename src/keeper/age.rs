//! How long the oldest waiting job has been waiting, estimated from counts: jobs carry no time of their push. At each
//! sample it is known how many jobs had been taken from the head so far, and how many more were waiting behind them. The
//! job that is next now was there already in the first sample whose jobs reached that far. Pure.

use std::collections::VecDeque;
use std::time::Duration;

/// Samples kept; when there are more, every other one goes, and from then on only every other one is kept.
const MOST: usize = 512;

/// What was seen of one queue, in the order of time.
#[derive(Debug, Default)]
pub struct History {
    samples: VecDeque<Sample>,
    /// One of so many samples is kept; 0 counts as 1.
    step: usize,
    /// Samples since the last one that was kept.
    skipped: usize,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Duration,
    /// Jobs pushed until then: those taken and those waiting.
    pushed: u64,
}

impl History {
    /// Learns that so many jobs had been `taken` and so many were `waiting` at this time, and tells how long the next one
    /// has waited at least. Counts that went back (a list that was deleted or filled by hand) begin a new history.
    pub fn oldest(&mut self, at: Duration, taken: u64, waiting: u64) -> Duration {
        let sample = Sample {
            at,
            pushed: taken + waiting,
        };
        if self
            .samples
            .back()
            .is_some_and(|last| last.pushed > sample.pushed)
        {
            self.samples.clear();
        }
        // What was pushed before the next job does not matter any more.
        while self
            .samples
            .front()
            .is_some_and(|first| first.pushed <= taken)
        {
            self.samples.pop_front();
        }
        if waiting > 0 {
            self.remember(sample);
        }
        self.samples
            .front()
            .map_or(Duration::ZERO, |first| at.saturating_sub(first.at))
    }

    fn remember(&mut self, sample: Sample) {
        if self.samples.is_empty() {
            self.step = 1;
        } else if self.skipped + 1 < self.step {
            self.skipped += 1;
            return;
        }
        self.skipped = 0;
        self.samples.push_back(sample);
        if self.samples.len() > MOST {
            let mut number = 0;
            self.samples.retain(|_| {
                number += 1;
                number % 2 == 1
            });
            self.step *= 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_next_job_is_as_old_as_the_sample_that_first_saw_it() {
        let mut history = History::default();
        assert_eq!(history.oldest(seconds(10), 0, 0), seconds(0), "none waits");
        assert_eq!(history.oldest(seconds(11), 0, 5), seconds(0));
        assert_eq!(history.oldest(seconds(12), 0, 9), seconds(1));
        // Four of the first five were taken: the fifth is from second 11.
        assert_eq!(history.oldest(seconds(20), 4, 5), seconds(9));
        assert_eq!(
            history.oldest(seconds(21), 5, 4),
            seconds(9),
            "from second 12"
        );
        assert_eq!(history.oldest(seconds(22), 9, 0), seconds(0), "none waits");
        assert_eq!(history.oldest(seconds(30), 9, 1), seconds(0));
    }

    #[test]
    fn counts_that_go_back_begin_anew() {
        let mut history = History::default();
        history.oldest(seconds(1), 100, 50);
        assert_eq!(
            history.oldest(seconds(9), 100, 0),
            seconds(0),
            "deleted by hand"
        );
        assert_eq!(history.oldest(seconds(10), 100, 3), seconds(0));
        assert_eq!(history.oldest(seconds(11), 100, 3), seconds(1));
    }

    #[test]
    fn a_long_backlog_is_remembered_in_bounded_room() {
        let mut history = History::default();
        for second in 0..100_000 {
            let oldest = history.oldest(seconds(second), second, 1000 + second);
            assert!(oldest <= seconds(1000 + second), "no older than its push");
        }
        assert!(history.samples.len() <= MOST + 1);
        // 99 999 were taken, pushed twice as fast from 1000 on: the next was pushed at about second 49 500.
        let oldest = history.oldest(seconds(100_000), 100_000, 101_000);
        assert!(
            oldest > seconds(49_000) && oldest < seconds(51_000),
            "{oldest:?}"
        );
    }
}

//! How many jobs the next turn should ask for: about 20 ms of work, so that round trips cost little and no worker
//! hoards what another could run. The store lowers it further to a fair share of what is waiting, and to the bytes that
//! the jobs really have. Pure.

use std::time::Duration;

use crate::config::Prefetch;

/// No reservation is larger: the scripts unpack it onto Lua's stack.
pub const MOST_JOBS: usize = 1000;

const WORK: Duration = Duration::from_millis(20);
/// A reservation's payload is not larger either, if it has more than one job.
pub(super) const MOST_BYTES: usize = 1 << 20;
/// A slot that has just found jobs asks for at most so many times as many.
const GROWTH: usize = 4;
/// Weight of the newest reservation in the moving averages.
const WEIGHT: f64 = 0.25;

/// Size of the next reservation of one key, learned from those before: jobs of another key are other jobs.
#[derive(Clone, Debug)]
pub struct Batch {
    most: usize,
    size: usize,
    seconds_per_job: Option<f64>,
    bytes_per_job: Option<f64>,
}

/// What running a reservation showed.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Jobs that were run.
    pub jobs: usize,
    /// How long they took together.
    pub busy: Duration,
    /// How long the longest of them took.
    pub longest: Duration,
    /// Length of their payloads together.
    pub payload_bytes: usize,
}

impl Batch {
    /// Starts with one job; a fixed prefetch is the most it ever asks for.
    pub fn new(prefetch: Prefetch) -> Self {
        let most = match prefetch {
            Prefetch::Auto => MOST_JOBS,
            Prefetch::Fixed(jobs) => jobs.clamp(1, MOST_JOBS),
        };
        Self {
            most,
            size: 1,
            seconds_per_job: None,
            bytes_per_job: None,
        }
    }

    /// Jobs to ask for in the next turn, 1 to 1000.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Learns from a reservation that was run.
    pub fn learn(&mut self, measured: Measured) {
        if measured.jobs == 0 {
            return;
        }
        let jobs = measured.jobs as f64;
        let seconds = average(self.seconds_per_job, measured.busy.as_secs_f64() / jobs);
        let bytes = average(self.bytes_per_job, measured.payload_bytes as f64 / jobs);
        (self.seconds_per_job, self.bytes_per_job) = (Some(seconds), Some(bytes));
        self.size = if measured.longest > WORK {
            1
        } else {
            // A division by zero is infinite, and so cut to `most`.
            let fits = (WORK.as_secs_f64() / seconds).min(MOST_BYTES as f64 / bytes) as usize;
            fits.min(GROWTH * measured.jobs).clamp(1, self.most)
        };
    }
}

fn average(before: Option<f64>, now: f64) -> f64 {
    before.map_or(now, |before| before + WEIGHT * (now - before))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As many jobs as asked for, each of `micros` and `bytes`.
    fn run(batch: &mut Batch, micros: u64, bytes: usize) {
        let jobs = batch.size();
        let each = Duration::from_micros(micros);
        batch.learn(Measured {
            jobs,
            busy: each * jobs as u32,
            longest: each,
            payload_bytes: jobs * bytes,
        });
    }

    #[test]
    fn it_grows_fourfold_from_one_to_twenty_milliseconds_of_work() {
        let mut batch = Batch::new(Prefetch::Auto);
        let mut sizes = vec![batch.size()];
        for _ in 0..5 {
            run(&mut batch, 100, 10);
            sizes.push(batch.size());
        }
        assert_eq!(sizes, [1, 4, 16, 64, 200, 200]);
    }

    #[test]
    fn jobs_that_take_no_time_are_asked_for_by_the_thousand() {
        let mut batch = Batch::new(Prefetch::Auto);
        for _ in 0..10 {
            run(&mut batch, 0, 0);
        }
        assert_eq!(batch.size(), MOST_JOBS);
    }

    #[test]
    fn one_long_job_makes_the_next_reservation_a_single_one() {
        let mut batch = Batch::new(Prefetch::Auto);
        for _ in 0..10 {
            run(&mut batch, 1, 10);
        }
        batch.learn(Measured {
            jobs: 1000,
            busy: Duration::from_millis(30),
            longest: Duration::from_millis(21),
            payload_bytes: 0,
        });
        assert_eq!(batch.size(), 1);
    }

    #[test]
    fn a_megabyte_of_payload_is_the_most_but_one_job_is_the_least() {
        let mut batch = Batch::new(Prefetch::Auto);
        for _ in 0..10 {
            run(&mut batch, 1, 100 << 10);
        }
        assert_eq!(batch.size(), 10);
        for _ in 0..10 {
            run(&mut batch, 1, 50 << 20);
        }
        assert_eq!(batch.size(), 1);
    }

    #[test]
    fn a_fixed_prefetch_caps_it() {
        let mut batch = Batch::new(Prefetch::Fixed(5));
        for _ in 0..10 {
            run(&mut batch, 1, 1);
        }
        assert_eq!(batch.size(), 5);
        assert_eq!(Batch::new(Prefetch::Fixed(0)).most, 1);
    }

    #[test]
    fn an_empty_turn_teaches_nothing() {
        let mut batch = Batch::new(Prefetch::Auto);
        run(&mut batch, 1, 1);
        let measured = Measured {
            jobs: 0,
            busy: Duration::ZERO,
            longest: Duration::ZERO,
            payload_bytes: 0,
        };
        batch.learn(measured);
        assert_eq!(batch.size(), 4);
    }
}

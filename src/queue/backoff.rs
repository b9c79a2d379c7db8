//! How long to wait before the store is tried again: 50 ms doubling to 5 s, each drawn from its upper half so that a
//! thousand workers do not come back at the same moment. Pure: the caller owns clock and seed.

use std::time::Duration;

use crate::jitter::Jitter;

const FIRST: Duration = Duration::from_millis(50);
const LAST: Duration = Duration::from_secs(5);

/// Delays between attempts in a row.
#[derive(Clone, Debug)]
pub struct Backoff {
    failures: u32,
    jitter: Jitter,
}

impl Backoff {
    /// Starts at the shortest delay; workers of one daemon need different seeds.
    pub fn new(seed: u64) -> Self {
        Self {
            failures: 0,
            jitter: Jitter::new(seed),
        }
    }

    /// The delay after one more failure: half to full of 50 ms, 100 ms, ... 5 s.
    pub fn next_delay(&mut self) -> Duration {
        let full = FIRST.saturating_mul(1 << self.failures.min(16)).min(LAST);
        self.failures = self.failures.saturating_add(1);
        self.jitter.half_to_full(full)
    }

    /// The store answered: the next failure begins anew.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_from_50_ms_to_5_s_and_stay_in_their_upper_half() {
        for seed in 0..100 {
            let mut backoff = Backoff::new(seed);
            for full in [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000] {
                let delay = backoff.next_delay();
                let full = Duration::from_millis(full);
                assert!(delay >= full / 2 && delay <= full, "{delay:?} of {full:?}");
            }
            backoff.reset();
            assert!(backoff.next_delay() <= FIRST);
        }
    }

    #[test]
    fn years_of_failures_do_not_overflow_and_seeds_differ() {
        let mut backoff = Backoff::new(1);
        backoff.failures = u32::MAX;
        assert!(backoff.next_delay() <= LAST);
        assert_ne!(Backoff::new(1).next_delay(), Backoff::new(2).next_delay());
    }
}

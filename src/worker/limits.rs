//! When a worker has done enough and is recycled, and how long a script that died stays away. Pure.

use std::time::Duration;

use crate::channel::message::RecycleReason;
use crate::jitter::Jitter;

/// The limits of one generation; none: never.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    runs: Option<u64>,
    age: Option<Duration>,
    idle: Option<Duration>,
}

impl Limits {
    /// Lowers each limit by up to `jitter` (0.0 to 1.0), so that workers born together do not leave together.
    pub fn draw(
        runs: Option<u64>,
        age: Option<Duration>,
        idle: Option<Duration>,
        jitter: f64,
        seed: u64,
    ) -> Self {
        let mut drawn = Jitter::new(seed);
        let mut factor = || 1.0 - jitter * drawn.share();
        Self {
            runs: runs.map(|runs| ((runs as f64 * factor()) as u64).max(1)),
            age: age.map(|age| age.mul_f64(factor())),
            idle: idle.map(|idle| idle.mul_f64(factor())),
        }
    }

    /// Runs that are left before the worker is recycled.
    pub fn runs_left(&self, runs: u64) -> u64 {
        self.runs
            .map_or(u64::MAX, |limit| limit.saturating_sub(runs))
    }

    /// Which limit is reached, if any.
    pub fn reached(&self, runs: u64, age: Duration, idle: Duration) -> Option<RecycleReason> {
        if self.runs.is_some_and(|limit| runs >= limit) {
            Some(RecycleReason::Runs)
        } else if self.age.is_some_and(|limit| age >= limit) {
            Some(RecycleReason::Age)
        } else if self.idle.is_some_and(|limit| idle >= limit) {
            Some(RecycleReason::Idle)
        } else {
            None
        }
    }

    /// How long a worker of this age, idle for so long, may sleep before a limit is reached; none: for ever.
    pub fn may_sleep(&self, age: Duration, idle: Duration) -> Option<Duration> {
        let left = |limit: Option<Duration>, spent| limit.map(|limit| limit.saturating_sub(spent));
        [left(self.age, age), left(self.idle, idle)]
            .into_iter()
            .flatten()
            .min()
    }
}

/// A script that lived for so long has no history of deaths.
const HEALTHY_AFTER: Duration = Duration::from_secs(10);
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LAST_DELAY: Duration = Duration::from_secs(30);

/// Deaths in a row of a worker's script: after the first it is started at once, then after 100 ms doubling to 30 s,
/// each drawn from its upper half.
#[derive(Clone, Debug)]
pub struct Restarts {
    deaths: u32,
    jitter: Jitter,
}

impl Restarts {
    /// Workers need different seeds, so that scripts that died together do not start together.
    pub fn new(seed: u64) -> Self {
        Self {
            deaths: 0,
            jitter: Jitter::new(seed),
        }
    }

    /// The delay before the next start of a script that lived for so long.
    pub fn next_delay(&mut self, lived: Duration) -> Duration {
        if lived >= HEALTHY_AFTER {
            self.deaths = 0;
        }
        self.deaths = self.deaths.saturating_add(1);
        let Some(doublings) = self.deaths.checked_sub(2) else {
            return Duration::ZERO;
        };
        let full = FIRST_DELAY
            .saturating_mul(1 << doublings.min(16))
            .min(LAST_DELAY);
        self.jitter.half_to_full(full)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn each_limit_recycles_for_its_own_reason() {
        let limits = Limits::draw(Some(10), Some(60 * SECOND), Some(5 * SECOND), 0.0, 1);
        let reached = |runs, age, idle| limits.reached(runs, age * SECOND, idle * SECOND);
        assert_eq!(reached(9, 59, 4), None);
        assert_eq!(reached(10, 0, 0), Some(RecycleReason::Runs));
        assert_eq!(reached(0, 60, 0), Some(RecycleReason::Age));
        assert_eq!(reached(0, 0, 5), Some(RecycleReason::Idle));
        assert_eq!(limits.runs_left(4), 6);
        assert_eq!(limits.may_sleep(57 * SECOND, SECOND), Some(3 * SECOND));
    }

    #[test]
    fn without_limits_a_worker_sleeps_and_lives_for_ever() {
        let limits = Limits::draw(None, None, None, 0.1, 1);
        assert_eq!(
            limits.reached(u64::MAX - 1, 9999 * SECOND, 9999 * SECOND),
            None
        );
        assert_eq!(limits.may_sleep(SECOND, SECOND), None);
        assert_eq!(limits.runs_left(5), u64::MAX);
    }

    #[test]
    fn a_script_that_keeps_dying_is_started_ever_later_and_a_healthy_one_at_once() {
        let mut restarts = Restarts::new(3);
        let delays: Vec<u128> = (0..12)
            .map(|_| restarts.next_delay(SECOND).as_millis())
            .collect();
        assert_eq!(delays[0], 0);
        assert!(
            (50..=100).contains(&delays[1]) && (100..=200).contains(&delays[2]),
            "{delays:?}"
        );
        assert!((15_000..=30_000).contains(&delays[11]), "{delays:?}");
        assert_eq!(restarts.next_delay(10 * SECOND), Duration::ZERO);
    }

    #[test]
    fn jitter_lowers_a_limit_by_no_more_than_its_share() {
        let drawn: Vec<u64> = (0..1000)
            .map(|seed| Limits::draw(Some(10_000), None, None, 0.1, seed).runs_left(0))
            .collect();
        assert!(drawn.iter().all(|runs| (9000..=10_000).contains(runs)));
        assert!(drawn.iter().max().unwrap() - drawn.iter().min().unwrap() > 900);
        assert_eq!(
            Limits::draw(Some(1), None, None, 1.0, 7).runs_left(0),
            1,
            "one run at least"
        );
    }
}

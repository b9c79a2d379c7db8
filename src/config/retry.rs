//! `[retry]`: how often a job may fail or take its worker along, how long it waits in between, and how much of what was
//! buried is kept. What is done with it is the queue's affair.

use std::num::NonZeroU32;
use std::time::Duration;

use super::check::{Check, given};
use super::inherit::is_at_most_once;
use super::layers::{RawPool, RawRetry};
use super::units;

/// Most runs, and most deaths, of one job that can be counted.
const MOST_RUNS: u32 = 1_000_000;

/// Most jobs that a dead list may be told to keep.
const MOST_DEAD: u64 = 1_000_000_000;

/// `[retry]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Runs of a job before it is buried; none: it is never buried for failing.
    pub max_attempts: Option<NonZeroU32>,
    /// The pause after the first run, doubled for each further one.
    pub backoff: Duration,
    /// The longest pause; not below `backoff`.
    pub backoff_max: Duration,
    /// Deaths with a job in hand before it is buried; none: it is never buried for them.
    pub max_crashes: Option<NonZeroU32>,
    /// The dead list keeps the newest jobs, at most so many.
    pub dead_max: u64,
    /// And none for longer than this; none: for ever.
    pub dead_for: Option<Duration>,
}

impl Default for Retry {
    fn default() -> Self {
        let three = NonZeroU32::new(3);
        Self {
            max_attempts: three,
            backoff: Duration::from_secs(5),
            backoff_max: Duration::from_secs(3600),
            max_crashes: three,
            dead_max: 10_000,
            dead_for: Some(Duration::from_secs(180 * 24 * 3600)),
        }
    }
}

impl Check<'_> {
    /// Jobs that are popped for good have no second run.
    pub(super) fn retry(&mut self, pool: &RawPool) -> Retry {
        let retry = &pool.retry;
        let delivery = pool.queue.as_ref().map(|queue| &queue.delivery);
        if let Some(delivery) = delivery.filter(|delivery| is_at_most_once(delivery)) {
            for setting in [
                &retry.max_attempts,
                &retry.backoff_seconds,
                &retry.backoff_max_seconds,
                &retry.max_crashes,
                &retry.dead_max,
                &retry.dead_seconds,
            ] {
                self.exclusive(setting, delivery);
            }
        }
        let usual = Retry::default();
        let runs = |text: &str| {
            let runs: u32 = text.parse().ok()?;
            (runs <= MOST_RUNS).then(|| NonZeroU32::new(runs))
        };
        let allowed = "a number up to 1000000, 0 for no limit";
        let dead_for = usual.dead_for.unwrap_or_default();
        let dead_for = self.duration(&retry.dead_seconds, dead_for, Duration::ZERO);
        let checked = Retry {
            max_attempts: self.value(&retry.max_attempts, usual.max_attempts, allowed, runs),
            backoff: self.duration(&retry.backoff_seconds, usual.backoff, Duration::ZERO),
            backoff_max: self.duration(
                &retry.backoff_max_seconds,
                usual.backoff_max,
                Duration::ZERO,
            ),
            max_crashes: self.value(&retry.max_crashes, usual.max_crashes, allowed, runs),
            dead_max: self.value(
                &retry.dead_max,
                usual.dead_max,
                "a number from 1 to 1000000000",
                |text| {
                    text.parse()
                        .ok()
                        .filter(|max| (1..=MOST_DEAD).contains(max))
                },
            ),
            dead_for: (!dead_for.is_zero()).then_some(dead_for),
        };
        self.backoff_in_order(retry, &checked);
        checked
    }

    fn backoff_in_order(&mut self, retry: &RawRetry, checked: &Retry) {
        if checked.backoff <= checked.backoff_max {
            return;
        }
        let [least, most] = [checked.backoff, checked.backoff_max].map(units::format_duration);
        if let Some(setting) = given(&retry.backoff_max_seconds) {
            let why = format!("{most} s is less than retry.backoff_seconds, {least} s");
            self.refuse(setting, why);
        } else if let Some(setting) = given(&retry.backoff_seconds) {
            let why = format!("{least} s is more than retry.backoff_max_seconds, {most} s");
            self.refuse(setting, why);
        }
    }
}

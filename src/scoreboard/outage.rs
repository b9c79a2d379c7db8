//! An outage as all processes of the daemon see it together, in one word: so that whoever sees its beginning or its end
//! first tells the operator, and the other ones know that it was told. Who sees what is the caller's business.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Set while it lasts; the other bits are since when it lasts, or when the last one was over, in microseconds.
const AWAY: u64 = 1 << 63;

/// One server's outages, or the refusals of one queue. Times are those of the monotonic clock.
#[derive(Clone, Copy)]
pub struct Outage<'a> {
    word: &'a AtomicU64,
    /// For so long after its end it does not begin again: what fails now and then would fill the log.
    quiet: Duration,
}

impl<'a> Outage<'a> {
    pub(super) fn new(word: &'a AtomicU64, quiet: Duration) -> Self {
        Self { word, quiet }
    }

    /// An attempt that began at `began` has failed, as all have `since` then. True: nobody knew. An attempt from before
    /// the end of the last outage has only been slower than others.
    pub fn begin(&self, began: Duration, since: Duration) -> bool {
        let begun = |word: u64| {
            let over = Duration::from_micros(word);
            let may = word == 0 || (word & AWAY == 0 && began > over + self.quiet);
            // Some failed before and did not see it end: that does not make the next one longer.
            may.then(|| AWAY | micros(since.max(over)))
        };
        self.update(begun).is_some()
    }

    /// An attempt that began at `began` has succeeded. If that ends the outage: how long it was.
    pub fn end(&self, began: Duration, now: Duration) -> Option<Duration> {
        let ended = |word: u64| {
            let is_over = word & AWAY != 0 && micros(began) >= word & !AWAY;
            is_over.then(|| micros(now).max(1))
        };
        let since = Duration::from_micros(self.update(ended)? & !AWAY);
        Some(now.saturating_sub(since))
    }

    /// The former word, if it was replaced.
    fn update(&self, next: impl FnMut(u64) -> Option<u64>) -> Option<u64> {
        self.word
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)
            .ok()
    }
}

fn micros(time: Duration) -> u64 {
    time.as_micros() as u64 & !AWAY
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn of_many_who_see_an_outage_one_tells_its_beginning_and_one_its_end() {
        let word = AtomicU64::new(0);
        let outage = Outage::new(&word, Duration::ZERO);
        assert_eq!(outage.end(at(5), at(5)), None);
        let told = (0..200).filter(|n| outage.begin(at(1000 + n), at(990)));
        assert_eq!(told.count(), 1);
        let ends = (0..200).filter_map(|n| outage.end(at(2000 + n), at(2010 + n)));
        assert_eq!(ends.collect::<Vec<_>>(), [at(1020)]);
    }

    #[test]
    fn attempts_from_before_say_nothing_of_what_is_now() {
        let word = AtomicU64::new(0);
        let outage = Outage::new(&word, Duration::ZERO);
        assert!(outage.begin(at(1000), at(1000)));
        assert_eq!(outage.end(at(999), at(1001)), None, "asked before");
        assert_eq!(outage.end(at(1500), at(1501)), Some(at(501)));
        assert!(!outage.begin(at(1400), at(1000)), "a slow failure");
        assert!(outage.begin(at(1600), at(1000)), "another outage");
        let whole = at(2000) - at(1501);
        assert_eq!(outage.end(at(2000), at(2000)), Some(whole));
    }

    #[test]
    fn what_fails_now_and_then_is_told_now_and_then() {
        let word = AtomicU64::new(0);
        let outage = Outage::new(&word, at(10_000));
        let (mut begun, mut ended) = (0, 0);
        for ms in (1..=30_000).step_by(100) {
            begun += u32::from(outage.begin(at(ms), at(ms)));
            ended += u32::from(outage.end(at(ms + 50), at(ms + 50)).is_some());
        }
        assert_eq!((begun, ended), (3, 3));
    }
}

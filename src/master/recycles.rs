//! Which recycles are told one by one, and which are only counted. Pure: what happened and the time in, what is to be
//! said out; `report` makes lines of it.
//!
//! The first recycle of a slot is told, with its successor's ready line. Further ones within ten seconds are counted
//! and told as one sum, so that `max_run_count = 1` does not write hundreds of lines a second. Sums are due when the
//! master is awake anyway: nobody wakes for them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::channel::message::RecycleReason;

/// Recycles of one slot so soon after another are summed.
pub const SUMMED_WITHIN: Duration = Duration::from_secs(10);

/// How something is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Voice {
    /// A line at info.
    Info,
    /// A line at debug: coming and going of workers without work.
    Debug,
    /// Part of a sum.
    Silent,
}

/// Recycles of one slot that were not told one by one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sum {
    /// The slot.
    pub slot: usize,
    /// In the order of [`RecycleReason::ALL`].
    pub counts: [u64; RecycleReason::ALL.len()],
    /// The time in which they happened.
    pub within: Duration,
}

impl Sum {
    /// How many there were.
    pub fn times(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Idle recycles alone are no news.
    pub fn voice(&self) -> Voice {
        if self.times() == self.counts[RecycleReason::Idle as usize] {
            Voice::Debug
        } else {
            Voice::Info
        }
    }

    /// `runs:410,age:2`
    pub fn reasons(&self) -> String {
        let counted = RecycleReason::ALL.into_iter().zip(self.counts);
        let some = counted.filter(|(_, count)| *count > 0);
        let named: Vec<String> = some.map(|(why, n)| format!("{}:{n}", why.name())).collect();
        named.join(",")
    }
}

/// The slots that were recycled not long ago.
#[derive(Debug, Default)]
pub struct Recycles {
    windows: BTreeMap<usize, Window>,
}

/// From a recycle that was told, or from the last sum, to the next sum.
#[derive(Debug)]
struct Window {
    since: Instant,
    counts: [u64; RecycleReason::ALL.len()],
    successor: Voice,
}

impl Window {
    fn new(now: Instant, successor: Voice) -> Self {
        Self {
            since: now,
            counts: Default::default(),
            successor,
        }
    }

    fn sum(&self, slot: usize, now: Instant) -> Option<Sum> {
        let sum = Sum {
            slot,
            counts: self.counts,
            within: now.saturating_duration_since(self.since),
        };
        (sum.times() > 0).then_some(sum)
    }
}

impl Recycles {
    /// How the end of a recycled worker is told.
    pub fn recycled(&mut self, slot: usize, why: RecycleReason, now: Instant) -> Voice {
        if let Some(window) = self.windows.get_mut(&slot) {
            window.counts[why as usize] += 1;
            window.successor = Voice::Silent;
            return Voice::Silent;
        }
        let voice = match why {
            RecycleReason::Idle => Voice::Debug,
            RecycleReason::Runs
            | RecycleReason::Age
            | RecycleReason::Memory
            | RecycleReason::Order
            | RecycleReason::Reload => Voice::Info,
        };
        self.windows.insert(slot, Window::new(now, voice));
        voice
    }

    /// How the readiness of a worker is told: as the end of its predecessor was.
    pub fn ready(&self, slot: usize) -> Voice {
        self.windows
            .get(&slot)
            .map_or(Voice::Info, |window| window.successor)
    }

    /// The slot's next line is of another kind, and what was counted comes before it.
    pub fn interrupt(&mut self, slot: usize, now: Instant) -> Option<Sum> {
        self.windows.remove(&slot)?.sum(slot, now)
    }

    /// The sums whose time has come. A slot that goes on recycling is told of by sums alone.
    pub fn due(&mut self, now: Instant) -> Vec<Sum> {
        let mut sums = Vec::new();
        self.windows.retain(|slot, window| {
            if now.saturating_duration_since(window.since) < SUMMED_WITHIN {
                return true;
            }
            let Some(sum) = window.sum(*slot, now) else {
                return false;
            };
            sums.push(sum);
            *window = Window::new(now, window.successor);
            true
        });
        sums
    }

    /// All that was counted and not told: the daemon ends.
    pub fn rest(&mut self, now: Instant) -> Vec<Sum> {
        let windows = std::mem::take(&mut self.windows);
        let sums = windows
            .into_iter()
            .map(|(slot, window)| window.sum(slot, now));
        sums.flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use RecycleReason::{Age, Idle, Memory, Order, Runs};

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// Recycles a slot every `pause` for so long, as a master that looks for sums twice a second; what was told one by
    /// one, and the sums.
    fn recycle_every(pause: Duration, total: Duration) -> (usize, Vec<Sum>) {
        let t0 = Instant::now();
        let mut recycles = Recycles::default();
        let (mut told, mut sums) = (0, Vec::new());
        let (mut at, mut look) = (Duration::ZERO, Duration::ZERO);
        while at < total {
            while look <= at {
                sums.extend(recycles.due(t0 + look));
                look += ms(500);
            }
            told += usize::from(recycles.recycled(3, Runs, t0 + at) != Voice::Silent);
            at += pause;
        }
        sums.extend(recycles.rest(t0 + total));
        (told, sums)
    }

    #[test]
    fn hundreds_a_second_are_one_line_and_a_sum_every_ten_seconds_and_none_is_lost() {
        let (told, sums) = recycle_every(ms(2), ms(35_000));
        assert_eq!(told, 1);
        let times: Vec<u64> = sums.iter().map(Sum::times).collect();
        assert_eq!(times, [4999, 5000, 5000, 2500]);
        let within: Vec<Duration> = sums.iter().map(|sum| sum.within).collect();
        assert_eq!(within, [ms(10_000), ms(10_000), ms(10_000), ms(5000)]);
    }

    #[test]
    fn recycles_that_are_further_apart_are_told_one_by_one() {
        let (told, sums) = recycle_every(ms(10_000), ms(60_000));
        assert_eq!((told, sums), (6, vec![]));
    }

    #[test]
    fn a_successor_is_told_of_as_its_predecessor_was() {
        let t0 = Instant::now();
        let mut recycles = Recycles::default();
        assert_eq!(recycles.ready(0), Voice::Info, "the first of all");
        assert_eq!(recycles.recycled(0, Idle, t0), Voice::Debug);
        assert_eq!(recycles.ready(0), Voice::Debug);
        assert_eq!(recycles.recycled(0, Runs, t0 + ms(5)), Voice::Silent);
        assert_eq!(recycles.ready(0), Voice::Silent);
        assert_eq!(recycles.recycled(1, Age, t0 + ms(5)), Voice::Info);
        assert_eq!(recycles.ready(1), Voice::Info, "each slot is its own");
    }

    #[test]
    fn what_was_counted_is_told_before_a_crash_and_the_slot_begins_anew() {
        let t0 = Instant::now();
        let mut recycles = Recycles::default();
        for n in 0..3 {
            recycles.recycled(0, Runs, t0 + ms(n));
        }
        let sum = recycles.interrupt(0, t0 + ms(7)).expect("two were counted");
        assert_eq!((sum.times(), sum.within), (2, ms(7)));
        assert_eq!(recycles.ready(0), Voice::Info);
        assert_eq!(recycles.recycled(0, Runs, t0 + ms(9)), Voice::Info);
        assert_eq!(recycles.interrupt(0, t0 + ms(9)), None, "nothing counted");
    }

    #[test]
    fn a_sum_names_its_reasons_and_idle_ones_alone_are_no_news() {
        let t0 = Instant::now();
        let mut recycles = Recycles::default();
        for (slot, why) in [(0, Runs), (0, Runs), (0, Age), (0, Runs), (0, Memory)] {
            recycles.recycled(slot, why, t0);
        }
        for (slot, why) in [(1, Idle), (1, Idle), (2, Idle), (2, Idle), (2, Order)] {
            recycles.recycled(slot, why, t0);
        }
        let sums = recycles.due(t0 + SUMMED_WITHIN);
        let said: Vec<_> = sums
            .iter()
            .map(|sum| (sum.voice(), sum.reasons()))
            .collect();
        let expected = [
            (Voice::Info, "runs:2,age:1,memory:1"),
            (Voice::Debug, "idle:1"),
            (Voice::Info, "idle:1,order:1"),
        ];
        assert_eq!(said, expected.map(|(voice, text)| (voice, text.into())));
    }
}

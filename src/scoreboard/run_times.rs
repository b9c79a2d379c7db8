//! How long runs took, as counts of classes that grow by half an octave: enough for a median, small enough for a record.
//! Pure.

use std::time::Duration;

/// Classes: two for each power of two microseconds, the last one for all that is longer (more than an hour).
pub const CLASSES: usize = 64;

/// Runs by their length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunTimes([u64; CLASSES]);

impl Default for RunTimes {
    fn default() -> Self {
        Self([0; CLASSES])
    }
}

/// The class of a run.
pub fn class(took: Duration) -> usize {
    let us = took.as_micros() as u64;
    let Some(octave) = us.checked_ilog2() else {
        return 0;
    };
    let half = match octave {
        0 => 0,
        _ => us >> (octave - 1) & 1,
    };
    (2 * octave as usize + half as usize).min(CLASSES - 1)
}

/// Where a class begins, in microseconds.
fn begin(class: usize) -> f64 {
    let octave = (1u64 << (class / 2)) as f64;
    match (class, class % 2) {
        (0, _) => 0.0,
        (_, 0) => octave,
        _ => octave * 1.5,
    }
}

impl RunTimes {
    /// Adds runs of one class.
    pub fn add(&mut self, class: usize, runs: u64) {
        self.0[class] += runs;
    }

    /// The time that this share (0.0 to 1.0) of all runs did not exceed, as far as the classes can tell: it lies in the
    /// right one, so that it is less than half too much. None: there was no run.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let total: u64 = self.0.iter().sum();
        if total == 0 {
            return None;
        }
        let wanted = share * total as f64;
        let mut before = 0.0;
        for (class, runs) in self.0.iter().enumerate().filter(|(_, runs)| **runs > 0) {
            let runs = *runs as f64;
            if before + runs >= wanted {
                let (begin, end) = (begin(class), begin(class + 1));
                let us = begin + (end - begin) * ((wanted - before) / runs).clamp(0.0, 1.0);
                return Some(Duration::from_secs_f64(us / 1e6));
            }
            before += runs;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_follow_each_other_without_a_gap() {
        for us in 0..100_000u64 {
            let class = class(Duration::from_micros(us));
            let (begin, end) = (begin(class), begin(class + 1));
            assert!(
                begin <= us as f64 && (us as f64) < end,
                "{us} in {begin}..{end}"
            );
        }
        assert_eq!(class(Duration::from_secs(1 << 40)), CLASSES - 1);
    }

    #[test]
    fn quantiles_are_near_the_truth() {
        let mut times = RunTimes::default();
        assert_eq!(times.quantile(0.5), None);
        for us in 1..=10_000 {
            times.add(class(Duration::from_micros(us)), 1);
        }
        for (share, truth) in [(0.5, 5000.0), (0.99, 9900.0), (0.01, 100.0)] {
            let told = times.quantile(share).unwrap().as_secs_f64() * 1e6;
            assert!((told / truth - 1.0).abs() < 0.25, "{told} for {truth}");
        }
    }
}

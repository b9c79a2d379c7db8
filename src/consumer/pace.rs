//! How far runs are sent ahead of their replies (never more than 5 ms of work), and how long the replies are left to
//! gather, by a moving average of what runs took. Pure: time is handed in.

use std::time::Duration;

/// Work that may lie unbegun at the script.
const AHEAD: Duration = Duration::from_millis(5);

/// However short the runs are.
const MOST: usize = 4096;

/// The longest that replies are left to gather, and the shortest that is worth a system call.
const LONGEST_NAP: Duration = Duration::from_millis(1);
const SHORTEST_NAP: Duration = Duration::from_micros(50);

/// Weight of the newest sample.
const NEWEST: f64 = 0.25;

/// Two moving averages of the time of a run, in seconds: one that follows slow runs at once and fast ones by and by,
/// and one the other way round. Too large a window keeps jobs waiting behind a slow one, too long a nap leaves the
/// script idle; erring to the other side costs a little speed.
#[derive(Debug, Default)]
pub struct Pace {
    averages: Option<(f64, f64)>,
}

impl Pace {
    /// `runs` have ended within `elapsed`.
    pub fn observe(&mut self, runs: usize, elapsed: Duration) {
        if runs == 0 {
            return;
        }
        let sample = elapsed.as_secs_f64() / runs as f64;
        let (slow, fast) = self.averages.unwrap_or((sample, sample));
        self.averages = Some((
            sample.max(slow + NEWEST * (sample - slow)),
            sample.min(fast + NEWEST * (sample - fast)),
        ));
    }

    /// Runs that may be under way at once, at least 1.
    pub fn window(&self) -> usize {
        match self.averages {
            None => 1,
            Some((slow, _)) => ((AHEAD.as_secs_f64() / slow) as usize).clamp(1, MOST),
        }
    }

    /// How long to look away while so many runs are under way: half the time that they should take. Short runs answer
    /// faster than we can be woken for each, and waking us costs the script as much as the run.
    pub fn nap(&self, runs: usize) -> Option<Duration> {
        let (_, fast) = self.averages?;
        let nap = Duration::try_from_secs_f64(fast * runs as f64 / 2.0).ok()?;
        (runs > 1 && nap >= SHORTEST_NAP).then_some(nap.min(LONGEST_NAP))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Duration = Duration::from_micros(1);

    #[test]
    fn one_run_until_their_time_is_known_and_when_they_are_slow() {
        let mut pace = Pace::default();
        assert_eq!(pace.window(), 1);
        pace.observe(0, 10 * US);
        assert_eq!(pace.window(), 1);
        pace.observe(1, Duration::from_secs(3600));
        assert_eq!(pace.window(), 1);
    }

    #[test]
    fn five_milliseconds_of_work_go_ahead() {
        let mut pace = Pace::default();
        pace.observe(100, 100 * 50 * US);
        assert!((99..=100).contains(&pace.window()));
        pace.observe(1, Duration::ZERO);
        assert!(pace.window() <= 140, "one fast run is no proof");
    }

    #[test]
    fn slow_runs_count_at_once_and_fast_ones_by_and_by() {
        let mut pace = Pace::default();
        pace.observe(1000, 1000 * US);
        assert_eq!(pace.window(), MOST);
        pace.observe(1, 20_000 * US);
        assert_eq!(pace.window(), 1);
        for _ in 0..50 {
            pace.observe(10, 10 * US);
        }
        assert!(pace.window() > 1000);
    }

    #[test]
    fn naps_last_half_of_what_is_under_way() {
        let mut pace = Pace::default();
        assert_eq!(pace.nap(100), None);
        pace.observe(1000, 1000 * 4 * US);
        let nap = pace.nap(100).expect("400 us of work");
        assert!((199 * US..=201 * US).contains(&nap));
        assert_eq!(pace.nap(4000), Some(LONGEST_NAP));
        assert_eq!(pace.nap(20), None, "not worth it");
        pace.observe(1, Duration::from_secs(1));
        assert_eq!(pace.nap(1), None, "a single reply is awaited");
    }

    #[test]
    fn no_measurable_time_is_no_division_by_zero() {
        let mut pace = Pace::default();
        pace.observe(5, Duration::ZERO);
        assert_eq!(pace.window(), MOST);
    }
}

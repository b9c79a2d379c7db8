//! How far runs are sent ahead of their replies: never more than 5 ms of work, by a moving average of what runs took.
//! Pure: time is handed in.

use std::time::Duration;

/// Work that may lie unbegun at the script.
const AHEAD: Duration = Duration::from_millis(5);

/// However short the runs are.
const MOST: usize = 4096;

/// Weight of the newest sample.
const NEWEST: f64 = 0.25;

/// The moving average of the time of a run.
#[derive(Debug, Default)]
pub struct Pace {
    seconds_per_run: Option<f64>,
}

impl Pace {
    /// `runs` have ended within `elapsed`. Slower runs count at once, faster ones by and by: too small a window costs
    /// a little speed, too large a one keeps jobs waiting behind a slow one.
    pub fn observe(&mut self, runs: usize, elapsed: Duration) {
        if runs == 0 {
            return;
        }
        let sample = elapsed.as_secs_f64() / runs as f64;
        let before = self.seconds_per_run.unwrap_or(sample);
        self.seconds_per_run = Some(sample.max(before + NEWEST * (sample - before)));
    }

    /// Runs that may be under way at once, at least 1.
    pub fn window(&self) -> usize {
        match self.seconds_per_run {
            None => 1,
            Some(seconds) => ((AHEAD.as_secs_f64() / seconds) as usize).clamp(1, MOST),
        }
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
    fn no_measurable_time_is_no_division_by_zero() {
        let mut pace = Pace::default();
        pace.observe(5, Duration::ZERO);
        assert_eq!(pace.window(), MOST);
    }
}

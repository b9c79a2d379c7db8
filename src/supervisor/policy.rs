//! The numbers of supervision: what the master sets per daemon and per slot, what is fixed, and how long to back off.
//! Decides nothing about states.

use std::time::Duration;

/// A process silent for so many heartbeat intervals is killed.
pub const MISSED_HEARTBEATS: u32 = 3;
/// From SIGTERM to SIGKILL when a process does not leave.
pub const KILL_GRACE: Duration = Duration::from_secs(3);
/// What the keeper has for leaving, after the last worker.
pub const KEEPER_TIMEOUT: Duration = Duration::from_secs(5);
/// A process that was ready for so long has no crash history.
pub const HEALTHY_AFTER: Duration = Duration::from_secs(10);
/// Until the next attempt of a consumer that said it cannot start.
pub const FAILED_DELAY: Duration = Duration::from_secs(30);
/// The delay after the second crash in a row, and after the first refused fork.
pub const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// The longest delay after crashes.
pub const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// The longest delay after crashes of the keeper.
pub const KEEPER_BACKOFF_MAX: Duration = Duration::from_secs(1);
/// The longest delay after refused forks.
pub const SPAWN_BACKOFF_MAX: Duration = Duration::from_secs(5);

/// How a daemon is supervised.
#[derive(Clone, Debug)]
pub struct Policy {
    /// One per slot: workers first, numbered on across pools; the keeper last, if there is one.
    pub slots: Vec<SlotPolicy>,
    /// Every process is asked for a sign of life once in this; above zero.
    pub heartbeat_interval: Duration,
    /// How long a shutdown waits for the jobs in hand before the SIGTERM.
    pub shutdown_timeout: Duration,
    /// Where jitter begins; any number.
    pub seed: u64,
}

/// How one slot is supervised.
#[derive(Clone, Debug)]
pub struct SlotPolicy {
    /// What lives there.
    pub role: Role,
    /// From fork to ready, without the consumer's delay.
    pub start_timeout: Duration,
    /// Above 150 % of it the process is killed; `u64::MAX` for none.
    pub memory_limit_bytes: u64,
    /// Generation of the last process before this master; 0 if there was none. The first spawn is one higher.
    pub last_generation: u64,
}

/// What lives in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Runs jobs.
    Worker,
    /// Keeps house; leaves after the workers.
    Keeper,
}

impl Policy {
    /// The longest silence that is forgiven.
    pub(super) fn heartbeat_timeout(&self) -> Duration {
        self.heartbeat_interval * MISSED_HEARTBEATS
    }

    /// From the order to drain to SIGTERM.
    pub(super) fn drain_timeout(&self, role: Role) -> Duration {
        match role {
            Role::Worker => self.shutdown_timeout,
            Role::Keeper => KEEPER_TIMEOUT,
        }
    }
}

impl SlotPolicy {
    /// Memory above this is killed, in bytes: 150 % of the limit.
    pub(super) fn kill_above_bytes(&self) -> u64 {
        self.memory_limit_bytes
            .saturating_add(self.memory_limit_bytes / 2)
    }
}

/// The full delay after so many crashes in a row: none for the first, then 100 ms doubling to 30 s.
pub(super) fn crash_backoff(crashes: u32) -> Duration {
    match crashes {
        0 | 1 => Duration::ZERO,
        more => doubled(more - 2).min(BACKOFF_MAX),
    }
}

/// The delay after so many (one or more) refused forks in a row: 100 ms doubling to 5 s.
pub(super) fn spawn_backoff(refusals: u32) -> Duration {
    doubled(refusals.saturating_sub(1)).min(SPAWN_BACKOFF_MAX)
}

fn doubled(times: u32) -> Duration {
    // Every cap is below 2^16 times the first delay.
    BACKOFF_FIRST * (1 << times.min(16))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_crash_costs_nothing_and_no_number_of_them_more_than_the_cap() {
        let ms = |n| crash_backoff(n).as_millis();
        assert_eq!(
            [ms(0), ms(1), ms(2), ms(3), ms(10)],
            [0, 0, 100, 200, 25_600]
        );
        assert_eq!(crash_backoff(11), BACKOFF_MAX);
        assert_eq!(crash_backoff(u32::MAX), BACKOFF_MAX);
        assert_eq!(spawn_backoff(1), BACKOFF_FIRST);
        assert_eq!(spawn_backoff(u32::MAX), SPAWN_BACKOFF_MAX);
    }

    #[test]
    fn no_memory_limit_is_never_exceeded() {
        let slot = SlotPolicy {
            role: Role::Worker,
            start_timeout: Duration::ZERO,
            memory_limit_bytes: u64::MAX,
            last_generation: 0,
        };
        assert_eq!(slot.kill_above_bytes(), u64::MAX);
    }
}

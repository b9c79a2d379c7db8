//! When to accept connections. An edge-triggered listener tells once that connections wait, so that fact is remembered;
//! and when the process is out of descriptors, accepting pauses instead of failing in a circle.

use std::time::{Duration, Instant};

/// How long to wait for descriptors when no client leaves.
const PAUSE: Duration = Duration::from_millis(100);

/// The listener's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Acceptor {
    /// No connection waits.
    Idle,
    /// Connections may wait.
    Ready,
    /// Connections wait, but the last one could not be accepted.
    Paused {
        /// The next try.
        until: Instant,
    },
}

impl Acceptor {
    /// The listener became readable. A pause stays one: new connections bring no descriptors.
    pub fn wake(&mut self) {
        if *self == Self::Idle {
            *self = Self::Ready;
        }
    }

    /// There was no connection left.
    pub fn exhausted(&mut self) {
        *self = Self::Idle;
    }

    /// A connection could not be accepted.
    pub fn failed(&mut self, now: Instant) {
        *self = Self::Paused { until: now + PAUSE };
    }

    /// A client left, and with it a descriptor.
    pub fn client_left(&mut self) {
        if matches!(self, Self::Paused { .. }) {
            *self = Self::Ready;
        }
    }

    /// Is now the time to accept?
    pub fn is_due(&self, now: Instant) -> bool {
        match self {
            Self::Ready => true,
            Self::Paused { until } => *until <= now,
            Self::Idle => false,
        }
    }

    /// When to accept, `now` if there is reason to at once.
    pub fn next_deadline(&self, now: Instant) -> Option<Instant> {
        match self {
            Self::Ready => Some(now),
            Self::Paused { until } => Some(*until),
            Self::Idle => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_accept_is_tried_again_after_a_pause_and_not_in_between() {
        let t0 = Instant::now();
        let mut acceptor = Acceptor::Ready;
        acceptor.failed(t0);
        acceptor.wake();
        assert!(!acceptor.is_due(t0));
        assert_eq!(acceptor.next_deadline(t0), Some(t0 + PAUSE));
        assert!(acceptor.is_due(t0 + PAUSE));
    }

    #[test]
    fn a_client_that_leaves_ends_the_pause() {
        let t0 = Instant::now();
        let mut acceptor = Acceptor::Ready;
        acceptor.failed(t0);
        acceptor.client_left();
        assert!(acceptor.is_due(t0));
    }

    #[test]
    fn nothing_is_due_without_a_connection() {
        let t0 = Instant::now();
        let mut acceptor = Acceptor::Idle;
        acceptor.client_left();
        assert!(!acceptor.is_due(t0));
        assert_eq!(acceptor.next_deadline(t0), None);
    }
}

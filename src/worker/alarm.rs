//! The control thread's alarm clock: the main thread asks to be looked after at a time, the control thread is woken then.
//! An alarm that is early enough already costs no system call, so a busy worker sets a few a second and an idle one none.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::timer::{Expiration, TimerSetTimeFlags};
use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};

use crate::sys::clock;

/// Times are those of the monotonic clock.
#[derive(Debug)]
pub struct Alarm {
    timer: TimerFd,
    due: Mutex<Option<Duration>>,
}

impl Alarm {
    /// Set to nothing.
    ///
    /// # Errors
    /// When the kernel has no descriptors left.
    pub fn new() -> std::io::Result<Self> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        Ok(Self {
            timer: TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?,
            due: Mutex::default(),
        })
    }

    /// Rings at this time, or earlier. What is to be looked at must be visible before the call.
    pub fn wake_at(&self, at: Duration) {
        let mut due = self.due();
        if due.is_some_and(|due| due <= at) {
            return;
        }
        *due = Some(at);
        // A zero would turn the timer off.
        let after = at
            .saturating_sub(clock::monotonic())
            .max(Duration::from_micros(1));
        let expiration = Expiration::OneShot(after.into());
        if let Err(err) = self.timer.set(expiration, TimerSetTimeFlags::empty()) {
            log::error!("cannot set a timer err={err}");
        }
    }

    /// Readable when it rings.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }

    /// Control thread: it rang, and is set to nothing from now on. Look only after this, so that nothing is missed that is
    /// set meanwhile.
    pub fn quiet(&self) {
        let mut due = self.due();
        let _ = self.timer.wait();
        *due = None;
    }

    fn due(&self) -> MutexGuard<'_, Option<Duration>> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use nix::poll::{PollFd, PollFlags, poll};

    use super::*;

    fn rings_within(alarm: &Alarm, ms: u16) -> bool {
        poll(&mut [PollFd::new(alarm.fd(), PollFlags::POLLIN)], ms).unwrap() == 1
    }

    #[test]
    fn the_earliest_time_counts_and_ringing_ends_it() {
        let alarm = Alarm::new().unwrap();
        let now = clock::monotonic();
        alarm.wake_at(now + Duration::from_secs(3600));
        assert!(!rings_within(&alarm, 0));
        alarm.wake_at(now);
        alarm.wake_at(now + Duration::from_secs(7200));
        assert!(rings_within(&alarm, 10_000));
        alarm.quiet();
        assert!(!rings_within(&alarm, 0));
        alarm.wake_at(now);
        assert!(rings_within(&alarm, 10_000));
    }
}

//! The 250 ms rule for native consumers: while the main thread is in a long job, the jobs that it has not begun go back to
//! the queue, where another worker may take them.
//!
//! The main thread asks the gate before each job. When one has run for 250 ms, the control thread closes the gate behind
//! it with one compare-and-swap, so that from then on the rest cannot be begun, and starts a thread that gives it back on a
//! connection of its own: heartbeats do not wait for a store that stalls. The main thread hears of it after its job.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::timer::{Expiration, TimerSetTimeFlags};
use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};

use crate::consumer::script::PATIENCE;
use crate::queue::{Backoff, Extent, QueueError, Tail};
use crate::scoreboard::Record;
use crate::sys::clock;

/// Of the thread that gives back, in bytes.
const STACK_BYTES: usize = 256 << 10;

/// Shared by the main thread, the control thread and the one that gives back.
#[derive(Debug)]
pub struct Overdue {
    gate: Gate,
    timer: TimerFd,
    hand: Mutex<Hand>,
    has_changed: Condvar,
}

/// The reservation in hand, as far as it may have to be given back.
#[derive(Default)]
enum Hand {
    /// None, or one of a script.
    #[default]
    Empty,
    /// Nothing was given back of it.
    Full(Extent, Tail),
    /// Its last jobs are on their way back; as long as the store is away it is asked again.
    GivingBack,
    /// The same, but the main thread waits: no other attempt.
    Hurrying,
    /// They are back, or nobody knows.
    GaveBack { is_back: bool, tail: Tail },
}

impl std::fmt::Debug for Hand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Empty => "Empty",
            Self::Full(..) => "Full",
            Self::GivingBack => "GivingBack",
            Self::Hurrying => "Hurrying",
            Self::GaveBack { .. } => "GaveBack",
        })
    }
}

/// What became of jobs behind a closed gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GivenBack {
    /// How many they are; the last ones of the reservation.
    pub jobs: usize,
    /// They are back in the queue for certain.
    pub is_back: bool,
}

impl Overdue {
    /// Nothing is in hand.
    ///
    /// # Errors
    /// When the kernel has no descriptors left.
    pub fn new() -> std::io::Result<Self> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        Ok(Self {
            gate: Gate::default(),
            timer: TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?,
            hand: Mutex::default(),
            has_changed: Condvar::new(),
        })
    }

    /// Main thread: a reservation begins. One of a single job has nothing to give back.
    pub fn begin(&self, extent: Extent, tail: impl FnOnce() -> Tail) {
        self.gate.open(extent.token.number, extent.jobs);
        if extent.jobs > 1 {
            let mut hand = self.hand();
            let tail = match std::mem::take(&mut *hand) {
                Hand::Full(_, tail) | Hand::GaveBack { tail, .. } => tail,
                Hand::Empty | Hand::GivingBack | Hand::Hurrying => tail(),
            };
            *hand = Hand::Full(extent, tail);
            drop(hand);
            self.arm(PATIENCE);
        }
    }

    /// Main thread: may the job at this place be begun? It counts as begun from then on.
    pub fn may_begin(&self, place: usize) -> bool {
        self.gate.pass(place)
    }

    /// Main thread: no other job of the reservation will be begun. Waits for what is being given back, not longer than the
    /// store's timeouts.
    pub fn end(&self) -> Option<GivenBack> {
        let jobs = self.gate.shut()?;
        let mut hand = self.hand();
        loop {
            match *hand {
                Hand::GivingBack => {
                    *hand = Hand::Hurrying;
                    self.has_changed.notify_all();
                }
                Hand::Full(..) | Hand::Hurrying => {}
                Hand::Empty | Hand::GaveBack { .. } => break,
            }
            hand = self
                .has_changed
                .wait(hand)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let is_back = matches!(*hand, Hand::GaveBack { is_back: true, .. });
        Some(GivenBack { jobs, is_back })
    }

    /// Control thread: readable when it is time for [`Overdue::check`].
    pub fn timer(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }

    /// Control thread: gives back what waits behind a job that takes too long.
    pub fn check(self: &Arc<Self>, record: Record<'_>) {
        // Unreadable again.
        let _ = self.timer.wait();
        let Some(seen) = self.gate.waiting() else {
            return;
        };
        let runs_for = clock::monotonic().saturating_sub(record.since());
        match PATIENCE.checked_sub(runs_for) {
            Some(left) if !left.is_zero() => self.arm(left),
            _ => {
                if let Some(jobs) = self.gate.close(seen) {
                    self.give_back(jobs);
                } else {
                    // It went on to the next job meanwhile.
                    self.arm(PATIENCE);
                }
            }
        }
    }

    fn give_back(self: &Arc<Self>, jobs: usize) {
        let taken = std::mem::replace(&mut *self.hand(), Hand::GivingBack);
        self.has_changed.notify_all();
        let Hand::Full(extent, mut tail) = taken else {
            // The gate is closed once per reservation, and only a full hand has something waiting behind it.
            return self.gave_back(Hand::Empty);
        };
        let shared = Arc::clone(self);
        let work = move || {
            let is_back = shared.insist(&mut tail, extent, jobs);
            tail.disconnect();
            shared.gave_back(Hand::GaveBack { is_back, tail });
        };
        let thread = std::thread::Builder::new().name("give-back".into());
        if let Err(err) = thread.stack_size(STACK_BYTES).spawn(work) {
            log::warn!("cannot start a thread to give back jobs={jobs} err={err}");
            self.gave_back(Hand::Empty);
        }
    }

    /// The job in hand may take hours, and the store be away for a moment: tries until the jobs are back, the reservation
    /// is lost, or the main thread waits. True: they are back.
    fn insist(&self, tail: &mut Tail, extent: Extent, jobs: usize) -> bool {
        let mut backoff = Backoff::new(extent.token.nonce ^ extent.token.number);
        loop {
            let err = match tail.give_back(extent, jobs) {
                Ok(()) => return true,
                Err(err) => err,
            };
            log::debug!("cannot give back yet jobs={jobs} err={:?}", err.to_string());
            if !matches!(err, QueueError::Unavailable(_)) {
                return false;
            }
            let (hand, _) = self
                .has_changed
                .wait_timeout_while(self.hand(), backoff.next_delay(), |hand| {
                    matches!(hand, Hand::GivingBack)
                })
                .unwrap_or_else(PoisonError::into_inner);
            if !matches!(*hand, Hand::GivingBack) {
                return false;
            }
        }
    }

    fn gave_back(&self, hand: Hand) {
        *self.hand() = hand;
        self.has_changed.notify_all();
    }

    fn arm(&self, after: Duration) {
        let expiration = Expiration::OneShot(after.into());
        if let Err(err) = self.timer.set(expiration, TimerSetTimeFlags::empty()) {
            log::error!("cannot set a timer err={err}");
        }
    }

    fn hand(&self) -> MutexGuard<'_, Hand> {
        self.hand.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many jobs of a reservation were begun, and how many may be: one word, so that beginning a job and closing the gate
/// before it exclude each other.
#[derive(Debug, Default)]
struct Gate(AtomicU64);

const BITS: u32 = 16;
const MASK: u64 = (1 << BITS) - 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Passed {
    /// Tells reservations apart; the token's number, cut.
    number: u32,
    begun: usize,
    limit: usize,
    /// Of the reservation.
    jobs: usize,
}

impl Passed {
    fn pack(self) -> u64 {
        let [begun, limit, jobs] = [self.begun, self.limit, self.jobs].map(|n| n as u64 & MASK);
        u64::from(self.number as u16) << (3 * BITS) | begun << (2 * BITS) | limit << BITS | jobs
    }

    fn unpack(word: u64) -> Self {
        let part = |place: u32| (word >> (place * BITS) & MASK) as usize;
        Self {
            number: part(3) as u32,
            begun: part(2),
            limit: part(1),
            jobs: part(0),
        }
    }
}

impl Gate {
    fn open(&self, number: u64, jobs: usize) {
        let open = Passed {
            number: number as u32,
            begun: 0,
            limit: jobs,
            jobs,
        };
        self.0.store(open.pack(), Ordering::Release);
    }

    fn load(&self) -> Passed {
        Passed::unpack(self.0.load(Ordering::Acquire))
    }

    fn pass(&self, place: usize) -> bool {
        let seen = self.load();
        if place >= seen.limit {
            return false;
        }
        let next = Passed {
            begun: place + 1,
            ..seen
        };
        // It fails only if the gate was closed meanwhile.
        self.swap(seen, next)
    }

    /// A job is in hand, and others wait behind it.
    fn waiting(&self) -> Option<Passed> {
        let seen = self.load();
        (seen.begun > 0 && seen.begun < seen.limit).then_some(seen)
    }

    /// Nothing more may begin, if nothing has begun since it was `seen`; answers how many that keeps out.
    fn close(&self, seen: Passed) -> Option<usize> {
        let closed = Passed {
            limit: seen.begun,
            ..seen
        };
        self.swap(seen, closed).then_some(seen.jobs - seen.begun)
    }

    /// Ends the reservation; answers how many jobs were kept out, if it was closed.
    fn shut(&self) -> Option<usize> {
        let last = Passed::unpack(self.0.swap(0, Ordering::AcqRel));
        (last.limit < last.jobs).then_some(last.jobs - last.limit)
    }

    fn swap(&self, seen: Passed, next: Passed) -> bool {
        let (seen, next) = (seen.pack(), next.pack());
        self.0
            .compare_exchange(seen, next, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_gate_keeps_out_what_had_not_begun() {
        let gate = Gate::default();
        gate.open(7, 1000);
        assert!(gate.waiting().is_none(), "none in hand");
        assert!(gate.pass(0) && gate.pass(1));
        let seen = gate.waiting().unwrap();
        assert_eq!(gate.close(seen), Some(998));
        assert!(!gate.pass(2));
        assert!(gate.waiting().is_none(), "nothing is left to close");
        assert_eq!(gate.shut(), Some(998));
        assert!(!gate.pass(0));
    }

    #[test]
    fn a_gate_is_not_closed_before_a_job_that_has_begun() {
        let gate = Gate::default();
        gate.open(7, 3);
        assert!(gate.pass(0));
        let seen = gate.waiting().unwrap();
        assert!(gate.pass(1));
        assert_eq!(gate.close(seen), None);
        assert!(gate.pass(2));
        assert!(
            gate.waiting().is_none(),
            "the last one keeps nobody waiting"
        );
        assert_eq!(gate.shut(), None);
        gate.open(8, 3);
        assert_eq!(gate.close(seen), None, "another reservation");
    }

    #[test]
    fn beginning_and_closing_at_once_never_both_win() {
        let gate = Arc::new(Gate::default());
        for round in 0..2000 {
            gate.open(round, 100);
            let other = Arc::clone(&gate);
            let closer = std::thread::spawn(move || {
                loop {
                    let Some(seen) = other.waiting() else {
                        std::hint::spin_loop();
                        continue;
                    };
                    if let Some(kept_out) = other.close(seen) {
                        return kept_out;
                    }
                }
            });
            // The last job is never begun here, so the closer always finds something to close.
            let begun = (0..99).take_while(|place| gate.pass(*place)).count();
            let kept_out = closer.join().unwrap();
            assert!(begun + kept_out == 100 || (begun == 99 && kept_out == 1));
        }
    }
}

//! The control thread: answers the master's heartbeats while the main thread runs jobs, and passes orders on.
//!
//! The main thread sees an order between two jobs ([`Orders::must_leave`]) and when it waits ([`Orders::wake`]). The
//! master's end (EOF on the channel) is an order to leave too, which this thread enforces after the shutdown timeout.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::care::{Care, Verdict};
use crate::channel::message::{RecycleReason, ToMaster, ToWorker};
use crate::channel::{Received, WorkerEnd};
use crate::daemon::logging;
use crate::scoreboard::Scoreboard;
use crate::sys::{memory, process};

/// From SIGTERM to SIGKILL for a script whose worker must end.
const KILL_GRACE: Duration = Duration::from_secs(3);

/// Exit status of a worker that its control thread had to end.
const STATUS_OVERDUE: i32 = 71;

/// What the main thread is told.
#[derive(Debug)]
pub struct Orders {
    state: AtomicU8,
    wake: EventFd,
}

const GO_ON: u8 = 0;
const LEAVE: u8 = 1;
const LEAVE_FOR_MEMORY: u8 = 2;
const LEAVE_BY_SIGNAL: u8 = 3;

impl Orders {
    fn new() -> std::io::Result<Self> {
        let wake =
            EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self {
            state: AtomicU8::new(GO_ON),
            wake,
        })
    }

    fn give(&self, order: u8) {
        // The first order stands: one who leaves is not asked again why.
        let _ = self
            .state
            .compare_exchange(GO_ON, order, Ordering::AcqRel, Ordering::Acquire);
        let _ = self.wake.write(1);
    }

    /// The script counts more memory than it should, while the kernel counts less: it would die of its own limit before
    /// anybody else saw it coming.
    pub fn leave_for_memory(&self, script_bytes: u64, limit_bytes: u64) {
        if !self.must_leave() {
            log::info!("memory over 80 % script_bytes={script_bytes} limit_bytes={limit_bytes}");
            self.give(LEAVE_FOR_MEMORY);
        }
    }

    /// Begin no other job: finish the one in hand, give back the rest, leave.
    pub fn must_leave(&self) -> bool {
        self.state.load(Ordering::Acquire) != GO_ON
    }

    /// The reason, when the master does not know that the worker is to be recycled.
    pub fn own_reason(&self) -> Option<RecycleReason> {
        match self.state.load(Ordering::Acquire) {
            LEAVE_FOR_MEMORY => Some(RecycleReason::Memory),
            LEAVE_BY_SIGNAL => Some(RecycleReason::Order),
            _ => None,
        }
    }

    /// Readable from the first order on.
    pub fn wake(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Waits for an order; true when there is one, false after `limit`.
    pub fn wait(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while !self.must_leave() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let _ = poll(
                &mut [PollFd::new(self.wake(), PollFlags::POLLIN)],
                round_up(left),
            );
        }
        true
    }
}

/// A poll timeout that does not end before `limit`, so that waits do not spin through its last millisecond.
pub fn round_up(limit: Duration) -> PollTimeout {
    let milliseconds = limit.as_micros().div_ceil(1000);
    PollTimeout::try_from(milliseconds.min(i32::MAX as u128) as i32).unwrap_or(PollTimeout::MAX)
}

/// What the control thread knows.
pub struct Control {
    /// The worker's end of the channel, shared with the main thread.
    pub channel: Arc<WorkerEnd>,
    /// Where figures go.
    pub board: Arc<Scoreboard>,
    /// The slot's record; none for the keeper.
    pub place: Option<usize>,
    /// What it looks after for the main thread; none for the keeper.
    pub care: Option<Arc<Care>>,
    /// Over 80 % of it the worker is recycled; in bytes.
    pub memory_limit_bytes: u64,
    /// From the master's end to the worker's.
    pub shutdown_timeout: Duration,
}

impl Control {
    /// Starts the thread. SIGTERM is taken from the process from here on and is an order to leave.
    ///
    /// # Errors
    /// When the kernel has no descriptor or thread left.
    pub fn start(self) -> std::io::Result<Arc<Orders>> {
        let orders = Arc::new(Orders::new()?);
        let mask = SigSet::from(Signal::SIGTERM);
        // Blocked before the thread starts, so in both threads: the signal can only be read.
        mask.thread_block()?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let shared = Arc::clone(&orders);
        std::thread::Builder::new()
            .name("control".into())
            .stack_size(128 << 10)
            .spawn(move || {
                logging::never_wait();
                self.run(&signals, &shared);
            })?;
        Ok(orders)
    }

    fn run(&self, signals: &SignalFd, orders: &Orders) {
        loop {
            let timer = self.care.as_ref().map(|care| care.alarm.fd());
            let mut ready = vec![
                PollFd::new(self.channel.as_fd(), PollFlags::POLLIN),
                PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            ];
            ready.extend(timer.map(|timer| PollFd::new(timer, PollFlags::POLLIN)));
            let _ = poll(&mut ready, PollTimeout::NONE);
            if ready.get(2).is_some_and(|timer| timer.any() == Some(true)) {
                self.look_after_jobs();
            }
            while let Ok(Some(_)) = signals.read_signal() {
                self.terminated(orders);
            }
            if self.take_messages(orders).is_err() {
                log::warn!("master gone, leaving after the job in hand");
                orders.give(LEAVE);
                self.enforce();
            }
        }
    }

    fn look_after_jobs(&self) {
        let (Some(care), Some(place)) = (&self.care, self.place) else {
            return;
        };
        if care.look(self.board.record(place)) == Verdict::EndWorker {
            process::exit(STATUS_OVERDUE);
        }
    }

    /// A SIGTERM to the whole tree at once, as an init system sends it, must not take the keeper away from workers that
    /// still finish: it leaves when the master says so, or is gone.
    fn terminated(&self, orders: &Orders) {
        if self.place.is_some() {
            orders.give(LEAVE_BY_SIGNAL);
        }
    }

    /// Handles what has arrived; an error is the master's end.
    fn take_messages(&self, orders: &Orders) -> Result<(), MasterGone> {
        loop {
            match self.channel.receive() {
                Received::Message(ToWorker::Heartbeat { sequence }) => {
                    self.answer(sequence, orders)?
                }
                Received::Message(ToWorker::Drain | ToWorker::Recycle(_)) => orders.give(LEAVE),
                Received::Garbage(err) => log::error!("cannot read message of the master: {err}"),
                Received::Empty => return Ok(()),
                Received::Closed => return Err(MasterGone),
            }
        }
    }

    fn answer(&self, sequence: u64, orders: &Orders) -> Result<(), MasterGone> {
        let rss_bytes = self.measure();
        if rss_bytes > self.memory_limit_bytes / 5 * 4 && !orders.must_leave() {
            log::info!(
                "memory over 80 % rss_bytes={rss_bytes} limit_bytes={}",
                self.memory_limit_bytes
            );
            orders.give(LEAVE_FOR_MEMORY);
        }
        let answer = ToMaster::Heartbeat {
            sequence,
            rss_bytes,
        };
        self.channel.send(&answer).then_some(()).ok_or(MasterGone)
    }

    /// Memory of worker and script; the processor time goes to the scoreboard.
    fn measure(&self) -> u64 {
        let own = memory::resident_bytes(std::process::id() as i32);
        let own_cpu = memory::own_cpu_time();
        let Some(record) = self.place.map(|place| self.board.record(place)) else {
            return own;
        };
        let script = record.script();
        let mut cpu = own_cpu.system + own_cpu.user;
        let mut rss_bytes = own;
        if script.is_alive() {
            rss_bytes += memory::resident_bytes_of_descent(script.pid);
            cpu += memory::cpu_time_of(script.pid);
        }
        record.set_cpu_ms(cpu.as_millis() as u64);
        rss_bytes
    }

    /// Nobody supervises this worker any more: it ends in time, and so does its script.
    fn enforce(&self) -> ! {
        std::thread::sleep(self.shutdown_timeout);
        log::error!(
            "job not finished in time, ending limit_ms={}",
            self.shutdown_timeout.as_millis()
        );
        self.signal_script(Signal::SIGTERM);
        std::thread::sleep(KILL_GRACE);
        self.signal_script(Signal::SIGKILL);
        process::exit(STATUS_OVERDUE)
    }

    fn signal_script(&self, signal: Signal) {
        let Some(script) = self.place.map(|place| self.board.record(place).script()) else {
            return;
        };
        if script.is_alive() {
            let _ = process::signal_group(script.pid, signal);
        }
    }
}

struct MasterGone;

//! The loop over jobs: reserve, run, settle; wait when there is nothing to do. It ends on an order, at a limit, or when
//! the consumer cannot go on.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::care::Care;
use super::control::{Orders, round_up};
use super::hold::{Answer, Hold};
use super::judge::Judge;
use super::life::Birth;
use super::limits::Limits;
use super::runner::{Begin, Gone, NotStarted, Runner};
use crate::channel::message::{RecycleReason, ToMaster};
use crate::config::Delivery;
use crate::consumer::script::Told;
use crate::consumer::{Outcome, Ran};
use crate::queue::batch::MOST_JOBS;
use crate::queue::{Batch, Job, Measured, Reservation, Settled};
use crate::scoreboard::progress::{MAX_JOBS, Mark};
use crate::scoreboard::{Record, State};
use crate::sys::clock;

/// Reserved at most by a pool: the `divisor`th part of what waits, so that short queues are shared.
const SHARES_PER_WORKER: usize = 2;

/// The largest reservation has room on the scoreboard.
const _: () = assert!(MOST_JOBS <= MAX_JOBS);

/// Pause after a reservation was lost.
const AFTER_LOSS: Duration = Duration::from_millis(50);

/// Why the loop ended.
pub enum End {
    /// Told to leave.
    Ordered,
    /// By its own decision.
    Recycle(RecycleReason),
    /// The consumer cannot be started again, in its own words.
    CannotStart(String),
}

/// One worker's loop.
pub struct Cycle<'a> {
    birth: &'a Birth<'a>,
    record: Record<'a>,
    orders: &'a Orders,
    care: &'a Care,
    limits: Limits,
    born: Instant,
    idle_since: Instant,
    runs: u64,
    /// One per key.
    batches: Vec<Batch>,
    judge: Judge<'a>,
    shown: State,
    has_reclaimed: bool,
}

/// What running a reservation came to.
enum Worked {
    /// All of it ended.
    All(Settled),
    /// So much ended; the rest was not begun, or is to be begun again.
    Some(Settled),
    /// The same, and the consumer is gone.
    Gone(Settled, Gone),
}

impl<'a> Cycle<'a> {
    /// Before the first job.
    pub fn new(
        birth: &'a Birth<'a>,
        record: Record<'a>,
        orders: &'a Orders,
        care: &'a Care,
    ) -> Self {
        let worker = &birth.pool.worker;
        let seed = birth.nonce ^ birth.generation << 32 ^ birth.place as u64;
        let queue = birth.pool.queue.as_ref();
        let batches = queue.map(|queue| vec![Batch::new(queue.prefetch); queue.keys.len()]);
        let now = Instant::now();
        Self {
            birth,
            record,
            orders,
            care,
            limits: Limits::draw(
                worker.max_run_count,
                worker.max_run_time,
                worker.max_idle_time,
                worker.jitter,
                seed,
            ),
            born: now,
            idle_since: now,
            runs: 0,
            batches: batches.unwrap_or_default(),
            judge: Judge::new(birth, seed),
            shown: State::Starting,
            has_reclaimed: false,
        }
    }

    /// Shows what the worker does, on the scoreboard and in its title.
    pub fn show(&mut self, state: State) {
        self.record.set_state(state, clock::monotonic());
        if self.shown != state {
            self.shown = state;
            self.birth.show(state);
        }
    }

    /// Tells the master that a decision of this worker's own ends it.
    pub fn announce(&self, end: &End) {
        match end {
            End::Ordered => {}
            End::Recycle(reason) => {
                self.birth.channel.send(&ToMaster::Recycling(*reason));
            }
            End::CannotStart(message) => {
                self.birth.channel.send(&ToMaster::Failed {
                    message: message.clone(),
                });
            }
        }
    }

    /// Tries once to put back what the predecessor had reserved; the master learns when it is back. Answers why the
    /// store refuses us, if it does.
    pub fn reclaim(&mut self, hold: Option<&mut Hold<'_>>) -> Option<String> {
        match hold.map(|hold| hold.reclaim()) {
            None | Some(Answer::Done(())) => self.tell_reclaimed(),
            Some(Answer::Away { refusal, .. }) => return refusal,
            Some(Answer::TakenOver) => {}
        }
        None
    }

    /// Works on the queue.
    pub fn run_queue(&mut self, hold: &mut Hold<'_>, runner: &mut Runner<'_>) -> End {
        let divisor = SHARES_PER_WORKER * self.birth.pool.worker.count;
        let queue = self.birth.pool.queue.as_ref();
        let delivery = queue.map_or(Delivery::AtLeastOnce, |queue| queue.delivery);
        let mut most = Vec::with_capacity(self.batches.len());
        loop {
            if let Some(end) = self.end() {
                return end;
            }
            let left = usize::try_from(self.limits.runs_left(self.runs)).unwrap_or(usize::MAX);
            most.clear();
            most.extend(self.batches.iter().map(|batch| batch.size().min(left)));
            match hold.turn(&most, divisor) {
                Answer::Done(reservation) if reservation.jobs.is_empty() => {
                    self.tell_reclaimed();
                    if let Some(end) = self.rest(hold, runner) {
                        return end;
                    }
                }
                Answer::Done(reservation) => {
                    self.tell_reclaimed();
                    let end = match delivery {
                        Delivery::AtLeastOnce => self.work(&reservation, hold, runner),
                        Delivery::AtMostOnce => self.work_popped(&reservation, hold, runner),
                    };
                    if let Some(end) = end {
                        return end;
                    }
                }
                // Two daemons with one identity take turns at this; neither should do so as fast as it can.
                Answer::TakenOver => {
                    self.orders.wait(AFTER_LOSS);
                }
                Answer::Away { retry_in, .. } => {
                    self.stay_away(retry_in);
                }
            }
        }
    }

    /// Until the store may be asked again; true: there is an order.
    fn stay_away(&mut self, delay: Duration) -> bool {
        self.show(State::Away);
        self.orders.wait(delay)
    }

    /// Calls the consumer again and again: pools without queue.
    pub fn run_loop(&mut self, runner: &mut Runner<'_>) -> End {
        loop {
            if let Some(end) = self.end() {
                return end;
            }
            let began = Instant::now();
            self.show(State::Busy);
            self.care.enter_consumer();
            let ran = runner.run_idle(self.orders);
            self.care.leave_consumer();
            let took = began.elapsed();
            match ran {
                Ok(Ran::Nothing) => {
                    // Every call counts as a run; this one was no work.
                    self.count(took, Mark::Done);
                    self.show(State::Idle);
                    let empty_sleep = self.birth.pool.worker.empty_sleep;
                    let limit = self.may_sleep().unwrap_or(empty_sleep);
                    self.orders.wait(empty_sleep.min(limit));
                }
                Ok(Ran::Something) => {
                    self.count(took, Mark::Done);
                    self.idle_since = Instant::now();
                }
                Ok(Ran::Failed(reason)) => {
                    self.count(took, Mark::Failed);
                    log::warn!("run failed {} reason={reason:?}", self.birth.label());
                }
                Err(how) => {
                    self.count(took, Mark::Failed);
                    if let Some(end) = self.restart(runner, &how) {
                        return end;
                    }
                }
            }
        }
    }

    fn end(&self) -> Option<End> {
        if self.orders.must_leave() {
            return Some(self.orders.own_reason().map_or(End::Ordered, End::Recycle));
        }
        let reached =
            self.limits
                .reached(self.runs, self.born.elapsed(), self.idle_since.elapsed());
        reached.map(End::Recycle)
    }

    /// The former reservation of this slot is back: the master forks the next generation without delay from now on.
    fn tell_reclaimed(&mut self) {
        if !std::mem::replace(&mut self.has_reclaimed, true) {
            self.birth.channel.send(&ToMaster::Reclaimed);
        }
    }

    /// Works on jobs that are in the store until they end: what is not begun can go back at any time.
    fn work(
        &mut self,
        reservation: &Reservation,
        hold: &mut Hold<'_>,
        runner: &mut Runner<'_>,
    ) -> Option<End> {
        if runner.is_native() {
            let extent = reservation.extent();
            self.care.begin_reservation(extent, || hold.tail());
        }
        let begin = Begin::WhileAllowed(&self.care.overdue);
        let mut given_back = 0;
        let (mut settled, end) = self.run(reservation, begin, runner, &mut |unsent| {
            given_back += unsent;
            hold.give_back(unsent);
        });
        if runner.is_native()
            && let Some(given) = self.care.overdue.end()
        {
            given_back += given.jobs;
            hold.given_back(given);
        }
        let worked = match end {
            Err(gone) => {
                let number = reservation.token.number;
                if gone.has_begun && !self.is_ended_from_outside() {
                    self.crashed(number, &reservation.jobs, &gone.how, &mut settled);
                }
                Worked::Gone(settled, gone)
            }
            Ok(()) if settled.ended() + given_back == reservation.jobs.len() => {
                Worked::All(settled)
            }
            Ok(()) => Worked::Some(settled),
        };
        self.settle(worked, hold, runner)
    }

    /// A script that dies while its worker has been told to leave was told as well, so that no job is to blame. Its own
    /// memory is another matter: a job that takes too much of it is replaced and dies in one.
    fn is_ended_from_outside(&self) -> bool {
        self.orders.must_leave() && self.orders.own_reason() != Some(RecycleReason::Memory)
    }

    /// The job behind those that have ended took the consumer along.
    fn crashed(&mut self, number: u64, jobs: &[Job], how: &str, settled: &mut Settled) {
        let place = settled.ended();
        if self.judge.crashed(&jobs[place], how, settled) {
            self.record.end_job(number, place, Mark::Bury);
            self.count(Duration::ZERO, Mark::Failed);
        }
    }

    /// Works on a job that is in no list any more. It is run whatever happens, unless the consumer cannot be started; if it
    /// takes the consumer along, it has failed.
    fn work_popped(
        &mut self,
        reservation: &Reservation,
        hold: &mut Hold<'_>,
        runner: &mut Runner<'_>,
    ) -> Option<End> {
        loop {
            let (mut settled, end) = self.run(reservation, Begin::Always, runner, &mut |_| {});
            let Err(gone) = end else {
                hold.ended(settled);
                return None;
            };
            if gone.has_begun {
                settled.failed += 1;
                self.count(Duration::ZERO, Mark::Failed);
            }
            let has_ended = settled.ended() > 0;
            hold.ended(settled);
            let end = self.restart(runner, &gone.how);
            if has_ended {
                return end;
            }
            if end.is_some() || self.orders.must_leave() {
                let label = self.birth.label();
                log::error!("job lost, it was popped and there is no consumer to run it {label}");
                return end;
            }
        }
    }

    /// Runs the jobs of a reservation; answers what has ended, and whether the consumer is gone. `unsent` hears how many
    /// jobs at the end a script will not get.
    fn run(
        &mut self,
        reservation: &Reservation,
        begin: Begin<'_>,
        runner: &mut Runner<'_>,
        unsent: &mut dyn FnMut(usize),
    ) -> (Settled, Result<(), Gone>) {
        let number = reservation.token.number;
        let jobs = &reservation.jobs;
        self.record.begin_reservation(number, runner.finished());
        self.show(State::Busy);
        let mut settled = Settled::default();
        let mut longest = Duration::ZERO;
        let (began, mut job_began) = (Instant::now(), Instant::now());
        let (record, orders, judge) = (self.record, self.orders, &mut self.judge);
        let limit = self.birth.pool.run.memory_limit_bytes;
        let mut ended = |place: usize, outcome: Outcome| {
            let now = Instant::now();
            let took = now - job_began;
            job_began = now;
            longest = longest.max(took);
            let mark = judge.ended(&jobs[place], outcome, &mut settled);
            record.count_run(took, mark);
            record.end_job(number, place, mark);
            record.set_since(clock::monotonic());
        };
        let mut told = Told {
            ended: &mut ended,
            unsent,
            full: &mut |bytes| orders.leave_for_memory(bytes, limit),
        };
        record.set_in_consumer(true);
        self.care.enter_consumer();
        let end = runner.run(jobs, begin, self.orders, &mut told);
        self.care.leave_consumer();
        record.set_in_consumer(false);
        self.runs += settled.ended() as u64;
        self.idle_since = Instant::now();
        self.batches[reservation.key_index].learn(Measured {
            jobs: settled.ended(),
            busy: began.elapsed(),
            longest,
            payload_bytes: reservation.payload_bytes,
        });
        (settled, end)
    }

    /// After a reservation: all settled by the next turn, or the rest given back now.
    fn settle(
        &mut self,
        worked: Worked,
        hold: &mut Hold<'_>,
        runner: &mut Runner<'_>,
    ) -> Option<End> {
        match worked {
            Worked::All(settled) => {
                hold.ended(settled);
                None
            }
            Worked::Some(settled) => {
                hold.ended(settled);
                self.give_back(hold);
                None
            }
            Worked::Gone(settled, gone) => {
                hold.ended(settled);
                self.give_back(hold);
                self.restart(runner, &gone.how)
            }
        }
    }

    /// Until the store has it, or an order comes: then the successor does it.
    fn give_back(&mut self, hold: &mut Hold<'_>) {
        while let Answer::Away { retry_in, .. } = hold.leave() {
            if self.stay_away(retry_in) {
                break;
            }
        }
    }

    /// Starts a script that is gone again, later each time it dies; none when it runs, or when an order came.
    pub fn restart(&mut self, runner: &mut Runner<'_>, how: &str) -> Option<End> {
        let mut how = how.to_string();
        loop {
            log::warn!("script gone {} reason={how:?}", self.birth.label());
            if self.back_off(runner.next_delay()) {
                return None;
            }
            self.show(State::Starting);
            match runner.start(self.orders) {
                Ok(()) => return None,
                Err(_) if self.orders.must_leave() => return None,
                Err(NotStarted::Refused(message)) => return Some(End::CannotStart(message)),
                Err(NotStarted::Died(words)) => how = words,
            }
        }
    }

    /// Waits before the consumer is started; true when an order ended the wait.
    pub fn back_off(&mut self, delay: Duration) -> bool {
        if delay.is_zero() {
            return false;
        }
        self.show(State::Backoff);
        let at = clock::monotonic() + delay;
        self.record.set_next_start_ms(at.as_millis() as u64);
        let is_ordered = self.orders.wait(delay);
        self.record.set_next_start_ms(0);
        is_ordered
    }

    /// Nothing is waiting. The first time one more turn follows, since a job may have come before the keeper could see
    /// that we are idle; then we sleep. A script that dies meanwhile is not left a zombie until the next job comes.
    fn rest(&mut self, hold: &mut Hold<'_>, runner: &mut Runner<'_>) -> Option<End> {
        if self.shown != State::Idle {
            self.show(State::Idle);
            if self
                .birth
                .board
                .keeper_watches(self.birth.pool_number)
                .load(Ordering::SeqCst)
                == 0
            {
                let _ = self.birth.keeper_bell.write(1);
            }
            return None;
        }
        let limit = self.may_sleep().map_or(PollTimeout::NONE, round_up);
        let watched = [
            Some(self.orders.wake()),
            Some(self.birth.doorbell.as_fd()),
            hold.fd(),
            runner.watch(),
        ];
        let mut fds: Vec<PollFd<'_>> = watched
            .iter()
            .flatten()
            .map(|fd: &BorrowedFd<'_>| PollFd::new(*fd, PollFlags::POLLIN))
            .collect();
        let _ = poll(&mut fds, limit);
        let is_ready = |place: usize| {
            let before = watched[..place].iter().flatten().count();
            watched[place].is_some() && fds[before].any() == Some(true)
        };
        let (has_hung_up, has_died) = (is_ready(2), is_ready(3));
        // Another worker may have taken the ring: then this turn finds nothing.
        let _ = self.birth.doorbell.read();
        if has_hung_up {
            let delay = hold.hung_up();
            self.stay_away(delay);
        }
        let how = has_died.then(|| runner.check_idle().err()).flatten()?;
        self.restart(runner, &how)
    }

    /// Until a limit is reached; none: there is no such limit.
    fn may_sleep(&self) -> Option<Duration> {
        let (age, idle) = (self.born.elapsed(), self.idle_since.elapsed());
        self.limits.may_sleep(age, idle)
    }

    fn count(&mut self, took: Duration, mark: Mark) {
        self.runs += 1;
        self.record.count_run(took, mark);
    }
}

//! A worker's hold on the queue: reclaim, open, turn, turn, ..., leave, in this order and again from the start when
//! the reservation was taken over; and what an outage does to it. What is settled is remembered here until the store
//! has it. With at-most-once delivery it reclaims what an earlier daemon may have left, and then pops.

use std::time::{Duration, Instant};

use super::overdue::GivenBack;
use crate::config::{self, Delivery};
use crate::queue::{Backoff, Identity, Past, Queue, QueueError, Reservation, Settled, Tail};
use crate::scoreboard::Record;

/// Whether the store did what was asked.
pub enum Answer<T> {
    /// It did.
    Done(T),
    /// The reservation was taken over; the next call begins anew.
    TakenOver,
    /// It is away: ask again after this.
    Away(Duration),
    /// It refuses us, and the operator may mend that.
    Refused(Refusal),
}

/// Why the store refuses us.
pub struct Refusal {
    /// In words for the operator.
    pub why: String,
    /// Ask again after this.
    pub retry_in: Duration,
    /// The store has done something for us since it last refused us, or was never asked.
    is_new: bool,
}

impl Refusal {
    /// Tells the operator, once and not at every attempt.
    pub fn report(&self, label: &str) {
        if self.is_new {
            log::error!("{} {label}", self.why);
        }
    }
}

/// The worker's side of its reserved list.
pub struct Hold<'a> {
    queue: Queue,
    stage: Stage,
    record: Record<'a>,
    nonce: u64,
    generation: u64,
    label: &'a str,
    delivery: Delivery,
    backoff: Backoff,
    outage: Option<Instant>,
}

/// Where the hold stands.
enum Stage {
    /// A predecessor's reservation may be there.
    Former,
    /// No list of ours is there.
    Closed,
    /// Ours; this of the reservation has ended.
    Open(Settled),
}

impl<'a> Hold<'a> {
    /// No I/O yet.
    pub fn new(
        settings: &config::Queue,
        identity: Identity,
        record: Record<'a>,
        label: &'a str,
    ) -> Self {
        Self {
            nonce: identity.nonce,
            generation: identity.generation,
            backoff: Backoff::new(identity.nonce ^ u64::from(std::process::id())),
            queue: Queue::new(settings, identity),
            delivery: settings.delivery,
            stage: Stage::Former,
            record,
            label,
            outage: None,
        }
    }

    /// Puts back what a predecessor had reserved; nothing to do when that was done.
    pub fn reclaim(&mut self) -> Answer<()> {
        let Stage::Former = self.stage else {
            return Answer::Done(());
        };
        let record = self.record;
        let reclaimed = self.queue.reclaim(&|token, jobs| {
            let ended = record.ended_of(token.nonce, token.generation, token.number, jobs);
            Past {
                ended: ended.done + ended.failed,
                ..Past::default()
            }
        });
        match reclaimed {
            Ok(reclaimed) => {
                if let Some(reclaimed) = reclaimed.filter(|reclaimed| reclaimed.given_back > 0) {
                    self.record.count_reclaimed(reclaimed.given_back as u64);
                    log::info!(
                        "reclaimed {} jobs={} settled={}",
                        self.label,
                        reclaimed.given_back,
                        reclaimed.ended
                    );
                }
                self.record.begin_tokens(self.nonce, self.generation);
                self.stage = Stage::Closed;
                self.is_back();
                Answer::Done(())
            }
            Err(err) => self.failed(&err),
        }
    }

    /// Settles what has ended and reserves up to `most` jobs, of each key; or pops one.
    pub fn turn(&mut self, most: &[usize], divisor: usize) -> Answer<Reservation> {
        match self.reclaim() {
            Answer::Done(()) => {}
            Answer::TakenOver => return Answer::TakenOver,
            Answer::Away(delay) => return Answer::Away(delay),
            Answer::Refused(refusal) => return Answer::Refused(refusal),
        }
        if let Stage::Closed = self.stage {
            let opened = match self.delivery {
                Delivery::AtLeastOnce => self.queue.open(),
                Delivery::AtMostOnce => Ok(()),
            };
            match opened {
                Ok(()) => self.stage = Stage::Open(Settled::default()),
                Err(err) => return self.failed(&err),
            }
        }
        let Stage::Open(settled) = &self.stage else {
            return Answer::TakenOver;
        };
        let reservation = match self.delivery {
            Delivery::AtLeastOnce => self.queue.turn(settled, most, divisor),
            Delivery::AtMostOnce => self.queue.pop(settled),
        };
        match reservation {
            Ok(reservation) => {
                self.stage = Stage::Open(Settled::default());
                self.is_back();
                Answer::Done(reservation)
            }
            Err(err) => self.failed(&err),
        }
    }

    /// Gives back the last jobs of the reservation, which were not begun. Whatever comes of it, they are not ours any more:
    /// what the store did not do now it does with the next turn.
    pub fn give_back(&mut self, jobs: usize) {
        let Stage::Open(_) = self.stage else {
            return;
        };
        match self.queue.give_back(jobs) {
            Ok(()) => self.gave_back(jobs),
            Err(err) => log::debug!(
                "cannot give back yet {} jobs={jobs} err={:?}",
                self.label,
                err.to_string()
            ),
        }
    }

    /// Another thread has given back jobs of the reservation, or tried to.
    pub fn given_back(&mut self, given: GivenBack) {
        match given.is_back {
            true => {
                self.queue.given_back(given.jobs);
                self.gave_back(given.jobs);
            }
            false => self.queue.give_up(given.jobs),
        }
    }

    fn gave_back(&self, jobs: usize) {
        log::debug!("gave back behind a long job {} jobs={jobs}", self.label);
    }

    /// For the thread that gives back what waits behind a long job.
    pub fn tail(&self) -> Tail {
        self.queue.tail()
    }

    /// So much of the reservation has ended; told to the store by the next turn.
    pub fn ended(&mut self, settled: Settled) {
        if let Stage::Open(_) = self.stage {
            self.stage = Stage::Open(settled);
        }
    }

    /// Settles what has ended and gives back the rest, in order, to the head of the queue.
    pub fn leave(&mut self) -> Answer<()> {
        let Stage::Open(settled) = &self.stage else {
            return Answer::Done(());
        };
        match self.queue.leave(settled) {
            Ok(given_back) => {
                if given_back > 0 {
                    log::debug!("gave back {} jobs={given_back}", self.label);
                }
                self.stage = Stage::Closed;
                self.is_back();
                Answer::Done(())
            }
            Err(err) => self.failed(&err),
        }
    }

    /// The socket, to see the server hang up while nothing is asked.
    pub fn fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        self.queue.fd()
    }

    /// The server has hung up.
    pub fn disconnect(&mut self) {
        self.queue.disconnect();
    }

    /// Sorts an error by what the worker does about it; whatever it is, what was reserved is safe in the store.
    fn failed<T>(&mut self, err: &QueueError) -> Answer<T> {
        let is_new = self.outage.is_none();
        match err {
            QueueError::Lost => {
                let had_jobs = matches!(&self.stage, Stage::Open(settled) if settled.ended() > 0);
                let level = if had_jobs {
                    log::Level::Warn
                } else {
                    log::Level::Info
                };
                log::log!(
                    level,
                    "reservation lost, beginning anew {} err={:?}",
                    self.label,
                    err.to_string()
                );
                self.stage = Stage::Former;
                Answer::TakenOver
            }
            QueueError::Unavailable(why) => {
                // The keeper says this for the whole daemon, once per outage.
                if is_new {
                    log::debug!("redis unavailable {} err={why:?}", self.label);
                }
                Answer::Away(self.next_delay())
            }
            QueueError::Refused(why) => Answer::Refused(Refusal {
                why: why.clone(),
                retry_in: self.next_delay(),
                is_new,
            }),
        }
    }

    fn next_delay(&mut self) -> Duration {
        self.outage.get_or_insert_with(Instant::now);
        self.backoff.next_delay()
    }

    fn is_back(&mut self) {
        if let Some(since) = self.outage.take() {
            log::debug!(
                "redis back {} down_ms={}",
                self.label,
                since.elapsed().as_millis()
            );
            self.backoff.reset();
        }
    }
}

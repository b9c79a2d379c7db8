//! A worker's hold on the queue: reclaim, open, turn, turn, ..., leave, in this order and again from the start when
//! the reservation was taken over; and what an outage does to it. What is settled is remembered here until the store
//! has it. With at-most-once delivery it reclaims what an earlier daemon may have left, and then pops.

use std::time::Duration;

use super::outage::Outages;
use super::overdue::GivenBack;
use super::past::{self, Death};
use crate::config::{self, Delivery};
use crate::queue::{Identity, Queue, QueueError, Reclaimed, Reservation, Settled, Tail, Token};
use crate::scoreboard::Record;

/// Whether the store did what was asked.
pub enum Answer<T> {
    /// It did.
    Done(T),
    /// The reservation was taken over; the next call begins anew.
    TakenOver,
    /// It did not.
    Away {
        /// Ask again after this.
        retry_in: Duration,
        /// It answered, and refuses us; in words for the operator, who may mend that.
        refusal: Option<String>,
    },
}

/// The worker's side of its reserved list.
pub struct Hold<'a> {
    queue: Queue,
    /// Of other pools; under earlier settings this slot may have served them.
    other_keys: &'a [String],
    stage: Stage,
    record: Record<'a>,
    nonce: u64,
    generation: u64,
    label: &'a str,
    delivery: Delivery,
    last_key: usize,
    outages: Outages<'a>,
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
        other_keys: &'a [String],
        identity: Identity,
        record: Record<'a>,
        outages: Outages<'a>,
        label: &'a str,
    ) -> Self {
        Self {
            nonce: identity.nonce,
            generation: identity.generation,
            last_key: settings.keys.len() - 1,
            outages,
            queue: Queue::new(settings, identity),
            other_keys,
            delivery: settings.delivery,
            stage: Stage::Former,
            record,
            label,
        }
    }

    /// Puts back what a predecessor had reserved; nothing to do when that was done.
    pub fn reclaim(&mut self) -> Answer<()> {
        let Stage::Former = self.stage else {
            return Answer::Done(());
        };
        let record = self.record;
        self.outages.attempt();
        // A daemon's end is no job's fault; the death of one worker of this daemon may be.
        let death = match record.has_tokens_of(self.nonce) {
            true => Death::Alone,
            false => Death::WithOthers,
        };
        let ended = |token: &Token, jobs: usize| past::of(record, token, jobs, death);
        // Keys change hands only from one start of the daemon to the next, and what has ended of their jobs is known
        // until the first tokens of this one.
        let others = match record.has_tokens_of(self.nonce) {
            true => Ok(None),
            false => self.queue.reclaim_others(self.other_keys, &ended),
        };
        let reclaimed = others.and_then(|others| {
            let own = self.queue.reclaim(&ended)?;
            Ok(Reclaimed::sum(own, others))
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
                self.outages.partly_back();
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
            Answer::Away { retry_in, refusal } => return Answer::Away { retry_in, refusal },
        }
        self.outages.attempt();
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
                // Keys behind the one that had jobs were not looked at, and one of them may be what was refused.
                match reservation.jobs.is_empty() || reservation.key_index == self.last_key {
                    true => self.outages.back(),
                    false => self.outages.partly_back(),
                }
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
        self.outages.attempt();
        match self.queue.leave(settled) {
            Ok(given_back) => {
                if given_back > 0 {
                    log::debug!("gave back {} jobs={given_back}", self.label);
                }
                self.stage = Stage::Closed;
                self.outages.partly_back();
                Answer::Done(())
            }
            Err(err) => self.failed(&err),
        }
    }

    /// The socket, to see the server hang up while nothing is asked.
    pub fn fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        self.queue.fd()
    }

    /// The server has hung up. Answers when to connect anew: all others have just seen the same.
    pub fn hung_up(&mut self) -> Duration {
        self.outages.attempt();
        self.queue.disconnect();
        let why = "the server closed the connection".to_string();
        self.outages.failed(&QueueError::Unavailable(why))
    }

    /// Sorts an error by what the worker does about it; whatever it is, what was reserved is safe in the store.
    fn failed<T>(&mut self, err: &QueueError) -> Answer<T> {
        match err {
            QueueError::Lost => {
                let had_jobs = matches!(&self.stage, Stage::Open(settled) if settled.ended() > 0);
                // A server that lost its data has lost the list of every idle worker, too: no work of theirs is in doubt.
                let level = if had_jobs {
                    log::Level::Warn
                } else {
                    log::Level::Debug
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
            QueueError::Unavailable(_) | QueueError::Refused(_) => Answer::Away {
                retry_in: self.outages.failed(err),
                refusal: match err {
                    QueueError::Refused(why) => Some(why.clone()),
                    _ => None,
                },
            },
        }
    }
}

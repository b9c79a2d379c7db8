//! A job in a worker's hands, and the reservation it came with. Cheap to make: a million pass here each second, so
//! what jobs have in common is shared and an id is only spelled out when somebody asks.

use std::sync::Arc;

use super::token::Token;

/// One unit of work.
#[derive(Clone, Debug)]
pub struct Job {
    /// The opaque bytes that the producer pushed.
    pub payload: Vec<u8>,
    attempt: u32,
    place: u32,
    origin: Arc<Origin>,
}

/// What the jobs of one reservation have in common.
#[derive(Debug)]
struct Origin {
    key: Arc<str>,
    pool: Arc<str>,
    token: Token,
}

impl Job {
    /// A job that comes from no queue: a payload given by hand.
    pub fn by_hand(key: &str, payload: Vec<u8>) -> Self {
        let token = Token {
            nonce: 0,
            slot: 0,
            generation: 0,
            number: 0,
        };
        let origin = Origin {
            key: key.into(),
            pool: "hand".into(),
            token,
        };
        Self {
            payload,
            attempt: 1,
            place: 0,
            origin: Arc::new(origin),
        }
    }

    /// Names this job among all others: the reservation's token, its pool, and the place in it.
    pub fn id(&self) -> String {
        let Origin { pool, token, .. } = &*self.origin;
        let Token {
            nonce,
            slot,
            generation,
            number,
        } = token;
        let place = self.place;
        format!("{nonce:016x}-{pool}-{slot}-{generation}-{number}-{place}")
    }

    /// Which run of this job it is, from 1.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The key it was pushed to.
    pub fn key(&self) -> &str {
        &self.origin.key
    }
}

/// The jobs that one turn has reserved, in the order they are to be run; none when nothing was waiting.
#[derive(Debug)]
pub struct Reservation {
    /// Marks it in the store; its number goes to the scoreboard with the progress.
    pub token: Token,
    /// Which of the queue's keys they are of.
    pub key_index: usize,
    /// At most as many as were asked for.
    pub jobs: Vec<Job>,
    /// Sum of the payloads' lengths.
    pub payload_bytes: usize,
}

impl Reservation {
    /// `key` is the queue's key at `key_index`.
    pub(super) fn new(
        (key_index, key): (usize, &Arc<str>),
        pool: &Arc<str>,
        token: Token,
        payloads: Vec<Vec<u8>>,
    ) -> Self {
        let origin = Arc::new(Origin {
            key: key.clone(),
            pool: pool.clone(),
            token,
        });
        let payload_bytes = payloads.iter().map(Vec::len).sum();
        let jobs = (0..)
            .zip(payloads)
            .map(|(place, payload)| Job {
                payload,
                attempt: 1,
                place,
                origin: origin.clone(),
            })
            .collect();
        Self {
            token,
            key_index,
            jobs,
            payload_bytes,
        }
    }

    /// Names it for [`Tail`](super::Tail).
    pub fn extent(&self) -> Extent {
        Extent {
            token: self.token,
            key_index: self.key_index,
            jobs: self.jobs.len(),
        }
    }
}

/// Which reservation it is and how many jobs it has: all that is needed to give back its tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The reservation's.
    pub token: Token,
    /// Which of the queue's keys its jobs are of.
    pub key_index: usize,
    /// How many it had when it was made.
    pub jobs: usize,
}

/// What became of the jobs of a reservation that have ended: always its first ones, since they run in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Jobs that did what they should.
    pub done: usize,
    /// Jobs that failed.
    pub failed: usize,
}

impl Settled {
    /// Jobs that ended, one way or the other.
    pub fn ended(&self) -> usize {
        self.done + self.failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_tell_pools_reservations_and_places_apart() {
        let id = |pool: &str, number, place: usize| {
            let token = Token {
                nonce: 0xab,
                slot: 2,
                generation: 3,
                number,
            };
            let payloads = vec![Vec::new(); 10];
            Reservation::new((0, &"q".into()), &pool.into(), token, payloads).jobs[place].id()
        };
        assert_eq!(id("mail", 7, 9), "00000000000000ab-mail-2-3-7-9");
        assert_ne!(id("mail", 7, 9), id("sms", 7, 9));
        assert_ne!(id("mail", 7, 1), id("mail", 71, 1));
    }
}

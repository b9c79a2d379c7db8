//! A job in a worker's hands, and the reservation it came with. Cheap to make: a million pass here each second, so
//! what jobs have in common is shared and an id is only spelled out when somebody asks.

use std::sync::Arc;

use super::header::Header;
use super::retry::Fate;
use super::token::Token;

/// One unit of work.
#[derive(Clone, Debug)]
pub struct Job {
    /// The opaque bytes that the producer pushed.
    pub payload: Vec<u8>,
    place: u32,
    /// What was known of it before; none: this is its first run.
    history: Option<Box<Header>>,
    origin: Arc<Origin>,
}

/// What the jobs of one reservation have in common.
#[derive(Debug)]
pub(super) struct Origin {
    /// The queue's key.
    pub key: Arc<str>,
    /// Whose slot reserved them.
    pub pool: Arc<str>,
    /// The reservation's.
    pub token: Token,
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
            place: 0,
            history: None,
            origin: Arc::new(origin),
        }
    }

    /// Of an element of a list: what stands before the payload tells its history.
    pub(super) fn new(mut element: Vec<u8>, place: u32, origin: Arc<Origin>) -> Self {
        let history = Header::parse(&element).map(|(header, start)| {
            element.drain(..start);
            Box::new(header)
        });
        Self {
            payload: element,
            place,
            history,
            origin,
        }
    }

    /// Names this job among all others, through all its runs: by what its history says, else the reservation's token,
    /// its pool, and the place in it.
    pub fn id(&self) -> String {
        if let Some(history) = &self.history {
            return history.id.clone();
        }
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
        self.history.as_ref().map_or(1, |history| history.attempt)
    }

    /// Its history so far, for [`fate`](super::retry::fate): from here on its id is fixed.
    pub fn header(&self) -> Header {
        match &self.history {
            Some(history) => (**history).clone(),
            None => Header::new(self.id()),
        }
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
        elements: Vec<Vec<u8>>,
    ) -> Self {
        let origin = Arc::new(Origin {
            key: key.clone(),
            pool: pool.clone(),
            token,
        });
        let jobs: Vec<Job> = (0..)
            .zip(elements)
            .map(|(place, element)| Job::new(element, place, origin.clone()))
            .collect();
        Self {
            token,
            key_index,
            payload_bytes: jobs.iter().map(|job| job.payload.len()).sum(),
            jobs,
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Jobs that did what they should.
    pub done: usize,
    /// Jobs that did not.
    pub failed: usize,
    /// Where those go; one that failed and has none is gone, as all are with at-most-once. A [`Fate::Head`], at most
    /// one, is of the job behind those that ended, and only for a farewell.
    pub fates: Vec<Fate>,
}

impl Settled {
    /// One more job was not done.
    pub fn add(&mut self, fate: Fate) {
        if !matches!(fate, Fate::Head { .. }) {
            self.failed += 1;
        }
        self.fates.push(fate);
    }

    /// Jobs that ended, one way or the other.
    pub fn ended(&self) -> usize {
        self.done + self.failed
    }

    /// Jobs that leave the reserved list on their own ways: those that ended, and the one that goes back marked.
    pub(super) fn gone(&self) -> usize {
        let is_marked = |fate: &&Fate| matches!(fate, Fate::Head { .. });
        self.ended() + self.fates.iter().filter(is_marked).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_id_fits_into_a_header() {
        let token = Token {
            nonce: u64::MAX,
            slot: 4095,
            generation: u64::MAX,
            number: (1 << 48) - 1,
        };
        let origin = Origin {
            key: "q".into(),
            pool: "p".repeat(64).into(),
            token,
        };
        let job = Job::new(b"payload".to_vec(), 999, Arc::new(origin));
        let element = job.header().encode(&job.payload);
        let again = Job::new(element, 0, job.origin.clone());
        assert_eq!((again.id(), again.payload), (job.id(), job.payload));
    }

    #[test]
    fn a_history_is_no_part_of_the_payload() {
        let header = Header {
            attempt: 7,
            ..Header::new("x".into())
        };
        let elements = vec![header.encode(b"abc"), b"abcd".to_vec()];
        let token = Token::parse(b"stark-token/1 00000000000000ab 2 3 7").unwrap();
        let reservation = Reservation::new((0, &"q".into()), &"mail".into(), token, elements);
        assert_eq!(reservation.payload_bytes, 7);
        let [old, new] = &reservation.jobs[..] else {
            panic!("two jobs")
        };
        assert_eq!((old.id(), old.attempt()), ("x".into(), 7));
        assert_eq!(old.header(), header);
        assert_eq!(old.payload, b"abc");
        assert_eq!(new.attempt(), 1);
        assert_eq!(new.header(), Header::new(new.id()));
    }

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

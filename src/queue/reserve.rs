//! A slot's hold on the queue: it opens the reserved list, takes turns, leaves, and reclaims what a predecessor left.
//! All rules about lost and unanswered commands are here; atomicity is the scripts', I/O the connection's. When to
//! ask again after an error is the caller's decision.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use redis::{Value, cmd};

use super::connection::{Connection, Protocol};
use super::error::QueueError;
use super::job::{Reservation, Settled};
use super::keys::{Keys, Registered};
use super::script::{OPEN, RECLAIM, TURN};
use super::token::Token;
use crate::config;

/// A list that changes more often between a look and a reclaim has a living worker.
const MOST_LOOKS: usize = 10;

/// Who asks.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The daemon's node; without colons.
    pub node: String,
    /// Drawn at this start of the daemon.
    pub nonce: u64,
    /// The pool; without colons.
    pub pool: String,
    /// The slot in that pool.
    pub slot: u32,
    /// Which process of that slot.
    pub generation: u64,
}

/// What a reclaim did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reclaimed {
    /// Whose reservation it was; none for a list without token.
    pub token: Option<Token>,
    /// Jobs that had ended and were settled.
    pub settled: Settled,
    /// Jobs that are back at the head of the queue.
    pub given_back: usize,
}

/// One worker's access to one queue. The calls come in this order: `reclaim`, `open`, then a `turn` after each
/// reservation, at last `leave`. After [`QueueError::Lost`] it begins anew with `reclaim` and `open`; after any other
/// error the same call is made again, with the same arguments.
pub struct Queue {
    identity: Identity,
    keys: Keys,
    reserved: String,
    key: Arc<str>,
    pool: Arc<str>,
    connection: Connection,
    holding: Holding,
    /// The number of the last token made.
    number: u64,
}

/// What is known of the slot's reserved list.
#[derive(Clone, Copy)]
enum Holding {
    /// Not open, or taken over.
    Nothing,
    /// As the last answer left it.
    Known(Held),
    /// A turn was sent from `held` to `next`, and its answer has not come.
    Unanswered { held: Held, next: Token },
    /// The list was given back, and the answer has not come.
    Leaving(Leaving),
}

#[derive(Clone, Copy)]
struct Held {
    token: Token,
    jobs: usize,
}

#[derive(Clone, Copy)]
struct Leaving {
    held: Held,
    settled: Settled,
    /// The turn that was unanswered before.
    next: Option<Token>,
}

impl Leaving {
    /// What ended cannot be more than what was held.
    fn new(held: Held, settled: Settled, next: Option<Token>) -> Self {
        debug_assert!(settled.ended() <= held.jobs);
        Self {
            held,
            settled,
            next,
        }
    }
}

/// Where a turn without answer stands.
enum Seen {
    NotRun,
    Ran(Vec<Vec<u8>>),
    Neither,
}

impl Queue {
    /// Access to the queue of `settings`; no I/O yet, so it may be made before a fork.
    pub fn new(settings: &config::Queue, identity: Identity) -> Self {
        let keys = Keys::new(&settings.keys[0]);
        Self {
            reserved: keys.reserved(&identity.node, &identity.pool, identity.slot),
            key: settings.keys[0].as_str().into(),
            pool: identity.pool.as_str().into(),
            connection: Connection::new(settings, Protocol::Resp2),
            holding: Holding::Nothing,
            number: 0,
            identity,
            keys,
        }
    }

    /// The socket, while there is one. Readable between two calls means that the server has hung up: `disconnect`.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.connection.fd()
    }

    /// Drops the connection; the next call makes a new one.
    pub fn disconnect(&mut self) {
        self.connection.close();
    }

    /// Puts back what a predecessor left in this slot's list: settles what `ended` says of it and gives back the rest
    /// to the head of the queue, in order. None when it left nothing.
    ///
    /// `ended` gets the list's token and the number of its jobs, and answers how many of the first ones ended; it may
    /// be asked more than once. The caller holds the slot's lock.
    pub fn reclaim(
        &mut self,
        ended: &dyn Fn(&Token, usize) -> Settled,
    ) -> Result<Option<Reclaimed>, QueueError> {
        self.holding = Holding::Nothing;
        let reserved = self.reserved.clone();
        self.reclaim_list(&reserved, ended)
    }

    /// The same for any list of this daemon whose slot's lock the caller holds.
    pub fn reclaim_registered(
        &mut self,
        list: &Registered,
        ended: &dyn Fn(&Token, usize) -> Settled,
    ) -> Result<Option<Reclaimed>, QueueError> {
        self.reclaim_list(&list.name, ended)
    }

    /// All registered reserved lists, also those of other nodes.
    pub fn registered(&mut self) -> Result<Vec<Registered>, QueueError> {
        let names = self
            .connection
            .call(cmd("SMEMBERS").arg(&self.keys.registry))?;
        let names = self.byte_strings(names, "SMEMBERS")?;
        let mut lists: Vec<Registered> = names
            .iter()
            .filter_map(|name| self.keys.parse_reserved(std::str::from_utf8(name).ok()?))
            .collect();
        lists.sort();
        Ok(lists)
    }

    /// Opens this slot's list. [`QueueError::Lost`] means that there is one: reclaim it first.
    pub fn open(&mut self) -> Result<(), QueueError> {
        let token = self.new_token();
        let answer = self.connection.eval(
            &OPEN,
            &[&self.reserved, &self.keys.registry],
            &[token.to_string().as_bytes()],
        )?;
        if answer != Value::Int(1) {
            return Err(self.lost());
        }
        self.holding = Holding::Known(Held { token, jobs: 0 });
        Ok(())
    }

    /// Settles the reservation in hand, all of whose jobs have ended, and makes the next: up to `most` jobs (1 to
    /// 1000), and with a `divisor` other than 0 at most the `divisor`th part of what is waiting, but one.
    ///
    /// After [`QueueError::Unavailable`] the same call finds out whether the turn had run and takes what it reserved.
    pub fn turn(
        &mut self,
        settled: Settled,
        most: usize,
        divisor: usize,
    ) -> Result<Reservation, QueueError> {
        let (held, next) = match self.holding {
            Holding::Known(held) => (held, self.new_token()),
            // The same next token again: whichever of the two comes first, the other finds nothing to do.
            Holding::Unanswered { held, next } => match self.look(held.token, next)? {
                Seen::NotRun => (held, next),
                Seen::Ran(payloads) => return Ok(self.reserved(next, payloads)),
                Seen::Neither => return Err(self.lost()),
            },
            Holding::Nothing | Holding::Leaving(_) => return Err(QueueError::Lost),
        };
        debug_assert_eq!(settled.ended(), held.jobs, "all jobs in hand have ended");
        self.holding = Holding::Unanswered { held, next };
        if let Some(payloads) = self.send_turn(held, next, settled, most, divisor)? {
            return Ok(self.reserved(next, payloads));
        }
        // LOST, unless a late command of a broken connection was faster than its repetition.
        match self.look(held.token, next)? {
            Seen::Ran(payloads) => Ok(self.reserved(next, payloads)),
            Seen::NotRun | Seen::Neither => Err(self.lost()),
        }
    }

    /// Leaves the queue: settles what ended of the reservation in hand, gives back the rest to the head in order, and
    /// deletes the list. Answers how many were given back. `open` begins anew.
    pub fn leave(&mut self, settled: Settled) -> Result<usize, QueueError> {
        // A repeated leave may have run before: then its list is gone, which is what was wanted.
        let repeated = matches!(self.holding, Holding::Leaving(_));
        let leaving = match self.holding {
            Holding::Nothing => return Ok(0),
            Holding::Known(held) => Leaving::new(held, settled, None),
            Holding::Unanswered { held, next } => Leaving::new(held, settled, Some(next)),
            Holding::Leaving(leaving) => leaving,
        };
        self.holding = Holding::Leaving(leaving);
        let left = leaving.held.jobs.saturating_sub(leaving.settled.ended());
        if self.give_back(leaving)? {
            self.holding = Holding::Nothing;
            return Ok(left);
        }
        let held = leaving.held.token;
        let next = leaving.next.unwrap_or(held);
        match self.look(held, next)? {
            // The list of a turn whose answer never came: that has settled, and nothing of it was begun.
            Seen::Ran(payloads) => {
                let jobs = payloads.len();
                self.holding = Holding::Known(Held { token: next, jobs });
                self.leave(Settled::default())
            }
            Seen::Neither if repeated => {
                self.holding = Holding::Nothing;
                Ok(left)
            }
            Seen::NotRun | Seen::Neither => Err(self.lost()),
        }
    }

    fn reserved(&mut self, token: Token, payloads: Vec<Vec<u8>>) -> Reservation {
        let jobs = payloads.len();
        self.holding = Holding::Known(Held { token, jobs });
        Reservation::new(&self.key, &self.pool, token, payloads)
    }

    fn lost(&mut self) -> QueueError {
        self.holding = Holding::Nothing;
        QueueError::Lost
    }

    fn new_token(&mut self) -> Token {
        self.number += 1;
        Token {
            nonce: self.identity.nonce,
            slot: self.identity.slot,
            generation: self.identity.generation,
            number: self.number,
        }
    }

    fn give_back(&mut self, leaving: Leaving) -> Result<bool, QueueError> {
        let Leaving { held, settled, .. } = leaving;
        let (name, first) = (self.reserved.clone(), held.token.to_string());
        let end = End {
            length: 1 + held.jobs,
            drop: 1 + settled.ended(),
            settled,
            reclaimed: 0,
        };
        self.send_end(&name, first.as_bytes(), end)
    }

    fn send_turn(
        &mut self,
        held: Held,
        next: Token,
        settled: Settled,
        most: usize,
        divisor: usize,
    ) -> Result<Option<Vec<Vec<u8>>>, QueueError> {
        let most = most.clamp(1, super::batch::MOST_JOBS);
        let figures = [
            1 + held.jobs,
            most,
            divisor,
            settled.ended(),
            settled.failed,
        ];
        let [length, most, divisor, ended, failed] = figures.map(|figure| figure.to_string());
        let (held, next) = (held.token.to_string(), next.to_string());
        let answer = self.connection.eval(
            &TURN,
            &[&self.keys.waiting, &self.reserved, &self.keys.stats],
            &[&held, &length, &next, &most, &divisor, &ended, &failed].map(|text| text.as_bytes()),
        )?;
        match answer {
            Value::Nil => Ok(None),
            jobs => self.byte_strings(jobs, "EVALSHA").map(Some),
        }
    }

    /// Where the turn from `held` to `next` stands, by what the list says.
    fn look(&mut self, held: Token, next: Token) -> Result<Seen, QueueError> {
        let (held, next) = (held.to_string(), next.to_string());
        let name = self.reserved.clone();
        let first = self.first_element(&name)?.unwrap_or_default();
        if first == held.as_bytes() {
            return Ok(Seen::NotRun);
        }
        if first != next.as_bytes() {
            return Ok(Seen::Neither);
        }
        let all = self
            .connection
            .call(cmd("LRANGE").arg(&name).arg(0).arg(-1))?;
        let mut all = self.byte_strings(all, "LRANGE")?;
        if all.first().is_none_or(|first| first != next.as_bytes()) {
            return Ok(Seen::Neither);
        }
        all.remove(0);
        Ok(Seen::Ran(all))
    }

    fn reclaim_list(
        &mut self,
        name: &str,
        ended: &dyn Fn(&Token, usize) -> Settled,
    ) -> Result<Option<Reclaimed>, QueueError> {
        for _ in 0..MOST_LOOKS {
            let first = self.first_element(name)?;
            // A list that changed since then has another first element, which the script finds.
            let length = self.length(name)?;
            let (reclaimed, drop) = match &first {
                None => (None, 0),
                Some(first) => {
                    let (reclaimed, drop) = plan(name, first, length, ended)?;
                    (Some(reclaimed), drop)
                }
            };
            let end = End {
                length: if first.is_some() { length } else { 0 },
                drop,
                settled: reclaimed.map_or(Settled::default(), |reclaimed| reclaimed.settled),
                reclaimed: reclaimed.map_or(0, |reclaimed| reclaimed.given_back),
            };
            if self.send_end(name, &first.unwrap_or_default(), end)? {
                return Ok(reclaimed);
            }
        }
        Err(QueueError::Unavailable(format!(
            "cannot reclaim {name}: somebody else is changing it"
        )))
    }

    fn send_end(&mut self, name: &str, first: &[u8], end: End) -> Result<bool, QueueError> {
        let figures = [
            end.length,
            end.drop,
            end.settled.ended(),
            end.settled.failed,
            end.reclaimed,
        ]
        .map(|figure| figure.to_string());
        let mut arguments = vec![first];
        arguments.extend(figures.iter().map(|figure| figure.as_bytes()));
        let Keys {
            waiting,
            registry,
            stats,
            ..
        } = &self.keys;
        let answer =
            self.connection
                .eval(&RECLAIM, &[waiting, name, registry, stats], &arguments)?;
        Ok(answer != Value::Nil)
    }

    fn first_element(&mut self, name: &str) -> Result<Option<Vec<u8>>, QueueError> {
        match self.connection.call(cmd("LINDEX").arg(name).arg(0))? {
            Value::Nil => Ok(None),
            Value::BulkString(bytes) => Ok(Some(bytes)),
            _ => Err(self.connection.nonsense("LINDEX")),
        }
    }

    fn length(&mut self, name: &str) -> Result<usize, QueueError> {
        match self.connection.call(cmd("LLEN").arg(name))? {
            Value::Int(length) => Ok(usize::try_from(length).unwrap_or(0)),
            _ => Err(self.connection.nonsense("LLEN")),
        }
    }

    /// The elements of an array, moved out and not copied.
    fn byte_strings(&mut self, reply: Value, command: &str) -> Result<Vec<Vec<u8>>, QueueError> {
        let Value::Array(items) = reply else {
            return Err(self.connection.nonsense(command));
        };
        let strings = items.into_iter().map(|item| match item {
            Value::BulkString(bytes) => Some(bytes),
            _ => None,
        });
        match strings.collect() {
            Some(strings) => Ok(strings),
            None => Err(self.connection.nonsense(command)),
        }
    }
}

/// How a reserved list is to end.
#[derive(Clone, Copy)]
struct End {
    length: usize,
    drop: usize,
    settled: Settled,
    reclaimed: usize,
}

/// What to do with a list that begins with `first`, and how many elements to drop from its head.
fn plan(
    name: &str,
    first: &[u8],
    length: usize,
    ended: &dyn Fn(&Token, usize) -> Settled,
) -> Result<(Reclaimed, usize), QueueError> {
    if Token::is_newer(first) {
        return Err(QueueError::Refused(format!(
            "cannot reclaim {name}: a newer stark wrote it; start that version, or let it drain first"
        )));
    }
    let token = Token::parse(first);
    let jobs = length.saturating_sub(usize::from(token.is_some()));
    // A record that claims more than there is cannot be of this list.
    let settled = token
        .map(|token| ended(&token, jobs))
        .filter(|settled| settled.ended() <= jobs)
        .unwrap_or_default();
    let reclaimed = Reclaimed {
        token,
        settled,
        given_back: jobs - settled.ended(),
    };
    let drop = usize::from(token.is_some()) + settled.ended();
    Ok((reclaimed, drop))
}

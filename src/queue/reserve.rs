//! A slot's hold on the queue: it opens its reserved lists (one per key), takes turns, gives back, leaves, and reclaims
//! what a predecessor left. All rules about lost and unanswered commands are here; atomicity is the scripts', I/O the
//! connection's. When to ask again after an error is the caller's decision.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use redis::{Value, cmd};

use super::batch::{MOST_BYTES, MOST_JOBS};
use super::connection::{Connection, Protocol};
use super::error::QueueError;
use super::giveback::{Tail, shorten};
use super::job::{Reservation, Settled};
use super::keys::{Keys, Registered};
use super::reclaim::{End, Left, Past, Reclaimed, end, reclaim};
use super::retry::in_words;
use super::script::{OPEN, POP, TURN};
use super::token::Token;
use crate::config;
use crate::jitter::Jitter;

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

/// One worker's access to one queue. The calls come in this order: `reclaim`, `open`, then a `turn` after each
/// reservation, at last `leave`. After [`QueueError::Lost`] it begins anew with `reclaim` and `open`; after any other
/// error the same call is made again, with the same arguments (`give_back` need not be: see there).
///
/// At-most-once is another life: `reclaim`, then `pop` after each job, at last `leave`.
pub struct Queue {
    settings: config::Queue,
    identity: Identity,
    pool: Arc<str>,
    connection: Connection,
    /// Draws the pauses of jobs that a predecessor left.
    jitter: Jitter,
    /// One per key, highest priority first.
    lists: Vec<List>,
    /// The tokens of the lists that are open: of the first ones, in the middle of opening.
    tokens: Vec<Token>,
    holding: Holding,
    /// The number of the last token made.
    number: u64,
    /// A pop was sent, and its answer has not come: what it was to count may have been counted.
    is_pop_unanswered: bool,
}

/// What belongs to one key.
struct List {
    key: Arc<str>,
    keys: Keys,
    reserved: String,
}

/// What is known of the slot's reserved lists.
#[derive(Clone, Copy)]
enum Holding {
    /// Not open, or taken over.
    Nothing,
    /// As the last answer left it.
    Known(Held),
    /// A turn was sent from `held` to `next`, and its answer has not come.
    Unanswered { held: Held, next: Token },
    /// The list with the jobs is being ended, and the answer has not come.
    Leaving(Leaving),
    /// It is ended; the other ones, from this key on, hold a token only and are being removed.
    Closing { given_back: usize, key: usize },
    /// A job of this key that is in no list any more.
    Popped { key: usize },
}

/// The reservation, whose token is that of its key's list. The other lists hold nothing.
#[derive(Clone, Copy)]
struct Held {
    key: usize,
    /// Jobs that are the caller's to run.
    jobs: usize,
    /// Jobs behind them that the caller gave up, and that may be in the list still.
    given_up: usize,
}

#[derive(Clone, Copy)]
struct Leaving {
    held: Held,
    /// The turn that was unanswered before.
    next: Option<Token>,
    /// That turn had run: what its caller says has ended is settled, and nothing of this reservation was begun.
    is_settled: bool,
}

/// What a turn reserved: jobs of which key.
struct Taken {
    key: usize,
    elements: Vec<Vec<u8>>,
}

/// Where a turn without answer stands.
enum Seen {
    NotRun,
    Ran(Taken),
    Neither,
}

impl Queue {
    /// Access to the queue of `settings`; no I/O yet, so it may be made before a fork.
    pub fn new(settings: &config::Queue, identity: Identity) -> Self {
        let list = |key: &String| {
            let keys = Keys::new(key);
            List {
                key: key.as_str().into(),
                reserved: keys.reserved(&identity.node, &identity.pool, identity.slot),
                keys,
            }
        };
        Self {
            lists: settings.keys.iter().map(list).collect(),
            tokens: Vec::new(),
            pool: identity.pool.as_str().into(),
            jitter: Jitter::new(
                identity.nonce ^ identity.generation << 32 ^ u64::from(identity.slot),
            ),
            connection: Connection::new(settings, Protocol::Resp2),
            holding: Holding::Nothing,
            number: 0,
            is_pop_unanswered: false,
            settings: settings.clone(),
            identity,
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

    /// Puts back what a predecessor left in this slot's lists: settles what `past` says of it and gives back the rest
    /// to the head of its key, in order. None when it left nothing.
    ///
    /// `past` gets a list's token and the number of its jobs; it may be asked more than once. The caller holds the
    /// slot's lock.
    pub fn reclaim(
        &mut self,
        past: &dyn Fn(&Token, usize) -> Past,
    ) -> Result<Option<Reclaimed>, QueueError> {
        self.tokens.clear();
        self.holding = Holding::Nothing;
        let mut all = None;
        for List { keys, reserved, .. } in &self.lists {
            let left = Left {
                keys,
                name: reserved,
                pool: &self.pool,
                node: &self.identity.node,
                retry: &self.settings.retry,
            };
            let one = reclaim(&mut self.connection, &left, past, &mut self.jitter)?;
            all = Reclaimed::sum(all, one);
        }
        Ok(all)
    }

    /// The same for this slot's lists of other keys: earlier settings may have given them to its pool.
    pub fn reclaim_others(
        &mut self,
        keys: &[String],
        past: &dyn Fn(&Token, usize) -> Past,
    ) -> Result<Option<Reclaimed>, QueueError> {
        let mut all = None;
        for key in keys {
            let keys = Keys::new(key);
            let Identity {
                node, pool, slot, ..
            } = &self.identity;
            let reserved = keys.reserved(node, pool, *slot);
            // There hardly ever is one: one question, and nothing written.
            if self.connection.first_element(&reserved)?.is_some() {
                let left = Left {
                    keys: &keys,
                    name: &reserved,
                    pool: &self.pool,
                    node: &self.identity.node,
                    retry: &self.settings.retry,
                };
                let one = reclaim(&mut self.connection, &left, past, &mut self.jitter)?;
                all = Reclaimed::sum(all, one);
            }
        }
        Ok(all)
    }

    /// The same for any list of this daemon whose slot's lock the caller holds.
    pub fn reclaim_registered(
        &mut self,
        list: &Registered,
        past: &dyn Fn(&Token, usize) -> Past,
    ) -> Result<Option<Reclaimed>, QueueError> {
        let left = Left {
            keys: &Keys::new(&list.key),
            name: &list.name,
            pool: &list.pool.as_str().into(),
            node: &list.node,
            retry: &self.settings.retry,
        };
        reclaim(&mut self.connection, &left, past, &mut self.jitter)
    }

    /// All registered reserved lists of all keys, also those of other nodes.
    pub fn registered(&mut self) -> Result<Vec<Registered>, QueueError> {
        let mut all = Vec::new();
        for List { keys, .. } in &self.lists {
            let names = self.connection.call(cmd("SMEMBERS").arg(&keys.registry))?;
            let names = self.connection.byte_strings(names, "SMEMBERS")?;
            let ours = |name: &Vec<u8>| keys.parse_reserved(std::str::from_utf8(name).ok()?);
            all.extend(names.iter().filter_map(ours));
        }
        all.sort();
        Ok(all)
    }

    /// Opens this slot's lists. [`QueueError::Lost`] means that there is one already: reclaim first.
    pub fn open(&mut self) -> Result<(), QueueError> {
        while self.tokens.len() < self.lists.len() {
            let token = self.new_token();
            let List { keys, reserved, .. } = &self.lists[self.tokens.len()];
            let answer = self.connection.eval(
                &OPEN,
                &[reserved, &keys.registry],
                &[token.to_string().as_bytes()],
            )?;
            if answer != Value::Int(1) {
                return Err(self.lost());
            }
            self.tokens.push(token);
        }
        self.holding = Holding::Known(Held {
            key: 0,
            jobs: 0,
            given_up: 0,
        });
        Ok(())
    }

    /// Settles the reservation in hand, all of whose jobs have ended or were given back, sends those that were not done
    /// where they go, and makes the next from the
    /// first key that has jobs: up to `most` (of each key, 1 to 1000), about a MiB, and with a `divisor` other than 0
    /// at most the `divisor`th part of what is waiting; but one.
    ///
    /// After [`QueueError::Unavailable`] the same call finds out whether the turn had run and takes what it reserved.
    pub fn turn(
        &mut self,
        settled: &Settled,
        most: &[usize],
        divisor: usize,
    ) -> Result<Reservation, QueueError> {
        self.finish_giving_back()?;
        let (held, next) = match self.holding {
            Holding::Known(held) => (held, self.new_token()),
            // The same next token again: whichever of the two comes first, the other finds nothing to do.
            Holding::Unanswered { held, next } => match self.look(held, next)? {
                Seen::NotRun => (held, next),
                Seen::Ran(taken) => return Ok(self.reserved(held, next, taken)),
                Seen::Neither => return Err(self.lost()),
            },
            Holding::Nothing
            | Holding::Leaving(_)
            | Holding::Closing { .. }
            | Holding::Popped { .. } => return Err(QueueError::Lost),
        };
        debug_assert_eq!(settled.ended(), held.jobs, "all jobs in hand have ended");
        // Else the turn would trim it and send it nowhere.
        assert_eq!(
            settled.gone(),
            settled.ended(),
            "a job that goes back has not ended, and needs a farewell"
        );
        self.holding = Holding::Unanswered { held, next };
        if let Some(taken) = self.send_turn(held, next, settled, most, divisor)? {
            return Ok(self.reserved(held, next, taken));
        }
        // LOST, unless a late command of a broken connection was faster than its repetition.
        match self.look(held, next)? {
            Seen::Ran(taken) => Ok(self.reserved(held, next, taken)),
            Seen::NotRun | Seen::Neither => Err(self.lost()),
        }
    }

    /// Gives the last `count` jobs of the reservation in hand, which the caller has not begun, back to the head of
    /// their key, in order.
    ///
    /// Whatever the answer, they are not the caller's any more. After [`QueueError::Unavailable`] they may be in the
    /// reserved list still: the next call of `turn`, `give_back` or `leave` first sees to that, so nobody has to
    /// repeat this one.
    pub fn give_back(&mut self, count: usize) -> Result<(), QueueError> {
        self.give_up(count);
        self.finish_giving_back()
    }

    /// A [`Tail`] was asked to give back `count` jobs, and it is not known whether it did: the next call sees to it.
    pub fn give_up(&mut self, count: usize) {
        self.shrink(count, |held, count| held.given_up += count);
    }

    /// A [`Tail`] has given back `count` jobs.
    pub fn given_back(&mut self, count: usize) {
        self.shrink(count, |_, _| {});
    }

    /// Access to the tails of this worker's reservations for another thread.
    pub fn tail(&self) -> Tail {
        let names = |list: &List| (list.keys.waiting.clone(), list.reserved.clone());
        Tail::new(&self.settings, self.lists.iter().map(names).collect())
    }

    /// Takes one job for good from the first key that has one, and counts what became of the one before. It is in no
    /// list then, so if the connection breaks it may be lost, and it never runs twice. What was to be counted is
    /// counted at most once.
    pub fn pop(&mut self, settled: &Settled) -> Result<Reservation, QueueError> {
        self.connection.open()?;
        let uncounted = match std::mem::replace(&mut self.is_pop_unanswered, true) {
            true => &Settled::default(),
            false => settled,
        };
        let before = self.popped_key();
        let waiting: Vec<&str> = self.lists.iter().map(|list| &*list.key).collect();
        let answer = send_pop(
            &mut self.connection,
            &waiting,
            &self.lists[before].keys.stats,
            uncounted,
        )?;
        let Taken { key, elements } = match answer {
            Value::Array(items) if items.is_empty() => Taken {
                key: before,
                elements: Vec::new(),
            },
            answer => self.taken(answer)?,
        };
        self.is_pop_unanswered = false;
        self.holding = Holding::Popped { key };
        let token = self.new_token();
        let key = (key, &self.lists[key].key);
        Ok(Reservation::new(key, &self.pool, token, elements))
    }

    /// Leaves the queue: settles what ended of the reservation in hand, gives back the rest to the head in order (the
    /// first of it as its [`Fate::Head`](super::Fate) says, if there is one), and deletes the lists. Answers how many
    /// were given back. `open` begins anew.
    pub fn leave(&mut self, settled: &Settled) -> Result<usize, QueueError> {
        self.finish_giving_back()?;
        // A repeated leave may have run before: then its list is gone, which is what was wanted.
        let repeated = matches!(self.holding, Holding::Leaving(_));
        let leaving = match self.holding {
            Holding::Nothing => return self.close(0, 0),
            Holding::Closing { given_back, key } => return self.close(given_back, key),
            Holding::Popped { key } => {
                self.count_popped(key, settled);
                return Ok(0);
            }
            Holding::Known(held) => Leaving {
                held,
                next: None,
                is_settled: false,
            },
            Holding::Unanswered { held, next } => Leaving {
                held,
                next: Some(next),
                is_settled: false,
            },
            Holding::Leaving(leaving) => leaving,
        };
        self.farewell(leaving, settled, repeated)
    }

    fn farewell(
        &mut self,
        leaving: Leaving,
        settled: &Settled,
        repeated: bool,
    ) -> Result<usize, QueueError> {
        self.holding = Holding::Leaving(leaving);
        let Leaving { held, next, .. } = leaving;
        let nothing = Settled::default();
        let ended = match leaving.is_settled {
            true => &nothing,
            false => settled,
        };
        debug_assert!(ended.gone() <= held.jobs);
        let left = held.jobs.saturating_sub(ended.ended());
        if self.end_list(held.key, held.jobs, ended)? {
            return self.close(left, 0);
        }
        let next = next.unwrap_or(self.tokens[held.key]);
        match self.look(held, next)? {
            // The lists of a turn whose answer never came.
            Seen::Ran(taken) => {
                let leaving = Leaving {
                    held: self.took(held, next, &taken),
                    next: None,
                    is_settled: true,
                };
                self.farewell(leaving, settled, false)
            }
            Seen::Neither if repeated => self.close(left, 0),
            Seen::NotRun | Seen::Neither => Err(self.lost()),
        }
    }

    /// Removes the lists that hold nothing, from `key` on. One that is not as we left it is somebody else's by now.
    fn close(&mut self, given_back: usize, from: usize) -> Result<usize, QueueError> {
        for key in from..self.tokens.len() {
            self.holding = Holding::Closing { given_back, key };
            self.end_list(key, 0, &Settled::default())?;
        }
        self.tokens.clear();
        self.holding = Holding::Nothing;
        Ok(given_back)
    }

    fn reserved(&mut self, held: Held, token: Token, taken: Taken) -> Reservation {
        self.holding = Holding::Known(self.took(held, token, &taken));
        let Taken { key, elements } = taken;
        Reservation::new((key, &self.lists[key].key), &self.pool, token, elements)
    }

    /// What a turn from `held` to `token` made of it.
    fn took(&mut self, held: Held, token: Token, taken: &Taken) -> Held {
        self.tokens[held.key] = token;
        self.tokens[taken.key] = token;
        Held {
            key: taken.key,
            jobs: taken.elements.len(),
            given_up: 0,
        }
    }

    fn lost(&mut self) -> QueueError {
        self.tokens.clear();
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

    /// Jobs at the end of the reservation are not the caller's any more.
    fn shrink(&mut self, count: usize, then: impl FnOnce(&mut Held, usize)) {
        if let Holding::Known(held) = &mut self.holding {
            let count = count.min(held.jobs);
            held.jobs -= count;
            then(held, count);
        }
    }

    /// Sees to it that what was given up is not in the list any more.
    fn finish_giving_back(&mut self) -> Result<(), QueueError> {
        let Holding::Known(held) = self.holding else {
            return Ok(());
        };
        let List { key, reserved, .. } = &self.lists[held.key];
        let (token, jobs) = (self.tokens[held.key], held.jobs + held.given_up);
        match shorten(
            &mut self.connection,
            (key, reserved),
            &token,
            jobs,
            held.jobs,
        ) {
            Ok(()) => {
                self.holding = Holding::Known(Held {
                    given_up: 0,
                    ..held
                });
                Ok(())
            }
            Err(QueueError::Lost) => Err(self.lost()),
            Err(error) => Err(error),
        }
    }

    /// The key whose figures the next pop adds to.
    fn popped_key(&self) -> usize {
        match self.holding {
            Holding::Popped { key } => key,
            _ => 0,
        }
    }

    /// The last job of a leaving worker. Figures keep nobody from leaving.
    fn count_popped(&mut self, key: usize, settled: &Settled) {
        self.holding = Holding::Nothing;
        let is_told = std::mem::take(&mut self.is_pop_unanswered);
        if settled.ended() > 0 && !is_told {
            let stats = &self.lists[key].keys.stats;
            let _ = send_pop(&mut self.connection, &[], stats, settled);
        }
    }

    fn end_list(&mut self, key: usize, jobs: usize, settled: &Settled) -> Result<bool, QueueError> {
        let List { keys, reserved, .. } = &self.lists[key];
        let left = Left {
            keys,
            name: reserved,
            pool: &self.pool,
            node: &self.identity.node,
            retry: &self.settings.retry,
        };
        let first = self.tokens[key].to_string();
        let wanted = End {
            length: 1 + jobs,
            settled,
            reclaimed: 0,
        };
        end(&mut self.connection, &left, first.as_bytes(), wanted)
    }

    fn send_turn(
        &mut self,
        held: Held,
        next: Token,
        settled: &Settled,
        most: &[usize],
        divisor: usize,
    ) -> Result<Option<Taken>, QueueError> {
        let mut names: Vec<&str> = Vec::with_capacity(2 * self.lists.len() + 3);
        for list in &self.lists {
            names.extend([&*list.key, list.reserved.as_str()]);
        }
        let keys = &self.lists[held.key].keys;
        names.extend([&keys.delayed, &keys.dead, &keys.stats].map(String::as_str));
        let mut arguments = vec![
            (1 + held.key).to_string(),
            (1 + held.jobs).to_string(),
            next.to_string(),
            divisor.to_string(),
            MOST_BYTES.to_string(),
            settled.ended().to_string(),
            settled.failed.to_string(),
        ];
        debug_assert_eq!(most.len(), self.tokens.len());
        for (token, most) in self.tokens.iter().zip(most) {
            arguments.push(token.to_string());
            arguments.push((*most).clamp(1, MOST_JOBS).to_string());
        }
        let fates = in_words(&self.settings.retry, &settled.fates);
        let arguments = arguments.iter().map(|text| text.as_bytes());
        let arguments: Vec<&[u8]> = arguments.chain(fates.iter().map(|word| &**word)).collect();
        match self.connection.eval(&TURN, &names, &arguments)? {
            Value::Nil => Ok(None),
            answer => self.taken(answer).map(Some),
        }
    }

    /// What a script says it has taken: the key, counted from 1, then jobs or lists of jobs.
    fn taken(&mut self, answer: Value) -> Result<Taken, QueueError> {
        let nonsense = |queue: &mut Self| Err(queue.connection.nonsense("EVALSHA"));
        let Value::Array(items) = answer else {
            return nonsense(self);
        };
        let mut items = items.into_iter();
        let key = match items.next() {
            Some(Value::Int(key)) => key.checked_sub(1).and_then(|key| usize::try_from(key).ok()),
            _ => None,
        };
        let Some(key) = key.filter(|key| *key < self.lists.len()) else {
            return nonsense(self);
        };
        let mut elements = Vec::new();
        for item in items {
            let jobs = match item {
                Value::Array(jobs) => jobs,
                job => vec![job],
            };
            elements.reserve(jobs.len());
            for job in jobs {
                let Value::BulkString(job) = job else {
                    return nonsense(self);
                };
                elements.push(job);
            }
        }
        Ok(Taken { key, elements })
    }

    /// Where the turn from `held` to `next` stands, by what the lists say.
    fn look(&mut self, held: Held, next: Token) -> Result<Seen, QueueError> {
        let (before, next) = (self.tokens[held.key].to_string(), next.to_string());
        let first = self
            .connection
            .first_element(&self.lists[held.key].reserved)?
            .unwrap_or_default();
        if first == before.as_bytes() {
            return Ok(Seen::NotRun);
        }
        if first != next.as_bytes() {
            return Ok(Seen::Neither);
        }
        // It gave its token to the list held and to that of the key it chose, and only the latter has jobs.
        let mut taken = Taken {
            key: held.key,
            elements: Vec::new(),
        };
        for (key, list) in self.lists.iter().enumerate() {
            let all = self
                .connection
                .call(cmd("LRANGE").arg(&list.reserved).arg(0).arg(-1))?;
            let mut all = self.connection.byte_strings(all, "LRANGE")?;
            if all.len() > 1 && all[0] == next.as_bytes() {
                all.remove(0);
                taken = Taken { key, elements: all };
            }
        }
        Ok(Seen::Ran(taken))
    }
}

/// Without keys it only counts.
fn send_pop(
    connection: &mut Connection,
    waiting: &[&str],
    stats: &str,
    settled: &Settled,
) -> Result<Value, QueueError> {
    let names = [waiting, &[stats]].concat();
    let figures = [settled.ended(), settled.failed].map(|figure| figure.to_string());
    connection.eval(
        &POP,
        &names,
        &[figures[0].as_bytes(), figures[1].as_bytes()],
    )
}

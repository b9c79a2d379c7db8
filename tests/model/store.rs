//! The model of the store: a queue of some keys, one slot, and the scripts as pure functions. With a fault it errs in
//! one way.

pub type Token = u16;
pub type Job = u16;

/// What lies in the store for one slot: one entry per key, highest priority first.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Store {
    pub keys: Vec<Key>,
}

/// What lies there for one key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub waiting: Vec<Job>,
    pub reserved: Option<Reserved>,
    pub registered: bool,
    pub processed: usize,
    pub failed: usize,
    pub reclaimed: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reserved {
    pub token: Token,
    pub jobs: Vec<Job>,
}

/// What the scripts are called with.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Command {
    Open {
        key: usize,
        token: Token,
    },
    Turn {
        held: usize,
        jobs: usize,
        next: Token,
        divisor: usize,
        failed: usize,
        /// Of each key: the token expected, and the most jobs.
        expected: Vec<(Token, usize)>,
    },
    GiveBack {
        key: usize,
        token: Token,
        jobs: usize,
        count: usize,
    },
    Reclaim {
        key: usize,
        token: Token,
        jobs: usize,
        ended: usize,
        failed: usize,
        reclaimed: usize,
    },
}

/// What a script answers, if not LOST.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Done,
    /// A turn's: which key, which jobs.
    Taken(usize, Vec<Job>),
}

/// A mistake planted in the protocol, for the search to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// An empty turn leaves the token as it was.
    EmptyTurnKeepsToken,
    /// A turn moves jobs whatever list it finds, as a `BLMOVE` does.
    TurnChecksNothing,
    /// A turn checks its token, and never changes it.
    TurnKeepsToken,
    /// A turn to another key leaves the token of the list it settles as it was.
    SettledKeepsToken,
    /// A turn to another key looks at nothing but the list it settles.
    ChosenIsNotChecked,
    /// A reclaim drops from whatever list it finds.
    ReclaimNamesNoToken,
    /// The list is opened although it is there.
    OpenOverwrites,
    /// Progress is believed whatever reservation it was noted for.
    ProgressOfAnyToken,
    /// After a broken connection the worker takes the turn for not run, with a new token.
    NoLookAfterBreak,
    /// After a turn without answer the worker looks for its jobs only where it held some before.
    LooksAtHeldOnly,
    /// After a broken connection a leaving worker does not think of the turn that may have run.
    LeaveForgetsTurn,
    /// What was not begun goes to the tail.
    GiveBackToTail,
    /// Giving back looks at the token only.
    GiveBackChecksNoLength,
    /// Giving back looks at the length only.
    GiveBackChecksNoToken,
    /// The worker takes what it may have given back for given back, and does not see to it.
    GivenUpIsForgotten,
    /// The worker begins jobs that it may have given back.
    GivenUpIsBegun,
}

impl Store {
    /// Nothing is there yet.
    pub fn new(keys: usize) -> Self {
        Self {
            keys: vec![Key::default(); keys],
        }
    }

    /// Runs a script; `None` is LOST.
    pub fn run(&mut self, command: &Command, fault: Fault) -> Option<Answer> {
        match command {
            Command::Open { key, token } => self.keys[*key].open(*token, fault),
            Command::Turn { .. } => self.turn(command, fault),
            Command::GiveBack {
                key,
                token,
                jobs,
                count,
            } => self.keys[*key].give_back(*token, *jobs, *count, fault),
            Command::Reclaim {
                key,
                token,
                jobs,
                ended,
                failed,
                reclaimed,
            } => {
                let key = &mut self.keys[*key];
                let unnamed = fault == Fault::ReclaimNamesNoToken && key.reserved.is_some();
                (key.holds(*token, *jobs) || unnamed).then(|| {
                    key.processed += ended;
                    key.failed += failed;
                    key.reclaimed += reclaimed;
                    key.end(*ended, fault);
                    Answer::Done
                })
            }
        }
    }

    fn turn(&mut self, command: &Command, fault: Fault) -> Option<Answer> {
        let Command::Turn {
            held,
            jobs,
            next,
            divisor,
            failed,
            expected,
        } = command
        else {
            unreachable!("it is a turn")
        };
        let token = expected[*held].0;
        let is_known = self.keys[*held].holds(token, *jobs)
            || match fault {
                Fault::TurnChecksNothing => self.keys[*held].reserved.is_some(),
                Fault::TurnKeepsToken => self.keys[*held].token() == Some(token),
                _ => false,
            };
        let chosen = self.keys.iter().position(|key| !key.waiting.is_empty());
        let chosen = chosen.unwrap_or(*held);
        let is_other_known = chosen == *held
            || self.keys[chosen].holds(expected[chosen].0, 0)
            || fault == Fault::ChosenIsNotChecked;
        if !is_known || !is_other_known {
            return None;
        }
        self.keys[*held].processed += jobs;
        self.keys[*held].failed += failed;
        if chosen != *held && fault != Fault::SettledKeepsToken {
            self.keys[*held].hold(*next, vec![]);
        } else if chosen != *held {
            self.keys[*held].hold(token, vec![]);
        }
        let taken = self.keys[chosen].take(expected[chosen].1, *divisor);
        let keeps_token = match fault {
            Fault::EmptyTurnKeepsToken => taken.is_empty(),
            Fault::TurnKeepsToken => true,
            _ => false,
        };
        let token = match self.keys[chosen].token() {
            Some(token) if keeps_token => token,
            _ => *next,
        };
        self.keys[chosen].hold(token, taken.clone());
        Some(Answer::Taken(chosen, taken))
    }
}

impl Key {
    fn open(&mut self, token: Token, fault: Fault) -> Option<Answer> {
        if self.reserved.is_some() && fault != Fault::OpenOverwrites {
            return None;
        }
        self.registered = true;
        self.hold(token, vec![]);
        Some(Answer::Done)
    }

    fn take(&mut self, most: usize, divisor: usize) -> Vec<Job> {
        let share = match divisor {
            0 => most,
            _ => self.waiting.len().div_ceil(divisor).max(1),
        };
        let count = most.min(share).min(self.waiting.len());
        self.waiting.drain(..count).collect()
    }

    fn hold(&mut self, token: Token, jobs: Vec<Job>) {
        self.reserved = Some(Reserved { token, jobs });
    }

    fn give_back(
        &mut self,
        token: Token,
        jobs: usize,
        count: usize,
        fault: Fault,
    ) -> Option<Answer> {
        let reserved = self.reserved.as_mut()?;
        let has_token = reserved.token == token || fault == Fault::GiveBackChecksNoToken;
        let has_length = reserved.jobs.len() == jobs || fault == Fault::GiveBackChecksNoLength;
        (has_token && has_length).then(|| {
            let left = reserved.jobs.len().saturating_sub(count);
            let back: Vec<Job> = reserved.jobs.drain(left..).collect();
            self.waiting.splice(0..0, back);
            Answer::Done
        })
    }

    fn end(&mut self, ended: usize, fault: Fault) {
        let reserved = self.reserved.take().expect("checked by the caller");
        let rest = reserved.jobs.into_iter().skip(ended);
        let place = match fault {
            Fault::GiveBackToTail => self.waiting.len(),
            _ => 0,
        };
        self.waiting.splice(place..place, rest);
        self.registered = false;
    }

    fn holds(&self, token: Token, jobs: usize) -> bool {
        let as_known = |reserved: &Reserved| reserved.token == token && reserved.jobs.len() == jobs;
        self.reserved.as_ref().is_some_and(as_known)
    }

    /// The token of the reserved list.
    pub fn token(&self) -> Option<Token> {
        self.reserved.as_ref().map(|reserved| reserved.token)
    }

    /// The jobs in the reserved list.
    pub fn reserved_jobs(&self) -> &[Job] {
        self.reserved
            .as_ref()
            .map_or(&[], |reserved| &reserved.jobs)
    }
}

impl Command {
    /// Every token it names.
    pub fn each_token(&mut self, visit: &mut impl FnMut(&mut Token)) {
        match self {
            Command::Open { token, .. }
            | Command::Reclaim { token, .. }
            | Command::GiveBack { token, .. } => visit(token),
            Command::Turn { next, expected, .. } => {
                visit(next);
                expected.iter_mut().for_each(|(token, _)| visit(token));
            }
        }
    }
}

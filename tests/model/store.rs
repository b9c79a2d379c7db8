//! The model of the store: a queue of some keys, one slot, and the scripts as pure functions. With a fault it errs in
//! one way.

use std::collections::BTreeSet;

pub type Token = u16;

/// What lies in a list or a set: a job with its history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Job {
    pub name: u16,
    /// Which run comes next.
    pub attempt: u8,
    pub crashes: u8,
}

/// Where a job goes that was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fate {
    Later(Job),
    Dead(Job),
    /// It has not ended.
    Head(Job),
}

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
    pub delayed: BTreeSet<Job>,
    pub dead: BTreeSet<Job>,
    pub processed: usize,
    pub failed: usize,
    pub reclaimed: usize,
    pub retried: usize,
    pub buried: usize,
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
        fates: Vec<Fate>,
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
        fates: Vec<Fate>,
    },
    /// A keeper's: these jobs are due.
    Due {
        key: usize,
        jobs: Vec<Job>,
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
    /// Scripts trim first, and the server stops before they add what was not done to where it goes.
    TrimBeforeAdd,
    /// A turn adds what was not done before it looks at the list.
    AddsUnchecked,
    /// A reclaim takes for done what had failed.
    FailuresAreForgotten,
    /// A reclaim marks the job behind the one in hand.
    MarksTheNextJob,
    /// Runs are not counted.
    RunsAreNotCounted,
    /// A leaving worker tells again of failures that its last turn has told of.
    LeaveRepeatsFates,
    /// A job that is due stays among the delayed ones, too.
    DueIsKept,
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
                fates,
            } => {
                let key = &mut self.keys[*key];
                let unnamed = fault == Fault::ReclaimNamesNoToken && key.reserved.is_some();
                (key.holds(*token, *jobs) || unnamed).then(|| {
                    key.processed += ended;
                    key.failed += failed;
                    key.reclaimed += reclaimed;
                    key.end(*ended, fates, fault);
                    Answer::Done
                })
            }
            Command::Due { key, jobs } => {
                self.keys[*key].move_due(jobs, fault);
                Some(Answer::Done)
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
            fates,
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
            if fault == Fault::AddsUnchecked {
                self.keys[*held].send(fates, fault);
            }
            return None;
        }
        self.keys[*held].processed += jobs;
        self.keys[*held].failed += failed;
        self.keys[*held].send(fates, fault);
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

    /// Adds jobs to where they go; those for the head are left.
    fn send(&mut self, fates: &[Fate], fault: Fault) {
        for fate in fates {
            match fate {
                Fate::Later(_) => self.retried += 1,
                Fate::Dead(_) => self.buried += 1,
                Fate::Head(_) => {}
            }
            match fate {
                _ if fault == Fault::TrimBeforeAdd => {}
                Fate::Later(job) => drop(self.delayed.insert(*job)),
                Fate::Dead(job) => drop(self.dead.insert(*job)),
                Fate::Head(_) => {}
            }
        }
    }

    fn move_due(&mut self, jobs: &[Job], fault: Fault) {
        for job in jobs {
            if self.delayed.contains(job) {
                self.waiting.push(*job);
                if fault != Fault::DueIsKept {
                    self.delayed.remove(job);
                }
            }
        }
    }

    fn end(&mut self, ended: usize, fates: &[Fate], fault: Fault) {
        self.send(fates, fault);
        let reserved = self.reserved.take().expect("checked by the caller");
        let marked = fates.iter().filter_map(|fate| match fate {
            Fate::Head(job) => Some(*job),
            _ => None,
        });
        let marked: Vec<Job> = marked.collect();
        let rest = reserved.jobs.into_iter().skip(ended + marked.len());
        let rest = marked.into_iter().chain(rest);
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
            Command::Due { .. } => {}
            Command::Turn { next, expected, .. } => {
                visit(next);
                expected.iter_mut().for_each(|(token, _)| visit(token));
            }
        }
    }
}

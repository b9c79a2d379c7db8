//! The model of the store: one queue, one slot, and the scripts as pure functions. With a fault it errs in one way.

pub type Token = u16;
pub type Job = u16;

/// What lies in the store for one queue and one slot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Store {
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
        token: Token,
    },
    Turn {
        token: Token,
        jobs: usize,
        next: Token,
        most: usize,
        divisor: usize,
        failed: usize,
    },
    Reclaim {
        token: Token,
        jobs: usize,
        ended: usize,
        failed: usize,
        reclaimed: usize,
    },
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
    /// A reclaim drops from whatever list it finds.
    ReclaimNamesNoToken,
    /// The list is opened although it is there.
    OpenOverwrites,
    /// Progress is believed whatever reservation it was noted for.
    ProgressOfAnyToken,
    /// After a broken connection the worker takes the turn for not run, with a new token.
    NoLookAfterBreak,
    /// After a broken connection a leaving worker does not think of the turn that may have run.
    LeaveForgetsTurn,
    /// What was not begun goes to the tail.
    GiveBackToTail,
}

impl Store {
    /// Runs a script: the jobs it reserved, nothing, or `None` for LOST.
    pub fn run(&mut self, command: &Command, fault: Fault) -> Option<Vec<Job>> {
        match *command {
            Command::Open { token } => self.open(token, fault),
            Command::Turn {
                token,
                jobs,
                next,
                most,
                divisor,
                failed,
            } => {
                let held = self.holds(token, jobs)
                    || match fault {
                        Fault::TurnChecksNothing => self.reserved.is_some(),
                        Fault::TurnKeepsToken => self.token() == Some(token),
                        _ => false,
                    };
                held.then(|| {
                    (self.processed, self.failed) = (self.processed + jobs, self.failed + failed);
                    self.reserve(next, most, divisor, fault)
                })
            }
            Command::Reclaim {
                token,
                jobs,
                ended,
                failed,
                reclaimed,
            } => {
                let unnamed = fault == Fault::ReclaimNamesNoToken && self.reserved.is_some();
                (self.holds(token, jobs) || unnamed).then(|| {
                    self.processed += ended;
                    self.failed += failed;
                    self.reclaimed += reclaimed;
                    self.give_back(ended, fault);
                    vec![]
                })
            }
        }
    }

    fn open(&mut self, token: Token, fault: Fault) -> Option<Vec<Job>> {
        if self.reserved.is_some() && fault != Fault::OpenOverwrites {
            return None;
        }
        self.registered = true;
        self.reserved = Some(Reserved {
            token,
            jobs: vec![],
        });
        Some(vec![])
    }

    fn reserve(&mut self, next: Token, most: usize, divisor: usize, fault: Fault) -> Vec<Job> {
        let share = match divisor {
            0 => most,
            _ => self.waiting.len().div_ceil(divisor).max(1),
        };
        let count = most.min(share).min(self.waiting.len());
        let jobs: Vec<Job> = self.waiting.drain(..count).collect();
        let keeps_token = match fault {
            Fault::EmptyTurnKeepsToken => jobs.is_empty(),
            Fault::TurnKeepsToken => true,
            _ => false,
        };
        let token = match &self.reserved {
            Some(reserved) if keeps_token => reserved.token,
            _ => next,
        };
        self.reserved = Some(Reserved {
            token,
            jobs: jobs.clone(),
        });
        jobs
    }

    fn give_back(&mut self, ended: usize, fault: Fault) {
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
            Command::Open { token } | Command::Reclaim { token, .. } => visit(token),
            Command::Turn { token, next, .. } => {
                visit(token);
                visit(next);
            }
        }
    }
}

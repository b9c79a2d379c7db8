//! The model of everything else: a worker and its successors, step by atomic step, and the commands of broken
//! connections and killed workers that may still run. What must hold in every world is `check`.

use std::collections::BTreeSet;

use crate::store::{Command, Fault, Job, Store, Token};

/// A worker's reservation, as far as it knows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Held {
    token: Token,
    jobs: usize,
}

/// How far the job in hand is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    /// Not begun.
    Before,
    /// The scoreboard says which reservation this is, and the job may take effect.
    Begun,
    /// It took effect; the scoreboard does not say so yet.
    Effective,
}

/// The life of the process in the slot, from one atomic step to the next.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Worker {
    /// A successor begins: it looks at the list's first element.
    Looks,
    /// It saw this token, and now asks for the length.
    Saw(Token),
    /// It sent a reclaim.
    Reclaims(Command),
    /// Nothing is there: it opens the list.
    Opens,
    /// It sent the open.
    Opening(Command),
    /// It runs its reservation, `ended` of it done.
    Runs {
        token: Token,
        jobs: Vec<Job>,
        ended: usize,
        step: Step,
    },
    /// It sent a turn.
    Turns { held: Held, next: Token },
    /// The turn's answer will not come, or was LOST: it looks at the list.
    Wonders { held: Held, next: Token, lost: bool },
    /// It sent its farewell.
    Leaves {
        held: Held,
        ended: usize,
        next: Option<Token>,
        repeated: bool,
    },
    /// Its farewell was LOST: it looks at the list.
    Missed {
        held: Held,
        next: Option<Token>,
        repeated: bool,
    },
    /// LOST, although nobody took its list over: that must not happen here.
    Lost,
}

/// Everything: the store, the commands that may still run, the worker, its scoreboard, and what has happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    store: Store,
    late: BTreeSet<Command>,
    worker: Worker,
    /// The progress word: token and count of ended jobs.
    word: Option<(Token, usize)>,
    /// How often each job has run.
    runs: Vec<u8>,
    pushed: usize,
    breaks: usize,
    kills: usize,
    leaves: usize,
}

/// How much may happen.
#[derive(Clone, Copy)]
pub struct Bounds {
    pub jobs: usize,
    pub breaks: usize,
    pub kills: usize,
    pub leaves: usize,
}

const MOST: usize = 2;

impl World {
    pub fn new(bounds: Bounds) -> Self {
        Self {
            store: Store::default(),
            late: BTreeSet::new(),
            worker: Worker::Looks,
            word: None,
            runs: vec![0; bounds.jobs],
            pushed: 0,
            breaks: 0,
            kills: 0,
            leaves: 0,
        }
    }

    /// All worlds that may come next.
    pub fn successors(&self, bounds: Bounds, fault: Fault) -> Vec<World> {
        let mut next = Vec::new();
        if self.pushed < bounds.jobs {
            next.push(self.with(|world| {
                world.store.waiting.push(world.pushed as Job);
                world.pushed += 1;
            }));
        }
        for command in &self.late {
            next.push(self.with(|world| {
                world.late.remove(command);
                world.store.run(command, fault);
            }));
        }
        if self.kills < bounds.kills {
            next.push(self.with(|world| {
                world.kills += 1;
                world.late.extend(self.command());
                world.worker = Worker::Looks;
            }));
        }
        if let Some(command) = self.command() {
            next.push(self.with(|world| {
                let answer = world.store.run(&command, fault);
                world.answered(answer);
            }));
            if self.breaks < bounds.breaks {
                next.push(self.with(|world| {
                    world.breaks += 1;
                    world.late.insert(command);
                    world.broken(fault);
                }));
            }
        } else {
            self.act(bounds, fault, &mut next);
        }
        next
    }

    fn with(&self, change: impl FnOnce(&mut World)) -> World {
        let mut world = self.clone();
        change(&mut world);
        world
    }

    /// The command whose answer the worker awaits.
    fn command(&self) -> Option<Command> {
        match &self.worker {
            Worker::Reclaims(command) | Worker::Opening(command) => Some(command.clone()),
            Worker::Turns { held, next } => Some(Command::Turn {
                token: held.token,
                jobs: held.jobs,
                next: *next,
                most: MOST,
                divisor: 0,
                failed: 0,
            }),
            Worker::Leaves { held, ended, .. } => Some(reclaim(held.token, held.jobs, *ended)),
            _ => None,
        }
    }

    fn answered(&mut self, answer: Option<Vec<Job>>) {
        self.worker = match (self.worker.clone(), answer) {
            (Worker::Reclaims(_), Some(_)) => Worker::Opens,
            (Worker::Reclaims(_) | Worker::Opening(_), None) => Worker::Looks,
            (Worker::Opening(Command::Open { token }), Some(jobs)) => runs(token, jobs),
            (Worker::Turns { next, .. }, Some(jobs)) => runs(next, jobs),
            (Worker::Turns { held, next }, None) => Worker::Wonders {
                held,
                next,
                lost: true,
            },
            (Worker::Leaves { .. }, Some(_)) => Worker::Looks,
            (
                Worker::Leaves {
                    held,
                    next,
                    repeated,
                    ..
                },
                None,
            ) => Worker::Missed {
                held,
                next,
                repeated,
            },
            (worker, _) => unreachable!("{worker:?} awaits no answer"),
        };
    }

    /// The connection broke before the answer came.
    fn broken(&mut self, fault: Fault) {
        self.worker = match self.worker.clone() {
            Worker::Reclaims(_) => Worker::Looks,
            Worker::Opening(_) => Worker::Opens,
            Worker::Turns { held, .. } if fault == Fault::NoLookAfterBreak => Worker::Turns {
                held,
                next: self.fresh_token(),
            },
            Worker::Turns { held, next } => Worker::Wonders {
                held,
                next,
                lost: false,
            },
            Worker::Leaves {
                held, ended, next, ..
            } => Worker::Leaves {
                held,
                ended,
                next,
                repeated: true,
            },
            worker => unreachable!("{worker:?} awaits no answer"),
        };
    }

    /// What the worker does by itself.
    fn act(&self, bounds: Bounds, fault: Fault, next: &mut Vec<World>) {
        let becomes = |worker: Worker| self.with(|world| world.worker = worker);
        match &self.worker {
            Worker::Looks => next.push(becomes(match self.store.token() {
                None => Worker::Opens,
                Some(token) => Worker::Saw(token),
            })),
            Worker::Saw(token) => next.push(becomes(self.plan(*token, fault))),
            Worker::Opens => next.push(becomes(Worker::Opening(Command::Open {
                token: self.fresh_token(),
            }))),
            Worker::Runs {
                token, jobs, ended, ..
            } => {
                next.push(self.run_on(*token, jobs, *ended));
                next.extend(self.leave(bounds));
            }
            Worker::Wonders {
                held,
                next: new,
                lost,
            } => {
                next.push(becomes(self.look(held, *new, *lost)));
                // Told to leave, a worker does not look: the farewell finds out.
                if !lost && self.leaves < bounds.leaves {
                    next.push(self.with(|world| {
                        world.leaves += 1;
                        world.worker = Worker::Leaves {
                            held: held.clone(),
                            ended: held.jobs,
                            next: (fault != Fault::LeaveForgetsTurn).then_some(*new),
                            repeated: false,
                        };
                    }));
                }
            }
            Worker::Missed {
                held,
                next: new,
                repeated,
            } => next.push(becomes(self.look_after_farewell(held, *new, *repeated))),
            _ => {}
        }
    }

    /// The reclaim of a list that began with this token when it was seen.
    fn plan(&self, token: Token, fault: Fault) -> Worker {
        let jobs = self.store.reserved_jobs().len();
        let ended = match self.word {
            Some((noted, ended)) if noted == token || fault == Fault::ProgressOfAnyToken => ended,
            _ => 0,
        };
        let ended = if ended > jobs { 0 } else { ended };
        Worker::Reclaims(reclaim(token, jobs, ended))
    }

    /// One step of the job in hand, or the next turn when none is left.
    fn run_on(&self, token: Token, jobs: &[Job], done: usize) -> World {
        self.with(|world| {
            let Worker::Runs { ended, step, .. } = &mut world.worker else {
                unreachable!("it runs")
            };
            let Some(&job) = jobs.get(done) else {
                let held = Held {
                    token,
                    jobs: jobs.len(),
                };
                let next = self.fresh_token();
                world.worker = Worker::Turns { held, next };
                return;
            };
            match *step {
                Step::Before => {
                    *step = Step::Begun;
                    world.word = Some((token, done));
                }
                Step::Begun => {
                    *step = Step::Effective;
                    world.runs[usize::from(job)] += 1;
                }
                Step::Effective => {
                    (*step, *ended) = (Step::Before, done + 1);
                    world.word = Some((token, done + 1));
                }
            }
        })
    }

    /// Between two jobs a worker may be told to leave.
    fn leave(&self, bounds: Bounds) -> Option<World> {
        let Worker::Runs {
            token,
            jobs,
            ended,
            step: Step::Before,
        } = &self.worker
        else {
            return None;
        };
        (self.leaves < bounds.leaves).then(|| {
            self.with(|world| {
                world.leaves += 1;
                world.worker = Worker::Leaves {
                    held: Held {
                        token: *token,
                        jobs: jobs.len(),
                    },
                    ended: *ended,
                    next: None,
                    repeated: false,
                };
            })
        })
    }

    fn look(&self, held: &Held, next: Token, lost: bool) -> Worker {
        match self.store.token() {
            Some(token) if token == next => runs(next, self.store.reserved_jobs().to_vec()),
            Some(token) if token == held.token && !lost => Worker::Turns {
                held: held.clone(),
                next,
            },
            _ => Worker::Lost,
        }
    }

    fn look_after_farewell(&self, held: &Held, next: Option<Token>, repeated: bool) -> Worker {
        match self.store.token() {
            Some(token) if Some(token) == next => Worker::Leaves {
                held: Held {
                    token,
                    jobs: self.store.reserved_jobs().len(),
                },
                ended: 0,
                next: None,
                repeated: false,
            },
            token if token != Some(held.token) && repeated => Worker::Looks,
            _ => Worker::Lost,
        }
    }

    /// A token that nothing in this world knows.
    fn fresh_token(&self) -> Token {
        self.tokens().last().map_or(0, |token| token + 1)
    }

    /// What must hold in every world.
    pub fn check(&self) -> Result<(), String> {
        if self.worker == Worker::Lost {
            return Err("a list was LOST that nobody took over".into());
        }
        let mut present: Vec<Job> = self.store.reserved_jobs().to_vec();
        present.extend(&self.store.waiting);
        if !present.is_sorted_by(|one, other| one < other) {
            return Err("a job is twice in the lists, or out of order".into());
        }
        for job in 0..self.pushed {
            if self.runs[job] == 0 && !present.contains(&(job as Job)) {
                return Err(format!("job {job} is lost"));
            }
        }
        if self.store.processed + present.len() != self.pushed {
            return Err("a job is not settled once".into());
        }
        if self.runs.windows(2).any(|pair| pair[0] == 0 && pair[1] > 0) {
            return Err("a job ran before an older one".into());
        }
        let again: u8 = self.runs.iter().map(|runs| runs.saturating_sub(1)).sum();
        if usize::from(again) > self.kills {
            return Err("more jobs ran twice than workers were killed".into());
        }
        Ok(())
    }
}

fn runs(token: Token, jobs: Vec<Job>) -> Worker {
    Worker::Runs {
        token,
        jobs,
        ended: 0,
        step: Step::Before,
    }
}

fn reclaim(token: Token, jobs: usize, ended: usize) -> Command {
    Command::Reclaim {
        token,
        jobs,
        ended,
        failed: 0,
        reclaimed: 0,
    }
}

// Only whether two tokens are the same matters, so worlds that differ in their numbers are one.

impl World {
    fn tokens(&self) -> BTreeSet<Token> {
        let mut tokens = BTreeSet::new();
        self.clone().each_token(&mut |token| {
            tokens.insert(*token);
        });
        tokens
    }

    /// The same world with its tokens numbered from 0.
    pub fn renumbered(mut self) -> World {
        let numbers: Vec<Token> = self.tokens().into_iter().collect();
        self.each_token(&mut |token| {
            *token = numbers.binary_search(token).expect("it is among them") as Token;
        });
        self
    }

    fn each_token(&mut self, visit: &mut impl FnMut(&mut Token)) {
        if let Some(reserved) = &mut self.store.reserved {
            visit(&mut reserved.token);
        }
        if let Some((token, _)) = &mut self.word {
            visit(token);
        }
        let late = std::mem::take(&mut self.late);
        self.late = late
            .into_iter()
            .map(|mut command| {
                command.each_token(visit);
                command
            })
            .collect();
        match &mut self.worker {
            Worker::Saw(token) | Worker::Runs { token, .. } => visit(token),
            Worker::Reclaims(command) | Worker::Opening(command) => command.each_token(visit),
            Worker::Turns { held, next } | Worker::Wonders { held, next, .. } => {
                visit(&mut held.token);
                visit(next);
            }
            Worker::Leaves { held, next, .. } | Worker::Missed { held, next, .. } => {
                visit(&mut held.token);
                next.iter_mut().for_each(visit);
            }
            Worker::Looks | Worker::Opens | Worker::Lost => {}
        }
    }
}

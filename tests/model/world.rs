//! The model of everything else: a worker and its successors, step by atomic step, its control thread, somebody who
//! takes lists over, and the commands of broken connections and killed workers that may still run. `laws` says what
//! must hold in every world.

mod laws;
mod tokens;

use std::collections::BTreeSet;

use crate::store::{Answer, Command, Fate, Fault, Job, Store, Token};

/// The worker's lists as far as it knows. Only the one of the key held has jobs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Held {
    tokens: Vec<Token>,
    key: usize,
    jobs: usize,
    /// Jobs behind those that it gave up, and that may be in the list still.
    given_up: usize,
    /// Where those go that were not done.
    fates: Vec<Fate>,
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
    /// It failed; the scoreboard does not say so yet.
    Failed,
}

/// The life of the process in the slot, from one atomic step to the next.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Worker {
    /// A successor begins: it looks at the first element of this key's list.
    Looks(usize),
    /// It saw this token, and now asks for the length.
    Saw(usize, Token),
    /// It sent a reclaim.
    Reclaims(usize, Command),
    /// Nothing is there: it opens the lists, and has opened the first ones.
    Opens(Vec<Token>),
    /// It sent an open.
    Opening(Vec<Token>, Command),
    /// It runs its reservation, `ended` of it done.
    Runs {
        held: Held,
        jobs: Vec<Job>,
        ended: usize,
        step: Step,
    },
    /// It sent what gives back the jobs that it gave up; then it goes on, or leaves with so much ended.
    Finishes { held: Held, leaves: Option<usize> },
    /// That was LOST: it looks at the list's length.
    Measures { held: Held, leaves: Option<usize> },
    /// It sent a turn.
    Turns { held: Held, next: Token },
    /// The turn's answer will not come, or was LOST: it looks at the lists.
    Wonders { held: Held, next: Token, lost: bool },
    /// It sent its farewell to the list that holds jobs.
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
    /// It sent its farewell to the list of another key.
    Closes { held: Held, key: usize },
    /// LOST.
    Lost,
}

/// Everything: the store, the commands that may still run, the worker, its scoreboard, and what has happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    store: Store,
    late: BTreeSet<Command>,
    worker: Worker,
    /// The progress word: token and, of each job that has ended, whether it was done.
    word: Option<(Token, Vec<bool>)>,
    /// What each job has been through.
    lives: Vec<Life>,
    /// The key of each job.
    pushed: Vec<usize>,
    happened: Bounds,
    /// Jobs that were taken from a worker's hands.
    stolen: usize,
}

/// What a job has been through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Life {
    runs: u8,
    /// Those of them that failed.
    failures: u8,
    /// Deaths of workers and scripts that had it in hand, by what the scoreboard said.
    deaths: u8,
}

/// How much may happen, or has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Bounds {
    pub keys: usize,
    pub jobs: usize,
    /// Connections that break.
    pub breaks: usize,
    /// Workers that are killed.
    pub kills: usize,
    /// Scripts that die with a job.
    pub deaths: usize,
    /// Jobs that fail.
    pub fails: usize,
    /// Workers that are told to leave.
    pub leaves: usize,
    /// Times that jobs are given back behind the job in hand.
    pub gives: usize,
    /// Lists that somebody else takes over.
    pub thefts: usize,
}

const MOST: usize = 2;

/// Runs of a job before it is buried.
const MAX_ATTEMPTS: u8 = 2;

/// Deaths with it in hand before it is buried.
const MAX_CRASHES: u8 = 2;

impl World {
    pub fn new(bounds: Bounds) -> Self {
        Self {
            store: Store::new(bounds.keys),
            late: BTreeSet::new(),
            worker: Worker::Looks(0),
            word: None,
            lives: vec![Life::default(); bounds.jobs],
            pushed: vec![],
            happened: Bounds::default(),
            stolen: 0,
        }
    }

    /// All worlds that may come next.
    pub fn successors(&self, bounds: Bounds, fault: Fault) -> Vec<World> {
        let mut next = Vec::new();
        if self.pushed.len() < bounds.jobs {
            next.extend((0..bounds.keys).map(|key| self.with(|world| world.push(key))));
        }
        for command in &self.late {
            next.push(self.with(|world| {
                world.late.remove(command);
                world.store.run(command, fault);
            }));
        }
        if self.happened.kills < bounds.kills {
            next.push(self.with(|world| {
                world.happened.kills += 1;
                world.late.extend(self.command());
                world.worker = Worker::Looks(0);
                if let Some(job) = self.in_hand() {
                    world.life(job).deaths += 1;
                }
            }));
        }
        next.extend(self.due_moves(fault));
        if self.happened.thefts < bounds.thefts {
            next.extend((0..bounds.keys).filter_map(|key| self.theft(key, fault)));
        }
        if let Some(command) = self.command() {
            next.push(self.with(|world| {
                let answer = world.store.run(&command, fault);
                world.answered(answer);
            }));
            if self.happened.breaks < bounds.breaks {
                next.push(self.with(|world| {
                    world.happened.breaks += 1;
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

    fn push(&mut self, key: usize) {
        let job = Job {
            name: self.pushed.len() as u16,
            attempt: 1,
            crashes: 0,
        };
        self.store.keys[key].waiting.push(job);
        self.pushed.push(key);
    }

    fn life(&mut self, job: Job) -> &mut Life {
        &mut self.lives[usize::from(job.name)]
    }

    /// The job that the scoreboard says is in hand.
    fn in_hand(&self) -> Option<Job> {
        let (token, ended) = self.word.as_ref()?;
        let mut lists = self.store.keys.iter();
        let list = lists.find(|key| key.token() == Some(*token) && !key.reserved_jobs().is_empty());
        list?.reserved_jobs().get(ended.len()).copied()
    }

    /// Any delayed job may be the next whose time has come; some keeper moves it.
    fn due_moves(&self, fault: Fault) -> Vec<World> {
        let keys = self.store.keys.iter().enumerate();
        let due = keys.flat_map(|(key, list)| list.delayed.iter().map(move |job| (key, *job)));
        due.map(|(key, job)| {
            let jobs = vec![job];
            self.with(|world| drop(world.store.run(&Command::Due { key, jobs }, fault)))
        })
        .collect()
    }

    /// Somebody who cannot see the scoreboard reclaims a list, although its worker lives.
    fn theft(&self, key: usize, fault: Fault) -> Option<World> {
        let token = self.store.keys[key].token()?;
        let jobs = self.store.keys[key].reserved_jobs().len();
        Some(self.with(|world| {
            world.happened.thefts += 1;
            world.stolen += jobs;
            world
                .store
                .run(&reclaim(key, token, jobs, 0, vec![]), fault);
        }))
    }

    /// The command whose answer the worker awaits.
    fn command(&self) -> Option<Command> {
        match &self.worker {
            Worker::Reclaims(_, command) | Worker::Opening(_, command) => Some(command.clone()),
            Worker::Turns { held, next } => Some(Command::Turn {
                held: held.key,
                jobs: held.jobs,
                next: *next,
                divisor: 0,
                failed: held.fates.len(),
                fates: held.fates.clone(),
                expected: held.tokens.iter().map(|token| (*token, MOST)).collect(),
            }),
            Worker::Finishes { held, .. } => Some(held.give_back()),
            Worker::Leaves { held, ended, .. } => Some(reclaim(
                held.key,
                held.token(),
                held.jobs,
                *ended,
                held.fates.clone(),
            )),
            Worker::Closes { held, key } => Some(reclaim(*key, held.tokens[*key], 0, 0, vec![])),
            _ => None,
        }
    }

    fn answered(&mut self, answer: Option<Answer>) {
        let keys = self.store.keys.len();
        self.worker = match (self.worker.clone(), answer) {
            (Worker::Reclaims(key, _), Some(_)) => after_key(key, keys),
            (Worker::Reclaims(key, _), None) => Worker::Looks(key),
            (Worker::Opening(mut tokens, Command::Open { token, .. }), Some(_)) => {
                tokens.push(token);
                match tokens.len() == keys {
                    true => runs(0, tokens, vec![]),
                    false => Worker::Opens(tokens),
                }
            }
            (Worker::Opening(..), None) => Worker::Looks(0),
            (Worker::Turns { held, next }, Some(Answer::Taken(key, jobs))) => {
                held.taken(next, key, jobs)
            }
            (Worker::Turns { held, next }, None) => Worker::Wonders {
                held,
                next,
                lost: true,
            },
            (Worker::Finishes { held, leaves }, Some(_)) => self.finished(held, leaves),
            (Worker::Finishes { held, leaves }, None) => Worker::Measures { held, leaves },
            (Worker::Leaves { held, .. }, Some(_)) => close(held, 0),
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
            // One that is not as it was left is somebody else's by now.
            (Worker::Closes { held, key }, _) => close(held, key + 1),
            (worker, _) => unreachable!("{worker:?} awaits no answer"),
        };
    }

    /// The connection broke before the answer came.
    fn broken(&mut self, fault: Fault) {
        self.worker = match self.worker.clone() {
            Worker::Reclaims(key, _) => Worker::Looks(key),
            Worker::Opening(tokens, _) => Worker::Opens(tokens),
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
            worker @ (Worker::Finishes { .. } | Worker::Closes { .. }) => worker,
            worker => unreachable!("{worker:?} awaits no answer"),
        };
    }

    /// What the worker does by itself.
    fn act(&self, bounds: Bounds, fault: Fault, next: &mut Vec<World>) {
        let becomes = |worker: Worker| self.with(|world| world.worker = worker);
        match &self.worker {
            Worker::Looks(key) => next.push(becomes(match self.store.keys[*key].token() {
                None => after_key(*key, bounds.keys),
                Some(token) => Worker::Saw(*key, token),
            })),
            Worker::Saw(key, token) => next.push(becomes(self.plan(*key, *token, fault))),
            Worker::Opens(tokens) => {
                let command = Command::Open {
                    key: tokens.len(),
                    token: self.fresh_token(),
                };
                next.push(becomes(Worker::Opening(tokens.clone(), command)));
            }
            Worker::Runs {
                held, jobs, ended, ..
            } => {
                next.push(self.run_on(held, jobs, *ended, fault));
                next.extend(self.fail(bounds));
                next.extend(self.die(bounds));
                next.extend(self.leave(bounds));
                if self.happened.gives < bounds.gives {
                    self.give_back(fault, next);
                }
            }
            Worker::Measures { held, leaves } => {
                next.push(becomes(self.measure(held, *leaves)));
            }
            Worker::Wonders {
                held,
                next: new,
                lost,
            } => {
                next.push(becomes(self.look(held, *new, *lost, fault)));
                // Told to leave, a worker does not look: the farewell finds out.
                if !lost && self.happened.leaves < bounds.leaves {
                    next.push(self.with(|world| {
                        world.happened.leaves += 1;
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
            } => next.push(becomes(
                self.look_after_farewell(held, *new, *repeated, fault),
            )),
            // Somebody else took a list over: it begins anew.
            Worker::Lost => next.push(becomes(Worker::Looks(0))),
            _ => {}
        }
    }

    /// The reclaim of a list that began with this token when it was seen.
    fn plan(&self, key: usize, token: Token, fault: Fault) -> Worker {
        let jobs = self.store.keys[key].reserved_jobs();
        let ended: &[bool] = match &self.word {
            Some((noted, ended)) if *noted == token || fault == Fault::ProgressOfAnyToken => ended,
            _ => return Worker::Reclaims(key, reclaim(key, token, jobs.len(), 0, vec![])),
        };
        let ended = if ended.len() > jobs.len() { &[] } else { ended };
        let not_done = jobs.iter().zip(ended).filter(|(_, is_done)| !**is_done);
        let mut fates: Vec<Fate> = not_done.map(|(job, _)| failed(*job, fault)).collect();
        if fault == Fault::FailuresAreForgotten {
            fates.clear();
        }
        let in_hand = match fault {
            Fault::MarksTheNextJob => jobs.get(ended.len() + 1),
            _ => jobs.get(ended.len()),
        };
        let crashed = in_hand.map(|job| crashed(*job));
        let is_buried = matches!(crashed, Some(Fate::Dead(_)));
        fates.extend(crashed);
        let ended = ended.len() + usize::from(is_buried);
        Worker::Reclaims(key, reclaim(key, token, jobs.len(), ended, fates))
    }

    /// One step of the job in hand, or the next turn when none is left.
    fn run_on(&self, held: &Held, jobs: &[Job], done: usize, fault: Fault) -> World {
        self.with(|world| {
            let Some(&job) = jobs.get(done) else {
                world.worker = match held.given_up {
                    0 => self.turn(held.clone()),
                    _ => Worker::Finishes {
                        held: held.clone(),
                        leaves: None,
                    },
                };
                return;
            };
            let Worker::Runs {
                held, ended, step, ..
            } = &mut world.worker
            else {
                unreachable!("it runs")
            };
            match *step {
                Step::Before => {
                    *step = Step::Begun;
                    // Before the first job it is made new; later it says this already.
                    if done == 0 {
                        world.word = Some((held.token(), vec![]));
                    }
                }
                Step::Begun => {
                    *step = Step::Effective;
                    world.life(job).runs += 1;
                }
                Step::Effective | Step::Failed => {
                    let is_done = *step == Step::Effective;
                    if !is_done {
                        held.fates.push(failed(job, fault));
                    }
                    (*step, *ended) = (Step::Before, done + 1);
                    let (_, ended) = world.word.as_mut().expect("written before the first job");
                    ended.push(is_done);
                }
            }
        })
    }

    /// Instead of taking effect the job in hand fails.
    fn fail(&self, bounds: Bounds) -> Option<World> {
        let (_, job) = self.begun(Step::Begun)?;
        (self.happened.fails < bounds.fails).then(|| {
            self.with(|world| {
                world.happened.fails += 1;
                world.life(job).runs += 1;
                world.life(job).failures += 1;
                if let Worker::Runs { step, .. } = &mut world.worker {
                    *step = Step::Failed;
                }
            })
        })
    }

    /// The script dies with the job in hand, before or after that took effect; its worker gives back all that has not
    /// ended, the first of it with a mark.
    fn die(&self, bounds: Bounds) -> Option<World> {
        let (mut ended, job) = self
            .begun(Step::Begun)
            .or_else(|| self.begun(Step::Effective))?;
        let Worker::Runs { held, .. } = &self.worker else {
            unreachable!("it runs")
        };
        (self.happened.deaths < bounds.deaths).then(|| {
            self.with(|world| {
                world.happened.deaths += 1;
                world.life(job).deaths += 1;
                let mut held = held.clone();
                let crashed = crashed(job);
                ended += usize::from(matches!(crashed, Fate::Dead(_)));
                held.fates.push(crashed);
                world.worker = self.farewell(held, ended);
            })
        })
    }

    /// How many jobs have ended and which one is in hand, if it is at this step.
    fn begun(&self, at: Step) -> Option<(usize, Job)> {
        match &self.worker {
            Worker::Runs {
                jobs, ended, step, ..
            } if *step == at => Some((*ended, jobs[*ended])),
            _ => None,
        }
    }

    fn farewell(&self, held: Held, ended: usize) -> Worker {
        match held.given_up {
            0 => self.finished(held, Some(ended)),
            _ => Worker::Finishes {
                held,
                leaves: Some(ended),
            },
        }
    }

    fn turn(&self, held: Held) -> Worker {
        let next = self.fresh_token();
        Worker::Turns { held, next }
    }

    /// Behind a job in hand, what was not begun is given back: by the worker itself, or by its control thread on another
    /// connection, while the job goes on. The answer comes, or nobody waits for it.
    fn give_back(&self, fault: Fault, next: &mut Vec<World>) {
        let Worker::Runs {
            held,
            jobs,
            ended,
            step: Step::Begun,
        } = &self.worker
        else {
            return;
        };
        for count in 1..jobs.len() - ended {
            let mut left = held.clone();
            (left.jobs, left.given_up) = (held.jobs - count, held.given_up + count);
            let command = left.give_back();
            let becomes = |world: &mut World, held: Held, jobs: &[Job]| {
                world.happened.gives += 1;
                world.worker = Worker::Runs {
                    held,
                    jobs: jobs.to_vec(),
                    ended: *ended,
                    step: Step::Begun,
                };
            };
            let kept = &jobs[..jobs.len() - count];
            next.push(self.with(|world| {
                let answer = world.store.run(&command, fault);
                let mut held = left.clone();
                if answer.is_some() {
                    held.given_up = 0;
                }
                becomes(world, held, kept);
            }));
            next.push(self.with(|world| {
                world.late.insert(command);
                match fault {
                    Fault::GivenUpIsForgotten => {
                        left.given_up = 0;
                        becomes(world, left, kept);
                    }
                    Fault::GivenUpIsBegun => becomes(world, held.clone(), jobs),
                    _ => becomes(world, left, kept),
                }
            }));
        }
    }

    fn finished(&self, held: Held, leaves: Option<usize>) -> Worker {
        let held = Held {
            given_up: 0,
            ..held
        };
        match leaves {
            None => self.turn(held),
            Some(ended) => Worker::Leaves {
                held,
                ended,
                next: None,
                repeated: false,
            },
        }
    }

    /// How much of what was given up is in the list still.
    fn measure(&self, held: &Held, leaves: Option<usize>) -> Worker {
        let key = &self.store.keys[held.key];
        let length = key.reserved_jobs().len();
        if key.token() != Some(held.token()) || length < held.jobs {
            return Worker::Lost;
        }
        match length - held.jobs {
            0 => self.finished(held.clone(), leaves),
            given_up => Worker::Finishes {
                held: Held {
                    given_up,
                    ..held.clone()
                },
                leaves,
            },
        }
    }

    /// Between two jobs a worker may be told to leave.
    fn leave(&self, bounds: Bounds) -> Option<World> {
        let Worker::Runs {
            held,
            ended,
            step: Step::Before,
            ..
        } = &self.worker
        else {
            return None;
        };
        (self.happened.leaves < bounds.leaves).then(|| {
            self.with(|world| {
                world.happened.leaves += 1;
                world.worker = self.farewell(held.clone(), *ended);
            })
        })
    }

    /// Where the turn stands, by what the lists say.
    fn look(&self, held: &Held, next: Token, lost: bool, fault: Fault) -> Worker {
        match self.store.keys[held.key].token() {
            Some(token) if token == next => {
                let (key, jobs) = self.found(held, next, fault);
                held.clone().taken(next, key, jobs)
            }
            Some(token) if token == held.token() && !lost => Worker::Turns {
                held: held.clone(),
                next,
            },
            _ => Worker::Lost,
        }
    }

    /// What a turn that has run reserved.
    fn found(&self, held: &Held, next: Token, fault: Fault) -> (usize, Vec<Job>) {
        let is_chosen = |key: &usize| {
            let list = &self.store.keys[*key];
            list.token() == Some(next) && !list.reserved_jobs().is_empty()
        };
        let keys = match fault {
            Fault::LooksAtHeldOnly => held.key..held.key + 1,
            _ => 0..self.store.keys.len(),
        };
        let key = keys.into_iter().find(is_chosen).unwrap_or(held.key);
        (key, self.store.keys[key].reserved_jobs().to_vec())
    }

    fn look_after_farewell(
        &self,
        held: &Held,
        next: Option<Token>,
        repeated: bool,
        fault: Fault,
    ) -> Worker {
        match (self.store.keys[held.key].token(), next) {
            (Some(token), Some(next)) if token == next => {
                let (key, jobs) = self.found(held, next, Fault::None);
                let Worker::Runs { held: new, .. } = held.clone().taken(next, key, jobs) else {
                    unreachable!("that is what it answers")
                };
                let fates = match fault {
                    Fault::LeaveRepeatsFates => held.fates.clone(),
                    _ => vec![],
                };
                self.finished(Held { fates, ..new }, Some(0))
            }
            (token, _) if token != Some(held.token()) && repeated => close(held.clone(), 0),
            _ => Worker::Lost,
        }
    }
}

impl Held {
    fn token(&self) -> Token {
        self.tokens[self.key]
    }

    /// What gives back the jobs that were given up, if all of them are there.
    fn give_back(&self) -> Command {
        Command::GiveBack {
            key: self.key,
            token: self.token(),
            jobs: self.jobs + self.given_up,
            count: self.given_up,
        }
    }

    /// After a turn that reserved these jobs.
    fn taken(mut self, next: Token, key: usize, jobs: Vec<Job>) -> Worker {
        self.tokens[self.key] = next;
        self.tokens[key] = next;
        runs(key, self.tokens, jobs)
    }
}

fn runs(key: usize, tokens: Vec<Token>, jobs: Vec<Job>) -> Worker {
    Worker::Runs {
        held: Held {
            tokens,
            key,
            jobs: jobs.len(),
            given_up: 0,
            fates: vec![],
        },
        jobs,
        ended: 0,
        step: Step::Before,
    }
}

/// The list of this key is gone: on to the next one.
fn after_key(key: usize, keys: usize) -> Worker {
    match key + 1 < keys {
        true => Worker::Looks(key + 1),
        false => Worker::Opens(vec![]),
    }
}

/// The list held is gone; those of the other keys go one by one, from this key on.
fn close(held: Held, from: usize) -> Worker {
    match (from..held.tokens.len()).find(|key| *key != held.key) {
        Some(key) => Worker::Closes { held, key },
        None => Worker::Looks(0),
    }
}

/// The farewell to a list; a fate for the head is of a job that has not ended.
fn reclaim(key: usize, token: Token, jobs: usize, ended: usize, fates: Vec<Fate>) -> Command {
    Command::Reclaim {
        key,
        token,
        jobs,
        ended,
        failed: fates.iter().filter(is_ended).count(),
        reclaimed: 0,
        fates,
    }
}

fn is_ended(fate: &&Fate) -> bool {
    !matches!(fate, Fate::Head(_))
}

/// Where a job goes that has failed.
fn failed(job: Job, fault: Fault) -> Fate {
    let counted = match fault {
        Fault::RunsAreNotCounted => 0,
        _ => 1,
    };
    match job.attempt < MAX_ATTEMPTS {
        true => Fate::Later(Job {
            attempt: job.attempt + counted,
            ..job
        }),
        false => Fate::Dead(job),
    }
}

/// Where a job goes that took its worker or script along.
fn crashed(job: Job) -> Fate {
    let crashes = job.crashes + 1;
    let job = Job { crashes, ..job };
    match crashes < MAX_CRASHES {
        true => Fate::Head(job),
        false => Fate::Dead(job),
    }
}

//! The model of everything else: a worker and its successors, step by atomic step, its control thread, somebody who
//! takes lists over, and the commands of broken connections and killed workers that may still run. What must hold in
//! every world is `check`.

use std::collections::BTreeSet;

use crate::store::{Answer, Command, Fault, Job, Store, Token};

/// The worker's lists as far as it knows. Only the one of the key held has jobs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Held {
    tokens: Vec<Token>,
    key: usize,
    jobs: usize,
    /// Jobs behind those that it gave up, and that may be in the list still.
    given_up: usize,
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
    /// The progress word: token and count of ended jobs.
    word: Option<(Token, usize)>,
    /// How often each job has run.
    runs: Vec<u8>,
    /// The key of each job.
    pushed: Vec<usize>,
    happened: Bounds,
    /// Jobs that were taken from a worker's hands.
    stolen: usize,
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
    /// Workers that are told to leave.
    pub leaves: usize,
    /// Times that jobs are given back behind the job in hand.
    pub gives: usize,
    /// Lists that somebody else takes over.
    pub thefts: usize,
}

const MOST: usize = 2;

impl World {
    pub fn new(bounds: Bounds) -> Self {
        Self {
            store: Store::new(bounds.keys),
            late: BTreeSet::new(),
            worker: Worker::Looks(0),
            word: None,
            runs: vec![0; bounds.jobs],
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
            }));
        }
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
        let job = self.pushed.len() as Job;
        self.store.keys[key].waiting.push(job);
        self.pushed.push(key);
    }

    /// Somebody who cannot see the scoreboard reclaims a list, although its worker lives.
    fn theft(&self, key: usize, fault: Fault) -> Option<World> {
        let token = self.store.keys[key].token()?;
        let jobs = self.store.keys[key].reserved_jobs().len();
        Some(self.with(|world| {
            world.happened.thefts += 1;
            world.stolen += jobs;
            world.store.run(&reclaim(key, token, jobs, 0), fault);
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
                failed: 0,
                expected: held.tokens.iter().map(|token| (*token, MOST)).collect(),
            }),
            Worker::Finishes { held, .. } => Some(held.give_back()),
            Worker::Leaves { held, ended, .. } => {
                Some(reclaim(held.key, held.token(), held.jobs, *ended))
            }
            Worker::Closes { held, key } => Some(reclaim(*key, held.tokens[*key], 0, 0)),
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
                next.push(self.run_on(held, jobs, *ended));
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
            } => next.push(becomes(self.look_after_farewell(held, *new, *repeated))),
            // Somebody else took a list over: it begins anew.
            Worker::Lost => next.push(becomes(Worker::Looks(0))),
            _ => {}
        }
    }

    /// The reclaim of a list that began with this token when it was seen.
    fn plan(&self, key: usize, token: Token, fault: Fault) -> Worker {
        let jobs = self.store.keys[key].reserved_jobs().len();
        let ended = match self.word {
            Some((noted, ended)) if noted == token || fault == Fault::ProgressOfAnyToken => ended,
            _ => 0,
        };
        let ended = if ended > jobs { 0 } else { ended };
        Worker::Reclaims(key, reclaim(key, token, jobs, ended))
    }

    /// One step of the job in hand, or the next turn when none is left.
    fn run_on(&self, held: &Held, jobs: &[Job], done: usize) -> World {
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
            let Worker::Runs { ended, step, .. } = &mut world.worker else {
                unreachable!("it runs")
            };
            match *step {
                Step::Before => {
                    *step = Step::Begun;
                    world.word = Some((held.token(), done));
                }
                Step::Begun => {
                    *step = Step::Effective;
                    world.runs[usize::from(job)] += 1;
                }
                Step::Effective => {
                    (*step, *ended) = (Step::Before, done + 1);
                    world.word = Some((held.token(), done + 1));
                }
            }
        })
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
                world.worker = match held.given_up {
                    0 => self.finished(held.clone(), Some(*ended)),
                    _ => Worker::Finishes {
                        held: held.clone(),
                        leaves: Some(*ended),
                    },
                };
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

    fn look_after_farewell(&self, held: &Held, next: Option<Token>, repeated: bool) -> Worker {
        match (self.store.keys[held.key].token(), next) {
            (Some(token), Some(next)) if token == next => {
                let (key, jobs) = self.found(held, next, Fault::None);
                let Worker::Runs { held, .. } = held.clone().taken(next, key, jobs) else {
                    unreachable!("that is what it answers")
                };
                self.finished(held, Some(0))
            }
            (token, _) if token != Some(held.token()) && repeated => close(held.clone(), 0),
            _ => Worker::Lost,
        }
    }

    /// What must hold in every world.
    pub fn check(&self) -> Result<(), String> {
        if self.worker == Worker::Lost && self.happened.thefts == 0 {
            return Err("a list was LOST that nobody took over".into());
        }
        let mut all: Vec<Job> = Vec::new();
        for (key, list) in self.store.keys.iter().enumerate() {
            let mut present: Vec<Job> = list.reserved_jobs().to_vec();
            present.extend(&list.waiting);
            if !present.is_sorted_by(|one, other| one < other) {
                return Err("a job is twice in the lists, or out of order".into());
            }
            if list.reserved.is_some() && !list.registered {
                return Err("a reserved list is not registered".into());
            }
            let pushed = self.pushed.iter().filter(|other| **other == key).count();
            if list.processed + present.len() != pushed {
                return Err("a job is not settled once".into());
            }
            let runs: Vec<u8> = self.jobs_of(key).map(|job| self.runs[job]).collect();
            if runs.windows(2).any(|pair| pair[0] == 0 && pair[1] > 0) {
                return Err("a job ran before an older one".into());
            }
            all.extend(present);
        }
        if let Some(job) =
            (0..self.pushed.len()).find(|job| self.runs[*job] == 0 && !all.contains(&(*job as Job)))
        {
            return Err(format!("job {job} is lost"));
        }
        let again: u8 = self.runs.iter().map(|runs| runs.saturating_sub(1)).sum();
        if usize::from(again) > self.happened.kills + self.stolen {
            return Err("more jobs ran twice than workers were killed".into());
        }
        Ok(())
    }

    fn jobs_of(&self, key: usize) -> impl Iterator<Item = usize> {
        (0..self.pushed.len()).filter(move |job| self.pushed[*job] == key)
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

fn reclaim(key: usize, token: Token, jobs: usize, ended: usize) -> Command {
    Command::Reclaim {
        key,
        token,
        jobs,
        ended,
        failed: 0,
        reclaimed: 0,
    }
}

// Only whether two tokens are the same matters, so worlds that differ in their numbers are one.

impl World {
    /// A token that nothing in this world knows.
    fn fresh_token(&self) -> Token {
        self.clone().tokens().last().map_or(0, |token| token + 1)
    }

    /// The same world with its tokens numbered from 0.
    pub fn renumbered(mut self) -> World {
        let numbers = self.tokens();
        self.each_token(&mut |token| {
            *token = numbers.binary_search(token).expect("it is among them") as Token;
        });
        self
    }

    /// All of them, in order.
    fn tokens(&mut self) -> Vec<Token> {
        let mut tokens = Vec::new();
        self.each_token(&mut |token| tokens.push(*token));
        tokens.sort_unstable();
        tokens.dedup();
        tokens
    }

    fn each_token(&mut self, visit: &mut impl FnMut(&mut Token)) {
        for key in &mut self.store.keys {
            if let Some(reserved) = &mut key.reserved {
                visit(&mut reserved.token);
            }
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
            Worker::Saw(_, token) => visit(token),
            Worker::Reclaims(_, command) => command.each_token(visit),
            Worker::Opens(tokens) => tokens.iter_mut().for_each(visit),
            Worker::Opening(tokens, command) => {
                command.each_token(visit);
                tokens.iter_mut().for_each(visit);
            }
            Worker::Runs { held, .. }
            | Worker::Finishes { held, .. }
            | Worker::Measures { held, .. }
            | Worker::Closes { held, .. } => held.tokens.iter_mut().for_each(visit),
            Worker::Turns { held, next } | Worker::Wonders { held, next, .. } => {
                visit(next);
                held.tokens.iter_mut().for_each(visit);
            }
            Worker::Leaves { held, next, .. } | Worker::Missed { held, next, .. } => {
                next.iter_mut().for_each(&mut *visit);
                held.tokens.iter_mut().for_each(visit);
            }
            Worker::Looks(_) | Worker::Lost => {}
        }
    }
}

//! What runs a worker's jobs: a native consumer in this process, or a script beside it, which is started again when it
//! dies.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::sys::eventfd::EventFd;

use super::care::Care;
use super::control::Orders;
use super::life::Birth;
use super::limits::Restarts;
use super::overdue::Overdue;
use crate::config::{Pool, Program};
use crate::consumer::script::{self, BatchEnd, Death, Script, ScriptSpec, StartError, Told};
use crate::consumer::{self, Consumer, Outcome, Ran, WorkerInfo, builtin};
use crate::queue::Job;
use crate::scoreboard::{Identity, NO_SCRIPT, Page, Record};

/// What a script has for `complete` and its exit.
const COMPLETE_GRACE: Duration = Duration::from_secs(5);

/// Why a consumer does not run.
pub enum NotStarted {
    /// It cannot, in its own words: the next attempt would end in the same way.
    Refused(String),
    /// It died before it could say anything, which need not happen again.
    Died(String),
}

/// The consumer is gone.
pub struct Gone {
    /// How it went, in one line.
    pub how: String,
    /// The job that follows those that have ended had begun.
    pub has_begun: bool,
}

impl From<String> for Gone {
    fn from(how: String) -> Self {
        Self {
            how,
            has_begun: false,
        }
    }
}

/// When a job may be begun.
#[derive(Clone, Copy)]
pub enum Begin<'a> {
    /// Until an order to leave, or until this closes the gate; the others are in the store.
    WhileAllowed(&'a Overdue),
    /// In any case: they are in no list any more.
    Always,
}

/// The consumer of one worker.
pub struct Runner<'a> {
    info: WorkerInfo,
    kind: Kind<'a>,
}

enum Kind<'a> {
    Native(Box<dyn Consumer>),
    Script(Box<Beside<'a>>),
}

/// A script beside the worker.
struct Beside<'a> {
    spec: ScriptSpec,
    page: &'a Page,
    record: Record<'a>,
    script: Option<Script>,
    started: Instant,
    restarts: Restarts,
    /// Never rings: for a script that is to hear of no order.
    quiet: EventFd,
    care: &'a Care,
}

impl<'a> Runner<'a> {
    /// Nothing is started yet. `page`: where the slot's script notes its runs.
    ///
    /// # Errors
    /// When the kernel has no descriptors left.
    pub fn new(
        birth: &Birth<'_>,
        record: Record<'a>,
        page: &'a Page,
        care: &'a Care,
    ) -> std::io::Result<Self> {
        let Pool { name, run, env, .. } = birth.pool;
        let info = WorkerInfo {
            name: birth.daemon.into(),
            pool: name.clone(),
            index: birth.slot as usize,
            generation: birth.generation,
            version: birth.version.into(),
        };
        let kind = match &run.program {
            Program::Builtin(which) => Kind::Native(builtin::builtin(*which)),
            Program::Script { file, interpreter } => Kind::Script(Box::new(Beside {
                spec: ScriptSpec {
                    file: file.clone(),
                    interpreter: interpreter.clone(),
                    directory: run.directory.clone(),
                    env: env.clone(),
                    memory_limit_bytes: run.memory_limit_bytes,
                    worker: info.clone(),
                },
                page,
                record,
                script: None,
                started: Instant::now(),
                restarts: Restarts::new(birth.nonce ^ birth.place as u64),
                quiet: EventFd::new()?,
                care,
            })),
        };
        Ok(Self { info, kind })
    }

    /// Starts the consumer, also again after it was gone.
    ///
    /// # Errors
    /// Why it does not run; an order to leave interrupts it as well.
    pub fn start(&mut self, orders: &Orders) -> Result<(), NotStarted> {
        match &mut self.kind {
            Kind::Native(consumer) => {
                consumer::init(consumer.as_mut(), &self.info).map_err(NotStarted::Refused)
            }
            Kind::Script(beside) => beside.start(orders),
        }
    }

    /// Runs that the script has finished so far, for the progress of a reservation.
    pub fn finished(&self) -> u64 {
        match &self.kind {
            Kind::Native(_) => NO_SCRIPT,
            Kind::Script(beside) => beside.script.as_ref().map_or(0, Script::finished),
        }
    }

    /// Whether the consumer lives in this process.
    pub fn is_native(&self) -> bool {
        matches!(self.kind, Kind::Native(_))
    }

    /// Runs jobs in their order, until all have ended or no more may begin; `told` hears of each at once.
    ///
    /// # Errors
    /// The consumer is gone. The job that it had in hand has ended (it failed) or is to be run again: `told` has heard
    /// of it or not.
    pub fn run(
        &mut self,
        jobs: &[Job],
        begin: Begin<'_>,
        orders: &Orders,
        told: &mut Told<'_>,
    ) -> Result<(), Gone> {
        match &mut self.kind {
            Kind::Native(consumer) => {
                for (place, job) in jobs.iter().enumerate() {
                    let may_begin = match begin {
                        Begin::WhileAllowed(gate) => !orders.must_leave() && gate.may_begin(place),
                        Begin::Always => true,
                    };
                    if !may_begin {
                        break;
                    }
                    (told.ended)(place, consumer::run(consumer.as_mut(), job));
                }
                Ok(())
            }
            Kind::Script(beside) => beside.run(jobs, begin, orders, told),
        }
    }

    /// One call without a job: pools without queue.
    ///
    /// # Errors
    /// The consumer is gone.
    pub fn run_idle(&mut self, orders: &Orders) -> Result<Ran, String> {
        match &mut self.kind {
            Kind::Native(consumer) => Ok(consumer::run_idle(consumer.as_mut())),
            Kind::Script(beside) => {
                let Some(script) = &mut beside.script else {
                    return Err("it does not run".into());
                };
                let mut full =
                    |bytes| orders.leave_for_memory(bytes, beside.spec.memory_limit_bytes);
                script
                    .run_idle(&mut full)
                    .map_err(|death| beside.buried(&death))
            }
        }
    }

    /// Readable once the consumer is gone; none for one that lives in this process.
    pub fn watch(&self) -> Option<BorrowedFd<'_>> {
        match &self.kind {
            Kind::Native(_) => None,
            Kind::Script(beside) => beside.script.as_ref().map(Script::watch),
        }
    }

    /// Whether the consumer is still there, between jobs.
    ///
    /// # Errors
    /// It is gone.
    pub fn check_idle(&mut self) -> Result<(), String> {
        let Kind::Script(beside) = &mut self.kind else {
            return Ok(());
        };
        let checked = beside.script.as_mut().map_or(Ok(()), Script::check_idle);
        checked.map_err(|death| beside.buried(&death))
    }

    /// How long to wait before it is started again.
    pub fn next_delay(&mut self) -> Duration {
        match &mut self.kind {
            Kind::Native(_) => Duration::ZERO,
            Kind::Script(beside) => beside.restarts.next_delay(beside.started.elapsed()),
        }
    }

    /// After the last job.
    pub fn complete(&mut self) {
        let completed = match &mut self.kind {
            Kind::Native(consumer) => consumer::complete(consumer.as_mut()),
            Kind::Script(beside) => beside.complete(),
        };
        if let Err(err) = completed {
            log::warn!(
                "cannot complete pool={} slot={} err={err:?}",
                self.info.pool,
                self.info.index
            );
        }
    }
}

impl Beside<'_> {
    fn start(&mut self, orders: &Orders) -> Result<(), NotStarted> {
        self.page.clear().map_err(|err| {
            NotStarted::Refused(format!("cannot clear the slot's page in data/: {err}"))
        })?;
        let stop = || orders.must_leave();
        let told = script::Orders {
            stop: &stop,
            wake: orders.wake(),
        };
        let record = self.record;
        // The record names the script from its birth on: whoever ends us must be able to end it.
        let script = Script::start(&self.spec, self.page.as_fd(), &told, &|pid| {
            record.set_script(Identity::of(pid));
        });
        self.started = Instant::now();
        let err = match script {
            Ok(script) => {
                self.script = Some(script);
                return Ok(());
            }
            Err(err) => err,
        };
        self.record.set_script(Identity::default());
        let words = err.to_string();
        Err(match err {
            StartError::Refused(_) | StartError::Spawn(_) => NotStarted::Refused(words),
            StartError::Died(_) | StartError::Interrupted => NotStarted::Died(words),
        })
    }

    fn run(
        &mut self,
        jobs: &[Job],
        begin: Begin<'_>,
        orders: &Orders,
        told: &mut Told<'_>,
    ) -> Result<(), Gone> {
        let Some(script) = &mut self.script else {
            return Err("it does not run".to_owned().into());
        };
        let (may_stop, wake) = match begin {
            Begin::WhileAllowed(_) => (true, orders.wake()),
            Begin::Always => (false, self.quiet.as_fd()),
        };
        let stop = || may_stop && orders.must_leave();
        let heard = script::Orders { stop: &stop, wake };
        let finished_before = script.finished();
        match script.run(jobs, &heard, told) {
            BatchEnd::All | BatchEnd::Stopped { .. } => Ok(()),
            BatchEnd::Died {
                ended: told_of,
                death,
            } => {
                // What it noted as finished is, although the replies were lost with it.
                let noted = death.finished.saturating_sub(finished_before) as usize;
                let failed = self.page.read().failed;
                for place in told_of..noted {
                    // Runs are counted from 1.
                    let outcome = match failed.contains(&(finished_before + place as u64 + 1)) {
                        true => Outcome::Failed("its reason was lost with the script".into()),
                        false => Outcome::Done,
                    };
                    (told.ended)(place, outcome);
                }
                let has_begun = noted <= told_of && death.in_hand;
                let late = self.care.time_limit.as_ref();
                let late = late.and_then(|limit| limit.verdict(self.record));
                let failure = late.or_else(|| (!death.is_crash()).then(|| death.reason()));
                let has_failed = has_begun && failure.is_some();
                if let Some(reason) = failure.filter(|_| has_begun) {
                    (told.ended)(told_of, Outcome::Failed(reason));
                }
                Err(Gone {
                    has_begun: has_begun && !has_failed,
                    how: self.buried(&death),
                })
            }
        }
    }

    fn buried(&mut self, death: &Death) -> String {
        self.script = None;
        self.record.set_script(Identity::default());
        death.reason()
    }

    fn complete(&mut self) -> Result<(), String> {
        let Some(script) = self.script.take() else {
            return Ok(());
        };
        // Orders to leave are old news by now.
        let completed = script.complete(
            COMPLETE_GRACE,
            &script::Orders {
                stop: &|| false,
                wake: self.quiet.as_fd(),
            },
        );
        self.record.set_script(Identity::default());
        completed
    }
}

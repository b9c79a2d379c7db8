//! One slot's record: who lives in it, what it does, how far its reservation is, and its totals.
//!
//! Written by the worker that holds the slot's lock. Readers see single words atomically; only the progress of a
//! reservation is relied upon by others, and ordered.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::progress::{MAX_JOBS, Mark, OUTCOME_WORDS, Progress};
use super::run_times::{self, RunTimes};
use super::{Identity, Noted};
use crate::sys::map::SharedWords;

/// Words of a record. The order is the file's format.
mod word {
    pub const GENERATION: usize = 0;
    pub const PID: usize = 1;
    pub const PID_START: usize = 2;
    pub const SCRIPT: usize = 3;
    pub const SCRIPT_START: usize = 4;
    pub const STATE: usize = 5;
    pub const SINCE_US: usize = 6;
    pub const NEXT_START_MS: usize = 7;
    pub const CPU_MS: usize = 8;
    pub const RUNS: usize = 9;
    pub const FAILURES: usize = 10;
    pub const RUN_US: usize = 11;
    pub const RECLAIMED: usize = 12;
    pub const RUNS_BEFORE: usize = 13;
    pub const FAILURES_BEFORE: usize = 14;
    pub const NONCE: usize = 15;
    pub const TOKEN_GENERATION: usize = 16;
    pub const PROGRESS: usize = 17;
    pub const SCRIPT_BASE: usize = 18;
    pub const IN_CONSUMER: usize = 19;
    pub const RETRIED: usize = 20;
    pub const BURIED: usize = 21;
    pub const MARKS: usize = 24;
    pub const RUN_TIMES: usize = MARKS + super::OUTCOME_WORDS;
}
const _: () = assert!(word::RUN_TIMES + run_times::CLASSES <= super::RECORD_WORDS);

/// What a worker does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Not ready yet.
    #[default]
    Starting,
    /// Waits for work.
    Idle,
    /// Has a job in hand.
    Busy,
    /// Waits for the queue's server.
    Away,
    /// Waits until its consumer may be started again.
    Backoff,
    /// Finishes and leaves.
    Draining,
}

impl State {
    const ALL: [Self; 6] = [
        Self::Starting,
        Self::Idle,
        Self::Busy,
        Self::Away,
        Self::Backoff,
        Self::Draining,
    ];

    /// The word in replies and titles.
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Idle => "idle",
            Self::Busy => "busy",
            Self::Away => "away",
            Self::Backoff => "backoff",
            Self::Draining => "draining",
        }
    }
}

/// Counted over all generations of a slot, or over one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Jobs that ended.
    pub runs: u64,
    /// Those of them that failed.
    pub failures: u64,
    /// Time in the consumer.
    pub run_time: Duration,
    /// Jobs that were put back for a dead predecessor.
    pub reclaimed: u64,
    /// Jobs that failed and are to run again.
    pub retried: u64,
    /// Jobs that were set aside for good.
    pub buried: u64,
}

/// `script_base` of a reservation that no script runs.
pub const NO_SCRIPT: u64 = u64::MAX;

/// What had become of a reservation when its worker ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// How many of its first jobs had ended.
    pub count: usize,
    /// Those of them that were not done, by their places.
    pub marks: Vec<(usize, Mark)>,
    /// A further one was in the consumer.
    pub is_in_hand: bool,
}

/// The record of one slot.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    words: &'a SharedWords,
    base: usize,
}

impl<'a> Record<'a> {
    pub(super) fn new(words: &'a SharedWords, base: usize) -> Self {
        Self { words, base }
    }

    fn word(&self, place: usize) -> &'a AtomicU64 {
        self.words.word(self.base + place)
    }

    fn get(&self, place: usize) -> u64 {
        self.word(place).load(Ordering::Relaxed)
    }

    fn set(&self, place: usize, value: u64) {
        self.word(place).store(value, Ordering::Relaxed);
    }

    /// Only one process writes a counter, so load and store are enough (and cheaper than a locked add).
    fn add(&self, place: usize, value: u64) {
        self.set(place, self.get(place).wrapping_add(value));
    }

    /// For another slot: nothing of the former one remains.
    pub(super) fn clear(&self) {
        (0..super::RECORD_WORDS).for_each(|place| self.set(place, 0));
    }

    /// The last generation that lived here; 0: none yet.
    pub fn generation(&self) -> u64 {
        self.get(word::GENERATION)
    }

    /// The worker.
    pub fn worker(&self) -> Identity {
        Identity {
            pid: self.get(word::PID) as i32,
            start_time: self.get(word::PID_START),
        }
    }

    /// The script, whose pid is also its process group.
    pub fn script(&self) -> Identity {
        Identity {
            pid: self.get(word::SCRIPT) as i32,
            start_time: self.get(word::SCRIPT_START),
        }
    }

    /// A worker moves in. Its predecessor's progress and script stay until [`Record::begin_tokens`] and
    /// [`Record::set_script`], so that it can be reclaimed by whichever generation comes to that.
    pub fn move_in(&self, generation: u64, worker: Identity) {
        self.set(word::GENERATION, generation);
        self.set(word::PID, worker.pid as u64);
        self.set(word::PID_START, worker.start_time);
        self.set(word::CPU_MS, 0);
        self.set(word::NEXT_START_MS, 0);
        self.set(word::RUNS_BEFORE, self.get(word::RUNS));
        self.set(word::FAILURES_BEFORE, self.get(word::FAILURES));
        self.set_state(State::Starting, Duration::ZERO);
    }

    /// The script that runs now; the default: none.
    pub fn set_script(&self, script: Identity) {
        self.set(word::SCRIPT_START, script.start_time);
        self.word(word::SCRIPT)
            .store(script.pid as u64, Ordering::Release);
    }

    /// The machine was started anew: nobody in the record lives, and the page of its script says nothing any more.
    pub(super) fn begin_boot(&self) {
        let nobody = Identity::default();
        self.set(word::PID, nobody.pid as u64);
        self.set(word::PID_START, nobody.start_time);
        self.set_script(nobody);
        self.disown_page();
    }

    /// A busy worker goes from one job to the next.
    pub fn set_since(&self, since: Duration) {
        self.set(word::SINCE_US, since.as_micros() as u64);
    }

    /// What the worker does, and since when (monotonic).
    pub fn set_state(&self, state: State, since: Duration) {
        self.set(word::SINCE_US, since.as_micros() as u64);
        // Ordered with the keeper's look at who is idle: see `Scoreboard::keeper_watches`.
        self.word(word::STATE).store(state as u64, Ordering::SeqCst);
    }

    /// What the worker does.
    pub fn state(&self) -> State {
        State::ALL
            .get(self.word(word::STATE).load(Ordering::SeqCst) as usize)
            .copied()
            .unwrap_or_default()
    }

    /// Since when it does that (monotonic); for a busy worker, the start of its job.
    pub fn since(&self) -> Duration {
        Duration::from_micros(self.get(word::SINCE_US))
    }

    /// When the consumer is started again, in monotonic milliseconds; 0: it runs.
    pub fn next_start_ms(&self) -> u64 {
        self.get(word::NEXT_START_MS)
    }

    /// See [`Record::next_start_ms`].
    pub fn set_next_start_ms(&self, at: u64) {
        self.set(word::NEXT_START_MS, at);
    }

    /// Processor time of worker and script, in milliseconds.
    pub fn cpu_ms(&self) -> u64 {
        self.get(word::CPU_MS)
    }

    /// See [`Record::cpu_ms`].
    pub fn set_cpu_ms(&self, cpu_ms: u64) {
        self.set(word::CPU_MS, cpu_ms);
    }

    /// Counts a run that ended.
    pub fn count_run(&self, took: Duration, mark: Mark) {
        self.add(word::RUNS, 1);
        self.add(word::RUN_US, took.as_micros() as u64);
        self.add(word::RUN_TIMES + run_times::class(took), 1);
        if mark != Mark::Done {
            self.add(word::FAILURES, 1);
        }
    }

    /// Counts a job that failed and is to run again.
    pub fn count_retried(&self) {
        self.add(word::RETRIED, 1);
    }

    /// Counts a job that was set aside for good.
    pub fn count_buried(&self) {
        self.add(word::BURIED, 1);
    }

    /// Counts jobs that were put back.
    pub fn count_reclaimed(&self, jobs: u64) {
        self.add(word::RECLAIMED, jobs);
    }

    /// Over all generations.
    pub fn totals(&self) -> Totals {
        Totals {
            runs: self.get(word::RUNS),
            failures: self.get(word::FAILURES),
            run_time: Duration::from_micros(self.get(word::RUN_US)),
            reclaimed: self.get(word::RECLAIMED),
            retried: self.get(word::RETRIED),
            buried: self.get(word::BURIED),
        }
    }

    /// Adds this slot's runs, over all generations, to those of others.
    pub fn add_run_times(&self, times: &mut RunTimes) {
        for class in 0..run_times::CLASSES {
            times.add(class, self.get(word::RUN_TIMES + class));
        }
    }

    /// Runs and failures of this generation.
    pub fn of_this_generation(&self) -> (u64, u64) {
        let since = |total, before| self.get(total).wrapping_sub(self.get(before));
        (
            since(word::RUNS, word::RUNS_BEFORE),
            since(word::FAILURES, word::FAILURES_BEFORE),
        )
    }

    /// Whether a worker of this start of the daemon has begun its tokens here, and so reclaimed what earlier starts left.
    pub fn has_tokens_of(&self, nonce: u64) -> bool {
        self.get(word::NONCE) == nonce
    }

    /// From now on the progress belongs to tokens of this start and generation. Only after the predecessor's list
    /// was reclaimed.
    pub fn begin_tokens(&self, nonce: u64, generation: u64) {
        self.word(word::PROGRESS).store(0, Ordering::Release);
        self.set(word::NONCE, nonce);
        self.word(word::TOKEN_GENERATION)
            .store(generation, Ordering::Release);
    }

    /// Just before the first job of a reservation begins. `script_base`: runs that the script had finished by then,
    /// or [`NO_SCRIPT`].
    pub fn begin_reservation(&self, number: u64, script_base: u64) {
        (0..OUTCOME_WORDS).for_each(|place| self.set(word::MARKS + place, 0));
        self.set(word::SCRIPT_BASE, script_base);
        self.word(word::PROGRESS)
            .store(Progress { number, ended: 0 }.pack(), Ordering::Release);
    }

    /// The job at `place` of the reservation has ended; its mark is written before the count that covers it.
    pub fn end_job(&self, number: u64, place: usize, mark: Mark) {
        if mark != Mark::Done {
            self.set_mark(place, mark);
        }
        self.word(word::PROGRESS).store(
            Progress {
                number,
                ended: place + 1,
            }
            .pack(),
            Ordering::Release,
        );
    }

    fn set_mark(&self, place: usize, mark: Mark) {
        let (word, bits) = mark.bits(place);
        let marks = self.word(word::MARKS + word);
        marks.store(marks.load(Ordering::Relaxed) | bits, Ordering::Relaxed);
    }

    /// Which reservation is in hand and how far it is, as one number to compare.
    pub fn progress_word(&self) -> u64 {
        self.word(word::PROGRESS).load(Ordering::Acquire)
    }

    /// Marks the job in hand as failed, if it still is the one of this progress. For a worker that ends because its main
    /// thread does not come back from that job.
    pub fn fail_job_in_hand(&self, progress: u64) -> bool {
        let Progress { number, ended } = Progress::unpack(progress);
        if ended >= MAX_JOBS {
            return false;
        }
        let (word, bits) = Mark::Failed.bits(ended);
        let marks = self.word(word::MARKS + word);
        marks.fetch_or(bits, Ordering::AcqRel);
        let failed = Progress {
            number,
            ended: ended + 1,
        };
        let swapped = self.word(word::PROGRESS).compare_exchange(
            progress,
            failed.pack(),
            Ordering::AcqRel,
            Ordering::Acquire,
        );
        if swapped.is_err() {
            marks.fetch_and(!bits, Ordering::AcqRel);
            return false;
        }
        self.count_run(Duration::ZERO, Mark::Failed);
        true
    }

    /// Progress of the reservation with this token; none when the record speaks of another one, so that of those
    /// jobs none has begun.
    pub fn progress_of(&self, nonce: u64, generation: u64, number: u64) -> Option<Progress> {
        let progress = Progress::unpack(self.word(word::PROGRESS).load(Ordering::Acquire));
        let is_it =
            self.get(word::NONCE) == nonce && self.get(word::TOKEN_GENERATION) == generation;
        (is_it && progress.number == number).then_some(progress)
    }

    /// Believes what the slot's script noted on its [`Page`](super::Page), if it was further than its worker knew:
    /// replies that nobody read are finished work too. Only when the script is dead, and before the page is cleared.
    pub fn adopt(&self, noted: &Noted) {
        let base = self.get(word::SCRIPT_BASE);
        if base == NO_SCRIPT {
            return;
        }
        let progress = Progress::unpack(self.word(word::PROGRESS).load(Ordering::Acquire));
        let finished = noted.finished.wrapping_sub(base);
        if finished <= MAX_JOBS as u64 && finished as usize > progress.ended {
            for place in progress.ended..finished as usize {
                // Runs are counted from 1.
                if noted.failed.contains(&(base + place as u64 + 1)) {
                    self.set_mark(place, Mark::Failed);
                }
            }
            let further = Progress {
                ended: finished as usize,
                ..progress
            };
            self.word(word::PROGRESS)
                .store(further.pack(), Ordering::Release);
        }
        // Last: who is killed before it leaves the page to be adopted again, which changes nothing.
        self.disown_page();
    }

    /// What the page says from now on has nothing to do with this reservation.
    fn disown_page(&self) {
        self.word(word::SCRIPT_BASE)
            .store(NO_SCRIPT, Ordering::Release);
    }

    /// What had become of the reservation with this token and so many jobs.
    pub fn ended_of(&self, nonce: u64, generation: u64, number: u64, jobs: usize) -> Ended {
        let Some(progress) = self.progress_of(nonce, generation, number) else {
            return Ended::default();
        };
        let count = progress.ended.min(jobs);
        let mark = |place: usize| Mark::read(self.get(word::MARKS + 2 * place / 64), place);
        Ended {
            count,
            marks: (0..count)
                .map(|place| (place, mark(place)))
                .filter(|(_, mark)| *mark != Mark::Done)
                .collect(),
            is_in_hand: count < jobs && self.get(word::IN_CONSUMER) != 0,
        }
    }

    /// The consumer has a job in hand from now on, or none any more.
    pub fn set_in_consumer(&self, is_in: bool) {
        self.word(word::IN_CONSUMER)
            .store(u64::from(is_in), Ordering::Release);
    }
}

/// Whose a record is: a slot of a pool as one number, never 0. FNV-1a: stable over versions, unlike the hashes of std.
pub(super) fn owner(pool: &str, slot: u32) -> u64 {
    let bytes = pool.bytes().chain([0]).chain(slot.to_le_bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    hash.max(1)
}

#[cfg(test)]
mod tests {
    use super::super::{RECORDS, Scoreboard};
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn progress_counts_only_for_its_own_token() {
        let dir = tempfile::tempdir().unwrap();
        let board = Scoreboard::open(&dir.path().join("t.board")).unwrap();
        let record = board.record(RECORDS - 1);
        record.begin_tokens(9, 2);
        record.begin_reservation(5, 100);
        record.end_job(5, 0, Mark::Done);
        record.end_job(5, 1, Mark::Failed);
        record.end_job(5, 2, Mark::Done);
        assert_eq!(
            record.progress_of(9, 2, 5),
            Some(Progress {
                number: 5,
                ended: 3
            })
        );
        let ended = |jobs| {
            let ended = record.ended_of(9, 2, 5, jobs);
            (ended.count, ended.marks, ended.is_in_hand)
        };
        let marks = vec![(1, Mark::Failed)];
        assert_eq!(ended(10), (3, marks.clone(), false), "it left the consumer");
        record.set_in_consumer(true);
        assert_eq!(ended(10), (3, marks.clone(), true));
        assert_eq!(ended(3), (3, marks, false));
        for (nonce, generation, number) in [(8, 2, 5), (9, 1, 5), (9, 2, 6)] {
            assert_eq!(record.progress_of(nonce, generation, number), None);
        }
        record.begin_reservation(6, 103);
        record.end_job(6, 0, Mark::Done);
        let ended = record.ended_of(9, 2, 6, 10);
        assert_eq!(ended.marks, [], "marks of the former reservation are gone");
        record.begin_tokens(9, 3);
        assert_eq!(record.progress_of(9, 3, 6), None);
    }

    #[test]
    fn a_successor_that_moves_in_still_sees_its_predecessors_progress_and_script() {
        let dir = tempfile::tempdir().unwrap();
        let board = Scoreboard::open(&dir.path().join("t.board")).unwrap();
        let record = board.record(0);
        record.begin_tokens(1, 1);
        record.begin_reservation(1, 0);
        record.set_script(Identity {
            pid: 77,
            start_time: 5,
        });
        record.count_run(Duration::from_millis(1), Mark::Failed);
        record.move_in(
            2,
            Identity {
                pid: 78,
                start_time: 6,
            },
        );
        assert!(record.progress_of(1, 1, 1).is_some());
        assert_eq!(record.script().pid, 77);
        assert_eq!(
            (record.generation(), record.of_this_generation()),
            (2, (0, 0))
        );
        assert_eq!(record.totals().failures, 1);
    }

    #[test]
    fn a_script_that_was_further_than_its_worker_knew_is_believed_once() {
        let dir = tempfile::tempdir().unwrap();
        let board = Scoreboard::open(&dir.path().join("t.board")).unwrap();
        let record = board.record(0);
        let ended_after = |finished| {
            record.begin_tokens(9, 2);
            record.begin_reservation(5, 100);
            record.end_job(5, 0, Mark::Done);
            let noted = Noted {
                finished,
                failed: HashSet::from([50, 103, 105]),
            };
            record.adopt(&noted);
            // The page is cleared for the next script; what was adopted stays.
            record.adopt(&Noted::default());
            let ended = record.ended_of(9, 2, 5, 10);
            (ended.count, ended.marks.len())
        };
        assert_eq!(ended_after(104), (4, 1));
        assert_eq!(ended_after(101), (1, 0));
        assert_eq!(ended_after(0), (1, 0), "a page of another script");
    }

    #[test]
    fn slots_have_numbers_of_their_own() {
        assert_ne!(owner("mail", 1), owner("mail", 2));
        assert_ne!(owner("mail", 1), owner("mai", 1));
        assert_ne!(owner("", 0), 0);
    }
}

//! A daemon whose jobs keep a ledger: each writes its number with one append from inside the consumer when it begins,
//! so the file says how often and in which order jobs ran, whatever stark believes. Jobs may wait at a gate until the
//! test opens it.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::path::PathBuf;

use nix::sys::stat::Mode;
use redis::Commands;

use super::redis::Redis;
use super::stark::{self, LIMIT, Stark, wait_for_value};

/// The queue's key.
pub const KEY: &str = "q";

/// Registry of the reserved lists.
const REGISTRY: &str = "{q}:stark:reserved";

/// Understands what `builtin = probe` does of a payload.
const SCRIPT: &str = r#"<?php
function run($worker, $data)
{
    foreach (explode(';', $data) as $command) {
        $words = explode(' ', trim($command), 3);
        if ($words[0] === 'append') {
            file_put_contents($words[1], "$words[2]\n", FILE_APPEND);
        } elseif ($words[0] === 'sleep') {
            usleep(1000 * (int) $words[1]);
        }
    }
}
"#;

/// Who runs the jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consumer {
    /// The worker itself.
    Probe,
    /// A script beside it.
    Php,
}

/// A daemon with a private server.
pub struct Rig {
    /// The server.
    pub redis: Redis,
    /// The daemon.
    pub stark: Stark,
}

impl Rig {
    /// Starts a daemon with so many workers. `main` and `queue` are more lines of those sections.
    pub fn start(consumer: Consumer, workers: usize, main: &str, queue: &str) -> Self {
        Self::start_on(Redis::start(), consumer, workers, main, queue)
    }

    /// The same with a server of the caller's.
    pub fn start_on(
        redis: Redis,
        consumer: Consumer,
        workers: usize,
        main: &str,
        queue: &str,
    ) -> Self {
        let (run, script) = match consumer {
            Consumer::Probe => ("builtin = probe", ""),
            Consumer::Php => ("script_file = run.php", SCRIPT),
        };
        let server = stark::queue(&redis, KEY);
        // However often a job's workers are killed, it is to run in the end.
        let retry = match queue.contains("at-most-once") {
            true => "",
            false => "[retry]\nmax_crashes = 0",
        };
        let ini = format!(
            "[main]\n{main}\n[run]\n{run}\n[worker]\ncount = {workers}\n{server}{queue}\n{retry}\n"
        );
        let stark = Stark::start(&ini, script);
        Self { redis, stark }
    }

    /// A job that writes its number.
    pub fn job(&self, number: usize) -> String {
        format!("append {} {number}", self.stark.path("ledger").display())
    }

    /// A job that writes its number and then takes so many milliseconds.
    pub fn job_of_ms(&self, number: usize, ms: u64) -> String {
        format!("{};sleep {ms}", self.job(number))
    }

    /// A job that writes its number and then waits at the gate.
    pub fn job_at(&self, number: usize, gate: &Gate) -> String {
        format!(
            "{};append {} through",
            self.job(number),
            gate.path.display()
        )
    }

    /// A closed gate.
    pub fn gate(&self, name: &str) -> Gate {
        let path = self.stark.path(name);
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).expect("the directory is ours");
        Gate { path, reader: None }
    }

    /// Pushes jobs in their order.
    pub fn push(&self, jobs: impl IntoIterator<Item = String>) {
        let jobs: Vec<String> = jobs.into_iter().collect();
        let mut connection = self.redis.connect();
        for some in jobs.chunks(1000) {
            let _: usize = connection.rpush(KEY, some).expect("the server takes them");
        }
    }

    /// Pushes jobs that only write their numbers.
    pub fn push_numbers(&self, numbers: Range<usize>) {
        self.push(numbers.map(|number| self.job(number)));
    }

    /// The numbers of all runs, in the order in which they began.
    pub fn runs(&self) -> Vec<usize> {
        let text = self.stark.read("ledger");
        text.lines()
            .map(|line| line.parse().expect("one write is one line"))
            .collect()
    }

    /// Waits until the job has begun (again).
    pub fn wait_for_run(&self, number: usize, times: usize) {
        wait_for_value(LIMIT, &format!("runs of job {number}"), times, || {
            self.runs().iter().filter(|run| **run == number).count()
        });
    }

    /// Waits until all jobs below `jobs` have run and nothing is left in the queue.
    pub fn drain(&self, jobs: usize) {
        wait_for_value(2 * LIMIT, "jobs left", 0, || self.left());
        let ran: BTreeSet<usize> = self.runs().into_iter().collect();
        let lost: Vec<usize> = (0..jobs).filter(|job| !ran.contains(job)).collect();
        assert_eq!(lost, Vec::<usize>::new(), "jobs lost");
    }

    /// Drains the queue and stops the daemon: no process, no reserved list, no registration is left.
    pub fn finish(&self, jobs: usize) -> Vec<usize> {
        self.drain(jobs);
        self.stark.stop();
        assert_eq!(self.reserved(), vec![], "registered after a clean stop");
        let mut connection = self.redis.connect();
        let mut keys: Vec<String> = connection.keys("*").expect("an answer");
        keys.retain(|key| key != "{q}:stark:stats");
        assert_eq!(keys, Vec::<String>::new(), "keys after a clean stop");
        self.runs()
    }

    /// Jobs that wait or are reserved, counted at one moment.
    pub fn left(&self) -> usize {
        let script = "local left = redis.call('LLEN', KEYS[1])
            for _, list in ipairs(redis.call('SMEMBERS', KEYS[2])) do
              left = left + math.max(0, redis.call('LLEN', list) - 1)
            end
            return left";
        let mut command = redis::cmd("EVAL");
        command.arg(script).arg(2).arg(KEY).arg(REGISTRY);
        command.query(&mut self.redis.connect()).expect("an answer")
    }

    /// Jobs that wait.
    pub fn waiting(&self) -> usize {
        self.redis.connect().llen(KEY).expect("an answer")
    }

    /// The registered reserved lists: their names and how many jobs are in them.
    pub fn reserved(&self) -> Vec<(String, usize)> {
        let mut connection = self.redis.connect();
        let names: Vec<String> = connection.smembers(REGISTRY).expect("an answer");
        let with_jobs = names.into_iter().map(|name| {
            let length: usize = connection.llen(&name).expect("an answer");
            (name, length.saturating_sub(1))
        });
        with_jobs.collect()
    }

    /// Jobs in all reserved lists.
    pub fn reserved_jobs(&self) -> usize {
        self.reserved().iter().map(|(_, jobs)| jobs).sum()
    }

    /// The worker with this number.
    pub fn worker_pid(&self, number: usize) -> i32 {
        self.stark.worker(number)["pid"].parse().expect("a number")
    }

    /// The numbers that living processes show as workers of this daemon, also those of a master that was killed.
    pub fn living_workers(&self) -> Vec<String> {
        let titles = self.stark.processes().into_iter().map(stark::title);
        let numbers = titles.filter_map(|title| {
            let rest = title.split_once("stark: t worker ")?.1;
            Some(rest.split(' ').next()?.to_string())
        });
        let mut numbers: Vec<String> = numbers.collect();
        numbers.sort();
        numbers
    }

    /// The script of a worker.
    pub fn script_pid(&self, worker: i32) -> Option<i32> {
        stark::children(worker).first().copied()
    }

    /// The keeper.
    pub fn keeper_pid(&self) -> Option<i32> {
        let is_keeper = |pid: &i32| stark::title(*pid).contains("keeper");
        stark::children(self.stark.pid())
            .into_iter()
            .find(is_keeper)
    }
}

/// A place where a job waits: a FIFO blocks who opens it for writing until somebody has it open for reading.
pub struct Gate {
    path: PathBuf,
    reader: Option<File>,
}

impl Gate {
    /// Lets through who waits and whoever comes later.
    pub fn open(&mut self) {
        // For both, because this side must not wait for the other.
        let both = OpenOptions::new().read(true).write(true).open(&self.path);
        self.reader = Some(both.expect("it is there"));
    }
}

/// Runs that were not a job's first, in their order.
pub fn repeated(runs: &[usize]) -> Vec<usize> {
    let mut seen = BTreeSet::new();
    let again = runs.iter().filter(|run| !seen.insert(**run));
    again.copied().collect()
}

/// First runs, in their order.
pub fn first(runs: &[usize]) -> Vec<usize> {
    let mut seen = BTreeSet::new();
    let new = runs.iter().filter(|run| seen.insert(**run));
    new.copied().collect()
}

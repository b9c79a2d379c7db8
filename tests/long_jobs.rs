//! No job waits behind a long one: what a worker reserved together with it and has not begun goes back to the queue after
//! 250 ms, at the head, in order; and short queues are shared. Counted is what the jobs wrote themselves.

mod support;

use std::time::{Duration, Instant};

use nix::sys::signal::Signal::SIGKILL;

use redis::Commands;

use support::ledger::{Consumer, Gate, Rig, first, repeated};
use support::redis::Redis;
use support::stark::{LIMIT, is_alive, kill, wait_for, wait_for_value};

/// Jobs from one long one to the next. Reservations grow from 1 over 4 to 10 behind each, so that it is among the first
/// of its own, unless the machine is too slow for that.
const APART: usize = 27;
const LONG: usize = 8;
const JOBS: usize = APART * (LONG + 2);

/// A daemon with reservations of ten jobs of a millisecond, of which now and then one is long. What a script is sent ahead
/// is less than that.
struct Held {
    rig: Rig,
    gates: Vec<Gate>,
}

impl Held {
    fn start(consumer: Consumer, workers: usize) -> Self {
        let redis = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
        let rig = Rig::start_on(
            redis,
            consumer,
            workers,
            "log_level = debug",
            "prefetch = 10",
        );
        let gates: Vec<Gate> = (0..LONG).map(|n| rig.gate(&format!("gate.{n}"))).collect();
        rig.push((0..JOBS).map(|number| match number.checked_div(APART) {
            Some(place @ 1..=LONG) if number % APART == 0 => rig.job_at(number, &gates[place - 1]),
            _ => rig.job_of_ms(number, 1),
        }));
        Self { rig, gates }
    }

    /// The long job with this number, from 1, is in hand.
    fn wait_for_long(&self, number: usize) {
        self.rig.wait_for_run(number * APART, 1);
    }

    /// Jobs that are reserved behind that one.
    fn behind(&self, number: usize) -> usize {
        let job = self.rig.job_at(number * APART, &self.gates[number - 1]);
        let mut connection = self.rig.redis.connect();
        let lists = self.rig.reserved().into_iter().map(|(name, _)| {
            let list: Vec<String> = connection.lrange(name, 0, -1).expect("an answer");
            let place = list.iter().position(|element| *element == job)?;
            Some(list.len() - place - 1)
        });
        lists.flatten().sum()
    }

    /// Jobs that a script may have been sent behind the long one: 5 ms of work.
    fn most_sent(consumer: Consumer) -> usize {
        match consumer {
            Consumer::Probe => 0,
            Consumer::Php => 5,
        }
    }

    /// At each long job, until one was seen to free jobs behind it.
    fn wait_until_one_gave_back(&mut self, consumer: Consumer) -> usize {
        for number in 1..=LONG {
            self.wait_for_long(number);
            wait_for(LIMIT, "none waits behind the long job", || {
                self.behind(number) <= Self::most_sent(consumer)
            });
            if !self
                .rig
                .stark
                .log_lines("gave back behind a long job")
                .is_empty()
            {
                return number;
            }
            self.gates[number - 1].open();
        }
        panic!("no long job had others behind it");
    }

    fn open_all(&mut self) {
        self.gates.iter_mut().for_each(Gate::open);
    }
}

#[track_caller]
fn what_was_not_begun_goes_back_in_order(consumer: Consumer) {
    let mut held = Held::start(consumer, 1);
    let number = held.wait_until_one_gave_back(consumer);
    let begun: Vec<usize> = (0..=number * APART).collect();
    assert_eq!(held.rig.runs(), begun);
    held.open_all();
    let runs = held.rig.finish(JOBS);
    let all: Vec<usize> = (0..JOBS).collect();
    assert_eq!(runs, all, "once each, in the order of their push");
}

#[test]
fn jobs_behind_a_long_one_go_back_in_order_and_run_once_native() {
    what_was_not_begun_goes_back_in_order(Consumer::Probe);
}

#[test]
fn jobs_behind_a_long_one_go_back_in_order_and_run_once_php() {
    what_was_not_begun_goes_back_in_order(Consumer::Php);
}

#[track_caller]
fn another_worker_runs_what_waited(consumer: Consumer) {
    let mut held = Held::start(consumer, LONG + 1);
    // Each long job holds a worker, and what a script was sent behind it; one worker is left for all others.
    let held_back = LONG * Held::most_sent(consumer);
    wait_for(LIMIT, "all others run", || {
        held.rig.waiting() == 0 && held.rig.runs().len() >= JOBS - held_back
    });
    held.open_all();
    let runs = held.rig.finish(JOBS);
    assert_eq!(repeated(&runs), Vec::<usize>::new());
}

#[test]
fn another_worker_runs_what_waited_behind_a_long_job_native() {
    another_worker_runs_what_waited(Consumer::Probe);
}

#[test]
fn another_worker_runs_what_waited_behind_a_long_job_php() {
    another_worker_runs_what_waited(Consumer::Php);
}

#[track_caller]
fn a_kill_in_the_long_job_repeats_only_that(consumer: Consumer) {
    let mut held = Held::start(consumer, 1);
    let number = held.wait_until_one_gave_back(consumer);
    let worker = held.rig.worker_pid(0);
    let script = held.rig.script_pid(worker);
    kill(worker, SIGKILL);
    wait_for(LIMIT, "both die", || {
        !is_alive(worker) && !script.is_some_and(is_alive)
    });
    held.open_all();
    let runs = held.rig.finish(JOBS);
    assert_eq!(repeated(&runs), [number * APART]);
    assert_eq!(first(&runs), (0..JOBS).collect::<Vec<_>>());
}

#[test]
fn a_worker_killed_in_a_long_job_repeats_only_that_job_native() {
    a_kill_in_the_long_job_repeats_only_that(Consumer::Probe);
}

#[test]
fn a_worker_killed_in_a_long_job_repeats_only_that_job_php() {
    a_kill_in_the_long_job_repeats_only_that(Consumer::Php);
}

#[track_caller]
fn with_the_server_gone_every_job_runs_once(consumer: Consumer) {
    let mut held = Held::start(consumer, 1);
    for number in 1..=LONG {
        held.wait_for_long(number);
        held.rig.redis.stop();
        held.rig.redis.restart();
        held.gates[number - 1].open();
    }
    let runs = held.rig.finish(JOBS);
    assert_eq!(runs, (0..JOBS).collect::<Vec<_>>());
}

#[test]
fn with_the_server_gone_in_a_long_job_every_job_runs_once_native() {
    with_the_server_gone_every_job_runs_once(Consumer::Probe);
}

#[test]
fn with_the_server_gone_in_a_long_job_every_job_runs_once_php() {
    with_the_server_gone_every_job_runs_once(Consumer::Php);
}

/// Eight jobs that wait at gates: four workers take one each and no more, so that none waits behind another
/// while a worker is free.
#[test]
fn a_short_queue_of_long_jobs_is_shared() {
    let rig = Rig::start(Consumer::Probe, 4, "", "");
    rig.stark.wait_for_figure("worker_idle", 4);
    let mut gates: Vec<Gate> = (0..8).map(|n| rig.gate(&format!("gate.{n}"))).collect();
    rig.push(
        gates
            .iter()
            .enumerate()
            .map(|(number, gate)| rig.job_at(number, gate)),
    );
    wait_for_value(LIMIT, "jobs in hand", 4, || rig.runs().len());
    assert_eq!((rig.reserved_jobs(), rig.waiting()), (4, 4));
    gates.iter_mut().for_each(Gate::open);
    let mut runs = rig.finish(8);
    runs.sort_unstable();
    assert_eq!(runs, (0..8).collect::<Vec<_>>());
}

#[test]
fn jobs_behind_a_long_one_go_back_although_the_server_stalled_when_it_was_time() {
    let mut held = Held::start(Consumer::Probe, 1);
    held.wait_for_long(1);
    held.rig.redis.pause();
    // On a slow machine they may have gone back before the server stalled.
    let begin = Instant::now();
    wait_for(LIMIT, "the first attempt failed, or there is none", || {
        !held.rig.stark.log_lines("cannot give back yet").is_empty()
            || begin.elapsed() > Duration::from_secs(5)
    });
    held.rig.redis.resume();
    wait_for_value(LIMIT, "jobs behind the long one", 0, || held.behind(1));
    held.open_all();
    assert_eq!(repeated(&held.rig.finish(JOBS)), Vec::<usize>::new());
}

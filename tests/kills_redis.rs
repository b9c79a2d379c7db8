//! Faults of the server under load: restarts, stalls, lost connections, no memory left. No consumer is killed here, so
//! each job runs exactly once, by what the jobs wrote themselves.

mod support;

use nix::sys::signal::Signal;
use redis::Commands;
use support::ledger::{Consumer, KEY, Rig, repeated};
use support::redis::Redis;
use support::stark::{LIMIT, is_alive, kill, wait_for, wait_for_value};

const WORKERS: usize = 3;

/// A daemon with work for a while: short jobs and a few of some milliseconds.
fn under_load(redis: Redis, consumer: Consumer, jobs: usize) -> Rig {
    let rig = Rig::start_on(redis, consumer, WORKERS, "", "timeout = 0.3");
    rig.push((0..jobs).map(|number| rig.job_of_ms(number, u64::from(number % 5 == 0) * 5)));
    rig
}

/// More runs than at the last look, unless all is done.
fn wait_for_progress(rig: &Rig, jobs: usize) {
    let before = rig.runs().len();
    wait_for(LIMIT, "progress", || {
        let runs = rig.runs().len();
        runs > before || runs == jobs
    });
}

fn assert_each_ran_once(rig: &Rig, jobs: usize) {
    assert_eq!(repeated(&rig.finish(jobs)), Vec::<usize>::new());
}

fn server_restarted(consumer: Consumer) {
    let jobs = 2500;
    let durable = Redis::start_with(&["--appendfsync", "always"]);
    let mut rig = under_load(durable, consumer, jobs);
    for _ in 0..5 {
        wait_for_progress(&rig, jobs);
        rig.redis.restart();
    }
    assert_each_ran_once(&rig, jobs);
}

#[test]
fn each_job_runs_once_although_the_server_is_restarted() {
    server_restarted(Consumer::Probe);
}

#[test]
fn each_job_of_a_script_runs_once_although_the_server_is_restarted() {
    server_restarted(Consumer::Php);
}

#[test]
fn each_job_runs_once_although_the_server_stalls_for_longer_than_the_timeout() {
    for consumer in [Consumer::Probe, Consumer::Php] {
        let jobs = 1500;
        let rig = under_load(Redis::start(), consumer, jobs);
        for _ in 0..3 {
            wait_for_progress(&rig, jobs);
            rig.redis.pause();
            let is_away = |number| rig.stark.worker(number)["state"] == "away";
            wait_for(LIMIT, "all workers see it", || (0..WORKERS).all(is_away));
            rig.redis.resume();
        }
        assert_each_ran_once(&rig, jobs);
    }
}

#[test]
fn each_job_runs_once_although_connections_are_killed() {
    for consumer in [Consumer::Probe, Consumer::Php] {
        let jobs = 2500;
        let rig = under_load(Redis::start(), consumer, jobs);
        while rig.left() > 0 {
            let mut kill = redis::cmd("CLIENT");
            kill.arg(&["KILL", "TYPE", "normal", "SKIPME", "yes"]);
            let _: usize = kill.query(&mut rig.redis.connect()).expect("an answer");
            wait_for_progress(&rig, jobs);
        }
        assert_each_ran_once(&rig, jobs);
    }
}

#[test]
fn a_full_server_is_drained() {
    let rig = Rig::start(Consumer::Probe, 2, "", "");
    rig.stark.stop();
    rig.push_numbers(0..10_000);
    let mut connection = rig.redis.connect();
    let mut limit = redis::cmd("CONFIG");
    limit.arg(&["SET", "maxmemory", "1000", "maxmemory-policy", "noeviction"]);
    let _: () = limit.query(&mut connection).expect("it can be set");
    let refused = connection.rpush::<_, _, usize>(KEY, "job").unwrap_err();
    assert_eq!(refused.code(), Some("OOM"));
    rig.stark.start_again();
    assert_each_ran_once(&rig, 10_000);
}

#[test]
fn workers_that_the_server_left_come_back_and_are_woken() {
    let mut rig = Rig::start(Consumer::Probe, 2, "", "");
    let is = |rig: &Rig, state: &str| (0..2).all(|n| rig.stark.worker(n)["state"] == state);
    wait_for(LIMIT, "both are idle", || is(&rig, "idle"));
    rig.redis.stop();
    wait_for(LIMIT, "both see it", || is(&rig, "away"));
    rig.redis.restart();
    wait_for(LIMIT, "both are idle again", || is(&rig, "idle"));
    rig.push_numbers(0..50);
    wait_for_value(LIMIT, "jobs", 50, || rig.runs().len());
    assert_each_ran_once(&rig, 50);
}

#[test]
fn a_worker_whose_connection_broke_in_its_last_job_leaves_nothing_reserved() {
    let rig = Rig::start(Consumer::Probe, 1, "", "");
    let mut gate = rig.gate("gate");
    rig.push([rig.job_at(0, &gate)]);
    rig.wait_for_run(0, 1);
    let mut kill_connections = redis::cmd("CLIENT");
    kill_connections.arg(&["KILL", "TYPE", "normal"]);
    let _: usize = kill_connections
        .query(&mut rig.redis.connect())
        .expect("an answer");
    let pid = rig.stark.pid();
    kill(pid, Signal::SIGTERM);
    rig.stark.wait_for_log("order received");
    gate.open();
    wait_for(LIMIT, "the end", || !is_alive(pid));
    assert_eq!(rig.reserved(), vec![]);
    let by_the_keeper = rig.stark.log_lines("reclaimed without worker");
    assert_eq!(by_the_keeper, Vec::<String>::new());
}

#[test]
fn what_a_worker_killed_at_the_end_held_goes_back_although_the_keepers_connection_broke_too() {
    let rig = Rig::start(Consumer::Probe, 1, "", "");
    let gate = rig.gate("gate");
    rig.push([rig.job_at(0, &gate)]);
    rig.wait_for_run(0, 1);
    let (pid, worker) = (rig.stark.pid(), rig.worker_pid(0));
    kill(pid, Signal::SIGTERM);
    rig.stark.wait_for_log("order received");
    let mut connection = rig.redis.connect();
    let mut kill_connections = redis::cmd("CLIENT");
    kill_connections.arg(&["KILL", "TYPE", "normal"]);
    let _: usize = kill_connections.query(&mut connection).expect("an answer");
    kill(worker, Signal::SIGKILL);
    wait_for(LIMIT, "the end", || !is_alive(pid));
    assert_eq!((rig.reserved(), rig.waiting()), (vec![], 1));
}

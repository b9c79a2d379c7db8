//! At-most-once delivery, Stark's plain pop: one job at a time, never given back, never run twice.

mod support;

use nix::sys::signal::Signal::SIGKILL;

use support::ledger::{Consumer, Rig, repeated};
use support::stark::{LIMIT, kill, wait_for_value};

fn rig(consumer: Consumer, workers: usize) -> Rig {
    Rig::start(consumer, workers, "", "delivery = at-most-once")
}

#[track_caller]
fn every_job_runs_once_and_nothing_is_reserved(consumer: Consumer) {
    let rig = rig(consumer, 3);
    rig.push_numbers(0..2000);
    wait_for_value(LIMIT, "runs", 2000, || rig.runs().len());
    assert_eq!(rig.reserved(), vec![]);
    let runs = rig.finish(2000);
    assert_eq!(repeated(&runs), Vec::<usize>::new());
}

#[test]
fn every_job_runs_once_and_nothing_is_reserved_native() {
    every_job_runs_once_and_nothing_is_reserved(Consumer::Probe);
}

#[test]
fn every_job_runs_once_and_nothing_is_reserved_php() {
    every_job_runs_once_and_nothing_is_reserved(Consumer::Php);
}

#[track_caller]
fn the_job_in_hand_of_a_killed_worker_is_gone_and_no_other(consumer: Consumer) {
    let rig = rig(consumer, 1);
    let mut gate = rig.gate("gate");
    rig.push([rig.job_at(0, &gate), rig.job(1), rig.job(2)]);
    rig.wait_for_run(0, 1);
    kill(rig.worker_pid(0), SIGKILL);
    rig.wait_for_run(2, 1);
    gate.open();
    assert_eq!(rig.finish(3), [0, 1, 2]);
}

#[test]
fn the_job_in_hand_of_a_killed_worker_is_gone_and_no_other_native() {
    the_job_in_hand_of_a_killed_worker_is_gone_and_no_other(Consumer::Probe);
}

#[test]
fn the_job_in_hand_of_a_killed_worker_is_gone_and_no_other_php() {
    the_job_in_hand_of_a_killed_worker_is_gone_and_no_other(Consumer::Php);
}

/// What was popped is in no list any more: a stop must not throw it away, and a script that died before it got the job
/// does not cost it either.
#[test]
fn a_popped_job_survives_a_stop_and_the_death_of_an_idle_script() {
    let rig = rig(Consumer::Php, 1);
    rig.stark.wait_for_figure("worker_idle", 1);
    for number in 0..20 {
        let script = rig.script_pid(rig.worker_pid(0));
        rig.push([rig.job(number)]);
        // Before, while or after the worker takes the job; not often, since each death delays the next start more.
        if let Some(script) = script.filter(|_| number % 8 == 0) {
            kill(script, SIGKILL);
        }
        wait_for_value(LIMIT, "jobs left", 0, || rig.left());
        rig.stark.wait_for_figure("worker_idle", 1);
    }
    // Some may have been in hand when their script was killed; those ran at most once.
    assert_eq!(repeated(&rig.runs()), Vec::<usize>::new());
    let ran = rig.runs().len() as u64;
    assert_eq!(rig.stark.figure("run_count"), 20);
    assert!(ran + rig.stark.figure("run_failures") >= 20, "{ran} ran");

    let mut gate = rig.gate("gate");
    rig.push([rig.job_at(20, &gate), rig.job(21)]);
    rig.wait_for_run(20, 1);
    assert_eq!(rig.stark.cli(&["shutdown"]).status, 0);
    rig.stark.wait_for_log("order received");
    gate.open();
    rig.stark.assert_nothing_left();
    assert_eq!(rig.waiting(), 1, "no other was popped");
}

#[test]
fn jobs_that_an_at_least_once_daemon_left_reserved_are_reclaimed() {
    let rig = Rig::start(Consumer::Probe, 1, "", "prefetch = 100");
    let mut gate = rig.gate("gate");
    rig.push([rig.job_at(0, &gate), rig.job(1)]);
    rig.wait_for_run(0, 1);
    rig.stark.kill_tree();
    let ini = rig
        .stark
        .read("t.ini")
        .replace("prefetch = 100", "delivery = at-most-once")
        .replace("[retry]\nmax_crashes = 0", "");
    rig.stark.write("t.ini", &ini);
    gate.open();
    rig.stark.start_again();
    // A popped job is in no list any more, so an empty queue does not say that it has run.
    rig.wait_for_run(1, 1);
    assert_eq!(rig.finish(2), [0, 0, 1]);
}

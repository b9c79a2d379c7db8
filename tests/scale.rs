//! Hundreds of workers: they start, work and stop, nothing of them is left, and each descriptor is where it belongs. How
//! long it takes is the benches' business.

mod support;

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};

use support::ledger::{KEY, Rig, repeated};
use support::redis::Redis;
use support::stark::{LIMIT, Stark, children, queue, title, wait_for, wait_for_value};

const WORKERS: usize = 200;

/// One after the other: together they would be a load that no daemon is promised to bear.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

const SCRIPT: &str = r#"<?php
function run($worker, $data)
{
    file_put_contents('ledger', "$data\n", FILE_APPEND);
}
"#;

fn start(run: &str, script: &str, workers: usize) -> Rig {
    let redis = Redis::start();
    let server = queue(&redis, KEY);
    let stark = Stark::prepare(
        &format!("[run]\n{run}\n[worker]\ncount = {workers}\n{server}"),
        script,
    );
    let rig = Rig { redis, stark };
    rig.stark.start_again();
    rig
}

/// A pause of a master on a busy machine is forgiven, and said; nothing else is.
fn assert_no_complaint(stark: &Stark) {
    let mut complaints = [" WARN ", " ERROR "]
        .map(|level| stark.log_lines(level))
        .concat();
    complaints.retain(|line| !line.contains("heartbeats forgiven"));
    assert_eq!(complaints, Vec::<String>::new());
}

/// What the open descriptors of a process are: `socket:[123]`, `/path`, `anon_inode:[eventfd]`.
fn descriptors(pid: i32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("the process lives");
    let targets = entries
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok());
    targets
        .map(|target| target.to_string_lossy().into_owned())
        .collect()
}

/// How many descriptors of each kind, numbers of sockets and pipes left out.
fn kinds(pid: i32) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for target in descriptors(pid) {
        let kind = target.split(":[").next().unwrap_or_default().to_string();
        let kind = match target.starts_with("anon_inode") {
            true => target,
            false => kind,
        };
        *kinds.entry(kind).or_default() += 1;
    }
    kinds
}

fn sockets(pid: i32) -> HashSet<String> {
    let all = descriptors(pid).into_iter();
    all.filter(|target| target.starts_with("socket:")).collect()
}

#[test]
fn two_hundred_workers_start_work_and_stop_and_nothing_is_left() {
    let _alone = alone();
    let rig = start("builtin = probe", "", WORKERS);
    assert_eq!(rig.stark.figure("worker_alive"), WORKERS as u64);
    let jobs = 20_000;
    rig.push_numbers(0..jobs);
    let runs = rig.finish(jobs);
    assert_eq!(repeated(&runs), Vec::<usize>::new());
    assert_no_complaint(&rig.stark);
}

#[test]
fn two_hundred_scripts_start_work_and_stop_and_nothing_is_left() {
    let _alone = alone();
    let rig = start("script_file = run.php", SCRIPT, WORKERS);
    let scripts = rig.stark.worker_pids().into_iter().flat_map(children);
    assert_eq!(scripts.count(), WORKERS);
    let jobs = 4000;
    rig.push((0..jobs).map(|number| number.to_string()));
    let runs = rig.finish(jobs);
    assert_eq!(repeated(&runs), Vec::<usize>::new());
    assert_no_complaint(&rig.stark);
}

#[test]
fn the_masters_descriptors_grow_by_one_a_worker_and_the_workers_hold_none_of_the_others() {
    let _alone = alone();
    let few = start("builtin = null", "", 2);
    let many = start("builtin = null", "", WORKERS);
    for (rig, workers) in [(&few, 2), (&many, WORKERS)] {
        rig.stark.wait_for_figure("worker_idle", workers as u64);
    }
    let count = |rig: &Rig| descriptors(rig.stark.pid()).len();
    // An admin client of ours may not be closed there yet.
    wait_for_value(LIMIT, "the master's descriptors", WORKERS - 2, || {
        count(&many) - count(&few)
    });
    let workers = many.stark.worker_pids();
    let expected = kinds(few.stark.worker_pids()[0]);
    let mut seen: HashSet<String> = sockets(many.stark.pid());
    // All have the queue to the logger in common, and nothing else.
    let common: Vec<String> = seen
        .intersection(&sockets(workers[0]).into_iter().collect())
        .cloned()
        .collect();
    assert_eq!(common.len(), 1, "{common:?}");
    for pid in workers {
        // The log and the board are in directories of their own.
        let of_worker: Vec<usize> = kinds(pid).into_values().collect();
        let of_few: Vec<usize> = expected.values().copied().collect();
        assert_eq!(of_worker, of_few, "{}: {:?}", title(pid), descriptors(pid));
        for socket in sockets(pid).into_iter().filter(|s| *s != common[0]) {
            assert!(seen.insert(socket.clone()), "{socket} is held by two");
        }
    }
    few.stark.stop();
    many.stark.stop();
}

#[test]
fn workers_that_all_die_at_once_are_all_replaced_and_no_job_is_lost() {
    let _alone = alone();
    let rig = start("builtin = probe", "", WORKERS);
    let jobs = 5000;
    rig.push((0..jobs).map(|number| rig.job_of_ms(number, 5)));
    wait_for(LIMIT, "they are at work", || rig.runs().len() > 100);
    let before: HashSet<i32> = rig.stark.worker_pids().into_iter().collect();
    for pid in &before {
        support::stark::kill(*pid, nix::sys::signal::Signal::SIGKILL);
    }
    wait_for(LIMIT, "all are replaced", || {
        let after = rig.stark.worker_pids();
        after.len() == WORKERS && after.iter().all(|pid| !before.contains(pid))
    });
    let again = repeated(&rig.finish(jobs)).len();
    assert!(again <= WORKERS, "at most one for each: {again}");
}

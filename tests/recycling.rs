//! Recycling, for every reason there is, under thousands of jobs: each ran exactly once, a successor came every time,
//! the figures count it, and the log stays short. Counted is what the jobs wrote themselves.

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use nix::sys::signal::Signal;
use support::ledger::{KEY, Rig};
use support::redis::Redis;
use support::stark::{LIMIT, Stark, children, is_alive, kill, queue, title, wait_for};

/// Writes what it was given, and who it is.
const SCRIPT: &str = r#"<?php
function run($worker, $data)
{
    file_put_contents('ledger', "$data\n", FILE_APPEND);
    file_put_contents('who', getmypid() . "\n", FILE_APPEND);
}
"#;

/// A daemon whose jobs keep a ledger. What is not PHP is `builtin = probe`.
fn rig(script: &str, main: &str, run: &str, worker: &str) -> Rig {
    let redis = Redis::start();
    let consumer = if script.is_empty() {
        "builtin = probe"
    } else {
        "script_file = run.php"
    };
    let server = queue(&redis, KEY);
    let ini = format!("[main]\n{main}\n[run]\n{consumer}\n{run}\n[worker]\n{worker}\n{server}");
    let stark = Stark::start(&ini, script);
    Rig { redis, stark }
}

/// Stops the daemon when all jobs have run: each exactly once.
fn finish_exactly_once(rig: &Rig, jobs: usize) {
    let mut runs = rig.finish(jobs);
    runs.sort_unstable();
    let expected: Vec<usize> = (0..jobs).collect();
    assert!(runs == expected, "{} runs of {jobs} jobs", runs.len());
    assert_eq!(rig.stark.log_lines(" WARN ").len(), 0, "no crash, no kill");
}

/// Recycles that the log tells of for this reason, one by one or in sums.
fn told(stark: &Stark, reason: &str) -> u64 {
    let single = stark.log_lines(&format!(" status=0 reason={reason}"));
    let sums = stark.log_lines("workers recycled");
    let counts = sums.iter().filter_map(|line| {
        let reasons = line.split(" reasons=").nth(1)?.split(' ').next()?;
        let counted = reasons.split(',').filter_map(|pair| pair.split_once(':'));
        let count = counted
            .clone()
            .find_map(|(name, n)| (name == reason).then_some(n))?;
        count.parse::<u64>().ok()
    });
    single.len() as u64 + counts.sum::<u64>()
}

/// How many jobs each script ran, in no order.
fn runs_by_script(stark: &Stark) -> Vec<usize> {
    let mut runs: BTreeMap<String, usize> = BTreeMap::new();
    for pid in stark.read("who").lines() {
        *runs.entry(pid.into()).or_default() += 1;
    }
    runs.into_values().collect()
}

#[test]
fn a_recycling_after_each_job_loses_and_doubles_none_and_writes_a_handful_of_lines() {
    let jobs = 1000;
    let rig = rig("", "", "", "count = 2\nmax_run_count = 1");
    rig.push_numbers(0..jobs);
    rig.drain(jobs);
    rig.stark.wait_for_figure("workers_recycled", jobs as u64);
    assert_eq!(rig.stark.figure("workers_crashed"), 0);
    finish_exactly_once(&rig, jobs);
    assert_eq!(told(&rig.stark, "runs"), jobs as u64, "no count is lost");
    let lines = rig.stark.log_lines("worker").len();
    assert!(lines < 60, "{lines} lines");
}

#[test]
fn without_jitter_a_worker_runs_exactly_so_many_jobs() {
    let (jobs, limit) = (3000, 100);
    let worker = format!("count = 2\nmax_run_count = {limit}\njitter = 0%");
    let rig = rig(SCRIPT, "", "", &worker);
    rig.push((0..jobs).map(|number| number.to_string()));
    finish_exactly_once(&rig, jobs);
    let runs = runs_by_script(&rig.stark);
    let others: Vec<_> = runs.iter().filter(|runs| **runs != limit).collect();
    assert!(others.len() <= 2, "but the last two: {others:?}");
    assert!(others.iter().all(|runs| **runs < limit), "{others:?}");
}

#[test]
fn with_jitter_workers_leave_between_the_lowered_limit_and_the_limit_and_not_all_at_one_number() {
    let jobs = 3000;
    let worker = "count = 2\nmax_run_count = 100\njitter = 50%";
    let rig = rig(SCRIPT, "", "", worker);
    rig.push((0..jobs).map(|number| number.to_string()));
    finish_exactly_once(&rig, jobs);
    let runs = runs_by_script(&rig.stark);
    assert!(runs.iter().all(|runs| *runs <= 100), "{runs:?}");
    let early = runs.iter().filter(|runs| **runs < 50).count();
    assert!(early <= 2, "but the last two: {runs:?}");
    // Some thirty draws of fifty numbers: that all are the same does not happen.
    let mut distinct = runs;
    distinct.sort_unstable();
    distinct.dedup();
    assert!(distinct.len() > 3, "{distinct:?}");
}

#[test]
fn workers_that_grow_old_under_load_lose_and_double_nothing() {
    let jobs = 3000;
    let rig = rig("", "", "", "count = 2\nmax_run_seconds = 0.2");
    rig.push((0..jobs).map(|number| rig.job_of_ms(number, 1)));
    rig.drain(jobs);
    let recycled = rig.stark.figure("workers_recycled");
    assert!(recycled >= 4, "{recycled}");
    finish_exactly_once(&rig, jobs);
    assert!(told(&rig.stark, "age") >= recycled);
}

#[test]
fn workers_that_come_and_go_between_waves_of_jobs_lose_and_double_nothing() {
    let (waves, jobs) = (10, 200);
    let worker = "count = 2\nmax_idle_seconds = 0.05";
    let rig = rig("", "log_level = debug", "", worker);
    for wave in 0..waves {
        let before = rig.stark.figure("workers_recycled");
        rig.push_numbers(wave * jobs..(wave + 1) * jobs);
        rig.drain((wave + 1) * jobs);
        wait_for(LIMIT, "an idle one leaves", || {
            rig.stark.figure("workers_recycled") > before
        });
    }
    finish_exactly_once(&rig, waves * jobs);
    assert!(told(&rig.stark, "idle") >= waves as u64);
    let informed = rig.stark.log_lines("reason=idle");
    assert!(informed.iter().all(|line| line.contains(" DEBUG ")));
    // The first two of all; those who followed an idle one are as little news as its end.
    assert_eq!(
        rig.stark
            .log_lines(" INFO master")
            .iter()
            .filter(|line| line.contains("worker ready"))
            .count(),
        2
    );
}

#[test]
fn a_script_that_leaks_is_replaced_before_it_dies_of_its_own_limit() {
    let jobs = 800;
    let script = r#"<?php
function run($worker, $data)
{
    static $leak = [];
    // Small pieces: of a large one PHP counts up to twice what is resident.
    for ($piece = 0; $piece < 10; $piece++) {
        $leak[] = str_repeat('x', 100_000);
    }
    file_put_contents('ledger', "$data\n", FILE_APPEND);
    usleep(10000);
}
"#;
    let main = "heartbeat_seconds = 0.1";
    let rig = rig(script, main, "memory_limit = 160M", "count = 2");
    rig.push((0..jobs).map(|number| number.to_string()));
    rig.drain(jobs);
    let recycled = rig.stark.figure("workers_recycled");
    assert!(recycled >= 3, "{recycled}");
    assert_eq!(rig.stark.figure("run_failures"), 0);
    finish_exactly_once(&rig, jobs);
    assert!(told(&rig.stark, "memory") >= recycled);
}

/// Of blocks just over a MiB PHP counts nearly twice what is resident, and at this pace no heartbeat comes in time.
#[test]
fn a_script_that_leaks_fast_what_the_kernel_does_not_see_is_replaced_as_well() {
    let jobs = 800;
    let script = r#"<?php
function run($worker, $data)
{
    static $leak = [];
    $leak[] = str_repeat('x', 1_100_000);
    file_put_contents('ledger', "$data\n", FILE_APPEND);
    usleep(1000);
}
"#;
    let main = "heartbeat_seconds = 10";
    let rig = rig(script, main, "memory_limit = 160M", "count = 2");
    rig.push((0..jobs).map(|number| number.to_string()));
    rig.drain(jobs);
    let recycled = rig.stark.figure("workers_recycled");
    assert!(recycled >= 5, "{recycled}");
    assert_eq!(rig.stark.figure("run_failures"), 0);
    finish_exactly_once(&rig, jobs);
    assert!(told(&rig.stark, "memory") >= recycled);
}

#[test]
fn a_worker_that_somebody_sends_a_sigterm_is_recycled_by_order_and_replaced_at_once() {
    let (jobs, times) = (3000, 20);
    let rig = rig("", "", "", "count = 2");
    rig.push((0..jobs).map(|number| rig.job_of_ms(number, 1)));
    for time in 0..times {
        let mut pids = Vec::new();
        wait_for(LIMIT, "two at work", || {
            pids = rig.stark.worker_pids();
            pids.len() == 2 && pids.iter().all(|pid| title(*pid).ends_with("[busy]"))
        });
        kill(pids[time % 2], Signal::SIGTERM);
        rig.stark
            .wait_for_figure("workers_recycled", time as u64 + 1);
    }
    assert_eq!(rig.stark.figure("workers_crashed"), 0);
    finish_exactly_once(&rig, jobs);
    assert_eq!(told(&rig.stark, "order"), times as u64);
}

#[test]
fn reloads_under_load_lose_and_double_nothing() {
    let (jobs, reloads) = (3000, 3);
    let rig = rig("", "", "", "count = 2");
    rig.push((0..jobs).map(|number| rig.job_of_ms(number, 1)));
    for reload in 1..=reloads {
        kill(rig.stark.pid(), Signal::SIGHUP);
        rig.stark.wait_for_log_times("reload finished", reload);
    }
    let recycled = 2 * reloads as u64;
    assert_eq!(rig.stark.figure("workers_recycled"), recycled);
    finish_exactly_once(&rig, jobs);
    assert_eq!(told(&rig.stark, "reload"), recycled);
}

#[test]
fn a_grandchild_far_over_the_memory_limit_dies_with_its_worker_also_in_a_session_of_its_own() {
    let script = r#"<?php
function run($worker, $data)
{
    file_put_contents('ledger', "$data\n", FILE_APPEND);
    if ($data !== '5' || file_exists('hog')) {
        return;
    }
    $hog = 'file_put_contents("hog", getmypid()); $x = str_repeat("x", 150 << 20); sleep(1000);';
    exec('setsid php -r ' . escapeshellarg($hog));
}
"#;
    let jobs = 100;
    let main = "heartbeat_seconds = 0.2";
    let rig = rig(script, main, "memory_limit = 80M", "count = 1");
    rig.push((0..jobs).map(|number| number.to_string()));
    let line = rig.stark.wait_for_log("worker killed");
    assert!(line.contains("reason=memory"), "{line}");
    assert!(line.contains(" rss_bytes="), "{line}");
    assert!(
        line.contains(&format!(" limit_bytes={}", 120 << 20)),
        "{line}"
    );
    let hog: i32 = rig.stark.read("hog").parse().expect("it wrote its pid");
    wait_for(LIMIT, "the grandchild ends", || !is_alive(hog));
    rig.drain(jobs);
    assert_eq!(rig.stark.figure("workers_crashed"), 1);
    let mut runs = rig.finish(jobs);
    runs.sort_unstable();
    let expected: Vec<usize> = (0..=5).chain(5..jobs).collect();
    assert_eq!(runs, expected, "the job in hand runs again, and no other");
}

#[test]
fn a_worker_stopped_in_its_job_is_killed_for_its_silence_and_the_job_runs_again() {
    let jobs = 50;
    let rig = rig("", "heartbeat_seconds = 0.2", "", "count = 1");
    let mut gate = rig.gate("gate");
    rig.push((0..jobs).map(|number| match number {
        7 => rig.job_at(number, &gate),
        _ => rig.job(number),
    }));
    rig.wait_for_run(7, 1);
    let worker = rig.worker_pid(0);
    kill(worker, Signal::SIGSTOP);
    let line = rig.stark.wait_for_log("worker killed");
    assert!(line.contains("reason=heartbeat silent_ms="), "{line}");
    rig.wait_for_run(7, 2);
    gate.open();
    let mut runs = rig.finish(jobs);
    runs.sort_unstable();
    let expected: Vec<usize> = (0..=7).chain(7..jobs).collect();
    assert_eq!(runs, expected, "the job in hand runs again, and no other");
}

#[test]
fn hundreds_of_recycles_leave_no_descriptor_and_no_zombie_in_the_master() {
    let rig = rig("", "", "", "count = 2\nmax_run_count = 1");
    let descriptors = || {
        let entries = std::fs::read_dir(format!("/proc/{}/fd", rig.stark.pid()));
        entries.expect("it lives").count()
    };
    rig.push_numbers(0..20);
    rig.stark.wait_for_figure("workers_recycled", 20);
    rig.stark.wait_for_figure("worker_idle", 2);
    let before = descriptors();
    rig.push_numbers(20..300);
    rig.stark.wait_for_figure("workers_recycled", 300);
    rig.stark.wait_for_figure("worker_idle", 2);
    // The admin client that asked last may be there still.
    wait_for(Duration::from_secs(10), "as many as before", || {
        descriptors() <= before
    });
    assert_eq!(
        children(rig.stark.pid()).len(),
        4,
        "two workers, the keeper and the logger"
    );
    finish_exactly_once(&rig, 300);
}

#[test]
fn without_a_queue_a_worker_leaves_at_its_limits_also_from_a_long_sleep() {
    let script = "<?php function run($worker, $data) { return false; }";
    for (limit, reason) in [("max_run_seconds", "age"), ("max_idle_seconds", "idle")] {
        let ini = format!(
            "[main]\nlog_level = debug\n[run]\nscript_file = run.php\n[worker]\nempty_sleep_seconds = 3600\n{limit} = 0.2\n"
        );
        let stark = Stark::start(&ini, script);
        let line = stark.wait_for_log("worker exited");
        assert!(
            line.contains(&format!("status=0 reason={reason}")),
            "{line}"
        );
        stark.stop();
    }
}

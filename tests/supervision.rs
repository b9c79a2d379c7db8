//! Supervision of real processes: who is replaced, when and why; who is left alone; and that workers have nothing of
//! the master's or of each other.

mod support;

use std::collections::HashSet;
use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;
use support::redis::Redis;
use support::stark::{
    LIMIT, Stark, children, is_alive, kill, queue, state, status, title, wait_for, wait_for_value,
};

const PROBE: &str = "[run]\nbuiltin = probe\n";

/// A daemon whose consumer does what the payload says.
fn probe(redis: &Redis, main: &str, worker: &str) -> Stark {
    let queue = queue(redis, "jobs");
    Stark::start(
        &format!("[main]\n{main}\n{PROBE}[worker]\n{worker}\n{queue}"),
        "",
    )
}

#[test]
fn a_killed_worker_is_replaced_and_the_others_are_left_alone() {
    let stark = Stark::start("[run]\nbuiltin = null\n[worker]\ncount = 3\n", "");
    let before = stark.worker_pids();
    kill(before[1], Signal::SIGKILL);
    stark.wait_for_figure("worker_total", 4);
    wait_for(LIMIT, "a successor", || stark.worker_pids().len() == 3);
    let after = stark.worker_pids();
    assert_eq!((after[0], after[2]), (before[0], before[2]));
    assert_ne!(after[1], before[1]);
    assert_eq!(stark.worker(1)["generation"], "2");
    assert_eq!(stark.figure("workers_crashed"), 1);
    let line = stark.wait_for_log("worker exited");
    assert!(
        line.contains("slot=1") && line.contains("signal=SIGKILL"),
        "{line}"
    );
    stark.stop();
}

#[test]
fn a_worker_that_is_silent_for_three_heartbeats_is_killed_and_replaced() {
    let ini = "[main]\nheartbeat_seconds = 0.5\n[run]\nbuiltin = null\n[worker]\ncount = 2\n";
    let stark = Stark::start(ini, "");
    let before = stark.worker_pids();
    kill(before[0], Signal::SIGSTOP);
    let line = stark.wait_for_log("worker killed");
    assert!(
        line.contains(&format!("pid={} reason=heartbeat", before[0])),
        "{line}"
    );
    // The killed one is there until it is reaped.
    wait_for(LIMIT, "a successor", || {
        let after = stark.worker_pids();
        after.len() == 2 && after[0] != before[0]
    });
    assert_eq!(stark.worker_pids()[1], before[1]);
    stark.stop();
}

#[test]
fn a_script_that_dies_while_nothing_is_to_do_is_reaped_and_started_again() {
    let redis = Redis::start();
    let ini = format!("[run]\nscript_file = run.php\n{}", queue(&redis, "q"));
    let stark = Stark::start(&ini, "<?php function run($worker, $data) {}");
    let worker = stark.worker_pids()[0];
    wait_for(LIMIT, "it is idle", || stark.worker(0)["state"] == "idle");
    let before = children(worker);
    kill(before[0], Signal::SIGKILL);
    let line = stark.wait_for_log("script gone");
    assert!(line.contains("script killed by SIGKILL"), "{line}");
    wait_for(LIMIT, "another script", || {
        let now = children(worker);
        now.len() == 1 && now != before && is_alive(now[0])
    });
    stark.stop();
}

#[test]
fn a_master_that_was_stopped_kills_nobody_and_counts_it() {
    let ini = "[main]\nheartbeat_seconds = 0.5\n[run]\nbuiltin = null\n[worker]\ncount = 3\n";
    let stark = Stark::start(ini, "");
    let (master, before) = (stark.pid(), stark.worker_pids());
    kill(master, Signal::SIGSTOP);
    wait_for(LIMIT, "it is stopped", || state(master) == Some('T'));
    // The pause is what is tested: four heartbeats, where three are enough for a death.
    std::thread::sleep(Duration::from_secs(2));
    kill(master, Signal::SIGCONT);
    wait_for(LIMIT, "the pause is counted", || {
        stark.figure("stalls") >= 1
    });
    assert!(stark.log().contains("heartbeats forgiven"));
    assert_eq!(stark.worker_pids(), before);
    assert_eq!(stark.figure("workers_crashed"), 0);
    stark.stop();
}

#[test]
fn hup_replaces_the_workers_one_by_one() {
    let stark = Stark::start("[run]\nbuiltin = null\n[worker]\ncount = 4\n", "");
    let before = stark.worker_pids();
    kill(stark.pid(), Signal::SIGHUP);
    stark.wait_for_log("reload finished");
    let after = stark.worker_pids();
    assert_eq!(after.len(), 4);
    assert!(
        after.iter().all(|pid| !before.contains(pid)),
        "{before:?} {after:?}"
    );
    assert_eq!(
        (
            stark.figure("workers_recycled"),
            stark.figure("workers_crashed")
        ),
        (4, 0)
    );
    // The log tells the order: the next one leaves only when the successor of the last is ready.
    let log = stark.log();
    let mut absent = 0;
    for line in log
        .lines()
        .skip_while(|line| !line.contains("order=Reload"))
    {
        absent += i32::from(line.contains("worker exited"));
        absent -= i32::from(line.contains("worker ready"));
        assert!((0..=1).contains(&absent), "{log}");
    }
    stark.stop();
}

#[test]
fn hup_does_not_read_the_settings_again() {
    let stark = Stark::start("[run]\nbuiltin = null\n[worker]\ncount = 2\n", "");
    stark.write("t.ini", "[run]\nbuiltin = null\n[worker]\ncount = 9\n");
    kill(stark.pid(), Signal::SIGHUP);
    stark.wait_for_log("reload finished");
    assert_eq!(stark.figure("worker_max"), 2);
    stark.write("t.ini", "[run]\nbuiltin = null\n");
    stark.stop();
}

#[test]
fn usr1_reopens_the_log_in_every_process() {
    let redis = Redis::start();
    let ini = "[main]\nlog_file = the.log\n[run]\nbuiltin = echo\n";
    let stark = Stark::start(&format!("{ini}{}", queue(&redis, "jobs")), "");
    redis.push("jobs", &["before"]);
    stark.wait_for_log("line=before");
    fs::rename(stark.path("the.log"), stark.path("the.old")).unwrap();
    kill(stark.pid(), Signal::SIGUSR1);
    stark.wait_for_log("log reopened");
    redis.push("jobs", &["after"]);
    wait_for(LIMIT, "the worker's line", || {
        stark.read("the.log").contains("line=after")
    });
    assert!(!stark.read("the.old").contains("line=after"));
    stark.stop();
    assert!(stark.read("the.log").contains("keeper exited"));
}

#[test]
fn signals_of_later_features_are_logged_and_kill_nothing() {
    let stark = Stark::start("[run]\nbuiltin = null\n[worker]\ncount = 2\n", "");
    let before = (stark.pid(), stark.worker_pids());
    for (signal, name) in [
        (Signal::SIGUSR2, "USR2"),
        (Signal::SIGTTIN, "TTIN"),
        (Signal::SIGTTOU, "TTOU"),
    ] {
        kill(stark.pid(), signal);
        stark.wait_for_log(&format!("signal not supported yet signal={name}"));
    }
    assert_eq!((stark.pid(), stark.worker_pids()), before);
    stark.stop();
}

#[test]
fn workers_are_not_disturbed_by_signals_that_a_terminal_or_an_operator_sends_to_all() {
    let stark = Stark::start("[run]\nbuiltin = null\n[worker]\ncount = 2\n", "");
    let before = stark.worker_pids();
    for signal in [
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGHUP,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
    ] {
        before.iter().for_each(|pid| kill(*pid, signal));
    }
    // One who had died of it would be seen before the answer.
    stark.wait_for_figure("worker_alive", 2);
    assert_eq!(stark.worker_pids(), before);
    stark.stop();
    assert_eq!(stark.log_lines("reason=crash").len(), 0);
}

#[test]
fn a_worker_is_recycled_after_so_many_runs() {
    let redis = Redis::start();
    let stark = probe(&redis, "", "count = 1\nmax_run_count = 10\njitter = 0%");
    let first = stark.worker_pids();
    (0..25).for_each(|_| redis.push("jobs", &["sleep 0"]));
    stark.wait_for_figure("run_count", 25);
    stark.wait_for_figure("workers_recycled", 2);
    assert!(
        stark
            .wait_for_log("worker exited")
            .contains("status=0 reason=runs")
    );
    wait_for(LIMIT, "the third", || stark.worker(0)["generation"] == "3");
    wait_for(LIMIT, "its runs", || stark.worker(0)["run_count"] == "5");
    assert_ne!(stark.worker_pids(), first);
    assert_eq!(stark.figure("workers_crashed"), 0);
    stark.stop();
}

#[test]
fn a_worker_is_recycled_at_its_age_also_while_it_sleeps() {
    let redis = Redis::start();
    let stark = probe(&redis, "", "count = 1\nmax_run_seconds = 0.3\njitter = 0%");
    let line = stark.wait_for_log("worker exited");
    assert!(
        line.contains(" INFO ") && line.contains("reason=age"),
        "{line}"
    );
    stark.stop();
}

#[test]
fn a_worker_without_work_is_recycled_and_that_is_a_debug_line() {
    let redis = Redis::start();
    let stark = probe(
        &redis,
        "log_level = debug",
        "count = 1\nmax_idle_seconds = 0.3\njitter = 0%",
    );
    let line = stark.wait_for_log("worker exited");
    assert!(
        line.contains(" DEBUG ") && line.contains("reason=idle"),
        "{line}"
    );
    stark.stop();
}

#[test]
fn a_worker_over_its_memory_is_recycled_after_the_job_in_hand() {
    let redis = Redis::start();
    let ini = format!(
        "[main]\nheartbeat_seconds = 0.5\n{PROBE}memory_limit = 100M\n{}",
        queue(&redis, "jobs")
    );
    let stark = Stark::start(&ini, "");
    let notes = stark.path("notes");
    redis.push(
        "jobs",
        &[&format!(
            "allocate 90; sleep 2000; append {} ended",
            notes.display()
        )],
    );
    let line = stark.wait_for_log("worker exited");
    assert!(line.contains("status=0 reason=memory"), "{line}");
    assert_eq!(stark.read("notes"), "ended\n");
    stark.wait_for_figure("worker_idle", 1);
    stark.stop();
}

#[test]
fn a_worker_far_over_its_memory_is_killed_and_the_job_in_hand_is_back() {
    let redis = Redis::start();
    let ini = format!(
        "[main]\nheartbeat_seconds = 0.5\n{PROBE}memory_limit = 40M\n{}",
        queue(&redis, "jobs")
    );
    let stark = Stark::start(&ini, "");
    let marker = stark.path("marker");
    redis.push(
        "jobs",
        &[&format!(
            "append {} x; allocate 100; sleep 60000",
            marker.display()
        )],
    );
    let line = stark.wait_for_log("worker killed");
    assert!(
        line.contains("reason=memory") && line.contains("limit_bytes="),
        "{line}"
    );
    wait_for(LIMIT, "the job runs again", || {
        stark.read("marker").len() >= 4
    });
    assert_eq!(stark.cli(&["shutdown", "now"]).status, 0);
    stark.assert_nothing_left();
}

#[test]
fn a_script_that_leaks_counts_as_its_workers_memory() {
    let script = "<?php $leak = ''; function run($worker, $data) { global $leak; $leak = str_repeat('x', 90 << 20); usleep(500000); }";
    let redis = Redis::start();
    let ini = format!(
        "[main]\nheartbeat_seconds = 0.5\n[run]\nscript_file = run.php\nmemory_limit = 110M\n{}",
        queue(&redis, "jobs")
    );
    let stark = Stark::start(&ini, script);
    redis.push("jobs", &["x"]);
    let line = stark.wait_for_log("worker exited");
    assert!(line.contains("reason=memory"), "{line}");
    stark.wait_for_figure("run_count", 1);
    stark.stop();
}

#[test]
fn a_worker_that_keeps_crashing_is_started_ever_later_and_never_given_up() {
    let script = "<?php function run($worker, $data) { if (file_exists('go')) return; posix_kill(posix_getppid(), SIGKILL); sleep(60); }";
    let redis = Redis::start();
    let queue = queue(&redis, "jobs");
    let ini = format!("[run]\nscript_file = run.php\n{queue}[retry]\nmax_crashes = 0\n");
    let stark = Stark::start(&ini, script);
    redis.push("jobs", &["x"]);
    wait_for(LIMIT, "five crashes", || {
        stark.figure("workers_crashed") >= 5
    });
    wait_for(LIMIT, "a start that is put off", || {
        let worker = stark.worker(0);
        worker["state"] == "backoff" && worker["next_start_ms"] != "0"
    });
    assert_eq!(stark.figure("run_count"), 0);
    stark.write("go", "");
    stark.wait_for_figure("run_count", 1);
    stark.stop();
}

/// The soft limit of open descriptors of a process.
fn limit_descriptors(pid: i32, limit: &str) {
    let mut command = std::process::Command::new("prlimit");
    command.args([format!("--pid={pid}"), format!("--nofile={limit}:")]);
    assert!(command.status().expect("util-linux is there").success());
}

#[test]
fn a_fork_that_is_refused_is_tried_again_ever_later_until_it_succeeds() {
    let redis = Redis::start();
    let stark = probe(&redis, "", "count = 3");
    let (master, before) = (stark.pid(), stark.worker_pids());
    // Enough for nobody: a new worker needs a channel. Without a descriptor no client is served either.
    limit_descriptors(master, "3");
    kill(before[1], Signal::SIGKILL);
    let lines = stark.wait_for_log_times("cannot fork worker pool=t slot=1 gen=", 4);
    for (line, retry_ms) in lines.iter().zip([100, 200, 400, 800]) {
        assert!(line.contains("Too many open files"), "{line}");
        assert!(line.ends_with(&format!("retry_ms={retry_ms}")), "{line}");
    }
    limit_descriptors(master, "1024");
    wait_for(LIMIT, "a successor", || stark.worker_pids().len() == 3);
    let after = stark.worker_pids();
    assert_eq!((after[0], after[2]), (before[0], before[2]));
    redis.push("jobs", &["sleep 0"]);
    stark.wait_for_figure("run_count", 1);
    stark.stop();
}

#[test]
fn a_worker_killed_at_work_takes_its_script_and_what_that_has_started_along() {
    let script = "<?php function run($worker, $data) { exec('sleep 1000 > /dev/null 2>&1 & echo $!', $l); file_put_contents('grandchild', $l[0]); while (!file_exists('go')) usleep(5000); }";
    let redis = Redis::start();
    let ini = format!("[run]\nscript_file = run.php\n{}", queue(&redis, "jobs"));
    let stark = Stark::start(&ini, script);
    redis.push("jobs", &["x"]);
    wait_for(LIMIT, "a grandchild", || {
        !stark.read("grandchild").is_empty()
    });
    let grandchild: i32 = stark.read("grandchild").parse().unwrap();
    stark.write("go", "");
    let worker = stark.worker_pids()[0];
    kill(worker, Signal::SIGKILL);
    wait_for(LIMIT, "the grandchild ends", || !is_alive(grandchild));
    stark.stop();
}

#[test]
fn titles_tell_who_is_who_and_what_he_does() {
    let redis = Redis::start();
    let stark = probe(&redis, "name = mail", "count = 2");
    stark.wait_for_figure("worker_idle", 2);
    let master = stark.pid();
    assert_eq!(title(master), "stark: mail master");
    let mut titles: Vec<String> = children(master).into_iter().map(title).collect();
    titles.sort();
    let idle = [
        "stark: mail keeper",
        "stark: mail logger",
        "stark: mail worker 0 [idle]",
        "stark: mail worker 1 [idle]",
    ];
    assert_eq!(titles, idle);
    redis.push("jobs", &["sleep 600000"]);
    wait_for(LIMIT, "a busy one", || {
        stark
            .worker_pids()
            .into_iter()
            .any(|pid| title(pid).ends_with("[busy]"))
    });
    assert_eq!(stark.cli(&["shutdown", "now"]).status, 0);
    stark.assert_nothing_left();
}

#[test]
fn every_worker_is_pinned_to_a_core_and_its_script_with_it() {
    let usable = core_affinity::get_core_ids()
        .expect("the kernel tells")
        .len();
    let script = "<?php function run($worker, $data) { return false; }";
    let ini = format!(
        "[run]\nscript_file = run.php\n[worker]\ncount = {}\nempty_sleep_seconds = 0.05\n",
        2 * usable
    );
    let stark = Stark::start(&ini, script);
    let mut cores = Vec::new();
    for (number, pid) in stark.worker_pids().into_iter().enumerate() {
        let core = status(pid, "Cpus_allowed_list");
        assert_eq!(core, stark.worker(number)["core"]);
        let scripts = children(pid);
        assert_eq!(scripts.len(), 1);
        assert_eq!(status(scripts[0], "Cpus_allowed_list"), core);
        cores.push(core);
    }
    let distinct: HashSet<_> = cores.iter().collect();
    assert_eq!(distinct.len(), usable, "two on each: {cores:?}");
    assert_eq!(cores[..usable], cores[usable..]);
    stark.stop();
}

#[test]
fn a_worker_holds_nothing_of_the_masters_and_nothing_of_its_siblings() {
    let redis = Redis::start();
    let stark = probe(&redis, "", "count = 3");
    // Forked last, when all the others' channels exist.
    kill(stark.worker_pids()[0], Signal::SIGKILL);
    stark.wait_for_figure("worker_total", 4);
    stark.wait_for_figure("worker_idle", 3);
    let descriptors = |pid: i32| -> Vec<String> {
        let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
        let targets = entries.filter_map(|entry| fs::read_link(entry.path()).ok());
        targets
            .map(|target| target.to_string_lossy().into_owned())
            .collect()
    };
    let of_master: HashSet<String> = descriptors(stark.pid()).into_iter().collect();
    let sockets_of = |pid| -> HashSet<String> {
        let all = descriptors(pid).into_iter();
        all.filter(|target| target.starts_with("socket:")).collect()
    };
    let workers = stark.worker_pids();
    // All have the queue to the logger, and nothing else, in common.
    let common = sockets_of(workers[0])
        .intersection(&of_master)
        .cloned()
        .collect::<HashSet<_>>();
    assert_eq!(common.len(), 1, "{common:?}");
    let sockets_of = |pid| -> HashSet<String> { &sockets_of(pid) - &common };
    for pid in &workers {
        let own = descriptors(*pid);
        assert!(
            !own.iter().any(|target| target.contains("t.pid")),
            "{own:?}"
        );
        assert!(
            !own.iter().any(|target| target.contains("eventpoll")),
            "{own:?}"
        );
        let shared: Vec<_> = sockets_of(*pid)
            .into_iter()
            .filter(|s| of_master.contains(s))
            .collect();
        assert!(
            shared.is_empty(),
            "listener and master's ends of channels: {shared:?}"
        );
        // Its channel and its connection.
        assert_eq!(sockets_of(*pid).len(), 2, "{own:?}");
        for sibling in workers.iter().filter(|sibling| *sibling != pid) {
            assert!(sockets_of(*pid).is_disjoint(&sockets_of(*sibling)));
        }
    }
    assert!(
        children(stark.pid()).iter().all(|pid| is_alive(*pid)),
        "no zombies"
    );
    stark.stop();
}

#[test]
fn without_a_queue_run_is_called_again_and_again_with_null() {
    let script = r#"<?php
function run($worker, $data) {
    static $calls = 0;
    file_put_contents('notes', var_export($data, true) . "\n", FILE_APPEND);
    return ++$calls < 5;
}"#;
    let ini = "[run]\nscript_file = run.php\n[worker]\nempty_sleep_seconds = 3600\n";
    let stark = Stark::start(ini, script);
    // False, the fifth time, means that there is nothing to do: it sleeps, and the call counts all the same.
    wait_for_value(LIMIT, "runs", 5, || stark.figure("run_count"));
    stark.wait_for_figure("worker_idle", 1);
    assert_eq!(stark.read("notes"), "NULL\n".repeat(5));
    assert_eq!(stark.figure("run_failures"), 0);
    stark.stop();
}

#[test]
fn without_a_queue_a_short_sleep_ends_by_itself() {
    let script = "<?php function run($worker, $data) { return false; }";
    let ini = "[run]\nscript_file = run.php\n[worker]\nempty_sleep_seconds = 0.01\n";
    let stark = Stark::start(ini, script);
    wait_for(LIMIT, "many calls", || stark.figure("run_count") > 20);
    stark.stop();
}

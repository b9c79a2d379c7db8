//! Stopping: jobs in hand are finished and acknowledged, what was not begun goes back in its order, what takes too long
//! is ended and runs again, and nothing of the daemon is left.

mod support;

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use support::redis::Redis;
use support::stark::{LIMIT, Stark, children, is_alive, kill, queue, wait_for};

/// Notes the begin and the end of each job with one write each; `slow` ends when the test writes the file `go`.
const NOTES: &str = r#"<?php
function run($worker, $data) {
    note("begin $data");
    while ($data === 'slow' && !file_exists('go')) usleep(5000);
    note("end $data");
}
function note($line) { file_put_contents('notes', "$line\n", FILE_APPEND); }
"#;

/// Notes each job, and never ends `stuck`; SIGTERM ends PHP by default.
const STUCK: &str = r#"<?php
function run($worker, $data) {
    file_put_contents('notes', "begin $data\n", FILE_APPEND);
    while ($data === 'stuck' && !file_exists('go')) usleep(5000);
}
"#;

/// Tells a daemon something.
type Order = fn(&Stark);

fn ini(redis: &Redis, main: &str, worker: &str) -> String {
    let queue = queue(redis, "jobs");
    format!(
        "[main]\n{main}\n[run]\nscript_file = run.php\n[worker]\n{worker}\n{queue}prefetch = 100\n"
    )
}

/// Reserved lists that exist, and their registry's members.
fn reserved(redis: &Redis) -> Vec<String> {
    let mut connection = redis.connect();
    let keys = redis::cmd("KEYS").arg("*:reserved*").query(&mut connection);
    keys.expect("redis answers")
}

/// Starts the daemon with a slow job in hand and others that wait behind it.
fn busy(redis: &Redis, main: &str) -> Stark {
    redis.push("jobs", &["slow", "a", "b", "c", "d"]);
    let stark = Stark::start(&ini(redis, main, "count = 1"), NOTES);
    wait_for(LIMIT, "the job begins", || {
        stark.read("notes") == "begin slow\n"
    });
    stark
}

/// The slow job ends; then nothing is left but the others, in their order.
#[track_caller]
fn assert_gentle(redis: &Redis, stark: &Stark) {
    stark.write("go", "");
    stark.assert_nothing_left();
    assert_eq!(stark.read("notes"), "begin slow\nend slow\n");
    assert_eq!(redis.list("jobs"), [b"a", b"b", b"c", b"d"]);
    assert_eq!(reserved(redis), [""; 0]);
    stark.wait_for_log("master exit status=0");
}

#[test]
fn every_way_to_stop_finishes_the_job_in_hand_and_gives_back_the_rest_in_order() {
    let ways: [(&str, Order); 4] = [
        ("TERM", |stark| kill(stark.pid(), Signal::SIGTERM)),
        ("INT", |stark| kill(stark.pid(), Signal::SIGINT)),
        ("SHUTDOWN", |stark| {
            assert_eq!(stark.command(&["SHUTDOWN"]), stark::resp::Reply::OK);
        }),
        ("shutdown", |stark| {
            assert_eq!(stark.cli(&["shutdown"]).stdout, "OK\n")
        }),
    ];
    for (name, stop) in ways {
        let redis = Redis::start();
        let stark = busy(&redis, "");
        stop(&stark);
        stark.wait_for_log("order received");
        wait_for(LIMIT, name, || stark.info()["state"] == "draining");
        assert_gentle(&redis, &stark);
    }
}

#[test]
fn stop_returns_when_the_daemon_is_gone() {
    let redis = Redis::start();
    let stark = busy(&redis, "");
    let master = stark.pid();
    std::thread::scope(|scope| {
        let stop = scope.spawn(|| {
            let ended = stark.cli(&["stop"]);
            (ended, is_alive(master))
        });
        stark.wait_for_log("order received");
        assert!(!stop.is_finished(), "the job in hand runs");
        stark.write("go", "");
        let (ended, was_alive) = stop.join().expect("no panic");
        assert_eq!((ended.status, was_alive), (0, false), "{ended:?}");
    });
    assert_gentle(&redis, &stark);
}

#[test]
fn the_next_start_goes_on_where_the_stop_ended() {
    let redis = Redis::start();
    let stark = busy(&redis, "");
    kill(stark.pid(), Signal::SIGTERM);
    stark.wait_for_log("order received");
    assert_gentle(&redis, &stark);
    stark.start_again();
    let all =
        "begin slow\nend slow\nbegin a\nend a\nbegin b\nend b\nbegin c\nend c\nbegin d\nend d\n";
    wait_for(LIMIT, "all jobs in order", || stark.read("notes") == all);
    stark.wait_for_figure("run_count", 5);
    stark.stop();
}

#[test]
fn a_job_that_takes_too_long_is_terminated_and_runs_again_after_the_next_start() {
    let redis = Redis::start();
    redis.push("jobs", &["stuck", "a", "b"]);
    let stark = Stark::start(&ini(&redis, "shutdown_timeout = 0.3", "count = 1"), STUCK);
    wait_for(LIMIT, "the job begins", || {
        stark.read("notes") == "begin stuck\n"
    });
    kill(stark.pid(), Signal::SIGTERM);
    stark.assert_nothing_left();
    assert!(
        stark.log().contains("worker terminated"),
        "SIGTERM comes first"
    );
    assert_eq!(redis.list("jobs"), [&b"stuck"[..], b"a", b"b"]);
    assert_eq!(reserved(&redis), [""; 0]);

    stark.write("go", "");
    stark.start_again();
    let all = "begin stuck\nbegin stuck\nbegin a\nbegin b\n";
    wait_for(LIMIT, "all jobs, the one in hand twice", || {
        stark.read("notes") == all
    });
    stark.stop();
}

#[test]
fn a_script_that_ignores_sigterm_is_killed_three_seconds_later() {
    let redis = Redis::start();
    let script = format!("<?php pcntl_signal(SIGTERM, SIG_IGN); ?>{STUCK}");
    redis.push("jobs", &["stuck", "a"]);
    let stark = Stark::start(&ini(&redis, "shutdown_timeout = 0.2", "count = 1"), &script);
    wait_for(LIMIT, "the job begins", || {
        stark.read("notes") == "begin stuck\n"
    });
    let begin = Instant::now();
    kill(stark.pid(), Signal::SIGTERM);
    stark.assert_nothing_left();
    assert!(
        begin.elapsed() >= Duration::from_millis(3200),
        "{:?}",
        begin.elapsed()
    );
    assert!(stark.log().contains("reason=shutdown_timeout"));
    assert_eq!(redis.list("jobs"), [&b"stuck"[..], b"a"]);
}

#[test]
fn who_asks_twice_does_not_want_to_wait() {
    let twice: [Order; 3] = [
        |stark| {
            kill(stark.pid(), Signal::SIGTERM);
            stark.wait_for_log("order=Shutdown from=signal");
            kill(stark.pid(), Signal::SIGTERM);
        },
        |stark| {
            kill(stark.pid(), Signal::SIGINT);
            stark.wait_for_log("order=Shutdown from=signal");
            assert_eq!(stark.cli(&["shutdown"]).status, 0);
        },
        |stark| assert_eq!(stark.cli(&["shutdown", "now"]).stdout, "OK\n"),
    ];
    for stop in twice {
        let redis = Redis::start();
        redis.push("jobs", &["stuck", "a", "b"]);
        let stark = Stark::start(&ini(&redis, "shutdown_timeout = 60", "count = 1"), STUCK);
        wait_for(LIMIT, "the job begins", || {
            stark.read("notes") == "begin stuck\n"
        });
        stop(&stark);
        stark.assert_nothing_left();
        // What the killed ones held is in their reserved lists, and back after the next start.
        stark.write("go", "");
        stark.start_again();
        let all = "begin stuck\nbegin stuck\nbegin a\nbegin b\n";
        wait_for(LIMIT, "all jobs, the one in hand twice", || {
            stark.read("notes") == all
        });
        stark.stop();
    }
}

#[test]
fn it_stops_while_redis_is_away_and_no_job_is_lost() {
    let mut redis = Redis::start();
    let stark = busy(&redis, "");
    redis.stop();
    kill(stark.pid(), Signal::SIGTERM);
    stark.wait_for_log("order received");
    stark.write("go", "");
    stark.assert_nothing_left();
    assert_eq!(stark.read("notes"), "begin slow\nend slow\n");

    redis.restart();
    stark.start_again();
    let rest = "begin a\nend a\nbegin b\nend b\nbegin c\nend c\nbegin d\nend d\n";
    let all = format!("begin slow\nend slow\n{rest}");
    wait_for(LIMIT, "the others, and the finished one not again", || {
        stark.read("notes") == all
    });
    stark.stop();
}

#[test]
fn idle_workers_stop_while_redis_does_not_answer() {
    let redis = Redis::start();
    let stark = Stark::start(&ini(&redis, "shutdown_timeout = 10", "count = 2"), NOTES);
    stark.wait_for_figure("worker_idle", 2);
    redis.pause();
    stark.stop();
    redis.resume();
}

#[test]
fn it_stops_while_its_workers_still_start() {
    let script = "<?php function init($worker) { touch('starting'); while (true) usleep(5000); } function run($worker, $data) {}";
    let redis = Redis::start();
    let stark = Stark::prepare(&ini(&redis, "", "count = 3"), script);
    std::thread::scope(|scope| {
        let start = scope.spawn(|| stark.cli(&[]));
        wait_for(LIMIT, "init runs", || stark.path("starting").exists());
        let begin = Instant::now();
        kill(stark.pid(), Signal::SIGTERM);
        stark.assert_nothing_left();
        assert!(begin.elapsed() < LIMIT / 2, "no timeout was waited for");
        // It was stopped as asked, but it never was ready.
        assert_ne!(start.join().expect("no panic").status, 0);
    });
}

#[test]
fn processes_that_a_script_has_started_end_with_it() {
    let script = r#"<?php
function run($worker, $data) {
    exec('sleep 1000 > /dev/null 2>&1 & echo $!', $lines);
    file_put_contents('grandchild', $lines[0]);
}"#;
    let redis = Redis::start();
    redis.push("jobs", &["job"]);
    let stark = Stark::start(&ini(&redis, "", "count = 1"), script);
    stark.wait_for_figure("run_count", 1);
    let grandchild: i32 = stark.read("grandchild").parse().expect("a pid");
    assert!(is_alive(grandchild));
    stark.stop();
    assert!(!is_alive(grandchild));
}

#[test]
fn what_a_script_has_started_in_a_session_of_its_own_ends_with_the_daemon() {
    let script = r#"<?php
function run($worker, $data) {
    exec('setsid sh -c "sleep 1000 & echo \$\$ \$! > orphans.new; mv orphans.new orphans; sleep 1000" > /dev/null 2>&1 &');
    while (!file_exists('orphans')) { usleep(1000); clearstatcache(); }
}"#;
    let redis = Redis::start();
    redis.push("jobs", &["job"]);
    let stark = Stark::start(&ini(&redis, "", "count = 1"), script);
    stark.wait_for_figure("run_count", 1);
    let orphans = stark.read("orphans");
    let orphans = orphans
        .split_whitespace()
        .map(|pid| pid.parse().expect("a pid"));
    let orphans: Vec<i32> = orphans.collect();
    assert!(orphans.len() == 2 && orphans.iter().all(|pid| is_alive(*pid)));
    stark.stop();
    assert!(orphans.iter().all(|pid| !is_alive(*pid)));
}

#[test]
fn complete_runs_before_the_end() {
    let script = "<?php function run($worker, $data) {} function complete($worker) { echo \"bye from {$worker->index}\\n\"; file_put_contents('bye', 'x', FILE_APPEND); }";
    let redis = Redis::start();
    let stark = Stark::start(&ini(&redis, "", "count = 3"), script);
    stark.stop();
    assert_eq!(stark.read("bye"), "xxx");
    assert_eq!(stark.log_lines("bye from").len(), 3);
}

#[test]
fn a_command_that_ends_with_the_daemon_leaves_no_client_hanging() {
    let stark = Stark::start("[run]\nbuiltin = null\n", "");
    let port = stark.port();
    let mut client = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    client.set_read_timeout(Some(LIMIT)).unwrap();
    stark.stop();
    let mut rest = Vec::new();
    let end = std::io::Read::read_to_end(&mut client, &mut rest);
    assert!(end.is_ok() && rest.is_empty(), "{end:?}");
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
}

#[test]
fn fifty_workers_start_work_and_stop_cleanly() {
    let redis = Redis::start();
    let ini = format!(
        "[run]\nbuiltin = probe\n[worker]\ncount = 50\n{}",
        queue(&redis, "jobs")
    );
    let stark = Stark::start(&ini, "");
    assert_eq!(stark.worker_pids().len(), 50);
    let notes = stark.path("notes");
    let job = format!("append {} x", notes.display());
    redis.push("jobs", &vec![job.as_str(); 500]);
    stark.wait_for_figure("run_count", 500);
    assert_eq!(stark.read("notes").len(), 1000);
    assert_eq!(
        children(stark.pid()).len(),
        52,
        "workers, keeper and logger, no zombie"
    );
    stark.stop();
    assert!(stark.log_lines(" WARN ").is_empty() && stark.log_lines(" ERROR ").is_empty());
}

//! What `stark restart` promises: the job in hand ends, the settings of now are in force, and what would refuse a start
//! leaves the running daemon alone.

mod support;

use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;
use support::redis::Redis;
use support::stark::{Ended, LIMIT, Stark, is_alive, kill, queue, wait_for, wait_for_value};

const NULL: &str = "[run]\nbuiltin = null\n";
const SCRIPT: &str = "[run]\nscript_file = run.php\n";

/// Begins, waits for the file `go`, and says that it has ended.
const WAITS: &str = "<?php
function run($worker, $data) {
    file_put_contents('begun', $data, FILE_APPEND);
    while (!file_exists('go')) { usleep(2000); clearstatcache(); }
    file_put_contents('ended', $data, FILE_APPEND);
}
";

/// A daemon with a job in hand that ends when `go` is there.
fn busy(redis: &Redis) -> Stark {
    let stark = Stark::start(&format!("{SCRIPT}{}", queue(redis, "jobs")), WAITS);
    assert_eq!(stark.cli(&["push", "a"]).status, 0);
    wait_for_value(LIMIT, "jobs begun", "a".into(), || stark.read("begun"));
    stark
}

#[test]
fn the_settings_of_now_are_in_force_when_it_returns() {
    let stark = Stark::start("[run]\nbuiltin = null\n[worker]\ncount = 1\n", "");
    let old = stark.pid();
    stark.write("t.ini", "[run]\nbuiltin = null\n[worker]\ncount = 3\n");
    let ended = stark.cli(&["restart"]);
    assert_eq!((ended.status, &*ended.stdout), (0, ""), "{ended:?}");
    assert_ne!(stark.pid(), old);
    assert!(!is_alive(old));
    assert_eq!(stark.figure("worker_alive"), 3);
    stark.stop();
}

#[test]
fn the_job_in_hand_ends_and_the_next_one_is_the_new_daemons() {
    let redis = Redis::start();
    let stark = busy(&redis);
    let mut restart = stark.begin(&["restart"]);
    stark.wait_for_draining();
    stark.cli(&["push", "b"]);
    assert_eq!(stark.read("begun"), "a", "who drains begins no other");
    stark.write("go", "");
    assert!(restart.wait().expect("it is our child").success());
    wait_for_value(LIMIT, "jobs ended", "ab".into(), || stark.read("ended"));
    assert_eq!(stark.read("begun"), "ab", "nothing ran twice");
    stark.stop();
}

#[test]
fn what_does_not_run_is_started_and_that_is_said() {
    let stark = Stark::prepare(NULL, "");
    let ended = stark.cli(&["restart"]);
    assert_eq!(ended.status, 0, "{ended:?}");
    assert_eq!(ended.stdout, "t: was not running, started\n");
    assert_eq!(stark.figure("worker_alive"), 1);
    stark.stop();
}

#[test]
fn what_would_refuse_a_start_leaves_the_running_daemon_alone() {
    let redis = Redis::start();
    let text = redis::cmd("SET").arg("text").arg("x").to_owned();
    text.exec(&mut redis.connect()).expect("redis answers");
    let stark = Stark::start(&format!("{SCRIPT}{}", queue(&redis, "jobs")), WAITS);
    let pid = stark.pid();
    let refused = |status: i32, word: &str, ended: Ended| {
        assert_eq!(ended.status, status, "{ended:?}");
        assert!(ended.stderr.contains(word), "{word}: {ended:?}");
        assert_eq!(stark.pid(), pid);
        assert_eq!(stark.info()["state"], "running");
        let files = std::fs::read_dir(stark.path("work/run")).expect("run/");
        assert_eq!(files.count(), 2, "pidfile and port, nothing else");
    };
    let with = |setting: &str| stark.cli(&["--set", setting, "restart"]);
    refused(78, "worker.count", with("worker.count=0"));
    refused(69, "it is a string, not a list", with("queue.key=text"));
    refused(73, "cannot open log", with("main.log_file=/proc/none.log"));
    refused(78, "no user \"nobody-here\"", with("main.user=nobody-here"));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("bound").port();
    let mut program = stark.program();
    program
        .env("STARK_MAIN__PORT", port.to_string())
        .arg("restart");
    refused(
        69,
        "cannot listen on 127.0.0.1",
        support::stark::run(program, b""),
    );
    stark.write("run.php", "<?php\nfunction run( {\n");
    refused(69, "syntax error", stark.cli(&["restart"]));
    stark.stop();
}

#[test]
fn a_script_that_fails_only_when_it_runs_is_refused_after_the_end_of_the_old_daemon() {
    let stark = Stark::start(
        SCRIPT,
        "<?php\nfunction run($worker, $data) { return false; }\n",
    );
    let throws = "<?php\nfunction init($worker) { throw new Exception('no licence'); }\nfunction run($w, $d) {}\n";
    stark.write("run.php", throws);
    let ended = stark.cli(&["restart"]);
    assert_eq!(ended.status, 69, "{ended:?}");
    assert!(ended.stderr.contains("no licence"), "{ended:?}");
    assert_eq!(stark.cli(&["status"]).status, 3);
    stark.assert_nothing_left();
}

#[test]
fn of_two_restarts_at_once_one_is_told_of_the_other() {
    let redis = Redis::start();
    let stark = busy(&redis);
    let old = stark.pid();
    let mut first = stark.begin(&["restart"]);
    stark.wait_for_draining();
    let second = stark.cli(&["restart"]);
    assert_eq!(second.status, 75, "{second:?}");
    let named = format!("another restart is under way, pid {}", first.id());
    assert!(second.stderr.contains(&named), "{second:?}");
    stark.write("go", "");
    assert!(first.wait().expect("it is our child").success());
    assert_ne!(stark.pid(), old);
    assert_eq!(stark.read("ended"), "a");
    stark.stop();
}

#[test]
fn many_restarts_at_once_leave_one_daemon_that_is_ready() {
    let stark = Stark::start(NULL, "");
    let mut all: Vec<Child> = (0..6).map(|_| stark.begin(&["restart"])).collect();
    for restart in &mut all {
        let status = restart.wait().expect("it is our child").code();
        assert!(matches!(status, Some(0 | 75)), "{status:?}");
    }
    assert_eq!(stark.cli(&["ping"]).stdout, "PONG\n");
    let masters = stark.processes();
    let masters = masters
        .iter()
        .filter(|pid| support::stark::title(**pid).ends_with(" master"));
    assert_eq!(masters.count(), 1);
    stark.stop();
}

#[test]
fn a_restart_that_was_killed_is_no_obstacle_to_the_next() {
    let redis = Redis::start();
    let stark = busy(&redis);
    let mut first = stark.begin(&["restart"]);
    stark.wait_for_draining();
    kill(first.id() as i32, Signal::SIGKILL);
    first.wait().expect("it is our child");
    stark.write("go", "");
    let ended = stark.cli(&["restart"]);
    assert_eq!(ended.status, 0, "{ended:?}");
    assert_eq!(stark.cli(&["ping"]).stdout, "PONG\n");
    stark.stop();
}

#[test]
fn a_daemon_in_the_foreground_is_left_to_whoever_started_it() {
    let stark = Stark::prepare(NULL, "");
    // As systemd starts it: the leader of a session of its own. The session of the test may have lost its leader.
    let program = stark.program();
    let mut foreground = Command::new("setsid");
    foreground
        .arg(program.get_program())
        .args(program.get_args());
    let variables = program.get_envs();
    foreground.envs(variables.filter_map(|(name, value)| Some((name, value?))));
    let stderr = std::fs::File::create(stark.path("stderr.log")).expect("a log");
    let foreground = foreground.arg("-F").stdin(Stdio::null()).stderr(stderr);
    let mut foreground = foreground.spawn().expect("setsid of util-linux runs");
    stark.wait_for_log("master ready");
    let ended = stark.cli(&["restart"]);
    assert_eq!(ended.status, 1, "{ended:?}");
    let words = format!(
        "cannot restart pid {}: it runs in the foreground",
        stark.pid()
    );
    assert!(ended.stderr.contains(&words), "{ended:?}");
    assert_eq!(stark.info()["state"], "running");
    assert_eq!(stark.cli(&["stop"]).status, 0);
    assert!(foreground.wait().expect("it is our child").success());
    stark.assert_nothing_left();
}

#[test]
fn the_daemon_is_found_though_its_port_was_edited() {
    let stark = Stark::start(NULL, "");
    let other = Stark::start(NULL, "");
    let edited = format!("main.port={}", other.port());
    // The port of another daemon: that one is not stopped in its place, and the start is refused before the stop.
    let pid = stark.pid();
    let mut program = stark.program();
    program
        .env_remove("STARK_MAIN__PORT")
        .args(["--set", &edited, "restart"]);
    let ended = support::stark::run(program, b"");
    assert_eq!(ended.status, 69, "{ended:?}");
    assert_eq!(stark.pid(), pid);
    let mut program = stark.program();
    program
        .env_remove("STARK_MAIN__PORT")
        .args(["--set", &edited, "stop"]);
    let ended = support::stark::run(program, b"");
    assert_eq!(ended.status, 0, "{ended:?}");
    stark.assert_nothing_left();
    assert_eq!(other.info()["state"], "running");
    other.stop();
}

#[test]
fn json_tells_both_pids() {
    let stark = Stark::start(NULL, "");
    let old = stark.pid();
    let restart = || -> serde_json::Value {
        let ended = stark.cli(&["restart", "--json"]);
        assert_eq!(ended.status, 0, "{ended:?}");
        serde_json::from_str(&ended.stdout).expect("one object")
    };
    let told = restart();
    let expected =
        serde_json::json!({ "name": "t", "state": "running", "pid": stark.pid(), "old_pid": old });
    assert_eq!(told, expected);
    stark.stop();
    wait_for(LIMIT, "it is gone", || stark.processes().is_empty());
    assert_eq!(restart()["old_pid"], serde_json::Value::Null);
    stark.stop();
}

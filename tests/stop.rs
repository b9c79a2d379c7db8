//! What `stark stop` promises a script: when it returns, the daemon is no more.

mod support;

use std::fs;
use std::net::TcpStream;
use std::process::{Child, Command};

use support::redis::Redis;
use support::stark::{LIMIT, Stark, kill, queue, wait_for};

const NULL: &str = "[run]\nbuiltin = null\n";

/// Begins, waits for the file `go`, and says that it has ended.
const WAITS: &str = "<?php
function run($worker, $data) {
    touch('begun');
    while (!file_exists('go')) { usleep(2000); clearstatcache(); }
    file_put_contents('ended', $data, FILE_APPEND);
}
";

/// A daemon with a job in hand that ends when `go` is there.
fn busy(redis: &Redis) -> Stark {
    let ini = format!("[run]\nscript_file = run.php\n{}", queue(redis, "jobs"));
    let stark = Stark::start(&ini, WAITS);
    assert_eq!(stark.cli(&["push", "a"]).status, 0);
    wait_for(LIMIT, "the job begins", || stark.path("begun").exists());
    stark
}

/// The state in `/proc/PID/stat`; none when there is no such process.
fn state_of(pid: &str) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

#[test]
fn when_stop_returns_the_process_has_ended_and_its_files_are_gone() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let ini = directory.path().join("t.ini");
    let text = format!(
        "[main]\nport = 0\nworking_dir = {}\n[run]\nbuiltin = null\n",
        directory.path().display()
    );
    fs::write(&ini, text).expect("a settings file");
    let stark = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stark"));
        let status = command.arg("-f").arg(&ini).args(arguments).status();
        assert!(status.expect("stark runs").success(), "{arguments:?}");
    };
    let run = directory.path().join("run");
    // The end is a matter of microseconds: one round could be lucky.
    for _ in 0..10 {
        stark(&[]);
        let pid = fs::read_to_string(run.join("t.pid")).expect("a pidfile");
        stark(&["stop"]);
        // An ended process stays a zombie until init has looked at it.
        assert!(matches!(state_of(pid.trim()), None | Some('Z')));
        assert_eq!(fs::read_dir(&run).expect("run/").count(), 0);
    }
}

#[test]
fn many_who_stop_it_at_once_are_as_one_and_the_job_in_hand_ends() {
    let redis = Redis::start();
    let stark = busy(&redis);
    let mut all: Vec<Child> = (0..4).map(|_| stark.begin(&["stop"])).collect();
    stark.wait_for_draining();
    // A fifth comes late.
    all.push(stark.begin(&["stop"]));
    stark.write("go", "");
    for stop in &mut all {
        assert!(stop.wait().expect("it is our child").success());
    }
    assert_eq!(stark.read("ended"), "a");
    assert!(stark.log_lines("killed").is_empty());
    stark.assert_nothing_left();
}

#[test]
fn a_stop_after_a_shutdown_waits_and_does_not_hurry() {
    let redis = Redis::start();
    let stark = busy(&redis);
    assert_eq!(stark.cli(&["shutdown"]).stdout, "OK\n");
    stark.wait_for_draining();
    let mut stop = stark.begin(&["stop"]);
    let watches = || {
        let entries = fs::read_dir(format!("/proc/{}/fd", stop.id())).expect("it runs");
        let mut links = entries
            .flatten()
            .filter_map(|entry| fs::read_link(entry.path()).ok());
        links.any(|link| link.to_string_lossy().contains("pidfd"))
    };
    wait_for(LIMIT, "the stop watches the daemon", watches);
    stark.write("go", "");
    assert!(stop.wait().expect("it is our child").success());
    assert_eq!(stark.read("ended"), "a");
    assert!(stark.log_lines("killed").is_empty());
}

#[test]
fn a_daemon_whose_port_does_not_let_us_in_is_stopped_by_a_signal() {
    let stark = Stark::start(&format!("[main]\nmax_clients = 1\n{NULL}"), "");
    let holder = TcpStream::connect(("127.0.0.1", stark.port())).expect("it listens");
    let ended = stark.cli(&["stop"]);
    assert_eq!(ended.status, 0, "{ended:?}");
    let words = "; sending SIGTERM to pid ";
    assert!(ended.stderr.contains(words), "{ended:?}");
    drop(holder);
    stark.assert_nothing_left();
}

#[test]
fn a_daemon_that_lost_its_port_file_is_not_mistaken_for_the_one_at_its_port() {
    let (stark, other) = (Stark::start(NULL, ""), Stark::start(NULL, ""));
    let port = other.port().to_string();
    fs::remove_file(stark.path("work/run/t.port")).expect("it was there");
    let mut program = stark.program();
    program.env("STARK_MAIN__PORT", port).arg("stop");
    let ended = support::stark::run(program, b"");
    assert_eq!(ended.status, 0, "{ended:?}");
    let words = format!("at its address listens another daemon, pid {}", other.pid());
    assert!(ended.stderr.contains(&words), "{ended:?}");
    stark.assert_nothing_left();
    assert_eq!(other.info()["state"], "running");
    other.stop();
}

#[test]
fn a_daemon_that_was_killed_is_not_running_though_its_files_are_there() {
    let stark = Stark::start(NULL, "");
    kill(stark.pid(), nix::sys::signal::Signal::SIGKILL);
    wait_for(LIMIT, "nothing runs", || stark.processes().is_empty());
    let ended = stark.cli(&["stop"]);
    assert_eq!((ended.status, &*ended.stdout), (0, "t: not running\n"));
    assert_eq!(stark.cli(&["status"]).status, 3);
}

#[test]
fn a_pidfile_at_which_we_may_not_look_is_not_taken_for_a_daemon_that_does_not_run() {
    let stark = Stark::prepare(NULL, "");
    // Links are not followed, whoever asks; a directory of another user would be no obstacle to root.
    std::os::unix::fs::symlink("/dev/null", stark.path("link")).expect("the directory is ours");
    for command in ["status", "stop", "restart"] {
        let ended = stark.cli(&["--set", "main.pid_file=link", command]);
        assert_eq!(ended.status, 77, "{command}: {ended:?}");
        assert!(
            ended.stderr.starts_with("stark: cannot look at pidfile "),
            "{ended:?}"
        );
    }
}

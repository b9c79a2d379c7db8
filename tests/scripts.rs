//! PHP scripts in a running daemon: whatever a script does, its worker goes on, every run is counted, and every job is
//! handed over byte by byte.

mod support;

use std::collections::BTreeMap;

use nix::sys::signal::Signal::{SIGKILL, SIGSTOP};
use support::redis::Redis;

use support::stark::{LIMIT, Stark, kill, queue, wait_for};

/// Does to each payload what its name says.
const SCRIPT: &str = r#"<?php
$calls = 0;
function run($worker, $data) {
    file_put_contents('notes', "$data\n", FILE_APPEND);
    switch ($data) {
        case 'exception': throw new RuntimeException('no such customer');
        case 'error': return strlen([]);
        case 'false': return false;
        case 'true': return true;
        case 'null': return null;
        case 'exit': exit(0);
        case 'exit 3': exit(3);
        case 'die': die("last words\n");
        case 'undefined': return no_such_function();
        case 'memory': $hog = str_repeat('x', 1 << 30); return;
        case 'warning': return $undefined;
        case 'once':
            if (file_exists('killed')) return;
            touch('killed');
            posix_kill(getmypid(), SIGSEGV);
    }
}
"#;

/// No job has a second run.
const ONE_RUN: &str = "max_attempts = 1\nmax_crashes = 1";

fn start(redis: &Redis, script: &str) -> Stark {
    start_with(redis, script, ONE_RUN)
}

fn start_with(redis: &Redis, script: &str, retry: &str) -> Stark {
    let run = "[run]\nscript_file = run.php\nmemory_limit = 128M\n";
    let queue = queue(redis, "jobs");
    Stark::start(&format!("{run}{queue}[retry]\n{retry}\n"), script)
}

/// Runs the payloads one after the other, and then one that is fine; returns the failures counted.
fn failures(payloads: &[&str]) -> (Stark, u64) {
    failures_with(ONE_RUN, payloads)
}

fn failures_with(retry: &str, payloads: &[&str]) -> (Stark, u64) {
    let redis = Redis::start();
    let stark = start_with(&redis, SCRIPT, retry);
    let worker = stark.worker_pids();
    for payload in payloads {
        redis.push("jobs", &[payload, "fine"]);
    }
    let runs = 2 * payloads.len() as u64;
    stark.wait_for_figure("run_count", runs);
    assert_eq!(stark.worker_pids(), worker, "the worker goes on");
    assert_eq!(stark.figure("workers_crashed"), 0);
    let failures = stark.figure("run_failures");
    stark.stop();
    (stark, failures)
}

#[track_caller]
fn assert_logged(stark: &Stark, words: &[&str]) {
    for word in words {
        assert!(stark.log().contains(word), "{word:?} is not logged");
    }
}

#[test]
fn what_is_thrown_fails_the_job_with_message_and_place() {
    let (stark, failures) = failures(&["exception", "error", "undefined"]);
    assert_eq!(failures, 3);
    assert_eq!(
        stark.read("notes"),
        "exception\nfine\nerror\nfine\nundefined\nfine\n"
    );
    assert_logged(
        &stark,
        &[
            "RuntimeException: no such customer",
            "run.php:6",
            "TypeError",
            "no_such_function()",
        ],
    );
}

#[test]
fn false_fails_the_job_and_says_so_once_and_anything_else_is_done() {
    let (stark, failures) = failures(&["false", "true", "null", "false"]);
    assert_eq!(failures, 2);
    let notes = "false\nfine\ntrue\nfine\nnull\nfine\nfalse\nfine\n";
    assert_eq!(stark.read("notes"), notes);
    assert_eq!(stark.log_lines("job buried").len(), 2);
}

#[test]
fn a_script_that_exits_in_a_job_fails_it_and_is_started_again() {
    let (stark, failures) = failures(&["exit", "exit 3", "die"]);
    assert_eq!(failures, 3);
    assert_eq!(stark.read("notes"), "exit\nfine\nexit 3\nfine\ndie\nfine\n");
    assert_logged(&stark, &["last words", "status 3"]);
}

#[test]
fn a_script_out_of_memory_fails_the_job_with_phps_words() {
    let (stark, failures) = failures(&["memory"]);
    assert_eq!(failures, 1);
    assert_eq!(stark.read("notes"), "memory\nfine\n");
    assert_logged(
        &stark,
        &["Allowed memory size of 134217728 bytes exhausted"],
    );
}

#[test]
fn a_script_that_is_killed_loses_no_job_and_the_one_in_hand_runs_again() {
    let (stark, failures) = failures_with("max_crashes = 2", &["once"]);
    assert_eq!(failures, 0);
    assert_eq!(stark.read("notes"), "once\nonce\nfine\n");
    assert_logged(&stark, &["script killed by SIGSEGV"]);
}

#[test]
fn what_a_script_prints_is_log_and_never_disturbs_its_jobs() {
    let script = r#"<?php
echo "while loading\n";
function init($worker) { print "in init\n"; }
function run($worker, $data) {
    switch ($data) {
        case 'lines': echo "one\ntwo\nthree without end"; break;
        case 'protocol': echo "+OK\r\n-FAIL no\r\n*1\r\n$3\r\n>3\r\n"; break;
        case 'levels': echo "<3>is an error\n<4>is a warning\n<7>is for debugging\n"; break;
        case 'long': echo str_repeat('x', 20000), "\n"; break;
        case 'stderr': fwrite(STDERR, "to stderr\n"); break;
        case 'stdout': fwrite(STDOUT, "to stdout\n"); break;
        case 'child': system('echo from a child'); break;
        case 'bytes': echo "\0\x1b[31m\xff\n"; break;
        case 'log': $worker->log->warning('by the logger'); $worker->log->addInfo('as of old'); break;
        case 'flood': for ($i = 0; $i < 20000; $i++) echo "flood $i\n"; break;
    }
    return true;
}
"#;
    let redis = Redis::start();
    let stark = start(&redis, script);
    let payloads = [
        "lines", "protocol", "levels", "long", "stderr", "stdout", "child", "bytes", "log",
        "flood", "end",
    ];
    payloads
        .iter()
        .for_each(|payload| redis.push("jobs", &[payload]));
    stark.wait_for_figure("run_count", payloads.len() as u64);
    assert_eq!(stark.figure("run_failures"), 0);
    stark.wait_for_log("flood 19999");
    for (text, level) in [
        ("while loading", "INFO"),
        ("in init", "INFO"),
        ("two", "INFO"),
        ("three without end", "INFO"),
        ("is an error", "ERROR"),
        ("is a warning", "WARN"),
        ("to stderr", "WARN"),
        ("to stdout", "INFO"),
        ("from a child", "INFO"),
        ("by the logger", "WARN"),
        ("as of old", "INFO"),
    ] {
        let line = stark.wait_for_log(text);
        assert!(line.contains(&format!(" {level} worker[")), "{line}");
        assert!(line.contains("slot=0"), "{line}");
    }
    let log = stark.log();
    assert!(!log.contains("is for debugging"), "the level is info");
    assert!(
        !log.contains('\0') && !log.contains('\u{1b}'),
        "only what can be printed"
    );
    let longest = log.lines().map(str::len).max();
    assert!(
        longest.is_some_and(|longest| (8192..8400).contains(&longest)),
        "{longest:?}"
    );
    stark.stop();
}

#[test]
fn payloads_arrive_byte_by_byte_whatever_they_hold() {
    let script = "<?php function run($worker, $data) { file_put_contents('hashes', strlen($data) . ' ' . sha1($data) . \"\\n\", FILE_APPEND); }";
    let redis = Redis::start();
    let stark = start(&redis, script);
    let all_bytes: Vec<u8> = (0..=255).collect();
    // No two pages of it are alike.
    let large: Vec<u8> = (0u32..50 << 20)
        .map(|place| (place.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let payloads: [&[u8]; 8] = [
        b"",
        b"\0",
        b"\r\n",
        b"$5\r\nhello\r\n",
        &all_bytes,
        b"stark/1 {\"no\":\"header\"}\nof ours",
        &large,
        b"the last",
    ];
    for payload in payloads {
        redis.push("jobs", &[payload]);
    }
    stark.wait_for_figure("run_count", payloads.len() as u64);
    let expected: Vec<String> = payloads
        .iter()
        .map(|payload| {
            format!(
                "{} {}\n",
                payload.len(),
                sha1_smol::Sha1::from(payload).digest()
            )
        })
        .collect();
    assert_eq!(stark.read("hashes"), expected.concat());
    assert_eq!(stark.figure("run_failures"), 0);
    stark.stop();
}

#[test]
fn the_worker_object_is_starks() {
    let script = r#"<?php
function init($worker) { $worker->mark = 'from init'; }
function run($worker, $data) {
    $status = $worker->getStatus();
    file_put_contents('seen', json_encode([
        'name' => $worker->name, 'index' => $worker->index, 'mark' => $worker->mark, 'data' => $data,
        'pid' => $worker->pid === getmypid() || $worker->pid === posix_getppid(),
        'count' => $status->totalCount, 'env' => getenv('App_Env'), 'cwd' => getcwd() === __DIR__,
    ]) . "\n", FILE_APPEND);
}
"#;
    let redis = Redis::start();
    let ini = format!(
        "[main]\nname = mail\n[run]\nscript_file = run.php\n[env]\nApp_Env = test\n{}",
        queue(&redis, "jobs")
    );
    let stark = Stark::start(&ini, script);
    redis.push("jobs", &["one", "two"]);
    stark.wait_for_figure("run_count", 2);
    let seen = |data: &str, count: u32| {
        format!(
            r#"{{"name":"mail","index":0,"mark":"from init","data":"{data}","pid":true,"count":{count},"env":"test","cwd":true}}"#
        )
    };
    let lines = stark.read("seen");
    let lines: Vec<&str> = lines.lines().collect();
    assert_eq!(lines, [seen("one", 0), seen("two", 1)]);
    stark.stop();
}

#[test]
fn a_script_that_breaks_while_the_daemon_runs_is_shown_and_tried_again() {
    let redis = Redis::start();
    let stark = start(&redis, SCRIPT);
    stark.write(
        "run.php",
        "<?php function run($worker, $data) {\n  return 1 +;\n}\n",
    );
    redis.push("jobs", &["exit"]);
    let line = stark.wait_for_log("cannot start consumer");
    assert!(
        line.contains("syntax error") && line.contains("retry_ms="),
        "{line}"
    );
    let mut worker = BTreeMap::new();
    wait_for(LIMIT, "the next start is shown", || {
        worker = stark.worker(0);
        worker["next_start_ms"] != "0"
    });
    assert_eq!(
        stark.command(&["PING"]),
        stark::resp::Reply::Simple("PONG".into())
    );
    stark.stop();
}

#[test]
fn a_script_that_is_killed_while_it_loads_is_started_again_soon() {
    let redis = Redis::start();
    let script = r#"<?php
        function init($worker) {
            if (file_exists('deadly') && !file_exists('died')) {
                touch('died');
                posix_kill(getmypid(), SIGKILL);
            }
        }
        function run($worker, $data) {
            if ($data === 'leave') exit(0);
            file_put_contents('notes', "$data\n", FILE_APPEND);
        }
    "#;
    let stark = start(&redis, script);
    let worker = stark.worker_pids();
    stark.write("deadly", "");
    redis.push("jobs", &["leave", "fine"]);
    wait_for(LIMIT, "the next job", || stark.read("notes") == "fine\n");
    assert!(stark.path("died").exists());
    assert_eq!(stark.worker_pids(), worker, "the worker goes on");
    stark.stop();
}

/// The replies of a script were lost with the worker that was to read them: its notes tell which runs failed.
#[test]
fn runs_that_failed_while_nobody_listened_count_as_failed_when_the_worker_is_killed() {
    let script = r#"<?php
function run($worker, $data) {
    file_put_contents('notes', "$data\n", FILE_APPEND);
    return $data % 3 !== 0;
}
"#;
    let redis = Redis::start();
    let ini = format!(
        "[run]\nscript_file = run.php\n{}prefetch = 1000\n",
        queue(&redis, "jobs")
    );
    let stark = Stark::start(&ini, script);
    let numbers: Vec<String> = (0..6000).map(|number| number.to_string()).collect();
    let payloads: Vec<&[u8]> = numbers.iter().map(|number| number.as_bytes()).collect();
    for some in payloads.chunks(1000) {
        redis.push("jobs", some);
    }
    let runs = || stark.read("notes").lines().count();
    wait_for(LIMIT, "some runs", || runs() > 500);
    let worker = stark.worker_pids()[0];
    kill(worker, SIGSTOP);
    // What was sent ahead runs on; then there is silence.
    let mut before = 0;
    wait_for(LIMIT, "the script has no more to do", || {
        std::mem::replace(&mut before, runs()) == before
    });
    kill(worker, SIGKILL);
    wait_for(LIMIT, "all have ended", || {
        stats(&redis, "processed") >= 6000
    });
    assert_eq!(stats(&redis, "processed"), 6000);
    assert_eq!(stats(&redis, "failed"), 2000);
    stark.stop();
}

/// Of the queue's totals in the store.
fn stats(redis: &Redis, field: &str) -> u64 {
    let mut command = redis::cmd("HGET");
    command.arg("{jobs}:stark:stats").arg(field);
    let total: Option<u64> = command.query(&mut redis.connect()).expect("an answer");
    total.unwrap_or(0)
}

#[test]
fn a_script_does_not_learn_the_passwords_of_the_admin_port() {
    let script = "<?php function init($worker) {\
                  file_put_contents('known', implode(\"\\n\", getenv())); }\
                  function run($worker, $data) { return false; }";
    let stark = Stark::prepare(
        "[run]\nscript_file = run.php\n[env]\nOWN = own-word\n",
        script,
    );
    let mut command = stark.program();
    command
        .env("STARK_MAIN__PASSWORD", "steer-word")
        .env("STARK_MAIN__READONLY_PASSWORD", "look-word")
        .env("OTHER", "other-word");
    let ended = support::stark::run(command, b"");
    assert_eq!(ended.status, 0, "{ended:?}");
    let known = stark.read("known");
    for (word, is_known) in [
        ("own-word", true),
        ("other-word", true),
        ("steer-word", false),
        ("look-word", false),
    ] {
        assert_eq!(known.contains(word), is_known, "{word} in {known}");
    }
}

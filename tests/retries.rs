//! What becomes of jobs that fail: they run again, later each time, and are buried when they have failed or crashed too
//! often; none is dropped. Counted is what the jobs wrote themselves.

mod support;

use std::collections::BTreeMap;

use nix::sys::signal::Signal::SIGKILL;
use redis::Commands;

use support::redis::Redis;
use support::stark::{LIMIT, Stark, kill, queue, wait_for, wait_for_value};

const DELAYED: &str = "{jobs}:stark:delayed";
const DEAD: &str = "{jobs}:stark:dead";

/// Notes each run, then does what the payload says.
const SCRIPT: &str = r#"<?php
function run($worker, $data) {
    [$what, $name] = explode(' ', $data);
    file_put_contents('runs', "$name\n", FILE_APPEND);
    $before = substr_count(file_get_contents('runs'), "$name\n");
    switch ($what) {
        case 'fail': throw new RuntimeException("no\nroute");
        case 'once': if ($before < 2) return false; break;
        case 'retry': if ($before < 2) throw new Stark\Retry(0.2, 'busy'); break;
        case 'bury': throw new Stark\Bury('no such customer');
        case 'crash': posix_kill(getmypid(), SIGSEGV);
        case 'fatal': str_repeat('x', 1 << 34); break;
        case 'hang': sleep(1000);
        case 'hog':
            // Long enough for a heartbeat to see it, and then too much.
            $hog = str_repeat('x', 57 << 20);
            usleep(1000000);
            $hog .= str_repeat('x', 1 << 30);
    }
}
"#;

struct Rig {
    redis: Redis,
    stark: Stark,
}

impl Rig {
    fn start(retry: &str) -> Self {
        Self::start_with("", "", retry)
    }

    fn start_with(main: &str, run: &str, retry: &str) -> Self {
        let redis = Redis::start();
        let ini = format!(
            "[main]\n{main}\n[run]\nscript_file = run.php\n{run}\n{}[retry]\nbackoff_seconds = 0.1\n{retry}\n",
            queue(&redis, "jobs")
        );
        let stark = Stark::start(&ini, SCRIPT);
        Self { redis, stark }
    }

    /// How often each job has begun.
    fn runs(&self) -> BTreeMap<String, usize> {
        let mut runs = BTreeMap::new();
        for name in self.stark.read("runs").lines() {
            *runs.entry(name.to_owned()).or_default() += 1;
        }
        runs
    }

    fn wait_for_runs(&self, name: &str, times: usize) {
        wait_for_value(LIMIT, &format!("runs of {name}"), Some(times), || {
            self.runs().get(name).copied()
        });
    }

    /// The headers of the buried jobs, by the last word of their payloads.
    fn dead(&self) -> BTreeMap<String, serde_json::Value> {
        let entries: Vec<String> = self.redis.connect().zrange(DEAD, 0, -1).expect("an answer");
        let entries = entries.iter().map(|entry| {
            let (header, payload) = entry.split_once('\n').expect("a header and a payload");
            let header = header.strip_prefix("stark/1 ").expect("a header");
            let name = payload.split_once(' ').expect("two words").1;
            (name.to_owned(), serde_json::from_str(header).expect("JSON"))
        });
        entries.collect()
    }

    fn wait_for_dead(&self, names: &[&str]) -> BTreeMap<String, serde_json::Value> {
        wait_for(LIMIT, "they are buried", || {
            let dead = self.dead();
            names.iter().all(|name| dead.contains_key(*name))
        });
        self.dead()
    }

    /// Nothing waits, is reserved or delayed.
    fn wait_until_empty(&self) {
        wait_for(LIMIT, "nothing is left", || {
            let mut connection = self.redis.connect();
            let waiting: usize = connection.llen("jobs").expect("an answer");
            let delayed: usize = connection.zcard(DELAYED).expect("an answer");
            waiting + delayed == 0 && self.stark.figure("worker_busy") == 0
        });
    }
}

#[test]
fn a_job_that_fails_runs_again_and_is_buried_with_its_last_error_at_last() {
    let rig = Rig::start("max_attempts = 3");
    rig.redis
        .push("jobs", &["fail a", "ok b", "once c", "bury d", "retry e"]);
    let dead = rig.wait_for_dead(&["a", "d"]);
    rig.wait_until_empty();
    let runs = rig.runs();
    let expected = [("a", 3), ("b", 1), ("c", 2), ("d", 1), ("e", 2)];
    let expected = expected.map(|(name, times)| (name.to_owned(), times));
    assert_eq!(runs, BTreeMap::from(expected));
    assert_eq!(dead.len(), 2);
    assert_eq!(dead["a"]["attempt"], 3);
    let error = dead["a"]["error"].as_str().expect("a reason");
    assert!(
        error.starts_with("RuntimeException: no route in "),
        "{error}"
    );
    assert_eq!(dead["d"]["error"], "no such customer");
    wait_for(LIMIT, "they are counted", || {
        rig.stark.info()["queue0"].contains("dead=2")
    });
    let counted = ["jobs_retried", "jobs_buried"].map(|name| rig.stark.figure(name));
    assert_eq!(counted, [4, 2]);
    assert_eq!(rig.stark.log_lines("job buried").len(), 2);
    rig.stark.stop();
}

#[test]
fn a_job_that_takes_its_script_along_is_buried_and_those_behind_it_run() {
    let rig = Rig::start("max_crashes = 2");
    rig.redis.push("jobs", &["crash a", "fatal b", "ok c"]);
    let dead = rig.wait_for_dead(&["a", "b"]);
    rig.wait_for_runs("c", 1);
    rig.wait_until_empty();
    let runs = rig.runs();
    assert_eq!((runs["a"], runs["b"], runs["c"]), (2, 2, 1));
    assert_eq!(
        (&dead["a"]["crashes"], &dead["a"]["attempt"]),
        (&2.into(), &1.into())
    );
    assert_eq!(dead["a"]["error"], "script killed by SIGSEGV");
    let error = dead["b"]["error"].as_str().expect("a reason");
    assert!(error.contains("Allowed memory size"), "{error}");
    rig.stark.stop();
}

/// Its worker is told to leave for its memory before the job takes the script along.
#[test]
fn a_job_that_takes_all_memory_is_buried_although_its_worker_was_about_to_leave() {
    let rig = Rig::start_with("heartbeat_seconds = 0.4", "memory_limit = 64M", "");
    rig.redis.push("jobs", &["hog a", "ok b"]);
    let dead = rig.wait_for_dead(&["a"]);
    rig.wait_for_runs("b", 1);
    assert_eq!((rig.runs()["a"], &dead["a"]["crashes"]), (3, &3.into()));
    assert!(!rig.stark.log_lines("memory over 80 %").is_empty());
    rig.stark.stop();
}

#[test]
fn a_job_whose_workers_are_killed_is_buried_and_one_whose_daemon_dies_is_not() {
    let rig = Rig::start("max_crashes = 2");
    rig.redis.push("jobs", &["hang a", "ok b"]);
    for times in 1..=3 {
        rig.wait_for_runs("a", times);
        rig.stark.kill_tree();
        rig.stark.start_again();
    }
    for times in 4..=5 {
        rig.wait_for_runs("a", times);
        let worker = rig.stark.worker_pids()[0];
        kill(worker, SIGKILL);
    }
    let dead = rig.wait_for_dead(&["a"]);
    assert_eq!(dead["a"]["crashes"], 2);
    rig.wait_for_runs("b", 1);
    rig.stark.stop();
}

#[test]
fn a_failure_that_nobody_heard_of_before_the_worker_died_is_no_loss() {
    let rig = Rig::start("max_attempts = 2");
    let jobs: Vec<String> = (0..300).map(|number| format!("fail n{number}")).collect();
    rig.redis.push("jobs", &jobs);
    for round in 1..=4 {
        wait_for(LIMIT, "some runs", || rig.runs().len() >= round * 20);
        kill(rig.stark.worker_pids()[0], SIGKILL);
    }
    wait_for_value(2 * LIMIT, "buried jobs", 300, || rig.dead().len());
    let runs = rig.runs();
    assert!(runs.values().all(|times| *times >= 2), "{runs:?}");
    let extra: usize = runs.values().map(|times| times - 2).sum();
    assert!(extra <= 4, "only what was in hand runs once more: {extra}");
    rig.stark.stop();
}

#[test]
fn without_limits_nothing_is_buried_and_with_at_most_once_nothing_runs_again() {
    let rig = Rig::start("max_attempts = 0\nbackoff_max_seconds = 0.1");
    rig.redis.push("jobs", &["fail a"]);
    wait_for(LIMIT, "many runs", || rig.runs().get("a") >= Some(&6));
    assert!(rig.dead().is_empty());
    rig.stark.stop();

    let redis = Redis::start();
    let ini = format!(
        "[run]\nscript_file = run.php\n{}delivery = at-most-once\n",
        queue(&redis, "jobs")
    );
    let stark = Stark::start(&ini, SCRIPT);
    redis.push("jobs", &["fail a", "bury b", "retry c", "ok d"]);
    stark.wait_for_figure("run_count", 4);
    assert_eq!(stark.figure("run_failures"), 3);
    let keys: Vec<String> = redis.connect().keys("*dea*").expect("an answer");
    assert!(keys.is_empty(), "{keys:?}");
    stark.stop();
}

#[test]
fn jobs_pushed_for_later_run_then_and_in_the_order_of_their_times() {
    let rig = Rig::start("");
    let push = |arguments: &[&str]| {
        let ended = rig.stark.cli(&[&["push"], arguments].concat());
        assert_eq!(ended.status, 0, "{ended:?}");
    };
    push(&["--delay", "1s", "ok third"]);
    push(&["--delay", "300ms", "ok second", "ok second"]);
    push(&["--at", "2001-01-01T00:00:00Z", "ok first"]);
    push(&["--at", "2101-01-01T00:00:00Z", "ok never"]);
    rig.wait_for_runs("third", 1);
    let order = rig.stark.read("runs");
    assert_eq!(order, "first\nsecond\nsecond\nthird\n");
    let later: usize = rig.redis.connect().zcard(DELAYED).expect("an answer");
    assert_eq!(later, 1);
    for wrong in [["--delay", "soon", "x"], ["--at", "tomorrow", "x"]] {
        let ended = rig.stark.cli(&[&["push"], &wrong[..]].concat());
        assert_eq!(ended.status, 2, "{ended:?}");
    }
    rig.stark.stop();
}

//! `run.max_job_seconds`: a job that takes too long is ended and has failed, with all that it started; the others run, and
//! none is lost or doubled. Counted is what the jobs wrote themselves.

mod support;

use redis::Commands;

use support::redis::Redis;
use support::stark::{LIMIT, Stark, is_alive, queue, wait_for, wait_for_value};

/// Notes each job; `hang` never ends, `deaf` does not even on SIGTERM, `child` waits for what it has started.
const SCRIPT: &str = r#"<?php
function run($worker, $data) {
    [$what, $number] = explode(' ', $data);
    file_put_contents('ran', "$number\n", FILE_APPEND);
    if ($what === 'deaf') {
        pcntl_signal(SIGTERM, SIG_IGN);
    }
    if ($what === 'child') {
        shell_exec('setsid sleep 1000 & echo $! > grandchild; exec sleep 1000');
    }
    if ($what === 'brief') {
        usleep(30000);
    }
    while ($what === 'hang' || $what === 'deaf') {
        sleep(1);
    }
}
"#;

struct Limited {
    redis: Redis,
    stark: Stark,
}

impl Limited {
    fn start(run: &str, script: &str) -> Self {
        let redis = Redis::start();
        let ini = format!(
            "[run]\n{run}\nmax_job_seconds = 0.3\n{}prefetch = 10\n[retry]\nmax_attempts = 1\n",
            queue(&redis, "jobs")
        );
        let stark = Stark::start(&ini, script);
        Self { redis, stark }
    }

    fn push(&self, jobs: &[String]) {
        let _: usize = self.redis.connect().rpush("jobs", jobs).expect("room");
    }

    fn ran(&self) -> Vec<usize> {
        let text = self.stark.read("ran");
        text.lines()
            .map(|line| line.parse().expect("a number"))
            .collect()
    }

    fn wait_until_ran(&self, numbers: &[usize]) {
        wait_for_value(LIMIT, "jobs that ran", numbers.to_vec(), || self.ran());
    }
}

fn jobs(whats: &[&str]) -> Vec<String> {
    let numbered = whats.iter().enumerate();
    numbered
        .map(|(number, what)| format!("{what} {number}"))
        .collect()
}

#[test]
fn a_script_that_hangs_is_replaced_its_job_has_failed_and_the_worker_goes_on() {
    let limited = Limited::start("script_file = run.php", SCRIPT);
    let worker = limited.stark.worker_pids()[0];
    limited.push(&jobs(&["quick", "hang", "quick", "quick", "hang", "quick"]));
    limited.wait_until_ran(&[0, 1, 2, 3, 4, 5]);
    limited.stark.wait_for_figure("run_count", 6);
    assert_eq!(limited.stark.figure("run_failures"), 2);
    assert_eq!(limited.stark.worker_pids(), [worker], "the same worker");
    let said = limited.stark.log_lines("reason=\"timeout limit_ms=300\"");
    assert_eq!(said.len(), 2, "{said:?}");
    limited.stark.stop();
    assert_eq!(limited.ran(), [0, 1, 2, 3, 4, 5], "once each");
}

#[test]
fn one_that_does_not_hear_is_killed_three_seconds_later() {
    let limited = Limited::start("script_file = run.php", SCRIPT);
    limited.push(&jobs(&["deaf", "quick"]));
    limited.wait_until_ran(&[0, 1]);
    let failed = limited.stark.wait_for_log("job buried");
    assert!(failed.contains("timeout limit_ms=300"), "{failed}");
    limited.stark.stop();
}

#[test]
fn what_the_job_has_started_dies_with_it_in_a_session_of_its_own_as_well() {
    let limited = Limited::start("script_file = run.php", SCRIPT);
    limited.push(&jobs(&["child", "quick"]));
    limited.wait_until_ran(&[0, 1]);
    let grandchild = limited
        .stark
        .read("grandchild")
        .trim()
        .parse()
        .expect("a pid");
    wait_for(LIMIT, "the grandchild is dead", || !is_alive(grandchild));
    limited.stark.stop();
}

#[test]
fn many_brief_jobs_are_nobody_s_long_one() {
    let limited = Limited::start("script_file = run.php", SCRIPT);
    limited.push(&jobs(&["brief"; 40]));
    limited.wait_until_ran(&(0..40).collect::<Vec<_>>());
    limited.stark.wait_for_figure("run_count", 40);
    assert_eq!(limited.stark.figure("run_failures"), 0);
    limited.stark.stop();
}

#[test]
fn a_native_consumer_that_hangs_ends_its_worker_and_only_its_job_has_failed() {
    let limited = Limited::start("builtin = probe", "");
    let worker = limited.stark.worker_pids()[0];
    let ran = limited.stark.path("ran");
    let job = |number: usize, then: &str| format!("append {} {number};{then}", ran.display());
    let mut all: Vec<String> = (0..12).map(|number| job(number, "sleep 1")).collect();
    all[5] = job(5, "sleep 1000000");
    limited.push(&all);
    limited.wait_until_ran(&(0..12).collect::<Vec<_>>());
    limited.stark.wait_for_log("job took too long");
    limited.stark.wait_for_figure("run_count", 12);
    assert_eq!(limited.stark.figure("run_failures"), 1);
    assert_ne!(limited.stark.worker_pids(), [worker], "another worker");
    limited.stark.stop();
    assert_eq!(limited.ran(), (0..12).collect::<Vec<_>>(), "once each");
}

#[test]
fn without_a_queue_a_call_that_hangs_is_ended_too() {
    let script = "<?php function run($worker, $data) { file_put_contents('calls', \"x\\n\", FILE_APPEND); sleep(1000); }";
    let ini = "[run]\nscript_file = run.php\nmax_job_seconds = 0.2\n";
    let stark = Stark::start(ini, script);
    wait_for(LIMIT, "it is called again", || {
        stark.read("calls").lines().count() >= 2
    });
    stark.stop();
}

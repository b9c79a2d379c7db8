//! The admin port of a running daemon.

mod support;

use support::redis::Redis;
use support::stark::{Stark, queue};

#[test]
fn a_daemon_starts_answers_and_leaves_nothing() {
    let redis = Redis::start();
    let ini = format!(
        "[run]\nscript_file = run.php\n[worker]\ncount = 2\n{}",
        queue(&redis, "jobs")
    );
    let stark = Stark::start(
        &ini,
        "<?php function run($worker, $data) { echo \"got $data\"; }",
    );
    redis::cmd("RPUSH")
        .arg("jobs")
        .arg("hello")
        .exec(&mut redis.connect())
        .unwrap();
    stark.wait_for_log("got hello");
    stark.wait_for_figure("run_count", 1);
    assert_eq!(stark.worker_pids().len(), 2);
    stark.stop();
}

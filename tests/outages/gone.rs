//! The server is gone and comes back with its data.

use std::time::Instant;

use crate::support::ledger::repeated;
use crate::*;

#[test]
fn gone_in_a_job_which_is_finished_and_settled_after() {
    let mut rig = rig(Redis::start());
    let mut gate = rig.gate("gate");
    rig.push([rig.job_at(0, &gate)]);
    rig.wait_for_run(0, 1);
    let began = Instant::now();
    rig.redis.stop();
    rig.stark.wait_for_log("redis unavailable addr=");
    gate.open();
    wait_until_away(&rig, WORKERS);
    rig.redis.restart();
    assert_told(&rig.stark, 1);
    let (said, was) = (down_ms(&rig.stark), began.elapsed().as_millis() as u64);
    assert!(said > 10 && said <= was, "down_ms={said} of {was}");
    assert_each_ran_once(&rig, 1);
}

#[test]
fn restarted_under_load_loses_nothing_and_doubles_only_what_was_in_hand() {
    for fsync in ["always", "everysec"] {
        let jobs = 1500;
        let mut rig = rig(Redis::start_with(&["--appendfsync", fsync]));
        load(&rig, jobs);
        for outage in 1..=3 {
            let before = rig.runs().len();
            wait_for(LIMIT, "progress", || {
                rig.runs().len() > before || rig.runs().len() == jobs
            });
            rig.redis.stop();
            wait_until_told(&rig.stark, outage);
            rig.redis.restart();
            assert_told(&rig.stark, outage);
        }
        let again = repeated(&rig.finish(jobs));
        assert!(again.len() <= 3 * WORKERS, "{fsync}: {again:?}");
    }
}

#[test]
fn a_stop_while_it_is_gone_ends_in_time_and_loses_nothing() {
    for stalled in [false, true] {
        let mut rig = rig(Redis::start());
        load(&rig, 800);
        if stalled {
            rig.redis.pause();
        } else {
            rig.redis.stop();
        }
        wait_until_away(&rig, WORKERS);
        let began = Instant::now();
        rig.stark.stop();
        let took = began.elapsed().as_secs();
        assert!(took < 10, "stalled={stalled}: {took} s");
        if stalled {
            rig.redis.resume();
        } else {
            rig.redis.restart();
        }
        rig.stark.start_again();
        // What had ended in this outage was on the scoreboard.
        assert_each_ran_once(&rig, 800);
    }
}

#[test]
fn gone_at_the_start_it_is_waited_for() {
    let mut redis = Redis::start();
    redis.stop();
    let stark = Stark::prepare(&ini(&support::stark::queue(&redis, KEY), WORKERS, ""), "");
    let ended = stark.cli(&[]);
    assert_eq!(ended.status, 0, "{ended:?}");
    let words = ["cannot reach redis at", "the workers wait for it"];
    for word in words {
        assert!(ended.stderr.contains(word), "{word}: {ended:?}");
    }
    wait_until_told(&stark, 1);
    redis.restart();
    let rig = Rig { redis, stark };
    rig.push_numbers(0..100);
    assert_each_ran_once(&rig, 100);
    assert_told(&rig.stark, 1);
}

#[test]
fn what_waits_behind_a_long_job_is_given_back_after_the_outage_and_not_after_the_job() {
    let redis = Redis::start();
    let proxy = Proxy::start(&redis.socket());
    let ini = ini(&through(&proxy), 2, "prefetch = 50") + "[main]\nlog_level = debug\n";
    let rig = Rig {
        stark: Stark::start(&ini, ""),
        redis,
    };
    let mut gate = rig.gate("gate");
    // They learn that jobs are short, and reserve several.
    rig.push((0..100).map(|number| rig.job_of_ms(number, 1)));
    wait_for_value(LIMIT, "runs", 100, || rig.runs().len());
    let giveback = sha1_smol::Sha1::from(include_str!("../../src/queue/giveback.lua"));
    proxy.answer(&giveback.digest().to_string(), "-LOADING not yet\r\n");
    let long = [rig.job_at(100, &gate)].into_iter();
    rig.push(long.chain((101..200).map(|number| rig.job_of_ms(number, 1))));
    rig.stark.wait_for_log("cannot give back yet");
    proxy.answer_no_more();
    wait_for_value(LIMIT, "the others' runs", 200, || rig.runs().len());
    gate.open();
    assert_each_ran_once(&rig, 200);
}

//! The server comes back without its data, or loses it while it runs: what is lost is lost once, and work goes on.

use std::collections::BTreeMap;

use crate::*;

/// Lost jobs may have been in hand, so each ran at most once; pushed after, each ran.
fn assert_goes_on(rig: &Rig, old: usize) {
    let new = old..old + 300;
    rig.push_numbers(new.clone());
    wait_for_value(LIMIT, "jobs left", 0, || rig.left());
    let mut times = BTreeMap::new();
    for run in rig.runs() {
        *times.entry(run).or_insert(0) += 1;
    }
    for job in new {
        assert_eq!(times.get(&job), Some(&1), "job {job}");
    }
    let twice: Vec<_> = times.iter().filter(|(_, times)| **times > 1).collect();
    assert_eq!(twice, vec![]);
}

#[test]
fn restarted_without_its_data_it_gets_new_jobs_done_and_runs_no_lost_one_again() {
    let mut rig = rig(Redis::start_with(&["--appendonly", "no"]));
    load(&rig, 4000);
    rig.redis.stop();
    wait_until_told(&rig.stark, 1);
    rig.redis.restart();
    let line = rig.stark.wait_for_log("reservation lost");
    assert!(line.contains(" WARN "), "{line}");
    assert_goes_on(&rig, 4000);
    assert_told(&rig.stark, 1);
    rig.stark.stop();
}

#[test]
fn flushed_under_load_it_goes_on_and_is_no_outage() {
    let rig = rig(Redis::start());
    load(&rig, 4000);
    rig.redis.command(&["FLUSHALL"]);
    rig.stark.wait_for_log("reservation lost");
    assert_goes_on(&rig, 4000);
    // The scripts are gone, too, with this one.
    rig.redis.command(&["SCRIPT", "FLUSH"]);
    rig.redis.command(&["FLUSHALL"]);
    rig.push_numbers(9000..9100);
    wait_for_value(LIMIT, "jobs left", 0, || rig.left());
    assert_eq!(told(&rig.stark), (0, 0));
    rig.stark.stop();
}

//! What INFO tells of the queues: counted by the keeper for as long as somebody asks.

mod support;

use std::collections::BTreeMap;

use redis::Commands;

use support::ledger::{Consumer, Gate, KEY, Rig};
use support::stark::{LIMIT, Stark, wait_for};

/// A time in ms that no test sees: nothing is due, and nothing too old.
const FAR_AWAY: u64 = 4_102_444_800_000;

/// The fields of a queue's line.
fn queue_line(stark: &Stark, number: usize) -> BTreeMap<String, String> {
    let info = stark.info();
    let line = &info[&format!("queue{number}")];
    let fields = line.split(',').filter_map(|field| field.split_once('='));
    fields
        .map(|(name, value)| (name.into(), value.into()))
        .collect()
}

fn figure(line: &BTreeMap<String, String>, name: &str) -> Option<u64> {
    line.get(name).map(|value| value.parse().expect("a number"))
}

#[test]
fn info_tells_what_waits_what_is_in_hand_what_is_late_and_what_is_dead() {
    let rig = Rig::start(Consumer::Probe, 2, "", "prefetch = 1");
    let mut gates: Vec<Gate> = (0..2).map(|n| rig.gate(&format!("gate.{n}"))).collect();
    rig.push((0..7).map(|number| match gates.get(number) {
        Some(gate) => rig.job_at(number, gate),
        None => rig.job(number),
    }));
    let mut connection = rig.redis.connect();
    let _: () = connection
        .zadd(format!("{{{KEY}}}:stark:delayed"), "later", FAR_AWAY)
        .unwrap();
    for (score, member) in (0..).zip(["a", "b", "c"]) {
        let _: () = connection
            .zadd(format!("{{{KEY}}}:stark:dead"), member, FAR_AWAY + score)
            .unwrap();
    }
    let expected = [("waiting", 5), ("reserved", 2), ("delayed", 1), ("dead", 3)];
    wait_for(LIMIT, "all of it is counted", || {
        let line = queue_line(&rig.stark, 0);
        expected
            .iter()
            .all(|(name, count)| figure(&line, name) == Some(*count))
    });
    let line = queue_line(&rig.stark, 0);
    assert_eq!(
        (&*line["key"], &*line["type"], &*line["connected"]),
        (KEY, "redis", "1")
    );
    wait_for(LIMIT, "the oldest job grows older", || {
        figure(&queue_line(&rig.stark, 0), "oldest_ms") >= Some(2000)
    });
    let sampled_ago = figure(&queue_line(&rig.stark, 0), "sampled_ms_ago");
    assert!(sampled_ago.is_some_and(|ms| ms < 60_000), "{sampled_ago:?}");
    gates.iter_mut().for_each(Gate::open);
    wait_for(LIMIT, "nobody is old", || {
        let line = queue_line(&rig.stark, 0);
        (figure(&line, "waiting"), figure(&line, "oldest_ms")) == (Some(0), Some(0))
    });
    let _: () = connection
        .del(vec!["{q}:stark:delayed", "{q}:stark:dead"])
        .unwrap();
    rig.finish(7);
}

#[test]
fn a_queue_whose_server_is_away_is_not_connected_and_keeps_its_last_figures() {
    let mut rig = Rig::start(Consumer::Probe, 1, "", "");
    wait_for(LIMIT, "it is counted", || {
        figure(&queue_line(&rig.stark, 0), "dead") == Some(0)
    });
    rig.redis.stop();
    wait_for(LIMIT, "it is away", || {
        queue_line(&rig.stark, 0)["connected"] == "0"
    });
    assert_eq!(figure(&queue_line(&rig.stark, 0), "waiting"), Some(0));
    rig.redis.restart();
    wait_for(LIMIT, "it is back", || {
        queue_line(&rig.stark, 0)["connected"] == "1"
    });
    rig.stark.stop();
}

#[test]
fn run_times_are_told_as_median_and_tail() {
    let rig = Rig::start(Consumer::Probe, 1, "", "");
    assert_eq!(rig.stark.figure("run_usec_p50"), 0);
    rig.push((0..50).map(|number| rig.job_of_ms(number, 4)));
    rig.stark.wait_for_figure("run_count", 50);
    let (median, tail) = (
        rig.stark.figure("run_usec_p50"),
        rig.stark.figure("run_usec_p99"),
    );
    assert!(median >= 4000 && tail >= median, "{median} {tail}");
    rig.finish(50);
}

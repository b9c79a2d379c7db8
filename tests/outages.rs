//! Redis in trouble, end to end: gone, restarted, without its data, full, refusing, stalled, slow to come back. Jobs are
//! counted by what they wrote themselves. Whatever the number of workers, an outage is two lines in the log.

mod support;

#[path = "outages/data.rs"]
mod data;
#[path = "outages/gone.rs"]
mod gone;
#[path = "outages/lines.rs"]
mod lines;
#[path = "outages/refusals.rs"]
mod refusals;
#[path = "outages/states.rs"]
mod states;
#[path = "outages/wire.rs"]
mod wire;

use stark::config::Address;
use support::ledger::{KEY, Rig, repeated};
use support::proxy::Proxy;
use support::redis::Redis;
use support::stark::{LIMIT, Stark, wait_for, wait_for_value};

const WORKERS: usize = 4;

/// Settings of a daemon whose jobs may write to the ledger; with a short timeout unless `queue` has another.
fn ini(server: &str, workers: usize, queue: &str) -> String {
    let timeout = match queue.contains("timeout") {
        true => "",
        false => "timeout = 0.5\n",
    };
    format!("[run]\nbuiltin = probe\n[worker]\ncount = {workers}\n{server}{timeout}{queue}\n")
}

/// The `[queue]` section for the server behind a proxy.
fn through(proxy: &Proxy) -> String {
    let Address::Tcp(host, port) = proxy.address() else {
        panic!("it listens on TCP")
    };
    format!("[queue]\nhost = {host}\nport = {port}\nkey = {KEY}\n")
}

/// A running daemon; its jobs go straight to the server.
fn rig(redis: Redis) -> Rig {
    let server = support::stark::queue(&redis, KEY);
    let stark = Stark::start(&ini(&server, WORKERS, ""), "");
    Rig { redis, stark }
}

/// The same behind a proxy.
fn rig_behind(proxy: &Proxy, redis: Redis, workers: usize) -> Rig {
    rig_with(proxy, redis, workers, "")
}

/// The same with more lines of `[queue]`.
fn rig_with(proxy: &Proxy, redis: Redis, workers: usize, queue: &str) -> Rig {
    let stark = Stark::start(&ini(&through(proxy), workers, queue), "");
    Rig { redis, stark }
}

/// Pushes jobs of a millisecond, and waits until some have run.
fn load(rig: &Rig, jobs: usize) {
    rig.push((0..jobs).map(|number| rig.job_of_ms(number, 1)));
    wait_for(LIMIT, "some jobs", || rig.runs().len() > 50);
}

/// All workers have met the trouble.
fn wait_until_away(rig: &Rig, workers: usize) {
    let is_away = |number| rig.stark.worker(number)["state"] == "away";
    wait_for(LIMIT, "all are away", || (0..workers).all(is_away));
}

/// The beginning of so many outages was told. One that is over before the second attempt, within 50 ms, is not.
#[track_caller]
fn wait_until_told(stark: &Stark, outages: usize) {
    wait_for_value(LIMIT, "lines", outages, || told(stark).0);
}

/// The lines of an outage's beginning and of its end.
fn told(stark: &Stark) -> (usize, usize) {
    let count = |text| stark.log_lines(text).len();
    (count("redis unavailable addr="), count("redis back addr="))
}

/// So many outages were told, each once, and are over.
#[track_caller]
fn assert_told(stark: &Stark, outages: usize) {
    wait_for_value(LIMIT, "lines", (outages, outages), || told(stark));
}

fn assert_each_ran_once(rig: &Rig, jobs: usize) {
    assert_eq!(repeated(&rig.finish(jobs)), Vec::<usize>::new());
}

/// What the end of the last outage says of its length.
fn down_ms(stark: &Stark) -> u64 {
    let lines = stark.log_lines("redis back addr=");
    let (_, ms) = lines
        .last()
        .expect("a line")
        .split_once("down_ms=")
        .unwrap();
    ms.parse().expect("a number")
}

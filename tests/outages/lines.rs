//! What an operator reads of outages: two lines for each, whatever the number of workers and pools; and that the
//! workers do not all come back at the same moment.

use std::time::{Duration, Instant};

use crate::support::redis::run;
use crate::*;

/// Settings of more pools, each with this `[queue]` section.
fn pools(sections: &[(&str, String)]) -> String {
    let pool = |(name, queue): &(&str, String)| {
        let queue = queue.replace("[queue]", &format!("[queue {name}]"));
        format!("[run {name}]\nbuiltin = probe\n[worker {name}]\ncount = 2\n{queue}timeout = 0.5\n")
    };
    sections.iter().map(pool).collect()
}

#[test]
fn short_outages_one_after_the_other_are_two_lines_each_for_all_pools_of_the_server() {
    let redis = Redis::start();
    let queue = |key| support::stark::queue(&redis, key);
    let more = pools(&[("mail", queue("mails")), ("again", queue(KEY))]);
    let stark = Stark::start(&(ini(&queue(KEY), WORKERS, "") + &more), "");
    let mut rig = Rig { redis, stark };
    for outage in 1..=4 {
        rig.redis.stop();
        wait_for(LIMIT, "the beginning", || told(&rig.stark).0 == outage);
        rig.redis.restart();
        assert_told(&rig.stark, outage);
    }
    // Those who were slow to come back say nothing of it.
    let is_idle = |number| rig.stark.worker(number)["state"] == "idle";
    wait_for(LIMIT, "all are idle", || (0..8).all(is_idle));
    assert_eq!(told(&rig.stark), (4, 4));
    rig.stark.stop();
}

#[test]
fn an_outage_of_one_server_is_told_of_that_one() {
    let (redis, mut other) = (Redis::start(), Redis::start());
    let more = pools(&[("mail", support::stark::queue(&other, "mails"))]);
    let stark = Stark::start(
        &(ini(&support::stark::queue(&redis, KEY), 2, "") + &more),
        "",
    );
    let rig = Rig { redis, stark };
    other.stop();
    let line = rig.stark.wait_for_log("redis unavailable addr=");
    assert!(line.contains(&*other.socket().to_string_lossy()), "{line}");
    rig.push_numbers(0..100);
    rig.drain(100);
    other.restart();
    assert_told(&rig.stark, 1);
    rig.stark.stop();
}

#[test]
fn a_stall_longer_than_the_timeout_is_told_with_its_length() {
    let rig = rig(Redis::start());
    load(&rig, 1500);
    let began = Instant::now();
    rig.redis.pause();
    wait_until_away(&rig, WORKERS);
    rig.stark.wait_for_log("redis unavailable addr=");
    wait_for(LIMIT, "a long stall", || {
        began.elapsed() > Duration::from_millis(1500)
    });
    let was = began.elapsed().as_millis() as u64;
    rig.redis.resume();
    assert_told(&rig.stark, 1);
    let (said, most) = (down_ms(&rig.stark), began.elapsed().as_millis() as u64);
    assert!(said + 500 > was && said <= most, "down_ms={said} of {was}");
    assert_each_ran_once(&rig, 1500);
}

#[test]
fn connections_that_are_killed_are_no_outage() {
    let rig = rig(Redis::start());
    load(&rig, 1500);
    let mut connection = rig.redis.connect();
    for _ in 0..5 {
        let before = connections(&mut connection);
        let all = ["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"];
        run(&mut connection, &all);
        // The workers and the keeper. Who is hit twice before he has done anything would call it an outage.
        wait_for(LIMIT, "all connect anew", || {
            connections(&mut connection) > before + WORKERS as u64
        });
        let is_idle = |number| rig.stark.worker(number)["state"] == "idle";
        wait_for(LIMIT, "all are idle", || (0..WORKERS).all(is_idle));
        wait_for(LIMIT, "the keeper watches", || {
            rig.stark.info()["queue0"].contains("connected=1")
        });
    }
    assert_each_ran_once(&rig, 1500);
    assert_eq!(told(&rig.stark), (0, 0));
}

/// Clients that the server has met.
fn connections(connection: &mut redis::Connection) -> u64 {
    let info: redis::InfoDict = redis::cmd("INFO").query(connection).expect("an answer");
    info.get("total_connections_received").expect("a number")
}

/// The most of these within any such span.
fn most_within(span: Duration, times: &[Instant]) -> usize {
    let within = |first: usize| {
        let from = &times[first..];
        from.iter().take_while(|at| **at - from[0] < span).count()
    };
    (0..times.len()).map(within).max().unwrap_or(0)
}

#[test]
fn two_hundred_workers_ask_ever_less_often_and_come_back_without_a_storm() {
    const MANY: usize = 200;
    let redis = Redis::start_with(&["--maxclients", "1000"]);
    let proxy = Proxy::start(&redis.socket());
    // On a machine with few cores they keep each other waiting for long.
    let mut rig = rig_with(&proxy, redis, MANY, "timeout = 20");
    wait_for(LIMIT, "all are idle", || {
        rig.stark.figure("worker_idle") == MANY as u64
    });
    let before = proxy.connected().len();
    let gone = Instant::now();
    rig.redis.stop();
    // The proxy takes connections and closes them. 50 ms to 5 s, doubled: the eighth attempt is the first after 3.2 s.
    wait_for(2 * LIMIT, "attempts", || {
        proxy.connected().len() >= before + 8 * (MANY + 1)
    });
    let back = Instant::now();
    let attempts = proxy.connected()[before..].to_vec();
    // The kth attempt comes after 25 ms * (2^k - 1) at the earliest: six in a second.
    let early = attempts
        .iter()
        .filter(|at| **at - gone < Duration::from_secs(1));
    assert!(early.count() <= 6 * (MANY + 1));
    let late = attempts
        .iter()
        .filter(|at| back - **at < Duration::from_millis(700));
    assert!(late.count() <= 2 * MANY, "no decay");

    let before = proxy.connected().len();
    rig.redis.restart();
    wait_for(LIMIT, "all are idle", || {
        rig.stark.figure("worker_idle") == MANY as u64
    });
    let attempts = proxy.connected()[before..].to_vec();
    assert!(attempts.len() <= 2 * (MANY + 1), "{}", attempts.len());
    // Spread over 1.6 to 5 s, 200 of them are 2 to 7 in 50 ms; a busy machine may be late for some.
    let most = most_within(Duration::from_millis(50), &attempts);
    assert!(most <= MANY / 4, "{most} of {} at once", attempts.len());
    assert_told(&rig.stark, 1);
    rig.push_numbers(0..100);
    rig.drain(100);
    rig.stark.stop();
    assert_eq!(told(&rig.stark), (1, 1));
}

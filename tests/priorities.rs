//! Several keys, `key = q middle low`: strict priority, decided in every turn, with workers that are busy, that are idle
//! and that are killed; and fair shares among workers. Counted is what the jobs wrote themselves.

mod support;

use std::ops::Range;

use nix::sys::signal::Signal::SIGKILL;
use redis::Commands;

use support::ledger::{Consumer, Gate, KEY, Rig, first, repeated};
use support::redis::Redis;
use support::stark::{LIMIT, Stark, is_alive, kill, wait_for, wait_for_value};

/// The ledger's key is the most important one here.
const HIGH: &str = KEY;
const MIDDLE: &str = "middle";
const LOW: &str = "low";

/// Where the numbers of a key's jobs begin, so that a ledger tells of which key each run was.
const OF_MIDDLE: usize = 1_000_000;
const OF_LOW: usize = 2_000_000;

/// PHP that understands what the ledger writes.
const SCRIPT: &str = r#"<?php
function run($worker, $data)
{
    foreach (explode(';', $data) as $command) {
        $words = explode(' ', trim($command), 3);
        if ($words[0] === 'append') {
            file_put_contents($words[1], "$words[2]\n", FILE_APPEND);
        } elseif ($words[0] === 'sleep') {
            usleep(1000 * (int) $words[1]);
        }
    }
}
"#;

/// A daemon on these keys. Not started: `rig.stark.start_again()` does that.
fn prepare(consumer: Consumer, workers: usize, keys: &str, more: &str) -> Rig {
    let redis = Redis::start();
    let run = match consumer {
        Consumer::Probe => "builtin = probe",
        Consumer::Php => "script_file = run.php",
    };
    let server = support::stark::queue(&redis, keys);
    let ini = format!("[run]\n{run}\n[worker]\ncount = {workers}\n{server}{more}\n");
    let stark = Stark::prepare(&ini, SCRIPT);
    Rig { redis, stark }
}

fn start(consumer: Consumer, workers: usize, keys: &str, more: &str) -> Rig {
    let rig = prepare(consumer, workers, keys, more);
    rig.stark.start_again();
    rig
}

/// One command, so that all of them are there at once.
fn push_to(rig: &Rig, key: &str, jobs: Vec<String>) {
    let _: usize = rig.redis.connect().rpush(key, jobs).expect("an answer");
}

fn waiting(rig: &Rig, key: &str) -> usize {
    rig.redis.connect().llen(key).expect("an answer")
}

/// Jobs that wait or are reserved, of all keys, at one moment.
fn left(rig: &Rig, keys: &[&str]) -> usize {
    let script = "local left = 0
        for _, key in ipairs(KEYS) do
          left = left + redis.call('LLEN', key)
          for _, list in ipairs(redis.call('SMEMBERS', '{' .. key .. '}:stark:reserved')) do
            left = left + math.max(0, redis.call('LLEN', list) - 1)
          end
        end
        return left";
    let mut command = redis::cmd("EVAL");
    command.arg(script).arg(keys.len()).arg(keys);
    command.query(&mut rig.redis.connect()).expect("an answer")
}

fn wait_until_empty(rig: &Rig, keys: &[&str]) {
    wait_for_value(2 * LIMIT, "jobs left", 0, || left(rig, keys));
}

/// The reserved jobs of each slot at one moment, by the key of the list that they are in.
fn reserved_by_slot(rig: &Rig, keys: &[&str]) -> Vec<Vec<(String, Vec<String>)>> {
    let script = "local lists = {}
        for _, key in ipairs(KEYS) do
          for _, list in ipairs(redis.call('SMEMBERS', '{' .. key .. '}:stark:reserved')) do
            local jobs = redis.call('LRANGE', list, 1, -1)
            table.insert(lists, {key, string.match(list, '%d+$'), jobs})
          end
        end
        return lists";
    let mut command = redis::cmd("EVAL");
    command.arg(script).arg(keys.len()).arg(keys);
    let lists: Vec<(String, usize, Vec<String>)> =
        command.query(&mut rig.redis.connect()).expect("an answer");
    let mut slots = vec![];
    for (key, slot, jobs) in lists {
        slots.resize_with(slots.len().max(slot + 1), Vec::new);
        slots[slot].push((key, jobs));
    }
    slots
}

fn is_high(run: &usize) -> bool {
    *run < OF_MIDDLE
}

fn runs_of(runs: &[usize], numbers: Range<usize>) -> Vec<usize> {
    let of_these = runs.iter().filter(|run| numbers.contains(run));
    of_these.copied().collect()
}

#[track_caller]
fn keys_are_emptied_one_after_the_other(consumer: Consumer) {
    let keys = [HIGH, MIDDLE, LOW];
    let rig = prepare(consumer, 1, &keys.join(" "), "");
    // In this order, so that whoever came first is not who is served first.
    for (key, from) in [(LOW, OF_LOW), (MIDDLE, OF_MIDDLE), (HIGH, 0)] {
        push_to(&rig, key, (from..from + 200).map(|n| rig.job(n)).collect());
    }
    rig.stark.start_again();
    wait_until_empty(&rig, &keys);
    let all = (0..200).chain(OF_MIDDLE..OF_MIDDLE + 200);
    let all: Vec<usize> = all.chain(OF_LOW..OF_LOW + 200).collect();
    assert_eq!(rig.runs(), all);
    rig.stark.stop();
}

#[test]
fn keys_are_emptied_one_after_the_other_native() {
    keys_are_emptied_one_after_the_other(Consumer::Probe);
}

#[test]
fn keys_are_emptied_one_after_the_other_php() {
    keys_are_emptied_one_after_the_other(Consumer::Php);
}

/// One worker in a low job, with others of that key behind it: what is not begun is back in its queue after 250 ms, and
/// the high jobs that came meanwhile run before it.
#[track_caller]
fn a_high_job_passes_low_ones_that_were_reserved_behind_a_long_one(consumer: Consumer) {
    let keys = [HIGH, LOW];
    let rig = start(consumer, 1, &keys.join(" "), "prefetch = 10");
    let mut gate = rig.gate("gate");
    let mut low: Vec<String> = (OF_LOW..OF_LOW + 60).map(|n| rig.job(n)).collect();
    low[30] = rig.job_at(OF_LOW + 30, &gate);
    push_to(&rig, LOW, low);
    rig.wait_for_run(OF_LOW + 30, 1);
    push_to(&rig, HIGH, (0..30).map(|n| rig.job(n)).collect());
    // A script was sent some of those behind it (5 ms of work), perhaps all: they stay.
    if consumer == Consumer::Probe {
        wait_for_value(LIMIT, "low jobs back", 29, || waiting(&rig, LOW));
    }
    gate.open();
    wait_until_empty(&rig, &keys);
    let runs = rig.runs();
    let first_high = runs.iter().position(is_high).expect("one ran");
    let behind = first_high.checked_sub(31).expect("after the long job");
    let most = if consumer == Consumer::Probe { 0 } else { 9 };
    assert!(behind <= most, "{behind} low jobs ran before");
    let begun = OF_LOW..OF_LOW + first_high;
    let all = begun.clone().chain(0..30).chain(begun.end..OF_LOW + 60);
    assert_eq!(runs, all.collect::<Vec<_>>());
    rig.stark.stop();
}

#[test]
fn a_high_job_passes_low_ones_that_were_reserved_behind_a_long_one_native() {
    a_high_job_passes_low_ones_that_were_reserved_behind_a_long_one(Consumer::Probe);
}

#[test]
fn a_high_job_passes_low_ones_that_were_reserved_behind_a_long_one_php() {
    a_high_job_passes_low_ones_that_were_reserved_behind_a_long_one(Consumer::Php);
}

/// Three busy workers and a backlog of low jobs: once the high ones are there, each worker ends the reservation in hand
/// and no more.
#[track_caller]
fn busy_workers_turn_to_high_jobs_after_the_reservation_in_hand(consumer: Consumer) {
    const WORKERS: usize = 3;
    const PREFETCH: usize = 10;
    const IN_HAND: usize = WORKERS * PREFETCH;
    const JOBS: usize = 300;
    let keys = [HIGH, LOW];
    let more = format!("prefetch = {PREFETCH}");
    let rig = start(consumer, WORKERS, &keys.join(" "), &more);
    let low = OF_LOW..OF_LOW + 10_000;
    push_to(
        &rig,
        LOW,
        low.clone().map(|n| rig.job_of_ms(n, 1)).collect(),
    );
    wait_for(LIMIT, "all are busy", || rig.runs().len() > 100);
    push_to(&rig, HIGH, (0..JOBS).map(|n| rig.job_of_ms(n, 1)).collect());
    wait_for(LIMIT, "the high jobs run", || {
        waiting(&rig, HIGH) == 0 && rig.runs().iter().filter(|run| is_high(run)).count() == JOBS
    });
    let runs = rig.runs();
    let begin = runs.iter().position(is_high).expect("one ran");
    // At most so many are reserved: as long as one with a lower number begins, others wait.
    let is_late = |run: &usize| is_high(run) && *run >= JOBS - IN_HAND;
    let end = runs.iter().position(is_late).expect("the last ran");
    let low_between = runs[begin..end].iter().filter(|run| !is_high(run)).count();
    assert!(low_between <= IN_HAND, "{low_between} low jobs began");
    assert!(waiting(&rig, LOW) > 0, "the backlog was too short");
    rig.redis.connect().del::<_, ()>(LOW).expect("an answer");
    wait_until_empty(&rig, &keys);
    assert_eq!(repeated(&rig.runs()), Vec::<usize>::new());
    rig.stark.stop();
}

#[test]
fn busy_workers_turn_to_high_jobs_after_the_reservation_in_hand_native() {
    busy_workers_turn_to_high_jobs_after_the_reservation_in_hand(Consumer::Probe);
}

#[test]
fn busy_workers_turn_to_high_jobs_after_the_reservation_in_hand_php() {
    busy_workers_turn_to_high_jobs_after_the_reservation_in_hand(Consumer::Php);
}

/// A high job never waits behind a low one that some worker holds, since no worker holds both.
#[test]
fn a_reservation_holds_jobs_of_one_key_only() {
    let keys = [HIGH, MIDDLE, LOW];
    let rig = start(Consumer::Probe, 3, &keys.join(" "), "prefetch = 10");
    let froms = [0, OF_MIDDLE, OF_LOW];
    let mut pushed = 0;
    let mut seen = [false; 3];
    while seen != [true; 3] || pushed < 900 {
        assert!(pushed < 30_000, "held were {seen:?} of {keys:?}");
        for (key, from) in keys.into_iter().zip(froms) {
            let numbers = from + pushed..from + pushed + 30;
            push_to(&rig, key, numbers.map(|n| rig.job_of_ms(n, 1)).collect());
        }
        pushed += 30;
        wait_for(LIMIT, "few are left", || {
            for slot in reserved_by_slot(&rig, &keys) {
                let held: Vec<_> = slot.iter().filter(|(_, jobs)| !jobs.is_empty()).collect();
                assert!(held.len() <= 1, "one worker holds {held:?}");
                for (key, _) in held {
                    let place = keys.iter().position(|known| known == key);
                    seen[place.expect("a key of ours")] = true;
                }
            }
            left(&rig, &keys) < 20
        });
    }
    wait_until_empty(&rig, &keys);
    let runs = rig.runs();
    assert_eq!(repeated(&runs), Vec::<usize>::new());
    assert_eq!(runs.len(), 3 * pushed);
    rig.stark.stop();
}

/// Kills the only worker and its script in a low job, while others of that key are reserved behind it and high ones come.
#[track_caller]
fn a_killed_worker_gives_low_jobs_back_in_order_and_high_ones_go_first(consumer: Consumer) {
    let keys = [HIGH, LOW];
    let rig = start(consumer, 1, &keys.join(" "), "prefetch = 10");
    let mut gate = rig.gate("gate");
    let mut low: Vec<String> = (OF_LOW..OF_LOW + 60).map(|n| rig.job(n)).collect();
    low[30] = rig.job_at(OF_LOW + 30, &gate);
    push_to(&rig, LOW, low);
    rig.wait_for_run(OF_LOW + 30, 1);
    push_to(&rig, HIGH, (0..30).map(|n| rig.job(n)).collect());
    let worker = rig.worker_pid(0);
    let script = rig.script_pid(worker);
    kill(worker, SIGKILL);
    wait_for(LIMIT, "both die", || {
        !is_alive(worker) && !script.is_some_and(is_alive)
    });
    gate.open();
    wait_until_empty(&rig, &keys);
    let before = OF_LOW..OF_LOW + 31;
    let all = before.chain(0..30).chain(OF_LOW + 30..OF_LOW + 60);
    assert_eq!(rig.runs(), all.collect::<Vec<_>>());
    rig.stark.stop();
}

#[test]
fn a_killed_worker_gives_low_jobs_back_in_order_and_high_ones_go_first_native() {
    a_killed_worker_gives_low_jobs_back_in_order_and_high_ones_go_first(Consumer::Probe);
}

#[test]
fn a_killed_worker_gives_low_jobs_back_in_order_and_high_ones_go_first_php() {
    a_killed_worker_gives_low_jobs_back_in_order_and_high_ones_go_first(Consumer::Php);
}

/// Kills at any moment while all keys have jobs: each kill repeats the job in hand at most, and the order of each key
/// stays. One worker, whose ledger has an order.
#[track_caller]
fn kills_cost_no_job_of_any_key_and_keep_their_orders(consumer: Consumer) {
    const KILLS: usize = 8;
    const EACH: usize = 60;
    let keys = [HIGH, MIDDLE, LOW];
    let rig = start(consumer, 1, &keys.join(" "), "");
    let froms = [0, OF_MIDDLE, OF_LOW];
    for round in 0..KILLS {
        let begun = rig.runs().len();
        for (key, from) in keys.into_iter().zip(froms) {
            let numbers = from + round * EACH..from + (round + 1) * EACH;
            push_to(&rig, key, numbers.map(|n| rig.job_of_ms(n, 1)).collect());
        }
        wait_for(LIMIT, "it works", || rig.runs().len() >= begun + 7 * round);
        let mut worker = None;
        wait_for(LIMIT, "a worker", || {
            worker = rig.stark.worker_pids().first().copied();
            worker.is_some()
        });
        kill(worker.expect("it was seen"), SIGKILL);
    }
    wait_until_empty(&rig, &keys);
    let runs = rig.runs();
    assert!(repeated(&runs).len() <= KILLS, "{:?}", repeated(&runs));
    for from in froms {
        let all = from..from + KILLS * EACH;
        let of_key = runs_of(&first(&runs), all.clone());
        assert_eq!(of_key, all.collect::<Vec<_>>());
    }
    rig.stark.stop();
}

#[test]
fn kills_cost_no_job_of_any_key_and_keep_their_orders_native() {
    kills_cost_no_job_of_any_key_and_keep_their_orders(Consumer::Probe);
}

#[test]
fn kills_cost_no_job_of_any_key_and_keep_their_orders_php() {
    kills_cost_no_job_of_any_key_and_keep_their_orders(Consumer::Php);
}

/// How often the server was asked for a command so far.
fn calls(rig: &Rig, command: &str) -> usize {
    let mut info = redis::cmd("INFO");
    let info: String = info
        .arg("commandstats")
        .query(&mut rig.redis.connect())
        .expect("an answer");
    let prefix = format!("cmdstat_{command}:calls=");
    let line = info.lines().find_map(|line| line.strip_prefix(&prefix));
    line.map_or(0, |rest| {
        let number = rest.split(',').next().expect("a first part");
        number.parse().expect("a number")
    })
}

#[test]
fn keys_on_which_nothing_ever_comes_cost_no_round_trip() {
    const JOBS: usize = 200;
    let empty: Vec<String> = (0..63).map(|number| format!("empty{number}")).collect();
    let keys = format!("{} {HIGH}", empty.join(" "));
    let rig = start(Consumer::Probe, 1, &keys, "prefetch = 1");
    rig.stark.wait_for_figure("worker_idle", 1);
    // Its list of each key is open.
    wait_for_value(LIMIT, "lists", 1, || rig.reserved().len());
    let before = calls(&rig, "evalsha");
    rig.push_numbers(0..JOBS);
    wait_until_empty(&rig, &[HIGH]);
    rig.stark.wait_for_figure("worker_idle", 1);
    let turns = calls(&rig, "evalsha") - before;
    // A wake-up that finds nothing is a turn, too; so is the one before sleep. The keeper looks for delayed jobs of each
    // key when it has come, which may be after the workers, and not for each job.
    assert!((JOBS..JOBS + 2 * 64 + 20).contains(&turns), "{turns} turns");
    assert_eq!(rig.runs(), (0..JOBS).collect::<Vec<_>>());
    rig.stark.stop();
    let keys: Vec<String> = rig.redis.connect().keys("*").expect("an answer");
    assert_eq!(
        keys,
        ["{q}:stark:stats"],
        "nothing of the empty ones is left"
    );
}

#[test]
fn idle_workers_wake_for_each_key() {
    let keys = [HIGH, MIDDLE, LOW];
    let rig = start(Consumer::Probe, 3, &keys.join(" "), "");
    for round in 0..5 {
        rig.stark.wait_for_figure("worker_idle", 3);
        let name = |key: &str| format!("gate.{round}.{key}");
        let mut gates: Vec<Gate> = keys.iter().map(|key| rig.gate(&name(key))).collect();
        // The least important first: whoever has taken it cannot take another.
        for place in [2, 1, 0] {
            let number = 10 * round + place;
            push_to(&rig, keys[place], vec![rig.job_at(number, &gates[place])]);
        }
        for place in 0..3 {
            rig.wait_for_run(10 * round + place, 1);
        }
        gates.iter_mut().for_each(Gate::open);
    }
    wait_until_empty(&rig, &keys);
    rig.stark.stop();
}

/// Workers that have learned to take many jobs at once meet few: each takes one, and none keeps a second from a worker
/// that is idle. Jobs wait at gates, so nothing of it is a matter of time.
#[track_caller]
fn no_worker_holds_a_second_job_while_another_is_idle(consumer: Consumer) {
    const WORKERS: usize = 4;
    let rig = start(consumer, WORKERS, HIGH, "");
    let mut number = 0;
    for jobs in 1..=2 * WORKERS {
        rig.push_numbers(number..number + 2000);
        number += 2000;
        wait_until_empty(&rig, &[HIGH]);
        rig.stark.wait_for_figure("worker_idle", WORKERS as u64);
        let name = |gate: usize| format!("gate.{jobs}.{gate}");
        let mut gates: Vec<Gate> = (0..jobs).map(|gate| rig.gate(&name(gate))).collect();
        let before = rig.runs().len();
        let at_gates = gates.iter().zip(number..);
        push_to(
            &rig,
            HIGH,
            at_gates.map(|(gate, n)| rig.job_at(n, gate)).collect(),
        );
        number += jobs;
        let in_hand = jobs.min(WORKERS);
        wait_for_value(LIMIT, "jobs in hand", in_hand, || rig.runs().len() - before);
        let mut held: Vec<usize> = rig.reserved().into_iter().map(|(_, jobs)| jobs).collect();
        held.sort_unstable();
        held.drain(..WORKERS - in_hand);
        assert_eq!(held, vec![1; in_hand], "of {jobs} jobs");
        assert_eq!(rig.waiting(), jobs - in_hand);
        gates.iter_mut().for_each(Gate::open);
        wait_until_empty(&rig, &[HIGH]);
    }
    let mut runs = rig.finish(number);
    runs.sort_unstable();
    assert_eq!(runs, (0..number).collect::<Vec<_>>());
}

#[test]
fn no_worker_holds_a_second_job_while_another_is_idle_native() {
    no_worker_holds_a_second_job_while_another_is_idle(Consumer::Probe);
}

#[test]
fn no_worker_holds_a_second_job_while_another_is_idle_php() {
    no_worker_holds_a_second_job_while_another_is_idle(Consumer::Php);
}

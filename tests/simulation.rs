//! Thousands of seeded histories of a daemon, each with its own troubles, against the promises of supervision; and the
//! proof that a supervisor with a fault is found out. docs/simulation.md tells what is simulated and what was planted.
//!
//! `STARK_SIM_SEED=n cargo test --test simulation` plays one history again.

mod simulation {
    pub mod chance;
    pub mod fault;
    pub mod judge;
    pub mod world;
}

use simulation::fault::Fault;
use simulation::judge;
use simulation::world::{Tally, play};

const HISTORIES: u64 = 2000;
/// A fault that so many histories do not show is not found.
const HISTORIES_PER_FAULT: u64 = 300;
/// What must have been seen for the histories to prove anything.
const ALL_WORDS: [&str; 28] = [
    "all ready",
    "consumer failed",
    "crashed",
    "drain",
    "exit",
    "exit refused",
    "failed",
    "heartbeat",
    "heartbeat asked",
    "holder",
    "killed",
    "left",
    "memory",
    "paused",
    "ready",
    "recycle",
    "recycled",
    "reload finished",
    "reload stopped",
    "shutdown_now",
    "shutdown_timeout",
    "spawn",
    "spawn refused",
    "spawn with a delay",
    "start refused",
    "start_timeout",
    "stopped",
    "terminate",
];

#[test]
fn the_promises_of_supervision_hold_in_every_history() {
    let one = std::env::var("STARK_SIM_SEED").ok();
    let one: Option<u64> = one.map(|seed| seed.parse().expect("STARK_SIM_SEED is a number"));
    let seeds = one.map_or(0..HISTORIES, |seed| seed..seed + 1);
    let mut seen = Tally::new();
    for seed in seeds {
        for (word, count) in play_or_panic(seed) {
            *seen.entry(word).or_default() += count;
        }
    }
    if one.is_none() {
        let rare = |word: &&str| seen.get(*word).is_none_or(|count| *count < 20);
        let rare: Vec<&str> = ALL_WORDS.into_iter().filter(rare).collect();
        assert!(rare.is_empty(), "hardly seen: {rare:?} in {seen:#?}");
    }
}

fn play_or_panic(seed: u64) -> Tally {
    match std::panic::catch_unwind(|| play(seed, Fault::None)) {
        Ok(Ok(tally)) => tally,
        Ok(Err((violation, log))) => panic!(
            "{log}\nbroken: {}: {}\nSTARK_SIM_SEED={seed} plays it again",
            violation.rule, violation.detail
        ),
        Err(_) => panic!("STARK_SIM_SEED={seed} plays it again"),
    }
}

/// The rule that a planted fault breaks in the first history that shows it.
fn found(fault: Fault) -> Option<&'static str> {
    let mut histories = (0..HISTORIES_PER_FAULT).map(|seed| play(seed, fault));
    let broken = histories.find_map(Result::err);
    broken.map(|(violation, _)| violation.rule)
}

#[test]
fn a_forgotten_fork_is_found() {
    assert_eq!(found(Fault::DropSpawn), Some(judge::FILLED));
}

#[test]
fn a_fork_made_twice_is_found() {
    assert_eq!(found(Fault::DoubleSpawn), Some(judge::ONE_PROCESS));
}

#[test]
fn a_pause_that_is_not_seen_as_one_is_found() {
    assert_eq!(found(Fault::SplitPause), Some(judge::NOT_EARLY));
}

#[test]
fn a_generation_that_is_not_looked_at_is_found() {
    assert_eq!(found(Fault::StaleAsNew), Some(judge::STALE));
}

#[test]
fn an_exit_that_is_not_reaped_is_found() {
    assert_eq!(found(Fault::ForgetReap), Some(judge::FILLED));
}

#[test]
fn a_clock_that_runs_ahead_is_found() {
    assert_eq!(found(Fault::FastClock), Some(judge::NOT_EARLY));
}

#[test]
fn a_silent_process_that_is_not_killed_is_found() {
    assert_eq!(found(Fault::DropKill), Some(judge::NOT_LATE));
}

#[test]
fn a_keeper_that_leaves_before_the_workers_is_found() {
    assert_eq!(found(Fault::EagerKeeper), Some(judge::KEEPER_LAST));
}

#[test]
fn a_reload_that_does_not_wait_is_found() {
    assert_eq!(found(Fault::HastyReload), Some(judge::RELOAD));
}

#[test]
fn a_missing_backoff_is_found() {
    assert_eq!(found(Fault::NoBackoff), Some(judge::BACKOFF));
}

#[test]
fn an_exit_given_twice_is_found() {
    assert_eq!(found(Fault::DoubleExit), Some(judge::ONE_EXIT));
}

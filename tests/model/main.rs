//! Why no job is lost: an exhaustive search of crash orders in a small model of server, connections, worker, successor
//! and keepers. A command of a broken connection, or of a killed worker, may still run at any later time. The search is
//! given faults to find, which shows that it can see; and the model's scripts are compared with the real ones by
//! random operations on a real server.

mod real;
mod store;
#[path = "../support/mod.rs"]
mod support;
mod world;

use std::collections::HashSet;

use store::Fault;
use world::{Bounds, World};

/// Visits every world within the bounds; answers how many, or the shortest way to one that must not be.
fn search(bounds: Bounds, fault: Fault) -> Result<usize, String> {
    let start = World::new(bounds);
    let mut worlds = vec![(start.clone(), 0)];
    let mut known = HashSet::from([start]);
    let mut visited = 0;
    while visited < worlds.len() {
        let world = worlds[visited].0.clone();
        if let Err(wrong) = world.check() {
            return Err(format!("{wrong}\n{}", way_to(&worlds, visited)));
        }
        for next in world.successors(bounds, fault) {
            let next = next.renumbered();
            if known.insert(next.clone()) {
                worlds.push((next, visited));
            }
        }
        visited += 1;
    }
    Ok(visited)
}

fn way_to(worlds: &[(World, usize)], mut index: usize) -> String {
    let mut way = Vec::new();
    loop {
        way.push(format!("{:?}", worlds[index].0));
        if index == 0 {
            break;
        }
        index = worlds[index].1;
    }
    way.reverse();
    way.join("\n")
}

/// One key, and nothing given back.
fn bounds(jobs: usize, breaks: usize, kills: usize, leaves: usize) -> Bounds {
    Bounds {
        keys: 1,
        jobs,
        breaks,
        kills,
        leaves,
        ..Bounds::default()
    }
}

fn assert_clean(bounds: Bounds) {
    let begun = std::time::Instant::now();
    match search(bounds, Fault::None) {
        Ok(visited) => println!("{visited} worlds in {:?}: {bounds:?}", begun.elapsed()),
        Err(way) => panic!("{way}"),
    }
}

#[test]
fn nothing_is_lost_when_workers_are_killed_and_connections_break() {
    assert_clean(bounds(3, 1, 1, 1));
}

#[test]
fn nothing_is_lost_when_workers_are_killed_in_a_row() {
    assert_clean(bounds(3, 0, 2, 1));
    assert_clean(bounds(2, 0, 3, 0));
    assert_clean(bounds(2, 1, 2, 0));
}

#[test]
fn nothing_is_lost_when_connections_break_in_a_row() {
    assert_clean(bounds(3, 2, 0, 1));
    assert_clean(bounds(2, 2, 1, 0));
}

#[test]
fn nothing_is_lost_between_keys() {
    for bounds in [bounds(2, 1, 1, 0), bounds(2, 1, 0, 1), bounds(2, 0, 2, 0)] {
        assert_clean(Bounds { keys: 2, ..bounds });
    }
}

#[test]
fn nothing_is_lost_when_jobs_are_given_back() {
    for (bounds, gives) in [(bounds(3, 1, 1, 1), 1), (bounds(3, 1, 0, 1), 2)] {
        assert_clean(Bounds { gives, ..bounds });
    }
}

#[test]
fn a_worker_whose_lists_are_taken_over_loses_nothing() {
    for (bounds, keys) in [(bounds(2, 1, 0, 1), 1), (bounds(2, 0, 1, 0), 2)] {
        assert_clean(Bounds {
            keys,
            gives: 1,
            thefts: 1,
            ..bounds
        });
    }
}

/// Jobs that fail, once or more often than they may.
fn failing(jobs: usize, fails: usize, breaks: usize, kills: usize, leaves: usize) -> Bounds {
    Bounds {
        fails,
        ..bounds(jobs, breaks, kills, leaves)
    }
}

#[test]
fn jobs_that_fail_run_again_and_none_is_dropped() {
    assert_clean(failing(2, 1, 1, 1, 1));
    assert_clean(failing(1, 3, 1, 1, 1));
    assert_clean(failing(2, 3, 0, 1, 0));
}

#[test]
fn jobs_that_crash_are_marked_and_none_is_dropped() {
    for (deaths, bounds) in [
        (1, failing(2, 1, 1, 0, 0)),
        (1, failing(2, 1, 0, 1, 0)),
        (1, failing(1, 1, 1, 2, 0)),
        (2, failing(2, 0, 1, 1, 0)),
    ] {
        assert_clean(Bounds { deaths, ..bounds });
    }
}

#[test]
fn failures_and_marks_are_kept_among_keys_gifts_and_thieves() {
    for bounds in [failing(2, 1, 0, 1, 0), failing(2, 1, 1, 0, 1)] {
        assert_clean(Bounds { keys: 2, ..bounds });
    }
    assert_clean(Bounds {
        gives: 1,
        ..failing(3, 1, 1, 0, 0)
    });
    assert_clean(Bounds {
        thefts: 1,
        ..failing(2, 1, 0, 1, 0)
    });
}

#[test]
#[ignore = "takes minutes: cargo test --release --test model -- --ignored"]
fn nothing_is_lost_in_a_wider_search() {
    let two_keys = Bounds {
        keys: 2,
        gives: 1,
        ..bounds(3, 1, 1, 1)
    };
    assert_clean(two_keys);
    assert_clean(bounds(3, 0, 3, 1));
    assert_clean(Bounds {
        deaths: 1,
        ..failing(2, 1, 1, 1, 0)
    });
    assert_clean(Bounds {
        keys: 2,
        ..failing(2, 1, 1, 1, 0)
    });
    assert_clean(Bounds {
        gives: 1,
        ..failing(3, 1, 1, 1, 0)
    });
    assert_clean(Bounds {
        thefts: 1,
        ..bounds(3, 1, 1, 1)
    });
    assert_clean(Bounds {
        keys: 3,
        ..bounds(3, 1, 1, 0)
    });
}

#[test]
fn the_search_finds_every_planted_fault() {
    let one_key = bounds(3, 1, 1, 1);
    let two_keys = Bounds {
        keys: 2,
        thefts: 1,
        ..bounds(2, 1, 1, 0)
    };
    let given_back = Bounds {
        gives: 1,
        ..bounds(3, 1, 0, 0)
    };
    for (fault, bounds) in [
        (Fault::EmptyTurnKeepsToken, one_key),
        (Fault::TurnChecksNothing, one_key),
        (Fault::TurnKeepsToken, one_key),
        (Fault::ReclaimNamesNoToken, one_key),
        (Fault::OpenOverwrites, one_key),
        (Fault::ProgressOfAnyToken, one_key),
        (Fault::NoLookAfterBreak, one_key),
        (Fault::LeaveForgetsTurn, one_key),
        (Fault::GiveBackToTail, one_key),
        (Fault::SettledKeepsToken, two_keys),
        (Fault::ChosenIsNotChecked, two_keys),
        (Fault::LooksAtHeldOnly, two_keys),
        (Fault::GiveBackChecksNoLength, given_back),
        (Fault::GiveBackChecksNoToken, given_back),
        (Fault::GivenUpIsForgotten, given_back),
        (Fault::GivenUpIsBegun, given_back),
        (Fault::TrimBeforeAdd, failing(1, 1, 0, 0, 0)),
        (Fault::AddsUnchecked, failing(2, 1, 1, 1, 0)),
        (Fault::FailuresAreForgotten, failing(1, 1, 0, 1, 0)),
        (Fault::MarksTheNextJob, failing(2, 0, 0, 1, 0)),
        (Fault::RunsAreNotCounted, failing(1, 3, 0, 0, 0)),
        (Fault::LeaveRepeatsFates, failing(2, 1, 1, 0, 1)),
        (Fault::DueIsKept, failing(1, 1, 0, 0, 0)),
    ] {
        match search(bounds, fault) {
            Ok(visited) => panic!("{fault:?} is not seen in {visited} worlds"),
            Err(way) => println!("{fault:?}: {}", way.lines().next().unwrap_or_default()),
        }
    }
}

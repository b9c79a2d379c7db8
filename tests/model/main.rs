//! Why no job is lost: an exhaustive search of crash orders in a small model of server, connections, worker and
//! successor. A command of a broken connection, or of a killed worker, may still run at any later time. The search is
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

fn bounds(jobs: usize, breaks: usize, kills: usize, leaves: usize) -> Bounds {
    Bounds {
        jobs,
        breaks,
        kills,
        leaves,
    }
}

fn assert_clean(bounds: Bounds) {
    if let Err(way) = search(bounds, Fault::None) {
        panic!("{way}");
    }
}

#[test]
fn nothing_is_lost_when_workers_are_killed_and_connections_break() {
    assert_clean(bounds(3, 1, 1, 1));
}

#[test]
fn nothing_is_lost_when_workers_are_killed_in_a_row() {
    assert_clean(bounds(3, 0, 3, 1));
    assert_clean(bounds(2, 1, 2, 0));
}

#[test]
fn nothing_is_lost_when_connections_break_in_a_row() {
    assert_clean(bounds(3, 2, 0, 1));
    assert_clean(bounds(2, 2, 1, 0));
}

#[test]
fn the_search_finds_every_planted_fault() {
    for fault in [
        Fault::EmptyTurnKeepsToken,
        Fault::TurnChecksNothing,
        Fault::TurnKeepsToken,
        Fault::ReclaimNamesNoToken,
        Fault::OpenOverwrites,
        Fault::ProgressOfAnyToken,
        Fault::NoLookAfterBreak,
        Fault::LeaveForgetsTurn,
        Fault::GiveBackToTail,
    ] {
        match search(bounds(3, 1, 1, 1), fault) {
            Ok(visited) => panic!("{fault:?} is not seen in {visited} worlds"),
            Err(way) => println!("{fault:?}: {}", way.lines().next().unwrap_or_default()),
        }
    }
}

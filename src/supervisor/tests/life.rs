//! The life of a process: forked, ready, recycled, crashed, replaced.

use super::*;

#[test]
fn every_slot_is_spawned_at_the_first_tick_one_generation_above_its_last() {
    let mut daemon = Daemon::planned(2);
    daemon.supervisor.slots[1].generation = 41;
    daemon.turn(&[]);
    let zero = Duration::ZERO;
    assert_eq!(daemon.spawns, [(0, 1, zero), (1, 42, zero), (2, 1, zero)]);
}

#[test]
fn all_ready_is_said_once_when_the_last_worker_is_and_does_not_wait_for_the_keeper() {
    let mut daemon = Daemon::starting(2);
    assert!(!daemon.get_ready(0).contains(&Action::AllReady));
    assert!(daemon.get_ready(1).contains(&Action::AllReady));
    assert!(!daemon.get_ready(2).contains(&Action::AllReady));
    daemon.crash(0);
    assert!(!daemon.get_ready(0).contains(&Action::AllReady));
}

#[test]
fn a_recycling_worker_has_all_the_time_it_needs_and_a_successor_at_once() {
    let mut daemon = Daemon::running(1);
    daemon.say(0, ToMaster::Recycling(RecycleReason::Runs));
    assert_eq!(kills(&daemon.pass(secs(3600))), []);
    assert!(daemon.spawns.is_empty());
    daemon.exit(0, Exit::Status(0));
    assert_eq!(daemon.spawns, [(0, 2, Duration::ZERO)]);
    let counters = daemon.supervisor.counters();
    assert_eq!((counters.recycled[0], counters.crashed), (1, 0));
}

#[test]
fn a_worker_that_leaves_unasked_is_no_crash_but_cannot_be_forked_without_end() {
    let mut daemon = Daemon::running(1);
    for _ in 0..5 {
        daemon.exit(0, Exit::Status(0));
        daemon.get_ready(0);
    }
    assert_eq!(daemon.supervisor.counters().crashed, 0);
    let delays: Vec<Duration> = daemon.spawns.iter().map(|spawn| spawn.2).collect();
    assert_eq!(delays[0], Duration::ZERO);
    assert!(delays[4] >= ms(400));
}

#[test]
fn crashes_in_a_row_delay_the_consumer_and_never_the_process_that_reclaims() {
    let mut daemon = Daemon::running(1);
    for n in 0..15 {
        assert_eq!(daemon.spawns.len(), n);
        daemon.say(0, ToMaster::Reclaimed);
        daemon.crash(0);
        assert_eq!(daemon.spawns.len(), n + 1, "spawned in the same turn");
    }
    let delays: Vec<Duration> = daemon.spawns.iter().map(|spawn| spawn.2).collect();
    assert_eq!(delays[0], Duration::ZERO);
    for (n, delay) in delays.iter().enumerate().skip(1) {
        let full = (ms(100) * (1 << (n - 1))).min(BACKOFF_MAX);
        assert!((full / 2..=full).contains(delay), "{n}: {delay:?}");
    }
}

#[test]
fn the_consumers_delay_is_no_part_of_its_start_timeout() {
    let mut daemon = Daemon::running(1);
    for _ in 0..12 {
        daemon.say(0, ToMaster::Reclaimed);
        daemon.crash(0);
    }
    let delay = daemon.spawns[11].2;
    assert!(delay >= BACKOFF_MAX / 2);
    let next_start = daemon.slot(0).next_start;
    assert_eq!(next_start, Some(daemon.now + delay));
    assert_eq!(kills(&daemon.pass(START + delay - ms(1))), []);
    assert_eq!(kills(&daemon.pass(ms(1))), [(0, "start_timeout")]);
}

#[test]
fn ten_seconds_of_health_end_a_row_of_crashes() {
    let mut daemon = Daemon::running(1);
    for healthy in [HEALTHY_AFTER - ms(1), HEALTHY_AFTER] {
        for _ in 0..3 {
            daemon.crash(0);
            daemon.get_ready(0);
        }
        daemon.spawns.clear();
        daemon.pass(healthy);
        daemon.crash(0);
        assert_eq!(daemon.spawns[0].2.is_zero(), healthy == HEALTHY_AFTER);
        daemon.get_ready(0);
    }
}

#[test]
fn generations_that_die_before_they_reclaimed_delay_the_next_fork() {
    let mut daemon = Daemon::running(1);
    daemon.crash(0);
    assert_eq!(daemon.spawns.len(), 1);
    daemon.crash(0);
    assert_eq!(daemon.spawns.len(), 2, "one may be bad luck");
    daemon.crash(0);
    assert_eq!(daemon.spawns.len(), 2);
    assert_eq!(daemon.state(0), "waiting");
    assert!(daemon.slot(0).next_start > Some(daemon.now));
    daemon.pass(ms(200));
    assert_eq!(daemon.spawns[2], (0, 4, Duration::ZERO));
    for _ in 0..20 {
        daemon.crash(0);
        assert!(daemon.slot(0).next_start <= Some(daemon.now + BACKOFF_MAX));
        daemon.pass(BACKOFF_MAX);
    }
}

#[test]
fn a_crashing_keeper_is_back_within_a_second() {
    let mut daemon = Daemon::running(1);
    daemon.crash(1);
    assert_eq!(daemon.state(1), "starting", "the first at once");
    for _ in 0..20 {
        daemon.crash(1);
        daemon.pass(KEEPER_BACKOFF_MAX);
        assert_eq!(daemon.state(1), "starting");
        assert_eq!(daemon.spawns.last().map(|spawn| spawn.2), Some(secs(0)));
    }
    assert_eq!(
        daemon.supervisor.counters().crashed,
        0,
        "of workers, that is"
    );
}

#[test]
fn a_refused_fork_is_tried_again_with_the_delay_that_the_consumer_had() {
    let mut daemon = Daemon::running(1);
    let mut actions = Vec::new();
    let mut at = daemon.now;
    for slot in [0, 1] {
        let (pid, exit) = (daemon.pid(slot), Exit::Signal(11));
        let crashed = Event::Exited { pid, exit };
        daemon.supervisor.handle(crashed, at, &mut actions);
    }
    daemon.supervisor.handle(Event::Tick, at, &mut actions);
    for (generation, wait) in (2..).zip([100, 200, 400, 800, 1600, 3200, 5000, 5000]) {
        for slot in [0, 1] {
            let refused = Event::SpawnFailed {
                slot,
                generation,
                error: "no more".into(),
            };
            daemon.supervisor.handle(refused, at, &mut actions);
        }
        let due = daemon.slot(0).next_start;
        assert_eq!(due, Some(at + ms(wait)));
        actions.clear();
        while at < due.expect("due") {
            at = daemon.supervisor.next_deadline().expect("alive");
            daemon.supervisor.handle(Event::Tick, at, &mut actions);
        }
        let spawn = |slot| Action::Spawn {
            slot,
            generation: generation + 1,
            consumer_delay: Duration::ZERO,
        };
        assert!(actions.contains(&spawn(0)) && actions.contains(&spawn(1)));
    }
}

#[test]
fn a_consumer_that_fails_later_is_tried_every_30_seconds_and_its_words_are_shown() {
    let mut daemon = Daemon::running(1);
    daemon.crash(0);
    for _ in 0..3 {
        daemon.say(
            0,
            ToMaster::Failed {
                message: "no such file".into(),
            },
        );
        daemon.exit(0, Exit::Status(1));
        let last = *daemon.spawns.last().expect("spawned at once");
        assert_eq!(last.2, FAILED_DELAY);
        assert_eq!(daemon.slot(0).failure, Some("no such file"));
    }
    daemon.get_ready(0);
    assert_eq!(daemon.slot(0).failure, None);
}

#[test]
fn a_failed_worker_that_does_not_leave_is_killed() {
    let mut daemon = Daemon::running(1);
    daemon.say(
        0,
        ToMaster::Failed {
            message: "x".into(),
        },
    );
    assert_eq!(kills(&daemon.pass(START)), [(0, "start_timeout")]);
}

#[test]
fn messages_of_older_generations_change_nothing() {
    let mut daemon = Daemon::running(1);
    daemon.crash(0);
    for message in [
        ToMaster::Ready,
        ToMaster::Reclaimed,
        ToMaster::Recycling(RecycleReason::Age),
        ToMaster::Failed {
            message: "x".into(),
        },
    ] {
        let slot = 0;
        let before = daemon.slot(0).state;
        let generation = 1;
        let told = daemon.turn(&[Event::Message {
            slot,
            generation,
            message,
        }]);
        assert_eq!((told, daemon.slot(0).state), (vec![], before));
    }
}

#[test]
fn exits_of_strangers_and_news_of_slots_that_do_not_exist_are_ignored() {
    let mut daemon = Daemon::running(1);
    let exit = Exit::Status(1);
    let message = ToMaster::Ready;
    let told = daemon.turn(&[
        Event::Exited { pid: 7, exit },
        Event::Message {
            slot: 99,
            generation: 1,
            message,
        },
    ]);
    assert_eq!(told, []);
}

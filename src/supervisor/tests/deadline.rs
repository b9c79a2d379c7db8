//! Time: silence, pauses of the master, memory measured in heartbeats, holders of older masters.

use super::*;

#[test]
fn a_silent_process_is_killed_after_three_intervals_and_replaced_when_reaped() {
    let mut daemon = Daemon::running(2);
    daemon.silent = vec![1];
    assert_eq!(kills(&daemon.pass(INTERVAL * 3 - ms(1))), []);
    let actions = daemon.pass(ms(1));
    assert_eq!(kills(&actions), [(1, "heartbeat")]);
    assert!(daemon.spawns.is_empty(), "not before it is reaped");
    daemon.exit(1, Exit::Signal(9));
    assert_eq!(daemon.spawns, [(1, 2, Duration::ZERO)]);
    assert_eq!(daemon.supervisor.counters().crashed, 1);
}

#[test]
fn an_answer_that_arrived_with_the_deadline_still_counts() {
    let mut daemon = Daemon::running(1);
    daemon.silent = vec![0];
    daemon.pass(INTERVAL * 3 - ms(1));
    daemon.now += ms(1);
    let generation = daemon.generation(0);
    let asked = daemon.supervisor.slots[0].asked;
    assert_eq!(kills(&daemon.turn(&[answer(0, generation, asked, 1)])), []);
}

#[test]
fn answers_that_were_overtaken_or_never_asked_for_prove_nothing() {
    let mut daemon = Daemon::running(1);
    daemon.pass(INTERVAL * 2);
    daemon.silent = vec![0];
    let generation = daemon.generation(0);
    daemon.pass(INTERVAL * 2);
    let asked = daemon.supervisor.slots[0].asked;
    for sequence in [0, 1, asked + 1, u64::MAX] {
        daemon.turn(&[answer(0, generation, sequence, 1)]);
    }
    assert_eq!(kills(&daemon.pass(INTERVAL)), [(0, "heartbeat")]);
}

#[test]
fn the_master_wakes_once_an_interval_for_silence_to_be_noticed_and_not_more() {
    let mut daemon = Daemon::running(3);
    let mut wakes = 0;
    let end = daemon.now + INTERVAL * 10;
    while let Some(due) = daemon.supervisor.next_deadline().filter(|due| *due <= end) {
        daemon.now = due;
        daemon.turn(&[]);
        wakes += 1;
    }
    assert_eq!(wakes, 10);
}

#[test]
fn the_memory_of_a_process_is_known_as_soon_as_it_is_ready() {
    let mut daemon = Daemon::starting(1);
    let rss = |daemon: &Daemon| daemon.slot(0).state.process().map(|it| it.rss_bytes);
    assert_eq!(rss(&daemon), Some(0));
    daemon.get_ready(0);
    assert_eq!(rss(&daemon), Some(1), "as it answers in these tests");
}

#[test]
fn the_masters_own_pause_is_forgiven() {
    let mut daemon = Daemon::starting(2);
    daemon.get_ready(0);
    daemon.silent = vec![0, 1];
    daemon.pass(secs(1));
    daemon.now += secs(3600);
    let actions = daemon.turn(&[]);
    assert_eq!(kills(&actions), []);
    let pause = secs(3600) + secs(1);
    assert!(actions.contains(&Action::Report(Fact::Paused { pause })));
    assert_eq!(daemon.supervisor.counters().stalls, 1);
    assert_eq!(kills(&daemon.pass(INTERVAL * 3 - ms(1))), []);
    assert_eq!(kills(&daemon.pass(ms(1))).len(), 2, "and then no more");
}

#[test]
fn a_pause_does_not_shorten_a_start_nor_a_stop() {
    let mut daemon = Daemon::starting(1);
    daemon.pass(START - secs(1));
    daemon.now += secs(100);
    assert_eq!(kills(&daemon.turn(&[])), []);
    daemon.get_ready(0);
    daemon.order(Order::Shutdown);
    daemon.pass(SHUTDOWN - secs(1));
    daemon.now += secs(100);
    let pid = daemon.pid(0);
    let terminate = Action::Terminate { slot: 0, pid };
    assert!(!daemon.turn(&[]).contains(&terminate));
    assert!(daemon.pass(INTERVAL).contains(&terminate));
}

#[test]
fn memory_above_150_percent_of_the_limit_is_killed_and_up_to_it_is_not() {
    let mut daemon = Daemon::running(1);
    daemon.silent = vec![0];
    daemon.pass(INTERVAL * 2);
    let generation = daemon.generation(0);
    assert_eq!(kills(&daemon.turn(&[answer(0, generation, 1, 1500)])), []);
    let actions = daemon.turn(&[answer(0, generation, 2, 1501)]);
    let why = KillReason::Memory {
        rss_bytes: 1501,
        limit_bytes: 1500,
    };
    let pid = daemon.pid(0);
    assert!(actions.contains(&Action::Kill { slot: 0, pid, why }));
}

#[test]
fn a_recycling_worker_that_falls_silent_is_killed_all_the_same() {
    let mut daemon = Daemon::running(1);
    daemon.say(0, ToMaster::Recycling(RecycleReason::Age));
    daemon.silent = vec![0];
    assert_eq!(kills(&daemon.pass(INTERVAL * 3)), [(0, "heartbeat")]);
}

#[test]
fn a_slot_held_by_an_older_masters_worker_is_spawned_as_soon_as_it_is_free() {
    let mut daemon = Daemon::planned(2);
    let (slot, pid) = (1, 7777);
    daemon.turn(&[Event::Occupied { slot, pid }]);
    let spawned: Vec<usize> = daemon.spawns.iter().map(|spawn| spawn.0).collect();
    assert_eq!(spawned, [0, 2]);
    daemon.turn(&[Event::Vacated { slot, pid: 1 }]);
    assert_eq!(daemon.state(1), "occupied", "that was another one");
    daemon.turn(&[Event::Vacated { slot, pid }]);
    assert_eq!(daemon.spawns.last(), Some(&(1, 1, Duration::ZERO)));
}

#[test]
fn a_holder_that_nobody_saw_at_the_start_is_waited_for_instead_of_a_fork_and_evicted_in_time() {
    let mut daemon = Daemon::running(1);
    let (slot, pid) = (0, 7777);
    let (generation, exit) = (daemon.generation(slot), Exit::Signal(9));
    let mut actions = Vec::new();
    let gone = daemon.pid(slot);
    for event in [Event::Exited { pid: gone, exit }, Event::Tick] {
        daemon.supervisor.handle(event, daemon.now, &mut actions);
    }
    let is_spawn = |action: &Action| matches!(action, Action::Spawn { slot: 0, .. });
    assert!(actions.iter().any(is_spawn));
    daemon.turn(&[Event::Occupied { slot, pid }]);
    assert_eq!((daemon.state(slot), daemon.spawns.len()), ("occupied", 0));
    assert_eq!(kills(&daemon.pass(SHUTDOWN)), [(slot, "holder")]);
    daemon.turn(&[Event::Vacated { slot, pid }]);
    assert_eq!(
        daemon.spawns,
        [(slot, generation + 2, Duration::ZERO)],
        "the fork that was not to be has used a generation"
    );
}

#[test]
fn a_holder_found_while_the_daemon_stops_needs_no_successor() {
    let mut daemon = Daemon::planned(1);
    let mut actions = Vec::new();
    for event in [Event::Tick, Event::Order(Order::Shutdown)] {
        daemon.supervisor.handle(event, daemon.now, &mut actions);
    }
    assert_eq!(daemon.state(0), "spawning");
    let (slot, pid) = (0, 7777);
    daemon
        .supervisor
        .handle(Event::Occupied { slot, pid }, daemon.now, &mut actions);
    assert_eq!(daemon.state(0), "retired");
}

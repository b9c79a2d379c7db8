//! The end of a daemon: orders, the refused start, the way to the exit.

use super::*;

#[test]
fn a_consumer_that_cannot_be_started_at_first_ends_the_daemon_with_69_and_its_own_words() {
    let mut daemon = Daemon::starting(2);
    daemon.get_ready(1);
    let message = String::from("PHP Parse error");
    let actions = daemon.say(
        0,
        ToMaster::Failed {
            message: message.clone(),
        },
    );
    let refused = Action::Report(Fact::StartRefused { slot: 0, message });
    assert!(actions.contains(&refused));
    let ending = |actions: &[Action]| match actions.first() {
        Some(Action::Report(Fact::Exited { ending, .. })) => Some(*ending),
        _ => None,
    };
    let left = daemon.exit(0, Exit::Status(69));
    assert_eq!(ending(&left), Some(Ending::Failed), "and no crash");
    let second = ToMaster::Failed {
        message: "the same".into(),
    };
    assert_eq!(daemon.say(1, second), [], "one refusal is enough");
    let left = daemon.exit(1, Exit::Status(69));
    assert_eq!(ending(&left), Some(Ending::Failed));
    assert_eq!(exit_status(&daemon.exit(2, Exit::Status(0))), Some(69));
    assert_eq!(daemon.spawns.len(), 3, "no second attempt");
}

#[test]
fn a_worker_that_dies_or_hangs_before_its_first_ready_refuses_the_start() {
    let refusal = |actions: &[Action]| {
        actions.iter().find_map(|action| match action {
            Action::Report(Fact::StartRefused { message, .. }) => Some(message.clone()),
            _ => None,
        })
    };
    let mut daemon = Daemon::starting(1);
    assert_eq!(
        refusal(&daemon.crash(0)).as_deref(),
        Some("worker was ended by signal 11 before it was ready")
    );
    let mut daemon = Daemon::starting(1);
    assert_eq!(
        refusal(&daemon.exit(0, Exit::Status(0))).as_deref(),
        Some("worker exited with status 0 before it was ready")
    );
    let mut daemon = Daemon::starting(1);
    assert_eq!(kills(&daemon.pass(START))[0], (0, "start_timeout"));
    assert_eq!(
        refusal(&daemon.exit(0, Exit::Signal(9))).as_deref(),
        Some("worker was not ready within 60s")
    );
}

#[test]
fn a_fork_that_the_kernel_refuses_at_first_refuses_the_start_with_its_words() {
    let mut daemon = Daemon::planned(1);
    let mut actions = Vec::new();
    daemon
        .supervisor
        .handle(Event::Tick, daemon.now, &mut actions);
    let error = String::from("Too many open files");
    let refused = Event::SpawnFailed {
        slot: 0,
        generation: 1,
        error,
    };
    let message = String::from("cannot fork: Too many open files");
    assert!(
        daemon
            .turn(&[refused])
            .contains(&Action::Report(Fact::StartRefused { slot: 0, message }))
    );
}

#[test]
fn a_crashing_keeper_refuses_no_start() {
    let mut daemon = Daemon::starting(1);
    daemon.crash(1);
    assert!(daemon.get_ready(0).contains(&Action::AllReady));
}

#[test]
fn a_shutdown_drains_then_terminates_then_kills_and_the_keeper_leaves_last() {
    let mut daemon = Daemon::running(2);
    let drain = ToWorker::Drain;
    let actions = daemon.order(Order::Shutdown);
    assert_eq!(sent(&actions), [(0, &drain), (1, &drain)]);
    assert_eq!(daemon.supervisor.phase(), Phase::Draining);
    daemon.exit(0, Exit::Status(0));
    assert_eq!(daemon.pass(SHUTDOWN - ms(1)), []);
    let pid = daemon.pid(1);
    assert_eq!(daemon.pass(ms(1)), [Action::Terminate { slot: 1, pid }]);
    assert_eq!(daemon.pass(KILL_GRACE - ms(1)), []);
    assert_eq!(kills(&daemon.pass(ms(1))), [(1, "shutdown_timeout")]);
    assert_eq!(sent(&daemon.exit(1, Exit::Signal(9))), [(2, &drain)]);
    let pid = daemon.pid(2);
    assert_eq!(
        daemon.pass(KEEPER_TIMEOUT),
        [Action::Terminate { slot: 2, pid }]
    );
    assert_eq!(kills(&daemon.pass(KILL_GRACE)), [(2, "shutdown_timeout")]);
    assert_eq!(exit_status(&daemon.exit(2, Exit::Signal(9))), Some(0));
    assert_eq!(daemon.supervisor.next_deadline(), None);
    assert_eq!(daemon.turn(&[Event::Order(Order::Shutdown)]), []);
    assert!(daemon.spawns.is_empty());
}

#[test]
fn workers_that_start_or_wait_are_part_of_a_shutdown() {
    let mut daemon = Daemon::running(2);
    daemon.crash(0);
    daemon.crash(0);
    daemon.crash(0);
    assert_eq!(daemon.state(0), "waiting");
    daemon.crash(1);
    assert_eq!(daemon.state(1), "starting");
    let actions = daemon.order(Order::Shutdown);
    assert_eq!(daemon.state(0), "retired");
    assert_eq!(sent(&actions), [(1, &ToWorker::Drain)]);
    daemon.crash(1);
    assert_eq!(exit_status(&daemon.exit(2, Exit::Status(0))), Some(0));
}

#[test]
fn a_process_forked_while_the_shutdown_was_ordered_is_drained_or_killed() {
    for (order, state) in [
        (Order::Shutdown, "stopping"),
        (Order::ShutdownNow, "killed"),
    ] {
        let mut daemon = Daemon::planned(1);
        let now = daemon.now;
        let mut actions = Vec::new();
        let (slot, generation, pid) = (0, 1, 5);
        for event in [
            Event::Tick,
            Event::Order(order),
            Event::Spawned {
                slot,
                generation,
                pid,
            },
        ] {
            daemon.supervisor.handle(event, now, &mut actions);
        }
        assert_eq!(daemon.state(0), state);
    }
}

#[test]
fn shutdown_now_kills_everybody_and_so_does_a_second_shutdown() {
    for orders in [
        &[Order::ShutdownNow][..],
        &[Order::Shutdown, Order::Shutdown],
    ] {
        let mut daemon = Daemon::running(2);
        let mut actions = Vec::new();
        for order in orders {
            actions.extend(daemon.order(*order));
        }
        let now = "shutdown_now";
        assert_eq!(kills(&actions), [(0, now), (1, now), (2, now)]);
        for slot in 0..2 {
            assert_eq!(exit_status(&daemon.exit(slot, Exit::Signal(9))), None);
        }
        assert_eq!(exit_status(&daemon.exit(2, Exit::Signal(9))), Some(0));
        assert_eq!(daemon.supervisor.counters().crashed, 0);
    }
}

#[test]
fn a_crash_in_a_shutdown_has_no_successor() {
    let mut daemon = Daemon::running(1);
    daemon.order(Order::Shutdown);
    daemon.crash(1);
    daemon.crash(0);
    assert!(daemon.spawns.is_empty());
    assert_eq!(daemon.supervisor.next_deadline(), None);
}

#[test]
fn a_holder_is_killed_after_the_shutdown_timeout_and_only_its_leaving_frees_the_slot() {
    let mut daemon = Daemon::planned(1);
    let (slot, pid) = (0, 7777);
    daemon.turn(&[Event::Occupied { slot, pid }]);
    assert_eq!(kills(&daemon.pass(SHUTDOWN - ms(1))), []);
    assert_eq!(kills(&daemon.pass(ms(1))), [(0, "holder")]);
    assert_eq!(kills(&daemon.pass(secs(20))), []);
    assert_eq!(daemon.state(0), "evicting");
    daemon.turn(&[Event::Vacated { slot, pid }]);
    assert_eq!(daemon.state(0), "starting");
}

#[test]
fn a_shutdown_leaves_holders_alone_and_does_not_wait_for_them_for_ever() {
    let mut daemon = Daemon::planned(1);
    let (slot, pid) = (0, 7777);
    daemon.turn(&[Event::Occupied { slot, pid }]);
    let told = daemon.order(Order::Shutdown);
    assert_eq!(told, []);
    let told = daemon.pass(SHUTDOWN);
    assert_eq!((kills(&told), daemon.state(0)), (vec![], "retired"));
    assert_eq!(exit_status(&daemon.exit(1, Exit::Status(0))), Some(0));
}

#[test]
fn the_grace_after_sigterm_is_whole_even_when_the_sigterm_was_late() {
    let mut daemon = Daemon::running(1);
    daemon.order(Order::Shutdown);
    daemon.pass(SHUTDOWN - ms(1));
    daemon.now += INTERVAL;
    let pid = daemon.pid(0);
    assert_eq!(daemon.turn(&[]), [Action::Terminate { slot: 0, pid }]);
    assert_eq!(kills(&daemon.pass(KILL_GRACE - ms(1))), []);
    assert_eq!(kills(&daemon.pass(ms(1))), [(0, "shutdown_timeout")]);
}

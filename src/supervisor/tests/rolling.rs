//! The reload: one after the other, and never a second one down.

use super::*;

const RECYCLE: ToWorker = ToWorker::Recycle(RecycleReason::Reload);

#[test]
fn a_reload_replaces_one_worker_after_the_other() {
    let mut daemon = Daemon::running(2);
    assert_eq!(sent(&daemon.order(Order::Reload)), [(0, &RECYCLE)]);
    assert_eq!(daemon.supervisor.phase(), Phase::Reloading);
    assert_eq!(daemon.pass(secs(3600)), [], "the job in hand takes long");
    daemon.exit(0, Exit::Status(0));
    assert_eq!(daemon.pass(secs(1)), [], "the successor is not ready");
    assert_eq!(sent(&daemon.get_ready(0)), [(1, &RECYCLE)]);
    daemon.exit(1, Exit::Status(0));
    let done = Action::Report(Fact::ReloadFinished);
    assert!(daemon.get_ready(1).contains(&done));
    assert_eq!(daemon.supervisor.phase(), Phase::Running);
    assert_eq!(daemon.supervisor.counters().recycled[5], 2);
}

#[test]
fn a_broken_new_script_stops_the_reload_and_the_others_stay() {
    let mut daemon = Daemon::running(3);
    daemon.order(Order::Reload);
    daemon.exit(0, Exit::Status(0));
    daemon.say(
        0,
        ToMaster::Failed {
            message: "x".into(),
        },
    );
    let stopped = Action::Report(Fact::ReloadStopped { slot: 0 });
    assert!(daemon.exit(0, Exit::Status(1)).contains(&stopped));
    let told = daemon.pass(secs(20));
    assert_eq!(told, []);
    assert_eq!((daemon.state(1), daemon.state(2)), ("running", "running"));
}

#[test]
fn a_second_reload_starts_over_once_even_after_a_stop() {
    let mut daemon = Daemon::running(2);
    daemon.order(Order::Reload);
    daemon.order(Order::Reload);
    daemon.order(Order::Reload);
    daemon.exit(0, Exit::Status(0));
    assert_eq!(sent(&daemon.crash(0)), [], "its successor is awaited");
    assert_eq!(daemon.supervisor.phase(), Phase::Reloading);
    assert_eq!(sent(&daemon.get_ready(0)), [(1, &RECYCLE)]);
    daemon.exit(1, Exit::Status(0));
    daemon.get_ready(1);
    assert_eq!(daemon.supervisor.phase(), Phase::Running);
}

#[test]
fn a_reload_ends_the_delay_of_a_consumer_that_could_not_start() {
    let mut daemon = Daemon::running(1);
    daemon.say(
        0,
        ToMaster::Failed {
            message: "x".into(),
        },
    );
    daemon.exit(0, Exit::Status(1));
    assert_eq!(sent(&daemon.order(Order::Reload)), [(0, &RECYCLE)]);
    daemon.exit(0, Exit::Status(0));
    assert_eq!(daemon.spawns.last(), Some(&(0, 3, Duration::ZERO)));
}

#[test]
fn a_reload_takes_down_no_second_worker_while_one_recycles() {
    let mut daemon = Daemon::running(2);
    daemon.say(0, ToMaster::Recycling(RecycleReason::Age));
    assert_eq!(sent(&daemon.order(Order::Reload)), []);
    daemon.exit(0, Exit::Status(0));
    assert_eq!(sent(&daemon.get_ready(0)), [(1, &RECYCLE)]);
}

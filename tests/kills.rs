//! `kill -9` at chosen moments: of a worker, its script, the keeper, the master, everything. Counted is what the jobs
//! wrote themselves. The random kills are in `kills_random`, faults of the server in `kills_redis`.

mod support;

use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::Signal::{SIGCONT, SIGKILL, SIGSTOP, SIGTERM};

use support::ledger::{Consumer, Gate, Rig, first, repeated};
use support::stark::{LIMIT, is_alive, kill, wait_for, wait_for_value};

/// Jobs between two gates.
const APART: usize = 100;

/// A daemon with one worker, which has a hundred jobs reserved and the first of those that are left in hand.
struct Blocked {
    rig: Rig,
    jobs: usize,
    in_hand: usize,
    gates: Vec<Gate>,
}

impl Blocked {
    /// How large a reservation is when it meets a gate is not ours to say, so there are many of them.
    fn with_hundred_reserved(consumer: Consumer) -> Self {
        let rig = Rig::start(consumer, 1, "", "prefetch = 100");
        let mut gates: Vec<Gate> = (0..40).map(|n| rig.gate(&format!("gate.{n}"))).collect();
        let jobs = (gates.len() + 3) * APART;
        let gate_of = |number: usize| match (number % APART, number / APART) {
            (0, place @ 2..) => gates.get(place - 2),
            _ => None,
        };
        rig.push((0..jobs).map(|number| match gate_of(number) {
            Some(gate) => rig.job_at(number, gate),
            None => rig.job(number),
        }));
        for at in 0..gates.len() {
            let in_hand = (at + 2) * APART;
            rig.wait_for_run(in_hand, 1);
            if rig.reserved_jobs() == 100 {
                return Self {
                    rig,
                    jobs,
                    in_hand,
                    gates,
                };
            }
            gates[at].open();
        }
        panic!("no reservation of 100 jobs met a gate");
    }

    /// Opens the gates: all jobs run in the order of their push, the one in hand twice.
    fn assert_only_the_job_in_hand_runs_twice(&mut self) {
        self.gates.iter_mut().for_each(Gate::open);
        let expected: Vec<usize> = (0..=self.in_hand).chain(self.in_hand..self.jobs).collect();
        assert_eq!(self.rig.finish(self.jobs), expected);
    }
}

/// Kills it, and waits for its successor.
fn kill_worker(rig: &Rig, worker: i32) {
    let begin = Instant::now();
    kill(worker, SIGKILL);
    wait_for(LIMIT, "a successor", || {
        rig.stark.worker_pids().iter().any(|pid| *pid != worker)
    });
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(5), "a successor after {took:?}");
}

fn worker_killed_in_a_job(consumer: Consumer) {
    let mut blocked = Blocked::with_hundred_reserved(consumer);
    kill_worker(&blocked.rig, blocked.rig.worker_pid(0));
    blocked.rig.wait_for_run(blocked.in_hand, 2);
    blocked.assert_only_the_job_in_hand_runs_twice();
}

#[test]
fn a_worker_killed_in_a_job_with_a_hundred_reserved_doubles_only_that_one() {
    worker_killed_in_a_job(Consumer::Probe);
}

#[test]
fn a_worker_killed_while_its_script_has_a_job_in_hand_doubles_only_that_one() {
    worker_killed_in_a_job(Consumer::Php);
}

#[test]
fn a_script_killed_in_a_job_doubles_only_that_one_and_its_worker_lives_on() {
    let mut blocked = Blocked::with_hundred_reserved(Consumer::Php);
    let worker = blocked.rig.worker_pid(0);
    kill(blocked.rig.script_pid(worker).expect("it runs"), SIGKILL);
    blocked.rig.wait_for_run(blocked.in_hand, 2);
    assert_eq!(blocked.rig.worker_pid(0), worker);
    blocked.assert_only_the_job_in_hand_runs_twice();
}

#[test]
fn replies_that_a_killed_worker_had_not_read_count_as_finished_jobs() {
    let rig = Rig::start(Consumer::Php, 1, "", "prefetch = 100");
    let mut gates: Vec<Gate> = (0..60).map(|n| rig.gate(&format!("gate.{n}"))).collect();
    // Gates in pairs, ten jobs apart; between the pairs there is room for the reservations to grow.
    let places: Vec<usize> = (1..=30)
        .flat_map(|pair| [pair * 200, pair * 200 + 10])
        .collect();
    let jobs = 31 * 200;
    rig.push((0..jobs).map(|number| {
        let gate = places.iter().position(|place| *place == number);
        gate.map_or_else(|| rig.job(number), |gate| rig.job_at(number, &gates[gate]))
    }));
    for pair in 0..30 {
        rig.wait_for_run(places[2 * pair], 1);
        let worker = rig.worker_pid(0);
        kill(worker, SIGSTOP);
        gates[2 * pair].open();
        // How many runs were sent ahead is not ours to say: did they reach to the second gate?
        let second = places[2 * pair + 1];
        let begin = Instant::now();
        let is_ahead = || rig.runs().last() == Some(&second);
        while !is_ahead() && begin.elapsed() < Duration::from_millis(300) {
            std::thread::yield_now();
        }
        if is_ahead() {
            kill_worker(&rig, worker);
            rig.wait_for_run(second, 2);
            gates.iter_mut().for_each(Gate::open);
            let expected: Vec<usize> = (0..=second).chain(second..jobs).collect();
            assert_eq!(rig.finish(jobs), expected);
            return;
        }
        kill(worker, SIGCONT);
        gates[2 * pair + 1].open();
    }
    panic!("the script was never ten runs ahead");
}

/// A daemon with two workers, whose master was killed while one of them has job 0 in hand and nine jobs wait.
fn with_killed_master(consumer: Consumer, main: &str) -> (Rig, Gate, i32) {
    let rig = Rig::start(consumer, 2, main, "");
    let gate = rig.gate("gate");
    rig.push([rig.job_at(0, &gate)]);
    rig.wait_for_run(0, 1);
    let (master, workers) = (rig.stark.pid(), rig.stark.worker_pids());
    let busy = (0..2)
        .position(|number| rig.stark.worker(number)["state"] == "busy")
        .expect("one of them has the job");
    kill(master, SIGKILL);
    wait_for(LIMIT, "the idle worker leaves", || {
        !is_alive(master) && !is_alive(workers[1 - busy])
    });
    rig.push_numbers(1..10);
    assert!(is_alive(workers[busy]), "a job in hand is finished");
    (rig, gate, workers[busy])
}

fn master_killed_under_a_long_job(consumer: Consumer) {
    let (rig, mut gate, old) = with_killed_master(consumer, "");
    std::thread::scope(|scope| {
        // It returns when both slots are ready, and one of them waits.
        let starting = scope.spawn(|| rig.stark.start_again());
        wait_for_value(LIMIT, "first jobs", 10, || first(&rig.runs()).len());
        assert!(is_alive(old), "nobody ends the job in hand");
        assert_eq!(rig.living_workers(), ["0", "1"], "one worker a slot");
        gate.open();
        starting.join().expect("it starts");
    });
    assert!(!is_alive(old));
    let mut runs = rig.finish(10);
    runs.sort();
    assert_eq!(runs, (0..10).collect::<Vec<_>>(), "each job once");
}

#[test]
fn a_new_master_waits_for_the_slot_of_an_old_worker_and_fills_the_others_at_once() {
    master_killed_under_a_long_job(Consumer::Probe);
}

#[test]
fn a_new_master_waits_for_the_slot_of_an_old_worker_with_a_script() {
    master_killed_under_a_long_job(Consumer::Php);
}

#[test]
fn a_new_master_kills_who_holds_a_slot_longer_than_the_shutdown_timeout() {
    let (rig, mut gate, old) = with_killed_master(Consumer::Php, "shutdown_timeout = 2");
    rig.stark.start_again();
    assert!(!is_alive(old));
    rig.wait_for_run(0, 2);
    gate.open();
    assert_eq!(repeated(&rig.finish(10)), [0]);
}

/// The file that [`holder_of_all_locks`] is to lock.
const LOCK_FILE: &str = "STARK_TEST_LOCK_FILE";

/// No test: the program of a process that takes every slot's lock as soon as it is free, and keeps it.
#[test]
#[ignore = "a part of the test below, which runs it in a process of its own"]
fn holder_of_all_locks() {
    let Some(path) = std::env::var_os(LOCK_FILE) else {
        return;
    };
    let mut options = std::fs::OpenOptions::new();
    let file = options.read(true).write(true).open(path);
    let file = file.expect("it is there");
    let all = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(&file, FcntlArg::F_SETLKW(&all)).expect("the lock");
    std::thread::sleep(2 * LIMIT);
}

#[test]
fn a_slot_that_somebody_took_unseen_is_not_forked_into_and_freed_after_the_shutdown_timeout() {
    let rig = Rig::start(Consumer::Probe, 1, "shutdown_timeout = 1", "");
    let program = std::env::current_exe().expect("Linux tells");
    let mut holder = std::process::Command::new(program)
        .args(["--exact", "holder_of_all_locks", "--ignored"])
        .env(LOCK_FILE, rig.stark.path("work/data/t.board"))
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("it runs");
    let pid = holder.id() as i32;
    // The lock is free for a moment when the worker is killed: who waits for it is faster than a fork, as a rule.
    let held = format!("slot held by a worker of an older master pool=t slot=0 pid={pid}");
    wait_for(LIMIT, "the lock", || {
        let before = rig.stark.worker_pids();
        before.iter().for_each(|worker| kill(*worker, SIGKILL));
        wait_for(LIMIT, "a successor, or none", || {
            rig.stark.worker_pids() != before
        });
        !rig.stark.log_lines(&held).is_empty()
    });
    kill(pid, SIGSTOP);
    rig.push_numbers(0..1);
    let line = rig.stark.wait_for_log("worker killed");
    assert!(line.contains(&format!("pid={pid} reason=holder")), "{line}");
    holder.wait().expect("it is our child");
    assert_eq!(rig.finish(1), [0]);
    assert_eq!(rig.stark.log_lines("status=72"), Vec::<String>::new());
}

#[test]
fn workers_of_a_killed_master_finish_and_leave() {
    let rig = Rig::start(Consumer::Php, 3, "", "");
    rig.push((0..60).map(|number| rig.job_of_ms(number, 5)));
    rig.wait_for_run(5, 1);
    kill(rig.stark.pid(), SIGKILL);
    wait_for_value(LIMIT, "processes left", vec![], || rig.stark.processes());
    assert!(rig.left() > 0, "they take no further jobs");
    rig.stark.start_again();
    assert_eq!(repeated(&rig.finish(60)), Vec::<usize>::new());
}

fn tree_killed(consumer: Consumer) {
    let rig = Rig::start(consumer, 3, "", "prefetch = 100");
    let mut gate = rig.gate("gate");
    rig.push((0..900).map(|number| match number {
        600..603 => rig.job_at(number, &gate),
        _ => rig.job(number),
    }));
    // Two of the gated jobs may be in one reservation: then fewer workers wait.
    wait_for(LIMIT, "every worker is blocked or idle", || {
        let is_at_rest = |number| rig.stark.worker(number)["state"] == "idle";
        let blocked = (600..603).filter(|job| rig.runs().contains(job)).count();
        blocked > 0 && blocked + (0..3).filter(|number| is_at_rest(*number)).count() == 3
    });
    let in_hand: Vec<usize> = (600..603).filter(|job| rig.runs().contains(job)).collect();
    rig.stark.kill_tree();
    gate.open();
    rig.stark.start_again();
    let mut again = repeated(&rig.finish(900));
    again.sort();
    assert_eq!(
        again, in_hand,
        "the jobs in hand run twice, the others once"
    );
}

#[test]
fn after_a_kill_of_everything_only_the_jobs_in_hand_run_twice() {
    tree_killed(Consumer::Probe);
}

#[test]
fn after_a_kill_of_everything_with_scripts_only_the_jobs_in_hand_run_twice() {
    tree_killed(Consumer::Php);
}

#[test]
fn what_a_worker_held_that_was_killed_at_a_stop_is_back_before_the_daemon_ends() {
    let rig = Rig::start(Consumer::Probe, 1, "shutdown_timeout = 1", "");
    let mut gate = rig.gate("gate");
    rig.push([rig.job_at(0, &gate)]);
    rig.push_numbers(1..5);
    rig.wait_for_run(0, 1);
    rig.stark.stop();
    assert_eq!((rig.reserved(), rig.waiting()), (vec![], 5));
    gate.open();
    rig.stark.start_again();
    assert_eq!(rig.finish(5), [0, 0, 1, 2, 3, 4]);
}

#[test]
fn a_sigterm_to_every_process_at_once_leaves_nothing_reserved() {
    let rig = Rig::start(Consumer::Probe, 1, "shutdown_timeout = 1", "");
    let mut gate = rig.gate("gate");
    rig.push([rig.job_at(0, &gate)]);
    rig.push_numbers(1..5);
    rig.wait_for_run(0, 1);
    let tree = rig.stark.processes();
    tree.iter().for_each(|pid| kill(*pid, SIGTERM));
    wait_for(LIMIT, "the end", || rig.stark.processes().is_empty());
    assert_eq!((rig.reserved(), rig.waiting()), (vec![], 5));
    gate.open();
    rig.stark.start_again();
    assert_eq!(rig.finish(5), [0, 0, 1, 2, 3, 4]);
}

#[test]
fn idle_workers_are_woken_although_the_keeper_was_killed() {
    let rig = Rig::start(Consumer::Probe, 2, "", "");
    let is_idle = || (0..2).all(|number| rig.stark.worker(number)["state"] == "idle");
    for number in 0..5 {
        wait_for(LIMIT, "both are idle", is_idle);
        wait_for(LIMIT, "a keeper", || rig.keeper_pid().is_some());
        kill(rig.keeper_pid().expect("it is there"), SIGKILL);
        let begin = Instant::now();
        rig.push_numbers(number..number + 1);
        rig.wait_for_run(number, 1);
        // It is started again within a second, and does not wait for its five seconds' look.
        let took = begin.elapsed();
        assert!(took < Duration::from_secs(4), "woken after {took:?}");
    }
    assert_eq!(rig.finish(5), [0, 1, 2, 3, 4]);
}

#[test]
fn a_stopped_worker_is_replaced_and_its_jobs_run_elsewhere() {
    for consumer in [Consumer::Probe, Consumer::Php] {
        let rig = Rig::start(consumer, 2, "heartbeat_seconds = 1", "");
        let mut gate = rig.gate("gate");
        rig.push([rig.job_at(0, &gate)]);
        rig.wait_for_run(0, 1);
        let busy = (0..2).find(|number| rig.stark.worker(*number)["state"] == "busy");
        let stopped = rig.worker_pid(busy.expect("one has the job"));
        kill(stopped, SIGSTOP);
        rig.wait_for_run(0, 2);
        assert!(!is_alive(stopped), "two never have one job");
        gate.open();
        assert_eq!(rig.finish(1), [0, 0]);
    }
}

#[test]
fn a_stopped_master_kills_nobody_when_it_goes_on() {
    let rig = Rig::start(Consumer::Php, 2, "heartbeat_seconds = 1", "");
    let (master, workers) = (rig.stark.pid(), rig.stark.worker_pids());
    kill(master, SIGSTOP);
    // Their work takes longer than three heartbeats.
    rig.push((0..320).map(|number| rig.job_of_ms(number, 20)));
    rig.drain(320);
    kill(master, SIGCONT);
    rig.stark.wait_for_log("paused");
    assert_eq!(rig.stark.worker_pids(), workers);
    assert_eq!(repeated(&rig.finish(320)), Vec::<usize>::new());
    assert_eq!(rig.stark.log_lines("killed"), Vec::<String>::new());
}

#[test]
fn two_hundred_deaths_of_workers_leave_nothing_open_in_the_master() {
    let rig = Rig::start(Consumer::Probe, 4, "", "");
    let master = rig.stark.pid();
    // Except the connection that asks for the workers.
    let open = || std::fs::read_dir(format!("/proc/{master}/fd")).map_or(0, Iterator::count);
    let settled = || {
        let mut least = open();
        wait_for_value(LIMIT, "workers", 4, || rig.stark.worker_pids().len());
        wait_for(LIMIT, "no client is connected", || {
            least = open();
            rig.stark.figure("connected_clients") == 1
        });
        least
    };
    let before = settled();
    for _ in 0..50 {
        let killed = rig.stark.worker_pids();
        killed.iter().for_each(|pid| kill(*pid, SIGKILL));
        // One that has reclaimed is replaced at once, although its consumer waits longer and longer.
        wait_for(LIMIT, "four successors that have reclaimed", || {
            let is_there = |number| {
                let worker = rig.stark.worker(number);
                let is_new = !killed.iter().any(|pid| worker["pid"] == pid.to_string());
                is_new && ["idle", "backoff"].contains(&worker["state"].as_str())
            };
            (0..4).all(is_there)
        });
    }
    assert!(rig.stark.figure("workers_crashed") >= 200);
    wait_for_value(LIMIT, "descriptors", before, settled);
    rig.finish(0);
}

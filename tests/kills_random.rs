//! Blows at random under load: workers, scripts, keeper, master and everything are killed, stopped and restarted.
//! Nothing is lost, and no more jobs run again than were in the hands of what was killed. `STARK_KILL_SEED` repeats
//! the choices of a run, as far as choices decide it.

mod support;

use std::hash::{BuildHasher, RandomState};

use nix::sys::signal::Signal::{SIGCONT, SIGKILL, SIGSTOP};

use support::ledger::{Consumer, Rig, first, repeated};
use support::stark::{LIMIT, is_alive, kill, wait_for};

/// Jobs that wait at least, so that nobody is idle for long.
const SUPPLY: usize = 150;

/// Vigna's splitmix64.
struct Random(u64);

impl Random {
    /// With the seed of the environment, or a new one, which is printed.
    fn seeded() -> Self {
        let given = std::env::var("STARK_KILL_SEED").ok();
        let seed = given.map_or_else(
            || RandomState::new().hash_one(0),
            |seed| seed.parse().expect("STARK_KILL_SEED is a number"),
        );
        println!("STARK_KILL_SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit as u64) as usize
    }
}

/// A daemon under blows.
struct Ordeal {
    rig: Rig,
    workers: usize,
    random: Random,
    pushed: usize,
    kills: usize,
    /// Jobs that were in the hands of what was killed, at most.
    in_hand: usize,
    /// Crashes since the last start of the daemon: each makes the next start of that slot's consumer later.
    crashes: usize,
}

impl Ordeal {
    fn new(consumer: Consumer, workers: usize) -> Self {
        Self {
            random: Random::seeded(),
            rig: Rig::start(consumer, workers, "", ""),
            workers,
            pushed: 0,
            kills: 0,
            in_hand: 0,
            crashes: 0,
        }
    }

    /// Strikes until so many processes, or trees of them, were killed; returns the runs of all jobs.
    fn endure(&mut self, kills: usize) -> Vec<usize> {
        while self.kills < kills {
            self.let_run();
            self.strike();
        }
        let runs = self.rig.finish(self.pushed);
        let again = repeated(&runs).len();
        println!(
            "{} jobs, {} kills, {again} of {} in hand ran again",
            self.pushed, self.kills, self.in_hand
        );
        assert!(again <= self.in_hand, "{again} jobs ran again");
        runs
    }

    /// Until some more jobs have begun, on the way from one to the next or within one.
    fn let_run(&mut self) {
        if self.rig.waiting() < SUPPLY {
            let jobs = self.pushed..self.pushed + 2 * SUPPLY;
            self.pushed = jobs.end;
            let job = |number: usize| match number % 4 {
                0 => self.rig.job_of_ms(number, 3),
                _ => self.rig.job(number),
            };
            self.rig.push(jobs.map(job));
        }
        let goal = self.rig.runs().len() + 1 + self.random.below(20);
        let goal = goal.min(self.rig.runs().len() + self.rig.left());
        wait_for(LIMIT, "jobs run", || self.rig.runs().len() >= goal);
    }

    fn strike(&mut self) {
        // A start forgets the crashes, after which consumers would start later and later.
        if self.crashes > 3 * self.workers {
            self.rig.stark.stop();
            self.start_again();
        }
        match self.random.below(100) {
            0..30 => {
                let worker = self.any_worker();
                self.kill(worker, 1);
            }
            30..55 => {
                let worker = self.any_worker();
                let script = worker.and_then(|worker| self.rig.script_pid(worker));
                self.kill(script, 1);
            }
            55..65 => self.kill(self.rig.keeper_pid(), 0),
            65..70 => {
                let worker = self.any_worker();
                self.pause(worker);
            }
            70..75 => self.pause(Some(self.rig.stark.pid())),
            75..86 => {
                let master = self.rig.stark.pid();
                self.kill(Some(master), 0);
                wait_for(LIMIT, "the master is dead", || !is_alive(master));
                self.start_again();
                let mut numbers = self.rig.living_workers();
                numbers.dedup();
                assert_eq!(numbers.len(), self.rig.living_workers().len());
            }
            86..96 => {
                self.kills += 1;
                self.in_hand += self.workers;
                self.rig.stark.kill_tree();
                self.start_again();
            }
            _ => {
                self.rig.stark.stop();
                self.start_again();
            }
        }
    }

    fn start_again(&mut self) {
        self.rig.stark.start_again();
        self.crashes = 0;
    }

    fn any_worker(&mut self) -> Option<i32> {
        let pids = self.rig.stark.worker_pids();
        (!pids.is_empty()).then(|| pids[self.random.below(pids.len())])
    }

    /// Kills a process that may have had so many jobs in hand.
    fn kill(&mut self, pid: Option<i32>, in_hand: usize) {
        if let Some(pid) = pid.filter(|pid| is_alive(*pid)) {
            kill(pid, SIGKILL);
            self.kills += 1;
            self.crashes += 1;
            self.in_hand += in_hand;
        }
    }

    /// Stops a process while others work.
    fn pause(&mut self, pid: Option<i32>) {
        if let Some(pid) = pid {
            kill(pid, SIGSTOP);
            if self.workers > 1 {
                self.let_run();
            }
            kill(pid, SIGCONT);
        }
    }
}

#[test]
fn no_job_is_lost_by_random_kills() {
    Ordeal::new(Consumer::Probe, 4).endure(80);
}

#[test]
fn no_job_of_a_script_is_lost_by_random_kills() {
    Ordeal::new(Consumer::Php, 4).endure(80);
}

#[test]
fn random_kills_do_not_change_the_order_in_which_jobs_first_run() {
    let runs = Ordeal::new(Consumer::Php, 1).endure(60);
    assert!(first(&runs).is_sorted());
}

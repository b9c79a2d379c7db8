//! A worker's life, from the fork to its exit status: it takes its slot's lock, puts back what its predecessor left,
//! starts the consumer, works, gives back and leaves.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::eventfd::EventFd;

use super::care::Care;
use super::control::{Control, Orders};
use super::cycle::{Cycle, End};
use super::hold::{Answer, Hold};
use super::outage::Outages;
use super::runner::{NotStarted, Runner};
use super::time_limit::TimeLimit;
use crate::channel::WorkerEnd;
use crate::channel::message::ToMaster;
use crate::config::{Pool, QueueNumbers};
use crate::queue;
use crate::scoreboard::{Identity, Page, Scoreboard, State};
use crate::sys::{affinity, process, title};

/// The consumer cannot be started.
const STATUS_CANNOT_START: i32 = 69;
/// The kernel refused a lock, a file or a thread. 0 is drained or recycled, 70 a panic, 71 a job that took longer
/// than it may, or outlived the master's end for too long.
const STATUS_NO_SLOT: i32 = 72;

/// How often a lock that another process holds is asked for.
const LOCK_INTERVAL: Duration = Duration::from_millis(10);

/// What a worker is born with.
pub struct Birth<'a> {
    /// The daemon's name.
    pub daemon: &'a str,
    /// stark's version.
    pub version: &'a str,
    /// Settings of its pool.
    pub pool: &'a Pool,
    /// The pool's place in the settings.
    pub pool_number: usize,
    /// Those of its queue, if it has one.
    pub queue_numbers: Option<QueueNumbers>,
    /// Keys that other pools serve on its server.
    pub other_keys: &'a [String],
    /// Its slot in the pool.
    pub slot: u32,
    /// Its number across pools.
    pub number: usize,
    /// Place of its record.
    pub place: usize,
    /// Which process of the slot it is.
    pub generation: u64,
    /// Where it is pinned.
    pub core: Option<usize>,
    /// How long its consumer waits to be started; it reclaims at once.
    pub consumer_delay: Duration,
    /// The daemon was never ready: a store that refuses us is a reason not to start.
    pub is_first_start: bool,
    /// The daemon's node in the store.
    pub node: &'a str,
    /// Of this start of the daemon.
    pub nonce: u64,
    /// The scoreboard.
    pub board: Arc<Scoreboard>,
    /// Its end of the channel.
    pub channel: Arc<WorkerEnd>,
    /// Wakes it when it is idle.
    pub doorbell: &'a EventFd,
    /// Tells the keeper that somebody is idle.
    pub keeper_bell: &'a EventFd,
    /// Where its script notes finished runs.
    pub page: PathBuf,
    /// From the master's end to its own.
    pub shutdown_timeout: Duration,
}

impl Birth<'_> {
    /// How the worker names itself in log lines: `pool=mail slot=3`.
    pub fn label(&self) -> String {
        format!("pool={} slot={}", self.pool.name, self.slot)
    }

    /// Shows in `ps` what the worker does.
    pub fn show(&self, state: State) {
        title::set(&format!(
            "stark: {} worker {} [{}]",
            self.daemon,
            self.number,
            state.name()
        ));
    }

    fn identity(&self) -> queue::Identity {
        queue::Identity {
            node: self.node.into(),
            nonce: self.nonce,
            pool: self.pool.name.clone(),
            slot: self.slot,
            generation: self.generation,
        }
    }
}

/// Lives; returns the exit status.
pub fn live(birth: Birth<'_>) -> i32 {
    match prepare(&birth) {
        Ok(Some(prepared)) => work(&birth, &prepared),
        Ok(None) => 0,
        Err(err) => {
            log::error!("cannot take slot {} err={err:?}", birth.label());
            if birth.is_first_start {
                let message = format!("cannot take slot: {err}");
                birth.channel.send(&ToMaster::Failed { message });
            }
            STATUS_NO_SLOT
        }
    }
}

/// What a worker has when the slot is its own.
struct Prepared {
    /// Of its script.
    page: Page,
    /// The control thread's.
    orders: Arc<Orders>,
    /// Shared with the control thread.
    care: Arc<Care>,
}

/// Takes the slot: its lock, which lasts until this process ends. None when it is told to leave before it has the lock.
fn prepare(birth: &Birth<'_>) -> Result<Option<Prepared>, String> {
    let board = &birth.board;
    if let Some(core) = birth.core
        && !affinity::pin_to(core)
    {
        log::warn!("cannot pin {} core={core}", birth.label());
    }
    if birth.pool.worker.nice != 0
        && let Err(err) = process::add_niceness(birth.pool.worker.nice)
    {
        let err = err.to_string();
        log::warn!("cannot change niceness {} err={err:?}", birth.label());
    }
    let time_limit = birth.pool.run.max_job_time.map(TimeLimit::new);
    let care = Care::new(time_limit, birth.label()).map_err(|err| err.to_string())?;
    let care = Arc::new(care);
    let control = Control {
        channel: Arc::clone(&birth.channel),
        board: Arc::clone(board),
        place: Some(birth.place),
        care: Some(Arc::clone(&care)),
        memory_limit_bytes: birth.pool.run.memory_limit_bytes,
        shutdown_timeout: birth.shutdown_timeout,
    };
    // From here on heartbeats are answered and orders heard, also while the lock is awaited.
    let orders = control.start().map_err(|err| err.to_string())?;
    if !lock_slot(birth, &orders).map_err(|err| err.to_string())? {
        return Ok(None);
    }
    board
        .record(birth.place)
        .move_in(birth.generation, Identity::of(std::process::id() as i32));
    let page = Page::open(&birth.page).map_err(|err| format!("{}: {err}", birth.page.display()))?;
    Ok(Some(Prepared { page, orders, care }))
}

/// Waits for the slot's lock. Our master found it free, but a worker that an older master had forked just before it
/// was killed may have taken it since; it sees that it has no master, and leaves. False: told to leave before that.
fn lock_slot(birth: &Birth<'_>, orders: &Orders) -> io::Result<bool> {
    while !birth.board.lock(birth.place)? {
        if orders.wait(LOCK_INTERVAL) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn work(birth: &Birth<'_>, prepared: &Prepared) -> i32 {
    let Prepared { page, orders, care } = prepared;
    let record = birth.board.record(birth.place);
    birth.board.take_stock(birth.place, page);
    let label = birth.label();
    let mut cycle = Cycle::new(birth, record, orders, care);
    let settings = birth.pool.queue.as_ref().zip(birth.queue_numbers);
    let mut hold = settings.map(|(queue, numbers)| {
        let seed = birth.nonce ^ u64::from(std::process::id());
        let server = (&queue.address, queue.timeout);
        let outages = Outages::new(&birth.board, numbers, server, seed);
        let identity = birth.identity();
        Hold::new(queue, birth.other_keys, identity, record, outages, &label)
    });
    // The predecessor's jobs come first: neither a slow start nor a delay of our consumer holds them up.
    let refusal = cycle.reclaim(hold.as_mut());
    if let Some(message) = refusal.filter(|_| birth.is_first_start) {
        // The master says it, once for all workers.
        birth.channel.send(&ToMaster::Failed { message });
        return STATUS_CANNOT_START;
    }
    if cycle.back_off(birth.consumer_delay) || orders.must_leave() {
        return 0;
    }
    let mut runner = match Runner::new(birth, record, page, care) {
        Ok(runner) => runner,
        Err(err) => {
            log::error!("cannot start consumer {label} err={:?}", err.to_string());
            return STATUS_NO_SLOT;
        }
    };
    cycle.show(State::Starting);
    if let Some(end) = begin(birth, &mut cycle, &mut runner, orders) {
        return match end {
            End::CannotStart(message) => {
                birth.channel.send(&ToMaster::Failed { message });
                STATUS_CANNOT_START
            }
            End::Ordered | End::Recycle(_) => 0,
        };
    }
    birth.channel.send(&ToMaster::Ready);
    let end = match &mut hold {
        Some(hold) => cycle.run_queue(hold, &mut runner),
        None => cycle.run_loop(&mut runner),
    };
    cycle.announce(&end);
    cycle.show(State::Draining);
    if let Some(hold) = &mut hold {
        // The server may have closed the connection while the last job ran: a new one is tried, once. With the store away
        // it stays reserved, and the next worker of this slot reclaims it.
        if let Answer::Away { refusal: None, .. } = hold.leave() {
            hold.leave();
        }
    }
    runner.complete();
    match end {
        End::Ordered | End::Recycle(_) => 0,
        End::CannotStart(_) => STATUS_CANNOT_START,
    }
}

/// Starts the consumer; none when it runs. In a daemon that was once ready, a script that dies while it is loaded is
/// given another chance.
fn begin(
    birth: &Birth<'_>,
    cycle: &mut Cycle<'_>,
    runner: &mut Runner<'_>,
    orders: &Orders,
) -> Option<End> {
    let end = match runner.start(orders) {
        Ok(()) => None,
        Err(_) if orders.must_leave() => None,
        Err(NotStarted::Died(words)) if !birth.is_first_start => cycle.restart(runner, &words),
        Err(NotStarted::Died(words) | NotStarted::Refused(words)) => Some(End::CannotStart(words)),
    };
    if end.is_none() && orders.must_leave() {
        return Some(End::Ordered);
    }
    end
}

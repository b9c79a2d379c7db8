//! The loop's second step: what has happened becomes events. Signals, messages and exits of processes, holders of slots
//! that left, orders from the admin port. Which token of the poll means what is known here.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Instant;

use mio::{Events, Token};
use nix::sys::eventfd::EventFd;
use nix::sys::signal::Signal;

use super::Master;
use super::figures::totals;
use super::seat::Occupant;
use super::signals::Wish;
use crate::keeper;
use crate::scoreboard::Scoreboard;
use crate::supervisor::{Event, Exit, Order};
use crate::sys::clock;
use crate::sys::process::{self, Ended};

/// Token of the signals' pipe; seat `i` has two tokens of its own after it, the admin port all from there on.
pub(super) const SIGNALS: Token = Token(0);
pub(super) const TOKENS_PER_SEAT: usize = 2;

/// Messages taken from one worker before its exit is believed; it cannot have had room for more.
const MESSAGES_AT_ONCE: usize = 4096;

impl Master<'_> {
    /// Workers of a master that was killed may still finish their jobs: their slots wait for them.
    pub(super) fn find_older_workers(&mut self, events: &mut VecDeque<Event>) {
        for slot in 0..self.seats.len() {
            if let Some(pid) = self.watch_holder(slot) {
                events.push_back(Event::Occupied { slot, pid });
            }
        }
    }

    /// The process that holds the slot's lock, if there is one; its end will be an event.
    pub(super) fn watch_holder(&mut self, slot: usize) -> Option<i32> {
        let Occupant::Worker { place, .. } = self.seats[slot].occupant else {
            return None;
        };
        let pid = self.board.holder(place).ok().flatten()?;
        let token = watch_token(slot);
        let watched = self.seats[slot].watch(pid, self.poll.registry(), token);
        watched.ok()?;
        log::info!(
            "slot held by a worker of an older master{} pid={pid}",
            self.name(slot).place
        );
        Some(pid)
    }

    pub(super) fn collect(&mut self, happened: &Events, events: &mut VecDeque<Event>) {
        let mut vacated = Vec::new();
        for event in happened {
            match seat_of(event.token(), self.seats.len()) {
                Some((slot, SeatToken::Channel)) => self.take_messages(slot, events),
                Some((slot, SeatToken::Watch)) => vacated.push(slot),
                None if event.token() == SIGNALS => {}
                None => {
                    self.admin.collect(event);
                }
            }
        }
        for slot in vacated {
            if let Some(pid) = self.seats[slot].vacated(&self.board, self.poll.registry()) {
                events.push_back(Event::Vacated { slot, pid });
            }
        }
        // The pipe is emptied before the reaping, so that an end in between wakes us again; orders come after it, so that
        // none is carried out on a process that was just reaped.
        let wishes = self.signals.pending();
        self.reap(events);
        self.logger.turn(Instant::now());
        self.take_wishes(wishes, events);
        self.figures
            .sample(Instant::now(), || totals(&self.seats, &self.board).runs);
        let figures = &self.figures;
        let (config, prepared, board) = (self.config, self.prepared, &self.board);
        let (seats, supervisor) = (&self.seats, &self.supervisor);
        let bells = &self.bells.keeper;
        let mut snapshot = || {
            ask_for_counts(board, bells);
            figures.snapshot(config, prepared, board, seats, supervisor)
        };
        let orders = self
            .admin
            .turn(self.poll.registry(), Instant::now(), &mut snapshot);
        for order in orders {
            log::info!("order received order={order:?} from=admin");
            events.push_back(Event::Order(order));
        }
        events.push_back(Event::Tick);
    }

    fn take_wishes(&mut self, wishes: Vec<Wish>, events: &mut VecDeque<Event>) {
        for wish in wishes {
            let order = match wish {
                Wish::Reap => continue,
                Wish::Stop => Order::Shutdown,
                Wish::Reload => Order::Reload,
                Wish::ReopenLog => {
                    self.board.log_generation().fetch_add(1, Ordering::Relaxed);
                    log::info!("log reopened");
                    continue;
                }
                Wish::Unsupported(name) => {
                    log::warn!("signal not supported yet signal={name}");
                    continue;
                }
            };
            log::info!("order received order={order:?} from=signal");
            events.push_back(Event::Order(order));
        }
    }

    fn take_messages(&mut self, slot: usize, events: &mut VecDeque<Event>) {
        let mut messages = Vec::new();
        while self.seats[slot].receive(&mut messages) && messages.len() < MESSAGES_AT_ONCE {}
        for (generation, message) in messages {
            events.push_back(Event::Message {
                slot,
                generation,
                message,
            });
        }
    }

    /// Every turn, not only on SIGCHLD, until none is left; orphans of our descent are reaped as well.
    fn reap(&mut self, events: &mut VecDeque<Event>) {
        while let Some((pid, ended)) = process::ended() {
            if let Some(slot) = self.slot_of(pid) {
                // What it said last comes before its end, and its script must not outlive it.
                self.take_messages(slot, events);
                self.seats[slot].signal_script(&self.board, Signal::SIGKILL);
                self.seats[slot].disconnect(self.poll.registry());
            } else if self.is_script(pid) {
                // Its worker has died, and may be reaped after it. Once it is collected, its group cannot be told from
                // a stranger's, so what it has started ends now.
                let _ = process::signal_group(pid, Signal::SIGKILL);
            }
            process::wait(pid);
            if self.logger.reaped(pid) {
                continue;
            }
            let exit = match ended {
                Ended::Status(status) => Exit::Status(status),
                Ended::Signal(signal) => Exit::Signal(signal),
            };
            events.push_back(Event::Exited { pid, exit });
        }
    }

    fn is_script(&self, pid: i32) -> bool {
        let mut records = self
            .seats
            .iter()
            .filter_map(|seat| seat.record(&self.board));
        records.any(|record| record.script().pid == pid)
    }

    fn slot_of(&self, pid: i32) -> Option<usize> {
        self.supervisor.slots().position(|view| {
            view.state
                .process()
                .is_some_and(|process| process.pid == pid)
        })
    }
}

/// Somebody looks at the figures: the keeper counts what is in the queues for a while, from now on if it does not do so
/// already.
fn ask_for_counts(board: &Scoreboard, keeper_bells: &[EventFd]) {
    let now = clock::monotonic();
    let is_counting = board
        .counts_asked_at()
        .is_some_and(|asked| now.saturating_sub(asked) < keeper::WANTED_FOR);
    board.ask_for_counts(now);
    if !is_counting {
        for bell in keeper_bells {
            let _ = bell.write(1);
        }
    }
}

enum SeatToken {
    Channel,
    Watch,
}

pub(super) fn channel_token(slot: usize) -> Token {
    Token(SIGNALS.0 + 1 + TOKENS_PER_SEAT * slot)
}

fn watch_token(slot: usize) -> Token {
    Token(channel_token(slot).0 + 1)
}

fn seat_of(token: Token, seats: usize) -> Option<(usize, SeatToken)> {
    let place = token.0.checked_sub(SIGNALS.0 + 1)?;
    let slot = place / TOKENS_PER_SEAT;
    let kind = if place % TOKENS_PER_SEAT == 0 {
        SeatToken::Channel
    } else {
        SeatToken::Watch
    };
    (slot < seats).then_some((slot, kind))
}

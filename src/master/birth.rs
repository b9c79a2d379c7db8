//! What a new worker or keeper gets from the master, and the fork that makes it.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::Duration;

use super::collect::channel_token;
use super::seat::Occupant;
use super::{Master, spawn};
use crate::channel::{self, MasterEnd, WorkerEnd};
use crate::config::Affinity;
use crate::daemon::VERSION;
use crate::supervisor::{Event, Phase};
use crate::sys::descriptors;
use crate::{keeper, worker};

impl Master<'_> {
    /// Forks for a slot; the event says whether there is a process now. A slot whose lock another process holds waits
    /// for that one: a worker that an older master forked just before its end may have taken it after we looked.
    pub(super) fn spawn(
        &mut self,
        slot: usize,
        generation: u64,
        consumer_delay: Duration,
    ) -> Event {
        if let Some(pid) = self.watch_holder(slot) {
            return Event::Occupied { slot, pid };
        }
        let forked = channel::pair().and_then(|(ours, theirs)| {
            let theirs = Arc::new(theirs);
            let pid = match self.seats[slot].occupant.clone() {
                Occupant::Worker { .. } => {
                    self.fork_worker(slot, generation, consumer_delay, &theirs)
                }
                Occupant::Keeper => self.fork_keeper(generation, &theirs),
            }?;
            self.connect(slot, generation, ours);
            Ok(pid)
        });
        match forked {
            Ok(pid) => Event::Spawned {
                slot,
                generation,
                pid,
            },
            Err(err) => Event::SpawnFailed {
                slot,
                generation,
                error: err.to_string(),
            },
        }
    }

    /// A process that we cannot hear is killed by its missing heartbeats.
    fn connect(&mut self, slot: usize, generation: u64, end: MasterEnd) {
        let registry = self.poll.registry();
        if let Err(err) = self.seats[slot].connect(generation, end, registry, channel_token(slot)) {
            log::error!(
                "cannot watch channel{} gen={generation} err={:?}",
                self.name(slot).place,
                err.to_string()
            );
        }
    }

    fn fork_worker(
        &self,
        slot: usize,
        generation: u64,
        consumer_delay: Duration,
        channel: &Arc<WorkerEnd>,
    ) -> io::Result<i32> {
        let Occupant::Worker {
            pool,
            slot,
            number,
            place,
            core,
        } = self.seats[slot].occupant
        else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let settings = &self.config.pools[pool];
        let (doorbell, keeper_bell) = (&self.bells.doors[pool], &self.bells.keeper[pool]);
        let title = format!(
            "stark: {} worker {number} [starting]",
            self.config.main.name
        );
        let newborn = spawn::Newborn {
            role: "worker",
            title: &title,
            keep: &[
                channel.as_raw_fd(),
                self.board.as_raw_fd(),
                doorbell.as_fd().as_raw_fd(),
                keeper_bell.as_fd().as_raw_fd(),
            ],
            leash: spawn::Leash::Follows,
        };
        spawn::fork(&newborn, || {
            // The master's may have been raised, for its clients; programs would inherit it.
            descriptors::lower_limit(self.descriptor_limit);
            worker::live(worker::Birth {
                daemon: &self.config.main.name,
                version: VERSION,
                pool: settings,
                pool_number: pool,
                queue_numbers: self.config.queue_numbers(pool),
                other_keys: &self.config.keys_beside(pool),
                slot,
                number,
                place,
                generation,
                core,
                consumer_delay,
                is_first_start: self.supervisor.phase() == Phase::Starting,
                node: &self.prepared.node,
                nonce: self.prepared.nonce,
                board: Arc::clone(&self.board),
                channel: Arc::clone(channel),
                doorbell,
                keeper_bell,
                page: self.prepared.files.progress(&settings.name, slot),
                shutdown_timeout: self.config.main.shutdown_timeout,
            })
        })
    }

    fn fork_keeper(&self, generation: u64, channel: &Arc<WorkerEnd>) -> io::Result<i32> {
        let title = format!("stark: {} keeper", self.config.main.name);
        let bells = self.bells.doors.iter().chain(&self.bells.keeper);
        let mut keep: Vec<_> = bells.map(|bell| bell.as_fd().as_raw_fd()).collect();
        keep.extend([channel.as_raw_fd(), self.board.as_raw_fd()]);
        let newborn = spawn::Newborn {
            role: "keeper",
            title: &title,
            keep: &keep,
            leash: spawn::Leash::Follows,
        };
        let slots = self.seats.iter().filter_map(|seat| match &seat.occupant {
            Occupant::Worker {
                pool, slot, place, ..
            } => Some(keeper::Slot {
                pool: *pool,
                slot: *slot,
                place: *place,
            }),
            Occupant::Keeper => None,
        });
        let slots: Vec<_> = slots.collect();
        let files = &self.prepared.files;
        spawn::fork(&newborn, || {
            keeper::live(keeper::Birth {
                config: self.config,
                node: &self.prepared.node,
                nonce: self.prepared.nonce,
                generation,
                channel: Arc::clone(channel),
                board: Arc::clone(&self.board),
                slots,
                page: &|pool, slot| files.progress(pool, slot),
                doorbells: &self.bells.doors,
                keeper_bells: &self.bells.keeper,
            })
        })
    }
}

/// The core of the worker with this number. Daemons on one machine begin at different cores.
pub(super) fn core(
    affinity: &Affinity,
    usable: &[usize],
    name: &str,
    number: usize,
) -> Option<usize> {
    let (cores, first) = match affinity {
        Affinity::None => return None,
        Affinity::Cores(cores) => (cores.as_slice(), 0),
        Affinity::Auto => {
            let sum = name.bytes().fold(0usize, |hash, byte| {
                hash.wrapping_mul(31).wrapping_add(usize::from(byte))
            });
            (usable, sum)
        }
    };
    if cores.is_empty() {
        None
    } else {
        Some(cores[first.wrapping_add(number) % cores.len()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_go_round_the_cores() {
        let cores = [2, 3, 5];
        let auto: Vec<_> = (0..6)
            .filter_map(|number| core(&Affinity::Auto, &cores, "mail", number))
            .collect();
        assert_eq!(auto[..3], auto[3..]);
        assert_eq!(
            auto.iter().collect::<std::collections::HashSet<_>>().len(),
            3
        );
        assert_eq!(
            core(&Affinity::Cores(vec![7, 9]), &cores, "mail", 3),
            Some(9)
        );
        assert_eq!(core(&Affinity::None, &cores, "mail", 3), None);
        assert_eq!(core(&Affinity::Auto, &[], "mail", 3), None);
    }
}

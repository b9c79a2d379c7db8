//! Reserved lists of this daemon that no worker will come for: their jobs go back to the queue. While the daemon runs
//! those are the lists of slots that are no more (a lower count, another pool), for slots that live reclaim their own;
//! when it stops, the lists of workers that were killed.

use std::collections::HashSet;
use std::path::PathBuf;

use super::Birth;
use crate::config;
use crate::queue::{Past, Queue, QueueError, Registered};
use crate::scoreboard::{Page, Scoreboard};
use crate::worker::past::{self, Death};

/// What is left to look after.
pub struct Estate<'a> {
    queue: Queue,
    node: String,
    living: HashSet<(String, u32)>,
    page: &'a (dyn Fn(&str, u32) -> PathBuf + Sync),
    is_done: bool,
    /// Lists of other nodes were mentioned.
    is_told: bool,
}

impl<'a> Estate<'a> {
    /// Everything registered under this daemon's node in the keys of `settings`, but the slots that live.
    pub fn new(settings: &config::Queue, birth: &Birth<'a>) -> Self {
        let pools = &birth.config.pools;
        let living = birth.slots.iter();
        let living = living.map(|slot| (pools[slot.pool].name.clone(), slot.slot));
        Self {
            node: birth.node.into(),
            queue: Queue::new(settings, birth.identity()),
            living: living.collect(),
            page: birth.page,
            is_done: false,
            is_told: false,
        }
    }

    /// Puts back what can be put back now; slots whose worker (of an older master) still lives are tried again.
    ///
    /// # Errors
    /// As the store answers.
    pub fn settle(&mut self, board: &Scoreboard) -> Result<(), QueueError> {
        if self.is_done {
            return Ok(());
        }
        let lists = self.queue.registered()?;
        let (lists, others): (Vec<_>, Vec<_>) =
            lists.into_iter().partition(|list| list.node == self.node);
        self.tell_of(others.len());
        let mut is_done = true;
        for list in &lists {
            let is_living = self.living.contains(&(list.pool.clone(), list.slot));
            is_done &= is_living || self.settle_one(board, list)?;
        }
        self.is_done = is_done;
        if is_done {
            self.queue.disconnect();
        }
        Ok(())
    }

    /// Another daemon of this queue is nothing special; one that lost its data directory leaves its lists behind like
    /// this, and only an operator can know.
    fn tell_of(&mut self, others: usize) {
        if others > 0 && !self.is_told {
            self.is_told = true;
            log::info!("reserved lists of other nodes are left alone lists={others}");
        }
    }

    /// The same for every slot: no worker comes any more.
    ///
    /// # Errors
    /// As the store answers.
    pub fn settle_all(&mut self, board: &Scoreboard) -> Result<(), QueueError> {
        self.living.clear();
        self.is_done = false;
        self.settle(board)
    }

    /// False: its worker lives.
    fn settle_one(&mut self, board: &Scoreboard, list: &Registered) -> Result<bool, QueueError> {
        let Some(place) = board.find(&list.pool, list.slot) else {
            return self.reclaim(board, list, None).map(|()| true);
        };
        match board.lock(place) {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(err) => {
                log::error!(
                    "cannot lock slot pool={} slot={} err={:?}",
                    list.pool,
                    list.slot,
                    err.to_string()
                );
                return Ok(false);
            }
        }
        let reclaimed = self.reclaim(board, list, Some(place));
        board.unlock(place);
        reclaimed.map(|()| true)
    }

    /// `place` is that of the slot's record, if it ever had one; its lock is ours.
    fn reclaim(
        &mut self,
        board: &Scoreboard,
        list: &Registered,
        place: Option<usize>,
    ) -> Result<(), QueueError> {
        if let Some(place) = place
            && let Ok(page) = Page::open(&(self.page)(&list.pool, list.slot))
        {
            board.take_stock(place, &page);
        }
        let record = place.map(|place| board.record(place));
        let reclaimed = self.queue.reclaim_registered(list, &|token, jobs| {
            let Some(record) = &record else {
                return Past::default();
            };
            past::of(*record, token, jobs, Death::WithOthers)
        })?;
        if let Some(reclaimed) = reclaimed {
            log::info!(
                "reclaimed without worker pool={} slot={} jobs={}",
                list.pool,
                list.slot,
                reclaimed.given_back
            );
        }
        Ok(())
    }
}

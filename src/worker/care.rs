//! What the control thread looks after while the main thread is in a job: that nobody waits behind a long one, and that
//! none takes longer than it may.

use std::sync::Arc;

use super::alarm::Alarm;
use super::overdue::Overdue;
use super::time_limit::{Next, TimeLimit};
use crate::queue::{Extent, Tail};
use crate::scoreboard::Record;

/// Shared by the main thread and the control thread.
#[derive(Debug)]
pub struct Care {
    /// Rings in the control thread.
    pub alarm: Alarm,
    /// Jobs behind a long one of a native consumer.
    pub overdue: Arc<Overdue>,
    /// None: jobs may take as long as they like.
    pub time_limit: Option<TimeLimit>,
    /// Names the slot in log lines.
    label: String,
}

/// Whether the worker goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It does.
    GoOn,
    /// It is in a job that cannot be ended without it, and that is marked as failed.
    EndWorker,
}

impl Care {
    /// Of the worker in the slot with this label.
    ///
    /// # Errors
    /// When the kernel has no descriptors left.
    pub fn new(time_limit: Option<TimeLimit>, label: String) -> std::io::Result<Self> {
        Ok(Self {
            alarm: Alarm::new()?,
            overdue: Arc::default(),
            time_limit,
            label,
        })
    }

    /// Main thread: a native consumer gets a reservation.
    pub fn begin_reservation(&self, extent: Extent, tail: impl FnOnce() -> Tail) {
        if let Some(at) = self.overdue.begin(extent, tail) {
            self.alarm.wake_at(at);
        }
    }

    /// Main thread: the consumer begins.
    pub fn enter_consumer(&self) {
        if let Some(limit) = &self.time_limit {
            self.alarm.wake_at(limit.begin());
        }
    }

    /// Main thread: the consumer is left.
    pub fn leave_consumer(&self) {
        if let Some(limit) = &self.time_limit {
            limit.end();
        }
    }

    /// Control thread: the alarm rang.
    pub fn look(&self, record: Record<'_>) -> Verdict {
        self.alarm.quiet();
        if let Some(at) = self.overdue.check(record) {
            self.alarm.wake_at(at);
        }
        match self
            .time_limit
            .as_ref()
            .map(|limit| limit.check(record, &self.label))
        {
            None | Some(Next::Rest) => {}
            Some(Next::LookAt(at)) => self.alarm.wake_at(at),
            Some(Next::EndWorker) => return Verdict::EndWorker,
        }
        Verdict::GoOn
    }
}

//! Jobs whose time has come: moved to the tail of their queue by the keeper of any daemon. It sleeps until the next one is
//! due, and learns from the store when the delayed jobs have changed: an earlier one may have come.

use std::time::Duration;

use crate::config;
use crate::queue::{Due, QueueError};

/// From one look to the next, however often the delayed jobs change.
const LEAST_PAUSE: Duration = Duration::from_millis(100);

/// From one look to the next, where the store does not tell of changes.
const UNTOLD_PAUSE: Duration = Duration::from_secs(1);

/// Delays go by the store's clock: what is due later than this is looked for again.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The delayed jobs of one pool's queues. Times are those of the monotonic clock.
pub struct Delays {
    due: Due,
    is_told: bool,
    last: Duration,
    /// When to look again; none: not before there is news.
    next: Option<Duration>,
    news: News,
}

/// Whether the delayed jobs have changed. The store tells once, and again only after it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    /// Not that we know of.
    None,
    /// It told.
    Heard,
    /// And was asked since: with the answer it is known what it will tell of.
    Asked,
}

impl Delays {
    /// Of the keys of `settings`.
    pub fn new(settings: &config::Queue) -> Self {
        Self {
            due: Due::new(settings),
            is_told: true,
            last: Duration::ZERO,
            next: Some(Duration::ZERO),
            news: News::None,
        }
    }

    /// A new connection, on which the store tells of changes or not: everything may have changed.
    pub fn begin(&mut self, is_told: bool) {
        self.is_told = is_told;
        self.news = News::None;
        self.next = Some(Duration::ZERO);
    }

    /// The delayed jobs have changed. They are looked at after the next answer to a question, which makes the store tell
    /// of later changes.
    pub fn changed(&mut self) {
        self.news = News::Heard;
    }

    /// When that question is to be asked, if there is news.
    pub fn ask_at(&self) -> Option<Duration> {
        (self.news == News::Heard).then(|| self.last + LEAST_PAUSE)
    }

    /// A question is sent.
    pub fn asked(&mut self) {
        if self.news == News::Heard {
            self.news = News::Asked;
        }
    }

    /// A question was answered, and others still wait for their answers.
    pub fn partly_answered(&mut self) {
        if self.news == News::Asked {
            self.next = Some(Duration::ZERO);
        }
    }

    /// The last question was answered.
    pub fn answered(&mut self) {
        self.partly_answered();
        if self.news == News::Asked {
            self.news = News::None;
        }
    }

    /// When to look next; none: not before there is news.
    pub fn look_at(&self) -> Option<Duration> {
        self.next
    }

    /// Moves what is due, if it is time.
    ///
    /// # Errors
    /// As the store answers.
    pub fn take(&mut self, now: Duration) -> Result<(), QueueError> {
        if self.next.is_none_or(|next| now < next) {
            return Ok(());
        }
        let moved = self.due.move_due()?;
        self.last = now;
        self.next = moved.next_in.map(|left| now + left.min(LONGEST_PAUSE));
        if !self.is_told {
            let untold = now + UNTOLD_PAUSE;
            self.next = Some(self.next.map_or(untold, |next| next.min(untold)));
        }
        if moved.jobs > 0 {
            log::debug!("moved due jobs jobs={}", moved.jobs);
        }
        if self.next.is_none() {
            self.due.disconnect();
        }
        Ok(())
    }
}

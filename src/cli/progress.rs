//! The progress of a long push, on stderr and only if that is a terminal: jobs, rate, and when the length of the input is
//! known, how much of it is done and how long the rest takes.

use std::fs::File;
use std::io::{IsTerminal, Seek};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

const WITH_LENGTH: &str = "{bar:30} {percent:>3}%  {msg}  {eta} left";
const WITHOUT_LENGTH: &str = "{spinner} {msg}  {elapsed}";
/// Faster changes nobody can read.
const REDRAW: Duration = Duration::from_millis(100);

/// A line on the terminal, or nothing.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    since: Instant,
    next_draw: Instant,
}

impl Progress {
    /// Nothing is ever shown.
    pub fn hidden() -> Self {
        Self::of(ProgressBar::hidden())
    }

    /// For what is read from `input`. Who types jobs on a terminal needs no bar between them.
    pub fn of_input(input: &File) -> Self {
        if !std::io::stderr().is_terminal() || input.is_terminal() {
            return Self::hidden();
        }
        let (bar, template) = match length_left(input) {
            Some(length) => (ProgressBar::new(length), WITH_LENGTH),
            None => (ProgressBar::no_length(), WITHOUT_LENGTH),
        };
        let style = ProgressStyle::with_template(template).expect("the template is sound");
        bar.set_style(style);
        Self::of(bar)
    }

    fn of(bar: ProgressBar) -> Self {
        let since = Instant::now();
        Self {
            bar,
            since,
            next_draw: since,
        }
    }

    /// So many jobs are pushed, and so many bytes of the input read for them.
    pub fn show(&mut self, jobs: u64, bytes: u64) {
        let now = Instant::now();
        if self.bar.is_hidden() || now < self.next_draw {
            return;
        }
        self.next_draw = now + REDRAW;
        let seconds = now.duration_since(self.since).as_secs_f64();
        let rate = jobs as f64 / seconds.max(0.001);
        self.bar.set_message(format!("{jobs} jobs  {rate:.0}/s"));
        self.bar.set_position(bytes);
    }

    /// Takes the line away, so that what is said next stands alone.
    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

/// Bytes from here to the end of a file; none for what has no end that is known.
fn length_left(input: &File) -> Option<u64> {
    let metadata = input.metadata().ok().filter(|found| found.is_file())?;
    // The position belongs to the open file, whichever descriptor asks.
    let mut twin = File::from(input.as_fd().try_clone_to_owned().ok()?);
    let position = twin.stream_position().ok()?;
    Some(metadata.len().saturating_sub(position))
}

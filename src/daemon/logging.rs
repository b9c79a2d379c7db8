//! The log: `2026-01-05T10:11:12.345Z INFO master[812] worker ready slot=3`, whole lines with one write each.
//!
//! Every process of the daemon appends to the file of the day by itself (O_APPEND keeps lines whole), and opens it
//! anew when the day changes, when the number of reopenings on the scoreboard rises, and after a fork. Threads that must
//! not wait for the disk (the master, control threads) hand their lines to the logger through [`log_queue`].

use std::cell::Cell;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::SystemTime;

use env_logger::{Builder, Logger, Target, WriteStyle};
use log::{Log, Metadata, Record};

use super::log_queue::{self, Receiver};
use crate::config::LogTarget;

static ROLE: Mutex<String> = Mutex::new(String::new());
static GENERATION: OnceLock<Box<dyn Fn() -> u64 + Send + Sync>> = OnceLock::new();
static WRITER: Mutex<Option<LogFile>> = Mutex::new(None);

thread_local! {
    static WAITS: Cell<bool> = const { Cell::new(true) };
}

/// Starts logging in this process. To be called once.
///
/// # Errors
/// When the log file cannot be opened.
pub fn start(target: &LogTarget, level: log::LevelFilter) -> io::Result<()> {
    let mut file = LogFile {
        target: target.clone(),
        open: None,
    };
    file.reopen(today())?;
    *unpoisoned(&WRITER) = Some(file);
    let lines = Lines {
        written: lines_to(Box::new(Written), level),
        queued: lines_to(Box::new(Queued::default()), level),
    };
    log::set_boxed_logger(Box::new(lines)).map_err(io::Error::other)?;
    log::set_max_level(level);
    Ok(())
}

/// Whether [`start`] could open its file now.
///
/// # Errors
/// When it could not.
pub fn try_out(target: &LogTarget) -> io::Result<()> {
    let mut file = LogFile {
        target: target.clone(),
        open: None,
    };
    file.reopen(today())
}

/// Lines of this thread are handed over from now on, and dropped (and counted) when there is no room for them.
pub fn never_wait() {
    WAITS.set(false);
}

/// Names this process in its lines; after a fork also gives back the inherited file. Its only thread may wait.
pub fn set_role(role: &str) {
    *unpoisoned(&ROLE) = role.to_string();
    WAITS.set(true);
    if let Some(file) = unpoisoned(&WRITER).as_mut() {
        file.open = None;
    }
}

/// From now on the file is opened anew before a line whenever this number has changed.
pub fn follow(generation: impl Fn() -> u64 + Send + Sync + 'static) {
    let _ = GENERATION.set(Box::new(generation));
}

/// The logger's work: writes what others have handed over, until all of them are gone.
pub fn write_out(queue: &Receiver) {
    while let Some(lines) = queue.receive() {
        // A line that cannot be written is dropped.
        let _ = Written.write(&lines);
    }
}

fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Two ways for lines, each with a lock of its own: who hands over never waits for one who writes.
struct Lines {
    written: Logger,
    queued: Logger,
}

impl Lines {
    fn of_this_thread(&self) -> &Logger {
        match WAITS.get() {
            true => &self.written,
            false => &self.queued,
        }
    }
}

impl Log for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.written.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        self.of_this_thread().log(record);
    }

    fn flush(&self) {}
}

fn lines_to(target: Box<dyn Write + Send>, level: log::LevelFilter) -> Logger {
    let mut builder = Builder::new();
    builder
        .filter_level(level)
        .write_style(WriteStyle::Never)
        .target(Target::Pipe(target))
        .format(|out, record| write!(out, "{}", line(record.level(), *record.args())));
    builder.build()
}

fn line(level: log::Level, text: fmt::Arguments<'_>) -> String {
    let now = humantime::format_rfc3339_millis(SystemTime::now());
    let role = unpoisoned(&ROLE).clone();
    format!("{now} {level} {role}[{}] {text}\n", std::process::id())
}

/// Lines go to the file.
struct Written;

impl Write for Written {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match unpoisoned(&WRITER).as_mut() {
            Some(file) => file.write_line(line),
            None => Ok(line.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Lines go to the logger.
#[derive(Default)]
struct Queued {
    /// For which there was no room since the last one that arrived.
    dropped: u64,
}

impl Queued {
    fn tell_of_dropped(&mut self) -> bool {
        if self.dropped > 0 {
            let text = format_args!(
                "log lines dropped, the disk is too slow lines={}",
                self.dropped
            );
            if !log_queue::send(line(log::Level::Warn, text).as_bytes()) {
                return false;
            }
            self.dropped = 0;
        }
        true
    }
}

impl Write for Queued {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if !(self.tell_of_dropped() && log_queue::send(line)) {
            self.dropped += 1;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
struct LogFile {
    target: LogTarget,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    day: u64,
    generation: u64,
}

impl LogFile {
    /// A line that cannot be written is dropped: a full disk must not end a daemon.
    fn write_line(&mut self, line: &[u8]) -> io::Result<usize> {
        let day = today();
        let is_current =
            |open: &Open| open.generation == generation() && (open.day == day || !self.is_daily());
        if !self.open.as_ref().is_some_and(is_current) {
            self.reopen(day)?;
        }
        match &mut self.open {
            Some(open) => open.file.write(line),
            None => io::stderr().write(line),
        }
    }

    fn reopen(&mut self, day: u64) -> io::Result<()> {
        let Some(path) = self.path() else {
            return Ok(());
        };
        let mut options = OpenOptions::new();
        options
            .append(true)
            .create(true)
            .mode(0o640)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC);
        self.open = Some(Open {
            file: options.open(path)?,
            day,
            generation: generation(),
        });
        Ok(())
    }

    fn is_daily(&self) -> bool {
        matches!(self.target, LogTarget::Daily { .. })
    }

    fn path(&self) -> Option<PathBuf> {
        match &self.target {
            LogTarget::Daily { directory, name } => {
                let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
                Some(directory.join(format!("{name}-{}.log", &now[..10])))
            }
            LogTarget::File(path) => Some(path.clone()),
            LogTarget::Stderr => None,
        }
    }
}

/// Days since 1970, UTC.
fn today() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs() / 86400)
}

fn generation() -> u64 {
    GENERATION.get().map_or(0, |generation| generation())
}

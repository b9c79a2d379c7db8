//! The log: `2026-01-05T10:11:12.345Z INFO master[812] worker ready slot=3`, whole lines with one write each.
//!
//! Every process of the daemon appends to the file of the day by itself (O_APPEND keeps lines whole), and opens it
//! anew when the day changes, when the number of reopenings on the scoreboard rises, and after a fork.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock};
use std::time::SystemTime;

use env_logger::{Builder, Target, WriteStyle};

use crate::config::LogTarget;

static ROLE: Mutex<String> = Mutex::new(String::new());
static GENERATION: OnceLock<Box<dyn Fn() -> u64 + Send + Sync>> = OnceLock::new();
static WRITER: Mutex<Option<LogFile>> = Mutex::new(None);

/// Starts logging in this process. To be called once.
///
/// # Errors
/// When the log file cannot be opened.
pub fn start(target: &LogTarget, level: log::LevelFilter) -> io::Result<()> {
    let mut builder = Builder::new();
    builder
        .filter_level(level)
        .write_style(WriteStyle::Never)
        .format(|out, record| {
            let now = humantime::format_rfc3339_millis(SystemTime::now());
            let role = ROLE.lock().map_or_else(
                |poisoned| poisoned.into_inner().clone(),
                |role| role.clone(),
            );
            writeln!(
                out,
                "{now} {} {role}[{}] {}",
                record.level(),
                std::process::id(),
                record.args()
            )
        });
    match target {
        LogTarget::Stderr => {
            builder.target(Target::Stderr);
        }
        LogTarget::Daily { .. } | LogTarget::File(_) => {
            let mut file = LogFile {
                target: target.clone(),
                open: None,
            };
            file.reopen(today())?;
            *writer() = Some(file);
            builder.target(Target::Pipe(Box::new(Shared)));
        }
    }
    builder.try_init().map_err(io::Error::other)
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

/// Names this process in its lines; after a fork also gives back the inherited file.
pub fn set_role(role: &str) {
    *ROLE.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = role.to_string();
    if let Some(file) = writer().as_mut() {
        file.open = None;
    }
}

/// From now on the file is opened anew before a line whenever this number has changed.
pub fn follow(generation: impl Fn() -> u64 + Send + Sync + 'static) {
    let _ = GENERATION.set(Box::new(generation));
}

fn writer() -> std::sync::MutexGuard<'static, Option<LogFile>> {
    WRITER
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// What env_logger writes to.
struct Shared;

impl Write for Shared {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match writer().as_mut() {
            Some(file) => file.write_line(line),
            None => Ok(line.len()),
        }
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
            None => Ok(line.len()),
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

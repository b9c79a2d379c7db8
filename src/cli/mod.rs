//! The command line: what may be typed, and which file does it. Errors go to stderr as `stark: cannot ...`.

use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{self, Config};
use crate::daemon::{Failure, status};

mod check;
mod client;
mod operate;
mod push;
mod start;

const EXAMPLES: &str = "\
Examples:
  stark -f worker.ini             start in the background; returns when every worker is ready
  stark -f worker.ini -F          stay in the foreground, log to stderr
  stark -f worker.ini --check     tell every mistake, start nothing
  stark -f worker.ini push hello  append a job to the queue
  stark -f worker.ini status      one line; exit status 3 when it does not run
  stark -f worker.ini stop        finish the jobs in hand, then end
The admin port speaks the Redis protocol: redis-cli -p PORT info";

/// Prefork worker daemon for Redis queues.
#[derive(Debug, Parser)]
#[command(name = "stark", version, about, after_help = EXAMPLES, disable_help_subcommand = true)]
struct Arguments {
    /// The daemon's settings.
    #[arg(short, long, value_name = "INI")]
    file: Option<PathBuf>,

    /// Stay in the foreground.
    #[arg(short = 'F', long)]
    foreground: bool,

    /// Check settings, script syntax and queue; start nothing, run no user code.
    #[arg(short = 't', long, conflicts_with_all = ["foreground", "print_config"])]
    check: bool,

    /// Print the settings in force as an ini, secrets masked.
    #[arg(long, conflicts_with = "foreground")]
    print_config: bool,

    /// Override a setting, e.g. --set main.port=9008.
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Figures of the running daemon.
    Info {
        /// Only these sections.
        sections: Vec<String>,
    },
    /// Is it alive? Prints PONG.
    Ping,
    /// One line on the daemon; exit status 3 when it does not run.
    Status,
    /// Tell the daemon to stop, and return at once.
    Shutdown {
        /// Kill the jobs in hand; they run again after the next start.
        #[arg(value_parser = ["now", "NOW"])]
        now: Option<String>,
    },
    /// Stop the daemon, and return when it is gone.
    Stop,
    /// Append jobs to the queue.
    Push {
        /// Another list than queue.key.
        #[arg(long)]
        key: Option<String>,
        /// One job each; `-` reads one job per line from stdin.
        #[arg(required = true, value_name = "PAYLOAD")]
        payloads: Vec<std::ffi::OsString>,
    },
}

/// Runs what the arguments ask for.
pub fn main() -> ExitCode {
    let arguments = Arguments::try_parse();
    // The arguments are collected, so their memory is free to hold the title.
    crate::sys::title::prepare();
    let arguments = match arguments {
        Ok(arguments) => arguments,
        Err(err) => {
            let _ = err.print();
            return ExitCode::from(if err.use_stderr() { status::USAGE } else { 0 });
        }
    };
    match run(&arguments) {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            let lines = failure.message.lines();
            lines.for_each(warn);
            ExitCode::from(failure.status)
        }
    }
}

fn run(arguments: &Arguments) -> Result<u8, Failure> {
    let Some(file) = &arguments.file else {
        return Err(Failure::new(
            status::USAGE,
            "which daemon? give its settings: stark -f worker.ini (see stark --help)",
        ));
    };
    let config = load(file, &arguments.set)?;
    match &arguments.command {
        None if arguments.check => check::check(&config),
        None if arguments.print_config => {
            print(format_args!("{}", config::to_ini(&config)))?;
            Ok(0)
        }
        None => start::start(config, arguments.foreground),
        Some(_) if arguments.check || arguments.print_config || arguments.foreground => {
            Err(Failure::new(
                status::USAGE,
                "--check, --print-config and --foreground take no command",
            ))
        }
        Some(Command::Info { sections }) => operate::info(&config, sections),
        Some(Command::Ping) => operate::ping(&config),
        Some(Command::Status) => operate::status(&config),
        Some(Command::Shutdown { now }) => operate::shutdown(&config, now.is_some()),
        Some(Command::Stop) => operate::stop(&config),
        Some(Command::Push { key, payloads }) => push::push(&config, key.as_deref(), payloads),
    }
}

fn load(file: &std::path::Path, overrides: &[String]) -> Result<Config, Failure> {
    let loaded = config::load(file, overrides)
        .map_err(|mistakes| Failure::new(status::BAD_SETTINGS, mistakes.to_string()))?;
    loaded.warnings.iter().for_each(warn);
    Ok(loaded.config)
}

/// To stdout. Who reads no further (`| head -1`) has what it wanted.
fn print(text: fmt::Arguments<'_>) -> Result<(), Failure> {
    printed(io::stdout().write_fmt(text))
}

fn printed(result: io::Result<()>) -> Result<(), Failure> {
    match result.and_then(|()| io::stdout().flush()) {
        Err(err) if err.kind() != io::ErrorKind::BrokenPipe => Err(Failure::new(
            status::FAILED,
            format!("cannot print the reply: {err}"),
        )),
        _ => Ok(()),
    }
}

/// A line to stderr, for whoever still reads it.
fn warn(text: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "stark: {text}");
}

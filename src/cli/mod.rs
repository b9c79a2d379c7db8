//! The command line: what may be typed, and which file does it. Errors go to stderr as `stark: cannot ...`, or to stdout
//! as an object where `--json` is given.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::NonEmptyStringValueParser;
use clap::{Parser, Subcommand};

use crate::config::{self, Config};
use crate::daemon::Failure;
use crate::daemon::status::{BAD_SETTINGS, USAGE};

mod answer;
mod check;
mod client;
mod info;
mod lines;
mod operate;
mod progress;
mod push;
mod restart;
mod running;
mod start;
mod status;
mod stop;

use answer::{Answer, Format, complain, print, warn};

const EXAMPLES: &str = "\
Examples:
  stark -f worker.ini             start in the background; returns when every worker is ready
  stark -f worker.ini -F          stay in the foreground, log to stderr
  stark -f worker.ini --check     tell every mistake, start nothing
  stark -f worker.ini push hello  append a job to the queue
  stark -f worker.ini status      how it is; exit status 3 when it does not run
  stark -f worker.ini restart     check the settings, stop, start with them
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

    /// The command's answer, or its error, as one JSON object on stdout.
    #[arg(long, global = true)]
    json: bool,

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
    /// How the daemon is; exit status 3 when it does not run.
    Status,
    /// Tell the daemon to stop, and return at once.
    Shutdown {
        /// Kill the jobs in hand; they run again after the next start.
        #[arg(value_parser = ["now", "NOW"])]
        now: Option<String>,
    },
    /// Stop the daemon, and return when it is gone.
    Stop,
    /// Stop the daemon if it runs, and start it with the settings as they are now.
    ///
    /// Settings, script syntax and queue are checked first: what would refuse a start leaves the running daemon alone.
    /// A daemon in the foreground is restarted by whoever started it (systemctl restart).
    Restart,
    /// Append jobs to the queue.
    ///
    /// Bytes are pushed as they are: a carriage return before the line end belongs to the job, an empty line is an
    /// empty job. A job may have 512 MiB, which is what Redis takes.
    Push {
        /// The list to push to [default: the first name in queue.key].
        ///
        /// A key of exactly one pool goes to the server of that pool, any other to that of the first pool with a queue.
        #[arg(long, value_parser = NonEmptyStringValueParser::new())]
        key: Option<String>,
        /// Run the jobs not before this has passed, e.g. 10s, 5m, 1h30m.
        #[arg(long, value_name = "TIME", value_parser = push::delay)]
        delay: Option<push::When>,
        /// Run the jobs not before this time, e.g. 2027-01-01T00:00:00Z.
        #[arg(long, value_name = "WHEN", value_parser = push::at, conflicts_with = "delay")]
        at: Option<push::When>,
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
            return ExitCode::from(if err.use_stderr() { USAGE } else { 0 });
        }
    };
    let format = match arguments.json {
        true => Format::Json,
        false => Format::Text,
    };
    let said = run(&arguments, format).and_then(|answer| {
        answer.print(format)?;
        Ok(answer.status)
    });
    match said {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            complain(&failure, format);
            ExitCode::from(failure.status)
        }
    }
}

fn run(arguments: &Arguments, format: Format) -> Result<Answer, Failure> {
    let wrong = |message| Failure::new(USAGE, message);
    let Some(file) = &arguments.file else {
        return Err(wrong(
            "which daemon? give its settings: stark -f worker.ini (see stark --help)",
        ));
    };
    let is_without_command = arguments.check || arguments.print_config || arguments.foreground;
    match &arguments.command {
        Some(_) if is_without_command => {
            return Err(wrong(
                "--check, --print-config and --foreground take no command",
            ));
        }
        None if arguments.json => return Err(wrong("--json needs a command")),
        _ => {}
    }
    let config = load(file, &arguments.set)?;
    match &arguments.command {
        None if arguments.check => check::check(&config),
        None if arguments.print_config => {
            print(format_args!("{}", config::to_ini(&config)))?;
            Ok(Answer::silent(0))
        }
        None if arguments.foreground => start::in_foreground(config),
        None => start::in_background(&config),
        Some(Command::Info { sections }) => operate::info(&config, sections),
        Some(Command::Ping) => operate::ping(&config),
        Some(Command::Status) => status::status(&config),
        Some(Command::Shutdown { now: None }) => operate::shutdown(&config, &["SHUTDOWN"]),
        Some(Command::Shutdown { now: Some(_) }) => {
            operate::shutdown(&config, &["SHUTDOWN", "NOW"])
        }
        Some(Command::Stop) => stop::stop(&config),
        Some(Command::Restart) => restart::restart(&config),
        Some(Command::Push {
            key,
            delay,
            at,
            payloads,
        }) => {
            let when = delay.or(*at).unwrap_or(push::When::Now);
            push::push(&config, key.as_deref(), when, payloads, format)
        }
    }
}

fn load(file: &std::path::Path, overrides: &[String]) -> Result<Config, Failure> {
    let loaded = config::load(file, overrides)
        .map_err(|mistakes| Failure::new(BAD_SETTINGS, mistakes.to_string()))?;
    loaded.warnings.iter().for_each(warn);
    Ok(loaded.config)
}

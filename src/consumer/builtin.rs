//! The consumers that come with stark: `null`, `echo` and `probe`.

use std::fs::OpenOptions;
use std::io::Write;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Consumer, Outcome, output};
use crate::config::Builtin;
use crate::queue::Job;

/// The built-in consumer of that name.
pub fn builtin(which: Builtin) -> Box<dyn Consumer> {
    match which {
        Builtin::Null => Box::new(Null),
        Builtin::Echo => Box::new(Echo),
        Builtin::Probe => Box::new(Probe::default()),
    }
}

/// Does nothing, successfully.
#[derive(Debug)]
pub struct Null;

impl Consumer for Null {
    fn run(&mut self, _job: &Job) -> Outcome {
        Outcome::Done
    }
}

/// Logs the payload at info: printable, in one line, cut at 8 KiB.
#[derive(Debug)]
pub struct Echo;

impl Consumer for Echo {
    fn run(&mut self, job: &Job) -> Outcome {
        log::info!(
            "echo key={} line={}",
            job.key(),
            output::printable(&job.payload)
        );
        Outcome::Done
    }
}

/// Does what the payload says, for tests: commands joined with `;`, run in order until one does not succeed.
///
/// | command | does |
/// |---|---|
/// | `append PATH TEXT` | appends `TEXT` and a newline to the file with one write |
/// | `sleep MS`, `spin MS` | waits; computes |
/// | `fail REASON`, `bury REASON` | that outcome |
/// | `retry MS REASON` | that outcome |
/// | `panic` | panics |
/// | `exit STATUS` | ends the process |
/// | `kill SIGNAL` | sends the process a signal, e.g. `SIGKILL` |
/// | `allocate MB` | takes memory and keeps it |
#[derive(Debug, Default)]
pub struct Probe {
    held: Vec<Vec<u8>>,
}

impl Consumer for Probe {
    fn run(&mut self, job: &Job) -> Outcome {
        let Ok(text) = std::str::from_utf8(&job.payload) else {
            return Outcome::Failed("cannot read payload: not UTF-8".into());
        };
        text.split(';')
            .map(|command| self.obey(command.trim()))
            .find(|outcome| *outcome != Outcome::Done)
            .unwrap_or(Outcome::Done)
    }
}

impl Probe {
    fn obey(&mut self, command: &str) -> Outcome {
        self.attempt(command).unwrap_or_else(|cause| {
            Outcome::Failed(format!("cannot obey {}: {cause}", quoted(command)))
        })
    }

    fn attempt(&mut self, command: &str) -> Result<Outcome, String> {
        let (verb, rest) = command.split_once(' ').unwrap_or((command, ""));
        match verb {
            "append" => append(rest)?,
            "sleep" => std::thread::sleep(milliseconds(rest)?),
            "spin" => spin(milliseconds(rest)?),
            "fail" => return Ok(Outcome::Failed(rest.into())),
            "bury" => return Ok(Outcome::Bury(rest.into())),
            "retry" => {
                let (after, reason) = rest.split_once(' ').unwrap_or((rest, ""));
                return Ok(Outcome::Retry {
                    after: milliseconds(after)?,
                    reason: reason.into(),
                });
            }
            "panic" => panic!("the payload asked for it"),
            "exit" => std::process::exit(number(rest)?),
            "kill" => kill(Pid::this(), signal(rest)?).map_err(|error| error.to_string())?,
            "allocate" => self.allocate(number(rest)?),
            _ => return Err("unknown command".into()),
        }
        Ok(Outcome::Done)
    }

    /// Every byte is written, or the kernel would not hand out the pages.
    fn allocate(&mut self, megabytes: usize) {
        self.held.push(vec![1; megabytes << 20]);
    }
}

fn append(rest: &str) -> Result<(), String> {
    let (path, text) = rest.split_once(' ').ok_or("PATH and TEXT are needed")?;
    OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .and_then(|mut file| file.write_all(format!("{text}\n").as_bytes()))
        .map_err(|error| error.to_string())
}

fn spin(length: Duration) {
    let begin = Instant::now();
    while begin.elapsed() < length {
        std::hint::spin_loop();
    }
}

fn milliseconds(text: &str) -> Result<Duration, String> {
    number(text).map(Duration::from_millis)
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse()
        .map_err(|_| format!("{} is no fitting number", quoted(text)))
}

fn signal(text: &str) -> Result<Signal, String> {
    text.parse()
        .map_err(|_| format!("{} is no signal", quoted(text)))
}

fn quoted(text: &str) -> String {
    format!("`{}`", text.chars().take(80).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::super::run;
    use super::*;

    fn job(payload: impl Into<Vec<u8>>) -> Job {
        Job::by_hand("q", payload.into())
    }

    #[test]
    fn null_and_echo_finish_whatever_they_get() {
        for which in [Builtin::Null, Builtin::Echo] {
            let mut consumer = builtin(which);
            assert_eq!(run(&mut *consumer, &job(b"\0\r\n\xff")), Outcome::Done);
        }
    }

    #[test]
    fn probe_runs_its_commands_in_order_until_one_does_not_succeed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ran");
        let path = path.to_str().unwrap();
        let mut probe = Probe::default();
        let payload =
            format!("append {path} one; append {path} two three;fail no more; append {path} never");
        assert_eq!(probe.run(&job(payload)), Outcome::Failed("no more".into()));
        assert_eq!(std::fs::read_to_string(path).unwrap(), "one\ntwo three\n");
    }

    #[test]
    fn probe_knows_every_outcome() {
        let mut probe = Probe::default();
        assert_eq!(probe.run(&job("spin 1;sleep 1; allocate 2")), Outcome::Done);
        assert_eq!(probe.held[0].len(), 2 << 20);
        assert_eq!(
            probe.run(&job("retry 1500 busy now")),
            Outcome::Retry {
                after: Duration::from_millis(1500),
                reason: "busy now".into()
            }
        );
        assert_eq!(probe.run(&job("bury it")), Outcome::Bury("it".into()));
        assert_eq!(
            run(&mut probe, &job("panic")),
            Outcome::Failed("panicked: the payload asked for it".into())
        );
    }

    #[test]
    fn probe_refuses_what_it_does_not_understand() {
        let mut probe = Probe::default();
        for payload in [
            "",
            "dance",
            "sleep",
            "sleep -1",
            "kill SIGNOTHING",
            "append x",
            "exit x",
        ] {
            let Outcome::Failed(reason) = probe.run(&job(payload)) else {
                panic!("{payload} is refused");
            };
            assert!(reason.starts_with("cannot obey `"), "{reason}");
        }
        let Outcome::Failed(reason) = probe.run(&job(b"\xff".as_slice())) else {
            panic!("bytes are refused");
        };
        assert_eq!(reason, "cannot read payload: not UTF-8");
    }
}

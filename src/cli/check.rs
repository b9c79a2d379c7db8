//! `stark --check`: the settings were read; now the script's syntax and the queue. Starts nothing, runs no user code.

use std::process::{Command, Stdio};

use super::answer::{Answer, print, warn};
use crate::config::{self, Config, Pool, Program};
use crate::daemon::{Failure, status};
use crate::queue;

/// Tells every mistake; prints a line for each queue that will do, and one at the end when everything will.
pub fn check(config: &Config) -> Result<Answer, Failure> {
    let mut mistakes = scripts(config);
    for settings in config.pools.iter().filter_map(|pool| pool.queue.as_ref()) {
        match queue(settings) {
            Ok(Some(version)) => print(format_args!(
                "queue: redis {version} at {}, key {}\n",
                settings.address,
                settings.keys.join(" ")
            ))?,
            Ok(None) => {}
            Err(mistake) => mistakes.push(mistake),
        }
    }
    refuse(&mistakes)?;
    print(format_args!("{}: ok\n", config.file.display()))?;
    Ok(Answer::silent(0))
}

/// What [`check`] finds, without a word when there is nothing to say.
pub fn check_quietly(config: &Config) -> Result<(), Failure> {
    let mut mistakes = scripts(config);
    let queues = config.pools.iter().filter_map(|pool| pool.queue.as_ref());
    mistakes.extend(queues.filter_map(|settings| queue(settings).err()));
    refuse(&mistakes)
}

fn refuse(mistakes: &[String]) -> Result<(), Failure> {
    match mistakes {
        [] => Ok(()),
        _ => Err(Failure::new(status::UNAVAILABLE, mistakes.join("\n"))),
    }
}

fn scripts(config: &Config) -> Vec<String> {
    let pools = config.pools.iter();
    pools.filter_map(|pool| script(pool).err()).collect()
}

/// The server's version; none when it is away, which is no mistake of the settings: the daemon would start and wait.
fn queue(settings: &config::Queue) -> Result<Option<String>, String> {
    match queue::check(settings) {
        Ok(checked) => {
            checked.warning.iter().for_each(warn);
            Ok(Some(checked.version))
        }
        Err(queue::QueueError::Unavailable(why)) => {
            warn(format_args!("{why}; workers would wait for it"));
            Ok(None)
        }
        Err(err) => Err(err.to_string()),
    }
}

/// The interpreter's own check, which loads and runs nothing.
fn script(pool: &Pool) -> Result<(), String> {
    let Program::Script { file, interpreter } = &pool.run.program else {
        return Ok(());
    };
    let Some((program, arguments)) = interpreter.split_first() else {
        return Ok(());
    };
    let output = Command::new(program)
        .args(arguments)
        .args(["-d", "display_errors=stderr", "-d", "log_errors=0", "-l"])
        .arg(file)
        .current_dir(&pool.run.directory)
        .stdin(Stdio::null())
        .output()
        .map_err(|err| format!("cannot run {program}: {err}"))?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let words = words
        .lines()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("syntax error");
    Err(format!("cannot use {}: {words}", file.display()))
}

//! `stark --check`: the settings were read; now the script's syntax and the queue. Starts nothing, runs no user code.

use std::process::{Command, Stdio};

use super::{print, warn};
use crate::config::{Config, Pool, Program};
use crate::daemon::{Failure, status};
use crate::queue;

/// Tells every mistake; prints a line when there is none.
pub fn check(config: &Config) -> Result<u8, Failure> {
    let mut mistakes = Vec::new();
    for pool in &config.pools {
        mistakes.extend(script(pool).err());
        if let Some(settings) = &pool.queue {
            match queue::check(settings) {
                Ok(checked) => {
                    checked.warning.iter().for_each(warn);
                    print(format_args!(
                        "queue: redis {} at {}, key {}\n",
                        checked.version,
                        settings.address,
                        settings.keys.join(" ")
                    ))?;
                }
                // Its absence is no mistake of the settings: the daemon would start and wait.
                Err(queue::QueueError::Unavailable(why)) => {
                    warn(format!("{why}; workers would wait for it"))
                }
                Err(err) => mistakes.push(err.to_string()),
            }
        }
    }
    if !mistakes.is_empty() {
        return Err(Failure::new(status::UNAVAILABLE, mistakes.join("\n")));
    }
    print(format_args!("{}: ok\n", config.file.display()))?;
    Ok(0)
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

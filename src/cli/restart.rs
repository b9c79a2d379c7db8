//! `stark restart`: another daemon with the settings as they are now. What would refuse its start refuses the restart
//! first, so that the old one goes on; what only running the script can show is seen when the old one is gone.

use std::fs;
use std::mem::ManuallyDrop;

use serde_json::json;

use super::answer::Answer;
use super::{check, running, start, stop};
use crate::config::Config;
use crate::daemon::background::Side;
use crate::daemon::pidfile::{self, Pidfile};
use crate::daemon::{self, Failure, Files, status};
use crate::sys::process::Stat;

/// Stops the daemon if it runs, and starts it.
pub fn restart(config: &Config) -> Result<Answer, Failure> {
    let name = &config.main.name;
    let old = running::pid(config)?;
    if let Some(pid) = old {
        refuse_in_foreground(pid)?;
    }
    try_settings(config)?;
    // The daemon's side of the fork closes what it inherits: nothing there may close this a second time.
    let turn = ManuallyDrop::new(take_turn(config)?);
    let stopped = old.map_or(Ok(()), |pid| stop::stop_process(config, pid));
    let started = match stopped.and_then(|()| start::fork()) {
        Ok(Side::Daemon(readiness)) => return start::daemon(config, readiness),
        Ok(Side::Command(answer)) => answer.wait(),
        Err(err) => Err(err),
    };
    let pid = running::pid(config).ok().flatten();
    ManuallyDrop::into_inner(turn).remove();
    started?;
    let text = match old {
        Some(_) => String::new(),
        None => format!("{name}: was not running, started\n"),
    };
    let json = json!({ "name": name, "state": "running", "pid": pid, "old_pid": old });
    Ok(Answer::new(text, json))
}

/// A daemon in the foreground belongs to whoever started it and waits for it: systemd, a container, a terminal. One in
/// the background in its place would leave their hands.
fn refuse_in_foreground(pid: i32) -> Result<(), Failure> {
    if !is_in_foreground(pid) {
        return Ok(());
    }
    let cure = match unit(pid) {
        Some(unit) => format!("systemctl restart {unit}"),
        None => "restart it where it was started, or stop it and start it".into(),
    };
    Err(Failure::new(
        status::FAILED,
        format!("cannot restart pid {pid}: it runs in the foreground; {cure}"),
    ))
}

/// Going into the background means a session whose leader has ended, and whose number the kernel gives to nobody else.
fn is_in_foreground(pid: i32) -> bool {
    match session(pid) {
        // A leader outside of this container has no number here.
        Some(0) => true,
        // A zombie has ended.
        Some(leader) => Stat::of(leader).is_some_and(|stat| stat.field(3) != Some('Z')),
        None => false,
    }
}

fn session(pid: i32) -> Option<i32> {
    Stat::of(pid)?.field(6)
}

/// The service of systemd that a process belongs to.
fn unit(pid: i32) -> Option<String> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let mut last_parts = groups.lines().filter_map(|line| line.rsplit('/').next());
    last_parts
        .find(|part| part.ends_with(".service"))
        .map(String::from)
}

/// Whatever can be tried while the old daemon goes on.
fn try_settings(config: &Config) -> Result<(), Failure> {
    check::check_quietly(config)?;
    daemon::rehearse(&config.main)?;
    // A port that stays the same is held by the old daemon.
    let is_other_port = running::port(config) != Some(config.main.port);
    if is_other_port && running::pid(config)?.is_some() {
        daemon::bind(&config.main)?;
    }
    Ok(())
}

/// Of two restarts at once the second would stop what the first has just started.
fn take_turn(config: &Config) -> Result<Pidfile, Failure> {
    let name = &config.main.name;
    let path = Files::of(&config.main).run.join(format!("{name}.restart"));
    Pidfile::lock(&path).map_err(|err| match (err.status, pidfile::holder(&path)) {
        (status::ALREADY_RUNNING, Ok(Some(pid))) => Failure::new(
            status::ALREADY_RUNNING,
            format!("cannot restart {name}: another restart is under way, pid {pid}"),
        ),
        _ => err,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_session_leader_is_in_the_foreground_and_a_process_without_end_is_not() {
        let leader = session(std::process::id() as i32).unwrap();
        if leader != 0 && Stat::of(leader).is_some() {
            assert!(is_in_foreground(leader));
        }
        assert!(!is_in_foreground(i32::MAX));
    }
}

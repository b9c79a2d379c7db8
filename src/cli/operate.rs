//! Commands to a running daemon, through its admin port.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};

use super::client::{self, Client};
use super::{print, printed};
use crate::config::Config;
use crate::daemon::{Failure, Files, pidfile, status};
use crate::resp::Reply;
use crate::sys::process;
use crate::worker::control::round_up;

/// For connecting, and for the reply.
const TIMEOUT: Duration = Duration::from_secs(5);

/// `stark info [SECTION...]`.
pub fn info(config: &Config, sections: &[String]) -> Result<u8, Failure> {
    let words: Vec<&str> = ["INFO"]
        .into_iter()
        .chain(sections.iter().map(String::as_str))
        .collect();
    print_reply(config, &words)
}

/// `stark ping`.
pub fn ping(config: &Config) -> Result<u8, Failure> {
    print_reply(config, &["PING"])
}

/// `stark shutdown [now]`.
pub fn shutdown(config: &Config, is_now: bool) -> Result<u8, Failure> {
    print_reply(
        config,
        if is_now {
            &["SHUTDOWN", "NOW"]
        } else {
            &["SHUTDOWN"]
        },
    )
}

/// `stark status`: from the pidfile's lock, so that it tells the truth also when the admin port does not answer.
pub fn status(config: &Config) -> Result<u8, Failure> {
    let name = &config.main.name;
    let Some(pid) = pidfile::holder(&config.main.pid_file) else {
        print(format_args!("{name}: not running\n"))?;
        return Ok(status::NOT_RUNNING);
    };
    let info = match ask(config, &["INFO"]) {
        Ok(Reply::Bulk(info)) => String::from_utf8_lossy(&info).into_owned(),
        Ok(_) => {
            return Err(Failure::new(
                status::FAILED,
                format!("{name}: running, pid {pid}, but it tells nothing"),
            ));
        }
        Err(err) => {
            return Err(Failure::new(
                status::FAILED,
                format!("{name}: running, pid {pid}, but {err}"),
            ));
        }
    };
    let field = |name: &str| {
        let line = info
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map_or_else(|| "?".into(), |value| value.trim().to_string())
    };
    print(format_args!(
        "{name}: {} for {}, pid {pid}, port {}, {} of {} workers alive, {} busy, {} runs, {} failed\n",
        field("state"),
        field("uptime_human"),
        port(config)?,
        field("worker_alive"),
        field("worker_max"),
        field("worker_busy"),
        field("run_count"),
        field("run_failures"),
    ))?;
    Ok(0)
}

/// `stark stop`: returns when the process has ended, which is a moment after its pidfile is gone.
pub fn stop(config: &Config) -> Result<u8, Failure> {
    let name = &config.main.name;
    let Some(pid) = pidfile::holder(&config.main.pid_file) else {
        print(format_args!("{name}: not running\n"))?;
        return Ok(0);
    };
    let cannot =
        |status, why: String| Failure::new(status, format!("cannot stop pid {pid}: {why}"));
    let ended = match process::watch(pid) {
        Ok(ended) => ended,
        // It has ended since we asked who holds the lock.
        Err(err) if err.raw_os_error() == Some(libc::ESRCH) => return Ok(0),
        Err(err) => return Err(cannot(status::FAILED, err.to_string())),
    };
    ask(config, &["SHUTDOWN"]).map_err(|err| cannot(err.status, err.to_string()))?;
    // Jobs in hand, then SIGTERM, then SIGKILL, then the keeper: the daemon's own limits, and a little more.
    let limit = config.main.shutdown_timeout + Duration::from_secs(20);
    let deadline = Instant::now() + limit;
    let mut fds = [PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
    while fds[0].any() != Some(true) {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let why = format!("still running after {} s", limit.as_secs());
            return Err(cannot(status::FAILED, why));
        }
        // An interrupted wait is begun again.
        let _ = poll(&mut fds, round_up(left));
    }
    Ok(0)
}

fn print_reply(config: &Config, words: &[&str]) -> Result<u8, Failure> {
    let reply = ask(config, words)?;
    if let Reply::Error(err) = &reply {
        return Err(Failure::new(
            status::FAILED,
            format!("the daemon says: {err}"),
        ));
    }
    printed(client::print(&reply, &mut std::io::stdout().lock()))?;
    Ok(0)
}

fn ask(config: &Config, words: &[&str]) -> Result<Reply, Failure> {
    let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    let connected = Client::connect(&config.main.host, port(config)?, TIMEOUT);
    let reply = connected.and_then(|mut client| client.ask(&words));
    reply.map_err(|err| Failure::new(status::FAILED, err.to_string()))
}

/// The port in the settings, or the one that the kernel chose for a daemon with port 0.
fn port(config: &Config) -> Result<u16, Failure> {
    if config.main.port != 0 {
        return Ok(config.main.port);
    }
    let file = Files::of(&config.main).port();
    let chosen = std::fs::read_to_string(&file)
        .ok()
        .and_then(|text| text.trim().parse().ok());
    chosen.ok_or_else(|| {
        let message = format!(
            "cannot reach the daemon: main.port is 0 and there is no {}",
            file.display()
        );
        Failure::new(status::FAILED, message)
    })
}

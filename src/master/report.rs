//! The supervisor's facts as log lines, one per transition; but many recycles of a slot are one line.

use std::fmt;
use std::time::Instant;

use super::recycles::{Recycles, Sum, Voice};
use crate::channel::message::RecycleReason;
use crate::supervisor::{Ending, Exit, Fact, KillReason};

/// How a slot is named in log lines: `pool=mail slot=0`, and who sits there.
#[derive(Clone, Debug)]
pub struct Name {
    /// `worker` or `keeper`.
    pub role: &'static str,
    /// ` pool=mail slot=0`, or nothing.
    pub place: String,
}

/// Writes lines, and counts what is told in sums.
#[derive(Debug, Default)]
pub struct Reporter {
    recycles: Recycles,
}

impl Reporter {
    /// Writes the line of a fact, or counts it.
    pub fn report(&mut self, fact: &Fact, now: Instant, name: impl Fn(usize) -> Name) {
        let voice = match fact {
            Fact::Ready { slot, .. } => self.recycles.ready(*slot),
            Fact::Exited { slot, ending, .. } => {
                let why = recycled(*ending).filter(|_| name(*slot).role == "worker");
                match why {
                    Some(why) => self.recycles.recycled(*slot, why, now),
                    None => {
                        say(self.recycles.interrupt(*slot, now), &name);
                        Voice::Info
                    }
                }
            }
            Fact::ConsumerFailed { .. }
            | Fact::StartRefused { .. }
            | Fact::SpawnRefused { .. }
            | Fact::Paused { .. }
            | Fact::ReloadFinished
            | Fact::ReloadStopped { .. } => Voice::Info,
        };
        write(fact, voice, name);
    }

    /// Writes the sums whose time has come.
    pub fn report_due(&mut self, now: Instant, name: impl Fn(usize) -> Name) {
        say(self.recycles.due(now), name);
    }

    /// Writes what was counted and not told yet.
    pub fn report_rest(&mut self, now: Instant, name: impl Fn(usize) -> Name) {
        say(self.recycles.rest(now), name);
    }
}

/// Why this end was a recycling, if it was one.
fn recycled(ending: Ending) -> Option<RecycleReason> {
    match ending {
        Ending::Recycled(why) => Some(why),
        // It gave no reason, so each is told, and its successors back off.
        Ending::Left | Ending::Stopped | Ending::Failed | Ending::Killed(_) | Ending::Crashed => {
            None
        }
    }
}

fn say(sums: impl IntoIterator<Item = Sum>, name: impl Fn(usize) -> Name) {
    for sum in sums {
        let line = format!(
            "workers recycled{} times={} reasons={} within_ms={}",
            name(sum.slot).place,
            sum.times(),
            sum.reasons(),
            sum.within.as_millis()
        );
        if let Some(level) = level(sum.voice()) {
            log::log!(level, "{line}");
        }
    }
}

fn level(voice: Voice) -> Option<log::Level> {
    match voice {
        Voice::Info => Some(log::Level::Info),
        Voice::Debug => Some(log::Level::Debug),
        Voice::Silent => None,
    }
}

/// Writes the line of a fact. The voice is for what comes with every recycling; the rest has its own level.
fn write(fact: &Fact, voice: Voice, name: impl Fn(usize) -> Name) {
    match fact {
        Fact::Ready {
            slot,
            pid,
            generation,
            start,
        } => {
            let Name { role, place } = name(*slot);
            if let Some(level) = level(voice) {
                log::log!(
                    level,
                    "{role} ready{place} pid={pid} gen={generation} start_ms={}",
                    start.as_millis()
                );
            }
        }
        Fact::Exited {
            slot,
            pid,
            generation,
            exit,
            ending,
        } => {
            let Name { role, place } = name(*slot);
            let level = if ending.is_planned() {
                level(voice)
            } else {
                Some(log::Level::Warn)
            };
            if let Some(level) = level {
                log::log!(
                    level,
                    "{role} exited{place} pid={pid} gen={generation} {} {}",
                    How(*exit),
                    Why(*ending, *exit)
                );
            }
        }
        Fact::ConsumerFailed {
            slot,
            pid,
            generation,
            message,
            retry_in,
        } => {
            let place = name(*slot).place;
            let retry_ms = retry_in.as_millis();
            log::error!(
                "cannot start consumer{place} pid={pid} gen={generation} retry_ms={retry_ms} err={message:?}"
            );
        }
        Fact::StartRefused { slot, message } => {
            log::error!("start refused{} err={message:?}", name(*slot).place);
        }
        Fact::SpawnRefused {
            slot,
            generation,
            error,
            retry_in,
        } => {
            let Name { role, place } = name(*slot);
            log::error!(
                "cannot fork {role}{place} gen={generation} err={error:?} retry_ms={}",
                retry_in.as_millis()
            );
        }
        Fact::Paused { pause } => {
            log::warn!(
                "master was stopped, heartbeats forgiven paused_ms={}",
                pause.as_millis()
            );
        }
        Fact::ReloadFinished => log::info!("reload finished"),
        Fact::ReloadStopped { slot } => {
            log::error!(
                "reload stopped, its first successor is not ready; the other workers stay{}",
                name(*slot).place
            );
        }
    }
}

/// Writes the line of a kill: what was measured beside its limit.
pub fn report_kill(name: &Name, pid: i32, why: KillReason) {
    let Name { role, place } = name;
    let reason = why.name();
    let numbers = match why {
        KillReason::StartTimeout { after, limit }
        | KillReason::ShutdownTimeout { after, limit } => {
            format!(
                " after_ms={} limit_ms={}",
                after.as_millis(),
                limit.as_millis()
            )
        }
        KillReason::Heartbeat { silent, limit } => {
            format!(
                " silent_ms={} limit_ms={}",
                silent.as_millis(),
                limit.as_millis()
            )
        }
        KillReason::Memory {
            rss_bytes,
            limit_bytes,
        } => format!(" rss_bytes={rss_bytes} limit_bytes={limit_bytes}"),
        KillReason::ShutdownNow => String::new(),
        KillReason::Holder { waited, limit } => {
            format!(
                " waited_ms={} limit_ms={}",
                waited.as_millis(),
                limit.as_millis()
            )
        }
    };
    log::warn!("{role} killed{place} pid={pid} reason={reason}{numbers}");
}

struct How(Exit);

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Exit::Status(status) => write!(f, "status={status}"),
            Exit::Signal(signal) => match nix::sys::signal::Signal::try_from(signal) {
                Ok(known) => write!(f, "signal={}", known.as_str()),
                Err(_) => write!(f, "signal={signal}"),
            },
        }
    }
}

struct Why(Ending, Exit);

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Ending::Recycled(reason) => write!(f, "reason={}", reason.name()),
            Ending::Left => write!(f, "reason=left"),
            Ending::Stopped => write!(f, "reason=stop"),
            Ending::Failed => write!(f, "reason=cannot_start"),
            Ending::Killed(why) => write!(f, "reason={} sent_by_us=true", why.name()),
            Ending::Crashed if self.1 == Exit::Signal(libc::SIGKILL) => {
                write!(f, "reason=crash sent_by_us=false hint=out-of-memory?")
            }
            Ending::Crashed => write!(f, "reason=crash"),
        }
    }
}

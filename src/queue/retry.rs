//! What becomes of a job that was not done: it runs again later, goes back to the head with a mark, or is buried. The
//! limits are `[retry]`'s; the store moves the job by one of the scripts. Pure: time and chance are arguments.

use std::borrow::Cow;
use std::time::Duration;

use super::header::Header;
use crate::config::Retry;
use crate::jitter::Jitter;

/// The reason of a failure of which a dead worker's record tells only that there was one.
pub const LOST_REASON: &str = "failed, and its reason was lost with the worker";

/// How a run ended that did not do its job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It failed, with this reason.
    Failed(String),
    /// It asked to be run again. This is a run like any other and counts against the limit.
    Retry {
        /// Not before this has passed; none: after the usual backoff.
        after: Option<Duration>,
        /// In one line.
        reason: String,
    },
    /// It asked to be set aside for good.
    Bury(String),
    /// It took its worker or script along. This counts as a crash and not as a run.
    Crashed(String),
}

/// Where a job goes, and what it is there: its history and its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// To the delayed jobs.
    Later {
        /// Counted from when the store hears of it, by the store's clock.
        delay_ms: u64,
        /// What lies there.
        entry: Vec<u8>,
    },
    /// To the dead ones.
    Dead {
        /// What lies there.
        entry: Vec<u8>,
    },
    /// Back to the head of its queue, before those behind it: it has not ended.
    Head {
        /// What lies there.
        entry: Vec<u8>,
    },
}

/// Decides over a job; `header` is what it had, `now_ms` the time since 1970, `node` where this happened.
pub fn fate(
    retry: &Retry,
    (header, payload): (Header, &[u8]),
    verdict: Verdict,
    now_ms: u64,
    node: &str,
    jitter: &mut Jitter,
) -> Fate {
    let mut next = Header {
        first: header.first.or(Some(now_ms)),
        last: Some(now_ms),
        node: Some(node.to_owned()),
        ..header
    };
    let (wanted, reason) = match verdict {
        Verdict::Crashed(reason) => {
            next.error = Some(reason);
            next.crashes = next.crashes.saturating_add(1);
            let is_over = retry
                .max_crashes
                .is_some_and(|max| next.crashes >= max.get());
            let entry = next.encode(payload);
            return match is_over {
                true => Fate::Dead { entry },
                false => Fate::Head { entry },
            };
        }
        Verdict::Failed(reason) => (None, reason),
        Verdict::Retry { after, reason } => (after, reason),
        Verdict::Bury(reason) => {
            next.error = Some(reason);
            let entry = next.encode(payload);
            return Fate::Dead { entry };
        }
    };
    next.error = Some(reason);
    if retry
        .max_attempts
        .is_some_and(|max| next.attempt >= max.get())
    {
        let entry = next.encode(payload);
        return Fate::Dead { entry };
    }
    let delay = wanted.unwrap_or_else(|| jitter.half_to_full(backoff(retry, next.attempt)));
    next.attempt = next.attempt.saturating_add(1);
    Fate::Later {
        delay_ms: milliseconds(delay),
        entry: next.encode(payload),
    }
}

/// The longest pause after this run, counted from 1.
fn backoff(retry: &Retry, run: u32) -> Duration {
    let doublings = run.saturating_sub(1).min(31);
    retry
        .backoff
        .saturating_mul(1 << doublings)
        .min(retry.backoff_max)
}

/// What the scripts are told of the fates, as `fates.lua` has it; nothing if there are none.
pub(super) fn in_words<'a>(retry: &Retry, fates: &'a [Fate]) -> Vec<Cow<'a, [u8]>> {
    if fates.is_empty() {
        return Vec::new();
    }
    let number = |number: u64| Cow::Owned(number.to_string().into_bytes());
    let kept_ms = retry.dead_for.map_or(0, milliseconds);
    let mut words = vec![number(retry.dead_max), number(kept_ms)];
    for fate in fates {
        let (place, entry) = match fate {
            Fate::Later { delay_ms, entry } => (number(*delay_ms), entry),
            Fate::Dead { entry } => (Cow::Borrowed(&b"dead"[..]), entry),
            Fate::Head { entry } => (Cow::Borrowed(&b"head"[..]), entry),
        };
        words.extend([place, Cow::Borrowed(entry.as_slice())]);
    }
    words
}

/// Ten years at most, which any clock and score can bear.
pub(super) fn milliseconds(delay: Duration) -> u64 {
    delay.min(crate::config::units::LONGEST).as_millis() as u64
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    const NOW: u64 = 1_700_000_000_000;

    fn limits(attempts: u32, crashes: u32) -> Retry {
        Retry {
            max_attempts: NonZeroU32::new(attempts),
            max_crashes: NonZeroU32::new(crashes),
            ..Retry::default()
        }
    }

    fn decide(retry: &Retry, header: Header, verdict: Verdict) -> Fate {
        fate(
            retry,
            (header, b"payload"),
            verdict,
            NOW,
            "n1",
            &mut Jitter::new(1),
        )
    }

    fn failed() -> Verdict {
        Verdict::Failed("no route".into())
    }

    fn crashed() -> Verdict {
        Verdict::Crashed("SIGSEGV".into())
    }

    fn after(seconds: u64) -> Verdict {
        Verdict::Retry {
            after: Some(Duration::from_secs(seconds)),
            reason: "rate limit".into(),
        }
    }

    /// The header of what lies wherever it goes.
    fn history(fate: &Fate) -> Header {
        let (Fate::Later { entry, .. } | Fate::Dead { entry } | Fate::Head { entry }) = fate;
        let (header, start) = Header::parse(entry).expect("a header");
        assert_eq!(&entry[start..], b"payload");
        header
    }

    #[test]
    fn a_job_fails_as_often_as_it_may_and_is_buried_with_its_last_reason() {
        let retry = limits(3, 3);
        let first = decide(&retry, Header::new("x".into()), failed());
        assert!(
            matches!(
                first,
                Fate::Later {
                    delay_ms: 2500..=5000,
                    ..
                }
            ),
            "{first:?}"
        );
        let header = history(&first);
        assert_eq!((header.attempt, header.crashes), (2, 0));
        assert_eq!((header.first, header.last), (Some(NOW), Some(NOW)));
        assert_eq!(header.error.as_deref(), Some("no route"));
        assert_eq!(header.node.as_deref(), Some("n1"));
        // Asking for a run is a run, too.
        let second = decide(
            &retry,
            Header {
                first: Some(1),
                ..header
            },
            after(7),
        );
        assert!(
            matches!(second, Fate::Later { delay_ms: 7000, .. }),
            "{second:?}"
        );
        let third = decide(&retry, history(&second), after(7));
        assert!(matches!(third, Fate::Dead { .. }), "{third:?}");
        let header = history(&third);
        assert_eq!((header.attempt, header.first), (3, Some(1)), "three runs");
        assert_eq!(header.error.as_deref(), Some("rate limit"));
    }

    #[test]
    fn pauses_double_up_to_the_maximum_and_are_drawn_from_their_upper_half() {
        let retry = limits(0, 0);
        for (attempt, full) in [
            (1, 5),
            (2, 10),
            (3, 20),
            (10, 2560),
            (11, 3600),
            (1_000_000, 3600),
        ] {
            for seed in 0..50 {
                let header = Header {
                    attempt,
                    ..Header::new("x".into())
                };
                let mut jitter = Jitter::new(seed);
                let fate = fate(&retry, (header, b""), failed(), NOW, "n", &mut jitter);
                let Fate::Later { delay_ms, entry } = fate else {
                    panic!("{fate:?}")
                };
                assert!(
                    (full * 500..=full * 1000).contains(&delay_ms),
                    "{attempt}: {delay_ms}"
                );
                assert!(Header::parse(&entry).is_some(), "counts have an end");
            }
        }
        let at_once = Retry {
            backoff: Duration::ZERO,
            ..limits(9, 9)
        };
        let fate = decide(&at_once, Header::new("x".into()), failed());
        assert!(matches!(fate, Fate::Later { delay_ms: 0, .. }));
        let for_ever = Verdict::Retry {
            after: Some(Duration::MAX),
            reason: String::new(),
        };
        let fate = decide(&retry, Header::new("x".into()), for_ever);
        assert!(
            matches!(
                fate,
                Fate::Later {
                    delay_ms: 315_360_000_000,
                    ..
                }
            ),
            "{fate:?}"
        );
    }

    #[test]
    fn a_request_whose_delay_was_lost_waits_as_a_failure_does() {
        let verdict = Verdict::Retry {
            after: None,
            reason: LOST_REASON.into(),
        };
        let fate = decide(&limits(3, 3), Header::new("x".into()), verdict);
        assert!(
            matches!(
                fate,
                Fate::Later {
                    delay_ms: 2500..=5000,
                    ..
                }
            ),
            "{fate:?}"
        );
    }

    #[test]
    fn a_crash_is_marked_at_the_head_until_there_were_too_many() {
        let retry = limits(1, 3);
        let mut header = Header {
            attempt: 2,
            ..Header::new("x".into())
        };
        for crashes in 1..3 {
            let fate = decide(&retry, header, crashed());
            assert!(matches!(fate, Fate::Head { .. }), "{fate:?}");
            header = history(&fate);
            assert_eq!((header.attempt, header.crashes), (2, crashes));
            assert_eq!(header.error.as_deref(), Some("SIGSEGV"));
        }
        let fate = decide(&retry, header, crashed());
        assert!(matches!(fate, Fate::Dead { .. }), "{fate:?}");
        assert_eq!(history(&fate).crashes, 3);
    }

    #[test]
    fn without_limits_nothing_is_buried_but_what_asks_for_it() {
        let retry = limits(0, 0);
        let old = Header {
            attempt: 999_999,
            crashes: 999_999,
            ..Header::new("x".into())
        };
        assert!(matches!(
            decide(&retry, old.clone(), failed()),
            Fate::Later { .. }
        ));
        assert!(matches!(
            decide(&retry, old.clone(), after(1)),
            Fate::Later { .. }
        ));
        assert!(matches!(decide(&retry, old, crashed()), Fate::Head { .. }));
        let bury = decide(
            &retry,
            Header::new("x".into()),
            Verdict::Bury("bad address".into()),
        );
        assert!(matches!(bury, Fate::Dead { .. }), "{bury:?}");
        assert_eq!(history(&bury).error.as_deref(), Some("bad address"));
        let one = decide(&limits(1, 1), Header::new("x".into()), crashed());
        assert!(matches!(one, Fate::Dead { .. }), "{one:?}");
    }
}

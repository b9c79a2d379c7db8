//! What becomes of a job after its run: the outcome as a mark for the scoreboard, a line for the log, and a fate for the
//! store. How often a job may fail is the queue's policy.

use super::life::Birth;
use crate::config::{Delivery, Retry};
use crate::consumer::Outcome;
use crate::jitter::Jitter;
use crate::queue::{Fate, Job, Settled, Verdict, fate};
use crate::scoreboard::progress::Mark;
use crate::sys::clock;

/// Judges the runs of one worker.
pub struct Judge<'a> {
    birth: &'a Birth<'a>,
    /// None: a job that was not done is gone, since it is in no list any more.
    retry: Option<&'a Retry>,
    jitter: Jitter,
}

impl<'a> Judge<'a> {
    /// Of the worker with this birth. `seed` differs from worker to worker, so that jobs that failed together do not come
    /// back together.
    pub fn new(birth: &'a Birth<'a>, seed: u64) -> Self {
        let queue = birth.pool.queue.as_ref();
        let queue = queue.filter(|queue| queue.delivery == Delivery::AtLeastOnce);
        Self {
            birth,
            retry: queue.map(|queue| &queue.retry),
            jitter: Jitter::new(seed),
        }
    }

    /// A job has ended; adds it to what has ended of its reservation.
    pub fn ended(&mut self, job: &Job, outcome: Outcome, settled: &mut Settled) -> Mark {
        let (mark, verdict) = match outcome {
            Outcome::Done => {
                settled.done += 1;
                return Mark::Done;
            }
            Outcome::Failed(reason) => (Mark::Failed, Verdict::Failed(reason)),
            Outcome::Retry { after, reason } => (
                Mark::Retry,
                Verdict::Retry {
                    after: Some(after),
                    reason,
                },
            ),
            Outcome::Bury(reason) => (Mark::Bury, Verdict::Bury(reason)),
        };
        self.add(job, verdict, settled);
        mark
    }

    /// A job took the consumer along. True: that was once too often, and it has ended; else it goes back to the head.
    pub fn crashed(&mut self, job: &Job, how: &str, settled: &mut Settled) -> bool {
        let before = settled.ended();
        self.add(job, Verdict::Crashed(how.to_owned()), settled);
        settled.ended() > before
    }

    fn add(&mut self, job: &Job, verdict: Verdict, settled: &mut Settled) {
        let reason = reason(&verdict).to_owned();
        let named = format!(
            "{} id={} attempt={}",
            self.birth.label(),
            job.id(),
            job.attempt()
        );
        let Some(retry) = self.retry else {
            log::warn!("job failed {named} reason={reason:?}");
            settled.failed += 1;
            return;
        };
        let subject = (job.header(), job.payload.as_slice());
        let node = self.birth.node;
        let fate = fate(
            retry,
            subject,
            verdict,
            clock::wall_ms(),
            node,
            &mut self.jitter,
        );
        let record = self.birth.board.record(self.birth.place);
        match &fate {
            Fate::Later { delay_ms, .. } => {
                record.count_retried();
                log::warn!("job failed {named} retry_ms={delay_ms} reason={reason:?}");
            }
            Fate::Dead { .. } => {
                record.count_buried();
                log::error!("job buried {named} reason={reason:?}");
            }
            Fate::Head { .. } => log::warn!("job crashed, it runs again {named} reason={reason:?}"),
        }
        settled.add(fate);
    }
}

fn reason(verdict: &Verdict) -> &str {
    match verdict {
        Verdict::Failed(reason)
        | Verdict::Retry { reason, .. }
        | Verdict::Bury(reason)
        | Verdict::Crashed(reason) => reason,
    }
}

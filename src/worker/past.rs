//! What a dead worker's record says of the reservation that it left, in the queue's words. For its successor, and for the
//! keeper when there is none.

use crate::queue::retry::LOST_REASON;
use crate::queue::{Past, Token, Verdict};
use crate::scoreboard::Record;
use crate::scoreboard::progress::Mark;

/// In whose words a job is told of that was in hand.
const CRASHED: &str = "worker died with the job in hand";

/// How the worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// Alone, while its daemon lived: the job that it had in hand may be the reason.
    Alone,
    /// With its daemon, or because an operator wanted it: no job is to blame.
    WithOthers,
}

/// Of the reservation with this token and so many jobs.
pub fn of(record: Record<'_>, token: &Token, jobs: usize, death: Death) -> Past {
    let ended = record.ended_of(token.nonce, token.generation, token.number, jobs);
    let verdicts = ended.marks.into_iter().filter_map(|(place, mark)| {
        let reason = LOST_REASON.to_owned();
        let verdict = match mark {
            Mark::Done => return None,
            Mark::Failed => Verdict::Failed(reason),
            Mark::Retry => Verdict::Retry {
                after: None,
                reason,
            },
            Mark::Bury => Verdict::Bury(reason),
        };
        Some((place, verdict))
    });
    Past {
        ended: ended.count,
        verdicts: verdicts.collect(),
        crashed: (ended.is_in_hand && death == Death::Alone).then(|| CRASHED.to_owned()),
    }
}

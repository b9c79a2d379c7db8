//! Ending a reserved list: what had ended is settled, the rest goes back to the head of its key's waiting list, in
//! order. A worker ends its own when it leaves; whoever holds a dead one's slot ends what that one left.

use std::sync::Arc;

use redis::{Value, cmd};

use super::connection::Connection;
use super::error::QueueError;
use super::job::{Job, Origin, Settled};
use super::keys::Keys;
use super::retry::{Fate, Verdict, fate, in_words};
use super::script::RECLAIM;
use super::token::Token;
use crate::config::Retry;
use crate::jitter::Jitter;
use crate::sys::clock;

/// A list that changes more often between a look and a script has a living worker.
pub(super) const MOST_LOOKS: usize = 10;

/// What is known of the reservation that a dead worker left. By default nothing of it was begun.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Past {
    /// Its first jobs, which have ended.
    pub ended: usize,
    /// Those of them that were not done, with their places, in order.
    pub verdicts: Vec<(usize, Verdict)>,
    /// The next job was in hand and took the worker along, in these words. None: no job was in hand, or the worker was
    /// ended from outside, with all its kin.
    pub crashed: Option<String>,
}

impl Past {
    /// What happened and is to be judged, with the places of the jobs.
    fn verdicts(self) -> impl Iterator<Item = (usize, Verdict)> {
        let crashed = self.crashed.map(Verdict::Crashed);
        let crashed = crashed.map(|verdict| (self.ended, verdict));
        self.verdicts.into_iter().chain(crashed)
    }

    /// Whether it can be that of so many jobs: a record that claims more than there is speaks of others.
    fn fits(&self, jobs: usize) -> bool {
        let places = self.verdicts.iter().map(|(place, _)| *place);
        self.ended + usize::from(self.crashed.is_some()) <= jobs
            && places.clone().is_sorted_by(|one, next| one < next)
            && places.max().is_none_or(|last| last < self.ended)
    }
}

/// What a reclaim did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reclaimed {
    /// Whose reservation it was; none for a list without token.
    pub token: Option<Token>,
    /// Jobs that had ended.
    pub ended: usize,
    /// Those of them that were put off, to run again.
    pub retried: usize,
    /// Those of them that were set aside.
    pub buried: usize,
    /// Jobs that are back at the head of the queue.
    pub given_back: usize,
}

impl Reclaimed {
    /// Of two lists of one slot together, as far as they were there.
    pub fn sum(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        match (one, other) {
            (Some(one), Some(other)) => Some(one.and(other)),
            (one, other) => one.or(other),
        }
    }

    /// At most one of the two holds jobs of a worker.
    fn and(self, other: Self) -> Self {
        let had_jobs = |one: &Self| one.given_back + one.ended > 0;
        Self {
            token: if had_jobs(&other) {
                other.token
            } else {
                self.token
            },
            ended: self.ended + other.ended,
            retried: self.retried + other.retried,
            buried: self.buried + other.buried,
            given_back: self.given_back + other.given_back,
        }
    }
}

/// A reserved list that somebody left, and all that is needed to end it.
pub(super) struct Left<'a> {
    /// Of the key of its jobs.
    pub keys: &'a Keys,
    /// Its own.
    pub name: &'a str,
    /// The pool of its slot.
    pub pool: &'a Arc<str>,
    /// The node of its daemon.
    pub node: &'a str,
    /// What jobs may do.
    pub retry: &'a Retry,
}

/// How a reserved list is to end.
pub(super) struct End<'a> {
    /// Of the list as it was seen; 0 = there is none.
    pub length: usize,
    /// Its first jobs.
    pub settled: &'a Settled,
    /// What to count as reclaimed.
    pub reclaimed: usize,
}

/// Ends the list, whatever is in it; none when there is no list. What happened to its jobs is `past`'s to say.
pub(super) fn reclaim(
    connection: &mut Connection,
    left: &Left<'_>,
    past: &dyn Fn(&Token, usize) -> Past,
    jitter: &mut Jitter,
) -> Result<Option<Reclaimed>, QueueError> {
    for _ in 0..MOST_LOOKS {
        let first = connection.first_element(left.name)?;
        // A list that changed since then has another first element or length, which the script finds.
        let Some(first) = first else {
            let nothing = End {
                length: 0,
                settled: &Settled::default(),
                reclaimed: 0,
            };
            if end(connection, left, b"", nothing)? {
                return Ok(None);
            }
            continue;
        };
        let length = connection.length(left.name)?;
        refuse_newer(left.name, &first)?;
        let token = Token::parse(&first);
        let jobs = length.saturating_sub(usize::from(token.is_some()));
        let settled = match token {
            None => Settled::default(),
            Some(token) => {
                let past = Some(past(&token, jobs)).filter(|past| past.fits(jobs));
                match judge(connection, left, token, past.unwrap_or_default(), jitter)? {
                    Some(settled) => settled,
                    None => continue,
                }
            }
        };
        let given_back = jobs - settled.ended();
        let wanted = End {
            length,
            settled: &settled,
            reclaimed: given_back,
        };
        if end(connection, left, &first, wanted)? {
            return Ok(Some(reclaimed(token, &settled, given_back)));
        }
    }
    Err(changing(left.name))
}

fn reclaimed(token: Option<Token>, settled: &Settled, given_back: usize) -> Reclaimed {
    let count = |is_it: fn(&Fate) -> bool| settled.fates.iter().filter(|fate| is_it(fate)).count();
    Reclaimed {
        token,
        ended: settled.ended(),
        retried: count(|fate| matches!(fate, Fate::Later { .. })),
        buried: count(|fate| matches!(fate, Fate::Dead { .. })),
        given_back,
    }
}

fn refuse_newer(name: &str, first: &[u8]) -> Result<(), QueueError> {
    match Token::is_newer(first) {
        true => Err(QueueError::Refused(format!(
            "cannot reclaim {name}: a newer stark wrote it; start that version, or let it drain first"
        ))),
        false => Ok(()),
    }
}

/// Where the jobs go that were not done, by what lies in the list; none when it is not that of the token any more.
fn judge(
    connection: &mut Connection,
    left: &Left<'_>,
    token: Token,
    past: Past,
    jitter: &mut Jitter,
) -> Result<Option<Settled>, QueueError> {
    let mut settled = Settled {
        done: past.ended - past.verdicts.len(),
        ..Settled::default()
    };
    let verdicts: Vec<(usize, Verdict)> = past.verdicts().collect();
    let (Some((from, _)), Some((to, _))) = (verdicts.first(), verdicts.last()) else {
        return Ok(Some(settled));
    };
    let (from, to) = (*from, *to);
    // Under one token a place holds the same job for good. The first element is the token.
    let mut range = cmd("LRANGE");
    let elements = connection.call(range.arg(left.name).arg(1 + from).arg(1 + to))?;
    let mut elements = connection.byte_strings(elements, "LRANGE")?;
    if elements.len() != 1 + to - from {
        return Ok(None);
    }
    let origin = Arc::new(Origin {
        key: left.keys.waiting.as_str().into(),
        pool: left.pool.clone(),
        token,
    });
    for (place, verdict) in verdicts {
        let element = std::mem::take(&mut elements[place - from]);
        let job = Job::new(element, place as u32, origin.clone());
        let judged = (job.header(), job.payload.as_slice());
        let now = clock::wall_ms();
        settled.add(fate(left.retry, judged, verdict, now, left.node, jitter));
    }
    Ok(Some(settled))
}

/// Somebody else works on a list that should be ours.
pub(super) fn changing(name: &str) -> QueueError {
    QueueError::Unavailable(format!(
        "cannot reclaim {name}: somebody else is changing it"
    ))
}

/// Ends the list if it begins with `first` and is as long as `wanted` says; false (LOST) if not.
pub(super) fn end(
    connection: &mut Connection,
    left: &Left<'_>,
    first: &[u8],
    wanted: End<'_>,
) -> Result<bool, QueueError> {
    let settled = wanted.settled;
    let has_token = usize::from(Token::parse(first).is_some());
    let figures = [
        wanted.length,
        has_token + settled.gone(),
        settled.ended(),
        settled.failed,
        wanted.reclaimed,
    ]
    .map(|figure| figure.to_string());
    let fates = in_words(left.retry, &settled.fates);
    let mut arguments = vec![first];
    arguments.extend(figures.iter().map(|figure| figure.as_bytes()));
    arguments.extend(fates.iter().map(|word| &**word));
    let keys = left.keys;
    let names = [
        &keys.waiting,
        left.name,
        &keys.registry,
        &keys.delayed,
        &keys.dead,
        &keys.stats,
    ];
    Ok(connection.eval(&RECLAIM, &names, &arguments)? != Value::Nil)
}

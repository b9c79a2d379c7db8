//! Ending a reserved list: what had ended is settled, the rest goes back to the head of its key's waiting list, in
//! order. A worker ends its own when it leaves; whoever holds a dead one's slot ends what that one left.

use redis::Value;

use super::connection::Connection;
use super::error::QueueError;
use super::job::Settled;
use super::keys::Keys;
use super::script::RECLAIM;
use super::token::Token;

/// A list that changes more often between a look and a script has a living worker.
pub(super) const MOST_LOOKS: usize = 10;

/// What a reclaim did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reclaimed {
    /// Whose reservation it was; none for a list without token.
    pub token: Option<Token>,
    /// Jobs that had ended and were settled.
    pub settled: Settled,
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
        let had_jobs = |one: &Self| one.given_back + one.settled.ended() > 0;
        let token = if had_jobs(&other) {
            other.token
        } else {
            self.token
        };
        Self {
            token,
            settled: Settled {
                done: self.settled.done + other.settled.done,
                failed: self.settled.failed + other.settled.failed,
            },
            given_back: self.given_back + other.given_back,
        }
    }
}

/// How a reserved list is to end.
#[derive(Clone, Copy)]
pub(super) struct End {
    /// Of the list as it was seen; 0 = there is none.
    pub length: usize,
    /// Elements at its head that do not go back.
    pub drop: usize,
    /// What to count of them.
    pub settled: Settled,
    /// What to count as reclaimed.
    pub reclaimed: usize,
}

/// Ends the list `name`, whatever is in it; none when there is no list. What has ended of it is `ended`'s to say.
pub(super) fn reclaim(
    connection: &mut Connection,
    keys: &Keys,
    name: &str,
    ended: &dyn Fn(&Token, usize) -> Settled,
) -> Result<Option<Reclaimed>, QueueError> {
    for _ in 0..MOST_LOOKS {
        let first = connection.first_element(name)?;
        // A list that changed since then has another first element or length, which the script finds.
        let length = connection.length(name)?;
        let (reclaimed, drop) = match &first {
            None => (None, 0),
            Some(first) => {
                let (reclaimed, drop) = plan(name, first, length, ended)?;
                (Some(reclaimed), drop)
            }
        };
        let wanted = End {
            length: if first.is_some() { length } else { 0 },
            drop,
            settled: reclaimed.map_or(Settled::default(), |reclaimed| reclaimed.settled),
            reclaimed: reclaimed.map_or(0, |reclaimed| reclaimed.given_back),
        };
        if end(connection, keys, name, &first.unwrap_or_default(), wanted)? {
            return Ok(reclaimed);
        }
    }
    Err(changing(name))
}

/// Somebody else works on a list that should be ours.
pub(super) fn changing(name: &str) -> QueueError {
    QueueError::Unavailable(format!(
        "cannot reclaim {name}: somebody else is changing it"
    ))
}

/// Ends the list `name` if it begins with `first` and is as long as `wanted` says; false (LOST) if not.
pub(super) fn end(
    connection: &mut Connection,
    keys: &Keys,
    name: &str,
    first: &[u8],
    wanted: End,
) -> Result<bool, QueueError> {
    let figures = [
        wanted.length,
        wanted.drop,
        wanted.settled.ended(),
        wanted.settled.failed,
        wanted.reclaimed,
    ]
    .map(|figure| figure.to_string());
    let mut arguments = vec![first];
    arguments.extend(figures.iter().map(|figure| figure.as_bytes()));
    let names = [&keys.waiting, name, &keys.registry, &keys.stats];
    Ok(connection.eval(&RECLAIM, &names, &arguments)? != Value::Nil)
}

/// What to do with a list that begins with `first`, and how many elements to drop from its head.
fn plan(
    name: &str,
    first: &[u8],
    length: usize,
    ended: &dyn Fn(&Token, usize) -> Settled,
) -> Result<(Reclaimed, usize), QueueError> {
    if Token::is_newer(first) {
        return Err(QueueError::Refused(format!(
            "cannot reclaim {name}: a newer stark wrote it; start that version, or let it drain first"
        )));
    }
    let token = Token::parse(first);
    let jobs = length.saturating_sub(usize::from(token.is_some()));
    // A record that claims more than there is cannot be of this list.
    let settled = token
        .map(|token| ended(&token, jobs))
        .filter(|settled| settled.ended() <= jobs)
        .unwrap_or_default();
    let reclaimed = Reclaimed {
        token,
        settled,
        given_back: jobs - settled.ended(),
    };
    let drop = usize::from(token.is_some()) + settled.ended();
    Ok((reclaimed, drop))
}

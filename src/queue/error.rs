//! What can go wrong between a worker and the store, sorted by what the caller does about it.

use redis::ServerError;

/// Why the store did not do what was asked. After each of them what was reserved is still safe in the store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// The store is away (gone, stalled, loading, read-only, full of clients): ask again after a backoff.
    #[error("{0}")]
    Unavailable(String),
    /// The reserved list is not as this worker left it: nothing of it may be settled or begun any more. The way on is
    /// `reclaim` and `open`.
    #[error("cannot use reserved list: it is not as this worker left it")]
    Lost,
    /// The store answers, but not to this: settings, rights, the type of a key, its version. At the start an error;
    /// in a running daemon to be logged and asked again after a backoff, since operators correct such things.
    #[error("{0}")]
    Refused(String),
}

/// Codes with which a server says that it will be able to, but not now.
const AWAY: [&str; 10] = [
    "LOADING",
    "READONLY",
    "MASTERDOWN",
    "BUSY",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "NOREPLICAS",
    "MISCONF",
    "OOM",
    "UNBLOCKED",
];

/// The commands stark needs, in the words of `ACL SETUSER`.
const ACL_COMMANDS: &str = "+evalsha +script|load +type +info +select +client|tracking \
    +llen +lindex +lrange +ltrim +rpush +lpush +lmove +lpop +del +exists +sadd +srem +scard +smembers \
    +zadd +zrange +zrem +zremrangebyrank +zcard +zcount +time +hget +hincrby";

/// Sorts the server's own error. A script does not say which key it was about, so all are named. `acl_patterns` are
/// the keys that stark touches.
pub(super) fn from_server(
    place: &str,
    keys: &[String],
    acl_patterns: &str,
    error: &ServerError,
) -> QueueError {
    let text = match error.details() {
        Some(details) => format!("{} {details}", error.code()),
        None => error.code().to_string(),
    };
    if is_away(&text) {
        return QueueError::Unavailable(format!("cannot use redis at {place}: {text}"));
    }
    let plural = if keys.len() > 1 { "s" } else { "" };
    let keys = keys.join(", ");
    let mut message = format!("cannot use key{plural} {keys} of redis at {place}: {text}");
    if is_about_rights(&text) {
        message += &format!("; the user needs {acl_patterns} {ACL_COMMANDS}");
    }
    QueueError::Refused(message)
}

fn is_away(text: &str) -> bool {
    let mut words = text.split(' ').map(|word| word.trim_start_matches('-'));
    if text.starts_with("ERR Error running script") {
        // Before 7.0 the cause of a script's failure stood somewhere in a sentence.
        words.any(|word| AWAY.contains(&word))
    } else {
        words.next().is_some_and(|code| AWAY.contains(&code))
            || text.contains("max number of clients")
    }
}

fn is_about_rights(text: &str) -> bool {
    text.contains("NOPERM")
        || text.contains("The user executing the script")
        || text.contains("ACL failure in script")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(line: &str) -> QueueError {
        let reply = redis::parse_redis_value(format!("-{line}\r\n").as_bytes());
        let Ok(redis::Value::ServerError(error)) = reply else {
            panic!("{reply:?}")
        };
        from_server("h:1", &["q".into()], "~q ~{q}:stark:*", &error)
    }

    #[test]
    fn a_server_that_cannot_now_is_away() {
        for line in [
            "LOADING Redis is loading the dataset in memory",
            "READONLY You can't write against a read only replica.",
            "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
            "ERR max number of clients reached",
            "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
            "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist on disk.",
            "NOREPLICAS Not enough good replicas to write.",
            "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
            "OOM command not allowed when used memory > 'maxmemory'.",
            "READONLY You can't write against a read only replica. script: f_1, on @user_script:51.",
            "ERR Error running script (call to f_1): @user_script:1: -READONLY You can't write against a read only replica.",
        ] {
            let error = sorted(line);
            assert!(matches!(error, QueueError::Unavailable(_)), "{error:?}");
        }
    }

    #[test]
    fn what_an_operator_must_correct_is_refused_and_named() {
        for line in [
            "NOAUTH Authentication required.",
            "WRONGPASS invalid username-password pair or user is disabled.",
            "WRONGTYPE Operation against a key holding the wrong kind of value",
            "ERR DB index is out of range",
            "ERR Error running script (call to f_1): @user_script:1: WRONGTYPE Operation against a key holding the wrong kind of value",
        ] {
            let QueueError::Refused(message) = sorted(line) else {
                panic!("{line}")
            };
            assert!(message.starts_with("cannot use key q of redis at h:1: "));
            assert!(!message.contains("the user needs"));
        }
    }

    #[test]
    fn missing_rights_name_the_key_patterns() {
        for line in [
            "NOPERM this user has no permissions to access one of the keys used as arguments",
            "ERR The user executing the script can't run this command or subcommand",
        ] {
            let message = sorted(line).to_string();
            assert!(
                message.contains("the user needs ~q ~{q}:stark:* +evalsha"),
                "{message}"
            );
        }
    }
}

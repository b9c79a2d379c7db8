//! Whether a server will do for a queue: reachable, recent, with rights to what stark needs, and each key of its type.
//! Changes nothing. For `--check`, and for a warning at the start.

use redis::{Value, cmd};

use super::connection::{Connection, Protocol};
use super::error::QueueError;
use super::keys::Keys;
use super::script::{DUE, GIVEBACK, LATER, OPEN, POP, RECLAIM, TURN};
use crate::config;

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// The server's version.
    pub version: String,
    /// What may cost jobs although it works.
    pub warning: Option<String>,
}

/// Tries out the server of `settings`.
///
/// # Errors
/// [`QueueError::Unavailable`] if it is away, [`QueueError::Refused`] if it will not do.
pub fn check(settings: &config::Queue) -> Result<Checked, QueueError> {
    let mut connection = Connection::new(settings, Protocol::Resp2);
    let version = connection.version()?;
    for key in &settings.keys {
        let keys = Keys::new(key);
        check_type(&mut connection, settings, &keys.waiting, "list")?;
        check_type(&mut connection, settings, &keys.delayed, "zset")?;
        check_type(&mut connection, settings, &keys.dead, "zset")?;
    }
    for script in [&TURN, &OPEN, &RECLAIM, &GIVEBACK, &POP, &DUE, &LATER] {
        connection.load(script)?;
    }
    for key in &settings.keys {
        try_rights(&mut connection, &Keys::new(key))?;
    }
    let warning = eviction_warning(&mut connection, settings);
    Ok(Checked { version, warning })
}

fn check_type(
    connection: &mut Connection,
    settings: &config::Queue,
    key: &str,
    wanted: &str,
) -> Result<(), QueueError> {
    match connection.call(cmd("TYPE").arg(key))? {
        Value::SimpleString(kind) if kind == wanted || kind == "none" => Ok(()),
        Value::SimpleString(kind) => {
            let place = &settings.address;
            Err(QueueError::Refused(format!(
                "cannot use key {key} of redis at {place}: it is a {kind}, not a {wanted}"
            )))
        }
        _ => Err(connection.nonsense("TYPE")),
    }
}

/// A turn that finds no list writes nothing, but it needs the same rights as any other.
fn try_rights(connection: &mut Connection, keys: &Keys) -> Result<(), QueueError> {
    let nobody = format!("{}:check", keys.registry);
    let arguments = ["1", "0", "", "0", "1", "0", "0", "no token", "1"].map(str::as_bytes);
    let names = [
        &keys.waiting,
        &nobody,
        &keys.delayed,
        &keys.dead,
        &keys.stats,
    ];
    connection.eval(&TURN, &names.map(String::as_str), &arguments)?;
    connection.call(cmd("LLEN").arg(&nobody))?;
    connection.call(cmd("SCARD").arg(&keys.registry))?;
    connection.call(cmd("ZCARD").arg(&keys.delayed))?;
    connection.call(cmd("ZCARD").arg(&keys.dead))?;
    Ok(())
}

/// Policies that evict any key would evict jobs. Those that only evict keys with a time to live cannot.
fn eviction_warning(connection: &mut Connection, settings: &config::Queue) -> Option<String> {
    // A server that will not tell is no reason to refuse it.
    let Ok(Value::BulkString(info)) = connection.call(cmd("INFO").arg("memory")) else {
        return None;
    };
    let info = String::from_utf8_lossy(&info).into_owned();
    let policy = info
        .lines()
        .find_map(|line| line.strip_prefix("maxmemory_policy:"))?;
    policy.starts_with("allkeys").then(|| {
        let place = &settings.address;
        format!(
            "redis at {place} may evict jobs: its maxmemory-policy is {policy}, noeviction is safe"
        )
    })
}

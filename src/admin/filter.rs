//! Which clients `CLIENT LIST` and `CLIENT KILL` mean. Pure.

use super::access::Role;
use super::command::{CommandError, integer};
use super::session::Session;

/// Clients that fit everything that is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// One of these; none: any.
    ids: Option<Vec<i64>>,
    kind: Option<Kind>,
    remote: Option<Vec<u8>>,
    local: Option<Vec<u8>>,
    user: Option<Vec<u8>>,
    /// Not who asks.
    skip_me: bool,
}

/// What Redis sorts clients into. Here all are normal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Normal,
    Other,
}

impl Filter {
    /// Of `CLIENT LIST [TYPE kind | ID id [id ...]]`.
    pub fn of_list(args: &[Vec<u8>]) -> Result<Self, CommandError> {
        let mut filter = Self::default();
        match args {
            [] => {}
            [option, kind] if is(option, "type") => filter.kind = Some(parse_kind(kind)?),
            [option, ids @ ..] if is(option, "id") && !ids.is_empty() => {
                let ids: Option<Vec<i64>> = ids.iter().map(|id| integer(id)).collect();
                filter.ids = Some(ids.ok_or(CommandError::Refused("ERR Invalid client ID"))?);
            }
            _ => return Err(CommandError::Syntax),
        }
        Ok(filter)
    }

    /// Of the old `CLIENT KILL address`.
    pub fn of_address(address: &[u8]) -> Self {
        Self {
            remote: Some(address.to_vec()),
            ..Self::default()
        }
    }

    /// Of `CLIENT KILL option value [option value ...]`.
    pub fn of_kill(args: &[Vec<u8>]) -> Result<Self, CommandError> {
        let mut filter = Self {
            skip_me: true,
            ..Self::default()
        };
        for pair in args.chunks(2) {
            let [option, value] = pair else {
                return Err(CommandError::Syntax);
            };
            filter.set(option, value)?;
        }
        Ok(filter)
    }

    fn set(&mut self, option: &[u8], value: &[u8]) -> Result<(), CommandError> {
        if is(option, "id") {
            let id = parse_id(value).ok_or(CommandError::Refused(
                "ERR client-id should be greater than 0",
            ))?;
            self.ids = Some(vec![id]);
        } else if is(option, "type") {
            self.kind = Some(parse_kind(value)?);
        } else if is(option, "addr") {
            self.remote = Some(value.to_vec());
        } else if is(option, "laddr") {
            self.local = Some(value.to_vec());
        } else if is(option, "user") {
            if !Role::is_user(value) {
                return Err(CommandError::no_such_user(value));
            }
            self.user = Some(value.to_vec());
        } else if is(option, "skipme") && (is(value, "yes") || is(value, "no")) {
            self.skip_me = is(value, "yes");
        } else {
            return Err(CommandError::Syntax);
        }
        Ok(())
    }

    /// Does it mean this client, when the one with the id `me` asks?
    pub fn fits(&self, client: &Session, me: u64) -> bool {
        let is_or_unset = |wanted: &Option<Vec<u8>>, text: &str| {
            wanted
                .as_ref()
                .is_none_or(|wanted| wanted == text.as_bytes())
        };
        let has_id = self
            .ids
            .as_ref()
            .is_none_or(|ids| ids.iter().any(|&id| u64::try_from(id) == Ok(client.id)));
        has_id
            && self.kind != Some(Kind::Other)
            && is_or_unset(&self.remote, &client.ends.remote)
            && is_or_unset(&self.local, &client.ends.local)
            && is_or_unset(&self.user, client.user())
            && !(self.skip_me && client.id == me)
    }
}

fn is(word: &[u8], name: &str) -> bool {
    word.eq_ignore_ascii_case(name.as_bytes())
}

fn parse_id(text: &[u8]) -> Option<i64> {
    integer(text).filter(|id| *id > 0)
}

fn parse_kind(text: &[u8]) -> Result<Kind, CommandError> {
    match () {
        () if is(text, "normal") => Ok(Kind::Normal),
        () if ["master", "replica", "slave", "pubsub"]
            .iter()
            .any(|kind| is(text, kind)) =>
        {
            Ok(Kind::Other)
        }
        () => Err(CommandError::unknown_client_type(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::access::Access;
    use super::super::session::{Ends, Standing};
    use super::*;
    use std::time::Instant;

    fn client(id: u64) -> Session {
        let ends = Ends {
            remote: format!("127.0.0.1:{}", 50_000 + id),
            local: "127.0.0.1:9003".into(),
            is_unix: false,
        };
        let now = Instant::now();
        let standing = Standing::at_first(&Access::default(), now);
        Session::new(id, ends, 9, standing, now)
    }

    fn words(line: &str) -> Vec<Vec<u8>> {
        let words = line.split_whitespace();
        words.map(|word| word.as_bytes().to_vec()).collect()
    }

    /// Who of the clients 1 to 3 is meant when 2 asks.
    fn fitting(filter: &Filter) -> Vec<u64> {
        (1..=3).filter(|id| filter.fits(&client(*id), 2)).collect()
    }

    #[test]
    fn kill_means_those_that_fit_all_options_and_not_who_asks() {
        for (line, ids) in [
            ("id 1", vec![1]),
            ("ID 2", vec![]),
            ("id 2 skipme NO", vec![2]),
            ("id 99", vec![]),
            ("type normal", vec![1, 3]),
            ("type pubsub", vec![]),
            ("user default", vec![1, 3]),
            ("user readonly skipme no", vec![]),
            ("laddr 127.0.0.1:9003 skipme no", vec![1, 2, 3]),
            ("addr 127.0.0.1:50003", vec![3]),
            ("addr 127.0.0.1:50003 id 1", vec![]),
        ] {
            let filter = Filter::of_kill(&words(line)).unwrap();
            assert_eq!(fitting(&filter), ids, "{line}");
        }
        assert_eq!(fitting(&Filter::of_address(b"127.0.0.1:50002")), [2]);
    }

    #[test]
    fn list_shows_all_or_some() {
        for (line, ids) in [
            ("", vec![1, 2, 3]),
            ("type NORMAL", vec![1, 2, 3]),
            ("type replica", vec![]),
            ("id 3 1 9", vec![1, 3]),
        ] {
            assert_eq!(fitting(&Filter::of_list(&words(line)).unwrap()), ids);
        }
    }

    #[test]
    fn options_are_refused_as_redis_refuses_them() {
        for (line, text) in [
            ("id x", "ERR client-id should be greater than 0"),
            ("id 0", "ERR client-id should be greater than 0"),
            ("type nope", "ERR Unknown client type 'nope'"),
            ("user nope", "ERR No such user 'nope'"),
            ("skipme maybe", "ERR syntax error"),
            ("nope x", "ERR syntax error"),
            ("id 1 type", "ERR syntax error"),
        ] {
            let error = Filter::of_kill(&words(line)).unwrap_err();
            assert_eq!(error.to_string(), text, "{line}");
        }
        for (line, text) in [
            ("x", "ERR syntax error"),
            ("id", "ERR syntax error"),
            ("type", "ERR syntax error"),
            ("id 1 x", "ERR Invalid client ID"),
            ("type nope", "ERR Unknown client type 'nope'"),
        ] {
            let error = Filter::of_list(&words(line)).unwrap_err();
            assert_eq!(error.to_string(), text, "{line}");
        }
    }
}

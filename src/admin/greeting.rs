//! The commands by which a client says who it is and how it wants to be spoken to: `AUTH`, `HELLO`, `SELECT` and those of
//! `CLIENT`. Pure: arguments become a [`Command`].

use super::access::Digest;
use super::command::{Attribute, Command, CommandError, integer};
use super::filter::Filter;
use super::session::{BadLabel, Label};
use crate::resp::Protocol;

/// A user's name and what he says is his password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// None: only a password was given.
    pub user: Option<Vec<u8>>,
    /// What he says.
    pub password: Digest,
}

/// `HELLO [version [AUTH user password] [SETNAME name]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// None: as before.
    pub protocol: Option<Protocol>,
    /// Authenticates in passing.
    pub login: Option<Login>,
    /// For `CLIENT LIST`.
    pub name: Option<Label>,
}

pub(super) fn auth(args: &[Vec<u8>]) -> Result<Command, CommandError> {
    match args {
        [password] => Ok(Command::Auth(Login {
            user: None,
            password: Digest::of(password),
        })),
        [user, password] => Ok(Command::Auth(login(user, password))),
        _ => Err(CommandError::Syntax),
    }
}

fn login(user: &[u8], password: &[u8]) -> Login {
    Login {
        user: Some(user.to_vec()),
        password: Digest::of(password),
    }
}

pub(super) fn hello(args: &[Vec<u8>]) -> Result<Command, CommandError> {
    let mut hello = Hello::default();
    let Some((version, mut rest)) = args.split_first() else {
        return Ok(Command::Hello(hello));
    };
    hello.protocol = match integer(version) {
        Some(2) => Some(Protocol::Resp2),
        Some(3) => Some(Protocol::Resp3),
        Some(_) => {
            return Err(CommandError::Refused(
                "NOPROTO unsupported protocol version",
            ));
        }
        None => {
            return Err(CommandError::Refused(
                "ERR Protocol version is not an integer or out of range",
            ));
        }
    };
    while let Some((option, values)) = rest.split_first() {
        rest = match values {
            [user, password, rest @ ..] if option.eq_ignore_ascii_case(b"auth") => {
                hello.login = Some(login(user, password));
                rest
            }
            [name, rest @ ..] if option.eq_ignore_ascii_case(b"setname") => {
                hello.name = Some(client_name(name)?);
                rest
            }
            _ => return Err(CommandError::hello_option(option)),
        };
    }
    Ok(Command::Hello(hello))
}

/// There is one database, so that clients that select it need no other settings.
pub(super) fn select(args: &[Vec<u8>]) -> Result<Command, CommandError> {
    let number = args.first().and_then(|number| integer(number));
    match number {
        Some(0) => Ok(Command::Select),
        Some(_) => Err(CommandError::Refused("ERR DB index is out of range")),
        None => Err(CommandError::Refused(
            "ERR value is not an integer or out of range",
        )),
    }
}

pub(super) fn reset(_: &[Vec<u8>]) -> Result<Command, CommandError> {
    Ok(Command::Reset)
}

pub(super) fn client_id(_: &[Vec<u8>]) -> Result<Command, CommandError> {
    Ok(Command::ClientId)
}

pub(super) fn client_info(_: &[Vec<u8>]) -> Result<Command, CommandError> {
    Ok(Command::ClientInfo)
}

pub(super) fn client_list(args: &[Vec<u8>]) -> Result<Command, CommandError> {
    Filter::of_list(args).map(Command::ClientList)
}

pub(super) fn client_kill(args: &[Vec<u8>]) -> Result<Command, CommandError> {
    match args {
        [address] => Ok(Command::ClientKillAddress(Filter::of_address(address))),
        _ => Filter::of_kill(args).map(Command::ClientKill),
    }
}

pub(super) fn client_getname(_: &[Vec<u8>]) -> Result<Command, CommandError> {
    Ok(Command::ClientGetName)
}

pub(super) fn client_setname(args: &[Vec<u8>]) -> Result<Command, CommandError> {
    let name = args.first().ok_or(CommandError::Syntax)?;
    Ok(Command::ClientSet(Attribute::Name, client_name(name)?))
}

pub(super) fn client_setinfo(args: &[Vec<u8>]) -> Result<Command, CommandError> {
    let [option, value] = args else {
        return Err(CommandError::Syntax);
    };
    let (attribute, bad_bytes, too_long) = if option.eq_ignore_ascii_case(b"lib-name") {
        (
            Attribute::LibraryName,
            "ERR lib-name cannot contain spaces, newlines or special characters.",
            "ERR lib-name is longer than 256 bytes",
        )
    } else if option.eq_ignore_ascii_case(b"lib-ver") {
        (
            Attribute::LibraryVersion,
            "ERR lib-ver cannot contain spaces, newlines or special characters.",
            "ERR lib-ver is longer than 256 bytes",
        )
    } else {
        return Err(CommandError::unrecognized_option(option));
    };
    Ok(Command::ClientSet(
        attribute,
        label(value, bad_bytes, too_long)?,
    ))
}

fn client_name(name: &[u8]) -> Result<Label, CommandError> {
    label(
        name,
        "ERR Client names cannot contain spaces, newlines or special characters.",
        "ERR Client name is longer than 256 bytes",
    )
}

fn label(
    value: &[u8],
    bad_bytes: &'static str,
    too_long: &'static str,
) -> Result<Label, CommandError> {
    Label::try_from(value).map_err(|bad| {
        CommandError::Refused(match bad {
            BadLabel::Bytes => bad_bytes,
            BadLabel::Length => too_long,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::super::command::parse;
    use super::*;

    fn parse_line(line: &str) -> Result<Command, CommandError> {
        let args: Vec<_> = line.split(' ').map(|arg| arg.as_bytes().to_vec()).collect();
        parse(&args)
    }

    fn name(text: &str) -> Label {
        Label::try_from(text.as_bytes()).unwrap()
    }

    #[test]
    fn hello_takes_its_options_in_any_order() {
        let full = Hello {
            protocol: Some(Protocol::Resp3),
            login: Some(login(b"default", b"pw")),
            name: Some(name("bob")),
        };
        for line in [
            "HELLO 3 AUTH default pw SETNAME bob",
            "hello 3 setname bob auth default pw",
            "hello 3 setname al auth x y setname bob auth default pw",
        ] {
            assert_eq!(parse_line(line), Ok(Command::Hello(full.clone())), "{line}");
        }
        assert_eq!(parse_line("hello"), Ok(Command::Hello(Hello::default())));
    }

    #[test]
    fn a_password_stands_alone_or_behind_a_user() {
        let alone = Login {
            user: None,
            password: Digest::of(b"pw"),
        };
        assert_eq!(parse_line("auth pw"), Ok(Command::Auth(alone)));
        let named = login(b"default", b"pw");
        assert_eq!(parse_line("auth default pw"), Ok(Command::Auth(named)));
        assert!(!format!("{:?}", parse_line("auth secret")).contains("secret"));
    }

    #[test]
    fn what_clients_say_of_themselves_is_taken() {
        for (line, attribute, text) in [
            ("client setname bob", Attribute::Name, "bob"),
            ("client setname ", Attribute::Name, ""),
            (
                "client setinfo LIB-NAME redis-py",
                Attribute::LibraryName,
                "redis-py",
            ),
            (
                "client setinfo lib-ver 5.0.1",
                Attribute::LibraryVersion,
                "5.0.1",
            ),
        ] {
            let command = Command::ClientSet(attribute, name(text));
            assert_eq!(parse_line(line), Ok(command), "{line}");
        }
    }

    #[test]
    fn refusals_are_worded_as_redis_words_them() {
        let long = format!("client setname {}", "x".repeat(257));
        for (line, text) in [
            ("auth", "ERR wrong number of arguments for 'auth' command"),
            ("auth a b c", "ERR syntax error"),
            ("hello 4", "NOPROTO unsupported protocol version"),
            ("hello -3", "NOPROTO unsupported protocol version"),
            (
                "hello x",
                "ERR Protocol version is not an integer or out of range",
            ),
            ("hello 3 foo", "ERR Syntax error in HELLO option 'foo'"),
            ("hello 3 auth a", "ERR Syntax error in HELLO option 'auth'"),
            (
                "hello 3 setname",
                "ERR Syntax error in HELLO option 'setname'",
            ),
            (
                "hello 3 setname \u{e9}",
                "ERR Client names cannot contain spaces, newlines or special characters.",
            ),
            ("select 1", "ERR DB index is out of range"),
            ("select -1", "ERR DB index is out of range"),
            ("select x", "ERR value is not an integer or out of range"),
            ("select 00", "ERR value is not an integer or out of range"),
            ("select +0", "ERR value is not an integer or out of range"),
            (
                "client",
                "ERR wrong number of arguments for 'client' command",
            ),
            (
                "client id x",
                "ERR wrong number of arguments for 'client|id' command",
            ),
            (
                "client kill",
                "ERR wrong number of arguments for 'client|kill' command",
            ),
            (
                "client nope",
                "ERR unknown subcommand 'nope'. Try CLIENT HELP.",
            ),
            ("client setinfo lib x", "ERR Unrecognized option 'lib'"),
            (
                "client setinfo lib-ver \t",
                "ERR lib-ver cannot contain spaces, newlines or special characters.",
            ),
            (&long, "ERR Client name is longer than 256 bytes"),
        ] {
            assert_eq!(parse_line(line).unwrap_err().to_string(), text, "{line}");
        }
    }
}

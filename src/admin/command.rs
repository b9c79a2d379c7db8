//! What a client asks for: arguments become a [`Command`], or the error that Redis would answer. Pure. The commands that
//! exist stand in `table`; what they do is the parent module's.

use super::filter::Filter;
use super::greeting::{Hello, Login};
use super::info::{self, Section};
use super::session::Label;
use super::table::{self, Spec};

/// At most so many bytes of what a client sent are repeated in an error.
const MAX_QUOTED: usize = 128;

/// A command, understood and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// `PING [message]`.
    Ping(Option<Vec<u8>>),
    /// `ECHO message`.
    Echo(Vec<u8>),
    /// `QUIT`.
    Quit,
    /// `INFO [section ...]`.
    Info(Vec<Section>),
    /// `SHUTDOWN`.
    Shutdown,
    /// `SHUTDOWN NOW`.
    ShutdownNow,
    /// `COMMAND [COUNT | DOCS | INFO | LIST]`.
    Describe(Listing),
    /// `COMMAND HELP`, `CLIENT HELP`: the parts of the command of this name.
    Help(&'static str),
    /// `TIME`.
    Time,
    /// `AUTH [user] password`.
    Auth(Login),
    /// `HELLO`.
    Hello(Hello),
    /// `SELECT 0`.
    Select,
    /// `RESET`.
    Reset,
    /// `CLIENT ID`.
    ClientId,
    /// `CLIENT INFO`.
    ClientInfo,
    /// `CLIENT LIST`.
    ClientList(Filter),
    /// `CLIENT KILL option value ...`.
    ClientKill(Filter),
    /// `CLIENT KILL address`.
    ClientKillAddress(Filter),
    /// `CLIENT GETNAME`.
    ClientGetName,
    /// `CLIENT SETNAME`, `CLIENT SETINFO`.
    ClientSet(Attribute, Label),
}

/// What a client may say of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attribute {
    /// `CLIENT SETNAME`.
    Name,
    /// `CLIENT SETINFO LIB-NAME`.
    LibraryName,
    /// `CLIENT SETINFO LIB-VER`.
    LibraryVersion,
}

/// What `COMMAND` tells of the commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listing {
    /// How many there are.
    Count,
    /// Their names.
    Names,
    /// Arity, flags and so on; of all when no name is given.
    Info(Vec<Vec<u8>>),
    /// For readers; of all when no name is given.
    Docs(Vec<Vec<u8>>),
}

/// Why arguments are no command. The text is the reply, its code included.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// No command has this name.
    #[error("ERR unknown command '{name}', with args beginning with: {args}")]
    Unknown {
        /// As it was sent, cut.
        name: String,
        /// Each in quotes with a space behind, cut.
        args: String,
    },
    /// The command has no such part.
    #[error("ERR unknown subcommand '{subcommand}'. Try {command} HELP.")]
    UnknownSubcommand {
        /// The command's name, in capitals.
        command: String,
        /// As it was sent, cut.
        subcommand: String,
    },
    /// Too many or too few arguments.
    #[error("ERR wrong number of arguments for '{0}' command")]
    Arity(&'static str),
    /// An argument that the command does not know.
    #[error("ERR syntax error")]
    Syntax,
    /// An argument that cannot be, in Redis's words with its code.
    #[error("{0}")]
    Refused(&'static str),
    /// The same, with the argument in it.
    #[error("ERR {what} '{argument}'")]
    Argument {
        /// In Redis's words.
        what: &'static str,
        /// As it was sent, cut.
        argument: String,
    },
}

impl CommandError {
    fn argument(what: &'static str, argument: &[u8]) -> Self {
        Self::Argument {
            what,
            argument: quotable(argument, MAX_QUOTED),
        }
    }

    pub(super) fn no_such_user(name: &[u8]) -> Self {
        Self::argument("No such user", name)
    }

    pub(super) fn unknown_client_type(name: &[u8]) -> Self {
        Self::argument("Unknown client type", name)
    }

    pub(super) fn hello_option(option: &[u8]) -> Self {
        Self::argument("Syntax error in HELLO option", option)
    }

    pub(super) fn unrecognized_option(option: &[u8]) -> Self {
        Self::argument("Unrecognized option", option)
    }
}

/// A command that exists, with arguments of which only the number is known to be right.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// What is known of it.
    pub spec: &'static Spec,
    /// Behind its name.
    args: &'a [Vec<u8>],
}

/// Finds the command by its name, and that of its part.
///
/// # Errors
///
/// There is none, or it takes more or fewer arguments.
pub fn find(args: &[Vec<u8>]) -> Result<Found<'_>, CommandError> {
    let (name, rest) = args.split_first().ok_or(CommandError::Syntax)?;
    let spec = table::find(name).ok_or_else(|| unknown(name, rest))?;
    let (spec, rest) = match rest.split_first() {
        Some((part, rest)) if !spec.subcommands.is_empty() => {
            let found = spec.subcommand(part);
            let unknown = || CommandError::UnknownSubcommand {
                command: spec.name.to_ascii_uppercase(),
                subcommand: quotable(part, MAX_QUOTED),
            };
            (found.ok_or_else(unknown)?, rest)
        }
        _ => (spec, rest),
    };
    match spec.takes(args.len()) {
        true => Ok(Found { spec, args: rest }),
        false => Err(CommandError::Arity(spec.name)),
    }
}

impl Found<'_> {
    /// Understands the arguments.
    ///
    /// # Errors
    ///
    /// It takes others.
    pub fn understand(self) -> Result<Command, CommandError> {
        (self.spec.build)(self.args)
    }
}

/// Understands the arguments of a command, its name first.
#[cfg(test)]
pub(super) fn parse(args: &[Vec<u8>]) -> Result<Command, CommandError> {
    find(args)?.understand()
}

/// A whole number as Redis reads it: digits and a minus, nothing else, no leading zeros.
pub(super) fn integer(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    match digits {
        [b'0'] if digits.len() < text.len() => None,
        [b'0', _, ..] | [b'+', ..] => None,
        _ => std::str::from_utf8(text).ok()?.parse().ok(),
    }
}

pub(super) fn ping(args: &[Vec<u8>]) -> Result<Command, CommandError> {
    match args {
        [] => Ok(Command::Ping(None)),
        [message] => Ok(Command::Ping(Some(message.clone()))),
        _ => Err(CommandError::Arity("ping")),
    }
}

pub(super) fn echo(args: &[Vec<u8>]) -> Result<Command, CommandError> {
    let message = args.first().ok_or(CommandError::Arity("echo"))?;
    Ok(Command::Echo(message.clone()))
}

pub(super) fn quit(_: &[Vec<u8>]) -> Result<Command, CommandError> {
    Ok(Command::Quit)
}

pub(super) fn info(args: &[Vec<u8>]) -> Result<Command, CommandError> {
    Ok(Command::Info(info::select(args)))
}

pub(super) fn shutdown(args: &[Vec<u8>]) -> Result<Command, CommandError> {
    match args {
        [] => Ok(Command::Shutdown),
        [how] if how.eq_ignore_ascii_case(b"now") => Ok(Command::ShutdownNow),
        _ => Err(CommandError::Syntax),
    }
}

pub(super) fn command_count(_: &[Vec<u8>]) -> Result<Command, CommandError> {
    Ok(Command::Describe(Listing::Count))
}

pub(super) fn command_list(_: &[Vec<u8>]) -> Result<Command, CommandError> {
    Ok(Command::Describe(Listing::Names))
}

pub(super) fn command_info(args: &[Vec<u8>]) -> Result<Command, CommandError> {
    Ok(Command::Describe(Listing::Info(args.to_vec())))
}

pub(super) fn command_docs(args: &[Vec<u8>]) -> Result<Command, CommandError> {
    Ok(Command::Describe(Listing::Docs(args.to_vec())))
}

pub(super) fn command_help(_: &[Vec<u8>]) -> Result<Command, CommandError> {
    Ok(Command::Help("command"))
}

pub(super) fn client_help(_: &[Vec<u8>]) -> Result<Command, CommandError> {
    Ok(Command::Help("client"))
}

pub(super) fn time(_: &[Vec<u8>]) -> Result<Command, CommandError> {
    Ok(Command::Time)
}

/// Redis cuts the name, and all arguments together, at 128 bytes.
fn unknown(name: &[u8], rest: &[Vec<u8>]) -> CommandError {
    let mut args = String::new();
    for arg in rest {
        if args.len() >= MAX_QUOTED {
            break;
        }
        let room = MAX_QUOTED - args.len();
        args.push_str(&format!("'{}' ", quotable(arg, room)));
    }
    CommandError::Unknown {
        name: quotable(name, MAX_QUOTED),
        args,
    }
}

/// At most `max` bytes, made printable: a log or a terminal may get to see them.
fn quotable(bytes: &[u8], max: usize) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(max)]);
    text.replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_line(line: &str) -> Result<Command, CommandError> {
        let args: Vec<_> = line.split(' ').map(|arg| arg.as_bytes().to_vec()).collect();
        parse(&args)
    }

    fn error_of(line: &str) -> String {
        parse_line(line).unwrap_err().to_string()
    }

    #[test]
    fn commands_are_understood_in_any_case() {
        let cases = [
            ("PING", Command::Ping(None)),
            ("ping", Command::Ping(None)),
            ("Ping hi", Command::Ping(Some(b"hi".to_vec()))),
            ("ECHO hi", Command::Echo(b"hi".to_vec())),
            ("quit", Command::Quit),
            ("QUIT now", Command::Quit),
            ("info memory", Command::Info(vec![Section::Memory])),
            ("info nosuch", Command::Info(vec![])),
            ("SHUTDOWN", Command::Shutdown),
            ("shutdown now", Command::ShutdownNow),
            ("command", Command::Describe(Listing::Info(vec![]))),
            ("command COUNT", Command::Describe(Listing::Count)),
            ("command list", Command::Describe(Listing::Names)),
            ("command info", Command::Describe(Listing::Info(vec![]))),
            (
                "command docs ping",
                Command::Describe(Listing::Docs(vec![b"ping".to_vec()])),
            ),
        ];
        for (line, command) in cases {
            assert_eq!(parse_line(line), Ok(command), "{line}");
        }
    }

    #[test]
    fn errors_are_worded_as_redis_words_them() {
        let cases = [
            (
                "nope",
                "ERR unknown command 'nope', with args beginning with: ",
            ),
            (
                "nope a b",
                "ERR unknown command 'nope', with args beginning with: 'a' 'b' ",
            ),
            ("echo", "ERR wrong number of arguments for 'echo' command"),
            (
                "ECHO a b",
                "ERR wrong number of arguments for 'echo' command",
            ),
            (
                "ping a b",
                "ERR wrong number of arguments for 'ping' command",
            ),
            ("shutdown later", "ERR syntax error"),
            ("shutdown now now", "ERR syntax error"),
            (
                "command count x",
                "ERR wrong number of arguments for 'command|count' command",
            ),
            (
                "command nope",
                "ERR unknown subcommand 'nope'. Try COMMAND HELP.",
            ),
        ];
        for (line, text) in cases {
            assert_eq!(error_of(line), text, "{line}");
        }
        assert_eq!(parse(&[]), Err(CommandError::Syntax));
    }

    #[test]
    fn a_number_is_read_as_redis_reads_it() {
        for (text, number) in [
            ("0", Some(0)),
            ("-7", Some(-7)),
            ("9223372036854775807", Some(i64::MAX)),
            ("9223372036854775808", None),
            ("-0", None),
            ("+1", None),
            ("-+1", None),
            ("01", None),
            ("", None),
            ("-", None),
            (" 1", None),
            ("1.0", None),
        ] {
            assert_eq!(integer(text.as_bytes()), number, "{text}");
        }
        assert_eq!(integer(b"\xff"), None);
    }

    #[test]
    fn errors_repeat_only_the_beginning_of_what_was_sent() {
        let long = "x".repeat(1000);
        let text = error_of(&format!("{long} {long} {long}"));
        assert!(text.contains(&format!("'{}',", "x".repeat(128))), "{text}");
        assert!(text.len() < 400, "{text}");
        let many = format!("nope{}", " a".repeat(1000));
        assert!(error_of(&many).len() < 300);
    }

    #[test]
    fn errors_repeat_no_control_bytes() {
        let text = parse(&[b"a\r\n\x1b[2J\xff".to_vec(), b"\0".to_vec()])
            .unwrap_err()
            .to_string();
        assert_eq!(
            text,
            "ERR unknown command 'a   [2J\u{fffd}', with args beginning with: ' ' "
        );
    }
}

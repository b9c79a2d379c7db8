//! The commands that exist, and what `COMMAND` tells clients of them: redis-cli takes its hints from here, libraries the
//! arity. A new command is one entry here, one function in its family's file, one arm in `answer`.

use super::command::{self, Command, CommandError, Listing};
use super::greeting;
use crate::resp::Reply;
use std::fmt;

/// What is known of a command.
#[derive(Debug)]
pub struct Spec {
    /// Lower case; `command|part` for a part of one.
    pub name: &'static str,
    /// Arguments with the name (both names of a part); negative: at least so many.
    arity: i32,
    /// Who may give it.
    pub needs: Needs,
    flags: &'static [&'static str],
    categories: &'static [&'static str],
    group: &'static str,
    summary: &'static str,
    arguments: &'static [Argument],
    /// Parts of the command.
    pub subcommands: &'static [Spec],
    /// Understands the arguments behind the name; their number fits the arity.
    pub build: fn(&[Vec<u8>]) -> Result<Command, CommandError>,
}

/// Who may give a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Everybody, before authentication too.
    Nothing,
    /// Who may look.
    Look,
    /// Who may steer.
    Steer,
}

/// What is known of an argument.
#[derive(Debug)]
struct Argument {
    name: &'static str,
    kind: Kind,
    /// A fixed word in front of it, or for [`Kind::Token`] all there is.
    token: &'static str,
    flags: &'static [&'static str],
}

/// Kinds of arguments.
#[derive(Debug)]
enum Kind {
    Text,
    Number,
    Token,
    /// One of these.
    OneOf(&'static [Argument]),
    /// All of these.
    Block(&'static [Argument]),
}

impl Argument {
    const fn new(name: &'static str, kind: Kind) -> Self {
        Self {
            name,
            kind,
            token: "",
            flags: &[],
        }
    }

    const fn text(name: &'static str) -> Self {
        Self::new(name, Kind::Text)
    }

    const fn token(name: &'static str, token: &'static str) -> Self {
        Self::new(name, Kind::Token).behind(token)
    }

    const fn behind(mut self, token: &'static str) -> Self {
        self.token = token;
        self
    }

    const fn optional(mut self) -> Self {
        self.flags = &["optional"];
        self
    }

    const fn any_number(mut self) -> Self {
        self.flags = &["optional", "multiple"];
        self
    }

    const fn multiple(mut self) -> Self {
        self.flags = &["multiple"];
        self
    }
}

/// What most commands of a connection have in common.
const CONNECTION: Spec = Spec {
    name: "",
    arity: 2,
    needs: Needs::Look,
    flags: &["noscript", "loading", "stale"],
    categories: &["@slow", "@connection"],
    group: "connection",
    summary: "",
    arguments: &[],
    subcommands: &[],
    build: command::ping,
};

/// What those have in common by which a client says who it is.
const GREETING: Spec = Spec {
    needs: Needs::Nothing,
    flags: &[
        "noscript",
        "loading",
        "stale",
        "fast",
        "no_auth",
        "allow_busy",
    ],
    categories: &["@fast", "@connection"],
    ..CONNECTION
};

/// What those have in common that ask the daemon for something.
const SERVER: Spec = Spec {
    flags: &["loading", "stale"],
    group: "server",
    ..CONNECTION
};

const COMMAND_NAMES: &[Argument] = &[Argument::text("command-name").any_number()];

const CLIENT_TYPE: Argument = Argument::new(
    "client-type",
    Kind::OneOf(&[
        Argument::token("normal", "NORMAL"),
        Argument::token("master", "MASTER"),
        Argument::token("replica", "REPLICA"),
        Argument::token("pubsub", "PUBSUB"),
    ]),
)
.behind("TYPE")
.optional();

const CLIENT_PARTS: &[Spec] = &[
    Spec {
        name: "client|getname",
        summary: "Return the name of this connection",
        build: greeting::client_getname,
        ..CONNECTION
    },
    Spec {
        name: "client|help",
        summary: "List the parts of CLIENT",
        build: command::client_help,
        ..CONNECTION
    },
    Spec {
        name: "client|id",
        summary: "Return the number of this connection",
        build: greeting::client_id,
        ..CONNECTION
    },
    Spec {
        name: "client|info",
        summary: "Describe this connection",
        build: greeting::client_info,
        ..CONNECTION
    },
    Spec {
        name: "client|kill",
        arity: -3,
        flags: &["admin", "noscript", "loading", "stale"],
        categories: &["@admin", "@slow", "@dangerous", "@connection"],
        summary: "Close connections; the read-only user its own",
        arguments: &[Argument::new(
            "filter",
            Kind::OneOf(&[
                Argument::text("ip:port"),
                Argument::new(
                    "new-format",
                    Kind::OneOf(&[
                        Argument::new("client-id", Kind::Number)
                            .behind("ID")
                            .optional(),
                        CLIENT_TYPE,
                        Argument::text("username").behind("USER").optional(),
                        Argument::text("ip:port").behind("ADDR").optional(),
                        Argument::text("ip:port").behind("LADDR").optional(),
                        Argument::new(
                            "yes/no",
                            Kind::OneOf(&[
                                Argument::token("yes", "YES"),
                                Argument::token("no", "NO"),
                            ]),
                        )
                        .behind("SKIPME")
                        .optional(),
                    ]),
                )
                .multiple(),
            ]),
        )],
        build: greeting::client_kill,
        ..CONNECTION
    },
    Spec {
        name: "client|list",
        arity: -2,
        flags: &["admin", "noscript", "loading", "stale"],
        categories: &["@admin", "@slow", "@dangerous", "@connection"],
        summary: "Describe all or some connections",
        arguments: &[
            CLIENT_TYPE,
            Argument::new("client-id", Kind::Number)
                .behind("ID")
                .any_number(),
        ],
        build: greeting::client_list,
        ..CONNECTION
    },
    Spec {
        name: "client|setinfo",
        arity: 4,
        summary: "Name the library that this connection uses",
        arguments: &[Argument::new(
            "attr",
            Kind::OneOf(&[
                Argument::text("libname").behind("LIB-NAME"),
                Argument::text("libver").behind("LIB-VER"),
            ]),
        )],
        build: greeting::client_setinfo,
        ..CONNECTION
    },
    Spec {
        name: "client|setname",
        arity: 3,
        summary: "Give this connection a name",
        arguments: &[Argument::text("connection-name")],
        build: greeting::client_setname,
        ..CONNECTION
    },
];

const COMMAND_PARTS: &[Spec] = &[
    Spec {
        name: "command|count",
        summary: "Count the commands",
        build: command::command_count,
        ..SERVER
    },
    Spec {
        name: "command|docs",
        arity: -2,
        summary: "Document all or some commands",
        arguments: COMMAND_NAMES,
        build: command::command_docs,
        ..SERVER
    },
    Spec {
        name: "command|help",
        summary: "List the parts of COMMAND",
        build: command::command_help,
        ..SERVER
    },
    Spec {
        name: "command|info",
        arity: -2,
        summary: "Describe all or some commands",
        arguments: COMMAND_NAMES,
        build: command::command_info,
        ..SERVER
    },
    Spec {
        name: "command|list",
        summary: "List the names of the commands",
        build: command::command_list,
        ..SERVER
    },
];

/// All commands.
static COMMANDS: &[Spec] = &[
    Spec {
        name: "auth",
        arity: -2,
        summary: "Give a password",
        arguments: &[
            Argument::text("username").optional(),
            Argument::text("password"),
        ],
        build: greeting::auth,
        ..GREETING
    },
    Spec {
        name: "client",
        arity: -2,
        flags: &[],
        summary: "Tell of the connections, and close them",
        subcommands: CLIENT_PARTS,
        ..CONNECTION
    },
    Spec {
        name: "command",
        arity: -1,
        summary: "Describe all commands",
        subcommands: COMMAND_PARTS,
        build: command::command_info,
        ..SERVER
    },
    Spec {
        name: "echo",
        flags: &["loading", "stale", "fast"],
        categories: &["@fast", "@connection"],
        summary: "Return the message",
        arguments: &[Argument::text("message")],
        build: command::echo,
        ..CONNECTION
    },
    Spec {
        name: "hello",
        arity: -1,
        summary: "Choose the version of RESP, and say who one is",
        arguments: &[Argument::new(
            "arguments",
            Kind::Block(&[
                Argument::new("protover", Kind::Number),
                Argument::new(
                    "auth",
                    Kind::Block(&[Argument::text("username"), Argument::text("password")]),
                )
                .behind("AUTH")
                .optional(),
                Argument::text("clientname").behind("SETNAME").optional(),
            ]),
        )
        .optional()],
        build: greeting::hello,
        ..GREETING
    },
    Spec {
        name: "info",
        arity: -1,
        categories: &["@slow", "@dangerous"],
        summary: "Show the state of the daemon, its workers and its queues",
        arguments: &[Argument::text("section").any_number()],
        build: command::info,
        ..SERVER
    },
    Spec {
        name: "ping",
        arity: -1,
        flags: &["fast"],
        categories: &["@fast", "@connection"],
        summary: "Ask the daemon for a sign of life",
        arguments: &[Argument::text("message").optional()],
        build: command::ping,
        ..CONNECTION
    },
    Spec {
        name: "quit",
        arity: -1,
        summary: "Close the connection",
        build: command::quit,
        ..GREETING
    },
    Spec {
        name: "reset",
        arity: 1,
        summary: "Forget what was said on this connection",
        build: greeting::reset,
        ..GREETING
    },
    Spec {
        name: "select",
        flags: &["loading", "stale", "fast"],
        categories: &["@fast", "@connection"],
        summary: "Choose the database, of which there is one: 0",
        arguments: &[Argument::new("index", Kind::Number)],
        build: greeting::select,
        ..CONNECTION
    },
    Spec {
        name: "shutdown",
        arity: -1,
        needs: Needs::Steer,
        flags: &["admin", "noscript", "loading", "stale"],
        categories: &["@admin", "@slow", "@dangerous"],
        summary: "Finish the jobs in hand and stop the daemon; NOW does not wait for them",
        arguments: &[Argument::token("now", "NOW").optional()],
        build: command::shutdown,
        ..SERVER
    },
    Spec {
        name: "time",
        arity: 1,
        flags: &["loading", "stale", "fast"],
        categories: &["@fast"],
        summary: "Return the time of day: seconds since 1970, and microseconds",
        build: command::time,
        ..SERVER
    },
];

/// The command of this name, in any case.
pub fn find(name: &[u8]) -> Option<&'static Spec> {
    COMMANDS
        .iter()
        .find(|spec| name.eq_ignore_ascii_case(spec.name.as_bytes()))
}

/// What `COMMAND` answers.
pub fn answer(listing: &Listing) -> Reply {
    match listing {
        Listing::Count => Reply::Integer(COMMANDS.len() as i64),
        Listing::Names => {
            Reply::Array(COMMANDS.iter().map(|spec| Reply::bulk(spec.name)).collect())
        }
        Listing::Info(names) if names.is_empty() => {
            Reply::Array(COMMANDS.iter().map(Spec::info).collect())
        }
        Listing::Info(names) => {
            let info = |name: &Vec<u8>| find_any(name).map_or(Reply::Null, Spec::info);
            Reply::Array(names.iter().map(info).collect())
        }
        Listing::Docs(names) if names.is_empty() => {
            Reply::Map(COMMANDS.iter().map(Spec::docs).collect())
        }
        Listing::Docs(names) => {
            let found = names.iter().filter_map(|name| find_any(name));
            Reply::Map(found.map(Spec::docs).collect())
        }
    }
}

/// What `CLIENT HELP` and `COMMAND HELP` answer.
pub fn help(name: &str) -> Reply {
    let title = name.to_ascii_uppercase();
    let mut lines = vec![format!(
        "{title} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"
    )];
    let parts = find(name.as_bytes()).map_or(&[][..], |spec| spec.subcommands);
    for part in parts {
        let own = part.own_name().to_ascii_uppercase();
        let line = format!("{own} {}", usage(part.arguments, " "));
        lines.push(line.trim_end().to_owned());
        lines.push(format!("    {}.", part.summary));
    }
    Reply::Array(lines.into_iter().map(Reply::simple).collect())
}

/// The command, or the part of one, of this name.
fn find_any(name: &[u8]) -> Option<&'static Spec> {
    match name.iter().position(|&byte| byte == b'|') {
        None => find(name),
        Some(bar) => find(&name[..bar])?.subcommand(&name[bar + 1..]),
    }
}

impl Spec {
    /// May the command have so many arguments, names included?
    pub fn takes(&self, args: usize) -> bool {
        let least = self.arity.unsigned_abs() as usize;
        match self.arity < 0 {
            true => args >= least,
            false => args == least,
        }
    }

    /// The part of this name, in any case.
    pub fn subcommand(&self, name: &[u8]) -> Option<&'static Spec> {
        self.subcommands
            .iter()
            .find(|spec| name.eq_ignore_ascii_case(spec.own_name().as_bytes()))
    }

    /// Of a part: without the command's name.
    fn own_name(&self) -> &'static str {
        self.name.rsplit('|').next().unwrap_or_default()
    }

    /// Name, arity, flags, first key, last key, step, categories, tips, key specifications, parts.
    fn info(&self) -> Reply {
        Reply::Array(vec![
            Reply::bulk(self.name),
            Reply::Integer(i64::from(self.arity)),
            words(self.flags),
            Reply::Integer(0),
            Reply::Integer(0),
            Reply::Integer(0),
            words(self.categories),
            Reply::Array(vec![]),
            Reply::Array(vec![]),
            Reply::Array(self.subcommands.iter().map(Spec::info).collect()),
        ])
    }

    fn docs(&self) -> (Reply, Reply) {
        let mut docs = vec![
            entry("summary", Reply::bulk(self.summary)),
            entry("since", Reply::bulk("0.1.0")),
            entry("group", Reply::bulk(self.group)),
        ];
        if !self.arguments.is_empty() {
            let arguments = self.arguments.iter().map(Argument::docs).collect();
            docs.push(entry("arguments", Reply::Array(arguments)));
        }
        if !self.subcommands.is_empty() {
            let parts = self.subcommands.iter().map(Spec::docs).collect();
            docs.push(entry("subcommands", Reply::Map(parts)));
        }
        entry(self.name, Reply::Map(docs))
    }
}

impl Argument {
    fn docs(&self) -> Reply {
        let kind = match self.kind {
            Kind::Text => "string",
            Kind::Number => "integer",
            Kind::Token => "pure-token",
            Kind::OneOf(_) => "oneof",
            Kind::Block(_) => "block",
        };
        let mut docs = vec![
            entry("name", Reply::bulk(self.name)),
            entry("type", Reply::bulk(kind)),
        ];
        if !self.token.is_empty() {
            docs.push(entry("token", Reply::bulk(self.token)));
        }
        if !self.flags.is_empty() {
            docs.push(entry("flags", words(self.flags)));
        }
        if let Kind::OneOf(parts) | Kind::Block(parts) = self.kind {
            let parts = parts.iter().map(Argument::docs).collect();
            docs.push(entry("arguments", Reply::Array(parts)));
        }
        Reply::Map(docs)
    }
}

/// Arguments as a person writes them.
fn usage(arguments: &[Argument], separator: &str) -> String {
    let texts: Vec<_> = arguments.iter().map(Argument::to_string).collect();
    texts.join(separator)
}

impl fmt::Display for Argument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_optional = self.flags.contains(&"optional");
        f.write_str(if is_optional { "[" } else { "" })?;
        f.write_str(self.token)?;
        let gap = if self.token.is_empty() { "" } else { " " };
        match self.kind {
            Kind::Text | Kind::Number => write!(f, "{gap}<{}>", self.name)?,
            Kind::Token => {}
            Kind::OneOf(parts) => write!(f, "{gap}({})", usage(parts, "|"))?,
            Kind::Block(parts) => write!(f, "{gap}{}", usage(parts, " "))?,
        }
        let is_multiple = self.flags.contains(&"multiple");
        f.write_str(if is_multiple { " ..." } else { "" })?;
        f.write_str(if is_optional { "]" } else { "" })
    }
}

fn entry(key: &str, value: Reply) -> (Reply, Reply) {
    (Reply::bulk(key), value)
}

fn words(words: &[&'static str]) -> Reply {
    Reply::Set(words.iter().map(|word| Reply::simple(*word)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> impl Iterator<Item = &'static Spec> {
        COMMANDS
            .iter()
            .flat_map(|spec| std::iter::once(spec).chain(spec.subcommands))
    }

    fn names(names: &[&str]) -> Vec<Vec<u8>> {
        names.iter().map(|name| name.as_bytes().to_vec()).collect()
    }

    #[test]
    fn names_are_in_order_and_the_parts_carry_their_commands_name() {
        assert!(COMMANDS.is_sorted_by(|a, b| a.name < b.name));
        for spec in COMMANDS {
            for part in spec.subcommands {
                assert!(part.name.starts_with(&format!("{}|", spec.name)));
            }
        }
    }

    #[test]
    fn every_command_is_found_by_its_name_with_the_fewest_arguments_it_takes() {
        for spec in all() {
            let mut args = names(&spec.name.split('|').collect::<Vec<_>>());
            args.resize(spec.arity.unsigned_abs() as usize, b"x".to_vec());
            let found = command::find(&args);
            // That of CLIENT is a part that does not exist.
            if spec.name != "client" {
                assert_eq!(found.unwrap().spec.name, spec.name);
            }
        }
    }

    #[test]
    fn commands_before_authentication_are_those_that_say_so() {
        let free: Vec<_> = all().filter(|spec| spec.needs == Needs::Nothing).collect();
        let names: Vec<_> = free.iter().map(|spec| spec.name).collect();
        assert_eq!(names, ["auth", "hello", "quit", "reset"]);
        assert!(free.iter().all(|spec| spec.flags.contains(&"no_auth")));
    }

    #[test]
    fn help_names_every_part_with_its_arguments() {
        let Reply::Array(lines) = help("client") else {
            panic!("an array")
        };
        let lines: Vec<_> = lines.iter().map(|line| format!("{line:?}")).collect();
        let has = |text: &str| lines.iter().any(|line| line.contains(text));
        assert!(has(
            "CLIENT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"
        ));
        assert!(has("\"SETNAME <connection-name>\""), "{lines:?}");
        assert!(
            has("\"LIST [TYPE (NORMAL|MASTER|REPLICA|PUBSUB)] [ID <client-id> ...]\""),
            "{lines:?}"
        );
        assert!(
            has("\"SETINFO (LIB-NAME <libname>|LIB-VER <libver>)\""),
            "{lines:?}"
        );
    }

    #[test]
    fn command_tells_arity_and_flags() {
        let Reply::Array(found) = answer(&Listing::Info(names(&["ECHO", "nope", "command|count"])))
        else {
            panic!("an array")
        };
        assert_eq!(found.len(), 3);
        let Reply::Array(echo) = &found[0] else {
            panic!("an array")
        };
        assert_eq!(echo.len(), 10);
        assert_eq!(echo[..2], [Reply::bulk("echo"), Reply::Integer(2)]);
        assert_eq!(found[1], Reply::Null);
        assert_ne!(found[2], Reply::Null);
        assert_eq!(
            answer(&Listing::Count),
            Reply::Integer(COMMANDS.len() as i64)
        );
    }

    #[test]
    fn docs_of_unknown_commands_are_left_out() {
        let Reply::Map(found) = answer(&Listing::Docs(names(&["nope", "ping"]))) else {
            panic!("a map")
        };
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].0, Reply::bulk("ping"));
    }
}

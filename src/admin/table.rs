//! The commands that exist, and what `COMMAND` tells clients of them: redis-cli takes its hints from here, libraries the
//! arity. A new command is one entry here, one function in `command`, one arm in the parent module.

use super::command::{self, Command, CommandError, Listing};
use crate::resp::Reply;

/// What is known of a command.
#[derive(Debug)]
pub struct Spec {
    /// Lower case; `command|part` for a part of one.
    pub name: &'static str,
    /// Arguments with the name (both names of a part); negative: at least so many.
    arity: i32,
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

/// What is known of an argument.
#[derive(Debug)]
struct Argument {
    name: &'static str,
    /// `string`, or `pure-token` for a fixed word.
    kind: &'static str,
    token: Option<&'static str>,
    flags: &'static [&'static str],
}

impl Argument {
    const fn string(name: &'static str, flags: &'static [&'static str]) -> Self {
        Self {
            name,
            kind: "string",
            token: None,
            flags,
        }
    }
}

/// All commands.
static COMMANDS: &[Spec] = &[
    Spec {
        name: "command",
        arity: -1,
        flags: &["loading", "stale"],
        categories: &["@slow", "@connection"],
        group: "server",
        summary: "Describe all commands",
        arguments: &[],
        subcommands: &[
            Spec {
                name: "command|count",
                arity: 2,
                flags: &["loading", "stale"],
                categories: &["@slow", "@connection"],
                group: "server",
                summary: "Count the commands",
                arguments: &[],
                subcommands: &[],
                build: command::command_count,
            },
            Spec {
                name: "command|docs",
                arity: -2,
                flags: &["loading", "stale"],
                categories: &["@slow", "@connection"],
                group: "server",
                summary: "Document all or some commands",
                arguments: &[Argument::string("command-name", &["optional", "multiple"])],
                subcommands: &[],
                build: command::command_docs,
            },
            Spec {
                name: "command|info",
                arity: -2,
                flags: &["loading", "stale"],
                categories: &["@slow", "@connection"],
                group: "server",
                summary: "Describe all or some commands",
                arguments: &[Argument::string("command-name", &["optional", "multiple"])],
                subcommands: &[],
                build: command::command_info,
            },
            Spec {
                name: "command|list",
                arity: 2,
                flags: &["loading", "stale"],
                categories: &["@slow", "@connection"],
                group: "server",
                summary: "List the names of the commands",
                arguments: &[],
                subcommands: &[],
                build: command::command_list,
            },
        ],
        build: command::command_info,
    },
    Spec {
        name: "echo",
        arity: 2,
        flags: &["loading", "stale", "fast"],
        categories: &["@fast", "@connection"],
        group: "connection",
        summary: "Return the message",
        arguments: &[Argument::string("message", &[])],
        subcommands: &[],
        build: command::echo,
    },
    Spec {
        name: "info",
        arity: -1,
        flags: &["loading", "stale"],
        categories: &["@slow", "@dangerous"],
        group: "server",
        summary: "Show the state of the daemon, its workers and its queues",
        arguments: &[Argument::string("section", &["optional", "multiple"])],
        subcommands: &[],
        build: command::info,
    },
    Spec {
        name: "ping",
        arity: -1,
        flags: &["fast"],
        categories: &["@fast", "@connection"],
        group: "connection",
        summary: "Ask the daemon for a sign of life",
        arguments: &[Argument::string("message", &["optional"])],
        subcommands: &[],
        build: command::ping,
    },
    Spec {
        name: "quit",
        arity: -1,
        flags: &[
            "noscript",
            "loading",
            "stale",
            "fast",
            "no_auth",
            "allow_busy",
        ],
        categories: &["@fast", "@connection"],
        group: "connection",
        summary: "Close the connection",
        arguments: &[],
        subcommands: &[],
        build: command::quit,
    },
    Spec {
        name: "shutdown",
        arity: -1,
        flags: &["admin", "noscript", "loading", "stale"],
        categories: &["@admin", "@slow", "@dangerous"],
        group: "server",
        summary: "Finish the jobs in hand and stop the daemon; NOW does not wait for them",
        arguments: &[Argument {
            name: "now",
            kind: "pure-token",
            token: Some("NOW"),
            flags: &["optional"],
        }],
        subcommands: &[],
        build: command::shutdown,
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
        self.subcommands.iter().find(|spec| {
            let part = spec.name.rsplit('|').next().unwrap_or_default();
            name.eq_ignore_ascii_case(part.as_bytes())
        })
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
        let mut docs = vec![
            entry("name", Reply::bulk(self.name)),
            entry("type", Reply::bulk(self.kind)),
        ];
        if let Some(token) = self.token {
            docs.push(entry("token", Reply::bulk(token)));
        }
        if !self.flags.is_empty() {
            docs.push(entry("flags", words(self.flags)));
        }
        Reply::Map(docs)
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
    fn every_command_is_understood_with_the_fewest_arguments_it_takes() {
        for spec in all() {
            let mut args = names(&spec.name.split('|').collect::<Vec<_>>());
            args.resize(spec.arity.unsigned_abs() as usize, b"x".to_vec());
            assert!(command::parse(&args).is_ok(), "{}", spec.name);
        }
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

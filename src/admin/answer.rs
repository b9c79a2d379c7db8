//! What commands are answered: a [`Desk`] is what a client is served at, with all that answers are made of. Each answer is
//! there at once; what takes time is an order, for the master.

use super::access::{Access, Refusals, Role};
use super::client::{Answer, Client};
use super::command::{self, Attribute, Command};
use super::filter::Filter;
use super::greeting::{Hello, Login};
use super::session::{Session, Standing};
use super::snapshot::{self, Snapshot};
use super::table::{self, Needs};
use super::{info, session};
use crate::resp::{Protocol, Reply};
use crate::supervisor::Order;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

const NO_AUTHENTICATION: &str = "NOAUTH Authentication required.";

const NO_AUTHENTICATION_HELLO: &str = "NOAUTH HELLO must be called with the client already authenticated, otherwise the \
    HELLO AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the \
    same time";

const NO_PASSWORD: &str = "ERR AUTH <password> called without any password configured for the default user. Are you \
    sure your configuration is correct?";

const WRONG_PASSWORD: &str = "WRONGPASS invalid username-password pair or user is disabled.";

/// What answers are made of, and what follows from commands beside an answer.
pub(super) struct Desk<'a> {
    pub access: &'a Access,
    pub refusals: &'a mut Refusals,
    pub figures: &'a mut snapshot::Clients,
    /// All clients but the one that is served.
    pub others: &'a mut [Option<Box<Client>>],
    pub snapshot: &'a mut dyn FnMut() -> Snapshot,
    pub orders: &'a mut Vec<Order>,
    pub now: Instant,
}

impl Desk<'_> {
    /// Answers one command of this client.
    pub fn answer(&mut self, session: &mut Session, args: &[Vec<u8>]) -> Answer {
        self.figures.commands_processed += 1;
        session.asked_at = self.now;
        self.obey(session, args)
            .unwrap_or_else(|error| Answer::Reply(Reply::error(error)))
    }

    fn obey(&mut self, session: &mut Session, args: &[Vec<u8>]) -> Result<Answer, String> {
        let found = command::find(args);
        // A stranger does not even get to know which commands there are.
        let needs = found.as_ref().map_or(Needs::Look, |found| found.spec.needs);
        if needs != Needs::Nothing && matches!(session.standing, Standing::Stranger { .. }) {
            return Err(NO_AUTHENTICATION.into());
        }
        let found = found.map_err(|error| error.to_string())?;
        session.command = found.spec.name;
        if needs == Needs::Steer && session.standing != Standing::Known(Role::Full) {
            return Err(no_permission(found.spec.name));
        }
        let command = found.understand().map_err(|error| error.to_string())?;
        self.carry_out(session, command)
    }

    fn carry_out(&mut self, session: &mut Session, command: Command) -> Result<Answer, String> {
        Ok(Answer::Reply(match command {
            Command::Ping(None) => Reply::simple("PONG"),
            Command::Ping(Some(message)) | Command::Echo(message) => Reply::Bulk(message),
            Command::Quit => return Ok(Answer::Farewell(Reply::OK)),
            Command::Time => time(),
            Command::Info(sections) => {
                let snapshot = Snapshot {
                    clients: *self.figures,
                    ..(self.snapshot)()
                };
                Reply::Verbatim(info::render(&snapshot, &sections))
            }
            Command::Shutdown => self.order(Order::Shutdown),
            Command::ShutdownNow => self.order(Order::ShutdownNow),
            Command::Describe(listing) => table::answer(&listing),
            Command::Help(name) => table::help(name),
            Command::Auth(login) => {
                self.authenticate(session, &login)?;
                Reply::OK
            }
            Command::Hello(hello) => self.hello(session, hello)?,
            Command::Select => Reply::OK,
            Command::Reset => self.reset(session),
            Command::ClientId => Reply::Integer(session.id as i64),
            Command::ClientInfo => Reply::Verbatim(format!("{}\n", session.line(self.now))),
            Command::ClientList(filter) => self.list(session, &filter),
            Command::ClientKill(filter) => return self.kill(session, &filter),
            Command::ClientKillAddress(filter) => return self.kill_address(session, &filter),
            Command::ClientGetName if session.name.is_empty() => Reply::Null,
            Command::ClientGetName => Reply::bulk(session.name.to_string()),
            Command::ClientSet(attribute, label) => {
                *match attribute {
                    Attribute::Name => &mut session.name,
                    Attribute::LibraryName => &mut session.library_name,
                    Attribute::LibraryVersion => &mut session.library_version,
                } = label;
                Reply::OK
            }
        }))
    }

    fn order(&mut self, order: Order) -> Reply {
        self.orders.push(order);
        Reply::OK
    }

    fn authenticate(&mut self, session: &mut Session, login: &Login) -> Result<(), String> {
        if login.user.is_none() && self.access.is_open() {
            return Err(NO_PASSWORD.into());
        }
        let user = login.user.as_deref();
        let role = self
            .access
            .role(user.unwrap_or(Role::Full.user().as_bytes()), login.password);
        let Some(role) = role else {
            if let Some(untold) = self.refusals.count(self.now) {
                let addr = &session.ends.remote;
                log::warn!("admin password refused addr={addr} untold={untold}");
            }
            return Err(WRONG_PASSWORD.into());
        };
        session.standing = Standing::Known(role);
        Ok(())
    }

    /// Nothing changes unless all of it is right, but that who has authenticated has.
    fn hello(&mut self, session: &mut Session, hello: Hello) -> Result<Reply, String> {
        if let Some(login) = &hello.login {
            self.authenticate(session, login)?;
        }
        if matches!(session.standing, Standing::Stranger { .. }) {
            return Err(NO_AUTHENTICATION_HELLO.into());
        }
        if let Some(name) = hello.name {
            session.name = name;
        }
        session.protocol = hello.protocol.unwrap_or(session.protocol);
        let version = match session.protocol {
            Protocol::Resp2 => 2,
            Protocol::Resp3 => 3,
        };
        let entry = |key: &str, value| (Reply::bulk(key), value);
        Ok(Reply::Map(vec![
            entry("server", Reply::bulk("stark")),
            entry("version", Reply::bulk(env!("CARGO_PKG_VERSION"))),
            entry("proto", Reply::Integer(version)),
            entry("id", Reply::Integer(session.id as i64)),
            entry("mode", Reply::bulk("standalone")),
            entry("role", Reply::bulk("master")),
            entry("modules", Reply::Array(vec![])),
        ]))
    }

    /// What the library is stays known: it is still the same one.
    fn reset(&self, session: &mut Session) -> Reply {
        session.standing = Standing::at_first(self.access, self.now);
        session.protocol = Protocol::default();
        session.name = session::Label::default();
        Reply::simple("RESET")
    }

    fn list(&self, asking: &Session, filter: &Filter) -> Reply {
        let others = self.others.iter().flatten();
        let mut sessions: Vec<&Session> = others
            .filter(|client| !client.is_killed())
            .map(|client| &client.session)
            .chain([asking])
            .filter(|session| filter.fits(session, asking.id))
            .collect();
        sessions.sort_unstable_by_key(|session| session.id);
        let lines = sessions.iter().map(|session| session.line(self.now));
        Reply::Verbatim(lines.map(|line| format!("{line}\n")).collect())
    }

    fn kill(&mut self, asking: &Session, filter: &Filter) -> Result<Answer, String> {
        let (others, is_suicide) = self.kill_fitting(asking, filter)?;
        let killed = others + usize::from(is_suicide);
        Ok(answer_of_kill(is_suicide, Reply::Integer(killed as i64)))
    }

    fn kill_address(&mut self, asking: &Session, filter: &Filter) -> Result<Answer, String> {
        match self.kill_fitting(asking, filter)? {
            (0, false) => Err("ERR No such client".into()),
            (_, is_suicide) => Ok(answer_of_kill(is_suicide, Reply::OK)),
        }
    }

    /// How many others were killed, and whether the client that asks means itself, too. The read-only user may close only
    /// the connection he is on.
    fn kill_fitting(&mut self, asking: &Session, filter: &Filter) -> Result<(usize, bool), String> {
        let others = self.others.iter_mut().flatten();
        let doomed: Vec<&mut Box<Client>> = others
            .filter(|client| !client.is_killed() && filter.fits(&client.session, asking.id))
            .collect();
        if !doomed.is_empty() && asking.standing != Standing::Known(Role::Full) {
            return Err(no_permission("client|kill"));
        }
        let count = doomed.len();
        doomed.into_iter().for_each(|client| client.kill());
        Ok((count, filter.fits(asking, asking.id)))
    }
}

/// Who closed its own connection gets the answer first.
fn answer_of_kill(is_suicide: bool, reply: Reply) -> Answer {
    match is_suicide {
        true => Answer::Farewell(reply),
        false => Answer::Reply(reply),
    }
}

fn no_permission(command: &str) -> String {
    format!("NOPERM this user has no permissions to run the '{command}' command")
}

fn time() -> Reply {
    // Before 1970 only on a machine whose clock is not set.
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Reply::Array(vec![
        Reply::bulk(now.as_secs().to_string()),
        Reply::bulk(now.subsec_micros().to_string()),
    ])
}

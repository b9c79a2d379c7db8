//! The admin port: its listeners and their clients on the master's poll. It never blocks and never acts: it answers what it
//! can from its own tables and the master's [`Snapshot`], and hands orders to the master.
//!
//! The master's loop gives it every event ([`Admin::collect`]), then one turn ([`Admin::turn`]), and lets
//! [`Admin::next_deadline`] bound its waiting. Limits hold per client; who breaks one is closed, and nobody else notices.

mod acceptor;
mod access;
mod answer;
mod client;
mod command;
mod filter;
mod greeting;
mod info;
mod listener;
mod session;
pub mod snapshot;
mod stream;
mod table;

use crate::resp::{CommandLimits, Reply};
use crate::supervisor::Order;
pub use access::Access;
use access::Refusals;
use answer::Desk;
use client::{Client, Gone, READ_BYTES};
use listener::Listener;
use mio::event::Event;
use mio::{Registry, Token};
use session::{Ends, Session, Standing};
pub use snapshot::Snapshot;
use std::io::{self, Write};
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::time::Instant;
use stream::Stream;

/// Connections accepted from each listener in one turn.
const TURN_ACCEPTS: usize = 64;

/// A turn of all clients ends when it made so many bytes of replies: a thousand clients that want to know of each other
/// must not keep the master from its workers for seconds.
const TURN_REPLY_BYTES: usize = 1024 * 1024;

/// Tokens of the poll that are kept for listeners.
const MAX_LISTENERS: usize = 2;

const NO_PLACE: &str = "ERR max number of clients reached";

/// What a client may have and do.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time.
    pub max_clients: usize,
    /// Replies that a client has not read, in bytes; more close it.
    pub unread_bytes: usize,
    /// One command.
    pub command: CommandLimits,
}

impl Limits {
    /// The limits that the documentation names, for so many clients.
    pub fn new(max_clients: usize) -> Self {
        const COMMAND_BYTES: usize = 64 * 1024;
        Self {
            max_clients,
            unread_bytes: 1024 * 1024,
            command: CommandLimits {
                line: 64,
                inline: COMMAND_BYTES,
                args: 1024,
                bulk: COMMAND_BYTES,
                command: COMMAND_BYTES,
            },
        }
    }
}

/// Where clients come in.
#[derive(Debug)]
pub struct Listeners {
    /// At `main.host` and `main.port`.
    pub tcp: TcpListener,
    /// At `main.unixsocket`.
    pub unix: Option<UnixListener>,
}

/// The admin port.
#[derive(Debug)]
pub struct Admin {
    /// Empty: closed.
    listeners: Vec<Listener>,
    /// The first listener's token; the client in place `i` has token `first_token + MAX_LISTENERS + i`.
    first_token: usize,
    /// As many places as clients are allowed. Boxed: an empty place costs a pointer.
    clients: Vec<Option<Box<Client>>>,
    /// Whose turn it is first, so that everybody has his.
    first_place: usize,
    limits: Limits,
    access: Access,
    refusals: Refusals,
    figures: snapshot::Clients,
    scratch: Box<[u8; READ_BYTES]>,
}

impl Admin {
    /// Puts the listeners on the poll. All tokens from `first_token` on are the admin port's.
    ///
    /// # Errors
    ///
    /// A listener cannot be watched.
    pub fn new(
        listeners: Listeners,
        registry: &Registry,
        first_token: usize,
        limits: Limits,
        access: Access,
    ) -> io::Result<Self> {
        let tcp = Listener::tcp(listeners.tcp, registry, Token(first_token))?;
        let unix = listeners
            .unix
            .map(|socket| Listener::unix(socket, registry, Token(first_token + 1)));
        Ok(Self {
            listeners: std::iter::once(tcp).chain(unix.transpose()?).collect(),
            first_token,
            first_place: 0,
            clients: std::iter::repeat_with(|| None)
                .take(limits.max_clients)
                .collect(),
            limits,
            access,
            refusals: Refusals::default(),
            figures: snapshot::Clients {
                max: limits.max_clients,
                ..snapshot::Clients::default()
            },
            scratch: Box::new([0; READ_BYTES]),
        })
    }

    /// Remembers what an event of the poll tells. False: the event is not the admin port's.
    pub fn collect(&mut self, event: &Event) -> bool {
        let Some(number) = event.token().0.checked_sub(self.first_token) else {
            return false;
        };
        match number.checked_sub(MAX_LISTENERS) {
            None => {
                if let Some(listener) = self.listeners.get_mut(number) {
                    listener.wake();
                }
            }
            Some(place) if place >= self.clients.len() => return false,
            Some(place) => {
                if let Some(client) = &mut self.clients[place] {
                    // An error is met, and named, by reading.
                    match event.is_readable() || event.is_read_closed() || event.is_error() {
                        true => client.readable(),
                        false => client.writable(),
                    }
                }
            }
        }
        true
    }

    /// Does what there is to do, for each client a bounded piece of it, and returns the orders that were given. Their
    /// `OK` is sent already, as far as the client's socket takes it.
    pub fn turn(
        &mut self,
        registry: &Registry,
        now: Instant,
        snapshot: &mut dyn FnMut() -> Snapshot,
    ) -> Vec<Order> {
        let mut orders = Vec::new();
        // Clients first: a place that is left can be taken in the same turn.
        let mut reply_bytes = 0;
        let places = self.clients.len();
        for place in (self.first_place..places).chain(0..self.first_place) {
            reply_bytes += self.turn_of(place, registry, now, snapshot, &mut orders);
            if reply_bytes >= TURN_REPLY_BYTES {
                self.first_place = (place + 1) % places;
                break;
            }
        }
        for number in 0..self.listeners.len() {
            self.accept(number, registry, now);
        }
        orders
    }

    /// When the next turn is due without an event: `now` if work was left, none if there is nothing to wait for.
    pub fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let clients = self.clients.iter().flatten();
        let clients = clients.filter_map(|client| match client.has_work() {
            true => Some(now),
            false => client.session.login_deadline(),
        });
        let listeners = self.listeners.iter();
        let listeners = listeners.filter_map(|listener| listener.next_deadline(now));
        clients.chain(listeners).min()
    }

    /// Closes the listeners and every client, after one last try to send what they wait for. Further calls do nothing.
    pub fn close(&mut self, registry: &Registry) {
        for mut listener in self.listeners.drain(..) {
            listener.deregister(registry);
        }
        for place in 0..self.clients.len() {
            if let Some(client) = &mut self.clients[place] {
                let why = client.send().err().unwrap_or(Gone::Closed);
                self.remove(place, registry, &why);
            }
        }
    }

    /// Answers how many bytes of replies were made.
    fn turn_of(
        &mut self,
        place: usize,
        registry: &Registry,
        now: Instant,
        snapshot: &mut dyn FnMut() -> Snapshot,
        orders: &mut Vec<Order>,
    ) -> usize {
        let is_due = |client: &mut Box<Client>| {
            let deadline = client.session.login_deadline();
            client.has_work() || deadline.is_some_and(|deadline| deadline <= now)
        };
        // Taken out, so that it can be served with a view on all the others.
        let Some(mut client) = self.clients[place].take_if(is_due) else {
            return 0;
        };
        let mut outcome = Ok(0);
        if client.has_work() {
            let mut desk = Desk {
                access: &self.access,
                refusals: &mut self.refusals,
                figures: &mut self.figures,
                others: &mut self.clients,
                snapshot,
                orders,
                now,
            };
            let mut answer = |session: &mut Session, args: &[Vec<u8>]| desk.answer(session, args);
            outcome = client.turn(registry, &mut self.scratch, &mut answer);
        }
        let deadline = client.session.login_deadline();
        if outcome.is_ok() && deadline.is_some_and(|deadline| deadline <= now) {
            client.dismiss(Reply::error("ERR not authenticated in time"));
            outcome = Err(Gone::Login);
        }
        self.clients[place] = Some(client);
        outcome.unwrap_or_else(|why| {
            self.remove(place, registry, &why);
            0
        })
    }

    fn accept(&mut self, number: usize, registry: &Registry, now: Instant) {
        for _ in 0..TURN_ACCEPTS {
            let Some((stream, ends)) = self.listeners[number].accept(now) else {
                return;
            };
            self.welcome(stream, ends, registry, now);
        }
    }

    fn welcome(&mut self, mut stream: Stream, ends: Ends, registry: &Registry, now: Instant) {
        let Some(place) = self.place(registry) else {
            log::debug!(
                "client refused addr={} limit={}",
                ends.remote,
                self.figures.max
            );
            // To be read if the client is quick; a full socket is no reason to wait.
            let _ = stream.write(format!("-{NO_PLACE}\r\n").as_bytes());
            return;
        };
        let addr = ends.remote.clone();
        let id = self.figures.connections_received + 1;
        let standing = Standing::at_first(&self.access, now);
        let session = Session::new(id, ends, stream.as_raw_fd(), standing, now);
        let token = Token(self.first_token + MAX_LISTENERS + place);
        match Client::new(stream, session, registry, token, &self.limits) {
            Ok(client) => {
                log::debug!("client connected addr={addr} id={id}");
                self.clients[place] = Some(Box::new(client));
                self.figures.connected += 1;
                self.figures.connections_received += 1;
            }
            Err(error) => log::debug!("client lost addr={addr} err={:?}", error.to_string()),
        }
    }

    /// A free place. If there is none, the one of the client that owes its password for the longest time: who has none
    /// must not be able to keep those out who have one.
    fn place(&mut self, registry: &Registry) -> Option<usize> {
        if let Some(free) = self.clients.iter().position(Option::is_none) {
            return Some(free);
        }
        let clients = self.clients.iter().enumerate();
        let strangers = clients.filter_map(|(place, client)| {
            let deadline = client.as_ref()?.session.login_deadline()?;
            Some((deadline, place))
        });
        let (_, place) = strangers.min()?;
        if let Some(client) = &mut self.clients[place] {
            client.dismiss(Reply::error(NO_PLACE));
        }
        self.remove(place, registry, &Gone::Evicted);
        Some(place)
    }

    fn remove(&mut self, place: usize, registry: &Registry, why: &Gone) {
        if let Some(mut client) = self.clients[place].take() {
            let Session { id, ends, .. } = &client.session;
            let why = why.to_string();
            log::debug!("client gone addr={} id={id} reason={why:?}", ends.remote);
            client.deregister(registry);
            self.figures.connected -= 1;
            for listener in &mut self.listeners {
                listener.client_left();
            }
        }
    }
}

#[cfg(test)]
mod tests;

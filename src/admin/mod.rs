//! The admin port: a listener and its clients on the master's poll. It never blocks and never acts: it answers what it
//! can from its own tables and the master's [`Snapshot`], and hands orders to the master.
//!
//! The master's loop gives it every event ([`Admin::collect`]), then one turn ([`Admin::turn`]), and lets
//! [`Admin::next_deadline`] bound its waiting. Limits hold per client; who breaks one is closed, and nobody else notices.

mod acceptor;
mod client;
mod command;
mod info;
pub mod snapshot;
mod table;

use crate::resp::{CommandLimits, Reply};
use crate::supervisor::Order;
use acceptor::Acceptor;
use client::{Answer, Client, Gone, READ_BYTES};
use command::Command;
use mio::event::Event;
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
pub use snapshot::Snapshot;
use std::io::{self, ErrorKind, Write};
use std::net::SocketAddr;
use std::time::Instant;

/// Connections accepted in one turn.
const TURN_ACCEPTS: usize = 64;

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

/// The admin port.
#[derive(Debug)]
pub struct Admin {
    /// None: closed.
    listener: Option<TcpListener>,
    acceptor: Acceptor,
    /// The listener's token; the client in place `i` has token `first_token + 1 + i`.
    first_token: usize,
    /// As many places as clients are allowed.
    clients: Vec<Option<Client>>,
    limits: Limits,
    figures: snapshot::Clients,
    /// Accepts that failed since the last one that did not.
    failed_accepts: u64,
    scratch: Box<[u8; READ_BYTES]>,
}

impl Admin {
    /// Puts the listener on the poll. Tokens from `first_token` to `first_token + limits.max_clients`, both included, are
    /// the admin port's.
    ///
    /// # Errors
    ///
    /// The listener cannot be watched.
    pub fn new(
        listener: std::net::TcpListener,
        registry: &Registry,
        first_token: usize,
        limits: Limits,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let mut listener = TcpListener::from_std(listener);
        registry.register(&mut listener, Token(first_token), Interest::READABLE)?;
        Ok(Self {
            listener: Some(listener),
            acceptor: Acceptor::Ready,
            first_token,
            clients: std::iter::repeat_with(|| None)
                .take(limits.max_clients)
                .collect(),
            limits,
            figures: snapshot::Clients {
                max: limits.max_clients,
                ..snapshot::Clients::default()
            },
            failed_accepts: 0,
            scratch: Box::new([0; READ_BYTES]),
        })
    }

    /// Remembers what an event of the poll tells. False: the event is not the admin port's.
    pub fn collect(&mut self, event: &Event) -> bool {
        let Some(place) = event.token().0.checked_sub(self.first_token) else {
            return false;
        };
        if place == 0 {
            self.acceptor.wake();
        } else if place > self.clients.len() {
            return false;
        } else if let Some(client) = &mut self.clients[place - 1] {
            // An error is met, and named, by reading.
            client.wake(event.is_readable() || event.is_read_closed() || event.is_error());
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
        for place in 0..self.clients.len() {
            self.turn_of(place, registry, snapshot, &mut orders);
        }
        if self.acceptor.is_due(now) {
            self.accept(registry, now);
        }
        orders
    }

    /// When the next turn is due without an event: `now` if work was left, none if there is nothing to wait for.
    pub fn next_deadline(&self, now: Instant) -> Option<Instant> {
        match self.clients.iter().flatten().any(Client::has_work) {
            true => Some(now),
            false => self.acceptor.next_deadline(now),
        }
    }

    /// Closes the listener and every client, after one last try to send what they wait for. Further calls do nothing.
    pub fn close(&mut self, registry: &Registry) {
        self.acceptor = Acceptor::Closed;
        if let Some(mut listener) = self.listener.take() {
            // A descriptor that is closed leaves the poll anyway, unless a forked process holds a copy.
            let _ = registry.deregister(&mut listener);
        }
        for place in 0..self.clients.len() {
            if let Some(client) = &mut self.clients[place] {
                let why = client.send().err().unwrap_or(Gone::Closed);
                self.remove(place, registry, &why);
            }
        }
    }

    fn turn_of(
        &mut self,
        place: usize,
        registry: &Registry,
        snapshot: &mut dyn FnMut() -> Snapshot,
        orders: &mut Vec<Order>,
    ) {
        let Some(client) = &mut self.clients[place] else {
            return;
        };
        if !client.has_work() {
            return;
        }
        let figures = &mut self.figures;
        let mut answer = |args: &[Vec<u8>]| {
            figures.commands_processed += 1;
            answer(args, *figures, snapshot, orders)
        };
        if let Err(why) = client.turn(registry, &mut self.scratch, &mut answer) {
            self.remove(place, registry, &why);
        }
    }

    fn accept(&mut self, registry: &Registry, now: Instant) {
        for _ in 0..TURN_ACCEPTS {
            let Some(listener) = &self.listener else {
                return;
            };
            match listener.accept() {
                Ok((stream, address)) => {
                    self.accepted();
                    self.welcome(stream, address, registry);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return self.acceptor.exhausted();
                }
                // The client gave up while it waited: the next one may be there.
                Err(error) if is_of_the_client(&error) => {}
                Err(error) => return self.accept_failed(&error, now),
            }
        }
    }

    fn accepted(&mut self) {
        if self.failed_accepts > 0 {
            log::warn!("admin accepts again failed={}", self.failed_accepts);
            self.failed_accepts = 0;
        }
        self.acceptor = Acceptor::Ready;
    }

    /// Out of descriptors or memory, most likely: said once, tried again after a pause.
    fn accept_failed(&mut self, error: &io::Error, now: Instant) {
        if self.failed_accepts == 0 {
            log::warn!("admin cannot accept err={error}");
        }
        self.failed_accepts += 1;
        self.acceptor.failed(now);
    }

    fn welcome(&mut self, mut stream: TcpStream, address: SocketAddr, registry: &Registry) {
        let Some(place) = self.clients.iter().position(Option::is_none) else {
            log::debug!("client refused addr={address} limit={}", self.figures.max);
            // To be read if the client is quick; a full socket is no reason to wait.
            let _ = stream.write(b"-ERR max number of clients reached\r\n");
            return;
        };
        let token = Token(self.first_token + 1 + place);
        match Client::new(stream, address, registry, token, &self.limits) {
            Ok(client) => {
                log::debug!("client connected addr={address}");
                self.clients[place] = Some(client);
                self.figures.connected += 1;
                self.figures.connections_received += 1;
            }
            Err(error) => log::debug!("client lost addr={address} err={error}"),
        }
    }

    fn remove(&mut self, place: usize, registry: &Registry, why: &Gone) {
        if let Some(mut client) = self.clients[place].take() {
            log::debug!("client gone addr={} reason=\"{why}\"", client.address());
            client.deregister(registry);
            self.figures.connected -= 1;
            self.acceptor.client_left();
        }
    }
}

/// Errors of `accept` that belong to the connection, not to the listener.
fn is_of_the_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Interrupted | ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset
    )
}

/// What a command is answered.
fn answer(
    args: &[Vec<u8>],
    figures: snapshot::Clients,
    snapshot: &mut dyn FnMut() -> Snapshot,
    orders: &mut Vec<Order>,
) -> Answer {
    let command = match command::parse(args) {
        Ok(command) => command,
        Err(error) => return Answer::Reply(Reply::error(error.to_string())),
    };
    Answer::Reply(match command {
        Command::Ping(None) => Reply::simple("PONG"),
        Command::Ping(Some(message)) | Command::Echo(message) => Reply::Bulk(message),
        Command::Quit => return Answer::Farewell(Reply::OK),
        Command::Info(sections) => {
            let snapshot = Snapshot {
                clients: figures,
                ..snapshot()
            };
            Reply::bulk(info::render(&snapshot, &sections))
        }
        Command::Shutdown => {
            orders.push(Order::Shutdown);
            Reply::OK
        }
        Command::ShutdownNow => {
            orders.push(Order::ShutdownNow);
            Reply::OK
        }
        Command::Describe(listing) => table::answer(&listing),
    })
}

#[cfg(test)]
mod tests;

//! One of the sockets that the admin port listens at. Accepts for a bounded time; what becomes of a connection is the
//! parent module's.

use super::acceptor::Acceptor;
use super::session::Ends;
use super::stream::Stream;
use mio::net::{TcpListener, UnixListener};
use mio::{Interest, Registry, Token};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Instant;

/// A listening socket.
#[derive(Debug)]
pub(super) struct Listener {
    socket: Socket,
    /// As clients' lines show it, and the log.
    address: String,
    acceptor: Acceptor,
    /// Accepts that failed since the last one that did not.
    failed: u64,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// Watches a TCP socket.
    pub fn tcp(
        socket: std::net::TcpListener,
        registry: &Registry,
        token: Token,
    ) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?.to_string();
        let mut socket = TcpListener::from_std(socket);
        registry.register(&mut socket, token, Interest::READABLE)?;
        Ok(Self::new(Socket::Tcp(socket), address))
    }

    /// Watches a Unix socket.
    pub fn unix(
        socket: std::os::unix::net::UnixListener,
        registry: &Registry,
        token: Token,
    ) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        let path = address.as_pathname().map_or("?".into(), |path| {
            // A line of `CLIENT LIST` has its fields between spaces.
            let path = path.to_string_lossy();
            path.replace(|c: char| c.is_control() || c == ' ', "?")
        });
        let mut socket = UnixListener::from_std(socket);
        registry.register(&mut socket, token, Interest::READABLE)?;
        Ok(Self::new(Socket::Unix(socket), format!("unix:{path}")))
    }

    fn new(socket: Socket, address: String) -> Self {
        Self {
            socket,
            address,
            acceptor: Acceptor::Ready,
            failed: 0,
        }
    }

    /// The poll reported the socket.
    pub fn wake(&mut self) {
        self.acceptor.wake();
    }

    /// A client left, and with it a descriptor.
    pub fn client_left(&mut self) {
        self.acceptor.client_left();
    }

    /// When there is something to accept, as far as is known.
    pub fn next_deadline(&self, now: Instant) -> Option<Instant> {
        self.acceptor.next_deadline(now)
    }

    /// The next connection that waits; none for now.
    pub fn accept(&mut self, now: Instant) -> Option<(Stream, Ends)> {
        while self.acceptor.is_due(now) {
            let accepted = match &self.socket {
                Socket::Tcp(socket) => socket.accept().map(tcp),
                Socket::Unix(socket) => socket.accept().map(|(stream, _)| self.unix_client(stream)),
            };
            match accepted {
                Ok(connection) => {
                    self.succeeded();
                    return Some(connection);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.acceptor.exhausted(),
                // The client gave up while it waited: the next one may be there.
                Err(error) if is_of_the_client(&error) => {}
                Err(error) => self.failed(&error, now),
            }
        }
        None
    }

    fn unix_client(&self, stream: mio::net::UnixStream) -> (Stream, Ends) {
        let ends = Ends {
            remote: self.address.clone(),
            local: self.address.clone(),
            is_unix: true,
        };
        (Stream::Unix(stream), ends)
    }

    fn succeeded(&mut self) {
        if self.failed > 0 {
            log::warn!(
                "admin accepts again addr={} failed={}",
                self.address,
                self.failed
            );
            self.failed = 0;
        }
        self.acceptor = Acceptor::Ready;
    }

    /// Out of descriptors or memory, most likely: said once, tried again after a pause.
    fn failed(&mut self, error: &io::Error, now: Instant) {
        if self.failed == 0 {
            log::warn!("admin cannot accept addr={} err={error}", self.address);
        }
        self.failed += 1;
        self.acceptor.failed(now);
    }

    /// Takes the socket out of the poll; dropping the listener closes it.
    pub fn deregister(&mut self, registry: &Registry) {
        // A descriptor that is closed leaves the poll anyway, unless a forked process holds a copy.
        let _ = match &mut self.socket {
            Socket::Tcp(socket) => registry.deregister(socket),
            Socket::Unix(socket) => registry.deregister(socket),
        };
    }
}

/// What fails here belongs to a connection that is gone already, and shows by reading it.
fn tcp((stream, remote): (mio::net::TcpStream, SocketAddr)) -> (Stream, Ends) {
    // Pipelined replies would otherwise wait for the acknowledgement of the first one.
    let _ = stream.set_nodelay(true);
    let local = stream.local_addr();
    let ends = Ends {
        remote: remote.to_string(),
        local: local.map_or("?".into(), |local| local.to_string()),
        is_unix: false,
    };
    (Stream::Tcp(stream), ends)
}

/// Errors of `accept` that belong to the connection, not to the listener.
fn is_of_the_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Interrupted | ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset
    )
}

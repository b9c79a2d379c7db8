//! The command line's connection to a running daemon, by its port or its Unix socket: one command, one reply back,
//! printed as redis-cli prints it into a pipe. Blocking, with a deadline. Which daemon it is, is `running`'s business.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect as connect_socket, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::config::Secret;
use crate::resp::{self, DecodeError, Reply, ReplyDecoder};

/// The largest reply that is read: `INFO` with the most workers has less than 1 MiB.
const MAX_REPLY_BYTES: usize = 16 * 1024 * 1024;

/// Where a daemon listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Host and port.
    Tcp(String, u16),
    /// A socket's path.
    Unix(PathBuf),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers at the address.
    #[error("cannot reach the daemon at {endpoint}: {}", cause(source))]
    Unreachable {
        /// Who was asked.
        endpoint: Endpoint,
        /// What the system said.
        source: io::Error,
    },
    /// The connection broke, or the daemon took too long.
    #[error("cannot talk to the daemon at {endpoint}: {}", cause(source))]
    Broken {
        /// Who was asked.
        endpoint: Endpoint,
        /// What the system said.
        source: io::Error,
    },
    /// Something else listens there.
    #[error("cannot understand the daemon at {endpoint}: {source}")]
    Garbled {
        /// Who was asked.
        endpoint: Endpoint,
        /// What was wrong.
        source: DecodeError,
    },
    /// The daemon does not take the password. What it says of it is not repeated.
    #[error(
        "cannot log in to the daemon at {endpoint}: wrong password; it goes by the main.password that it was started with"
    )]
    WrongPassword {
        /// Who was asked.
        endpoint: Endpoint,
    },
}

/// A connection to the admin port.
#[derive(Debug)]
pub struct Client {
    stream: Stream,
    endpoint: Endpoint,
    timeout: Duration,
    decoder: ReplyDecoder,
}

impl Client {
    /// Connects. The timeout holds for connecting, and again for each reply.
    ///
    /// # Errors
    ///
    /// [`ClientError::Unreachable`].
    pub fn connect(endpoint: &Endpoint, timeout: Duration) -> Result<Self, ClientError> {
        let endpoint = endpoint.clone();
        let stream = match &endpoint {
            Endpoint::Tcp(host, port) => connect_any(host, *port, timeout).map(Stream::Tcp),
            Endpoint::Unix(path) => connect_unix(path, timeout).map(Stream::Unix),
        };
        match stream {
            Ok(stream) => Ok(Self {
                stream,
                endpoint,
                timeout,
                decoder: ReplyDecoder::new(MAX_REPLY_BYTES),
            }),
            Err(source) => Err(ClientError::Unreachable { endpoint, source }),
        }
    }

    /// Shows the password. A daemon that knows of none (`ERR`, as Redis says it) needs none.
    ///
    /// # Errors
    ///
    /// [`ClientError::WrongPassword`], and those of [`Client::ask`].
    pub fn log_in(&mut self, password: &Secret) -> Result<(), ClientError> {
        match self.ask(&[b"AUTH", password.0.as_bytes()])? {
            Reply::Error(err) if !err.starts_with("ERR") => {
                let endpoint = self.endpoint.clone();
                Err(ClientError::WrongPassword { endpoint })
            }
            _ => Ok(()),
        }
    }

    /// Sends a command and waits for its reply. An error that the daemon answers is a reply, too.
    ///
    /// # Errors
    ///
    /// The connection broke, the reply took too long, or is none.
    pub fn ask(&mut self, args: &[&[u8]]) -> Result<Reply, ClientError> {
        let deadline = Instant::now() + self.timeout;
        let mut command = Vec::new();
        resp::encode_command(&mut command, args);
        self.send(&command).map_err(|error| self.broken(error))?;
        loop {
            match self.decoder.next_reply() {
                Ok(Some(reply)) => return Ok(reply),
                Ok(None) => self.read(deadline).map_err(|error| self.broken(error))?,
                Err(source) => {
                    let endpoint = self.endpoint.clone();
                    return Err(ClientError::Garbled { endpoint, source });
                }
            }
        }
    }

    fn send(&mut self, command: &[u8]) -> io::Result<()> {
        self.stream.set_write_timeout(Some(self.timeout))?;
        self.stream.write_all(command)
    }

    fn read(&mut self, deadline: Instant) -> io::Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        match self.stream.read(self.decoder.space(16 * 1024)) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                self.decoder.filled(count);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn broken(&self, source: io::Error) -> ClientError {
        let endpoint = self.endpoint.clone();
        ClientError::Broken { endpoint, source }
    }
}

/// Two kinds of sockets, used alike.
#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_read_timeout(timeout),
            Self::Unix(stream) => stream.set_read_timeout(timeout),
        }
    }

    fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_write_timeout(timeout),
            Self::Unix(stream) => stream.set_write_timeout(timeout),
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.write_all(bytes),
            Self::Unix(stream) => stream.write_all(bytes),
        }
    }
}

/// Tries every address that the host has; the last failure counts.
fn connect_any(host: &str, port: u16, timeout: Duration) -> io::Result<TcpStream> {
    let mut failure = io::Error::from(ErrorKind::AddrNotAvailable);
    for address in (host, port).to_socket_addrs()? {
        match connect(&address, timeout) {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// Linux may connect a socket to itself when nobody listens on a port of its ephemeral range.
fn connect(address: &SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(address, timeout)?;
    match stream.local_addr()? == stream.peer_addr()? {
        true => Err(ErrorKind::ConnectionRefused.into()),
        false => Ok(stream),
    }
}

/// connect(2) on a Unix socket waits while the backlog is full, for as long as the socket's send timeout allows.
fn connect_unix(path: &Path, timeout: Duration) -> io::Result<UnixStream> {
    let fd = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let microseconds = i64::try_from(timeout.as_micros()).unwrap_or(i64::MAX);
    setsockopt(
        &fd,
        sockopt::SendTimeout,
        &TimeVal::microseconds(microseconds),
    )?;
    connect_socket(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(fd.into())
}

/// The cause in plain words, without the number of the error. A timed out read is `WouldBlock` to the system.
fn cause(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => "no answer in time".into(),
        ErrorKind::UnexpectedEof => "connection closed".into(),
        ErrorKind::ConnectionRefused
        | ErrorKind::NotFound
        | ErrorKind::PermissionDenied
        | ErrorKind::ConnectionReset
        | ErrorKind::BrokenPipe
        | ErrorKind::HostUnreachable
        | ErrorKind::NetworkUnreachable => error.kind().to_string(),
        _ => error.to_string(),
    }
}

/// Writes a reply as redis-cli does when its output is no terminal: bytes as they are, one element per line, nothing for
/// null, and a line end behind all.
///
/// # Errors
///
/// `out` does not take it.
pub fn print(reply: &Reply, out: &mut dyn Write) -> io::Result<()> {
    print_value(reply, out)?;
    out.write_all(b"\n")
}

/// Recursion is bounded: the decoder lets no reply nest deeper than [`resp::MAX_DEPTH`].
fn print_value(reply: &Reply, out: &mut dyn Write) -> io::Result<()> {
    match reply {
        Reply::Simple(text) | Reply::Error(text) => out.write_all(text.as_bytes()),
        Reply::Integer(number) => write!(out, "{number}"),
        Reply::Bulk(bytes) => out.write_all(bytes),
        Reply::Verbatim(text) => out.write_all(text.as_bytes()),
        Reply::Null => Ok(()),
        Reply::Array(items) | Reply::Set(items) | Reply::Push(items) => {
            for (place, item) in items.iter().enumerate() {
                separate(place, out)?;
                print_value(item, out)?;
            }
            Ok(())
        }
        Reply::Map(pairs) => {
            for (place, (key, value)) in pairs.iter().enumerate() {
                separate(place, out)?;
                print_value(key, out)?;
                out.write_all(b" ")?;
                print_value(value, out)?;
            }
            Ok(())
        }
        Reply::Double(number) => write!(out, "{number}"),
        Reply::Boolean(value) => write!(out, "{value}"),
    }
}

fn separate(place: usize, out: &mut dyn Write) -> io::Result<()> {
    match place {
        0 => Ok(()),
        _ => out.write_all(b"\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread::JoinHandle;

    const TIMEOUT: Duration = Duration::from_secs(20);

    /// A server that reads one command of so many bytes, sends the pieces, and closes.
    fn server(
        command_bytes: usize,
        pieces: &'static [&'static [u8]],
    ) -> (u16, JoinHandle<Vec<u8>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut command = vec![0; command_bytes];
            stream.read_exact(&mut command).unwrap();
            for piece in pieces {
                stream.write_all(piece).unwrap();
            }
            command
        });
        (port, thread)
    }

    fn local(port: u16) -> Endpoint {
        Endpoint::Tcp("127.0.0.1".into(), port)
    }

    fn printed(reply: &Reply) -> String {
        let mut out = Vec::new();
        print(reply, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_command_is_sent_and_its_reply_comes_back_in_pieces() {
        let (port, thread) = server(14, &[b"$1", b"1\r\nhello", b" world\r\n"]);
        let mut client = Client::connect(&local(port), TIMEOUT).unwrap();
        assert_eq!(client.ask(&[b"INFO"]).unwrap(), Reply::bulk("hello world"));
        assert_eq!(thread.join().unwrap(), b"*1\r\n$4\r\nINFO\r\n");
    }

    #[test]
    fn a_port_without_daemon_is_named() {
        // A connected socket's own port: taken, so nobody else gets it, and nobody listens there.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = Client::connect(&local(port), TIMEOUT).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("cannot reach the daemon at 127.0.0.1:{port}: connection refused")
        );
    }

    #[test]
    fn a_socket_is_reached_by_its_path_and_named_when_it_is_not_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("t.sock");
        let endpoint = Endpoint::Unix(path.clone());
        let error = Client::connect(&endpoint, TIMEOUT).unwrap_err();
        let expected = format!(
            "cannot reach the daemon at {}: entity not found",
            path.display()
        );
        assert_eq!(error.to_string(), expected);

        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_exact(&mut [0; 14]).unwrap();
            stream.write_all(b"+PONG\r\n").unwrap();
        });
        let mut client = Client::connect(&endpoint, TIMEOUT).unwrap();
        assert_eq!(client.ask(&[b"PING"]).unwrap(), Reply::simple("PONG"));
        thread.join().unwrap();
    }

    #[test]
    fn a_wrong_password_names_the_cure_and_not_the_password() {
        let password = Secret("s3cret".into());
        for (reply, is_taken) in [
            (&[b"+OK\r\n" as &[u8]] as &'static [&'static [u8]], true),
            (
                &[b"-ERR AUTH <password> called without any password configured\r\n"],
                true,
            ),
            (&[b"-WRONGPASS s3cret is wrong\r\n"], false),
        ] {
            let (port, thread) = server(26, reply);
            let mut client = Client::connect(&local(port), TIMEOUT).unwrap();
            let login = client.log_in(&password);
            assert_eq!(login.is_ok(), is_taken, "{login:?}");
            if let Err(error) = login {
                let error = error.to_string();
                assert!(
                    error.contains("wrong password; it goes by the main.password"),
                    "{error}"
                );
                assert!(!error.contains("s3cret"), "{error}");
            }
            assert_eq!(
                thread.join().unwrap(),
                b"*2\r\n$4\r\nAUTH\r\n$6\r\ns3cret\r\n"
            );
        }
    }

    #[test]
    fn half_a_reply_and_garbage_are_errors() {
        let (port, thread) = server(14, &[b"$11\r\nhel"]);
        let mut client = Client::connect(&local(port), TIMEOUT).unwrap();
        let error = client.ask(&[b"INFO"]).unwrap_err().to_string();
        assert!(error.ends_with(": connection closed"), "{error}");
        thread.join().unwrap();

        let (port, thread) = server(14, &[b"HTTP/1.1 400 Bad Request\r\n"]);
        let mut client = Client::connect(&local(port), TIMEOUT).unwrap();
        let error = client.ask(&[b"INFO"]).unwrap_err().to_string();
        assert!(
            error.contains("not a reply: unexpected byte 'H'"),
            "{error}"
        );
        thread.join().unwrap();
    }

    #[test]
    fn silence_ends_at_the_deadline() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut client = Client::connect(&local(port), Duration::from_millis(50)).unwrap();
        let error = client.ask(&[b"PING"]).unwrap_err().to_string();
        assert!(error.ends_with(": no answer in time"), "{error}");
    }

    #[test]
    fn replies_are_printed_as_redis_cli_prints_them_into_a_pipe() {
        let cases = [
            (Reply::OK, "OK\n"),
            (Reply::error("ERR syntax error"), "ERR syntax error\n"),
            (Reply::Integer(-1), "-1\n"),
            (Reply::bulk("a\r\nb"), "a\r\nb\n"),
            (Reply::Null, "\n"),
            (Reply::Array(vec![]), "\n"),
            (
                Reply::Array(vec![
                    Reply::bulk("a"),
                    Reply::Array(vec![Reply::Integer(1), Reply::Integer(2)]),
                ]),
                "a\n1\n2\n",
            ),
            (
                Reply::Map(vec![
                    (Reply::bulk("k"), Reply::Integer(1)),
                    (Reply::bulk("l"), Reply::Integer(2)),
                ]),
                "k 1\nl 2\n",
            ),
        ];
        for (reply, text) in cases {
            assert_eq!(printed(&reply), text);
        }
    }
}

//! A TCP proxy before a server's Unix socket, which on demand breaks a connection around one command: before the
//! server has seen it, after it has answered, or with the command still on its way. It also answers in the server's
//! place, and notes when clients connect.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};
use stark::config;

/// What happens to a command, and in each case to its connection: the client sees it break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The server never gets it.
    Dropped,
    /// The server runs it, and its reply is thrown away.
    Unanswered,
    /// The server runs it when [`Proxy::deliver`] is called.
    Late,
    /// The server runs it, and half its reply arrives.
    HalfAnswered,
    /// The server runs it, and so many bytes of its reply arrive.
    Cut(usize),
    /// The server runs it, and the client gets a reset in place of the reply.
    Reset,
}

/// A running proxy.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    upstream: PathBuf,
    /// Fates of the next commands that contain the word.
    plan: Mutex<Vec<(String, Fate)>>,
    late: Mutex<Vec<(UnixStream, Vec<u8>)>>,
    /// Words of commands that the server does not get, and the answers to them.
    answers: Mutex<Vec<(String, String)>>,
    connected: Mutex<Vec<Instant>>,
}

impl Proxy {
    /// Listens on a free port, for as long as the test lives.
    pub fn start(upstream: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            upstream: upstream.to_path_buf(),
            plan: Mutex::default(),
            late: Mutex::default(),
            answers: Mutex::default(),
            connected: Mutex::default(),
        });
        let acceptor = shared.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let shared = acceptor.clone();
                let now = Instant::now();
                shared.connected.lock().expect("no panic").push(now);
                std::thread::spawn(move || shared.relay(client));
            }
        });
        Self { address, shared }
    }

    /// Where clients connect.
    pub fn address(&self) -> config::Address {
        config::Address::Tcp(self.address.ip().to_string(), self.address.port())
    }

    /// From now on answers all that clients send and that contains `word` in the server's place; an empty word is in all.
    pub fn answer(&self, word: &str, answer: &str) {
        let answer = (word.to_string(), answer.to_string());
        self.shared.answers.lock().expect("no panic").push(answer);
    }

    /// From now on the server answers everything.
    pub fn answer_no_more(&self) {
        self.shared.answers.lock().expect("no panic").clear();
    }

    /// When clients connected, until now.
    pub fn connected(&self) -> Vec<Instant> {
        self.shared.connected.lock().expect("no panic").clone()
    }

    /// Decides the fate of the next command that contains `word`; after that of those planned before.
    pub fn plan(&self, word: &str, fate: Fate) {
        let planned = (word.to_string(), fate);
        self.shared.plan.lock().expect("no panic").push(planned);
    }

    /// Whether all planned fates have come to pass.
    pub fn is_done(&self) -> bool {
        self.shared.plan.lock().expect("no panic").is_empty()
    }

    /// Hands the late commands to the server and waits until it has run them; answers how many.
    pub fn deliver(&self) -> usize {
        let late = std::mem::take(&mut *self.shared.late.lock().expect("no panic"));
        let count = late.len();
        for (mut server, command) in late {
            server.write_all(&command).expect("the server runs");
            read_some(&mut server).expect("the server answers");
        }
        count
    }
}

impl Shared {
    fn relay(&self, mut client: TcpStream) -> Option<()> {
        let mut server = UnixStream::connect(&self.upstream).ok()?;
        loop {
            let (from_client, from_server) = wait(&client, &server)?;
            if from_server {
                client.write_all(&read_some(&mut server)?).ok()?;
            }
            if from_client {
                let command = read_some(&mut client)?;
                if let Some(answer) = self.answer_to(&command) {
                    client.write_all(answer.as_bytes()).ok()?;
                    continue;
                }
                match self.fate(&command) {
                    None => server.write_all(&command).ok()?,
                    Some(fate) => return self.bring_about(fate, command, client, server),
                }
            }
        }
    }

    fn bring_about(
        &self,
        fate: Fate,
        command: Vec<u8>,
        mut client: TcpStream,
        mut server: UnixStream,
    ) -> Option<()> {
        match fate {
            Fate::Dropped => {}
            Fate::Late => self.late.lock().expect("no panic").push((server, command)),
            Fate::Unanswered => {
                server.write_all(&command).ok()?;
                read_some(&mut server)?;
            }
            Fate::HalfAnswered => {
                server.write_all(&command).ok()?;
                let reply = read_some(&mut server)?;
                client.write_all(&reply[..reply.len() / 2]).ok()?;
            }
            Fate::Cut(count) => {
                server.write_all(&command).ok()?;
                let reply = read_some(&mut server)?;
                client.write_all(&reply[..count.min(reply.len())]).ok()?;
            }
            Fate::Reset => {
                server.write_all(&command).ok()?;
                read_some(&mut server)?;
                let at_once = libc::linger {
                    l_onoff: 1,
                    l_linger: 0,
                };
                setsockopt(&client, sockopt::Linger, &at_once).expect("a socket");
            }
        }
        Some(())
    }

    /// One for each command that has arrived, all in the server's place or none.
    fn answer_to(&self, commands: &[u8]) -> Option<String> {
        let answers = self.answers.lock().expect("no panic");
        let (_, answer) = answers.iter().find(|(word, _)| contains(commands, word))?;
        let more = commands.windows(2).filter(|bytes| bytes == b"\n*").count();
        Some(answer.repeat(1 + more))
    }

    fn fate(&self, command: &[u8]) -> Option<Fate> {
        let mut plan = self.plan.lock().expect("no panic");
        let (word, fate) = plan.first()?;
        let fate = *fate;
        contains(command, word).then(|| {
            plan.remove(0);
            fate
        })
    }
}

fn contains(command: &[u8], word: &str) -> bool {
    let mut places = 0..=command.len().saturating_sub(word.len());
    places.any(|place| command[place..].starts_with(word.as_bytes()))
}

/// Which of the two has something to be read.
fn wait(client: &TcpStream, server: &UnixStream) -> Option<(bool, bool)> {
    let mut fds = [
        PollFd::new(client.as_fd(), PollFlags::POLLIN),
        PollFd::new(server.as_fd(), PollFlags::POLLIN),
    ];
    poll(&mut fds, PollTimeout::NONE).ok()?;
    Some((fds[0].any()?, fds[1].any()?))
}

/// What has arrived; none at the end.
fn read_some(from: &mut impl Read) -> Option<Vec<u8>> {
    let mut buffer = vec![0; 1 << 16];
    let count = from.read(&mut buffer).ok()?;
    buffer.truncate(count);
    (count > 0).then_some(buffer)
}

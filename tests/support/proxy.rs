//! A TCP proxy before a server's Unix socket, which on demand breaks a connection around one command: before the
//! server has seen it, after it has answered, or with the command still on its way.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
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
        });
        let acceptor = shared.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let shared = acceptor.clone();
                std::thread::spawn(move || shared.relay(client));
            }
        });
        Self { address, shared }
    }

    /// Where clients connect.
    pub fn address(&self) -> config::Address {
        config::Address::Tcp(self.address.ip().to_string(), self.address.port())
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
        }
        Some(())
    }

    fn fate(&self, command: &[u8]) -> Option<Fate> {
        let mut plan = self.plan.lock().expect("no panic");
        let (word, fate) = plan.first()?;
        let fate = *fate;
        let hit = command
            .windows(word.len())
            .any(|window| window == word.as_bytes());
        hit.then(|| {
            plan.remove(0);
            fate
        })
    }
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

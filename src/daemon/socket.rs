//! `main.unixsocket`: the admin port's second listener, a socket in the file system that only its owner may use. One that a
//! dead daemon left is replaced; one that somebody listens at is not.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket,
};
use nix::sys::stat::{Mode, fchmod};

use super::{BACKLOG, Failure, status};

/// The socket, bound.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    listener: UnixListener,
    /// Device and number of the file: what stands at the path later may be another one.
    file: (u64, u64),
}

impl Socket {
    /// Binds it, with mode 0600 from its first moment on.
    ///
    /// # Errors
    /// 69 when another process listens there, 77 when it must not be made, 73 when it cannot be.
    pub fn bind(path: &Path) -> Result<Self, Failure> {
        let cannot = |err: io::Error| {
            let status = match err.kind() {
                io::ErrorKind::AddrInUse => status::UNAVAILABLE,
                io::ErrorKind::PermissionDenied => status::NOT_PERMITTED,
                _ => status::CANNOT_CREATE,
            };
            let message = format!("cannot listen on unix:{}: {err}", path.display());
            Failure::new(status, message)
        };
        remove_stale(path).map_err(cannot)?;
        let listener = bound(path).map_err(|err| cannot(err.into()))?;
        let file = fs::symlink_metadata(path).map_err(cannot)?;
        Ok(Self {
            path: path.to_path_buf(),
            listener,
            file: (file.dev(), file.ino()),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// To accept from.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn listener(&self) -> io::Result<UnixListener> {
        self.listener.try_clone()
    }

    /// Takes the file away, unless another one stands there by now.
    pub fn remove(self) {
        let is_ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|file| (file.dev(), file.ino()) == self.file);
        if is_ours {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn bound(path: &Path) -> nix::Result<UnixListener> {
    let address = UnixAddr::new(path)?;
    let socket = stream_socket(SockFlag::SOCK_CLOEXEC)?;
    // Linux makes the file with the mode of the unbound socket: there is no moment at which others may connect.
    fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
    bind(socket.as_raw_fd(), &address)?;
    listen(&socket, Backlog::new(BACKLOG)?)?;
    Ok(UnixListener::from(socket))
}

/// Makes room for a new socket where a dead daemon left its own. A file of another kind, a link among them, is not ours to
/// remove.
fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(file) if !file.file_type().is_socket() => {
            return Err(io::Error::other("the file that is there is no socket"));
        }
        Ok(_) => {}
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(err) => return Err(err),
    }
    // Without waiting: where a listener does not accept, connecting would take for ever.
    let probe = stream_socket(SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK)?;
    match connect(probe.as_raw_fd(), &UnixAddr::new(path)?) {
        Err(Errno::ECONNREFUSED) => fs::remove_file(path),
        Err(Errno::EACCES) => Err(Errno::EACCES.into()),
        // EAGAIN: its queue is full. EPROTOTYPE: it is of another kind.
        _ => Err(Errno::EADDRINUSE.into()),
    }
}

fn stream_socket(flags: SockFlag) -> nix::Result<OwnedFd> {
    socket(AddressFamily::Unix, SockType::Stream, flags, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::{UnixDatagram, UnixStream};

    fn refusal(path: &Path) -> u8 {
        let failure = Socket::bind(path).unwrap_err();
        let start = format!("cannot listen on unix:{}: ", path.display());
        assert!(failure.message.starts_with(&start), "{failure}");
        failure.status
    }

    #[test]
    fn only_the_owner_may_connect_and_the_file_goes_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let socket = Socket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        UnixStream::connect(&path).unwrap();
        assert!(socket.listener().unwrap().accept().is_ok());
        socket.remove();
        assert!(!path.exists());
    }

    #[test]
    fn a_dead_daemons_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        drop(UnixListener::bind(&path).unwrap());
        let socket = Socket::bind(&path).unwrap();
        UnixStream::connect(&path).unwrap();
        drop(socket);
    }

    #[test]
    fn a_socket_that_somebody_listens_at_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let other = UnixListener::bind(&path).unwrap();
        assert_eq!(refusal(&path), status::UNAVAILABLE);
        // The one that looked.
        other.accept().unwrap();
        UnixStream::connect(&path).unwrap();
        let path = dir.path().join("datagrams.sock");
        let _other = UnixDatagram::bind(&path).unwrap();
        assert_eq!(refusal(&path), status::UNAVAILABLE);
        assert!(path.exists());
    }

    #[test]
    fn a_listener_whose_queue_is_full_is_a_living_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let socket = stream_socket(SockFlag::SOCK_CLOEXEC).unwrap();
        bind(socket.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        listen(&socket, Backlog::new(0).unwrap()).unwrap();
        let _waiting = UnixStream::connect(&path).unwrap();
        assert_eq!(refusal(&path), status::UNAVAILABLE);
        assert_eq!(refusal(&path), status::UNAVAILABLE);
    }

    #[test]
    fn links_and_files_are_neither_followed_nor_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        fs::write(&file, "precious").unwrap();
        symlink(dir.path().join("nowhere"), &link).unwrap();
        assert_eq!(refusal(&file), status::CANNOT_CREATE);
        assert_eq!(refusal(&link), status::CANNOT_CREATE);
        assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
        assert!(!dir.path().join("nowhere").exists());
    }

    #[test]
    fn a_path_that_cannot_be_is_named() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(
            refusal(&dir.path().join("missing/admin.sock")),
            status::CANNOT_CREATE
        );
        let long = dir.path().join("x".repeat(108));
        assert_eq!(refusal(&long), status::CANNOT_CREATE);
    }

    #[test]
    fn what_somebody_put_in_its_place_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let socket = Socket::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "other").unwrap();
        socket.remove();
        assert_eq!(fs::read_to_string(&path).unwrap(), "other");
    }
}

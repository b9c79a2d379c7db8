//! The daemon that the settings mean, while it runs: whether it does, where it listens, and what it says. Settings may
//! have been edited since it was started, so what it left in run/ is believed before what is written in the ini.

use std::time::Duration;

use super::client::{Client, ClientError, Endpoint};
use super::info::Info;
use crate::config::Config;
use crate::daemon::{Failure, Files, pidfile, status};
use crate::resp::Reply;

/// For connecting, and for the reply.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The pid of the daemon, from the pidfile's lock: true also when the admin port does not answer.
///
/// # Errors
/// 77 when we may not look: whether it runs is not known then.
pub fn pid(config: &Config) -> Result<Option<i32>, Failure> {
    let path = &config.main.pid_file;
    pidfile::holder(path).map_err(|err| {
        let message = format!("cannot look at pidfile {}: {err}", path.display());
        Failure::new(status::NOT_PERMITTED, message)
    })
}

/// Sends a command and waits for its reply, which is no error.
///
/// # Errors
/// 1: nobody answers, the daemon wants another password, or it answers with an error.
pub fn ask(config: &Config, words: &[&str]) -> Result<Reply, Failure> {
    let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    let failed = |message: String| Failure::new(status::FAILED, message);
    let mut client = connect(config)?;
    match client.ask(&words).map_err(|err| failed(err.to_string()))? {
        Reply::Error(err) if err.starts_with("NOAUTH") => Err(failed(
            "cannot steer the daemon: it wants a password; set main.password as it was at its start"
                .into(),
        )),
        Reply::Error(err) => Err(failed(format!("the daemon says: {err}"))),
        reply => Ok(reply),
    }
}

/// What the daemon with this pid tells of itself.
///
/// # Errors
/// As [`ask`]; and 1 when another process listens at its address.
pub fn info(config: &Config, pid: i32) -> Result<Info, Failure> {
    let failed = |message: String| Err(Failure::new(status::FAILED, message));
    let Reply::Bulk(text) = ask(config, &["INFO"])? else {
        return failed("its admin port tells nothing".into());
    };
    let info = Info::parse(&String::from_utf8_lossy(&text));
    match info.number("process_id") {
        Some(found) if found != u64::from(pid.unsigned_abs()) => failed(format!(
            "at its address listens another daemon, pid {found}"
        )),
        _ => Ok(info),
    }
}

/// By the socket if one is set, since nobody else can listen there; else, or when that fails, by the port.
fn connect(config: &Config) -> Result<Client, Failure> {
    let mut causes = Vec::new();
    let socket = config.main.unixsocket.clone().map(Endpoint::Unix);
    let port = port(config).map(|port| Endpoint::Tcp(config.main.host.clone(), port));
    for endpoint in socket.into_iter().chain(port) {
        match Client::connect(&endpoint, TIMEOUT).and_then(|client| log_in(client, config)) {
            Ok(client) => return Ok(client),
            Err(err) => causes.push(err.to_string()),
        }
    }
    if causes.is_empty() {
        let file = Files::of(&config.main).port();
        let file = file.display();
        causes.push(format!(
            "cannot reach the daemon: main.port is 0 and there is no {file}"
        ));
    }
    Err(Failure::new(status::FAILED, causes.join("\n")))
}

fn log_in(mut client: Client, config: &Config) -> Result<Client, ClientError> {
    if let Some(password) = &config.main.password {
        client.log_in(password)?;
    }
    Ok(client)
}

/// The port that the running daemon has bound, or that of the settings when it left no word of it.
pub fn port(config: &Config) -> Option<u16> {
    let file = Files::of(&config.main).port();
    let bound = std::fs::read_to_string(file).ok();
    let bound = bound.and_then(|text| text.trim().parse().ok());
    bound.or(Some(config.main.port).filter(|port| *port != 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Secret};
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;
    use std::thread::JoinHandle;

    /// Settings of a daemon in a directory of its own, which listens at `port`.
    fn settings(port: u16) -> (tempfile::TempDir, Config) {
        let directory = tempfile::tempdir().unwrap();
        let ini = directory.path().join("t.ini");
        let text = format!("[main]\nport = {port}\nworking_dir = .\n[run]\nbuiltin = null\n");
        std::fs::write(&ini, text).unwrap();
        let config = config::load(&ini, &[]).unwrap().config;
        (directory, config)
    }

    /// Answers each command on one connection by the next of these; gives what it was told.
    fn answers(mut stream: impl Read + Write, replies: &[&str]) -> String {
        let mut told = Vec::new();
        for reply in replies {
            let mut buffer = [0; 1024];
            let count = stream.read(&mut buffer).unwrap();
            told.extend_from_slice(&buffer[..count]);
            stream.write_all(reply.as_bytes()).unwrap();
        }
        String::from_utf8(told).unwrap()
    }

    fn port_that_answers(replies: &'static [&str]) -> (u16, JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let thread = std::thread::spawn(move || answers(listener.accept().unwrap().0, replies));
        (port, thread)
    }

    #[test]
    fn a_socket_that_is_set_comes_before_the_port_and_the_port_when_it_is_not_there() {
        let (port, by_port) = port_that_answers(&["+port\r\n"]);
        let (directory, mut config) = settings(port);
        let path = directory.path().join("t.sock");
        config.main.unixsocket = Some(path.clone());
        assert_eq!(ask(&config, &["PING"]).unwrap(), Reply::simple("port"));
        by_port.join().unwrap();

        let error = ask(&config, &["PING"]).unwrap_err().message;
        let lines: Vec<&str> = error.lines().collect();
        assert!(lines[0].starts_with(&format!("cannot reach the daemon at {}: ", path.display())));
        assert!(lines[1].starts_with(&format!("cannot reach the daemon at 127.0.0.1:{port}: ")));

        let listener = UnixListener::bind(&path).unwrap();
        let by_socket =
            std::thread::spawn(move || answers(listener.accept().unwrap().0, &["+socket\r\n"]));
        assert_eq!(ask(&config, &["PING"]).unwrap(), Reply::simple("socket"));
        by_socket.join().unwrap();
    }

    #[test]
    fn a_password_that_is_set_is_shown_before_the_command() {
        let (port, daemon) = port_that_answers(&["+OK\r\n", "+PONG\r\n"]);
        let (_directory, mut config) = settings(port);
        config.main.password = Some(Secret("s3cret".into()));
        assert_eq!(ask(&config, &["PING"]).unwrap(), Reply::simple("PONG"));
        let told = daemon.join().unwrap();
        assert_eq!(
            told,
            "*2\r\n$4\r\nAUTH\r\n$6\r\ns3cret\r\n*1\r\n$4\r\nPING\r\n"
        );
    }

    #[test]
    fn a_password_that_is_missing_is_asked_for() {
        let (port, daemon) = port_that_answers(&["-NOAUTH Authentication required.\r\n"]);
        let (_directory, config) = settings(port);
        let failure = ask(&config, &["PING"]).unwrap_err();
        assert_eq!(failure.status, status::FAILED);
        assert!(failure.message.contains("set main.password"), "{failure}");
        daemon.join().unwrap();
    }

    #[test]
    fn the_port_that_was_bound_counts_and_not_the_one_that_was_edited() {
        let (_directory, config) = settings(9);
        assert_eq!(port(&config), Some(9));
        let files = Files::of(&config.main);
        std::fs::create_dir(&files.run).unwrap();
        files.write_port(7777).unwrap();
        assert_eq!(port(&config), Some(7777));
        std::fs::write(files.port(), "no number").unwrap();
        assert_eq!(port(&config), Some(9));
    }

    #[test]
    fn another_daemon_at_the_address_is_not_taken_for_ours() {
        let (port, daemon) = port_that_answers(&["$16\r\nprocess_id:812\r\n\r\n"]);
        let (_directory, config) = settings(port);
        let failure = info(&config, 4711).unwrap_err();
        assert_eq!(
            failure.message,
            "at its address listens another daemon, pid 812"
        );
        daemon.join().unwrap();
    }
}

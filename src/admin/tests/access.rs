//! Who may do what: strangers, the read-only user, and what is kept from those who know no password.

use super::*;
use crate::config::Secret;

fn passwords() -> Access {
    let secret = |text: &str| Secret(text.into());
    Access::new(Some(&secret("steer")), Some(&secret("look")))
}

fn start_locked(limits: Limits) -> Server {
    Server::start_with(limits, passwords(), None)
}

const NOAUTH: &str = "-NOAUTH Authentication required.\r\n";
const WRONGPASS: &str = "-WRONGPASS invalid username-password pair or user is disabled.\r\n";

#[test]
fn a_stranger_may_only_authenticate_or_leave() {
    let server = start_locked(Limits::new(8));
    let mut peer = server.connect();
    for command in [
        "PING",
        "INFO",
        "SHUTDOWN",
        "CLIENT LIST",
        "COMMAND",
        "ECHO",
        "NOSUCH x",
    ] {
        assert_eq!(peer.ask(command), NOAUTH, "{command}");
    }
    let hello = peer.ask("HELLO 3");
    assert!(hello.starts_with("-NOAUTH HELLO must be called"), "{hello}");
    for wrong in [
        "AUTH no",
        "AUTH default no",
        "AUTH root steer",
        "HELLO 3 AUTH default no",
    ] {
        assert_eq!(peer.ask(wrong), WRONGPASS, "{wrong}");
    }
    assert_eq!(peer.ask("RESET"), "+RESET\r\n");
    assert_eq!(peer.ask("PING"), NOAUTH);
    assert_eq!(peer.ask("QUIT"), "+OK\r\n");
    assert_eq!(peer.rest(), "");
    assert!(server.orders.try_recv().is_err());
}

#[test]
fn the_password_opens_everything() {
    let server = start_locked(Limits::new(8));
    for login in ["AUTH steer", "auth default steer"] {
        let mut peer = server.connect();
        assert_eq!(peer.ask(login), "+OK\r\n");
        assert_eq!(peer.ask("PING"), "+PONG\r\n");
        assert_eq!(peer.ask("SHUTDOWN"), "+OK\r\n");
        assert_eq!(server.orders.recv_timeout(LIMIT), Ok(Order::Shutdown));
        // A later wrong one takes nothing away, as in Redis; RESET does.
        assert_eq!(peer.ask("AUTH no"), WRONGPASS);
        assert_eq!(peer.ask("PING"), "+PONG\r\n");
        assert_eq!(peer.ask("RESET"), "+RESET\r\n");
        assert_eq!(peer.ask("PING"), NOAUTH);
    }
}

#[test]
fn the_readonly_password_shows_everything_and_steers_nothing() {
    let server = start_locked(Limits::new(8));
    let mut operator = server.connect();
    assert_eq!(operator.ask("AUTH steer"), "+OK\r\n");
    let mut peer = server.connect();
    assert_eq!(peer.ask("AUTH look"), "+OK\r\n");
    assert!(peer.text("INFO").contains("name:mail"));
    let list = peer.text("CLIENT LIST");
    assert!(
        list.contains(" user=readonly ") && list.contains(" user=default "),
        "{list}"
    );
    let no = |command: &str| {
        format!("-NOPERM this user has no permissions to run the '{command}' command\r\n")
    };
    assert_eq!(peer.ask("SHUTDOWN"), no("shutdown"));
    assert_eq!(peer.ask("SHUTDOWN now"), no("shutdown"));
    assert_eq!(peer.ask("SHUTDOWN nonsense"), no("shutdown"));
    assert_eq!(peer.ask("CLIENT KILL ID 1"), no("client|kill"));
    assert_eq!(
        peer.ask("CLIENT KILL TYPE normal SKIPME no"),
        no("client|kill")
    );
    assert_eq!(operator.ask("PING"), "+PONG\r\n");
    // Its own connection is its own affair.
    assert_eq!(peer.ask("CLIENT KILL ID 2 SKIPME no"), ":1\r\n");
    assert_eq!(peer.rest(), "");
    assert!(server.orders.try_recv().is_err());
}

#[test]
fn hello_authenticates_names_and_changes_the_protocol_at_once() {
    let server = start_locked(Limits::new(8));
    let mut peer = server.connect();
    assert_eq!(peer.ask("HELLO 3 AUTH default steer SETNAME bob"), "%7\r\n");
    let mut rest = String::new();
    while !rest.ends_with("modules\r\n*0\r\n") {
        rest += &peer.line();
    }
    assert!(rest.contains("proto\r\n:3\r\n"), "{rest}");
    let info = peer.text("CLIENT INFO");
    assert!(
        info.contains(" name=bob ") && info.contains(" resp=3 "),
        "{info}"
    );
    // One that fails changes nothing.
    assert!(
        peer.ask("HELLO 2 SETNAME x AUTH default no")
            .starts_with("-WRONGPASS")
    );
    let info = peer.text("CLIENT INFO");
    assert!(
        info.contains(" name=bob ") && info.contains(" resp=3 "),
        "{info}"
    );
}

#[test]
fn without_a_password_auth_is_answered_as_redis_does() {
    let server = start();
    let mut peer = server.connect();
    assert_eq!(
        peer.ask("AUTH x"),
        "-ERR AUTH <password> called without any password configured for the default user. Are you sure your \
         configuration is correct?\r\n"
    );
    assert_eq!(peer.ask("AUTH default x"), "+OK\r\n");
    assert_eq!(peer.ask("AUTH root x"), WRONGPASS);
    assert_eq!(peer.ask("RESET"), "+RESET\r\n");
    assert_eq!(peer.ask("PING"), "+PONG\r\n");
}

#[test]
fn strangers_cannot_keep_out_who_has_a_password() {
    let server = start_locked(Limits::new(3));
    let mut operator = server.connect();
    assert_eq!(operator.ask("AUTH steer"), "+OK\r\n");
    let mut strangers: Vec<Peer> = (0..2).map(|_| server.connect()).collect();
    operator.wait_for_connected("3");
    let mut another = server.connect();
    assert_eq!(another.ask("AUTH look"), "+OK\r\n");
    // The one that came first had to go.
    assert_eq!(
        strangers[0].rest(),
        "-ERR max number of clients reached\r\n"
    );
    assert_eq!(strangers[1].ask("PING"), NOAUTH);
    assert_eq!(strangers[1].ask("AUTH look"), "+OK\r\n");
    // Now all are known, and nobody has to go.
    assert_eq!(
        server.connect().rest(),
        "-ERR max number of clients reached\r\n"
    );
    for peer in [&mut operator, &mut another, &mut strangers[1]] {
        assert_eq!(peer.ask("PING"), "+PONG\r\n");
    }
}

#[test]
fn a_stranger_has_ten_seconds() {
    let (mut poll, mut admin, address) = admin_alone_with(passwords());
    let connect = || Peer(BufReader::new(TcpStream::connect(address).unwrap()));
    let (mut stranger, mut known) = (connect(), connect());
    known.send("AUTH steer\r\nSHUTDOWN\r\n");
    wait_for_orders(&mut poll, &mut admin);
    let now = Instant::now();
    // Both are accepted by now, or one turn later.
    while admin.next_deadline(now) == Some(now) {
        admin.turn(poll.registry(), now, &mut snapshot);
    }
    let deadline = admin.next_deadline(now).expect("the stranger's");
    assert!(deadline > now && deadline <= now + Duration::from_secs(10));
    admin.turn(
        poll.registry(),
        deadline - Duration::from_millis(1),
        &mut snapshot,
    );
    assert_eq!(admin.next_deadline(now), Some(deadline));
    admin.turn(poll.registry(), deadline, &mut snapshot);
    assert_eq!(stranger.rest(), "-ERR not authenticated in time\r\n");
    assert_eq!(admin.next_deadline(now), None);
    known.send("SHUTDOWN\r\n");
    assert_eq!(wait_for_orders(&mut poll, &mut admin), [Order::Shutdown]);
}

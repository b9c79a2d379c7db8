//! Who reaches the admin port: passwords, the host that needs one, the Unix socket; and that no secret is shown.

use std::fs;
use std::os::unix::fs::symlink;

use stark::config::Secret;

use super::place::{Place, config, mistakes};

const NULL: &str = "[run]\nbuiltin = null\n";

#[test]
fn an_admin_port_that_others_reach_needs_a_password() {
    assert_eq!(
        mistakes("[main]\nhost = 0.0.0.0\nreadonly_password = hunter2"),
        "worker.ini:2: main.host: \"0.0.0.0\" is not a loopback address, so it needs main.password or \
         main.password_file; without one use 127.0.0.1, ::1 or localhost\n\
         worker.ini:3: main.readonly_password: needs main.password, too: without one, whoever gives none may do everything"
    );
    for host in ["0.0.0.0", "::", "example.com", "10.0.0.1"] {
        let main = config(&format!("[main]\nhost = {host}\npassword = hunter2")).main;
        assert_eq!(main.host, host);
        assert!(!mistakes(&format!("[main]\nhost = {host}\npassword =")).is_empty());
    }
    for host in ["", "'a b'"] {
        let told = mistakes(&format!("[main]\nhost = {host}\npassword = hunter2"));
        assert!(
            told.starts_with("worker.ini:2: main.host: ") && told.ends_with("a host or an address"),
            "{told}"
        );
    }
}

#[test]
fn passwords_are_given_in_the_ini_or_in_a_file() {
    let main = config("[main]\npassword = \"a b#c\"\nreadonly_password = d").main;
    assert_eq!(main.password, Some(Secret("a b#c".into())));
    assert_eq!(main.readonly_password, Some(Secret("d".into())));
    assert_eq!(
        config("[main]\npassword =\nreadonly_password =")
            .main
            .password,
        None
    );

    let place = Place::new();
    let ini = format!("[main]\npassword_file = secret\nhost = 0.0.0.0\n{NULL}");
    for (text, password) in [
        ("hunter2", "hunter2"),
        ("hunter2\n", "hunter2"),
        ("hunter2\r\nmore\n", "hunter2"),
        (" a # b \n", " a # b "),
    ] {
        place.write("etc/secret", text);
        place.write("etc/worker.ini", &ini);
        let loaded = place.load_file("etc/worker.ini").unwrap();
        assert_eq!(
            loaded.config.main.password,
            Some(Secret(password.into())),
            "{text:?}"
        );
        assert_eq!(loaded.warnings, [""; 0]);
    }
}

#[test]
fn a_password_file_without_a_password_is_one_mistake() {
    let place = Place::new();
    let told = || {
        let ini = format!("[main]\npassword_file = secret\nhost = 0.0.0.0\n{NULL}");
        let told = place.load(&ini).unwrap_err();
        let start = "worker.ini:2: main.password_file: ";
        assert!(
            told.starts_with(start) && told.lines().count() == 1,
            "{told}"
        );
        told[start.len()..].replace(&place.path("secret").display().to_string(), "PATH")
    };
    assert_eq!(
        told(),
        "cannot read PATH: No such file or directory (os error 2)"
    );
    for (text, why) in [
        (
            "",
            "cannot take a password from PATH: its first line is empty",
        ),
        (
            "\nhunter2\n",
            "cannot take a password from PATH: its first line is empty",
        ),
        (
            &"x".repeat(4097),
            "cannot read PATH: longer than 4096 bytes",
        ),
    ] {
        place.write("secret", text);
        assert_eq!(told(), why);
    }
    fs::write(place.path("secret"), b"hunter2\xff\n").unwrap();
    assert_eq!(told(), "cannot read PATH: not UTF-8");
    fs::remove_file(place.path("secret")).unwrap();
    // Opening a pipe would wait for a writer.
    let mode = nix::sys::stat::Mode::S_IRUSR;
    nix::unistd::mkfifo(&place.path("secret"), mode).unwrap();
    assert_eq!(told(), "cannot read PATH: not a regular file");
    fs::remove_file(place.path("secret")).unwrap();
    fs::create_dir(place.path("secret")).unwrap();
    assert_eq!(told(), "cannot read PATH: not a regular file");
}

#[test]
fn passwords_that_contradict_each_other_are_refused() {
    assert_eq!(
        mistakes("[main]\npassword = a\npassword_file = run.php"),
        "worker.ini:3: main.password_file: contradicts main.password (worker.ini:2)"
    );
    assert_eq!(
        mistakes("[main]\npassword = a\nreadonly_password = a"),
        "worker.ini:3: main.readonly_password: is the same as main.password"
    );
    // An unreadable file is told, and that is enough.
    let told = mistakes("[main]\npassword_file = none\nreadonly_password = a");
    assert_eq!(told.lines().count(), 1, "{told}");
}

#[test]
fn a_password_that_every_user_can_read_deserves_one_word() {
    let place = Place::new();
    place.write("secret", "hunter2");
    let warnings = |ini: &str, mode: u32| {
        let ini = format!("{ini}\n{NULL}");
        place.write("worker.ini", &ini);
        place.chmod("worker.ini", mode);
        let loaded = place
            .load_file("worker.ini")
            .unwrap_or_else(|told| panic!("{told}"));
        loaded.warnings
    };
    let both = "[main]\npassword = hunter2\nreadonly_password = x\n[queue a]\npassword = y\n";
    assert_eq!(
        warnings(both, 0o644),
        ["worker.ini: holds a password, and every user can read it (mode 0644); chmod o-r it"]
    );
    assert_eq!(warnings(both, 0o640), [""; 0]);
    for ini in [
        "[queue]\npassword = a",
        "[queue]\nurl = redis://:hunter2@h",
        "[main]\npassword = '${a}'",
    ] {
        assert_eq!(warnings(ini, 0o604).len(), 1, "{ini}");
    }
    for ini in [
        "[main]\npassword = ${HOME}",
        "[main]\npassword =",
        "[queue]\nurl = redis://h",
        "[env]\nPASSWORD = a",
        "[main]\npassword_file = secret",
    ] {
        assert_eq!(warnings(ini, 0o644), [""; 0], "{ini}");
    }
    place.chmod("secret", 0o644);
    assert_eq!(
        warnings("[main]\npassword_file = secret", 0o600),
        [format!(
            "{}: holds a password, and every user can read it (mode 0644); chmod o-r it",
            place.path("secret").display()
        )]
    );
}

#[test]
fn a_unix_socket_starts_at_the_ini_and_has_a_path_of_its_own() {
    let place = Place::new();
    place.write(
        "etc/worker.ini",
        &format!("[main]\nunixsocket = run/w.sock\n{NULL}"),
    );
    let main = place.load_file("etc/worker.ini").unwrap().config.main;
    assert_eq!(main.unixsocket, Some(place.path("etc/run/w.sock")));
    assert_eq!(config("[main]\nunixsocket =").main.unixsocket, None);

    let path = |length: usize| format!("/{}", "s".repeat(length - 1));
    let longest = config(&format!("[main]\nunixsocket = {}", path(107))).main;
    assert_eq!(longest.unixsocket.unwrap().as_os_str().len(), 107);
    let told = mistakes(&format!("[main]\nunixsocket = {}", path(108)));
    assert!(
        told.ends_with("has 108 bytes, and a socket's at most 107"),
        "{told}"
    );

    for (taken, what) in [
        ("worker.ini", "the settings file"),
        ("./worker.ini", "the settings file"),
        ("w.pid", "the pidfile"),
        ("x/../w.log", "the log"),
        ("/tmp/run/worker.port", "the admin port's file"),
        ("/tmp/data/worker.board", "a file of ours"),
        ("/tmp/run", "a directory of ours"),
        ("/run/redis.sock", "the queue's socket"),
        ("run.php", "a script"),
        ("secret", "the password's file"),
    ] {
        let place = Place::new();
        place.write("secret", "hunter2");
        let told = place
            .load(&format!(
                "[main]\nunixsocket = {taken}\npid_file = w.pid\nlog_file = w.log\npassword_file = secret\n\
                 [run]\nscript_file = run.php\n[queue]\nhost = /run/redis.sock\n"
            ))
            .unwrap_err();
        let end = format!(" is {what}; choose another path");
        assert!(
            told.starts_with("worker.ini:2: main.unixsocket: ") && told.ends_with(&end),
            "{told}"
        );
    }
    // What a link leads to is the business of whoever binds.
    symlink("worker.ini", place.path("link")).unwrap();
    assert!(
        place
            .load(&format!("[main]\nunixsocket = link\n{NULL}"))
            .is_ok()
    );
}

#[test]
fn secrets_are_not_shown_by_debug_output() {
    let ini = "[main]\npassword = hunter2\nreadonly_password = hunter2b\n[queue]\nurl = redis://:hunter2@h\n\
               [env]\nAPI_TOKEN = hunter2\nAPP_ENV = dev\n";
    let shown = format!("{:?}", config(ini));
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(shown.contains("\"APP_ENV\": \"dev\""), "{shown}");
}

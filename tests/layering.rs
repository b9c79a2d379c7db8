//! The import rules as a test: who may use whom inside the crate, what pure modules may not touch, and where `unsafe`
//! and the names of keys live. `source` reads the files; the table below is the one in which a new module needs a line.

#[path = "layering/source.rs"]
mod source;

use std::fs;
use std::path::{Path, PathBuf};

use source::{Used, blank, paths, scrub, test_spans, tokens};

/// Each module and what it may import from the crate; `*` is everything. An entry covers what is below it; the longest
/// name that fits a file is its module; every module may import what is below itself.
const RULES: &[(&str, &str)] = &[
    ("resp", ""),
    ("channel::message", ""),
    ("sys", ""),
    ("jitter", ""),
    ("config::units", ""),
    ("config", "config::units sys"),
    ("supervisor", "channel::message jitter"),
    ("worker::limits", "channel::message jitter"),
    ("scoreboard", "sys channel::message"),
    ("channel", "sys channel::message"),
    ("queue", "config resp sys jitter"),
    ("consumer", "config resp sys queue::Job"),
    // keeper: of worker, the control thread, which answers the master for both, and how outages are told.
    (
        "keeper",
        "queue channel scoreboard config sys worker::control worker::outage worker::past",
    ),
    // store: of queue, key names and hashes of scripts.
    ("store", "resp queue config sys"),
    ("daemon", "config sys"),
    // worker: of daemon, the word that its control thread must not wait for the log.
    (
        "worker",
        "channel scoreboard queue consumer config sys jitter daemon::logging",
    ),
    // admin: of supervisor, snapshots and orders.
    ("admin", "resp supervisor channel::message config"),
    // master: of worker, keeper and store, the entry points.
    (
        "master",
        "supervisor admin channel scoreboard config daemon sys worker keeper store",
    ),
    ("cli", "*"),
    ("lib", "*"),
    ("main", "*"),
];

/// Modules that are told the time and touch nothing outside.
const PURE: &[&str] = &[
    "supervisor",
    "channel::message",
    "resp",
    "jitter",
    "config::units",
    "scoreboard::progress",
    "scoreboard::run_times",
    "worker::limits",
    "keeper::age",
    "queue::header",
    "queue::batch",
    "queue::retry",
    "admin::access",
    "admin::command",
    "admin::filter",
    "admin::greeting",
    "admin::info",
    "admin::session",
    "admin::table",
];

/// What pure modules do not use.
const IMPURE: &[&str] = &[
    "std::fs",
    "std::net",
    "std::process",
    "nix",
    "libc",
    "mio",
    "redis",
    "log",
];

/// The only module with `unsafe`.
const UNSAFE: &str = "sys";

/// The part of all our keys in Redis, and the only module that knows it.
const KEY_PART: &str = ":stark:";
const KEYS: &str = "queue";

#[test]
fn every_file_keeps_the_rules() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    find_sources(&src, &mut files);
    assert!(files.len() >= 2, "src/ has sources");
    let mut broken = Vec::new();
    for file in files {
        let source = fs::read_to_string(&file).expect("a source is readable UTF-8");
        let name = file.strip_prefix(&src).expect("is below src");
        broken.extend(check(name.to_str().expect("an ASCII name"), &source));
    }
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}

fn find_sources(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("src is readable") {
        let path = entry.expect("src is readable").path();
        if path.is_dir() {
            find_sources(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
}

/// What is wrong with a source, one line each. `file` is its path below src/.
fn check(file: &str, source: &str) -> Vec<String> {
    let module = module_of(file);
    let mut broken = Vec::new();
    let mut tell = |line: usize, rule: String| broken.push(format!("src/{file}:{line}: {rule}"));

    let all = scrub(source);
    let all_tokens = tokens(&all.code);
    for token in all_tokens.iter().filter(|token| token.text == "unsafe") {
        if module[0] != UNSAFE {
            tell(token.line, format!("unsafe stands only in {UNSAFE}"));
        }
    }
    // A module in a file of its own that only tests see.
    if module.last().is_some_and(|name| name == "tests") {
        return broken;
    }
    let tests = test_spans(&all.code);
    let code = blank(&all.code, &tests);
    for (number, line) in blank(&all.with_strings, &tests).lines().enumerate() {
        if line.contains(KEY_PART) && module[0] != KEYS {
            let rule = format!("names of keys ({KEY_PART}) stand only in {KEYS}");
            tell(number + 1, rule);
        }
    }
    let Some((owner, allowed)) = rule_of(&module) else {
        tell(1, format!("no rule for module {}", module.join("::")));
        return broken;
    };
    let is_pure = PURE.iter().any(|pure| is_below(&module, pure));
    for used in paths(&tokens(&code), &module) {
        let path = used.path.join("::");
        match used.path[0].as_str() {
            "crate" if !may_import(owner, allowed, &used.path[1..]) => tell(
                used.line,
                match allowed {
                    "" => format!("{owner} may import nothing of the crate, not {path}"),
                    _ => format!("{owner} may import {allowed}, not {path}"),
                },
            ),
            "crate" => {}
            _ if is_pure && is_impure(&used) => {
                tell(
                    used.line,
                    format!("{} is pure, not for {path}", module.join("::")),
                );
            }
            _ => {}
        }
    }
    broken
}

/// `queue/keys.rs` as queue, keys; `lib.rs` as lib.
fn module_of(file: &str) -> Vec<String> {
    let path = file.strip_suffix(".rs").expect("a source");
    let path = path.strip_suffix("/mod").unwrap_or(path);
    path.split('/').map(str::to_owned).collect()
}

fn is_below(path: &[String], module: &str) -> bool {
    let mut names = path.iter();
    module
        .split("::")
        .all(|name| names.next().is_some_and(|own| own == name))
}

fn rule_of(module: &[String]) -> Option<(&'static str, &'static str)> {
    let fitting = RULES.iter().filter(|(name, _)| is_below(module, name));
    fitting.max_by_key(|(name, _)| name.len()).copied()
}

fn may_import(owner: &str, allowed: &str, path: &[String]) -> bool {
    allowed == "*"
        || is_below(path, owner)
        || allowed
            .split_whitespace()
            .any(|entry| is_below(path, entry))
}

fn is_impure(used: &Used) -> bool {
    let clock = used.path.windows(2).any(|pair| pair == ["Instant", "now"])
        || used.path.iter().any(|name| name == "SystemTime");
    // A single name outside of `use` is a variable or an item: `log(x)`, `libc`.
    let is_path = used.is_import || used.path.len() > 1;
    clock || (is_path && IMPURE.iter().any(|impure| is_below(&used.path, impure)))
}

/// The rules that a source breaks in `file`, as `line: what`.
fn broken(file: &str, source: &str) -> Vec<String> {
    let start = format!("src/{file}:");
    let told = check(file, source).into_iter();
    told.map(|line| {
        line.strip_prefix(&start)
            .expect("names the file")
            .to_owned()
    })
    .collect()
}

#[test]
fn a_forbidden_import_is_found_in_every_shape() {
    let rule = "worker may import channel scoreboard queue consumer config sys jitter daemon::logging, not";
    for (source, line, path) in [
        ("use crate::master::Master;", 1, "crate::master::Master"),
        ("use crate::master;", 1, "crate::master"),
        ("pub use crate::{config, master::*};", 1, "crate::master::*"),
        (
            "use crate::{\n  sys,\n  master::{\n    a::{self, B as C},\n  },\n};",
            4,
            "crate::master::a",
        ),
        ("use {crate::master::A, std::fmt};", 1, "crate::master::A"),
        ("use super::super::master::A;", 1, "crate::master::A"),
        ("use self::super::super::master as m;", 1, "crate::master"),
        (
            "fn f() {\n  crate::master::run();\n}",
            2,
            "crate::master::run",
        ),
        (
            "fn f(x: &crate::master::Master) {}",
            1,
            "crate::master::Master",
        ),
        (
            "fn f() { Vec::<crate::master::A>::new(); }",
            1,
            "crate::master::A",
        ),
        (
            "fn f() { <crate::master::A as Default>::default(); }",
            1,
            "crate::master::A",
        ),
        (
            "mod inner {\n  use super::super::super::master::A;\n}",
            2,
            "crate::master::A",
        ),
        (
            "mod a { mod b {} }\nuse super::super::master::A;",
            2,
            "crate::master::A",
        ),
        ("use crate::*;", 1, "crate::*"),
        (
            "macro_rules! m { () => { $crate::master::run() } }",
            1,
            "crate::master::run",
        ),
    ] {
        let told = broken("worker/life.rs", source);
        assert_eq!(
            told.first(),
            Some(&format!("{line}: {rule} {path}")),
            "{source}"
        );
    }
}

#[test]
fn an_allowed_import_is_left_alone() {
    for (file, source) in [
        (
            "worker/life.rs",
            "use crate::{config::Config, queue::{self, Job}, worker::limits};",
        ),
        (
            "worker/life.rs",
            "use super::cycle; use self::inner::X; mod inner { use super::Y; }",
        ),
        (
            "worker/mod.rs",
            "use super::config::Config; pub(crate) fn f() {} pub(super) mod m;",
        ),
        ("consumer/script.rs", "use crate::queue::Job;"),
        ("config/raw.rs", "use ::config::Map; use super::units;"),
        (
            "channel/mod.rs",
            "use crate::channel::message::{ToMaster, ToWorker};",
        ),
        ("cli/push.rs", "use crate::{master, queue::keys};"),
        ("lib.rs", "pub use crate::master::Master;"),
        (
            "supervisor/slot.rs",
            "use std::time::{Duration, Instant}; fn f(log: u8) { log; process(log) }",
        ),
    ] {
        assert_eq!(broken(file, source), [""; 0], "{source}");
    }
}

#[test]
fn the_more_special_rule_counts() {
    assert_eq!(
        broken("worker/limits.rs", "use crate::config::Worker;"),
        ["1: worker::limits may import channel::message jitter, not crate::config::Worker"]
    );
    assert_eq!(
        broken("config/units.rs", "fn f() {}\nuse super::Config;"),
        ["2: config::units may import nothing of the crate, not crate::config::Config"]
    );
    assert_eq!(
        broken("consumer/mod.rs", "use crate::queue;"),
        ["1: consumer may import config resp sys queue::Job, not crate::queue"]
    );
    assert_eq!(
        broken("gateway/mod.rs", ""),
        ["1: no rule for module gateway"]
    );
}

#[test]
fn a_pure_module_has_no_clock_no_files_and_no_log() {
    for (source, path) in [
        ("fn f() { let now = Instant::now(); }", "Instant::now"),
        (
            "fn f() { std::time::Instant::now(); }",
            "std::time::Instant::now",
        ),
        (
            "use std::time::{Duration, SystemTime};",
            "std::time::SystemTime",
        ),
        ("use std::{fmt, fs};", "std::fs"),
        ("use ::std::net::TcpStream;", "std::net::TcpStream"),
        ("fn f() { std::process::exit(1) }", "std::process::exit"),
        ("use libc;", "libc"),
        ("use nix::unistd::{fork, Pid};", "nix::unistd::fork"),
        ("fn f() { log::info!(\"x\"); }", "log::info"),
        ("fn f(e: redis::RedisError) {}", "redis::RedisError"),
    ] {
        let told = broken("supervisor/slot.rs", source);
        let expected = format!("1: supervisor::slot is pure, not for {path}");
        assert_eq!(told.first(), Some(&expected), "{source}");
        assert_eq!(broken("master/spawn.rs", source), [""; 0]);
    }
}

#[test]
fn unsafe_and_names_of_keys_have_their_place() {
    let source = "fn f() {\n  unsafe { g() }\n}";
    assert_eq!(
        broken("worker/life.rs", source),
        ["2: unsafe stands only in sys"]
    );
    assert_eq!(broken("sys/fork.rs", source), [""; 0]);
    let source = "// {Q}:stark:dead\nconst K: &str = \"{q}:stark:dead\";";
    let told = "2: names of keys (:stark:) stand only in queue";
    assert_eq!(broken("keeper/mod.rs", source), [told]);
    assert_eq!(broken("queue/keys.rs", source), [""; 0]);
}

#[test]
fn comments_strings_and_tests_do_not_count() {
    for source in [
        "// use crate::master::A; unsafe\n/// [`crate::master`]\n/* a /* crate::master::B */ std::fs */",
        r#"const A: &str = "use crate::master::A; \" unsafe \\"; const B: u8 = b'"'; const C: char = '"';"#,
        r###"const A: &str = r#"unsafe " crate::master::A"#; const B: &[u8] = br"unsafe"; fn r#type<'a>() {}"###,
        "#[cfg(test)]\nmod tests {\n use crate::master::A; const U: &str = \"ü}:stark:\"; fn f() { std::fs::x() } }",
        "const U: &str = \"üüü\";\n#[cfg(test)]\nuse crate::master::{A, B};\nfn f(a: [u8; 2]) {}",
        "#[cfg(test)]\nfn f(a: [u8; 2]) { crate::master::run(); std::fs::read() }",
    ] {
        assert_eq!(broken("supervisor/slot.rs", source), [""; 0], "{source}");
    }
    assert_eq!(
        broken("supervisor/tests.rs", "use crate::master::A;"),
        [""; 0]
    );
    let after = "#[cfg(test)]\nmod tests { fn f() { \"}\" } }\nuse crate::master::A;";
    assert_eq!(broken("supervisor/slot.rs", after).len(), 1);
}

//! A [`Config`] written down as an ini that means the same when it is read again; for `--print-config`. Secrets are
//! masked, and their lines are comments, so that nobody logs in with three stars.

use std::fmt::Display;
use std::num::NonZeroU32;
use std::time::Duration;

use super::sections::with_pool;
use super::{
    Address, Affinity, Config, Delivery, LogTarget, Pool, Prefetch, Program, Queue, Retry, Worker,
    units,
};

/// Parts of names under `[env]` whose values are not shown.
const SECRET_NAMES: [&str; 6] = ["PASS", "SECRET", "TOKEN", "KEY", "CREDENTIAL", "AUTH"];

/// The settings in force as an ini.
pub fn to_ini(config: &Config) -> String {
    let mut ini = Ini(format!("; the settings in force, from {:?}\n", config.file));
    main(&mut ini, config);
    for pool in &config.pools {
        // The default pool's sections have no name.
        let name = match pool.name == config.main.name {
            true => "",
            false => pool.name.as_str(),
        };
        ini.section(&with_pool("run", name));
        run(&mut ini, pool);
        ini.section(&with_pool("worker", name));
        worker(&mut ini, &pool.worker);
        ini.section(&with_pool("queue", name));
        match &pool.queue {
            Some(settings) => {
                queue(&mut ini, settings);
                login(&mut ini, settings, name);
                if settings.delivery == Delivery::AtLeastOnce {
                    ini.section(&with_pool("retry", name));
                    retry(&mut ini, &settings.retry);
                }
            }
            None => ini.plain("type", "none"),
        }
        if !pool.env.is_empty() {
            ini.section(&with_pool("env", name));
            env(&mut ini, pool);
        }
    }
    ini.0
}

struct Ini(String);

impl Ini {
    fn section(&mut self, name: &str) {
        self.0 += &format!("\n[{name}]\n");
    }

    /// A value that needs no quotes: a number, a word of ours.
    fn plain(&mut self, key: &str, value: impl Display) {
        self.0 += &format!("{key} = {value}\n");
    }

    fn seconds(&mut self, key: &str, duration: Duration) {
        self.plain(key, units::format_duration(duration));
    }

    fn text(&mut self, key: &str, value: &str) {
        self.0 += &match quoted(value) {
            Some(value) => format!("{key} = {value}\n"),
            None => format!(";{key} =  ; no quotes can hold the value\n"),
        };
    }

    fn secret(&mut self, key: &str) {
        self.0 += &format!(";{key} = \"***\"  ; set, not shown\n");
    }
}

/// The text as the reader takes it back; none if there is no way to write it.
fn quoted(text: &str) -> Option<String> {
    let is_bare = text == text.trim()
        && !text.starts_with(['"', '\''])
        && !text.contains([';', '#'])
        && !text.contains("${");
    if text.contains(|c: char| c.is_control() && c != '\t') {
        None
    } else if !text.contains('"') && !text.contains("${") {
        Some(format!("\"{text}\""))
    } else if !text.contains('\'') {
        Some(format!("'{text}'"))
    } else {
        is_bare.then(|| text.to_owned())
    }
}

/// A word for a shell, in double quotes if it needs any, which leaves single ones to the ini.
fn shell_word(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-=+:,@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    let escape = |c: char| match c {
        '"' | '\\' | '$' | '`' => format!("\\{c}"),
        _ => c.to_string(),
    };
    format!("\"{}\"", word.chars().map(escape).collect::<String>())
}

fn main(ini: &mut Ini, config: &Config) {
    let main = &config.main;
    ini.section("main");
    ini.text("name", &main.name);
    ini.text("host", &main.host);
    ini.plain("port", main.port);
    if let Some(path) = &main.unixsocket {
        ini.text("unixsocket", &path.to_string_lossy());
    }
    for (key, password) in [
        ("password", &main.password),
        ("readonly_password", &main.readonly_password),
    ] {
        if password.is_some() {
            ini.secret(key);
        }
    }
    ini.text("working_dir", &main.working_dir.to_string_lossy());
    ini.text("pid_file", &main.pid_file.to_string_lossy());
    match &main.log {
        LogTarget::Daily { .. } => {}
        LogTarget::File(path) => ini.text("log_file", &path.to_string_lossy()),
        LogTarget::Stderr => ini.plain("log_file", "-"),
    }
    ini.plain("log_level", main.log_level.as_str().to_ascii_lowercase());
    for (key, name) in [("user", &main.user), ("group", &main.group)] {
        if let Some(name) = name {
            ini.text(key, name);
        }
    }
    ini.seconds("heartbeat_seconds", main.heartbeat_interval);
    ini.seconds("shutdown_timeout", main.shutdown_timeout);
    ini.plain("max_clients", main.max_clients);
}

fn run(ini: &mut Ini, pool: &Pool) {
    match &pool.run.program {
        Program::Script { file, interpreter } => {
            ini.text("script_file", &file.to_string_lossy());
            let words: Vec<String> = interpreter.iter().map(|word| shell_word(word)).collect();
            ini.text("interpreter", &words.join(" "));
        }
        Program::Builtin(builtin) => ini.plain("builtin", builtin.name()),
    }
    ini.seconds("max_job_seconds", pool.run.max_job_time.unwrap_or_default());
    match pool.run.memory_limit_bytes {
        u64::MAX => ini.plain("memory_limit", -1),
        bytes => ini.plain("memory_limit", bytes),
    }
}

fn worker(ini: &mut Ini, worker: &Worker) {
    ini.plain("count", worker.count);
    ini.plain("max_run_count", worker.max_run_count.unwrap_or(0));
    ini.seconds("max_run_seconds", worker.max_run_time.unwrap_or_default());
    ini.seconds("max_idle_seconds", worker.max_idle_time.unwrap_or_default());
    ini.plain("jitter", units::format_share(worker.jitter));
    ini.seconds("empty_sleep_seconds", worker.empty_sleep);
    ini.seconds("start_seconds", worker.start_timeout);
    match &worker.affinity {
        Affinity::Auto => ini.plain("affinity", "auto"),
        Affinity::None => ini.plain("affinity", "none"),
        Affinity::Cores(cores) => ini.plain("affinity", units::format_cpu_list(cores)),
    }
    ini.plain("nice", worker.nice);
}

fn queue(ini: &mut Ini, queue: &Queue) {
    ini.plain("type", "redis");
    match &queue.address {
        Address::Tcp(host, port) => {
            ini.text("host", host);
            ini.plain("port", port);
        }
        Address::Unix(path) => ini.text("host", &path.to_string_lossy()),
    }
    ini.plain("db", queue.db);
    ini.seconds("timeout", queue.timeout);
    ini.text("key", &queue.keys.join(" "));
    match queue.delivery {
        Delivery::AtLeastOnce => ini.plain("delivery", "at-least-once"),
        Delivery::AtMostOnce => ini.plain("delivery", "at-most-once"),
    }
    match queue.prefetch {
        Prefetch::Auto => ini.plain("prefetch", "auto"),
        Prefetch::Fixed(jobs) => ini.plain("prefetch", jobs),
    }
}

/// What a named pool does not have is empty, not left out: it would inherit it.
fn login(ini: &mut Ini, queue: &Queue, pool: &str) {
    let is_named = !pool.is_empty();
    match &queue.username {
        Some(username) => ini.text("username", username),
        None if is_named => ini.text("username", ""),
        None => {}
    }
    match &queue.password {
        Some(_) => ini.secret("password"),
        None if is_named => ini.text("password", ""),
        None => {}
    }
}

fn retry(ini: &mut Ini, retry: &Retry) {
    let limit = |limit: Option<NonZeroU32>| limit.map_or(0, NonZeroU32::get);
    ini.plain("max_attempts", limit(retry.max_attempts));
    ini.seconds("backoff_seconds", retry.backoff);
    ini.seconds("backoff_max_seconds", retry.backoff_max);
    ini.plain("max_crashes", limit(retry.max_crashes));
    ini.plain("dead_max", retry.dead_max);
    ini.seconds("dead_seconds", retry.dead_for.unwrap_or_default());
}

fn env(ini: &mut Ini, pool: &Pool) {
    for (name, value) in &pool.env {
        match is_secret(name, value) {
            true => ini.secret(name),
            false => ini.text(name, value),
        }
    }
}

/// By its name, or because it is a URL with a login (`mysql://user:password@host`).
pub(super) fn is_secret(name: &str, value: &str) -> bool {
    let name = name.to_ascii_uppercase();
    let has_login = value
        .split_once("://")
        .is_some_and(|(_, rest)| rest.contains('@'));
    has_login || SECRET_NAMES.iter().any(|part| name.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_keep_a_text_as_it_is_or_are_not_used() {
        for (text, written) in [
            (r"App\Job", Some(r#""App\Job""#)),
            ("it's", Some(r#""it's""#)),
            (r#"say "x""#, Some(r#"'say "x"'"#)),
            ("${HOME}", Some("'${HOME}'")),
            ("say \"it's\"", Some("say \"it's\"")),
            ("\"it's\"", None),
            ("it's ${HOME}", None),
            ("two\nlines", None),
        ] {
            assert_eq!(quoted(text).as_deref(), written, "{text}");
        }
    }

    #[test]
    fn a_shell_splits_what_is_joined_into_the_same_words() {
        for word in [
            "php", "", "a b", "a\"b", "it's", r"a\b", "${x}", "`x`", "#", "*",
        ] {
            assert_eq!(shlex::split(&shell_word(word)), Some(vec![word.to_owned()]));
        }
    }

    #[test]
    fn what_looks_like_a_secret_is_one() {
        for (name, value) in [
            ("DB_PASSWORD", "x"),
            ("api_key", "x"),
            ("DATABASE_URL", "mysql://root:x@db/app"),
        ] {
            assert!(is_secret(name, value), "{name}");
        }
        assert!(!is_secret("APP_ENV", "production"));
        assert!(!is_secret("APP_URL", "https://example.com"));
    }
}

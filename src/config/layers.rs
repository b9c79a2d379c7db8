//! Which settings exist, and which of their values wins: file, environment and `--set` become layers of the `config`
//! crate, and serde makes one [`RawConfig`] of them, in which every value still knows its place. Unknown names are
//! found here, before the layers meet. What a value means is for `check`.

use std::collections::BTreeMap;

use ::config::{ConfigError, Map, Source, Value};
use serde::Deserialize;

use super::mistakes::{Mistakes, Place, nearest};
use super::raw::{Entry, Layer};

/// A value as given, and where.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    /// Section and key, e.g. `worker.count`.
    pub name: String,
    /// The value.
    pub text: String,
    /// The place of the value that won.
    pub place: Place,
}

/// A field's name without the `r#` of one that is a keyword.
const fn plain(name: &'static str) -> &'static str {
    match name.as_bytes() {
        [b'r', b'#', ..] => name.split_at(2).1,
        _ => name,
    }
}

/// A section's struct, and the list of its keys.
macro_rules! section {
    ($(#[$doc:meta])* $section:ident { $($key:ident)* }) => {
        $(#[$doc])*
        #[derive(Debug, Default, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        #[allow(missing_docs, reason = "conf/worker.ini says what each key means")]
        pub struct $section { $(pub $key: Option<Setting>),* }

        impl $section {
            /// Names of the keys.
            pub const KEYS: &'static [&'static str] = &[$(plain(stringify!($key))),*];
        }
    };
}

section! {
    /// `[main]`.
    RawMain {
        name host port unixsocket password password_file readonly_password working_dir pid_file log_file log_level
        user group heartbeat_seconds shutdown_timeout max_clients slow_job_ms
    }
}

section! {
    /// `[run]`.
    RawRun { script_file command builtin interpreter memory_limit max_job_seconds }
}

section! {
    /// `[worker]`.
    RawWorker {
        count max_run_count max_run_seconds max_idle_seconds jitter empty_sleep_seconds start_seconds affinity nice
    }
}

section! {
    /// `[queue]`.
    RawQueue {
        r#type host port db username password timeout url key delivery prefetch sync lease_seconds
    }
}

section! {
    /// `[retry]`.
    RawRetry { max_attempts backoff_seconds backoff_max_seconds max_crashes dead_max dead_seconds }
}

/// All settings as given.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawConfig {
    /// `[main]`.
    pub main: RawMain,
    /// `[run]`.
    pub run: RawRun,
    /// `[worker]`.
    pub worker: RawWorker,
    /// `[queue]`; an empty section is there, too.
    pub queue: Option<RawQueue>,
    /// `[retry]`.
    pub retry: RawRetry,
    /// `[env]`: any names.
    pub env: BTreeMap<String, Setting>,
}

/// The known sections with their keys; `env` has any.
pub const SECTIONS: [(&str, &[&str]); 6] = [
    ("main", RawMain::KEYS),
    ("run", RawRun::KEYS),
    ("worker", RawWorker::KEYS),
    ("queue", RawQueue::KEYS),
    ("retry", RawRetry::KEYS),
    ("env", &[]),
];

fn keys_of(section: &str) -> Option<&'static [&'static str]> {
    let known = SECTIONS.iter().find(|(name, _)| *name == section);
    known.map(|(_, keys)| *keys)
}

/// Joins the layers, weakest first. What is unknown is left out, and told of.
pub fn join(layers: Vec<Layer>, mistakes: &mut Mistakes, warnings: &mut Vec<String>) -> RawConfig {
    let mut builder = ::config::Config::builder();
    for mut layer in layers {
        layer
            .sections
            .retain(|(section, place)| is_known_section(section, place, mistakes, warnings));
        let sections = &layer.sections;
        layer.entries.retain(|entry| {
            sections.iter().any(|(name, _)| *name == entry.section) && is_known_key(entry, mistakes)
        });
        builder = builder.add_source(layer);
    }
    builder
        .build()
        .and_then(::config::Config::try_deserialize)
        .expect("layers hold nothing but known keys")
}

fn is_known_section(
    section: &str,
    place: &Place,
    mistakes: &mut Mistakes,
    warnings: &mut Vec<String>,
) -> bool {
    let (kind, pool) = section.split_once(' ').unwrap_or((section, ""));
    match keys_of(kind) {
        Some(_) if pool.is_empty() => return true,
        Some(_) if kind == "main" => {
            mistakes.add(place, format!("[{section}]: [main] has no name"))
        }
        Some(_) => mistakes.add(
            place,
            format!("[{section}]: not supported yet (named pools)"),
        ),
        None => match nearest(kind, SECTIONS.iter().map(|(name, _)| *name), 0.9) {
            Some(near) => mistakes.add(
                place,
                format!("[{section}]: unknown section; did you mean [{near}]?"),
            ),
            None => warnings.push(format!("{place}: [{section}]: unknown section, ignored")),
        },
    }
    false
}

fn is_known_key(entry: &Entry, mistakes: &mut Mistakes) -> bool {
    let Entry {
        section,
        key,
        place,
        ..
    } = entry;
    let keys = keys_of(section).expect("unknown sections are gone");
    if section == "env" || keys.contains(&key.as_str()) {
        return true;
    }
    let elsewhere = SECTIONS
        .iter()
        .find(|(_, keys)| keys.contains(&key.as_str()));
    let cure = match (nearest(key, keys.iter().copied(), 0.8), elsewhere) {
        (_, Some((other, _))) => format!("did you mean {other}.{key}?"),
        (Some(near), None) => format!("did you mean {section}.{near}?"),
        (None, None) => format!("[{section}] has {}", keys.join(", ")),
    };
    mistakes.add(place, format!("{section}.{key}: unknown key; {cure}"));
    false
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    /// A table of sections, each a table of [`Setting`]s.
    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        let mut sections: Map<String, Map<String, Value>> = Map::new();
        for (section, _) in &self.sections {
            sections.entry(section.clone()).or_default();
        }
        for entry in &self.entries {
            let section = sections.entry(entry.section.clone()).or_default();
            section.insert(entry.key.clone(), setting_value(entry));
        }
        Ok(sections
            .into_iter()
            .map(|(name, keys)| (name, Value::from(keys)))
            .collect())
    }
}

fn setting_value(entry: &Entry) -> Value {
    let place = Map::from_iter([
        ("layer".to_owned(), Value::from(entry.place.layer)),
        ("line".to_owned(), Value::from(entry.place.line)),
        ("name".to_owned(), Value::from(entry.place.name.as_str())),
    ]);
    let name = format!("{}.{}", entry.section, entry.key);
    Value::from(Map::from_iter([
        ("name".to_owned(), Value::from(name)),
        ("text".to_owned(), Value::from(entry.text.as_str())),
        ("place".to_owned(), Value::from(place)),
    ]))
}

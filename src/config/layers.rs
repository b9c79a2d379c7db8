//! Which settings exist, and which of their values wins: file, environment and `--set` become layers of the `config`
//! crate, and serde makes one [`RawConfig`] of them, in which every value still knows its place. Unknown names are
//! found here, before the layers meet: `sections` knows those of sections and pools. What a pool inherits is for
//! `inherit`, what a value means for `check`.

use std::collections::BTreeMap;
use std::fmt;

use ::config::{ConfigError, Map, Source, Value};
use serde::Deserialize;

use super::mistakes::{Mistakes, Place, nearest};
use super::raw::{Entry, Layer};
use super::sections::{self, Declared};

/// A value as given, and where.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    /// Section and key, e.g. `worker.count`.
    pub name: String,
    /// The value.
    pub text: String,
    /// The place of the value that won.
    pub place: Place,
}

/// By hand: the value may be a secret.
impl fmt::Debug for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.place)
    }
}

/// A field's name without the `r#` of one that is a keyword.
const fn plain(name: &'static str) -> &'static str {
    match name.as_bytes() {
        [b'r', b'#', ..] => name.split_at(2).1,
        _ => name,
    }
}

/// A section of which there may be one for each pool.
pub trait Section {
    /// These settings, and those of `base` where there is none here.
    fn or(self, base: Self) -> Self;
}

/// A section's struct, and the list of its keys.
macro_rules! section {
    ($(#[$doc:meta])* $section:ident { $($key:ident)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        #[allow(missing_docs, reason = "conf/worker.ini says what each key means")]
        pub struct $section { $(pub $key: Option<Setting>),* }

        impl $section {
            /// Names of the keys.
            pub const KEYS: &'static [&'static str] = &[$(plain(stringify!($key))),*];
        }

        impl Section for $section {
            fn or(self, base: Self) -> Self {
                Self { $($key: self.$key.or(base.$key)),* }
            }
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

/// The sections of a pool as given.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawPool {
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

/// All settings as given.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawConfig {
    /// `[main]`.
    pub main: RawMain,
    /// The sections without a name.
    pub base: RawPool,
    /// The sections with one.
    pub pools: BTreeMap<String, RawPool>,
    /// The pools in the order of their first mention.
    #[serde(skip)]
    pub declared: Vec<Declared>,
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

/// What the three sources say.
pub struct Layers {
    /// The ini file.
    pub file: Layer,
    /// Variables.
    pub environment: Layer,
    /// `--set`.
    pub overrides: Layer,
}

/// Joins the layers. What is unknown is left out, and told of.
pub fn join(layers: Layers, mistakes: &mut Mistakes, warnings: &mut Vec<String>) -> RawConfig {
    let Layers {
        mut file,
        mut environment,
        mut overrides,
    } = layers;
    sections::keep_known(&mut file, mistakes, warnings);
    let declared = sections::declared(&file);
    sections::keep_known(&mut environment, mistakes, warnings);
    sections::name_pools(&mut environment, &declared, mistakes);
    sections::keep_known(&mut overrides, mistakes, warnings);
    sections::keep_declared(&mut overrides, &declared, mistakes);
    let mut builder = ::config::Config::builder();
    for mut layer in [file, environment, overrides] {
        layer.entries.retain(|entry| is_known_key(entry, mistakes));
        builder = builder.add_source(layer);
    }
    let joined: RawConfig = builder
        .build()
        .and_then(::config::Config::try_deserialize)
        .expect("layers hold nothing but known keys");
    RawConfig { declared, ..joined }
}

fn is_known_key(entry: &Entry, mistakes: &mut Mistakes) -> bool {
    let Entry {
        section,
        key,
        place,
        ..
    } = entry;
    let (kind, pool) = sections::split(section);
    let keys = sections::keys_of(kind).expect("unknown sections are gone");
    if kind == "env" || keys.contains(&key.as_str()) {
        return true;
    }
    let mut elsewhere = SECTIONS.iter().filter(|(other, keys)| {
        keys.contains(&key.as_str()) && (pool.is_empty() || *other != "main")
    });
    let cure = match (nearest(key, keys.iter().copied(), 0.8), elsewhere.next()) {
        (_, Some((other, _))) => {
            let other = sections::with_pool(other, pool);
            format!("did you mean {other}.{key}?")
        }
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

    /// A [`RawConfig`] as a table. Pools are deeper than the top, where `config` takes a dot in a name for a path.
    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        let mut pools: Map<String, Map<String, Map<String, Value>>> = Map::new();
        let mut keys_of = |section: &str, entry: Option<&Entry>| {
            let (kind, pool) = sections::split(section);
            let sections = pools.entry(pool.to_owned()).or_default();
            let keys = sections.entry(kind.to_owned()).or_default();
            keys.extend(entry.map(|entry| (entry.key.clone(), setting_value(entry))));
        };
        for (section, _) in &self.sections {
            keys_of(section, None);
        }
        for entry in &self.entries {
            keys_of(&entry.section, Some(entry));
        }
        let mut base = pools.remove("").unwrap_or_default();
        let main = base.remove("main").unwrap_or_default();
        Ok(Map::from_iter([
            ("main".to_owned(), Value::from(main)),
            ("base".to_owned(), Value::from(base)),
            ("pools".to_owned(), Value::from(pools)),
        ]))
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

//! The names of sections and of the pools behind them: which are known, what an unknown one was meant to be, and which
//! pool a variable means, whose name can hold no `-` and no `.`. Only the file makes pools; environment and command
//! line change them, so that a slip of the pen there starts nothing.

use std::collections::HashSet;

use super::layers::SECTIONS;
use super::mistakes::{Mistakes, Place, nearest};
use super::raw::Layer;

/// Longest name of a daemon or a pool: it becomes part of socket paths, which end at 108 bytes, and of keys.
const MAX_NAME: usize = 64;

/// A pool that the file mentions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declared {
    /// Lower case.
    pub name: String,
    /// Its first section.
    pub place: Place,
}

/// What [`is_name`] allows, in words.
pub fn allowed_names() -> String {
    format!("1 to {MAX_NAME} letters, digits, '.', '_' and '-'")
}

/// Whether a daemon or a pool may be called so: names become parts of files, keys and titles.
pub fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// `worker mail` as `worker` and `mail`; without a pool the second is empty.
pub fn split(section: &str) -> (&str, &str) {
    section.split_once(' ').unwrap_or((section, ""))
}

/// The opposite of [`split`].
pub fn with_pool(kind: &str, pool: &str) -> String {
    match pool {
        "" => kind.to_owned(),
        _ => format!("{kind} {pool}"),
    }
}

/// The keys of a kind of section; none if there is no such kind.
pub fn keys_of(kind: &str) -> Option<&'static [&'static str]> {
    let known = SECTIONS.iter().find(|(name, _)| *name == kind);
    known.map(|(_, keys)| *keys)
}

/// Drops sections that are not ours, with what stands in them.
pub fn keep_known(layer: &mut Layer, mistakes: &mut Mistakes, warnings: &mut Vec<String>) {
    keep(layer, |section, place| match judge(section) {
        Verdict::Known => true,
        Verdict::Foreign => {
            warnings.push(format!("{place}: [{section}]: unknown section, ignored"));
            false
        }
        Verdict::Mistaken(why) => {
            mistakes.add(place, format!("[{section}]: {why}"));
            false
        }
    });
}

/// Drops what `is_kept` says no to.
fn keep(layer: &mut Layer, mut is_kept: impl FnMut(&str, &Place) -> bool) {
    layer
        .sections
        .retain(|(section, place)| is_kept(section, place));
    let kept: HashSet<&str> = layer
        .sections
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    layer
        .entries
        .retain(|entry| kept.contains(entry.section.as_str()));
}

enum Verdict {
    Known,
    /// The user's own.
    Foreign,
    Mistaken(String),
}

fn judge(section: &str) -> Verdict {
    let (kind, pool) = split(section);
    if keys_of(kind).is_some() {
        return match pool {
            "" => Verdict::Known,
            _ if kind == "main" => Verdict::Mistaken("[main] has no name".into()),
            _ if is_pool(pool) => Verdict::Known,
            _ => Verdict::Mistaken(format!(
                "{pool:?} is no name of a pool: {}, the first a letter or a digit",
                allowed_names()
            )),
        };
    }
    let meant = |kind: &str, pool: &str| {
        let meant = with_pool(kind, pool);
        Verdict::Mistaken(format!("unknown section; did you mean [{meant}]?"))
    };
    // `[worker.mail]` and `[worker:mail]`, as other programs have them.
    if let Some((kind, name)) = kind.split_once(['.', ':'])
        && keys_of(kind).is_some()
        && kind != "main"
        && pool.is_empty()
        && is_pool(name)
    {
        return meant(kind, name);
    }
    match nearest(kind, SECTIONS.iter().map(|(name, _)| *name), 0.9) {
        Some("main") => meant("main", ""),
        Some(near) => meant(near, pool),
        None => Verdict::Foreign,
    }
}

fn is_pool(name: &str) -> bool {
    is_name(name) && name.starts_with(|c: char| c.is_ascii_alphanumeric())
}

/// The pools of the file, in the order of their first mention.
pub fn declared(file: &Layer) -> Vec<Declared> {
    let mut declared: Vec<Declared> = Vec::new();
    let mut names = HashSet::new();
    for (section, place) in &file.sections {
        let (_, pool) = split(section);
        if !pool.is_empty() && names.insert(pool) {
            declared.push(Declared {
                name: pool.to_owned(),
                place: place.clone(),
            });
        }
    }
    declared
}

/// Drops sections of pools that the file does not have.
pub fn keep_declared(layer: &mut Layer, declared: &[Declared], mistakes: &mut Mistakes) {
    keep(layer, |section, place| {
        let (_, pool) = split(section);
        let is_there = pool.is_empty() || declared.iter().any(|known| known.name == pool);
        if !is_there {
            mistakes.add(place, format!("[{section}]: {}", no_such_pool(declared)));
        }
        is_there
    });
}

/// Puts the pools' own names for those in variables, in which `_` stands for `-` and `.`, too.
pub fn name_pools(environment: &mut Layer, declared: &[Declared], mistakes: &mut Mistakes) {
    let variable = |name: &str| name.replace(['-', '.'], "_");
    let meant = |section: &str| {
        let (kind, pool) = split(section);
        if pool.is_empty() {
            return Ok(section.to_owned());
        }
        let names = declared.iter().map(|known| known.name.as_str());
        let fitting: Vec<&str> = names.filter(|name| variable(name) == pool).collect();
        match fitting[..] {
            [name] => Ok(with_pool(kind, name)),
            [] => Err(no_such_pool(declared)),
            _ => Err(format!("may mean the pools {}", fitting.join(", "))),
        }
    };
    let mut kept = Layer::default();
    for mut entry in std::mem::take(environment).entries {
        match meant(&entry.section) {
            Ok(section) => {
                entry.section = section;
                kept.mention(&entry.section, &entry.place);
                kept.entries.push(entry);
            }
            Err(why) => mistakes.add(&entry.place, format!("[{}]: {why}", entry.section)),
        }
    }
    *environment = kept;
}

fn no_such_pool(declared: &[Declared]) -> String {
    let names: Vec<&str> = declared.iter().map(|pool| pool.name.as_str()).collect();
    match names.is_empty() {
        true => "no such pool; the file has no sections of named pools".into(),
        false => format!("no such pool; the file has {}", names.join(", ")),
    }
}

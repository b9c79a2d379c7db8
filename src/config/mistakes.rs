//! What is wrong with the settings: all of it at once, in the order of its places, one line each. Also finds the known
//! name that an unknown one was probably meant to be. What is a mistake is decided by its callers.

use std::fmt;

use serde::Deserialize;

/// Where a setting was given. Places are ordered: the file by line, then the environment, then the command line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Place {
    /// The layer, 0 to 2; before the text, so that places sort by it.
    pub layer: u64,
    /// The line in the file, from 1; 0 is the whole file, and all of another layer.
    pub line: u64,
    /// The file, the variable, or `--set`.
    pub name: String,
}

impl Place {
    /// A line of the file, from 1; 0 for the whole file.
    pub fn in_file(file: &str, line: usize) -> Self {
        Self {
            layer: 0,
            line: line as u64,
            name: file.into(),
        }
    }

    /// An environment variable.
    pub fn variable(name: &str) -> Self {
        Self {
            layer: 1,
            line: 0,
            name: name.into(),
        }
    }

    /// The command line.
    pub fn command_line() -> Self {
        Self {
            layer: 2,
            line: 0,
            name: "--set".into(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.name),
            line => write!(f, "{}:{line}", self.name),
        }
    }
}

/// All that is wrong with the settings; displayed one per line, as `worker.ini:14: worker.cuont: unknown key; ...`.
#[derive(Debug, Default)]
pub struct Mistakes(Vec<(Place, String)>);

impl Mistakes {
    /// Adds one; `what` names the key and never holds a secret's value.
    pub fn add(&mut self, place: &Place, what: impl Into<String>) {
        let mistake = (place.clone(), what.into());
        if let Err(at) = self.0.binary_search(&mistake) {
            self.0.insert(at, mistake);
        }
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (place, what)) in self.0.iter().enumerate() {
            let separator = if i == 0 { "" } else { "\n" };
            write!(f, "{separator}{place}: {what}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

/// The candidate most like `name`, if it is at least `alike` (0.0 to 1.0; Jaro and Winkler's measure, which favours
/// what begins the same way).
pub fn nearest<'a>(
    name: &str,
    candidates: impl Iterator<Item = &'a str>,
    alike: f64,
) -> Option<&'a str> {
    candidates
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(score, _)| *score >= alike)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_shown_once_each_in_the_order_of_their_places() {
        let mut mistakes = Mistakes::default();
        mistakes.add(&Place::command_line(), "last");
        mistakes.add(&Place::variable("STARK_MAIN__PROT"), "fourth");
        mistakes.add(&Place::in_file("worker.ini", 10), "third");
        mistakes.add(&Place::in_file("worker.ini", 9), "second");
        mistakes.add(&Place::in_file("worker.ini", 9), "second");
        mistakes.add(&Place::in_file("worker.ini", 0), "first");
        assert_eq!(
            mistakes.to_string(),
            "worker.ini: first\nworker.ini:9: second\nworker.ini:10: third\n\
             STARK_MAIN__PROT: fourth\n--set: last"
        );
    }

    #[test]
    fn the_nearest_name_is_near() {
        let keys = ["count", "nice", "max_run_count"];
        assert_eq!(nearest("cuont", keys.into_iter(), 0.8), Some("count"));
        assert_eq!(
            nearest("maxruncount", keys.into_iter(), 0.8),
            Some("max_run_count")
        );
        assert_eq!(nearest("zebra", keys.into_iter(), 0.8), None);
    }
}

//! Settings as written: an ini file, `STARK_SECTION__KEY` variables and `--set section.key=value`, each read into a
//! [`Layer`] of texts with their places. An own reader for the file, since common ones interpret backslashes (which
//! PHP class names have), swallow duplicates and never name a line. Which names exist is `layers`' business.

use std::collections::{HashMap, HashSet};
use std::fmt;

use super::mistakes::{Mistakes, Place};

/// Looks up an environment variable.
pub type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What one source of settings says, in its order.
#[derive(Clone, Debug, Default)]
pub struct Layer {
    /// Every section that is mentioned, lower case (`worker`, `worker mail`), with where it was first.
    pub sections: Vec<(String, Place)>,
    /// Every key with its value.
    pub entries: Vec<Entry>,
    mentioned: HashSet<String>,
}

/// A key with its value, as written.
#[derive(Clone)]
pub struct Entry {
    /// Lower case.
    pub section: String,
    /// Lower case, but as written under `[env]`.
    pub key: String,
    /// Without quotes, with `${NAME}` replaced.
    pub text: String,
    /// Where it stands.
    pub place: Place,
    /// Whether the value itself stands there, not only the name of a variable.
    pub is_literal: bool,
}

/// By hand: the value may be a secret.
impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{} ({})", self.section, self.key, self.place)
    }
}

impl Layer {
    /// Notes a section, at its first place.
    pub fn mention(&mut self, section: &str, place: &Place) {
        if self.mentioned.insert(section.to_owned()) {
            self.sections.push((section.to_owned(), place.clone()));
        }
    }

    fn enter(&mut self, section: String, key: &str, text: String, place: Place) {
        self.mention(&section, &place);
        let key = match is_env(&section) {
            true => key.to_owned(),
            false => canonical(key),
        };
        self.entries.push(Entry {
            section,
            key,
            text,
            place,
            is_literal: true,
        });
    }
}

/// Whether the section's keys are the user's own names.
fn is_env(section: &str) -> bool {
    section.split(' ').next() == Some("env")
}

/// Keys ignore case, and Stark's `queueKey` is `key`.
fn canonical(key: &str) -> String {
    match key.to_ascii_lowercase().as_str() {
        "queuekey" => "key".into(),
        key => key.into(),
    }
}

/// `Worker  MAIL` as `worker mail`.
fn section_name(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").to_ascii_lowercase()
}

/// Reads an ini file; `file` is its name in mistakes.
pub fn read_ini(file: &str, bytes: &[u8], variables: Variables, mistakes: &mut Mistakes) -> Layer {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.strip_prefix('\u{feff}').unwrap_or(text),
        Err(err) => {
            let lines_before = bytes[..err.valid_up_to()].split(|b| *b == b'\n').count();
            mistakes.add(&Place::in_file(file, lines_before), "not UTF-8");
            return Layer::default();
        }
    };
    let mut reader = IniReader {
        layer: Layer::default(),
        section: Section::Before,
        first: HashMap::new(),
        variables,
    };
    for (i, line) in text.lines().enumerate() {
        let place = Place::in_file(file, i + 1);
        if let Err(what) = reader.line(line.trim(), &place) {
            mistakes.add(&place, what);
        }
    }
    reader.layer
}

struct IniReader<'a> {
    layer: Layer,
    section: Section,
    /// Where each (section, key) was first given.
    first: HashMap<(String, String), Place>,
    variables: Variables<'a>,
}

enum Section {
    /// No section has begun.
    Before,
    /// The keys below this header belong to nothing known; one mistake is enough.
    Broken,
    Named(String),
}

impl IniReader<'_> {
    fn line(&mut self, line: &str, place: &Place) -> Result<(), String> {
        if line.is_empty() || line.starts_with([';', '#']) {
            return Ok(());
        }
        if line.contains(|c: char| c.is_control() && c != '\t') {
            return Err("control character".into());
        }
        match line.strip_prefix('[') {
            Some(rest) => self.header(rest, place),
            None => self.entry(line, place),
        }
    }

    fn header(&mut self, rest: &str, place: &Place) -> Result<(), String> {
        self.section = Section::Broken;
        let Some((name, after)) = rest.split_once(']') else {
            return Err("unclosed section: no ] after [".into());
        };
        if !is_blank_or_comment(after) {
            return Err(format!("text after [{name}]"));
        }
        let name = section_name(name);
        if name.is_empty() {
            return Err("section without a name".into());
        }
        self.layer.mention(&name, place);
        self.section = Section::Named(name);
        Ok(())
    }

    fn entry(&mut self, line: &str, place: &Place) -> Result<(), String> {
        // The line may hold a secret, so it is not repeated.
        let Some((key, value)) = line.split_once('=') else {
            return Err("neither [section] nor key = value nor a comment".into());
        };
        let key = key.trim_end();
        let section = match &self.section {
            Section::Named(section) => section.clone(),
            Section::Broken => return Ok(()),
            Section::Before => return Err(format!("{key}: stands before the first [section]")),
        };
        if key.is_empty() {
            return Err("value without a key".into());
        }
        let text =
            value_of(value, self.variables).map_err(|what| format!("{section}.{key}: {what}"))?;
        self.layer.enter(section, key, text, place.clone());
        let entry = self.layer.entries.last_mut().expect("was just entered");
        entry.is_literal = value.trim_start().starts_with('\'') || !value.contains("${");
        self.note_first(key, place)
    }

    /// A key given twice is refused, wherever its section was opened again.
    fn note_first(&mut self, written: &str, place: &Place) -> Result<(), String> {
        let entry = self.layer.entries.last().expect("one was just entered");
        let name = (entry.section.clone(), entry.key.clone());
        match self.first.get(&name) {
            Some(first) => Err(format!(
                "{}.{written}: given twice, first on line {}",
                name.0, first.line
            )),
            None => {
                self.first.insert(name, place.clone());
                Ok(())
            }
        }
    }
}

/// `; ...` or `# ...` or nothing.
fn is_blank_or_comment(text: &str) -> bool {
    let text = text.trim_start();
    text.is_empty() || text.starts_with([';', '#'])
}

/// The value right of `=`: quotes and comment taken off, variables filled in.
fn value_of(text: &str, variables: Variables) -> Result<String, String> {
    let trimmed = text.trim_start();
    let Some(quote) = trimmed.chars().next().filter(|c| matches!(c, '"' | '\'')) else {
        return expand(without_comment(text).trim(), variables);
    };
    let Some((value, after)) = trimmed[1..].split_once(quote) else {
        return Err(format!("unclosed quote {quote}"));
    };
    if !is_blank_or_comment(after) {
        return Err("text after the closing quote".into());
    }
    match quote {
        '\'' => Ok(value.into()),
        _ => expand(value, variables),
    }
}

/// Cuts at the first `;` or `#` after white space.
fn without_comment(text: &str) -> &str {
    let mut after_space = false;
    for (at, c) in text.char_indices() {
        if after_space && matches!(c, ';' | '#') {
            return &text[..at];
        }
        after_space = c.is_whitespace();
    }
    text
}

/// Replaces each `${NAME}`.
fn expand(text: &str, variables: Variables) -> Result<String, String> {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let name = after.split_once('}').filter(|(name, _)| is_variable(name));
        let Some((name, after)) = name else {
            return Err("${ is not followed by NAME}; single quotes keep it as it is".into());
        };
        let Some(value) = variables(name) else {
            return Err(format!("${{{name}}} is not set in the environment"));
        };
        expanded += before;
        expanded += &value;
        rest = after;
    }
    Ok(expanded + rest)
}

fn is_variable(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Reads `STARK_<SECTION>__<KEY>`, with `STARK_WORKER_MAIL__COUNT` for `[worker mail]`; everything else (`STARK_HOME`)
/// is somebody else's. An empty variable counts as unset, except under `[env]`. Two underscores in a pool's name are
/// told from those before the key, since no key but one under `[env]` has any.
pub fn read_environment<'a>(variables: impl Iterator<Item = (&'a str, &'a str)>) -> Layer {
    let mut layer = Layer::default();
    for (name, text) in variables {
        let Some(rest) = name.strip_prefix("STARK_") else {
            continue;
        };
        let is_of_env = rest.to_ascii_lowercase().starts_with("env_");
        let parts = match is_of_env {
            true => rest.split_once("__"),
            false => rest.rsplit_once("__"),
        };
        let Some((section, key)) = parts else {
            continue;
        };
        let section = match section.split_once('_') {
            Some((kind, pool)) if !pool.is_empty() => section_name(&format!("{kind} {pool}")),
            _ => section_name(section),
        };
        if section.is_empty() || key.is_empty() || (text.is_empty() && !is_env(&section)) {
            continue;
        }
        layer.enter(section, key, text.into(), Place::variable(name));
    }
    layer
}

/// Reads `section.key=value` arguments; the last of two for one key counts. The key stands after the last dot, since
/// names of pools may hold some; only names under `[env]` may hold dots, too.
pub fn read_overrides(overrides: &[String], mistakes: &mut Mistakes) -> Layer {
    let mut layer = Layer::default();
    let place = Place::command_line();
    for argument in overrides {
        let parts = argument.split_once('=').and_then(|(name, text)| {
            let name = name.trim();
            let parts = match name.get(..4) {
                Some(start) if start.eq_ignore_ascii_case("env.") => name.split_once('.'),
                _ => name.rsplit_once('.'),
            };
            Some((parts?, text))
        });
        match parts {
            Some(((section, key), text)) if !section.is_empty() && !key.is_empty() => {
                layer.enter(section_name(section), key, text.into(), place.clone());
            }
            _ => {
                let what = format!("{}: is not section.key=value", name_in(argument));
                mistakes.add(&place, what);
            }
        }
    }
    layer
}

/// The argument up to where a name ends; what follows may be a secret.
fn name_in(argument: &str) -> &str {
    let is_end = |c: char| !c.is_alphanumeric() && c != '_' && c != '.';
    argument.split(is_end).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Vec<String>, String) {
        let mut mistakes = Mistakes::default();
        let variables = |name: &str| (name == "PORT").then(|| "6380".to_owned());
        let layer = read_ini("w.ini", text.as_bytes(), &variables, &mut mistakes);
        (shown(&layer), mistakes.to_string())
    }

    fn shown(layer: &Layer) -> Vec<String> {
        let show = |e: &Entry| format!("{}.{}={}", e.section, e.key, e.text);
        layer.entries.iter().map(show).collect()
    }

    #[test]
    fn a_value_is_read_as_it_is_written() {
        for (written, value) in [
            ("4", "4"),
            ("  4 ; four", "4"),
            ("4\t# four", "4"),
            ("a;b#c", "a;b#c"),
            ("#abc", "#abc"),
            (" #abc", ""),
            ("", ""),
            (r#" "App\new\tmp" ; a class"#, r"App\new\tmp"),
            (r#" " ; # ' ""#, " ; # ' "),
            (r#" 'say "x"'"#, r#"say "x""#),
            ("\"6380\"", "6380"),
            ("a = b", "a = b"),
            ("${PORT}", "6380"),
            ("\"p${PORT}q$\"", "p6380q$"),
            ("'${PORT}'", "${PORT}"),
        ] {
            let (entries, mistakes) = read(&format!("[s]\nk ={written}\n"));
            assert_eq!(mistakes, "", "{written}");
            assert_eq!(entries, [format!("s.k={value}")], "{written}");
        }
    }

    #[test]
    fn every_broken_line_is_named() {
        for (line, mistake) in [
            ("[worker", "unclosed section: no ] after ["),
            ("[a] b", "text after [a]"),
            ("[ ]", "section without a name"),
            ("secret", "neither [section] nor key = value nor a comment"),
            ("= 4", "value without a key"),
            ("k = \"a", "s.k: unclosed quote \""),
            ("k = 'a", "s.k: unclosed quote '"),
            ("k = 'a' b", "s.k: text after the closing quote"),
            ("k = ${NONE}", "s.k: ${NONE} is not set in the environment"),
            (
                "k = ${x:-y}",
                "s.k: ${ is not followed by NAME}; single quotes keep it as it is",
            ),
            ("k = a\0b", "control character"),
            ("J = 2", "s.J: given twice, first on line 2"),
        ] {
            let (entries, mistakes) = read(&format!("[s]\nj = 1\n{line}\n"));
            assert_eq!(mistakes, format!("w.ini:3: {mistake}"));
            assert_eq!(entries[0], "s.j=1");
        }
        assert_eq!(
            read("a = 1\n").1,
            "w.ini:1: a: stands before the first [section]"
        );
    }

    #[test]
    fn a_broken_header_is_one_mistake_not_one_per_key_below() {
        let (entries, mistakes) = read("[worker\ncount = 4\nnice = 0\n[main]\nport = 1\n");
        assert_eq!(mistakes, "w.ini:1: unclosed section: no ] after [");
        assert_eq!(entries, ["main.port=1"]);
    }

    #[test]
    fn byte_order_mark_carriage_returns_and_case_do_not_matter() {
        let (entries, mistakes) = read(
            "\u{feff}[MAIN]\r\nPort = 1\r\n; c\r\n\r\n[Worker  Mail]\r\nCount = '2'\r\n[env]\r\nPath = x",
        );
        assert_eq!(mistakes, "");
        assert_eq!(
            entries,
            ["main.port=1", "worker mail.count=2", "env.Path=x"]
        );
    }

    #[test]
    fn a_section_may_be_opened_again_but_a_key_not_given_again() {
        let (entries, mistakes) =
            read("[queue]\nqueueKey = a\n[main]\n[queue]\nport = 1\nkey = b\n");
        assert_eq!(entries[..2], ["queue.key=a", "queue.port=1"]);
        assert_eq!(mistakes, "w.ini:6: queue.key: given twice, first on line 2");
    }

    #[test]
    fn what_is_not_utf8_is_refused_with_its_line() {
        let mut mistakes = Mistakes::default();
        read_ini("w.ini", b"[s]\nk = 1\nn = \xff", &|_| None, &mut mistakes);
        assert_eq!(mistakes.to_string(), "w.ini:3: not UTF-8");
    }

    #[test]
    fn only_variables_with_two_underscores_are_settings() {
        let layer = read_environment(
            [
                ("STARK_MAIN__PORT", "1"),
                ("STARK_WORKER_MAIL__COUNT", "2"),
                ("STARK_QUEUE__QUEUEKEY", "q"),
                ("STARK_ENV__App_Env", "dev"),
                ("STARK_ENV__EMPTY", ""),
                ("STARK_MAIN__NAME", ""),
                ("STARK_HOME", "/opt"),
                ("HOME__X", "y"),
            ]
            .into_iter(),
        );
        assert_eq!(
            shown(&layer),
            [
                "main.port=1",
                "worker mail.count=2",
                "queue.key=q",
                "env.App_Env=dev",
                "env.EMPTY="
            ]
        );
        assert_eq!(layer.entries[0].place.to_string(), "STARK_MAIN__PORT");
    }

    #[test]
    fn overrides_are_section_key_and_value() {
        let mut mistakes = Mistakes::default();
        let given = ["Main.Port=1", "env.A.b=c=d", "port=1", "main.port", ".k=v"];
        let layer = read_overrides(&given.map(String::from), &mut mistakes);
        assert_eq!(shown(&layer), ["main.port=1", "env.A.b=c=d"]);
        assert_eq!(
            mistakes.to_string(),
            "--set: .k: is not section.key=value\n--set: main.port: is not section.key=value\n\
             --set: port: is not section.key=value"
        );
    }
}

//! docs/operating.md stays true: each message in its tables is one that the source can print, each warning and error of
//! the log has its row.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Stands for what varies, in the page and here.
const VARIES: char = '…';

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|err| panic!("{path}: {err}"))
}

/// A string of the source, and whether the log gets it as a warning or an error.
#[derive(Debug)]
struct Message {
    text: String,
    is_logged: bool,
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("src is readable") {
        let path = entry.expect("src is readable").path();
        let is_test = path.file_stem().is_some_and(|stem| stem == "tests");
        if path.is_dir() && !is_test {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !is_test {
            found.push(path);
        }
    }
}

/// All strings of the program, tests left out.
fn messages() -> Vec<Message> {
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    let mut messages = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("UTF-8");
        let text = text.split("#[cfg(test)]").next().expect("a first part");
        collect(text, &mut messages);
    }
    assert!(messages.len() > 100, "the strings were found");
    messages
}

fn collect(source: &str, messages: &mut Vec<Message>) {
    let lines = source
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    // A quote as a character begins no string.
    let source = lines.collect::<Vec<_>>().join("\n").replace("'\"'", "' '");
    let mut rest = source.as_str();
    while let Some(start) = rest.find('"') {
        let before = rest[..start].trim_end();
        let is_logged = before.ends_with("log::warn!(") || before.ends_with("log::error!(");
        let (literal, after) = literal(&rest[start + 1..]);
        let text = varying(&literal);
        messages.push(Message { text, is_logged });
        rest = after;
    }
}

/// The string up to its closing quote, with its escapes, and what follows.
fn literal(source: &str) -> (String, &str) {
    let mut text = String::new();
    let mut characters = source.char_indices();
    while let Some((place, character)) = characters.next() {
        match character {
            '"' => return (text, &source[place + 1..]),
            '\\' => match characters.next() {
                // The string goes on at the next line's first word.
                Some((_, '\n')) => {
                    let rest = characters.as_str();
                    let skipped = rest.len() - rest.trim_start().len();
                    for _ in 0..skipped {
                        characters.next();
                    }
                }
                Some((_, 'n')) => text.push('\n'),
                Some((_, other)) => text.push(other),
                None => break,
            },
            _ => text.push(character),
        }
    }
    (text, "")
}

/// What is filled in, replaced; lines on workers and on the keeper are told of workers.
fn varying(literal: &str) -> String {
    let literal = literal.replace("{role}", "worker");
    let mut text = String::new();
    let mut depth = 0;
    for character in literal.chars() {
        match character {
            '{' => depth += 1,
            '}' if depth > 0 => {
                depth -= 1;
                text.push(VARIES);
            }
            _ if depth == 0 => text.push(character),
            _ => {}
        }
    }
    text
}

/// The messages in the first column of the tables under a heading.
fn rows(heading: &str) -> Vec<String> {
    let page = text("docs/operating.md");
    let (_, section) = page.split_once(heading).expect("the heading is there");
    let section = section.split("\n## ").next().expect("a first part");
    let cells = section.lines().filter_map(|line| line.strip_prefix("| `"));
    let rows: Vec<String> = cells
        .map(|line| line.split('`').next().expect("a first part").to_string())
        .collect();
    assert!(rows.len() > 10, "{heading} has a table");
    rows
}

#[test]
fn each_message_of_the_page_is_one_of_the_program() {
    let messages = messages();
    let rows = [rows("## What the log says"), rows("## What commands say")].concat();
    let unknown: Vec<&String> = rows
        .iter()
        .filter(|row| {
            !messages
                .iter()
                .any(|message| message.text.contains(row.as_str()))
        })
        .collect();
    assert!(unknown.is_empty(), "no such message in src/: {unknown:#?}");
}

#[test]
fn each_warning_and_error_of_the_log_has_a_row() {
    let rows = rows("## What the log says");
    let mut missing = BTreeSet::new();
    for message in messages().into_iter().filter(|message| message.is_logged) {
        let head = message.text.split(VARIES).next().unwrap_or_default().trim();
        let is_told =
            |row: &String| row.starts_with(head) || message.text.starts_with(row.as_str());
        // What begins with something that varies is an error of the queue's, which has its rows, too.
        if !head.is_empty() && !rows.iter().any(is_told) {
            missing.insert(message.text);
        }
    }
    assert!(
        missing.is_empty(),
        "no row in docs/operating.md: {missing:#?}"
    );
}

#[test]
fn strings_are_found_with_their_escapes_and_continuations() {
    let mut found = Vec::new();
    let source = "// \"no\"\nlog::warn!(\n  \"{role} a \\\n     b={err:?} \\\"c\\\"\"\n); let q = '\"'; f(\"x{y}z\")";
    collect(source, &mut found);
    let texts: Vec<(&str, bool)> = found
        .iter()
        .map(|m| (m.text.as_str(), m.is_logged))
        .collect();
    assert_eq!(texts, [("worker a b=… \"c\"", true), ("x…z", false)]);
}

//! What is written for users agrees with the program: manual page, README and examples against `--help`, the exit
//! statuses in the source, and the reader of settings; and its links lead somewhere.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

fn text(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|err| panic!("{}: {err}", path.display()))
}

fn help(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_stark"))
        .args(arguments)
        .arg("--help")
        .output()
        .expect("stark runs");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// First words of the lines under `Commands:` in a help text.
fn commands(help: &str) -> Vec<String> {
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let listed = listed.take_while(|line| !line.is_empty());
    let names = listed.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    names
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Long and short options that stand in the option column of a help text.
fn options(help: &str) -> Vec<String> {
    let columns = help
        .lines()
        .filter(|line| line.trim_start().starts_with('-'))
        .filter_map(|line| line.trim_start().split("  ").next());
    columns
        .flat_map(|column| column.split([' ', ',']))
        .filter(|word| word.starts_with('-'))
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_manual_page_has_every_command_and_option_of_the_help() {
    let page = text("docs/stark.1");
    let main = help(&[]);
    let names = commands(&main);
    assert!(names.contains(&"push".to_owned()), "{main}");
    for name in &names {
        let heading = format!("\n.It Cm {name}");
        assert!(page.contains(&heading), "no {name} in the manual page");
    }
    let of_commands = names.iter().flat_map(|name| options(&help(&[name])));
    for option in options(&main).into_iter().chain(of_commands) {
        // mdoc writes the first dash itself.
        let flag = format!("Fl {}", &option[1..]);
        let is_there = page
            .split(&flag)
            .skip(1)
            .any(|rest| rest.starts_with([' ', '\n']));
        assert!(is_there, "no {option} in the manual page");
    }
}

/// The statuses of a program that ended by itself, as the source has them; and 0.
fn statuses() -> BTreeSet<u8> {
    let source = text("src/daemon/failure.rs");
    let constants = source.split("pub const ").skip(1);
    let values = constants.filter_map(|rest| rest.split_once(" = ")?.1.split(';').next());
    let values = values.map(|value| value.parse().expect("a status"));
    values.chain([0]).collect()
}

#[test]
fn the_manual_page_and_the_page_for_operators_have_exactly_the_exit_statuses_of_the_source() {
    let page = text("docs/stark.1");
    let (_, section) = page.split_once(".Sh EXIT STATUS").expect("the section");
    let (section, _) = section.split_once("\n.Sh ").expect("a section after it");
    let items = section.lines().filter_map(|line| line.strip_prefix(".It "));
    let listed: BTreeSet<u8> = items.map(|item| item.parse().expect("a status")).collect();
    assert_eq!(listed, statuses());

    let page = text("docs/operating.md");
    let (_, section) = page.split_once("## Exit statuses").expect("the section");
    let section = section.split("\n## ").next().expect("a first part");
    let rows = section.lines().filter_map(|line| line.strip_prefix("| "));
    let listed: BTreeSet<u8> = rows
        .filter_map(|row| row.split(' ').next()?.parse().ok())
        .collect();
    assert_eq!(listed, statuses());
}

/// Loads settings from a directory in which their script stands.
fn load(name: &str, ini: &str) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join(name);
    fs::write(&path, ini).expect("a settings file");
    for script in ["run.php", "mail.php"] {
        fs::write(directory.path().join(script), "<?php").expect("a script");
    }
    if let Err(mistakes) = stark::config::load(&path, &[]) {
        panic!("{mistakes}\n{ini}");
    }
}

#[test]
fn the_settings_shown_are_accepted() {
    let readme = text("README.md");
    let snippets: Vec<&str> = readme
        .split("```ini\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert!(!snippets.is_empty());
    // Each stands for itself, and adds to those before it.
    let mut all = String::new();
    for snippet in snippets {
        load("worker.ini", snippet);
        all += snippet;
        load("worker.ini", &all);
    }
    load("config.ini", &text("conf/examples/config.ini"));
    load("pools.ini", &text("conf/examples/pools.ini"));
}

#[test]
fn the_named_pools_shown_in_the_shipped_ini_are_accepted() {
    let shipped = text("conf/worker.ini");
    let (before, _) = shipped.split_once("; [run mail]").expect("the example");
    let example = shipped[before.len()..].lines().filter_map(|line| {
        let line = line.strip_prefix("; ")?;
        let is_setting = line
            .split_once(" = ")
            .is_some_and(|(key, _)| !key.contains(' '));
        (line.starts_with('[') || is_setting).then(|| format!("{line}\n"))
    });
    let example: String = example.collect();
    assert_eq!(example.matches('[').count(), 5, "{example}");
    load("worker.ini", &format!("{shipped}{example}"));
}

#[test]
fn links_to_files_of_the_repository_lead_somewhere() {
    for page in [
        "README.md",
        "CONTRIBUTING.md",
        "docs/ARCHITECTURE.md",
        "docs/coming-from-stark.md",
        "docs/figures.md",
        "docs/operating.md",
        "scripts/bench/README.md",
    ] {
        let written = text(page);
        let targets = written
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.contains("://") && !target.starts_with('#')) {
            let file = target.split('#').next().unwrap_or(target);
            let directory = Path::new(page).parent().expect("a file");
            let path = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join(directory)
                .join(file);
            assert!(path.exists(), "{page}: {target} leads nowhere");
        }
    }
}

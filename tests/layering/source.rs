//! Reads a Rust source as text: [`scrub`] blanks comments and strings, [`test_spans`] finds what only tests see, and
//! [`paths`] finds all paths, in `use` trees and in expressions. Knows no rule. Macros that build paths out of pieces,
//! and aliases of std itself, escape it.

/// A source of the same length with blanks for what is not code; lines stay.
pub struct Scrubbed {
    /// Without comments and without what is in strings.
    pub code: String,
    /// Without comments.
    pub with_strings: String,
}

enum Piece {
    Code,
    Comment,
    Text,
}

/// Blanks comments and texts, piece by piece.
pub fn scrub(source: &str) -> Scrubbed {
    let (mut code, mut with_strings) = (String::new(), String::new());
    let mut rest = source;
    let mut before = ' ';
    while !rest.is_empty() {
        let (piece, length) = next_piece(rest, before);
        let (text, after) = rest.split_at(length);
        let blanks = blanks_for(text);
        code += if matches!(piece, Piece::Code) {
            text
        } else {
            &blanks
        };
        with_strings += if matches!(piece, Piece::Comment) {
            &blanks
        } else {
            text
        };
        before = text.chars().next_back().unwrap_or(' ');
        rest = after;
    }
    Scrubbed { code, with_strings }
}

/// As many bytes of blanks, with the same lines.
fn blanks_for(text: &str) -> String {
    let blank = |b| if b == b'\n' { '\n' } else { ' ' };
    text.bytes().map(blank).collect()
}

/// What `rest` begins with, and its length; `before` is the character left of it.
fn next_piece(rest: &str, before: char) -> (Piece, usize) {
    let in_word = before.is_alphanumeric() || before == '_';
    if rest.starts_with("//") {
        return (Piece::Comment, rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return (Piece::Comment, block_comment(rest));
    }
    // Of br#"..."# and cr"...", the first letter is code.
    if let Some(length) = raw_string(rest).filter(|_| !in_word || matches!(before, 'b' | 'c')) {
        return (Piece::Text, length);
    }
    if rest.starts_with('"') {
        return (Piece::Text, quoted(rest, '"'));
    }
    if let Some(length) = char_literal(rest) {
        return (Piece::Text, length);
    }
    (Piece::Code, rest.chars().next().map_or(0, char::len_utf8))
}

/// Block comments nest.
fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        let step = match &rest.as_bytes()[at..] {
            [b'/', b'*', ..] => {
                depth += 1;
                2
            }
            [b'*', b'/', ..] => {
                depth -= 1;
                2
            }
            _ => 1,
        };
        at += step;
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

/// The length of `r"..."` or `r#"..."#`; `r#type` is none.
fn raw_string(rest: &str) -> Option<usize> {
    let after = rest.strip_prefix('r')?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    let text = after[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let length = text.find(&end).map_or(text.len(), |at| at + end.len());
    Some(1 + hashes + 1 + length)
}

/// The length of a text in quotes with escapes.
fn quoted(rest: &str, quote: char) -> usize {
    let mut chars = rest.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        if c == '\\' {
            chars.next();
        } else if c == quote {
            return at + 1;
        }
    }
    rest.len()
}

/// The length of `'x'` or `'\n'`; `'static` is a lifetime.
fn char_literal(rest: &str) -> Option<usize> {
    let mut chars = rest.strip_prefix('\'')?.chars();
    match (chars.next()?, chars.next()) {
        ('\\', _) => Some(quoted(rest, '\'')),
        (c, Some('\'')) => Some(c.len_utf8() + 2),
        _ => None,
    }
}

/// Where the items below `#[cfg(test)]` stand, from their attribute to their closing brace or semicolon.
pub fn test_spans(code: &str) -> Vec<(usize, usize)> {
    let mut spans: Vec<(usize, usize)> = Vec::new();
    for (start, attribute) in code.match_indices("#[cfg(test)]") {
        let from = start + attribute.len();
        let mut depth = 0;
        let mut end = code.len();
        for (at, c) in code[from..].char_indices() {
            match c {
                '{' | '(' | '[' => depth += 1,
                '}' | ')' | ']' => depth -= 1,
                _ => {}
            }
            // The closing brace of a body, the semicolon of `use ...;` and `mod tests;`, or the end of a struct whose
            // last field it is.
            if depth < 0 || (depth == 0 && matches!(c, '}' | ';')) {
                end = from + at + 1;
                break;
            }
        }
        spans.push((start, end));
    }
    spans
}

/// The text with blanks in the spans.
pub fn blank(text: &str, spans: &[(usize, usize)]) -> String {
    let mut text = text.to_owned();
    for &(start, end) in spans {
        let blanks = blanks_for(&text[start..end]);
        text.replace_range(start..end, &blanks);
    }
    text
}

#[derive(Clone, Copy, Debug)]
pub struct Token<'a> {
    pub text: &'a str,
    pub line: usize,
}

impl Token<'_> {
    fn is_name(&self) -> bool {
        self.text
            .starts_with(|c: char| c.is_alphabetic() || c == '_')
    }
}

/// Names and numbers, `::`, and single characters.
pub fn tokens(code: &str) -> Vec<Token<'_>> {
    let mut found = Vec::new();
    let (mut rest, mut line) = (code, 1);
    while let Some(c) = rest.chars().next() {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let length = if is_word(c) {
            rest.find(|c| !is_word(c)).unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            c.len_utf8()
        };
        let (text, after) = rest.split_at(length);
        if !c.is_whitespace() {
            found.push(Token { text, line });
        }
        line += usize::from(c == '\n');
        rest = after;
    }
    found
}

/// A path that a source uses; paths into the crate begin with `crate`.
#[derive(Debug)]
pub struct Used {
    pub path: Vec<String>,
    pub line: usize,
    /// It stands in a `use`.
    pub is_import: bool,
}

/// All paths, with groups written out and `self` and `super` resolved, in a file that is `module`.
pub fn paths(tokens: &[Token], module: &[String]) -> Vec<Used> {
    let mut found = Vec::new();
    let mut inner = InnerModules::default();
    let mut in_use = false;
    let mut at = 0;
    while at < tokens.len() {
        let token = tokens[at];
        inner.see(tokens, at);
        match token.text {
            "use" => in_use = true,
            ";" => in_use = false,
            // `<T as Trait>::name` goes on with a path that began before.
            "::" if at > 0 && tokens[at - 1].text == ">" => at += 1,
            _ => {}
        }
        if !token.is_name() || token.text == "use" {
            at += 1;
            continue;
        }
        let mut here = module.to_vec();
        here.extend(inner.names());
        let mut raw = Vec::new();
        at = tree(tokens, at, &[], &mut raw);
        found.extend(raw.into_iter().filter_map(|(path, line)| {
            Some(Used {
                path: resolve(path, &here)?,
                line,
                is_import: in_use,
            })
        }));
    }
    found
}

type RawPath = (Vec<String>, usize);

/// Reads one path or `use` tree from `at` on; answers where it ends.
fn tree(tokens: &[Token], mut at: usize, prefix: &[String], found: &mut Vec<RawPath>) -> usize {
    let mut path = prefix.to_vec();
    let line = tokens[at.min(tokens.len() - 1)].line;
    loop {
        match tokens.get(at) {
            Some(token) if token.text == "{" && !path.is_empty() => {
                return group(tokens, at + 1, &path, found);
            }
            Some(token) if token.is_name() || token.text == "*" => path.push(token.text.into()),
            _ => break,
        }
        at += 1;
        match tokens.get(at) {
            Some(token) if token.text == "::" => at += 1,
            _ => break,
        }
        // `Vec::<u8>::new`: what is in the angles is read on its own.
        if tokens.get(at).is_some_and(|token| token.text == "<") {
            break;
        }
    }
    found.push((path, line));
    at
}

fn group(tokens: &[Token], mut at: usize, prefix: &[String], found: &mut Vec<RawPath>) -> usize {
    while let Some(token) = tokens.get(at) {
        match token.text {
            "}" => return at + 1,
            "," => at += 1,
            // `name as other`: the other name is no path.
            "as" => at += 2,
            _ if token.is_name() || matches!(token.text, "{" | "*") => {
                at = tree(tokens, at, prefix, found);
            }
            _ => at += 1,
        }
    }
    at
}

/// The path from the crate or from another one; none for what stays inside the module.
fn resolve(mut path: Vec<String>, here: &[String]) -> Option<Vec<String>> {
    // `use a::{self, b}`: self is a.
    if path.len() > 1 && path.last().is_some_and(|name| name == "self") {
        path.pop();
    }
    let climbs = path
        .iter()
        .take_while(|name| matches!(name.as_str(), "self" | "super"))
        .filter(|name| *name == "super")
        .count();
    match path[0].as_str() {
        "crate" if path.len() > 1 => Some(path),
        // `pub(crate)`.
        "crate" | "Self" => None,
        "super" | "self" => {
            let root = &here[..here.len().saturating_sub(climbs)];
            let names = path
                .iter()
                .skip_while(|name| matches!(name.as_str(), "self" | "super"));
            let mut full = vec!["crate".to_owned()];
            full.extend(root.iter().chain(names).cloned());
            (full.len() > 1 && climbs > 0 && path.len() > climbs).then_some(full)
        }
        _ => Some(path),
    }
}

/// The inline modules around a token: `super` means another one in there.
#[derive(Default)]
struct InnerModules {
    depth: usize,
    open: Vec<(String, usize)>,
}

impl InnerModules {
    fn see(&mut self, tokens: &[Token], at: usize) {
        match tokens[at].text {
            "{" => {
                self.depth += 1;
                if at >= 2 && tokens[at - 2].text == "mod" {
                    self.open.push((tokens[at - 1].text.into(), self.depth));
                }
            }
            "}" => {
                self.open.retain(|(_, depth)| *depth < self.depth);
                self.depth = self.depth.saturating_sub(1);
            }
            _ => {}
        }
    }

    fn names(&self) -> impl Iterator<Item = String> + '_ {
        self.open.iter().map(|(name, _)| name.clone())
    }
}

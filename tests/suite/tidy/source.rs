//! Reading Rust as text: comments and literals blanked at the same offsets, then words, paths,
//! attributes and items found in what is left.

use std::ops::Range;

/// One source file: as written, and with comments and literals blanked at the same offsets.
pub(super) struct Source {
    /// Path below `src/`, with forward slashes.
    pub(super) name: String,
    pub(super) text: String,
    code: String,
}

impl Source {
    pub(super) fn new(name: &str, text: &str) -> Self {
        Self { name: name.to_owned(), text: text.to_owned(), code: blank(text) }
    }

    pub(super) fn room(&self) -> &str {
        let first = self.name.split('/').next().unwrap_or_default();
        first.trim_end_matches(".rs")
    }

    pub(super) fn line(&self, at: usize) -> usize {
        self.text.as_bytes()[..at.min(self.text.len())].iter().filter(|b| **b == b'\n').count() + 1
    }

    pub(super) fn complain(&self, at: usize, what: &str) -> String {
        format!("src/{}:{}: {what}", self.name, self.line(at))
    }

    pub(super) fn words(&self, word: &str) -> Vec<usize> {
        words(&self.code, word)
    }

    /// Uses of an external crate: its name at the root of a path, or as a whole import.
    pub(super) fn external(&self, name: &str) -> Vec<usize> {
        let code = &self.code;
        let is_root = |at: &usize| {
            let (before, after) = (code[..*at].trim_end(), code[at + name.len()..].trim_start());
            let qualified =
                before.ends_with("::") && !before.trim_end_matches("::").ends_with([' ', '<', '(', '\n']);
            let imported = before.ends_with("use") && (after.starts_with(';') || after.starts_with("as "));
            !qualified && (after.starts_with("::") || imported)
        };
        self.words(name).into_iter().filter(is_root).collect()
    }

    /// Paths into this crate, groups expanded, without the leading `crate`. A chain of `super` that
    /// climbs to the crate root counts too.
    pub(super) fn own_paths(&self) -> Vec<(usize, Vec<String>)> {
        let code = &self.code;
        let mut found = Vec::new();
        for root in ["crate", "portreeve"] {
            for at in self.words(root) {
                let qualified = code[..at].trim_end().ends_with("::");
                if let Some(rest) = after_separator(code, at + root.len()).filter(|_| !qualified) {
                    expand(code, rest, &[], &mut found);
                }
            }
        }
        for at in self.words("super").into_iter().filter(|at| !code[..*at].trim_end().ends_with("::")) {
            let (mut climbed, mut next) = (0, at);
            while code[next..].starts_with("super") {
                let Some(after) = after_separator(code, next + "super".len()) else {
                    break;
                };
                (climbed, next) = (climbed + 1, after);
            }
            if climbed > 0 && climbed >= self.depth(at) {
                expand(code, next, &[], &mut found);
            }
        }
        found
    }

    /// How many modules deep an offset lies below the crate root.
    fn depth(&self, at: usize) -> usize {
        let path = self.name.trim_end_matches(".rs").trim_end_matches("/mod");
        let files = if matches!(path, "lib" | "main") { 0 } else { path.split('/').count() };
        let inline = self.words("mod").into_iter().filter(|m| *m < at && item_end(&self.code, *m) > at);
        files + inline.count()
    }

    pub(super) fn test_spans(&self) -> Vec<Range<usize>> {
        let mut spans: Vec<Range<usize>> = Vec::new();
        for (at, attribute) in self.attributes() {
            let inner = attribute.replace("not(test)", "");
            let is_test =
                (inner.starts_with("cfg(") && !words(&inner, "test").is_empty()) || attribute == "test";
            if is_test && !self.code[at..].starts_with("#!") && !spans.iter().any(|span| span.contains(&at)) {
                spans.push(at..item_end(&self.code, at));
            }
        }
        spans
    }

    /// Attributes: where each starts, and what its brackets hold.
    pub(super) fn attributes(&self) -> Vec<(usize, &str)> {
        let starts = self.code.match_indices('#').filter_map(|(at, _)| {
            let rest = self.code[at + 1..].trim_start_matches('!');
            let open = self.code.len() - rest.len();
            rest.starts_with('[').then(|| (at, self.code[open + 1..closing(&self.code, open)].trim()))
        });
        starts.collect()
    }

    /// Named functions that have a body, from `fn` to the closing brace.
    pub(super) fn functions(&self) -> Vec<(String, Range<usize>)> {
        let named = self.words("fn").into_iter().filter_map(|at| {
            let name = ident(self.code[at + 2..].trim_start());
            let end = item_end(&self.code, at);
            (!name.is_empty() && self.code[..=end].ends_with('}')).then(|| (name.to_owned(), at..end))
        });
        named.collect()
    }
}

/// Replaces comments and the contents of string and character literals by spaces, byte for byte.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_end(text, at);
        if end > at {
            out.extend(text[at..end].bytes().map(|b| if b == b'\n' { '\n' } else { ' ' }));
            at = end;
        } else {
            let c = text[at..].chars().next().expect("at a character boundary");
            out.push(c);
            at += c.len_utf8();
        }
    }
    out
}

/// The end of the comment or literal that starts here, or the same offset if none does.
fn literal_end(text: &str, at: usize) -> usize {
    let rest = &text[at..];
    let in_word = text[..at].ends_with(is_word);
    let raw = ["br", "cr", "r"].iter().find_map(|prefix| {
        let hashes = rest.strip_prefix(prefix)?;
        let quoted = hashes.trim_start_matches('#');
        let count = hashes.len() - quoted.len();
        quoted.starts_with('"').then(|| (prefix.len() + count + 1, format!("\"{}", "#".repeat(count))))
    });
    if rest.starts_with("//") {
        at + rest.find('\n').unwrap_or(rest.len())
    } else if rest.starts_with("/*") {
        at + block_comment(rest)
    } else if let Some((skip, close)) = raw.filter(|_| !in_word) {
        at + rest[skip..].find(&close).map_or(rest.len(), |i| skip + i + close.len())
    } else if rest.starts_with('"') {
        at + quoted(rest, b'"')
    } else if rest.starts_with("'\\") {
        at + quoted(rest, b'\'')
    } else if rest.starts_with('\'') && rest.chars().nth(2) == Some('\'') {
        at + rest.chars().take(3).map(char::len_utf8).sum::<usize>()
    } else {
        at
    }
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    let bytes = rest.as_bytes();
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if bytes[at..].starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

fn quoted(rest: &str, mark: u8) -> usize {
    let bytes = rest.as_bytes();
    let mut at = 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b if b == mark => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn ident(text: &str) -> &str {
    &text[..text.find(|c| !is_word(c)).unwrap_or(text.len())]
}

/// Where a word or path stands by itself: an end that is an identifier is not part of a longer one.
/// A needle that ends in a type's beginning (`std::net::Tcp`) is matched as a prefix.
pub(super) fn words(text: &str, word: &str) -> Vec<usize> {
    let prefix = word.starts_with("std::net::");
    let starts = text.match_indices(word).map(|(at, _)| at);
    let alone = starts.filter(|at| {
        let before = word.starts_with(is_word) && text[..*at].ends_with(is_word);
        let after = !prefix && word.ends_with(is_word) && text[at + word.len()..].starts_with(is_word);
        !before && !after
    });
    alone.collect()
}

/// The offset after `::`, if that is what follows.
fn after_separator(code: &str, at: usize) -> Option<usize> {
    let rest = code[at..].trim_start().strip_prefix("::")?.trim_start();
    Some(code.len() - rest.len())
}

/// Collects the paths that start at `at` below `prefix`: `a::{b, c::d}` gives `a::b` and `a::c::d`.
fn expand(code: &str, at: usize, prefix: &[String], found: &mut Vec<(usize, Vec<String>)>) {
    if code[at..].starts_with('{') {
        let end = closing(code, at);
        let (mut depth, mut start) = (0_usize, at + 1);
        for (offset, c) in code[at + 1..=end].char_indices().map(|(i, c)| (at + 1 + i, c)) {
            match c {
                '{' => depth += 1,
                '}' if depth > 0 => depth -= 1,
                ',' | '}' if depth == 0 => {
                    let item = start + (code[start..offset].len() - code[start..offset].trim_start().len());
                    if item < offset {
                        expand(code, item, prefix, found);
                    }
                    start = offset + 1;
                }
                _ => {}
            }
        }
        return;
    }
    let name = ident(&code[at..]);
    let mut path = prefix.to_vec();
    path.push(if name.is_empty() { "*".to_owned() } else { name.to_owned() });
    match after_separator(code, at + name.len()).filter(|_| !name.is_empty()) {
        Some(next) if code[next..].starts_with(|c| is_word(c) || c == '{') => {
            expand(code, next, &path, found)
        }
        _ => found.push((at, path)),
    }
}

/// The offset of the bracket that closes the one at `open`.
fn closing(code: &str, open: usize) -> usize {
    let mut depth = 0_usize;
    for (i, c) in code[open..].char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return open + i;
        }
    }
    code.len().saturating_sub(1)
}

/// The offset of the `;` or closing brace that ends the item starting at `at`.
fn item_end(code: &str, at: usize) -> usize {
    let mut depth = 0_usize;
    for (i, c) in code[at..].char_indices() {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth = depth.saturating_sub(1),
            ';' if depth == 0 => return at + i,
            '{' if depth == 0 => return closing(code, at + i),
            _ => {}
        }
    }
    code.len().saturating_sub(1)
}

#[test]
fn blanking_keeps_offsets_and_lifetimes() {
    let text =
        "fn f<'a>(x: &'a str) { /* a /* b */ c */ g('\\'', '\"', b'x', \"\\\"{\", br##\"\"#\"##); } // é\nx";
    let code = blank(text);
    assert_eq!(code.len(), text.len());
    assert!(code.starts_with("fn f<'a>(x: &'a str) {") && code.ends_with("\nx"));
    assert!(!code.contains(['"', '\\', 'é']) && code.contains("} "), "{code}");
}

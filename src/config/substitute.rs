//! `${NAME}` and `${NAME:-default}` in scalars, after the file is parsed.
//!
//! What a variable holds becomes text of one scalar and nothing else: it cannot add
//! keys, end a quotation or begin a comment. Keys are never substituted. `$$` is one
//! `$`; a `$` before anything else stands for itself. A default is taken when the
//! variable is absent or empty, and ends at the first `}`.

use crate::config::error::{Problem, Told, quoted};
use crate::config::key::Key;
use crate::config::tree::{Node, Value};

/// Looks up a variable.
pub(super) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Substitutes in every scalar below `node`; returns what could not be.
pub(super) fn substitute(file: &str, node: &mut Node, lookup: Lookup<'_>) -> Vec<Problem> {
    let mut problems = Vec::new();
    walk(file, node, &Key::root(), lookup, &mut problems);
    problems
}

fn walk(file: &str, node: &mut Node, key: &Key, lookup: Lookup<'_>, problems: &mut Vec<Problem>) {
    match &mut node.value {
        Value::Null => {}
        Value::Scalar(scalar) if !scalar.text.contains('$') => {}
        Value::Scalar(scalar) => match expand(&scalar.text, lookup) {
            Ok(expanded) => {
                let written = std::mem::replace(&mut scalar.text, expanded.text);
                if expanded.variables > 0 {
                    scalar.plain = true;
                    scalar.written = Some(written);
                }
            }
            Err(told) => problems.push(Problem::new(file, node.place, key.clone(), told)),
        },
        Value::List(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                walk(file, item, &key.item(index), lookup, problems);
            }
        }
        Value::Map(entries) => {
            for entry in entries {
                walk(file, &mut entry.value, &key.field(&entry.key), lookup, problems);
            }
        }
    }
}

struct Expanded {
    text: String,
    variables: usize,
}

fn expand(written: &str, lookup: Lookup<'_>) -> Result<Expanded, Told> {
    let (mut text, mut variables) = (String::with_capacity(written.len()), 0);
    let mut rest = written;
    while let Some((before, after)) = rest.split_once('$') {
        text.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            text.push('$');
            rest = after;
        } else if let Some(inside) = after.strip_prefix('{') {
            let Some((reference, after)) = inside.split_once('}') else {
                let remedy = "add `}`, or write `$$` for a dollar sign";
                return Err(Told::new(quoted(written), "`}` after `${`", remedy));
            };
            text.push_str(&value_of(reference, lookup)?);
            variables += 1;
            rest = after;
        } else {
            text.push('$');
            rest = after;
        }
    }
    text.push_str(rest);
    Ok(Expanded { text, variables })
}

fn value_of(reference: &str, lookup: Lookup<'_>) -> Result<String, Told> {
    let (name, default) = match reference.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (reference, None),
    };
    let begins = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !begins || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        let expected = "`${NAME}` or `${NAME:-default}` with a name of letters, digits and `_`";
        let found = quoted(&format!("${{{reference}}}"));
        return Err(Told::new(found, expected, "correct the name, or write `$$` for a dollar sign"));
    }
    match (lookup(name), default) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err(Told::new(
            format!(
                "{} and no variable {} in the environment",
                quoted(&format!("${{{name}}}")),
                quoted(name)
            ),
            "a variable that is set",
            format!("set it, or write {} to have a default", quoted(&format!("${{{name}:-default}}"))),
        )),
    }
}

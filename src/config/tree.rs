//! The file as a tree of nodes that know their place.
//!
//! Scalars stay text until the key they stand for says what they are: there is no
//! guessing of types, so `no`, `1e3` and `0777` mean what is written. Deliberately
//! absent: tags, merge keys, several documents. Aliases are copies, and bounded.

use std::collections::HashMap;
use std::fmt;

use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, Span, StrInput};

use crate::config::error::{Problem, Told, quoted};
use crate::config::key::{Key, Step};

/// Most nodes a file may have once its aliases are written out.
pub(super) const NODES_MAX: usize = 100_000;

/// Where a node begins.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Place {
    /// Counted from 1.
    pub(super) line: usize,
    /// In characters, counted from 1.
    pub(super) column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// A value of the file.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
    /// Nodes in this one, itself included.
    weight: usize,
}

/// What a [`Node`] is.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// Text, not yet read as anything else.
    Scalar(Scalar),
    /// A list.
    List(Vec<Node>),
    /// A mapping, in the order written, without a key twice.
    Map(Vec<Entry>),
}

/// One scalar.
#[derive(Clone, Debug)]
pub(super) struct Scalar {
    /// The text after escapes and substitution.
    pub(super) text: String,
    /// Whether it stood without quotes, or holds a substituted variable: such a text may be a number or a truth value.
    pub(super) plain: bool,
    /// The text as written, where substitution changed it.
    pub(super) written: Option<String>,
}

/// One key with its value.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_place: Place,
    pub(super) value: Node,
}

impl Node {
    /// Reads a file's text; `None` when it holds nothing.
    pub(super) fn parse(file: &str, text: &str) -> Result<Option<Self>, Problem> {
        let mut reader =
            TreeReader { file, text, events: Parser::new_from_str(text), anchors: HashMap::new(), copied: 0 };
        reader.document()
    }

    /// The place of `key`, or of the last step towards it that there is.
    pub(super) fn locate(&self, key: &Key) -> Place {
        let mut node = self;
        for step in key.steps() {
            let below = match (step, &node.value) {
                (Step::Field(name), Value::Map(entries)) => {
                    entries.iter().find(|entry| entry.key == *name).map(|entry| &entry.value)
                }
                (Step::Item(index), Value::List(items)) => items.get(*index),
                _ => None,
            };
            match below {
                Some(next) => node = next,
                None => break,
            }
        }
        node.place
    }

    /// Whether there is no value.
    pub(super) const fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    /// The keys of a mapping; of another node none.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        let entries: &[Entry] = if let Value::Map(entries) = &self.value { entries } else { &[] };
        entries.iter().map(|entry| entry.key.as_str())
    }

    /// The value of a key of a mapping.
    pub(super) fn child(&self, name: &str) -> Option<&Self> {
        let Value::Map(entries) = &self.value else { return None };
        entries.iter().find(|entry| entry.key == name).map(|entry| &entry.value)
    }

    /// What the node is, for a message.
    pub(super) fn describe(&self) -> String {
        match &self.value {
            Value::Null => "no value".to_owned(),
            Value::Scalar(scalar) => match &scalar.written {
                Some(written) => format!("{} from {}", quoted(&scalar.text), quoted(written)),
                None if scalar.plain || scalar.text.is_empty() => quoted(&scalar.text),
                None => format!("the quoted text {}", quoted(&scalar.text)),
            },
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a mapping".to_owned(),
        }
    }
}

struct TreeReader<'a> {
    file: &'a str,
    text: &'a str,
    events: Parser<'a, StrInput<'a>>,
    anchors: HashMap<usize, Node>,
    /// Nodes copied so far, for anchors and for aliases.
    copied: usize,
}

impl<'a> TreeReader<'a> {
    fn document(&mut self) -> Result<Option<Node>, Problem> {
        let mut root = None;
        loop {
            let Some((event, span)) = self.next()? else { return Ok(root) };
            match event {
                Event::StreamStart | Event::DocumentEnd => {}
                Event::StreamEnd => return Ok(root),
                Event::DocumentStart(..) if root.is_some() => {
                    return Err(self.refuse(
                        &span,
                        "a second document",
                        "one document",
                        "remove what follows `---`",
                    ));
                }
                Event::DocumentStart(..) => {}
                other => root = Some(self.node(other, &span)?),
            }
        }
    }

    fn next(&mut self) -> Result<Option<(Event<'a>, Span)>, Problem> {
        loop {
            match self.events.next_event() {
                None => return Ok(None),
                // With the parser's `comments` feature, which another crate may switch on, comments are events.
                Some(Ok((event, _))) if is_comment(&event) => {}
                Some(Ok(found)) => return Ok(Some(found)),
                Some(Err(error)) => {
                    let place = Place { line: error.marker().line(), column: error.marker().col() + 1 };
                    let line = self.text.lines().nth(place.line.saturating_sub(1)).unwrap_or_default();
                    let remedy = if line.contains("${") {
                        "inside `[ ]` and `{ }` put `${NAME}` in quotation marks"
                    } else {
                        "correct the syntax there or just above"
                    };
                    let found = format!("no valid syntax ({})", error.info().replace('\n', " "));
                    let told = Told::new(found, "YAML", remedy);
                    return Err(Problem::new(self.file, place, Key::root(), told));
                }
            }
        }
    }

    fn node(&mut self, event: Event<'a>, span: &Span) -> Result<Node, Problem> {
        if event.tag().is_some() {
            return Err(self.refuse(
                span,
                "a YAML tag",
                "a value without one",
                "remove the word that begins with `!`",
            ));
        }
        let anchor = event.anchor_id();
        let (value, weight) = match event {
            Event::Alias(id) => match self.anchors.get(&id) {
                Some(node) => {
                    self.copied += node.weight;
                    self.bounded(self.copied, span)?;
                    (node.value.clone(), node.weight)
                }
                None => {
                    return Err(self.refuse(
                        span,
                        "an alias inside its own anchor",
                        "a value",
                        "write it out",
                    ));
                }
            },
            Event::Scalar(text, style, ..) => {
                let plain = style == ScalarStyle::Plain;
                let null = plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                let scalar = Scalar { text: text.into_owned(), plain, written: None };
                (if null { Value::Null } else { Value::Scalar(scalar) }, 1)
            }
            Event::SequenceStart(..) => self.list()?,
            Event::MappingStart(..) => self.map()?,
            _ => return Err(self.refuse(span, "an unexpected end", "a value", "correct the syntax there")),
        };
        let node = Node { place: place(span), value, weight };
        if let Some(id) = anchor {
            self.copied += weight;
            self.bounded(self.copied, span)?;
            self.anchors.insert(id, node.clone());
        }
        Ok(node)
    }

    fn list(&mut self) -> Result<(Value, usize), Problem> {
        let (mut items, mut weight) = (Vec::new(), 1);
        while let Some((event, span)) = self.next()? {
            if matches!(event, Event::SequenceEnd) {
                break;
            }
            let item = self.node(event, &span)?;
            weight += item.weight;
            self.bounded(weight, &span)?;
            items.push(item);
        }
        Ok((Value::List(items), weight))
    }

    fn map(&mut self) -> Result<(Value, usize), Problem> {
        let (mut entries, mut weight): (Vec<Entry>, _) = (Vec::new(), 1);
        let mut lines: HashMap<String, usize> = HashMap::new();
        while let Some((event, span)) = self.next()? {
            let key = match event {
                Event::MappingEnd => break,
                Event::Scalar(text, ..) => text.into_owned(),
                _ => {
                    return Err(self.refuse(
                        &span,
                        "a key that is no text",
                        "text",
                        "write the key as plain text",
                    ));
                }
            };
            if let Some(line) = lines.insert(key.clone(), place(&span).line) {
                let found = format!("the key {} a second time (first on line {line})", quoted(&key));
                return Err(self.refuse(&span, &found, "each key once", "remove one of the two"));
            }
            let Some((event, value_span)) = self.next()? else { break };
            let value = self.node(event, &value_span)?;
            weight += 1 + value.weight;
            self.bounded(weight, &span)?;
            entries.push(Entry { key, key_place: place(&span), value });
        }
        Ok((Value::Map(entries), weight))
    }

    /// Refuses what would not fit, before it is held.
    fn bounded(&self, weight: usize, span: &Span) -> Result<(), Problem> {
        if weight <= NODES_MAX {
            return Ok(());
        }
        let found = "more values than are accepted";
        Err(self.refuse(
            span,
            found,
            &format!("at most {NODES_MAX}"),
            "divide the file or write fewer aliases",
        ))
    }

    fn refuse(&self, span: &Span, found: &str, expected: &str, remedy: &str) -> Problem {
        Problem::new(self.file, place(span), Key::root(), Told::new(found, expected, remedy))
    }
}

fn place(span: &Span) -> Place {
    Place { line: span.start.line(), column: span.start.col() + 1 }
}

fn is_comment(event: &Event<'_>) -> bool {
    !event.is_node()
        && !matches!(
            event,
            Event::StreamStart
                | Event::StreamEnd
                | Event::DocumentStart(..)
                | Event::DocumentEnd
                | Event::SequenceEnd
                | Event::MappingEnd
        )
}

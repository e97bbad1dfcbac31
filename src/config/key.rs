//! Key paths: where in a file something stands, as a reader would say it.

use std::fmt;

/// A key path such as `listeners[0].routes[1].upstream`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Key(Vec<Step>);

/// One step of a [`Key`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// Into a mapping.
    Field(String),
    /// Into a list, counted from 0.
    Item(usize),
}

impl Key {
    /// The whole file.
    pub(super) const fn root() -> Self {
        Self(Vec::new())
    }

    /// The key `name` below this one.
    pub(super) fn field(&self, name: &str) -> Self {
        self.step(Step::Field(name.to_owned()))
    }

    /// The item `index` below this one.
    pub(super) fn item(&self, index: usize) -> Self {
        self.step(Step::Item(index))
    }

    /// The steps, outermost first.
    pub(super) fn steps(&self) -> &[Step] {
        &self.0
    }

    fn step(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Self(steps)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("top level");
        }
        f.write_str("`")?;
        for (place, step) in self.0.iter().enumerate() {
            match step {
                Step::Field(name) => {
                    let dot = if place == 0 { "" } else { "." };
                    let name: String = name.chars().take(NAME_CHARS_SHOWN).collect();
                    write!(f, "{dot}{}", name.escape_debug())?;
                }
                Step::Item(index) => write!(f, "[{index}]")?,
            }
        }
        f.write_str("`")
    }
}

/// Characters of one key that are shown.
const NAME_CHARS_SHOWN: usize = 80;

//! How a command ends badly: one exit code, one line, and lines of detail.

use std::fmt;
use std::io;

/// The exit codes; scripts rely on them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// Not done.
    Failure = 1,
    /// The arguments make no sense.
    Usage = 2,
    /// A file, a record or a configuration is not valid.
    Input = 3,
    /// A test or a verification failed.
    Verification = 4,
}

impl Exit {
    /// The process's exit status.
    pub const fn code(self) -> u8 {
        self as u8
    }
}

/// Why a command did not do what it was asked to.
///
/// Built from the error of the stage that failed; holds text for people and nothing secret.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    exit: Exit,
    message: String,
    details: Vec<String>,
}

impl Failure {
    /// A failure of the thing asked for.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failure, message)
    }

    /// Arguments that do not fit together.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Invalid input.
    pub fn input(message: impl Into<String>) -> Self {
        Self::new(Exit::Input, message)
    }

    /// A failure with this exit code.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), details: Vec::new() }
    }

    /// The same with lines of detail below the message.
    #[must_use]
    pub fn with_details(mut self, details: Vec<String>) -> Self {
        self.details = details;
        self
    }

    /// The same with every line of detail made anew.
    #[must_use]
    pub fn map_details(mut self, with: impl Fn(&str) -> String) -> Self {
        self.details.iter_mut().for_each(|line| *line = with(line));
        self
    }

    /// The one line, without what comes before and after it.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The exit code.
    pub const fn exit(&self) -> Exit {
        self.exit
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        self.details.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

impl std::error::Error for Failure {}

/// Writing the output failed. A reader that closed its end wanted no more, which is no failure.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::new(Exit::Ok, "output closed"),
            _ => Self::failed(format!("cannot write the output: {error}")),
        }
    }
}

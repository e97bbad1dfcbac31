//! JSON lines to a file or to standard output.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::sink::Sink;

/// Appends to a file, and to a new one of the same name once the old was moved away.
///
/// A line that a failed write cut short is ended before the lines come again, so that it spoils
/// none but itself.
#[derive(Debug)]
pub struct FileSink {
    path: PathBuf,
    open: Option<File>,
    cut_short: bool,
}

impl FileSink {
    /// Will append to `path`; the file is opened with the first lines.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), open: None, cut_short: false }
    }

    fn file(&mut self) -> io::Result<&mut File> {
        let file = match self.open.take() {
            Some(file) if is_at(&file, &self.path)? => file,
            moved => {
                // Nobody flushes it later.
                moved.map_or(Ok(()), |file| file.sync_data())?;
                self.cut_short = false;
                OpenOptions::new().create(true).append(true).open(&self.path)?
            }
        };
        Ok(self.open.insert(file))
    }
}

impl FileSink {
    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let cut_short = self.cut_short;
        let file = self.file()?;
        let result = if cut_short { file.write_all(b"\n") } else { Ok(()) };
        let result = result.and_then(|()| file.write_all(lines));
        self.cut_short = result.is_err();
        result
    }

    fn named(&self, error: &io::Error) -> io::Error {
        io::Error::new(error.kind(), format!("`{}`: {error}", self.path.display()))
    }
}

impl Sink for FileSink {
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        self.append(lines).map_err(|e| self.named(&e))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.open.as_ref().map_or(Ok(()), File::sync_data).map_err(|e| self.named(&e))
    }
}

/// Whether `path` still names this file.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let held = file.metadata()?;
    match fs::metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (held.dev(), held.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes to standard output.
#[derive(Debug, Default)]
pub struct StdoutSink;

impl Sink for StdoutSink {
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        io::stdout().lock().write_all(lines)
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().lock().flush()
    }
}

//! JSON lines to a file or to standard output.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt as _, MetadataExt};
use std::path::{Path, PathBuf};

use crate::sink::Sink;

/// Appends to a file, and to a new one of the same name once the old was moved away.
///
/// A line that was cut short, by a write that failed or by the end of a process in the middle of one, is
/// ended before the lines come again, so that it spoils none but itself.
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

    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let Self { path, open, cut_short } = self;
        let file = match open.take() {
            Some(file) if is_at(&file, path)? => file,
            moved => {
                // Nobody flushes it later.
                moved.map_or(Ok(()), |file| file.sync_data())?;
                let file = OpenOptions::new().create(true).append(true).open(&*path)?;
                *cut_short = !ends_with_a_line(path, &file)?;
                file
            }
        };
        let mut file = &*open.insert(file);
        let end = if *cut_short { &b"\n"[..] } else { b"" };
        let result = file.write_all(end).and_then(|()| file.write_all(lines));
        *cut_short = result.is_err();
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

/// Whether what is there was written to its end. What is no regular file holds nothing; of one that may not
/// be read nobody knows.
fn ends_with_a_line(path: &Path, file: &File) -> io::Result<bool> {
    let there = file.metadata()?;
    if !there.is_file() || there.len() == 0 {
        return Ok(true);
    }
    let mut last = [0];
    match File::open(path).and_then(|file| file.read_exact_at(&mut last, there.len() - 1)) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(false),
        read => read.map(|()| last == *b"\n"),
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

//! Other processes, none waited for without end: a test that waits for ever does not say for what.

use std::io::{BufRead as _, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TrySendError, sync_channel};

use rustix::process::{Pid, Signal, kill_process};

use super::PATIENCE;

/// What a process says, line by line. It is read as it comes, so that nobody writes into a full pipe.
pub(crate) struct Lines(Receiver<String>);

impl Lines {
    /// Of one of its streams.
    pub(crate) fn of(stream: impl Read + Send + 'static) -> Self {
        let (tell, told) = sync_channel(10_000);
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                // Whoever listened may be gone; the stream is read all the same.
                let full = matches!(tell.try_send(line), Err(TrySendError::Full(_)));
                assert!(!full, "nobody listens to what a process says");
            }
        });
        Self(told)
    }
}

impl Iterator for Lines {
    type Item = String;

    /// The next line; `None`: it has ended.
    fn next(&mut self) -> Option<String> {
        match self.0.recv_timeout(PATIENCE) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("it says nothing more, and does not end"),
        }
    }
}

/// Waits for its end.
pub(crate) fn end_of(child: &mut Child) -> ExitStatus {
    let pid = Pid::from_child(child);
    std::thread::scope(|scope| {
        let (tell, told) = sync_channel(1);
        scope.spawn(move || tell.send(child.wait()));
        told.recv_timeout(PATIENCE).map_or_else(
            |_| {
                kill_process(pid, Signal::KILL).ok();
                panic!("a process does not end")
            },
            Result::unwrap,
        )
    })
}

/// Runs a command to its end; it has nothing to read.
pub(crate) fn output_of(command: &mut Command) -> Output {
    fn whole(mut stream: impl Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).unwrap();
            bytes
        })
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (stdout, stderr) = (whole(child.stdout.take().unwrap()), whole(child.stderr.take().unwrap()));
    let status = end_of(&mut child);
    Output { status, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
}

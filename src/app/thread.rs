//! A part that runs on a thread and an event loop of its own, so that it cannot starve requests.

use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;

use tokio::runtime::Builder;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::AppError;

/// Threads of a wide part.
const WIDE: usize = 2;

/// A running part.
#[derive(Debug)]
pub(super) struct Part {
    name: &'static str,
    stop: CancellationToken,
    thread: JoinHandle<()>,
    /// Cancelled when the thread is at its end, however it came there.
    ended: CancellationToken,
}

impl Part {
    /// Starts `work` on a thread named `name`; it ends soon after the token it is given is cancelled.
    pub(super) fn start<F, Fut>(name: &'static str, work: F) -> Result<Self, AppError>
    where
        F: FnOnce(CancellationToken) -> Fut + Send + 'static,
        Fut: Future<Output = ()>,
    {
        Self::start_on(Builder::new_current_thread(), name, work)
    }

    /// The same with a few more threads for the tasks that `work` starts.
    pub(super) fn start_wide<F, Fut>(name: &'static str, work: F) -> Result<Self, AppError>
    where
        F: FnOnce(CancellationToken) -> Fut + Send + 'static,
        Fut: Future<Output = ()>,
    {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(WIDE).thread_name(name);
        Self::start_on(builder, name, work)
    }

    fn start_on<F, Fut>(mut builder: Builder, name: &'static str, work: F) -> Result<Self, AppError>
    where
        F: FnOnce(CancellationToken) -> Fut + Send + 'static,
        Fut: Future<Output = ()>,
    {
        let refuse =
            || AppError::io(format!("starting {name} (threads are bounded by TasksMax and `ulimit -u`)"));
        let (stop, ended) = (CancellationToken::new(), CancellationToken::new());
        let (token, at_the_end) = (stop.clone(), ended.clone().drop_guard());
        let (tell, told) = sync_channel(1);
        // The event loop is made on its thread: one that finds no thread could not be dropped here.
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let _at_the_end = at_the_end;
            let built = builder.enable_all().build();
            let runtime = match built {
                Ok(runtime) => runtime,
                // Whoever starts it waits for this.
                Err(error) => return tell.send(Err(error)).unwrap_or_default(),
            };
            tell.send(Ok(())).unwrap_or_default();
            runtime.block_on(work(token));
        });
        let thread = thread.map_err(refuse())?;
        // It tells nothing when it panics: then the system gave it no threads.
        let begun = told.recv().unwrap_or_else(|_| Err(std::io::ErrorKind::WouldBlock.into()));
        begun.map_err(refuse())?;
        Ok(Self { name, stop, thread, ended })
    }

    /// Resolves when it has ended, told to or not.
    pub(super) fn ended(&self) -> WaitForCancellationFutureOwned {
        self.ended.clone().cancelled_owned()
    }

    /// Ends it and waits.
    ///
    /// # Errors
    /// [`AppError::Ended`] when it had ended before, or panicked.
    pub(super) async fn stop(self) -> Result<(), AppError> {
        let early = self.ended.is_cancelled();
        self.stop.cancel();
        self.ended.cancelled().await;
        let panicked = self.thread.join().is_err();
        if early || panicked { Err(AppError::Ended { part: self.name.to_owned() }) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_end_that_nobody_asked_for_is_seen() {
        let kept = Part::start("kept", |stop| stop.cancelled_owned()).unwrap();
        let returned = Part::start("returned", |_| std::future::ready(())).unwrap();
        let panicked = Part::start("panicked", |_| async { panic!("on purpose") }).unwrap();
        for ended in [returned, panicked] {
            ended.ended().await;
            assert!(matches!(ended.stop().await, Err(AppError::Ended { .. })));
        }
        assert!(!kept.ended.is_cancelled());
        kept.stop().await.unwrap();
    }
}

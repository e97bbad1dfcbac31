//! A part that runs on a thread and an event loop of its own, so that it cannot starve requests.

use std::thread::JoinHandle;

use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::AppError;

/// Threads of a wide part.
const WIDE: usize = 2;

/// A running part.
#[derive(Debug)]
pub(super) struct Part {
    name: &'static str,
    stop: CancellationToken,
    thread: JoinHandle<()>,
    ended: oneshot::Receiver<()>,
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
        let runtime = builder.enable_all().build().map_err(AppError::io(format!("starting {name}")))?;
        let stop = CancellationToken::new();
        let (tell, ended) = oneshot::channel();
        let token = stop.clone();
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                runtime.block_on(work(token));
                // Nobody need be listening for the end.
                tell.send(()).unwrap_or_default();
            })
            .map_err(AppError::io(format!("starting {name}")))?;
        Ok(Self { name, stop, thread, ended })
    }

    /// Ends it and waits.
    pub(super) async fn stop(self) -> Result<(), AppError> {
        self.stop.cancel();
        let part = || self.name.to_owned();
        self.ended.await.map_err(|_| AppError::Ended { part: part() })?;
        self.thread.join().map_err(|_| AppError::Ended { part: part() })
    }
}

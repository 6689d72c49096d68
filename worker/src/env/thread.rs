//! Operating-system threads, for work that must not wait for the async runtime, nor it for them.

use std::{future::Future, io, time::Duration};

pub use std::thread::sleep;
use tokio::task::JoinError;

/// Runs `body` on a named thread of its own, which its blocking calls hold up and nothing else.
pub fn drive(name: &str, body: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread.spawn(move || futures::executor::block_on(body)).map(drop)
}

/// A pause of a driven body: no timer of the runtime is asked.
#[allow(clippy::unused_async)] // a simulated thread does wait
pub async fn pause(span: Duration) {
    sleep(span);
}

/// Work that may wait for the disk, apart from the runtime's threads.
pub async fn blocking<F, T>(work: F) -> Result<T, JoinError>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    tokio::task::spawn_blocking(work).await
}

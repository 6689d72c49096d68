//! Threads as tasks of the machine's one runtime, so that a seed is one order of events.

use std::{future::Future, io, time::Duration};

pub fn drive(_name: &str, body: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
    tokio::spawn(body);
    Ok(())
}

pub async fn pause(span: Duration) {
    tokio::time::sleep(span).await;
}

/// Runs at once. Only a runtime that ends would cancel it, and that drops the caller too.
pub async fn blocking<F, T>(work: F) -> Result<T, tokio::task::JoinError>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    Ok(work())
}

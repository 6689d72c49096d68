//! Named operating-system threads, for work that must not wait for the async runtime.

use std::io;

pub use std::thread::{JoinHandle, park, park_timeout, sleep, yield_now};

pub fn spawn<F, T>(name: &str, body: F) -> io::Result<JoinHandle<T>>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    std::thread::Builder::new().name(name.to_owned()).spawn(body)
}

//! What the demo says while it runs: a line each step, with the time since its start.

use std::time::Instant;

#[derive(Clone, Copy, Debug)]
pub struct Teller {
    begun: Instant,
}

impl Teller {
    pub fn new() -> Self {
        Self { begun: Instant::now() }
    }

    pub fn say(&self, line: impl AsRef<str>) {
        eprintln!("{:>5.1} s  {}", self.begun.elapsed().as_secs_f64(), line.as_ref());
    }
}

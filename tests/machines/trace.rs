//! What happened in a run: a digest of all of it, and the text where somebody will read it.

use std::{collections::VecDeque, fmt};

use crate::clock::{MS, True};

/// Lines kept of a run: enough for a whole one.
const KEPT: usize = 100_000;

pub struct Trace {
    digest: u64,
    lines: Option<VecDeque<String>>,
}

impl Trace {
    pub fn new(verbose: bool) -> Self {
        Self { digest: 0xcbf2_9ce4_8422_2325, lines: verbose.then(VecDeque::new) }
    }

    pub fn note(&mut self, now: True, what: fmt::Arguments<'_>) {
        self.add(now);
        // The digest never fails to take text.
        let _ = fmt::Write::write_fmt(self, what);
        if let Some(lines) = &mut self.lines {
            if lines.len() == KEPT {
                lines.pop_front();
            }
            lines.push_back(format!("{:>9.3} {what}", now as f64 / MS as f64));
        }
    }

    pub fn add(&mut self, number: u64) {
        for byte in number.to_le_bytes() {
            self.byte(byte);
        }
    }

    pub fn digest(&self) -> u64 {
        self.digest
    }

    pub fn text(&self) -> String {
        self.lines.iter().flatten().fold(String::new(), |text, line| text + line + "\n")
    }

    fn byte(&mut self, byte: u8) {
        self.digest = (self.digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
}

impl fmt::Write for Trace {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| self.byte(byte));
        Ok(())
    }
}

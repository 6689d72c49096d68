//! The terminal of standard input: keys are not shown while a screen is drawn, and a question is
//! answered there.
#![allow(unsafe_code)] // tcgetattr, tcsetattr: std does not set terminals

use std::io::IsTerminal as _;

/// Keeps what is typed off the screen until it is dropped; Ctrl-C stays a signal.
#[derive(Debug)]
pub struct Quiet {
    before: libc::termios,
}

impl Quiet {
    /// `None` where standard input is no terminal.
    pub fn begin() -> Option<Self> {
        if !std::io::stdin().is_terminal() {
            return None;
        }
        // SAFETY: termios is plain data, for which zeroes are a valid value.
        let mut before: libc::termios = unsafe { std::mem::zeroed() };
        // SAFETY: `before` is a valid place for the answer during the call.
        if unsafe { libc::tcgetattr(libc::STDIN_FILENO, &mut before) } != 0 {
            return None;
        }
        let mut quiet = before;
        quiet.c_lflag &= !(libc::ECHO | libc::ICANON);
        // SAFETY: `quiet` is a whole termios, as tcgetattr filled it.
        unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, &quiet) };
        Some(Self { before })
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // What was typed at the screen was meant for nobody.
        // SAFETY: `before` is a whole termios, as tcgetattr filled it.
        unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSAFLUSH, &self.before) };
    }
}

/// One line that a person types; `None` where standard input is no terminal.
pub fn line() -> std::io::Result<Option<String>> {
    if !std::io::stdin().is_terminal() {
        return Ok(None);
    }
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    Ok(Some(line.trim().to_owned()))
}

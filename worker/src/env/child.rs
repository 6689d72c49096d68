//! The process that the first one of a container starts, and what is orphaned there.
#![allow(unsafe_code)] // waitpid, kill: std waits for one child alone and sends SIGKILL alone

use std::{
    env, io,
    os::unix::process::CommandExt as _,
    process::{self, Command},
};

use shoal_core::supervise::End;

/// A process of this machine, as long as nobody has reaped it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Child(libc::pid_t);

/// Whether this is the first process of its namespace: all others there end with it, and it
/// inherits those whose parents are gone.
pub fn is_first() -> bool {
    process::id() == 1
}

/// This program again, with the same arguments and environment and one variable more.
pub fn start(variable: &str, value: &str) -> io::Result<Child> {
    let mut arguments = env::args_os();
    let mut command = Command::new("/proc/self/exe");
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    let child = command.args(arguments).env(variable, value).spawn()?;
    Ok(Child(child.id() as libc::pid_t))
}

/// Tells a child that was not reaped yet to end in good order.
pub fn stop(child: Child) {
    // SAFETY: a plain call without pointers; the number is not given anew before it is reaped.
    unsafe { libc::kill(child.0, libc::SIGTERM) };
}

/// One that has ended, if any: nothing of it runs any more.
pub fn reap() -> Option<(Child, End)> {
    let mut status = 0;
    // SAFETY: `status` is a valid place for the answer during the call.
    let ended = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
    if ended <= 0 {
        return None;
    }
    // Neither stopped nor continued processes are told of without being asked for.
    let end = if libc::WIFSIGNALED(status) {
        End::Killed { signal: libc::WTERMSIG(status) as u8 }
    } else {
        End::Exited(libc::WEXITSTATUS(status) as u8)
    };
    Some((Child(ended), end))
}

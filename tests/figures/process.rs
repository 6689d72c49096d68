//! What the kernel counted for one process: CPU, memory, bytes written.

use std::{fs, time::Duration};

use anyhow::Context as _;

use crate::machine;

/// Ticks of the kernel's process times: 100 on every Linux that Rust runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// User and system time of the process so far.
pub fn cpu(pid: u32) -> anyhow::Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| path.clone())?;
    ticks(&stat).map(|ticks| Duration::from_secs_f64(ticks / TICKS_PER_SECOND)).context(path)
}

/// The name may hold spaces and brackets: fields count from behind it.
fn ticks(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ').skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// Resident memory, in MiB.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    pub now: f64,
    pub most: f64,
}

pub fn memory(pid: u32) -> anyhow::Result<Memory> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).context(path)?;
    let mib = |name| machine::kib(&status, name) / 1024.0;
    Ok(Memory { now: mib("VmRSS"), most: mib("VmHWM") })
}

/// Bytes that the process caused to be sent to the disk.
pub fn written(pid: u32) -> anyhow::Result<f64> {
    let path = format!("/proc/{pid}/io");
    let io = fs::read_to_string(&path).with_context(|| path.clone())?;
    let bytes = machine::field(&io, "write_bytes").and_then(|value| value.parse().ok());
    bytes.context(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 150 25 0 0 20 0 5 0 99";
        assert_eq!(ticks(stat), Some(175.0));
        assert_eq!(ticks("7 (a"), None);
    }

    #[test]
    fn this_process_has_memory_and_time() {
        let pid = std::process::id();
        assert!(memory(pid).unwrap().most >= 1.0);
        assert!(cpu(pid).is_ok() && written(pid).is_ok());
    }
}

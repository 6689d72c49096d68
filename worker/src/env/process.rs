//! What this process uses of its machine, as the kernel counts it.
#![allow(unsafe_code)] // getrusage, getrlimit, sysconf: std offers none of them

use std::{fs, io, time::Duration};

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    pub resident_bytes: u64,
    /// User and system time of all threads since the start.
    pub cpu: Duration,
    pub open_files: u64,
    /// The soft limit of them.
    pub max_files: u64,
    pub threads: u64,
}

pub fn usage() -> io::Result<Usage> {
    let statm = fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    // SAFETY: a plain question without pointers.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    Ok(Usage {
        resident_bytes: pages * u64::try_from(page).unwrap_or(0),
        cpu: cpu()?,
        open_files: fs::read_dir("/proc/self/fd")?.count() as u64,
        max_files: max_files()?,
        threads: fs::read_dir("/proc/self/task")?.count() as u64,
    })
}

fn cpu() -> io::Result<Duration> {
    // SAFETY: rusage is plain data, for which zeroes are a valid value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` is a valid place for the answer during the call.
    if unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let span = |time: libc::timeval| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1_000);
    Ok(span(usage.ru_utime) + span(usage.ru_stime))
}

fn max_files() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place for the answer during the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(limit.rlim_cur)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_uses_something_and_more_files_after_opening_one() {
        let before = usage().unwrap();
        assert!(before.resident_bytes > 1 << 20 && before.threads > 0);
        assert!(before.open_files < before.max_files);
        let held: Vec<_> = (0..64).map(|_| fs::File::open("/proc/self/statm").unwrap()).collect();
        // Other tests of this process open and close some of their own meanwhile.
        assert!(usage().unwrap().open_files > 64, "{}", held.len());
        assert!(usage().unwrap().cpu >= before.cpu);
    }
}

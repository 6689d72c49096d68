//! The machine, the build and the day that figures belong to.

use std::{fmt, fs, path::Path, process::Command};

use serde::Serialize;

#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub memory_gib: f64,
    pub kernel: String,
    /// Of the nodes' directories.
    pub filesystem: String,
    pub rustc: String,
    pub revision: String,
    pub profile: &'static str,
    pub date: String,
    /// Runnable tasks over the last minute, before anything ran.
    pub load_before: String,
}

impl Machine {
    pub fn of(data: &Path) -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let changed = !said("git", &["status", "--porcelain", "--untracked-files=no"]).is_empty();
        let revision = said("git", &["rev-parse", "--short=12", "HEAD"]);
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Self {
            cpu: field(&cpuinfo, "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_gib: kib(&memory, "MemTotal") / f64::from(1 << 20),
            kernel: said("uname", &["-sr"]),
            filesystem: said("findmnt", &["-no", "FSTYPE", "--target", &data.to_string_lossy()]),
            rustc: said("rustc", &["--version"]),
            revision: if changed { format!("{revision} with changes") } else { revision },
            profile: if cfg!(debug_assertions) { "debug" } else { "release" },
            date: said("date", &["-u", "+%F %H:%M UTC"]),
            load_before: load.split(' ').next().unwrap_or_default().to_owned(),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} cores of {}, {:.0} GiB, {}, {} below the data, loopback; {}, {} build of {}; {}; load {} before the run",
            self.cores,
            self.cpu,
            self.memory_gib,
            self.kernel,
            self.filesystem,
            self.rustc,
            self.profile,
            self.revision,
            self.date,
            self.load_before
        )
    }
}

/// First line that a program prints; nothing if it is not there.
fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    text.unwrap_or_default().lines().next().unwrap_or_default().to_owned()
}

/// Value of a `name: value` line.
pub fn field(text: &str, name: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    })
}

/// Value of a `name: value kB` line.
pub fn kib(text: &str, name: &str) -> f64 {
    let value = field(text, name).unwrap_or_default();
    value.trim_end_matches("kB").trim().parse().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_proc_are_read_by_name() {
        let text = "VmHWM:\t   2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(kib(text, "VmRSS"), 1024.0);
        assert_eq!(field(text, "Vm"), None);
    }
}

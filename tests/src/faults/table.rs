//! What a run found, as a table that people paste, with the machine it ran on.

use std::{collections::BTreeMap, fmt::Write as _, fs, process::Command, time::Duration};

use super::{kind::Kind, run::Episode};

/// All episodes of one kind.
#[derive(Clone, Copy, Debug, Default)]
struct Row {
    count: usize,
    not_fired: usize,
    not_healed: usize,
    unavailable: Duration,
    healed: Duration,
    failed: u64,
}

/// One line for each kind, in the order of [`Kind::ALL`].
pub fn table(episodes: &[Episode]) -> String {
    let mut rows: BTreeMap<Kind, Row> = BTreeMap::new();
    for episode in episodes {
        let row = rows.entry(episode.kind).or_default();
        row.count += 1;
        row.not_fired += usize::from(episode.fired.is_err());
        row.not_healed += usize::from(episode.sick.is_some());
        row.unavailable = row.unavailable.max(episode.unavailable);
        row.healed = row.healed.max(Duration::from_nanos(episode.healed - episode.ended));
        row.failed += episode.failed;
    }
    let mut text = String::from(
        "| fault | times | longest time in which a key did not answer | whole again after its end, \
         at most | calls through the shared address that failed |\n| --- | --- | --- | --- | --- |\n",
    );
    for (kind, row) in rows {
        let mut count = row.count.to_string();
        if row.not_fired > 0 {
            let _ = write!(count, ", {} UNKNOWN", row.not_fired);
        }
        let mut healed = format!("{:.1} s", row.healed.as_secs_f64());
        if row.not_healed > 0 {
            let _ = write!(healed, ", {} times NOT HEALED", row.not_healed);
        }
        let _ = writeln!(
            text,
            "| {kind} | {count} | {:.2} s | {healed} | {} |",
            row.unavailable.as_secs_f64(),
            row.failed
        );
    }
    text
}

/// The machine and the build that figures belong to, in one line.
pub fn machine(program: &std::path::Path) -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok());
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    // Told by the path: one program may run another build than its own.
    let profile = if program.to_string_lossy().contains("release") { "release" } else { "debug" };
    format!(
        "{cores} cores of {}, {:.0} GiB, {}, network namespaces; {}, {profile} build of {}; {}; \
         load {} as this is written",
        cpu.map_or(std::env::consts::ARCH, |(_, name)| name),
        memory.unwrap_or(0.0) / f64::from(1 << 20),
        said("uname", &["-sr"]),
        said("rustc", &["--version"]),
        said("git", &["rev-parse", "--short=12", "HEAD"]),
        said("date", &["-u", "+%F %H:%M UTC"]),
        load.split(' ').next().unwrap_or_default(),
    )
}

/// First line that a program prints; nothing if it is not there.
fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    text.unwrap_or_default().lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn episode(fired: Result<String, String>, seconds: u64) -> Episode {
        Episode {
            kind: Kind::Kill,
            whom: "node-a".to_owned(),
            began: 0,
            ended: 1_000_000_000,
            healed: 3_000_000_000,
            fired,
            sick: None,
            unavailable: Duration::from_secs(seconds),
            failed: 2,
        }
    }

    #[test]
    fn a_row_holds_the_worst_of_its_kind() {
        let table = table(&[episode(Ok(String::new()), 4), episode(Ok(String::new()), 3)]);
        assert!(table.ends_with("| kill -9 | 2 | 4.00 s | 2.0 s | 4 |\n"), "{table}");
    }

    #[test]
    fn what_did_not_fire_is_told() {
        let table = table(&[episode(Err("nothing met it".to_owned()), 1)]);
        assert!(table.contains("| 1, 1 UNKNOWN |"), "{table}");
    }
}

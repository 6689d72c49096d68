//! MAX_PAYLOAD and CALL_MEMORY, and what the latter is where nobody sets it.
//!
//! In a container the kernel ends a process that takes more than its memory limit. Calls under
//! way get a share of that limit: the rest is for what the hosts of the shards keep, and for all
//! that allocators and buffers need around what is counted.

use std::path::{Path, PathBuf};

use super::{Error, invalid};
use crate::{
    env::disk,
    forward::{DEFAULT_CALL_MEMORY, budget},
};

/// Smallest and largest MAX_PAYLOAD: a frame's length field and the memory of one pipe.
const MAX_PAYLOADS: std::ops::RangeInclusive<u64> = 1_024..=64 << 20;
/// Largest CALL_MEMORY, to notice a slip of the pen.
const MOST_CALL_MEMORY: u64 = 1 << 40;
/// The part of a memory limit that calls under way get: a quarter.
const SHARE: u64 = 4;
/// Limits from here on stand for none: version 1 writes the largest that it knows.
const NO_LIMIT: u64 = 1 << 60;

pub(super) fn max_payload(text: &str) -> Result<usize, Error> {
    const REMEDY: &str = "give bytes from 1024 to 64MiB, as a number or with KiB or MiB";
    match size("MAX_PAYLOAD", text, REMEDY)? {
        Some(bytes) if MAX_PAYLOADS.contains(&bytes) => Ok(bytes as usize),
        _ => Err(invalid("MAX_PAYLOAD", text, "it is outside 1KiB…64MiB", REMEDY)),
    }
}

pub(super) fn call_memory(text: &str, max_payload: usize) -> Result<usize, Error> {
    const REMEDY: &str = "give bytes up to 1024GiB, as a number or with KiB, MiB or GiB";
    let bytes = size("CALL_MEMORY", text, REMEDY)?.filter(|bytes| *bytes <= MOST_CALL_MEMORY);
    let bytes = bytes.ok_or_else(|| invalid("CALL_MEMORY", text, "it is over 1024GiB", REMEDY))?;
    let least = budget::least(max_payload);
    if bytes < least as u64 {
        let problem = format!("calls of MAX_PAYLOAD, {max_payload} bytes, need at least {least}");
        return Err(invalid("CALL_MEMORY", text, problem, "give more, or lower MAX_PAYLOAD"));
    }
    Ok(bytes as usize)
}

/// `None`: more than can be counted.
fn size(setting: &'static str, text: &str, remedy: &'static str) -> Result<Option<u64>, Error> {
    let units = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("", 1)];
    let found = units.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, unit)));
    let (digits, unit) = found.unwrap_or((text, &1));
    let count: Result<u64, _> = digits.trim().parse();
    let count = count.map_err(|_| invalid(setting, text, "it is not a size", remedy))?;
    Ok(count.checked_mul(*unit))
}

/// What calls under way may take in this process, unless a setting says so.
pub fn for_calls(max_payload: usize) -> usize {
    let read = |path: &Path| Some(String::from_utf8_lossy(&disk::read(path).ok()??).into_owned());
    share(limit(read), max_payload)
}

fn share(limit: Option<u64>, max_payload: usize) -> usize {
    let share = limit.map(|bytes| usize::try_from(bytes / SHARE).unwrap_or(usize::MAX));
    share.unwrap_or(DEFAULT_CALL_MEMORY).max(budget::least(max_payload))
}

/// The lowest memory limit of the control groups that this process is in, of either version.
fn limit(read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let groups = read(Path::new("/proc/self/cgroup"))?;
    let limits = groups.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, group) = (fields.next()?, fields.next()?);
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            names if names.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => return None,
        };
        // A container may see its own group as the root, under whatever name the host gave it.
        let group = PathBuf::from(root).join(group.trim_start_matches('/'));
        let above = group.ancestors().take_while(|path| path.starts_with(root));
        above.filter_map(|path| read(&path.join(file))?.trim().parse::<u64>().ok()).min()
    });
    limits.min().filter(|bytes| *bytes < NO_LIMIT)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// What a machine with these files tells.
    fn limit_of(files: &[(&str, &str)]) -> Option<u64> {
        let files: BTreeMap<_, _> = files.iter().copied().collect();
        limit(|path| files.get(path.to_str()?).map(|text| (*text).to_owned()))
    }

    const SELF: &str = "/proc/self/cgroup";

    #[test]
    fn the_lowest_limit_of_a_group_and_those_around_it_counts() {
        let version_2 = |inner, outer| {
            limit_of(&[
                (SELF, "0::/kubepods/pod1/app\n"),
                ("/sys/fs/cgroup/kubepods/pod1/app/memory.max", inner),
                ("/sys/fs/cgroup/kubepods/memory.max", outer),
            ])
        };
        assert_eq!(version_2("536870912\n", "max\n"), Some(512 << 20));
        assert_eq!(version_2("536870912\n", "1048576\n"), Some(1 << 20));
        assert_eq!(version_2("max\n", "max\n"), None);
        let version_1 = |limit| {
            limit_of(&[
                (SELF, "9:cpu,cpuacct:/a\n4:memory:/docker/1\n1:name=systemd:/a\n"),
                ("/sys/fs/cgroup/memory/memory.limit_in_bytes", limit),
            ])
        };
        assert_eq!(version_1("536870912\n"), Some(512 << 20), "its own group is the root");
        assert_eq!(version_1("9223372036854771712\n"), None);
        assert_eq!(limit_of(&[]), None);
    }

    #[test]
    fn calls_get_a_quarter_of_the_limit_and_never_less_than_a_largest_payload_needs() {
        assert_eq!(share(Some(512 << 20), 4 << 20), 128 << 20);
        assert_eq!(share(None, 4 << 20), DEFAULT_CALL_MEMORY);
        assert_eq!(share(Some(32 << 20), 4 << 20), budget::least(4 << 20));
        assert_eq!(share(None, 64 << 20), budget::least(64 << 20));
    }
}

//! The memory limits that hold for this process: of its cgroup and of all above it, versions 1 and 2.
//!
//! In version 2 one number holds everything; in version 1 the buffers of TCP have a limit of their own. What the
//! kernel can drop at once (files it has read) is not counted as used.

use std::fs;
use std::path::{Path, PathBuf};

use super::Reading;

/// Version 1 says "none" as the largest page count.
const NO_LIMIT: u64 = 1 << 60;
/// Below this the reading is good enough as it is.
const EXACT_FROM_PERCENT: u64 = 50;

/// One limit: files to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cap {
    used: PathBuf,
    limit: PathBuf,
    stat: Option<PathBuf>,
}

impl Cap {
    /// None where there is no limit.
    pub fn read(&self) -> Option<Reading> {
        let number = |path: &Path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
        let limit = number(&self.limit).filter(|limit| (1..NO_LIMIT).contains(limit))?;
        let used = number(&self.used)?;
        let droppable = match &self.stat {
            Some(stat) if used >= limit / 100 * EXACT_FROM_PERCENT => droppable(&fs::read_to_string(stat).ok()?),
            _ => 0,
        };
        Some(Reading { used: used.saturating_sub(droppable), limit })
    }
}

/// memory.stat; version 1 has the sums over a tree under other names.
fn droppable(stat: &str) -> u64 {
    let value = |name: &str| -> Option<u64> {
        stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
    };
    let sum = |names: [&str; 2]| Some(names.into_iter().filter_map(value).sum::<u64>()).filter(|sum| *sum > 0);
    sum(["total_inactive_file", "total_active_file"]).or_else(|| sum(["inactive_file", "active_file"])).unwrap_or(0)
}

/// Every limit there may be; most have none when they are read.
pub fn find() -> Vec<Cap> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let mut caps = Vec::new();
    for (top, own, version) in places(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo")) {
        // A path that is not below the mount (another namespace's) leaves the mount itself, which then holds us.
        let own = if own.is_dir() { own } else { top.clone() };
        for directory in own.ancestors().take_while(|directory| directory.starts_with(&top)) {
            let file = |name: &str| directory.join(name);
            let cap =
                |used: &str, limit: &str, stat: Option<PathBuf>| Cap { used: file(used), limit: file(limit), stat };
            let stat = Some(file("memory.stat"));
            match version {
                2 => caps.push(cap("memory.current", "memory.max", stat)),
                _ => {
                    caps.push(cap("memory.usage_in_bytes", "memory.limit_in_bytes", stat));
                    caps.push(cap("memory.kmem.tcp.usage_in_bytes", "memory.kmem.tcp.limit_in_bytes", None));
                }
            }
        }
    }
    caps.retain(|cap| cap.limit.exists());
    caps
}

/// Mount point, directory of this process, and version of each hierarchy that may limit memory.
fn places(cgroups: &str, mounts: &str) -> Vec<(PathBuf, PathBuf, u8)> {
    let mut found = Vec::new();
    for line in cgroups.lines() {
        // "4:memory:/a/b" or "0::/a/b" (cgroups(7))
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let version = match controllers {
            "" => 2,
            _ if controllers.split(',').any(|name| name == "memory") => 1,
            _ => continue,
        };
        for mount in mounts.lines() {
            // "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory" (proc_pid_mountinfo(5))
            let Some((left, right)) = mount.split_once(" - ") else { continue };
            let (mut left, mut right) = (left.split(' ').skip(3), right.split(' '));
            let (Some(root), Some(top), Some(kind)) = (left.next(), left.next(), right.next()) else { continue };
            let is_memory = right.nth(1).unwrap_or_default().split(',').any(|option| option == "memory");
            if (version == 2 && kind == "cgroup2") || (version == 1 && kind == "cgroup" && is_memory) {
                let below = path.strip_prefix(root.trim_end_matches('/')).unwrap_or(path);
                found.push((top.into(), Path::new(top).join(below.trim_start_matches('/')), version));
            }
        }
    }
    found
}

/// All the memory there is.
/// What this process may still use under the nearest of its limits; none without one.
pub fn room_bytes() -> Option<u64> {
    find().iter().filter_map(Cap::read).map(|reading| reading.limit.saturating_sub(reading.used)).min()
}

pub fn machine_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_of_this_process_is_found_in_each_kind_of_system() {
        let v1 = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory";
        let v2 = "41 31 0:38 / /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate";
        let docker = "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro,nosuid - cgroup cgroup rw,memory";
        let cases = [
            (
                "version 1",
                "5:devices:/\n4:memory:/a/b\n0::/",
                v1,
                "/sys/fs/cgroup/memory",
                "/sys/fs/cgroup/memory/a/b",
                1,
            ),
            ("version 2", "0::/a.slice/b.service", v2, "/sys/fs/cgroup", "/sys/fs/cgroup/a.slice/b.service", 2),
            ("a container", "4:memory:/docker/abc/x", docker, "/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory/x", 1),
            (
                "a container's top",
                "4:memory,cpu:/docker/abc",
                docker,
                "/sys/fs/cgroup/memory",
                "/sys/fs/cgroup/memory/",
                1,
            ),
        ];
        for (what, cgroups, mounts, top, own, version) in cases {
            assert_eq!(places(cgroups, mounts), [(top.into(), own.into(), version)], "{what}");
        }
        assert!(places("0::/", v1).is_empty() && places("", v2).is_empty());
    }

    #[test]
    fn files_in_memory_do_not_count_as_used() {
        let directory = std::env::temp_dir().join(format!("causeway-cap-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let cap = Cap {
            used: directory.join("memory.current"),
            limit: directory.join("memory.max"),
            stat: Some(directory.join("memory.stat")),
        };
        fs::write(&cap.used, "900\n").unwrap();
        fs::write(&cap.limit, "max\n").unwrap();
        assert_eq!(cap.read(), None);
        fs::write(&cap.limit, "1000\n").unwrap();
        let stat = directory.join("memory.stat");
        for text in [
            "anon 1\ninactive_file 100\nactive_file 50\n",
            "inactive_file 7\ntotal_inactive_file 100\ntotal_active_file 50\n",
        ] {
            fs::write(&stat, text).unwrap();
            assert_eq!(cap.read(), Some(Reading { used: 750, limit: 1000 }));
        }
        fs::write(&cap.limit, "9223372036854771712\n").unwrap();
        assert_eq!(cap.read(), None, "version 1 without a limit");
        fs::remove_dir_all(directory).unwrap();
    }
}

//! How much memory this process has, and may have, as the operating system says.

use std::path::Path;

/// Bytes of this process in memory; `None` where the kernel does not say.
pub(super) fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// Seven eighths of the least limit of the control groups that this process is in; `None`: there is none.
///
/// The rest is for what a group is charged beside resident memory: at its limit the kernel ends a process,
/// and nobody would be refused before.
pub(super) fn group_budget() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    limit_below(Path::new("/sys/fs/cgroup"), &groups).map(|limit| limit - limit / 8)
}

/// Of groups of version 2, whose hierarchy is the line `0::PATH`.
fn limit_below(mount: &Path, groups: &str) -> Option<u64> {
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let own = mount.join(path);
    let limits = own
        .ancestors()
        .take_while(|group| group.starts_with(mount))
        .filter_map(|group| std::fs::read_to_string(group.join("memory.max")).ok()?.trim().parse().ok());
    limits.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_some() {
        let resident = resident().unwrap();
        assert!((1 << 20..1 << 40).contains(&resident), "{resident}");
    }

    #[test]
    fn the_least_limit_on_the_way_up_counts() {
        let mount = tempfile::tempdir().unwrap();
        let own = mount.path().join("a/b");
        std::fs::create_dir_all(&own).unwrap();
        let limit = || limit_below(mount.path(), "1:cpu:/x\n0::/a/b\n");
        assert_eq!(limit(), None);
        std::fs::write(own.join("memory.max"), "max\n").unwrap();
        assert_eq!(limit(), None);
        std::fs::write(mount.path().join("a/memory.max"), "1000\n").unwrap();
        assert_eq!(limit(), Some(1000));
        std::fs::write(own.join("memory.max"), "2000\n").unwrap();
        assert_eq!(limit(), Some(1000));
        std::fs::write(own.join("memory.max"), "500\n").unwrap();
        assert_eq!(limit(), Some(500));
    }
}

//! The limits that control groups set for this process: CPU time and cores, in both versions of
//! control groups, anywhere in the hierarchy.

use std::path::{Component, Path, PathBuf};

use crate::read::{parse_list, text};

/// A limit of CPU time.
#[derive(Clone, Debug, PartialEq)]
pub struct Quota {
    /// The limit in cores' worth of CPU time.
    pub cores: f64,
    /// The control group that sets it, named as in `/proc/self/cgroup`.
    pub group: String,
}

/// How often and how long the process's group was stopped because it had used up its time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Throttling {
    /// The number of periods in which it was stopped.
    pub periods: u64,
    /// The total time, summed over all threads.
    pub seconds: f64,
}

impl Throttling {
    /// Returns the difference from `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            periods: self.periods.saturating_sub(earlier.periods),
            seconds: (self.seconds - earlier.seconds).max(0.0),
        }
    }
}

/// Returns the tightest limit on this process's CPU time: its own group's, or that of a group
/// above.
#[must_use]
pub fn cpu_quota(root: &Path) -> Option<Quota> {
    let groups = groups(root, "cpu");
    let quotas = groups.iter().filter_map(|group| {
        let cores = match text(root, &group.file("cpu.max")) {
            Some(limit) => parse_max(&limit)?,
            None => {
                let value =
                    |name: &str| -> Option<f64> { text(root, &group.file(name))?.parse().ok() };
                ratio(value("cpu.cfs_quota_us")?, value("cpu.cfs_period_us")?)?
            }
        };
        let group = group.name.clone();
        Some(Quota { cores, group })
    });
    quotas.min_by(|a, b| a.cores.total_cmp(&b.cores))
}

/// Returns the cores that the control group of this process may use, if limited.
#[must_use]
pub fn cpu_set(root: &Path) -> Option<Vec<usize>> {
    let names = [
        "cpuset.cpus.effective",
        "cpuset.effective_cpus",
        "cpuset.cpus",
    ];
    // The nearest group that reports any.
    groups(root, "cpuset").iter().find_map(|group| {
        let lists = names
            .iter()
            .filter_map(|name| text(root, &group.file(name)));
        lists
            .map(|list| parse_list(&list))
            .find(|cores| !cores.is_empty())
    })
}

/// Returns how much this process's group has been throttled since its creation.
#[must_use]
pub fn throttling(root: &Path) -> Option<Throttling> {
    groups(root, "cpu").iter().find_map(|group| {
        let stat = text(root, &group.file("cpu.stat"))?;
        let value = |name: &str| -> Option<f64> {
            let mut fields = stat.lines().filter_map(|line| line.split_once(' '));
            fields.find_map(|(key, value)| (key == name).then(|| value.parse().ok())?)
        };
        let micros = value("throttled_usec").or_else(|| Some(value("throttled_time")? / 1e3))?;
        Some(Throttling {
            periods: value("nr_throttled")? as u64,
            seconds: micros / 1e6,
        })
    })
}

/// Returns the container in which this process runs, if any; `unknown` if it cannot be identified.
#[must_use]
pub fn container(root: &Path) -> Option<String> {
    if let Some(name) = text(root, "run/systemd/container").filter(|name| !name.is_empty()) {
        return Some(name);
    }
    let files = [("run/.containerenv", "podman"), (".dockerenv", "docker")];
    if let Some((_, name)) = files.iter().find(|(file, _)| root.join(file).exists()) {
        return Some((*name).to_owned());
    }
    // Readable only by the owner of the first process.
    let environment = text(root, "proc/1/environ").unwrap_or_default();
    let mut variables = environment.split('\0');
    if let Some(name) = variables.find_map(|variable| variable.strip_prefix("container=")) {
        return Some(name.to_owned());
    }
    let groups = text(root, "proc/self/cgroup").unwrap_or_default();
    let marks = ["docker", "kubepods", "libpod", "lxc", "containerd"];
    let mark = marks.iter().find(|mark| groups.contains(*mark));
    mark.map(|mark| (*mark).to_owned())
}

/// A control group, and the path of its files.
#[derive(Debug, PartialEq)]
struct Group {
    name: String,
    folder: PathBuf,
}

impl Group {
    fn file(&self, name: &str) -> String {
        self.folder.join(name).to_string_lossy().into_owned()
    }
}

/// Returns the groups that contain this process, its own first, in every hierarchy that may have
/// `controller`.
fn groups(root: &Path, controller: &str) -> Vec<Group> {
    let own = text(root, "proc/self/cgroup").unwrap_or_default();
    let mounts = text(root, "proc/self/mountinfo").unwrap_or_default();
    let mut groups = Vec::new();
    for mount in mounts.lines().filter_map(Mount::parse) {
        let paths = own.lines().filter_map(|line| {
            let (_, line) = line.split_once(':')?;
            line.split_once(':')
        });
        let path = paths
            .filter(|(controllers, _)| match mount.kind {
                // Version 2 has one hierarchy for all controllers.
                "cgroup2" => controllers.is_empty(),
                _ => {
                    let has = |list: &str| list.split(',').any(|name| name == controller);
                    has(controllers) && has(mount.options)
                }
            })
            .map(|(_, path)| path)
            .next();
        if let Some(path) = path {
            groups.extend(mount.groups(path));
        }
    }
    groups
}

/// A mounted hierarchy.
struct Mount<'a> {
    /// The group at the mount's root.
    root: PathBuf,
    point: PathBuf,
    kind: &'a str,
    options: &'a str,
}

impl<'a> Mount<'a> {
    /// Parses a line of `mountinfo`; `None` if it is not about control groups.
    fn parse(line: &'a str) -> Option<Self> {
        let (place, system) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let (root, point) = (unescape(place.next()?), unescape(place.next()?));
        let mut system = system.split(' ');
        let (kind, options) = (system.next()?, system.nth(1)?);
        matches!(kind, "cgroup" | "cgroup2").then(|| Self {
            root: root.into(),
            // An absolute path would escape the given root.
            point: point.trim_start_matches('/').into(),
            kind,
            options,
        })
    }

    /// Returns the group at `path` and those above it, as far as they are visible here.
    fn groups(&self, path: &str) -> Vec<Group> {
        let path = Path::new(path);
        let below = path.strip_prefix(&self.root).unwrap_or(Path::new(""));
        // In a container, a group outside of it may appear as `/../x`.
        let below = if below
            .components()
            .all(|part| matches!(part, Component::Normal(_)))
        {
            below
        } else {
            Path::new("")
        };
        let group = |below: &Path| Group {
            name: self.root.join(below).to_string_lossy().into_owned(),
            folder: self.point.join(below),
        };
        below.ancestors().map(group).collect()
    }
}

/// Decodes space, tab, line break and backslash, which are octal in `mountinfo`.
fn unescape(text: &str) -> String {
    let codes = [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ];
    codes
        .iter()
        .fold(text.to_owned(), |text, (code, character)| {
            text.replace(code, character)
        })
}

/// `cpu.max`: `max 100000`, or time and period.
fn parse_max(text: &str) -> Option<f64> {
    let (quota, period) = text.split_once(' ')?;
    ratio(quota.parse().ok()?, period.parse().ok()?)
}

/// In version 1, -1 means no limit.
fn ratio(quota: f64, period: f64) -> Option<f64> {
    (quota > 0.0 && period > 0.0 && quota.is_finite()).then(|| quota / period)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::tests::unpack;

    const V2: &str = "
== proc/self/mountinfo
22 1 0:21 / /proc rw - proc proc rw
30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate
== proc/self/cgroup
0::/system.slice/poet.service/worker
== sys/fs/cgroup/system.slice/poet.service/worker/cpu.max
max 100000
== sys/fs/cgroup/system.slice/poet.service/worker/cpu.stat
usage_usec 9000
nr_periods 40
nr_throttled 12
throttled_usec 2500000
== sys/fs/cgroup/system.slice/poet.service/worker/cpuset.cpus.effective
2-3
== sys/fs/cgroup/system.slice/poet.service/cpu.max
50000 100000
== sys/fs/cgroup/system.slice/cpu.max
400000 100000
";

    #[test]
    fn the_tightest_quota_of_all_groups_above_counts() {
        let root = unpack(V2);
        let quota = cpu_quota(root.path()).unwrap();
        assert_eq!(quota.cores, 0.5);
        assert_eq!(quota.group, "/system.slice/poet.service");
        assert_eq!(cpu_set(root.path()), Some(vec![2, 3]));
        let throttling = throttling(root.path()).unwrap();
        assert_eq!(
            throttling,
            Throttling {
                periods: 12,
                seconds: 2.5
            }
        );
        assert_eq!(throttling.since(throttling), Throttling::default());
        assert_eq!(container(root.path()), None);
    }

    #[test]
    fn the_first_version_has_a_hierarchy_for_each_controller() {
        let root = unpack(
            "
== proc/self/mountinfo
25 24 0:22 / /sys/fs/cgroup ro - tmpfs tmpfs ro
26 25 0:23 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
27 25 0:24 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
28 25 0:25 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset
== proc/self/cgroup
4:cpuset:/box
3:cpu,cpuacct:/user.slice/box
1:name=systemd:/user.slice
== sys/fs/cgroup/cpu,cpuacct/user.slice/box/cpu.cfs_quota_us
-1
== sys/fs/cgroup/cpu,cpuacct/user.slice/box/cpu.cfs_period_us
100000
== sys/fs/cgroup/cpu,cpuacct/user.slice/box/cpu.stat
nr_periods 4
nr_throttled 3
throttled_time 1500000000
== sys/fs/cgroup/cpu,cpuacct/user.slice/cpu.cfs_quota_us
150000
== sys/fs/cgroup/cpu,cpuacct/user.slice/cpu.cfs_period_us
100000
== sys/fs/cgroup/cpuset/box/cpuset.cpus
1,3
",
        );
        let quota = cpu_quota(root.path()).unwrap();
        assert_eq!((quota.cores, &*quota.group), (1.5, "/user.slice"));
        assert_eq!(cpu_set(root.path()), Some(vec![1, 3]));
        let expected = Throttling {
            periods: 3,
            seconds: 1.5,
        };
        assert_eq!(throttling(root.path()), Some(expected));
    }

    #[test]
    fn a_container_sees_its_own_group_only() {
        // Docker with its own control group namespace: the group appears as the root.
        let root = unpack(
            "
== .dockerenv
== proc/self/mountinfo
600 599 0:26 / /sys/fs/cgroup ro - cgroup2 cgroup rw
== proc/self/cgroup
0::/
== sys/fs/cgroup/cpu.max
25000 100000
== sys/fs/cgroup/cpuset.cpus.effective
5
",
        );
        let quota = cpu_quota(root.path()).unwrap();
        assert_eq!((quota.cores, &*quota.group), (0.25, "/"));
        assert_eq!(cpu_set(root.path()), Some(vec![5]));
        assert_eq!(container(root.path()).as_deref(), Some("docker"));
        // With the host's namespace: only its own group is mounted, under its full name.
        let root = unpack(
            "
== proc/1/environ
PATH=/bin\0container=lxc\0
== proc/self/mountinfo
600 599 0:26 /docker/abc /sys/fs/cgroup/my\\040groups ro - cgroup2 cgroup rw
== proc/self/cgroup
0::/docker/abc/inner
== sys/fs/cgroup/my groups/inner/cpu.max
max 100000
== sys/fs/cgroup/my groups/cpu.max
200000 100000
",
        );
        let quota = cpu_quota(root.path()).unwrap();
        assert_eq!((quota.cores, &*quota.group), (2.0, "/docker/abc/"));
        assert_eq!(container(root.path()).as_deref(), Some("lxc"));
    }

    #[test]
    fn groups_outside_of_what_is_seen_lead_nowhere_else() {
        let root = unpack(
            "
== proc/self/mountinfo
600 599 0:26 / /sys/fs/cgroup ro - cgroup2 cgroup rw
== proc/self/cgroup
0::/../../other
== sys/fs/cgroup/cpu.max
300000 100000
== sys/cpu.max
1 100000
",
        );
        assert_eq!(cpu_quota(root.path()).unwrap().cores, 3.0);
    }

    #[test]
    fn no_limit_and_nonsense() {
        assert_eq!(cpu_quota(Path::new("/nonexistent")), None);
        assert_eq!(cpu_set(Path::new("/nonexistent")), None);
        assert_eq!(throttling(Path::new("/nonexistent")), None);
        for (limit, cores) in [
            ("max 100000", None),
            ("50000 100000", Some(0.5)),
            ("50000 0", None),
            ("-1 100000", None),
            ("inf 1", None),
            ("", None),
        ] {
            assert_eq!(parse_max(limit), cores, "{limit}");
        }
        assert!(Mount::parse("").is_none());
        assert!(Mount::parse("1 2 3 - cgroup2").is_none());
    }
}

//! Which programs run on the hashing thread's core.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Watches which threads run on a core. It samples where each thread ran last, so it misses what
/// starts and ends between two samples: the times are estimates.
#[derive(Debug)]
pub struct Watch {
    root: PathBuf,
    core: usize,
    /// The measured thread, which does not count.
    except: Option<u32>,
    /// The CPU time of each thread at the last sample.
    last: Option<HashMap<u32, Duration>>,
    /// The time of the last sample.
    looked: Option<Instant>,
    watched: Duration,
    seen: BTreeMap<String, Duration>,
}

impl Watch {
    /// Watches `core` of the machine whose file system has its root at `root`.
    #[must_use]
    pub fn new(root: &Path, core: usize) -> Self {
        Self {
            root: root.to_owned(),
            core,
            except: None,
            last: None,
            looked: None,
            watched: Duration::ZERO,
            seen: BTreeMap::new(),
        }
    }

    /// Excludes the thread with this id.
    pub fn except(&mut self, thread: u32) {
        self.except = Some(thread);
    }

    /// Samples all threads.
    pub fn look(&mut self) {
        let at = Instant::now();
        let passed = self.looked.map_or(Duration::ZERO, |looked| at - looked);
        self.look_after(passed);
        self.looked = Some(at);
    }

    fn look_after(&mut self, passed: Duration) {
        self.watched += passed;
        let mut now = HashMap::new();
        for thread in threads(&self.root) {
            let Some(look) = Look::read(&thread) else {
                continue;
            };
            now.insert(look.id, look.time);
            let Some(last) = &self.last else {
                continue;
            };
            let before = last.get(&look.id).copied().unwrap_or_default();
            // A thread that is new on this core may have run before, on another one.
            let ran = look.time.saturating_sub(before).min(passed);
            if look.core == self.core && !ran.is_zero() && self.except != Some(look.id) {
                *self.seen.entry(look.name).or_default() += ran;
            }
        }
        self.last = Some(now);
    }

    /// Returns how long the core has been watched.
    #[must_use]
    pub fn watched(&self) -> Duration {
        self.watched
    }

    /// Returns the names of the programs that ran there and their times, longest first.
    #[must_use]
    pub fn seen(&self) -> Vec<(String, Duration)> {
        let mut seen: Vec<_> = self.seen.clone().into_iter().collect();
        seen.sort_by_key(|(_, time)| std::cmp::Reverse(*time));
        seen
    }
}

/// Returns the folders of all threads.
fn threads(root: &Path) -> Vec<PathBuf> {
    let folders = |path: PathBuf| {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        let is_number = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.parse::<u32>().is_ok())
        };
        entries.map(|entry| entry.path()).filter(is_number)
    };
    folders(root.join("proc"))
        .flat_map(|process| folders(process.join("task")))
        .collect()
}

/// A sample of one thread.
#[derive(Debug, PartialEq)]
struct Look {
    id: u32,
    name: String,
    core: usize,
    time: Duration,
}

impl Look {
    fn read(folder: &Path) -> Option<Self> {
        let stat = fs::read_to_string(folder.join("stat")).ok()?;
        let schedstat = fs::read_to_string(folder.join("schedstat")).ok();
        Self::parse(&stat, schedstat.as_deref())
    }

    fn parse(stat: &str, schedstat: Option<&str>) -> Option<Self> {
        // The name, in parentheses, may contain parentheses and spaces.
        let (head, fields) = stat.rsplit_once(')')?;
        let (id, name) = head.split_once('(')?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        // The fields of proc(5) from the third one on.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let nanoseconds = schedstat.and_then(|text| text.split_whitespace().next()?.parse().ok());
        let time = match nanoseconds {
            Some(nanoseconds) => Duration::from_nanos(nanoseconds),
            // In ticks of 10 ms.
            None => Duration::from_millis(field(14)?.saturating_add(field(15)?).saturating_mul(10)),
        };
        Some(Self {
            id: id.trim().parse().ok()?,
            name: name.to_owned(),
            core: field(39)? as usize,
            time,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::tests::unpack;

    fn stat(id: u32, name: &str, ticks: u64, core: usize) -> String {
        let zeros = |count| "0 ".repeat(count);
        format!(
            "{id} ({name}) R {}{ticks} 0 {}{core} {}",
            zeros(10),
            zeros(23),
            zeros(10)
        )
    }

    #[test]
    fn a_name_may_hold_anything() {
        let look = Look::parse(&stat(7, "a) (b", 5, 3), None).unwrap();
        assert_eq!((look.id, &*look.name, look.core), (7, "a) (b", 3));
        assert_eq!(look.time, Duration::from_millis(50));
        let fine = Look::parse(&stat(7, "x", 5, 3), Some("1234 5 6\n")).unwrap();
        assert_eq!(fine.time, Duration::from_nanos(1234));
        assert_eq!(Look::parse("", None), None);
        assert_eq!(Look::parse("1 (x) R 0", None), None);
    }

    #[test]
    fn what_ran_on_the_core_has_a_name_and_a_time() {
        let task = |id: u32, name: &str, ticks: u64, core: usize| {
            format!(
                "\n== proc/{id}/task/{id}/stat\n{}",
                stat(id, name, ticks, core)
            )
        };
        let first = [
            task(1, "hash", 100, 1),
            task(2, "build", 10, 1),
            task(3, "far", 0, 0),
        ];
        let second = [
            task(1, "hash", 200, 1),
            task(2, "build", 17, 1),
            task(3, "far", 50, 0),
            // Started between the samples.
            task(4, "build", 3, 1),
        ];
        let (first, second) = (unpack(&first.concat()), unpack(&second.concat()));
        let mut watch = Watch::new(first.path(), 1);
        watch.except(1);
        let second_long = Duration::from_secs(1);
        watch.look_after(Duration::ZERO);
        assert!(watch.seen().is_empty());
        watch.root = second.path().to_owned();
        watch.look_after(second_long);
        watch.look_after(second_long);
        assert_eq!(watch.watched(), 2 * second_long);
        let expected = [("build".to_owned(), Duration::from_millis(100))];
        assert_eq!(watch.seen(), expected);
        // No thread can run longer than the elapsed time.
        let mut hasty = Watch::new(first.path(), 1);
        hasty.look_after(Duration::ZERO);
        hasty.root = second.path().to_owned();
        hasty.look_after(Duration::from_millis(20));
        let seen = hasty.seen();
        assert_eq!(seen[0].1, Duration::from_millis(40));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_program_is_seen_on_its_core() {
        let core = crate::affinity::allowed()[0];
        let mut watch = Watch::new(Path::new("/"), core);
        watch.look();
        crate::affinity::on_cores(&[core], || {
            let start = std::time::Instant::now();
            while start.elapsed() < Duration::from_millis(30) {
                std::hint::spin_loop();
            }
            watch.look();
        })
        .unwrap();
        assert!(!watch.seen().is_empty());
    }
}

//! What the kernel tells about a machine: a pure reader of `/proc` and `/sys`.
//!
//! Every reader takes the root of the file system, so that trees of other machines can be tested.
//! What a machine does not show is absent from the report, never guessed.

use std::collections::BTreeSet;
use std::path::Path;
use std::{fs, io};

use serde::{Deserialize, Serialize};

/// A machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The name of the CPU.
    pub model: String,
    /// The microarchitecture, where the hardware bound is known for it.
    pub microarchitecture: Option<String>,
    /// The CPU features that kernels use.
    pub features: Vec<String>,
    /// The release of the kernel.
    pub kernel: String,
    /// Which hypervisor this is a guest of; `unknown` if only that there is one is known.
    pub hypervisor: Option<String>,
    /// Whether simultaneous multithreading is on.
    pub smt: Option<bool>,
    /// Whether clocks above the nominal one are allowed.
    pub turbo: Option<bool>,
    /// The file that switches it, below `/sys/devices/system/cpu`.
    pub turbo_switch: Option<String>,
    /// Cores that the scheduler leaves alone (`isolcpus`).
    pub isolated: Vec<usize>,
    /// Cores without a periodic timer tick (`nohz_full`).
    pub nohz_full: Vec<usize>,
    /// Whether the NMI watchdog interrupts every core.
    pub nmi_watchdog: Option<bool>,
    /// The cores that the control group of this process may use up in CPU time, if limited.
    pub cpu_quota: Option<f64>,
    /// Share of the time since boot that the hypervisor gave to others.
    pub steal: Option<f64>,
    /// The cores that exist, in the order of their numbers.
    pub cores: Vec<Core>,
}

/// A core, as the operating system counts them (a hardware thread).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Core {
    /// Its number.
    pub id: usize,
    /// Whether it is switched on.
    pub online: bool,
    /// The socket that it is in.
    pub package: Option<usize>,
    /// Other cores that share its execution units.
    pub siblings: Vec<usize>,
    /// `performance` or `efficiency`, on CPUs that have both.
    pub kind: Option<String>,
    /// How far the firmware thinks that it can go, relative to the other cores.
    pub preference: Option<u64>,
    /// The policy that sets its clock.
    pub governor: Option<String>,
    /// The highest clock, in Hz.
    pub max_hz: Option<u64>,
    /// The clock without turbo, in Hz.
    pub base_hz: Option<u64>,
    /// Its caches.
    pub caches: Vec<Cache>,
    /// Its idle states.
    pub idle_states: Vec<IdleState>,
    /// Interrupts of devices that it has served since boot.
    pub device_interrupts: Option<u64>,
}

/// A cache.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cache {
    /// 1 is next to the core.
    pub level: u64,
    /// `Data`, `Instruction` or `Unified`.
    pub kind: String,
    /// Its size, as the kernel writes it: `32K`.
    pub size: String,
    /// How many cores share it.
    pub shared_by: usize,
}

/// A state in which an idle core sleeps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IdleState {
    /// Its name.
    pub name: String,
    /// How long it takes to wake up, in microseconds.
    pub latency_us: u64,
    /// Whether it is in use.
    pub enabled: bool,
}

/// CPU features worth telling: those that kernels ask for.
const FEATURES: [&str; 11] = [
    "sha_ni", "sha2", "aes", "vaes", "ssse3", "sse4_1", "avx", "avx2", "avx512f", "avx512bw",
    "avx512vl",
];

impl Machine {
    /// Reads the machine whose file system has its root at `root`.
    #[must_use]
    pub fn read(root: &Path) -> Self {
        let cpuinfo = text(root, "proc/cpuinfo").unwrap_or_default();
        let cpu = "sys/devices/system/cpu";
        let list = |path: &str| text(root, path).map(|text| parse_list(&text));
        let online = list(&format!("{cpu}/online"));
        let present = list(&format!("{cpu}/present"))
            .or_else(|| online.clone())
            .unwrap_or_else(|| processors(&cpuinfo));
        let kinds = [("performance", "cpu_core"), ("efficiency", "cpu_atom")]
            .map(|(kind, device)| (kind, list(&format!("sys/devices/{device}/cpus"))));
        let interrupts = text(root, "proc/interrupts").map(|text| device_interrupts(&text));
        let cores = present.iter().map(|&id| {
            let mut core = read_core(root, id);
            core.online = online.as_ref().is_none_or(|online| online.contains(&id));
            core.kind = kinds.iter().find_map(|(kind, cores)| {
                let member = cores.as_ref()?.contains(&id);
                member.then(|| (*kind).to_owned())
            });
            core.device_interrupts = interrupts
                .as_ref()
                .and_then(|counts| counts.iter().find(|(core, _)| *core == id))
                .map(|(_, count)| *count);
            core
        });
        let cores: Vec<Core> = cores.collect();
        let flags = field(&cpuinfo, "flags")
            .or_else(|| field(&cpuinfo, "Features"))
            .unwrap_or_default();
        let flags: BTreeSet<&str> = flags.split_whitespace().collect();
        let features = FEATURES.iter().filter(|name| flags.contains(*name));
        let turbo = turbo(root);
        Self {
            model: field(&cpuinfo, "model name")
                .filter(|name| !name.is_empty())
                .unwrap_or("a CPU without a name")
                .to_owned(),
            microarchitecture: microarchitecture(&cpuinfo, &flags).map(str::to_owned),
            features: features.map(|name| (*name).to_owned()).collect(),
            kernel: text(root, "proc/sys/kernel/osrelease").unwrap_or_else(|| "unknown".into()),
            hypervisor: hypervisor(root, &flags),
            smt: number(root, &format!("{cpu}/smt/active")).map(|active| active == 1),
            turbo: turbo.map(|(_, on)| on),
            turbo_switch: turbo.map(|(file, _)| file.to_owned()),
            isolated: list(&format!("{cpu}/isolated")).unwrap_or_default(),
            nohz_full: list(&format!("{cpu}/nohz_full")).unwrap_or_default(),
            nmi_watchdog: number(root, "proc/sys/kernel/nmi_watchdog").map(|on| on == 1),
            cpu_quota: text(root, "sys/fs/cgroup/cpu.max").and_then(|text| parse_quota(&text)),
            steal: CpuTimes::read(root, None).and_then(|times| times.steal_share()),
            cores,
        }
    }

    /// The core with this number.
    #[must_use]
    pub fn core(&self, id: usize) -> Option<&Core> {
        self.cores.iter().find(|core| core.id == id)
    }

    /// The governors in use.
    #[must_use]
    pub fn governors(&self) -> BTreeSet<&str> {
        let governors = self
            .cores
            .iter()
            .filter_map(|core| core.governor.as_deref());
        governors.collect()
    }

    /// Whether the firmware prefers this core to others.
    #[must_use]
    pub fn is_favoured(&self, id: usize) -> bool {
        let preferences = || self.cores.iter().filter_map(|core| core.preference);
        match (preferences().min(), preferences().max()) {
            (Some(least), Some(most)) if least < most => {
                self.core(id).and_then(|core| core.preference) == Some(most)
            }
            _ => false,
        }
    }

    /// The bound of the instruction set for a chain of SHA-256 on the core, in cycles a hash; it is
    /// known for few CPUs.
    #[must_use]
    pub fn sha256_bound(&self, core: usize) -> Option<f64> {
        let efficiency = self.core(core)?.kind.as_deref() == Some("efficiency");
        (self.microarchitecture.is_some() && !efficiency).then_some(GOLDEN_COVE_CYCLES)
    }
}

/// 31 steps of two rounds at 4 cycles each, and 7 for the last with the way to the next hash.
const GOLDEN_COVE_CYCLES: f64 = 131.0;

/// Golden Cove by the model number, or, where a hypervisor shows a wrong one, by AMX together with
/// AVX512-FP16, which came with it (AMX-FP16 came with its successor).
fn microarchitecture(cpuinfo: &str, flags: &BTreeSet<&str>) -> Option<&'static str> {
    let is = |name, value| field(cpuinfo, name) == Some(value);
    let model = field(cpuinfo, "model")?.parse().ok()?;
    // Sapphire Rapids, Emerald Rapids, Alder Lake (two).
    let known = matches!(model, 0x8f | 0xcf | 0x97 | 0x9a);
    let features =
        flags.contains("amx_tile") && flags.contains("avx512_fp16") && !flags.contains("amx_fp16");
    let intel = is("vendor_id", "GenuineIntel") && is("cpu family", "6");
    (intel && (known || features)).then_some("Golden Cove")
}

fn read_core(root: &Path, id: usize) -> Core {
    let base = format!("sys/devices/system/cpu/cpu{id}");
    let text = |path: &str| text(root, &format!("{base}/{path}"));
    let number = |path: &str| number(root, &format!("{base}/{path}"));
    let siblings = text("topology/thread_siblings_list").map(|text| parse_list(&text));
    let siblings = siblings.unwrap_or_default().into_iter();
    let indices = numbered(root, &format!("{base}/cache"), "index");
    let caches = indices.into_iter().filter_map(|index| {
        let text = |name: &str| text(&format!("cache/index{index}/{name}"));
        Some(Cache {
            level: text("level")?.parse().ok()?,
            kind: text("type")?,
            size: text("size")?,
            shared_by: parse_list(&text("shared_cpu_list")?).len(),
        })
    });
    let states = numbered(root, &format!("{base}/cpuidle"), "state");
    let idle_states = states.into_iter().filter_map(|state| {
        let state = format!("cpuidle/state{state}");
        Some(IdleState {
            name: text(&format!("{state}/name"))?,
            latency_us: number(&format!("{state}/latency"))?,
            enabled: number(&format!("{state}/disable")).unwrap_or(0) == 0,
        })
    });
    Core {
        id,
        online: true,
        package: number("topology/physical_package_id").map(|package| package as usize),
        siblings: siblings.filter(|sibling| *sibling != id).collect(),
        kind: None,
        preference: number("cpufreq/amd_pstate_prefcore_ranking")
            .or_else(|| number("acpi_cppc/highest_perf")),
        governor: text("cpufreq/scaling_governor"),
        max_hz: number("cpufreq/cpuinfo_max_freq").map(|khz| khz * 1000),
        base_hz: number("cpufreq/base_frequency").map(|khz| khz * 1000),
        caches: caches.collect(),
        idle_states: idle_states.collect(),
        device_interrupts: None,
    }
}

/// The switch, and whether turbo is on.
fn turbo(root: &Path) -> Option<(&'static str, bool)> {
    // The value that allows turbo.
    let switches = [("intel_pstate/no_turbo", 0), ("cpufreq/boost", 1)];
    switches.into_iter().find_map(|(file, on)| {
        let value = number(root, &format!("sys/devices/system/cpu/{file}"))?;
        Some((file, value == on))
    })
}

/// A CPU says that there is a hypervisor; the clocks and the firmware that it offers say which.
fn hypervisor(root: &Path, flags: &BTreeSet<&str>) -> Option<String> {
    if let Some(kind) = text(root, "sys/hypervisor/type") {
        return Some(kind);
    }
    if !flags.contains("hypervisor") {
        return None;
    }
    let clocks = "sys/devices/system/clocksource/clocksource0/available_clocksource";
    let clocks = text(root, clocks).unwrap_or_default();
    let by_clock = [("kvm-clock", "KVM"), ("hyperv", "Hyper-V"), ("xen", "Xen")]
        .into_iter()
        .find(|(clock, _)| clocks.contains(clock));
    let vendor = || text(root, "sys/class/dmi/id/sys_vendor").filter(|vendor| !vendor.is_empty());
    Some(match by_clock {
        Some((_, name)) => name.to_owned(),
        None => vendor().unwrap_or_else(|| "unknown".into()),
    })
}

/// How the time of a core, or of all together, was spent since boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuTimes {
    total: u64,
    steal: u64,
}

impl CpuTimes {
    /// Reads the times of a core, or of all.
    #[must_use]
    pub fn read(root: &Path, core: Option<usize>) -> Option<Self> {
        let name = core.map_or_else(|| "cpu".to_owned(), |id| format!("cpu{id}"));
        let stat = text(root, "proc/stat")?;
        let mut words = stat
            .lines()
            .map(str::split_whitespace)
            .find_map(|mut words| (words.next()? == name).then_some(words))?;
        // user nice system idle iowait irq softirq steal; guest time is part of user time.
        let mut times = [0_u64; 8];
        for time in &mut times {
            *time = words.next()?.parse().ok()?;
        }
        Some(Self {
            total: times.iter().sum(),
            steal: times[7],
        })
    }

    /// The share of time that a hypervisor gave to others; nothing if no time has passed.
    #[must_use]
    pub fn steal_share(self) -> Option<f64> {
        (self.total > 0).then(|| self.steal as f64 / self.total as f64)
    }

    /// What passed since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            total: self.total.saturating_sub(earlier.total),
            steal: self.steal.saturating_sub(earlier.steal),
        }
    }
}

/// The highest temperature that the machine shows, in degrees Celsius: of the CPU, where a sensor
/// says that it is one.
#[must_use]
pub fn temperature(root: &Path) -> Option<f64> {
    let hwmon = numbered(root, "sys/class/hwmon", "hwmon").into_iter();
    let of_cpu = hwmon.filter_map(|index| {
        let base = format!("sys/class/hwmon/hwmon{index}");
        let name = text(root, &format!("{base}/name"))?;
        let is_cpu = ["coretemp", "k10temp", "zenpower", "cpu_thermal"].contains(&name.as_str());
        is_cpu.then(|| {
            let files = fs::read_dir(root.join(&base))
                .into_iter()
                .flatten()
                .flatten();
            let inputs = files.filter_map(|file| file.file_name().into_string().ok());
            inputs
                .filter(|file| file.starts_with("temp") && file.ends_with("_input"))
                .filter_map(|file| number(root, &format!("{base}/{file}")))
                .max()
        })?
    });
    let zones = || {
        let zones = numbered(root, "sys/class/thermal", "thermal_zone").into_iter();
        let zone = |zone| number(root, &format!("sys/class/thermal/thermal_zone{zone}/temp"));
        zones.filter_map(zone).max()
    };
    of_cpu.max().or_else(zones).map(|milli| milli as f64 / 1e3)
}

/// The clock of a core as the kernel sees it, in Hz.
#[must_use]
pub fn frequency(root: &Path, core: usize) -> Option<f64> {
    let path = format!("sys/devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq");
    number(root, &path).map(|khz| khz as f64 * 1e3)
}

/// The trimmed content of a file; nothing if it cannot be read.
fn text(root: &Path, path: &str) -> Option<String> {
    let text: io::Result<String> = fs::read_to_string(root.join(path));
    Some(text.ok()?.trim().to_owned())
}

fn number(root: &Path, path: &str) -> Option<u64> {
    text(root, path)?.parse().ok()
}

/// The numbers n for which `folder` has an entry of the name `prefix` followed by n, in order.
fn numbered(root: &Path, folder: &str, prefix: &str) -> Vec<usize> {
    let entries = fs::read_dir(root.join(folder))
        .into_iter()
        .flatten()
        .flatten();
    let number = |name: String| name.strip_prefix(prefix)?.parse().ok();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut numbers: Vec<usize> = names.filter_map(number).collect();
    numbers.sort_unstable();
    numbers
}

/// The first value of a field of `/proc/cpuinfo`.
fn field<'a>(cpuinfo: &'a str, name: &str) -> Option<&'a str> {
    let mut fields = cpuinfo.lines().filter_map(|line| line.split_once(':'));
    fields.find_map(|(key, value)| (key.trim() == name).then_some(value.trim()))
}

fn processors(cpuinfo: &str) -> Vec<usize> {
    let fields = cpuinfo.lines().filter_map(|line| line.split_once(':'));
    let processors = fields.filter(|(key, _)| key.trim() == "processor");
    processors
        .filter_map(|(_, id)| id.trim().parse().ok())
        .collect()
}

/// Lists of the kernel: `0-3,8,10-11`. What is not one is left out.
fn parse_list(text: &str) -> Vec<usize> {
    let mut numbers = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.trim().parse(), last.trim().parse::<usize>()) {
            numbers.extend(first..=last);
        }
    }
    numbers
}

/// `cpu.max` of a control group: `max 100000`, or time and period.
fn parse_quota(text: &str) -> Option<f64> {
    let (quota, period) = text.split_once(' ')?;
    let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
    (period > 0.0).then(|| quota / period)
}

/// For each core the interrupts with a number: those of devices. The others have names.
fn device_interrupts(text: &str) -> Vec<(usize, u64)> {
    let mut lines = text.lines();
    let header = lines.next().unwrap_or_default().split_whitespace();
    let cores = header.filter_map(|name| name.strip_prefix("CPU")?.parse().ok());
    let mut counts: Vec<(usize, u64)> = cores.map(|core| (core, 0)).collect();
    for line in lines {
        let Some((name, columns)) = line.split_once(':') else {
            continue;
        };
        if name.trim().parse::<u32>().is_err() {
            continue;
        }
        for ((_, sum), count) in counts.iter_mut().zip(columns.split_whitespace()) {
            *sum += count.parse().unwrap_or(0);
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Unpacks a tree: after `== path` comes the content of the file. A range `{0-3}` in a path
    /// stands for one file for each number.
    fn unpack(tree: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for file in tree.split("\n== ").skip(1) {
            let (path, content) = file.split_once('\n').unwrap();
            let paths = match path.split_once('{') {
                None => vec![path.to_owned()],
                Some((before, after)) => {
                    let (range, after) = after.split_once('}').unwrap();
                    let name = |number| format!("{before}{number}{after}");
                    parse_list(range).into_iter().map(name).collect()
                }
            };
            for path in paths {
                let path = root.path().join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, content).unwrap();
            }
        }
        root
    }

    #[test]
    fn desktop_of_amd() {
        let root = unpack(include_str!("../fixtures/amd-desktop.txt"));
        let machine = Machine::read(root.path());
        assert_eq!(machine.model, "AMD Ryzen 5 7600 6-Core Processor");
        assert_eq!(machine.microarchitecture, None);
        assert_eq!(machine.kernel, "6.8.0-45-generic");
        assert_eq!(machine.hypervisor, None);
        assert_eq!(machine.smt, Some(true));
        assert_eq!(machine.turbo, Some(true));
        assert_eq!(machine.isolated, [5, 11]);
        assert_eq!(machine.nohz_full, [5, 11]);
        assert_eq!(machine.nmi_watchdog, Some(true));
        assert_eq!(machine.cpu_quota, None);
        assert_eq!(machine.steal, Some(0.0));
        assert_eq!(machine.cores.len(), 12);
        assert_eq!(machine.features.first().map(String::as_str), Some("sha_ni"));
        assert_eq!(
            machine.governors().into_iter().collect::<Vec<_>>(),
            ["powersave"]
        );
        let core = machine.core(3).unwrap();
        assert!(core.online);
        assert_eq!(core.siblings, [9]);
        assert_eq!(core.max_hz, Some(5_170_000_000));
        assert_eq!(core.kind, None);
        assert_eq!(core.device_interrupts, Some(7));
        assert_eq!(core.idle_states.len(), 3);
        assert!(core.idle_states[2].enabled);
        assert_eq!(core.idle_states[2].latency_us, 350);
        assert_eq!(core.caches.len(), 2);
        assert_eq!(core.caches[1].size, "32768K");
        assert_eq!(core.caches[1].shared_by, 12);
        assert!(machine.is_favoured(2));
        assert!(!machine.is_favoured(3));
        assert!(machine.core(12).is_none());
        assert_eq!(temperature(root.path()), Some(61.875));
        assert_eq!(frequency(root.path(), 3), Some(5_050_000_000.0));
        assert_eq!(machine.sha256_bound(3), None);
    }

    #[test]
    fn laptop_with_two_kinds_of_cores() {
        let root = unpack(include_str!("../fixtures/intel-hybrid-laptop.txt"));
        let machine = Machine::read(root.path());
        assert_eq!(machine.model, "12th Gen Intel(R) Core(TM) i5-1240P");
        assert_eq!(machine.microarchitecture.as_deref(), Some("Golden Cove"));
        assert_eq!(machine.turbo, Some(false));
        let kind = |id| machine.core(id).unwrap().kind.as_deref();
        assert_eq!(kind(0), Some("performance"));
        assert_eq!(kind(15), Some("efficiency"));
        assert_eq!(machine.sha256_bound(0), Some(131.0));
        assert_eq!(machine.sha256_bound(15), None);
        assert_eq!(machine.core(0).unwrap().siblings, [1]);
        assert!(machine.core(15).unwrap().siblings.is_empty());
        assert!(!machine.core(14).unwrap().online);
        assert_eq!(machine.core(0).unwrap().base_hz, Some(2_100_000_000));
        assert!(machine.is_favoured(4));
        assert!(!machine.is_favoured(0));
        assert_eq!(temperature(root.path()), Some(58.0));
        assert_eq!(machine.cpu_quota, Some(1.5));
    }

    #[test]
    fn guest_of_kvm() {
        let root = unpack(include_str!("../fixtures/kvm-guest.txt"));
        let machine = Machine::read(root.path());
        assert_eq!(machine.hypervisor.as_deref(), Some("KVM"));
        assert_eq!(machine.microarchitecture.as_deref(), Some("Golden Cove"));
        assert_eq!(machine.smt, Some(false));
        assert_eq!(machine.turbo, None);
        assert!(machine.governors().is_empty());
        assert_eq!(machine.steal, Some(0.125));
        assert_eq!(machine.cores.len(), 2);
        assert!(!machine.is_favoured(0));
        assert_eq!(temperature(root.path()), None);
        assert_eq!(frequency(root.path(), 0), None);
        let core = CpuTimes::read(root.path(), Some(1)).unwrap();
        assert_eq!(core.steal_share(), Some(0.25));
        assert_eq!(core.since(core).steal_share(), None);
        assert_eq!(CpuTimes::read(root.path(), Some(2)), None);
    }

    #[test]
    fn nothing_to_read() {
        let root = tempfile::tempdir().unwrap();
        let machine = Machine::read(root.path());
        assert_eq!(machine.model, "a CPU without a name");
        assert!(machine.cores.is_empty());
        assert_eq!(machine.steal, None);
    }

    #[test]
    fn lists() {
        assert_eq!(parse_list("0-2,5\n"), [0, 1, 2, 5]);
        assert!(parse_list("").is_empty());
        assert!(parse_list("(null)").is_empty());
        assert_eq!(parse_quota("max 100000"), None);
        assert_eq!(parse_quota("50000 100000"), Some(0.5));
    }
}

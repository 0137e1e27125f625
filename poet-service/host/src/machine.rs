//! The properties of a machine that do not change while it runs.

use std::{collections::BTreeSet, path::Path};

use serde::{Deserialize, Serialize};

use crate::{
    interrupts::Interrupts,
    limits,
    read::{number, numbered, parse_list, text},
    sensors::CpuTimes,
};

/// A machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The machine's host name.
    pub hostname: Option<String>,
    /// The name of the CPU.
    pub model: String,
    /// The microarchitecture of the fast cores, if known.
    pub microarchitecture: Option<String>,
    /// The CPU features that kernels use.
    pub features: Vec<String>,
    /// The release of the kernel.
    pub kernel: String,
    /// The hypervisor of which this is a guest; `unknown` if it cannot be identified.
    pub hypervisor: Option<String>,
    /// Whether simultaneous multithreading is on.
    pub smt: Option<bool>,
    /// Whether clocks above the nominal one are allowed.
    pub turbo: Option<bool>,
    /// The file that switches turbo, below `/sys/devices/system/cpu`.
    pub turbo_switch: Option<String>,
    /// Cores that the scheduler leaves alone (`isolcpus`).
    pub isolated: Vec<usize>,
    /// Cores without a periodic timer tick (`nohz_full`).
    pub nohz_full: Vec<usize>,
    /// Whether the NMI watchdog interrupts every core.
    pub nmi_watchdog: Option<bool>,
    /// The limit on this process's CPU time from its control group, in cores.
    pub cpu_quota: Option<f64>,
    /// The control group that sets this limit.
    pub cpu_quota_group: Option<String>,
    /// The cores that the control group of this process may use, if reported.
    pub cpu_set: Option<Vec<usize>>,
    /// The container in which this process runs; `unknown` if it cannot be identified.
    pub container: Option<String>,
    /// How the kernel is booted, if that can be detected.
    pub boot_loader: Option<BootLoader>,
    /// The share of the time since boot that the hypervisor gave to others.
    pub steal: Option<f64>,
    /// The existing cores, in the order of their numbers.
    pub cores: Vec<Core>,
}

/// What boots the kernel, and so how its command line is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BootLoader {
    /// GRUB, with `update-grub`.
    GrubDebian,
    /// GRUB, with `grubby` for its entries.
    GrubFedora,
    /// GRUB, with `grub-mkconfig`.
    Grub,
    /// systemd-boot, with the command line in `/etc/kernel/cmdline`.
    SystemdBoot,
}

/// A core as the operating system counts it (a hardware thread).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Core {
    /// The core's number.
    pub id: usize,
    /// Whether the core is online.
    pub online: bool,
    /// The socket that contains it.
    pub package: Option<usize>,
    /// Other cores that share its execution units.
    pub siblings: Vec<usize>,
    /// `performance` or `efficiency`, on CPUs that have both.
    pub kind: Option<String>,
    /// The core's performance relative to the other cores, according to the firmware.
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
    /// The device interrupts it has served since boot.
    pub device_interrupts: Option<u64>,
}

/// A cache.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cache {
    /// 1 is closest to the core.
    pub level: u64,
    /// `Data`, `Instruction` or `Unified`.
    pub kind: String,
    /// The size in the kernel's format: `32K`.
    pub size: String,
    /// The number of cores that share it.
    pub shared_by: usize,
}

/// An idle state of a core.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IdleState {
    /// Its name.
    pub name: String,
    /// The time to wake up, in microseconds.
    pub latency_us: u64,
    /// Whether it is enabled.
    pub enabled: bool,
}

/// The CPU features to report: those that kernels use.
const FEATURES: [&str; 11] = [
    "sha_ni", "sha2", "aes", "vaes", "ssse3", "sse4_1", "avx", "avx2", "avx512f", "avx512bw",
    "avx512vl",
];

/// Returns the name of the machine whose file system has its root at `root`.
#[must_use]
pub fn hostname(root: &Path) -> Option<String> {
    text(root, "proc/sys/kernel/hostname").filter(|name| !name.is_empty())
}

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
        let interrupts = Interrupts::read(root);
        let cores = present.iter().map(|&id| {
            let mut core = read_core(root, id);
            core.online = online.as_ref().is_none_or(|online| online.contains(&id));
            core.kind = kinds.iter().find_map(|(kind, cores)| {
                let member = cores.as_ref()?.contains(&id);
                member.then(|| (*kind).to_owned())
            });
            core.device_interrupts = interrupts.as_ref().and_then(|all| all.of_devices(id));
            core
        });
        let cores: Vec<Core> = cores.collect();
        let flags = field(&cpuinfo, "flags")
            .or_else(|| field(&cpuinfo, "Features"))
            .unwrap_or_default();
        let flags: BTreeSet<&str> = flags.split_whitespace().collect();
        let features = FEATURES.iter().filter(|name| flags.contains(*name));
        let turbo = turbo(root);
        let quota = limits::cpu_quota(root);
        Self {
            hostname: hostname(root),
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
            cpu_quota: quota.as_ref().map(|quota| quota.cores),
            cpu_quota_group: quota.map(|quota| quota.group),
            cpu_set: limits::cpu_set(root),
            container: limits::container(root),
            boot_loader: boot_loader(root),
            steal: CpuTimes::read(root, None).and_then(|times| times.steal_share()),
            cores,
        }
    }

    /// Returns the core with this number.
    #[must_use]
    pub fn core(&self, id: usize) -> Option<&Core> {
        self.cores.iter().find(|core| core.id == id)
    }

    /// Returns the governors in use.
    #[must_use]
    pub fn governors(&self) -> BTreeSet<&str> {
        let governors = self
            .cores
            .iter()
            .filter_map(|core| core.governor.as_deref());
        governors.collect()
    }

    /// Returns whether the firmware prefers this core to others.
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
}

/// Identifies the microarchitecture by vendor, family and model. A hypervisor may report a wrong
/// model, but hardly features that do not exist: AMX together with AVX512-FP16 came with Golden
/// Cove (and AMX-FP16 with its successor).
fn microarchitecture(cpuinfo: &str, flags: &BTreeSet<&str>) -> Option<&'static str> {
    let number = |name| field(cpuinfo, name)?.parse::<u32>().ok();
    let (family, model) = (number("cpu family")?, number("model")?);
    match (field(cpuinfo, "vendor_id")?, family) {
        ("GenuineIntel", 6) => {
            let has = |name| flags.contains(name);
            if has("amx_tile") && has("avx512_fp16") && !has("amx_fp16") {
                return Some("Golden Cove");
            }
            match model {
                // Alder Lake, Sapphire Rapids; Raptor Lake and Emerald Rapids have the same core
                // with more cache.
                0x8f | 0x97 | 0x9a | 0xb7 | 0xba | 0xbf | 0xcf => Some("Golden Cove"),
                0x6a | 0x6c | 0x7d | 0x7e => Some("Sunny Cove"),
                0xa7 => Some("Cypress Cove"),
                0x8c | 0x8d => Some("Willow Cove"),
                _ => None,
            }
        }
        ("AuthenticAMD", 0x17) => Some(if model < 0x30 { "Zen" } else { "Zen 2" }),
        ("AuthenticAMD", 0x19) => Some(match model {
            0x10..=0x1f | 0x60..=0x7f | 0xa0..=0xaf => "Zen 4",
            _ => "Zen 3",
        }),
        ("AuthenticAMD", 0x1a) => Some("Zen 5"),
        _ => None,
    }
}

/// Detects how the kernel's command line is changed, by the files of the boot loaders.
fn boot_loader(root: &Path) -> Option<BootLoader> {
    let exists = |path: &str| root.join(path).exists();
    let systemd = [
        "boot/loader/loader.conf",
        "efi/loader/loader.conf",
        "boot/efi/loader/loader.conf",
    ];
    // Fedora keeps entries in the format of systemd-boot for GRUB, too.
    let grub = exists("boot/grub/grub.cfg") || exists("boot/grub2/grub.cfg");
    if systemd.iter().any(|path| exists(path)) && !grub {
        return Some(BootLoader::SystemdBoot);
    }
    if !grub && !exists("etc/default/grub") {
        return None;
    }
    let program = |name: &str| {
        ["usr/sbin", "usr/bin", "sbin"]
            .iter()
            .any(|folder| exists(&format!("{folder}/{name}")))
    };
    Some(if program("update-grub") {
        BootLoader::GrubDebian
    } else if program("grubby") {
        BootLoader::GrubFedora
    } else {
        BootLoader::Grub
    })
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

/// Returns the switch, and whether turbo is on.
fn turbo(root: &Path) -> Option<(&'static str, bool)> {
    // The value that allows turbo.
    let switches = [("intel_pstate/no_turbo", 0), ("cpufreq/boost", 1)];
    switches.into_iter().find_map(|(file, on)| {
        let value = number(root, &format!("sys/devices/system/cpu/{file}"))?;
        Some((file, value == on))
    })
}

/// Identifies the hypervisor: a CPU flag shows that there is one; its clocks and firmware show
/// which.
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

/// Returns the first value of a field of `/proc/cpuinfo`.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::tests::unpack;
    use crate::sensors::{frequency, temperature};

    #[test]
    fn desktop_of_amd() {
        let root = unpack(include_str!("../fixtures/amd-desktop.txt"));
        let machine = Machine::read(root.path());
        assert_eq!(machine.model, "AMD Ryzen 5 7600 6-Core Processor");
        assert_eq!(machine.microarchitecture.as_deref(), Some("Zen 4"));
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
        assert_eq!(machine.core(0).unwrap().siblings, [1]);
        assert!(machine.core(15).unwrap().siblings.is_empty());
        assert!(!machine.core(14).unwrap().online);
        assert_eq!(machine.core(0).unwrap().base_hz, Some(2_100_000_000));
        assert!(machine.is_favoured(4));
        assert!(!machine.is_favoured(0));
        assert_eq!(temperature(root.path()), Some(58.0));
        assert_eq!(machine.cpu_quota, Some(1.5));
        assert_eq!(machine.cpu_quota_group.as_deref(), Some("/user.slice"));
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
    fn boot_loaders() {
        let loader = |tree: &str| boot_loader(unpack(tree).path());
        assert_eq!(loader(""), None);
        let systemd = "\n== boot/loader/loader.conf\ndefault x";
        assert_eq!(loader(systemd), Some(BootLoader::SystemdBoot));
        let fedora = format!("{systemd}\n== boot/grub2/grub.cfg\n\n== usr/sbin/grubby\n");
        assert_eq!(loader(&fedora), Some(BootLoader::GrubFedora));
        let debian = "\n== etc/default/grub\n\n== usr/sbin/update-grub\n";
        assert_eq!(loader(debian), Some(BootLoader::GrubDebian));
        assert_eq!(loader("\n== etc/default/grub\n"), Some(BootLoader::Grub));
    }

    #[test]
    fn microarchitectures() {
        let known = |vendor: &str, family: u32, model: u32, flags: &[&str]| {
            let cpuinfo =
                format!("vendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: {model}\n");
            microarchitecture(&cpuinfo, &flags.iter().copied().collect())
        };
        assert_eq!(known("GenuineIntel", 6, 0xb7, &[]), Some("Golden Cove"));
        assert_eq!(known("GenuineIntel", 6, 0xa7, &[]), Some("Cypress Cove"));
        let features = ["amx_tile", "avx512_fp16"];
        assert_eq!(
            known("GenuineIntel", 6, 0xa7, &features),
            Some("Golden Cove")
        );
        let later = ["amx_tile", "avx512_fp16", "amx_fp16"];
        assert_eq!(known("GenuineIntel", 6, 0xad, &later), None);
        assert_eq!(known("AuthenticAMD", 0x17, 0x71, &[]), Some("Zen 2"));
        assert_eq!(known("AuthenticAMD", 0x19, 0x21, &[]), Some("Zen 3"));
        assert_eq!(known("AuthenticAMD", 0x19, 0x11, &[]), Some("Zen 4"));
        assert_eq!(known("AuthenticAMD", 0x1a, 0x44, &[]), Some("Zen 5"));
        assert_eq!(known("Other", 6, 0xb7, &[]), None);
    }
}

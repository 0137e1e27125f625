//! Values that change while a machine works: times, temperature, clock, energy.

use std::{fs, path::Path};

use crate::read::{number, numbered, text};

/// How a core, or all together, spent the time since boot.
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
            total: times.iter().fold(0, |sum, time| sum.saturating_add(*time)),
            steal: times[7],
        })
    }

    /// Returns the share of time that a hypervisor gave to others; `None` if no time has passed.
    #[must_use]
    pub fn steal_share(self) -> Option<f64> {
        (self.total > 0).then(|| self.steal as f64 / self.total as f64)
    }

    /// Returns the difference from `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            total: self.total.saturating_sub(earlier.total),
            steal: self.steal.saturating_sub(earlier.steal),
        }
    }
}

/// Returns the highest temperature reported, in degrees Celsius; that of the CPU if a sensor is
/// labelled so.
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

/// Returns the clock of a core according to the kernel, in Hz.
#[must_use]
pub fn frequency(root: &Path, core: usize) -> Option<f64> {
    let path = format!("sys/devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq");
    number(root, &path).map(|khz| khz as f64 * 1e3)
}

/// The energy counters of the CPU's packages (RAPL), which only root may read on most systems.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Energy {
    packages: Vec<Package>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Package {
    index: usize,
    microjoules: u64,
    /// The value at which the counter wraps.
    range: u64,
}

impl Energy {
    /// Reads the counters; `None` if there are none.
    #[must_use]
    pub fn read(root: &Path) -> Option<Self> {
        let folder = "sys/class/powercap";
        let packages = numbered(root, folder, "intel-rapl:").into_iter();
        let packages = packages.filter_map(|index| {
            let base = format!("{folder}/intel-rapl:{index}");
            let name = text(root, &format!("{base}/name"))?;
            name.starts_with("package").then_some(())?;
            Some(Package {
                index,
                microjoules: number(root, &format!("{base}/energy_uj"))?,
                range: number(root, &format!("{base}/max_energy_range_uj"))?,
            })
        });
        let packages: Vec<_> = packages.collect();
        (!packages.is_empty()).then_some(Self { packages })
    }

    /// Returns the joules that all packages used since `earlier`, which must be less than one wrap
    /// ago.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> f64 {
        let joules = self.packages.iter().filter_map(|now| {
            let before = earlier.packages.iter().find(|it| it.index == now.index)?;
            let taken = match now.microjoules.checked_sub(before.microjoules) {
                Some(taken) => taken,
                None => {
                    (now.range.saturating_sub(before.microjoules)).saturating_add(now.microjoules)
                }
            };
            Some(taken as f64 / 1e6)
        });
        joules.sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::tests::unpack;

    fn energy(first: u64, second: u64) -> Energy {
        let tree = format!(
            "
== sys/class/powercap/intel-rapl:0/name
package-0
== sys/class/powercap/intel-rapl:0/energy_uj
{first}
== sys/class/powercap/intel-rapl:0/max_energy_range_uj
1000000000
== sys/class/powercap/intel-rapl:1/name
package-1
== sys/class/powercap/intel-rapl:1/energy_uj
{second}
== sys/class/powercap/intel-rapl:1/max_energy_range_uj
1000000000
== sys/class/powercap/intel-rapl:2/name
psys
== sys/class/powercap/intel-rapl:0:0/name
core
"
        );
        Energy::read(unpack(&tree).path()).unwrap()
    }

    #[test]
    fn energy_of_all_packages_over_the_end_of_a_counter() {
        let before = energy(1_000_000, 999_000_000);
        let after = energy(3_500_000, 1_000_000);
        assert_eq!(after.since(&before), 4.5);
        assert_eq!(before.since(&before), 0.0);
        assert_eq!(Energy::read(Path::new("/nonexistent")), None);
    }
}

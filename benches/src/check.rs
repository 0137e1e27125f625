//! What on a machine costs ticks, and the commands that change it. Nothing is changed here.

use crate::report::{Endurance, Load};
use crate::sections::{list, percent};
use poet_host::{Core, Machine};

/// Something that costs ticks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is.
    pub what: String,
    /// What it costs, or why that is not known.
    pub gain: String,
    /// The command that changes it, or what else does.
    pub change: String,
}

/// What was measured for a check.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The core.
    pub core: usize,
    /// Its clock under load, in Hz.
    pub clock_hz: Option<f64>,
    /// A short run of the prover.
    pub run: Endurance,
    /// Share of that in which a hypervisor ran others.
    pub steal: Option<f64>,
    /// What load of the sibling does.
    pub sibling: Option<Load>,
}

const CPU: &str = "/sys/devices/system/cpu";

/// An idle state from which to wake takes longer is deep.
const DEEP_US: u64 = 20;

/// Releases before this no longer get corrections.
const OLD_KERNEL: (u32, u32) = (5, 10);

/// Less is not worth telling.
const SHARE: f64 = 0.001;

/// What costs ticks, and below that what could not be seen.
#[must_use]
pub fn findings(machine: &Machine, measured: &Measured) -> (Vec<Finding>, Vec<String>) {
    let unknown = Core::default();
    let core = machine.core(measured.core).unwrap_or(&unknown);
    let mut found = Vec::new();
    found.extend(clock(machine, core, measured));
    found.extend(isolation(machine, measured));
    found.extend(interruptions(machine, core, measured));
    found.extend(sibling(machine, core, measured));
    found.extend(hypervisor(machine, measured));
    found.extend(idle_states(core));
    found.extend(old_kernel(machine));
    let shown = [
        ("the governor", core.governor.is_some()),
        ("turbo", machine.turbo.is_some()),
        ("SMT", machine.smt.is_some()),
        ("idle states", !core.idle_states.is_empty()),
        ("the NMI watchdog", machine.nmi_watchdog.is_some()),
        (
            "the interrupts of devices",
            core.device_interrupts.is_some(),
        ),
    ];
    let hidden = shown.iter().filter(|(_, shown)| !shown);
    (found, hidden.map(|(what, _)| (*what).to_owned()).collect())
}

fn clock(machine: &Machine, core: &Core, measured: &Measured) -> Vec<Finding> {
    let gain = match (measured.clock_hz, core.max_hz) {
        (Some(now), Some(most)) if most as f64 > now => format!(
            "measured {:.2} GHz of at most {:.2}: up to {}",
            now / 1e9,
            most as f64 / 1e9,
            percent(most as f64 / now - 1.0)
        ),
        (Some(now), Some(_)) => {
            format!("none now: measured {:.2} GHz, the highest clock", now / 1e9)
        }
        _ => "not known: the machine does not show its highest clock".into(),
    };
    let governor = core
        .governor
        .as_deref()
        .filter(|governor| *governor != "performance");
    let governor = governor.map(|governor| Finding {
        what: format!(
            "The governor of core {} is {governor}, not performance.",
            core.id
        ),
        gain: gain.clone(),
        change: format!(
            "echo performance | sudo tee {CPU}/cpu{}/cpufreq/scaling_governor",
            core.id
        ),
    });
    let switch = machine
        .turbo_switch
        .as_deref()
        .filter(|_| machine.turbo == Some(false));
    let turbo = switch.map(|switch| Finding {
        what: "Turbo is off.".into(),
        gain,
        change: format!(
            "echo {} | sudo tee {CPU}/{switch}",
            u8::from(switch != "intel_pstate/no_turbo")
        ),
    });
    governor.into_iter().chain(turbo).collect()
}

fn lost(measured: &Measured) -> String {
    let (run, interruptions) = (&measured.run, &measured.run.interruptions);
    format!(
        "interruptions of more than a leaf took {} of {:.0} s ({} of them): at most that",
        percent(interruptions.lost_s / run.seconds),
        run.seconds,
        interruptions.count
    )
}

fn isolation(machine: &Machine, measured: &Measured) -> Option<Finding> {
    let core = measured.core;
    let missing: Vec<&str> = [
        ("isolated", &machine.isolated),
        ("nohz_full", &machine.nohz_full),
    ]
    .into_iter()
    .filter_map(|(name, cores)| (!cores.contains(&core)).then_some(name))
    .collect();
    if missing.is_empty() {
        return None;
    }
    let what = if machine.isolated.is_empty() {
        "No core is isolated: the scheduler runs other programs on any.".to_owned()
    } else if machine.isolated.contains(&core) {
        format!("Core {core} is isolated, but keeps its periodic timer tick.")
    } else {
        format!(
            "Core {core} is not isolated; isolated are {}.",
            list(&machine.isolated)
        )
    };
    Some(Finding {
        what,
        gain: lost(measured),
        change: format!(
            "add isolcpus=domain,managed_irq,{core} nohz_full={core} rcu_nocbs={core} to \
             GRUB_CMDLINE_LINUX in /etc/default/grub, then: sudo update-grub && sudo reboot"
        ),
    })
}

fn interruptions(machine: &Machine, core: &Core, measured: &Measured) -> Vec<Finding> {
    let mut found = Vec::new();
    let others = machine
        .cores
        .iter()
        .filter(|other| other.online && other.id != core.id);
    let others: Vec<String> = others.map(|other| other.id.to_string()).collect();
    let count = core.device_interrupts.filter(|count| *count > 0);
    if let Some(count) = count.filter(|_| !others.is_empty()) {
        found.push(Finding {
            what: format!(
                "Core {} has served {count} interrupts of devices since boot.",
                core.id
            ),
            gain: format!(
                "a part of the {} that interruptions took",
                percent(measured.run.interruptions.lost_s / measured.run.seconds)
            ),
            change: format!(
                "sudo systemctl stop irqbalance; for irq in /proc/irq/[0-9]*; do echo {} | \
                 sudo tee $irq/smp_affinity_list; done",
                others.join(",")
            ),
        });
    }
    if machine.nmi_watchdog == Some(true) {
        found.push(Finding {
            what: "The NMI watchdog interrupts every core, and takes a performance counter.".into(),
            gain: "not measured: every few seconds, far below 0.01 %".into(),
            change: "sudo sysctl kernel.nmi_watchdog=0".into(),
        });
    }
    if let Some(quota) = machine.cpu_quota {
        found.push(Finding {
            what: format!("The control group of this process may use {quota} cores in CPU time."),
            gain: "not measured: below 1 the hashing thread is stopped again and again; audit and \
                   log writer need their part, too"
                .into(),
            change:
                "raise the limit of the container, or: sudo systemctl set-property UNIT CPUQuota="
                    .into(),
        });
    }
    found
}

fn sibling(machine: &Machine, core: &Core, measured: &Measured) -> Option<Finding> {
    let sibling = core
        .siblings
        .first()
        .filter(|_| machine.smt != Some(false))?;
    let load = measured.sibling.as_ref();
    let gain = match load.and_then(|load| load.ratio.zip(load.hashes_per_s)) {
        Some((ratio, _)) if ratio < 1.0 => format!(
            "with the sibling busy the core makes {ratio:.3} of its rate: {}",
            percent(1.0 / ratio - 1.0)
        ),
        Some((ratio, _)) => format!("none measured: with the sibling busy the ratio is {ratio:.3}"),
        None => "not measured: this process may not run on the sibling".into(),
    };
    Some(Finding {
        what: format!(
            "Core {} shares its execution units with core {sibling}.",
            core.id
        ),
        gain,
        change: format!("echo 0 | sudo tee {CPU}/cpu{sibling}/online"),
    })
}

fn hypervisor(machine: &Machine, measured: &Measured) -> Option<Finding> {
    let name = machine.hypervisor.as_ref()?;
    let steal = match (measured.steal, machine.steal) {
        (Some(now), Some(ever)) if now >= SHARE || ever >= SHARE => format!(
            "it gave {} of the time of this run and {} since boot to others: that much",
            percent(now),
            percent(ever)
        ),
        (Some(_), Some(_)) => "it shows no time given to others".into(),
        _ => "not known: it does not show the time given to others".into(),
    };
    Some(Finding {
        what: format!("This is a guest of a hypervisor ({name})."),
        gain: steal,
        change: "a machine of its own, or on the host: virsh vcpupin GUEST VCPU HOST_CORE".into(),
    })
}

fn idle_states(core: &Core) -> Option<Finding> {
    let mut deep = core
        .idle_states
        .iter()
        .filter(|state| state.enabled && state.latency_us > DEEP_US);
    let state = deep.next()?;
    Some(Finding {
        what: format!(
            "Deep idle states are on: {} takes {} µs to wake up from.",
            state.name, state.latency_us
        ),
        gain: "not measured: the hashing core never sleeps, but what waits for it does; the sleep \
               of others may help its turbo, so measure both"
            .into(),
        change: format!("sudo cpupower idle-set -D {DEEP_US}   # back: sudo cpupower idle-set -E"),
    })
}

fn old_kernel(machine: &Machine) -> Option<Finding> {
    let mut numbers = machine
        .kernel
        .split(|c: char| !c.is_ascii_digit())
        .map(str::parse);
    let version = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    (version < OLD_KERNEL).then(|| Finding {
        what: format!("The kernel is old: {}.", machine.kernel),
        gain: "not measured: later ones drive clocks and keep cores free of ticks better".into(),
        change: "upgrade the distribution (or its kernel) and reboot".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;
    use poet_host::machine::IdleState;

    fn measured() -> Measured {
        Measured {
            core: 3,
            clock_hz: Some(2.0e9),
            run: sample().endurance.unwrap(),
            steal: Some(0.02),
            sibling: None,
        }
    }

    fn tuned() -> Machine {
        Machine {
            kernel: "6.8.0-45-generic".into(),
            smt: Some(false),
            turbo: Some(true),
            turbo_switch: Some("cpufreq/boost".into()),
            isolated: vec![3],
            nohz_full: vec![3],
            nmi_watchdog: Some(false),
            cores: vec![Core {
                id: 3,
                governor: Some("performance".into()),
                max_hz: Some(3_000_000_000),
                device_interrupts: Some(0),
                idle_states: vec![IdleState {
                    name: "C1".into(),
                    latency_us: 1,
                    enabled: true,
                }],
                ..Core::default()
            }],
            ..Machine::default()
        }
    }

    #[test]
    fn nothing_to_find() {
        assert_eq!(findings(&tuned(), &measured()), (vec![], vec![]));
    }

    #[test]
    fn everything_to_find() {
        let mut machine = tuned();
        machine.kernel = "4.19.0-27-amd64".into();
        machine.turbo = Some(false);
        machine.isolated = vec![];
        machine.nohz_full = vec![];
        machine.nmi_watchdog = Some(true);
        machine.cpu_quota = Some(0.5);
        machine.smt = Some(true);
        machine.hypervisor = Some("KVM".into());
        machine.steal = Some(0.01);
        machine.cores.push(Core {
            id: 5,
            online: true,
            ..Core::default()
        });
        let core = &mut machine.cores[0];
        core.governor = Some("powersave".into());
        core.siblings = vec![7];
        core.device_interrupts = Some(12);
        core.idle_states[0].latency_us = 350;
        let (found, hidden) = findings(&machine, &measured());
        assert!(hidden.is_empty());
        assert_eq!(found.len(), 10, "{found:#?}");
        assert!(
            found[0]
                .gain
                .contains("measured 2.00 GHz of at most 3.00: up to 50.00 %")
        );
        assert!(
            found[1]
                .change
                .starts_with("echo 1 | sudo tee /sys/devices/system/cpu/cpufreq/boost")
        );
        assert!(
            found
                .iter()
                .any(|f| f.gain.contains("2.00 % of the time of this run"))
        );
        assert!(found.iter().any(|f| f.change.contains("cpu7/online")));
    }

    #[test]
    fn what_is_hidden_is_named() {
        let (_, hidden) = findings(&Machine::default(), &measured());
        assert_eq!(hidden.len(), 6);
    }
}

//! What costs ticks on a machine, and the commands that change it. Changes nothing.

use crate::report::{Endurance, Load};
use crate::words::{list, or_none, percent};
use std::time::Duration;

use poet_host::limits::Throttling;
use poet_host::machine::BootLoader;
use poet_host::{Core, Machine};

/// Something that costs ticks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advice {
    /// The description.
    pub what: String,
    /// The cost, or why it is unknown.
    pub gain: String,
    /// The command that changes it, or another remedy.
    pub change: String,
}

/// The measurements of a check.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The core.
    pub core: usize,
    /// Its clock under load, in Hz.
    pub clock_hz: Option<f64>,
    /// A short run of the prover.
    pub run: Endurance,
    /// The share of that run in which a hypervisor ran others.
    pub steal: Option<f64>,
    /// The effect of load on the sibling.
    pub sibling: Option<Load>,
    /// Programs that ran on the core, and their times.
    pub programs: Vec<(String, Duration)>,
    /// How long they were watched.
    pub watched: Duration,
    /// The interrupts that the core served, by source, if the machine reports them.
    pub interrupts: Option<Vec<(String, u64)>>,
    /// How much the control group was stopped because it had used up its time.
    pub throttled: Option<Throttling>,
}

const CPU: &str = "/sys/devices/system/cpu";

/// A longer wake-up time makes an idle state deep.
const DEEP_US: u64 = 20;

/// Earlier releases no longer get corrections.
const OLD_KERNEL: (u32, u32) = (5, 10);

/// The most programs and interrupts to name.
const NAMES: usize = 6;

/// A smaller share is not mentioned.
const SHARE: f64 = 0.001;

/// Returns what costs ticks, and what could not be checked.
#[must_use]
pub fn advice(machine: &Machine, measured: &Measured) -> (Vec<Advice>, Vec<String>) {
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
        ("its cores", !machine.cores.is_empty()),
        ("the governor", core.governor.is_some()),
        ("turbo", machine.turbo.is_some()),
        ("SMT", machine.smt.is_some()),
        ("idle states", !core.idle_states.is_empty()),
        ("the NMI watchdog", machine.nmi_watchdog.is_some()),
        ("interrupts", measured.interrupts.is_some()),
    ];
    let hidden = shown.iter().filter(|(_, shown)| !shown);
    (found, hidden.map(|(what, _)| (*what).to_owned()).collect())
}

/// Returns the whole check as text.
#[must_use]
pub fn text(machine: &Machine, measured: &Measured) -> String {
    let (found, hidden) = advice(machine, measured);
    let mut text = format!("What costs ticks on core {}\n", measured.core);
    for (index, advice) in found.iter().enumerate() {
        let Advice { what, gain, change } = advice;
        let number = index + 1;
        text += &format!("\n{number}. {what}\n   gain    {gain}\n   change  {change}\n");
    }
    if found.is_empty() {
        text += "\nNothing that can be seen.\n";
    }
    text += &interrupted_by(measured);
    if !hidden.is_empty() {
        text += &format!("\nNot shown by this machine: {}.\n", hidden.join(", "));
    }
    text + "\nNothing has been changed. After a change, measure again and compare.\n"
}

/// Names what interrupted the core.
fn interrupted_by(measured: &Measured) -> String {
    let seconds = measured.run.seconds;
    let mut text = format!("\nOn core {} in {seconds:.0} s:\n", measured.core);
    let programs = measured.programs.iter().take(NAMES).map(|(name, time)| {
        let share = percent(time.as_secs_f64() / measured.watched.as_secs_f64().max(1e-9));
        format!("{} {share}", printable(name))
    });
    let programs: Vec<String> = programs.collect();
    text += &format!(
        "   programs    {}\n",
        or_none(&programs.join(", "), "none seen")
    );
    let interrupts = measured.interrupts.as_ref().map(|all| {
        let named = all.iter().take(NAMES);
        let named = named.map(|(name, count)| format!("{} {count}", printable(name)));
        or_none(&named.collect::<Vec<_>>().join(", "), "none")
    });
    text += &format!(
        "   interrupts  {}\n",
        interrupts.unwrap_or_else(|| "not shown".into())
    );
    text
}

/// Makes a program's name printable, whatever it contains.
fn printable(name: &str) -> String {
    let plain = |c: char| if c.is_control() { '?' } else { c };
    name.chars().take(60).map(plain).collect()
}

fn clock(machine: &Machine, core: &Core, measured: &Measured) -> Vec<Advice> {
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
    let governor = governor.map(|governor| Advice {
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
    let turbo = switch.map(|switch| Advice {
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

fn isolation(machine: &Machine, measured: &Measured) -> Option<Advice> {
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
    Some(Advice {
        what,
        gain: lost(measured),
        change: command_line(machine, core),
    })
}

/// Returns how to keep the system off a core from the start.
fn command_line(machine: &Machine, core: usize) -> String {
    let options = format!("isolcpus=domain,managed_irq,{core} nohz_full={core} rcu_nocbs={core}");
    if machine.container.is_some() {
        return format!(
            "on the host, not in this container: add {options} to the kernel's command line"
        );
    }
    match machine.boot_loader {
        Some(BootLoader::GrubDebian) => format!(
            "add {options} to GRUB_CMDLINE_LINUX in /etc/default/grub, then: sudo update-grub && \
             sudo reboot"
        ),
        Some(BootLoader::GrubFedora) => {
            format!("sudo grubby --update-kernel=ALL --args=\"{options}\" && sudo reboot")
        }
        Some(BootLoader::Grub) => format!(
            "add {options} to GRUB_CMDLINE_LINUX in /etc/default/grub, then: sudo grub-mkconfig -o \
             /boot/grub/grub.cfg && sudo reboot"
        ),
        Some(BootLoader::SystemdBoot) => format!(
            "add {options} to /etc/kernel/cmdline, then: sudo kernel-install add-all && sudo reboot \
             (or to the line options in /boot/loader/entries/*.conf)"
        ),
        None => format!(
            "add {options} to the kernel's command line (what starts it cannot be seen here) and reboot"
        ),
    }
}

fn interruptions(machine: &Machine, core: &Core, measured: &Measured) -> Vec<Advice> {
    let mut found = Vec::new();
    let others = machine
        .cores
        .iter()
        .filter(|other| other.online && other.id != core.id);
    let others: Vec<String> = others.map(|other| other.id.to_string()).collect();
    let count = core.device_interrupts.filter(|count| *count > 0);
    if let Some(count) = count.filter(|_| !others.is_empty()) {
        found.push(Advice {
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
        found.push(Advice {
            what: "The NMI watchdog interrupts every core, and takes a performance counter.".into(),
            gain: "not measured: every few seconds, far below 0.01 %".into(),
            change: "sudo sysctl kernel.nmi_watchdog=0".into(),
        });
    }
    if let Some(quota) = machine.cpu_quota {
        let group = machine.cpu_quota_group.as_deref().unwrap_or("/");
        let stopped = measured.throttled.map(|it| {
            format!(
                "; in {:.0} s it stopped threads for {:.2} s, in {} periods",
                measured.run.seconds, it.seconds, it.periods
            )
        });
        found.push(Advice {
            what: format!(
                "The control group {group} allows {quota} cores of CPU time{}.",
                if quota < 1.0 { ", less than the hashing thread uses" } else { "" }
            ),
            gain: format!(
                "below 1 the hashing thread is stopped again and again; audit and log writer need their \
                 part, too{}",
                stopped.unwrap_or_default()
            ),
            change: match (&machine.container, unit(group)) {
                (Some(container), _) => format!(
                    "on the host, raise the limit of this container ({container}): --cpus of docker and \
                     podman, resources.limits.cpu of Kubernetes"
                ),
                (None, Some(unit)) => {
                    format!("sudo systemctl set-property {unit} CPUQuota=")
                }
                (None, None) => format!("echo max | sudo tee /sys/fs/cgroup{group}/cpu.max"),
            },
        });
    }
    let allowed = machine.cpu_set.as_ref().filter(|cores| !cores.is_empty());
    let online = machine.cores.iter().filter(|core| core.online).count();
    if let Some(cores) = allowed.filter(|cores| cores.len() < online) {
        found.push(Advice {
            what: format!(
                "The control group allows cores {} only, {} of {online}.",
                list(cores),
                cores.len()
            ),
            gain: "not measured: a core that is not allowed may be faster".into(),
            change: match &machine.container {
                Some(_) => "on the host: --cpuset-cpus of docker and podman".into(),
                None => "sudo systemctl set-property UNIT AllowedCPUs=".into(),
            },
        });
    }
    found
}

/// Returns the systemd unit of this group.
fn unit(group: &str) -> Option<&str> {
    let name = group.rsplit('/').next()?;
    let is_unit = [".service", ".slice", ".scope"]
        .iter()
        .any(|kind| name.ends_with(kind));
    is_unit.then_some(name)
}

fn sibling(machine: &Machine, core: &Core, measured: &Measured) -> Option<Advice> {
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
    Some(Advice {
        what: format!(
            "Core {} shares its execution units with core {sibling}.",
            core.id
        ),
        gain,
        change: format!("echo 0 | sudo tee {CPU}/cpu{sibling}/online"),
    })
}

fn hypervisor(machine: &Machine, measured: &Measured) -> Option<Advice> {
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
    Some(Advice {
        what: format!("This is a guest of a hypervisor ({name})."),
        gain: steal,
        change: "a machine of its own, or on the host: virsh vcpupin GUEST VCPU HOST_CORE".into(),
    })
}

fn idle_states(core: &Core) -> Option<Advice> {
    let mut deep = core
        .idle_states
        .iter()
        .filter(|state| state.enabled && state.latency_us > DEEP_US);
    let state = deep.next()?;
    Some(Advice {
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

fn old_kernel(machine: &Machine) -> Option<Advice> {
    let mut numbers = machine
        .kernel
        .split(|c: char| !c.is_ascii_digit())
        .map(str::parse);
    let version = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    (version < OLD_KERNEL).then(|| Advice {
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
            programs: Vec::new(),
            watched: Duration::from_secs(3),
            interrupts: Some(Vec::new()),
            throttled: None,
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
        assert_eq!(advice(&tuned(), &measured()), (vec![], vec![]));
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
        machine.cpu_quota_group = Some("/system.slice/poet.service".into());
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
        let (found, hidden) = advice(&machine, &measured());
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
        let mut measured = measured();
        measured.interrupts = None;
        let (_, hidden) = advice(&Machine::default(), &measured);
        assert_eq!(hidden.len(), 7);
        let text = text(&Machine::default(), &measured);
        assert!(
            text.contains("Not shown by this machine: its cores, "),
            "{text}"
        );
        assert!(text.contains("interrupts  not shown"), "{text}");
    }

    #[test]
    fn who_interrupted_has_a_name() {
        let mut measured = measured();
        measured.programs = vec![("cc1\x1b[2J".into(), Duration::from_millis(300))];
        measured.interrupts = Some(vec![("virtio1-req.0".into(), 42)]);
        let text = text(&tuned(), &measured);
        assert!(text.contains("programs    cc1?[2J 10.00 %\n"), "{text}");
        assert!(text.contains("interrupts  virtio1-req.0 42\n"), "{text}");
    }

    #[test]
    fn advice_fits_what_starts_the_kernel() {
        let advice = |loader: Option<BootLoader>, container: Option<&str>| {
            let mut machine = tuned();
            machine.isolated.clear();
            machine.boot_loader = loader;
            machine.container = container.map(str::to_owned);
            advice(&machine, &measured()).0[0].change.clone()
        };
        let debian = advice(Some(BootLoader::GrubDebian), None);
        assert!(
            debian.contains("isolcpus=domain,managed_irq,3 ") && debian.contains("update-grub")
        );
        assert!(advice(Some(BootLoader::GrubFedora), None).starts_with("sudo grubby"));
        assert!(advice(Some(BootLoader::Grub), None).contains("grub-mkconfig"));
        assert!(advice(Some(BootLoader::SystemdBoot), None).contains("/etc/kernel/cmdline"));
        assert!(advice(None, None).contains("cannot be seen"));
        let container = advice(Some(BootLoader::GrubDebian), Some("docker"));
        assert!(container.starts_with("on the host"));
    }

    #[test]
    fn limits_are_changed_where_they_are_set() {
        let change = |group: &str, container: Option<&str>| {
            let mut machine = tuned();
            machine.cpu_quota = Some(0.5);
            machine.cpu_quota_group = Some(group.into());
            machine.container = container.map(str::to_owned);
            advice(&machine, &measured()).0[0].change.clone()
        };
        let unit = change("/system.slice/poet.service", None);
        assert_eq!(unit, "sudo systemctl set-property poet.service CPUQuota=");
        assert_eq!(
            change("/x", None),
            "echo max | sudo tee /sys/fs/cgroup/x/cpu.max"
        );
        assert!(change("/", Some("docker")).contains("--cpus"));
        let mut machine = tuned();
        machine.cores[0].online = true;
        machine.cores.push(Core {
            id: 4,
            online: true,
            ..Core::default()
        });
        machine.cpu_set = Some(vec![3]);
        let found = advice(&machine, &measured()).0;
        assert_eq!(
            found[0].what,
            "The control group allows cores 3 only, 1 of 2."
        );
    }
}

//! The priority of the hashing thread, and locked memory.

use std::{fs, io, thread};

use poet_files::reason;
use rustix::{
    mm::{MlockAllFlags, mlockall},
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use thread_priority::{
    RealtimeThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};

use crate::{WorkPriority, niceness};

const HIGHEST_PRIORITY: i32 = -20;
/// Any real-time priority comes before all ordinary ones, and after the kernel's own.
const REALTIME_PRIORITY: i32 = 1;

/// Returns the highest permitted priority up to `wanted`, tried on a separate thread.
pub(crate) fn permitted(wanted: WorkPriority) -> WorkPriority {
    let attempt = |priority| {
        thread::scope(|scope| scope.spawn(move || raise(priority)).join())
            .unwrap_or_else(|_| Err("the attempt failed".to_owned()))
    };
    let mut priority = wanted;
    if priority == WorkPriority::Realtime {
        match attempt(priority) {
            Ok(()) => warn_if_limited(),
            Err(reason) => {
                tracing::warn!("--work-priority=realtime is not permitted: {reason}");
                priority = WorkPriority::Nice;
            }
        }
    }
    if priority == WorkPriority::Nice {
        match attempt(priority) {
            Ok(()) => warn_if_grouped(),
            Err(reason) => {
                tracing::warn!("--work-priority=nice is not permitted: {reason}");
                priority = WorkPriority::Off;
            }
        }
    }
    priority
}

/// Raises the priority of the calling thread.
pub(crate) fn raise(priority: WorkPriority) -> Result<(), String> {
    match priority {
        WorkPriority::Off => Ok(()),
        WorkPriority::Nice => niceness::set(HIGHEST_PRIORITY).map_err(|error| {
            let reason = reason(&error);
            format!(
                "{reason}: expected CAP_SYS_NICE, or LimitNICE={HIGHEST_PRIORITY} in the unit file"
            )
        }),
        WorkPriority::Realtime => {
            let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
            let priority = ThreadPriority::from_posix(thread_priority::ScheduleParams {
                sched_priority: REALTIME_PRIORITY,
            });
            set_thread_priority_and_policy(thread_native_id(), priority, policy).map_err(|error| {
                let reason = match error {
                    thread_priority::Error::OS(code) => {
                        reason(&io::Error::from_raw_os_error(code))
                    }
                    other => other.to_string(),
                };
                format!("{reason}: expected CAP_SYS_NICE, or LimitRTPRIO={REALTIME_PRIORITY} in the unit file")
            })
        }
    }
}

/// Most kernels limit real-time threads to 95 % of the time, and leave the core idle for the rest.
fn warn_if_limited() {
    const LIMIT: &str = "/proc/sys/kernel/sched_rt_runtime_us";
    let limit = fs::read_to_string(LIMIT).unwrap_or_default();
    if !matches!(limit.trim(), "" | "-1") {
        tracing::warn!(
            "with --work-priority=realtime the kernel may take up to 5 % of the time from the \
             hashing thread, unless kernel.sched_rt_runtime_us is -1 (it is {})",
            limit.trim()
        );
    }
}

/// See the page of the module `place`.
fn warn_if_grouped() {
    const GROUPS: &str = "/proc/sys/kernel/sched_autogroup_enabled";
    if fs::read_to_string(GROUPS).is_ok_and(|groups| groups.trim() == "1") {
        tracing::warn!(
            "with --work-priority=nice the other threads of this server may starve while other \
             programs are busy, unless kernel.sched_autogroup_enabled is 0"
        );
    }
}

/// Locks the memory in use against swapping, unless there is a limit on locked memory: a server
/// whose memory grows beyond it could not go on.
pub(crate) fn lock_memory() -> bool {
    let unlimited = Rlimit {
        current: None,
        maximum: None,
    };
    if getrlimit(Resource::Memlock).current.is_some()
        && let Err(error) = setrlimit(Resource::Memlock, unlimited)
    {
        let reason = reason(&error.into());
        tracing::warn!(
            "the memory is not locked: {reason}: expected CAP_SYS_RESOURCE, or \
             LimitMEMLOCK=infinity in the unit file"
        );
        return false;
    }
    // Pages as they are used, not all reserved ones.
    let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    let locked = mlockall(flags);
    if let Err(error) = locked {
        tracing::warn!(error = reason(&error.into()), "the memory is not locked");
    }
    locked.is_ok()
}

//! Cores: who runs where, and for how long a core or a tree of processes was busy.

use std::{
    collections::HashMap,
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::{Pid, SysconfVar, sysconf},
};

use crate::interrupt;

/// The core of the sender.
pub(crate) const SENDER: usize = 0;
/// The core of the relay, which carries nothing else.
pub(crate) const RELAY: usize = 1;

/// PF_KTHREAD and PF_NO_SETAFFINITY of include/linux/sched.h, in the ninth field of proc_pid_stat(5).
const KERNEL_THREAD: u64 = 0x0020_0000;
const NOT_MOVABLE: u64 = 0x0400_0000;

/// Idle time has ticks of 10 ms.
const LOAD_LOOK: Duration = Duration::from_millis(500);

/// The core of whoever watches: a third one if there is one, else the sender's.
pub(crate) fn watcher() -> usize {
    if is_there(2) { 2 } else { SENDER }
}

/// How busy the busier of the two cores is with other things, in percent, looked at for a while.
pub(crate) fn foreign_load() -> anyhow::Result<f64> {
    let read = || -> anyhow::Result<_> { Ok([Clock::of_core(SENDER)?, Clock::of_core(RELAY)?]) };
    let before = read()?;
    interrupt::sleep(LOAD_LOOK)?;
    let after = read()?;
    let share = |(after, before): (&Clock, &Clock)| {
        let (busy, _) = after.busy_since(before);
        busy.as_secs_f64() / after.at.duration_since(before.at).as_secs_f64() * 100.0
    };
    Ok(after.iter().zip(&before).map(share).fold(0.0, f64::max))
}

/// Makes the relay's core its own as long as the result lives. Fails if this machine or this process has too few cores.
pub(crate) fn take() -> anyhow::Result<KernelThreads> {
    if is_there(SENDER) && is_there(RELAY) {
        return KernelThreads::keep_off_relay();
    }
    bail!(
        "cores {SENDER} and {RELAY} are needed, one for the sender and one for the relay, and are not both there"
    )
}

fn is_there(core: usize) -> bool {
    // The first process may run on every core; this one may have been confined, or have confined itself.
    let cores = sched_getaffinity(Pid::from_raw(1)).or_else(|_| sched_getaffinity(Pid::from_raw(0)));
    cores.is_ok_and(|cores| cores.is_set(core).unwrap_or(false))
}

/// Kernel threads that could run on the relay's core, kept from it until this is dropped. A thread that looks through memory now and then
/// (kdamond, khugepaged) stops a relay for longer than its queues are deep.
#[derive(Debug)]
pub(crate) struct KernelThreads {
    moved: Vec<(Pid, CpuSet)>,
}

impl KernelThreads {
    /// Moves those that may be moved and have another core to run on.
    fn keep_off_relay() -> anyhow::Result<Self> {
        let mut moved = Vec::new();
        for process in processes()? {
            let Some(stat) = stat(process) else { continue };
            let flags = field(&stat, 9).unwrap_or(0);
            if flags & KERNEL_THREAD == 0 || flags & NOT_MOVABLE != 0 {
                continue;
            }
            let thread = Pid::from_raw(process as i32);
            let Ok(before) = sched_getaffinity(thread) else { continue };
            let mut after = before;
            after.unset(RELAY)?;
            // One that has no other core stays: the kernel refuses an empty set.
            if before.is_set(RELAY)? && sched_setaffinity(thread, &after).is_ok() {
                moved.push((thread, before));
            }
        }
        Ok(Self { moved })
    }
}

impl Drop for KernelThreads {
    fn drop(&mut self) {
        for (thread, cores) in &self.moved {
            // It may have ended.
            let _ = sched_setaffinity(*thread, cores);
        }
    }
}

/// Pins the calling thread.
pub(crate) fn pin(core: usize) -> anyhow::Result<()> {
    pin_thread(0, core).with_context(|| format!("cannot run on core {core}"))
}

fn pin_thread(thread: i32, core: usize) -> nix::Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core)?;
    sched_setaffinity(Pid::from_raw(thread), &cores)
}

/// Runs `start` on the relay's core, so that a program started by it inherits that, and goes back to the watcher's.
pub(crate) fn on_relay_core<T>(start: impl FnOnce() -> T) -> anyhow::Result<T> {
    pin(RELAY)?;
    let started = start();
    pin(watcher())?;
    Ok(started)
}

/// Pins every thread of a tree of processes to the relay's core, whatever it chose itself.
pub(crate) fn confine(root: u32) -> anyhow::Result<()> {
    for process in tree(root)? {
        // A process that ends meanwhile needs no core.
        let Ok(threads) = fs::read_dir(format!("/proc/{process}/task")) else { continue };
        for thread in threads.flatten().filter_map(|thread| thread.file_name().to_str()?.parse().ok()) {
            match pin_thread(thread, RELAY) {
                Ok(()) | Err(nix::Error::ESRCH) => {}
                Err(errno) => bail!("cannot pin thread {thread} of the relay: {errno}"),
            }
        }
    }
    Ok(())
}

/// A process and all its descendants.
fn tree(root: u32) -> anyhow::Result<Vec<u32>> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for process in processes()? {
        if let Some(parent) = stat(process).as_deref().and_then(|stat| field(stat, 4)) {
            children.entry(parent as u32).or_default().push(process);
        }
    }
    let mut tree = vec![root];
    let mut at = 0;
    while let Some(process) = tree.get(at) {
        tree.extend(children.remove(process).unwrap_or_default());
        at += 1;
    }
    Ok(tree)
}

fn processes() -> anyhow::Result<Vec<u32>> {
    let entries = fs::read_dir("/proc").context("cannot read /proc")?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

fn stat(process: u32) -> Option<String> {
    fs::read_to_string(format!("/proc/{process}/stat")).ok()
}

/// Field `number` of `/proc/PID/stat`, counted from 1 as proc_pid_stat(5) does, from 3 on. The name, field 2, is in
/// parentheses and may hold anything, parentheses too.
fn field(stat: &str, number: usize) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(number - 3)?.parse().ok()
}

/// The time that the threads of a tree of processes have run so far, finer than by ticks (Documentation/scheduler/sched-stats.rst).
pub(crate) fn process_time(root: u32) -> anyhow::Result<Duration> {
    let mut time = Duration::ZERO;
    for process in tree(root)? {
        let Ok(threads) = fs::read_dir(format!("/proc/{process}/task")) else { continue };
        for thread in threads.flatten() {
            let text = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
            let ns = text.split_whitespace().next().and_then(|ns| ns.parse().ok()).unwrap_or(0);
            time += Duration::from_nanos(ns);
        }
    }
    Ok(time)
}

/// A moment in the life of the relay's core and of the relay's processes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    at: Instant,
    idle: Duration,
    processes: Duration,
}

impl Clock {
    /// Now. Without `root`, as for a relay that is part of the kernel, processes take no time.
    pub(crate) fn read(root: Option<u32>) -> anyhow::Result<Self> {
        let mut processes = 0;
        for process in root.map(tree).transpose()?.unwrap_or_default() {
            let stat = stat(process).unwrap_or_default();
            processes += field(&stat, 14).unwrap_or(0) + field(&stat, 15).unwrap_or(0);
        }
        Ok(Self { processes: ticks(processes)?, ..Self::of_core(RELAY)? })
    }

    fn of_core(core: usize) -> anyhow::Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        let idle =
            idle_ticks(&text, core).with_context(|| format!("/proc/stat does not tell of core {core}"))?;
        Ok(Self { at: Instant::now(), idle: ticks(idle)?, processes: Duration::ZERO })
    }

    /// For how long the core was busy since `earlier`, and for how much of it with the relay's processes.
    pub(crate) fn busy_since(&self, earlier: &Self) -> (Duration, Duration) {
        let idle = self.idle.saturating_sub(earlier.idle);
        (
            self.at.duration_since(earlier.at).saturating_sub(idle),
            self.processes.saturating_sub(earlier.processes),
        )
    }
}

fn ticks(ticks: u64) -> anyhow::Result<Duration> {
    let a_second = sysconf(SysconfVar::CLK_TCK)?.context("the kernel does not tell its ticks")?;
    Ok(Duration::from_secs_f64(ticks as f64 / a_second as f64))
}

/// What a core did not do for this machine: idle, waiting for disks, or taken away by the host (proc_stat(5)).
fn idle_ticks(stat: &str, core: usize) -> Option<u64> {
    let name = format!("cpu{core}");
    let line = stat.lines().find(|line| line.split_whitespace().next() == Some(&name))?;
    let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|ticks| ticks.parse().ok()).collect();
    let (idle, waiting, stolen) = (ticks.get(3)?, ticks.get(4)?, ticks.get(7)?);
    Some(idle + waiting + stolen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_that_waits_or_is_taken_away_is_not_busy() {
        let stat = "cpu  1 2 3 4 5 6 7 8 9 10\ncpu1 10 0 20 300 40 0 50 6 0 0\ncpu10 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(idle_ticks(stat, 1), Some(346));
        assert_eq!(idle_ticks(stat, 2), None);
    }

    #[test]
    fn a_process_name_with_parentheses_and_spaces_shifts_no_field() {
        let stat = "42 (a ) b) S 7 1 1 0 -1 0 0 0 0 0 11 13 0 0";
        assert_eq!((field(stat, 4), field(stat, 14), field(stat, 15)), (Some(7), Some(11), Some(13)));
    }
}

//! What concerns the host as a whole.

use mcr_proto::message::{Finding, Severity};

use super::{advised, found, mended};
use crate::{facts::Facts, survey::Survey};

/// The kernel's own default of groups a socket (`IP_MAX_MEMBERSHIPS`).
const MEMBERSHIPS_USUAL: i64 = 20;
/// Frames that a core's queue holds so that a burst at full speed of a fast link does not overrun it.
const BACKLOG_ADVISED: i64 = 30_000;
/// What a receiving socket without rights asks for, in bytes.
const BUFFER_ADVISED: i64 = 8 * 1024 * 1024;

pub(super) fn check(survey: &Survey, facts: &Facts, findings: &mut Vec<Finding>) {
    findings.extend(memberships(facts));
    findings.extend(buffers(survey, facts));
    findings.extend(backlog(facts));
    findings.extend(io_uring(survey, facts));
    findings.extend(bpf(survey, facts));
}

fn memberships(facts: &Facts) -> Option<Finding> {
    let value = facts.igmp_max_memberships.filter(|value| *value < MEMBERSHIPS_USUAL)?;
    let severity = if value < 1 { Severity::Error } else { Severity::Warning };
    let finding = found(
        "igmp_max_memberships",
        severity,
        "host",
        format!("a socket can join {value} groups only (net.ipv4.igmp_max_memberships)"),
        "each group beyond that takes a socket more, and with 0 no IPv4 group can be joined at all",
    );
    Some(mended(finding, format!("sysctl -w net.ipv4.igmp_max_memberships={MEMBERSHIPS_USUAL}")))
}

fn buffers(survey: &Survey, facts: &Facts) -> Option<Finding> {
    // With CAP_NET_ADMIN the daemon's sockets are larger than that.
    let value = facts.rmem_max.filter(|value| survey.no_packet_sockets && *value < BUFFER_ADVISED)?;
    let finding = found(
        "rmem_max",
        Severity::Warning,
        "host",
        format!("receive buffers end at {value} bytes (net.core.rmem_max)"),
        "without rights the daemon cannot go beyond that, and bursts that do not fit are lost as kernel_ring",
    );
    Some(in_first_namespace(facts, mended(finding, format!("sysctl -w net.core.rmem_max={BUFFER_ADVISED}"))))
}

/// Sysctls of the whole host can be written in its first network namespace only; `netdev_max_backlog` is not even seen elsewhere.
fn in_first_namespace(facts: &Facts, finding: Finding) -> Finding {
    match facts.netdev_max_backlog {
        None => advised(finding, "run it in the host's first network namespace"),
        Some(_) => finding,
    }
}

fn backlog(facts: &Facts) -> Option<Finding> {
    let (total, recent) = facts.backlog_drops?;
    let length = facts.netdev_max_backlog;
    if recent == 0 && (total == 0 || length.is_none_or(|length| length >= BACKLOG_ADVISED)) {
        return None;
    }
    let severity = if recent > 0 { Severity::Error } else { Severity::Info };
    let now = if recent > 0 { format!(", {recent} of them just now") } else { String::new() };
    let finding = found(
        "backlog_drops",
        severity,
        "host",
        format!("the cores' receive queues have dropped {total} frames since the host started{now}"),
        "these frames are lost before any socket or counter of the daemon sees them",
    );
    Some(if length.is_some_and(|length| length >= BACKLOG_ADVISED) {
        advised(finding, "the cores that receive are overloaded: spread the interrupts (RSS, RPS)")
    } else {
        let command = format!("sysctl -w net.core.netdev_max_backlog={BACKLOG_ADVISED}");
        in_first_namespace(facts, mended(finding, command))
    })
}

fn io_uring(survey: &Survey, facts: &Facts) -> Option<Finding> {
    let disabled = facts.io_uring_disabled.unwrap_or(0);
    if survey.workers_without_uring == 0 && disabled == 0 {
        return None;
    }
    if survey.workers_without_uring == 0 && !survey.rules.is_empty() {
        // Disabled for others: the workers have theirs.
        return None;
    }
    let finding = found(
        "io_uring",
        Severity::Warning,
        "host",
        match disabled {
            0 => "workers cannot use io_uring".into(),
            value => format!("io_uring is forbidden (kernel.io_uring_disabled = {value})"),
        },
        "workers use recvmmsg and sendmmsg instead, which costs more for each batch",
    );
    Some(match disabled {
        0 => advised(
            finding,
            "a container's seccomp profile often forbids it; the daemon's log says what failed",
        ),
        _ => mended(finding, "sysctl -w kernel.io_uring_disabled=0".into()),
    })
}

/// Capabilities that the kernel data path takes, and their numbers (capabilities(7)).
const BPF_TAKES: [(&str, u32); 2] = [("CAP_NET_ADMIN", 12), ("CAP_BPF", 39)];

fn bpf(survey: &Survey, facts: &Facts) -> Option<Finding> {
    let refusal = survey.no_bpf.as_ref()?;
    let rights = &facts.rights;
    let lacking = rights.lacks(&BPF_TAKES);
    // Without any rights the daemon was meant to do without.
    let severity = if survey.no_packet_sockets { Severity::Info } else { Severity::Warning };
    let finding = found(
        "bpf",
        severity,
        "host",
        format!("the daemon cannot load eBPF programs: {refusal}"),
        "rules do not get the kernel data path, the fastest, and the filters of packet sockets let too much through where there are \
         many rules",
    );
    Some(advised(
        finding,
        if !lacking.is_empty() {
            format!(
                "the daemon has no {}: start it as root or by its systemd unit; in a container add the capabilities (--cap-add)",
                lacking.join(" and no ")
            )
        } else if !refusal.contains("not permitted") {
            "the kernel data path takes Linux 5.19 with eBPF and BTF built in".to_owned()
        } else if rights.own_user_namespace {
            "the daemon's capabilities are those of a user namespace, and eBPF takes those of the host: start it outside".to_owned()
        } else if let Some(level) = &rights.lockdown {
            format!(
                "the kernel is locked down ({level}), which can forbid eBPF: see kernel_lockdown(7), and the kernel's log"
            )
        } else if rights.filtered {
            "the daemon was started under a seccomp filter: a container's profile often forbids bpf(2); allow it there".to_owned()
        } else {
            "it has the capabilities, so a security module forbids it: see the kernel's log for SELinux or AppArmor".to_owned()
        },
    ))
}

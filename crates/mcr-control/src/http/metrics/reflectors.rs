//! Series of reflectors.

use std::fmt::Display;

use mcr_metrics::prometheus::{Exposition, Kind, Value};
use mcr_proto::message::{ReflectView, ReflectWorker};

use super::STATES;

/// Counters of frames that ended otherwise than by being reflected or rejected.
const LOST: [&str; 4] = ["tx_full", "tx_error", "rx_ring_drop", "rx_invalid_desc"];

pub(super) fn series(text: &mut Exposition, reflectors: &[ReflectView]) {
    let help = "1 for the state that the reflector is in, 0 for others.";
    let mut family = text.family("mcr_reflector_state", Kind::Gauge, help);
    for reflector in reflectors {
        for state in STATES {
            family.sample(&[("reflector", &reflector.name), ("state", &state)], reflector.state == state);
        }
    }
    let help = "Always 1; the labels say where the reflector is and how it gets its frames.";
    let mut family = text.family("mcr_reflector_info", Kind::Gauge, help);
    for reflector in reflectors {
        let platform = reflector.platform.as_deref().unwrap_or_default();
        let mode = reflector.mode.to_string();
        let labels: [(_, &dyn Display); 5] = [
            ("reflector", &reflector.name),
            ("interface", &reflector.interface),
            ("port", &reflector.port),
            ("mode", &mode),
            ("platform", &platform),
        ];
        family.sample(&labels, 1_u32);
    }
    let help = "0 if something is wrong: it does not reflect, a process of it does not run, or frames come and none is reflected.";
    let mut family = text.family("mcr_reflector_healthy", Kind::Gauge, help);
    for reflector in reflectors {
        family.sample(&[("reflector", &reflector.name)], reflector.fault.is_none());
    }
    frames(text, reflectors);
    workers(text, reflectors);
    turn_round(text, reflectors);
}

fn count(reflector: &ReflectView, name: &str) -> u64 {
    reflector.counters.get(name).copied().unwrap_or_default()
}

fn frames(text: &mut Exposition, reflectors: &[ReflectView]) {
    let mut each = |name, kind, help, value: fn(&ReflectView) -> Value| {
        let mut family = text.family(name, kind, help);
        for reflector in reflectors {
            family.sample(&[("reflector", &reflector.name)], value(reflector));
        }
    };
    each("mcr_reflector_received_total", Kind::Counter, "Frames that the reflector took.", |reflector| {
        count(reflector, "received").into()
    });
    each("mcr_reflector_received_bytes_total", Kind::Counter, "Their bytes.", |reflector| {
        count(reflector, "received_bytes").into()
    });
    each("mcr_reflector_reflected_total", Kind::Counter, "Frames that were sent back.", |reflector| {
        count(reflector, "reflected").into()
    });
    each("mcr_reflector_reflected_bytes_total", Kind::Counter, "Bytes of frames sent back.", |reflector| {
        count(reflector, "reflected_bytes").into()
    });
    each("mcr_reflector_in_flight", Kind::Gauge, "Replies that wait to be sent.", |reflector| {
        count(reflector, "in_flight").into()
    });
    each(
        "mcr_reflector_restarts_total",
        Kind::Counter,
        "Starts of the process after its first.",
        |reflector| reflector.restarts.into(),
    );
    let help = "Frames that were sent back, by what they were.";
    let mut family = text.family("mcr_reflector_signatures_total", Kind::Counter, help);
    for reflector in reflectors {
        for (signature, frames) in &reflector.signatures {
            family.sample(&[("reflector", &reflector.name), ("signature", signature)], *frames);
        }
    }
    let help = "Frames that were not for the reflector, by reason.";
    let mut family = text.family("mcr_reflector_rejected_total", Kind::Counter, help);
    for reflector in reflectors {
        for (reason, frames) in &reflector.rejected {
            family.sample(&[("reflector", &reflector.name), ("reason", reason)], *frames);
        }
    }
    let help = "Frames that were lost on their way in or back, by reason.";
    let mut family = text.family("mcr_reflector_drops_total", Kind::Counter, help);
    for reflector in reflectors {
        for reason in LOST {
            family.sample(&[("reflector", &reflector.name), ("reason", &reason)], count(reflector, reason));
        }
    }
}

fn workers(text: &mut Exposition, reflectors: &[ReflectView]) {
    let mut each = |name, kind, help, value: fn(&ReflectWorker) -> Value| {
        let mut family = text.family(name, kind, help);
        for reflector in reflectors {
            for (number, worker) in reflector.workers.iter().enumerate() {
                let labels: [(_, &dyn Display); 2] = [("reflector", &reflector.name), ("process", &number)];
                family.sample(&labels, value(worker));
            }
        }
    };
    each(
        "mcr_reflector_process_up",
        Kind::Gauge,
        "1 for a process of the reflector that reflects.",
        |worker| u32::from(worker.ready).into(),
    );
    let help = "Frames that a process of the reflector took.";
    each("mcr_reflector_process_received_total", Kind::Counter, help, |worker| worker.received.into());
    let help = "Frames that a process of the reflector sent back.";
    each("mcr_reflector_process_reflected_total", Kind::Counter, help, |worker| worker.reflected.into());
}

fn turn_round(text: &mut Exposition, reflectors: &[ReflectView]) {
    let help = "Turn-round times since the start, by percentile; only where they are measured.";
    let mut family = text.family("mcr_reflector_turn_round_seconds", Kind::Gauge, help);
    for reflector in reflectors {
        let Some(latency) = &reflector.latency else { continue };
        let percentiles = [
            ("50", latency.p50_ns),
            ("90", latency.p90_ns),
            ("99", latency.p99_ns),
            ("99.9", latency.p999_ns),
        ];
        for (percentile, ns) in percentiles {
            let labels: [(_, &dyn Display); 2] =
                [("reflector", &reflector.name), ("percentile", &percentile)];
            family.sample(&labels, ns as f64 / 1e9);
        }
    }
}

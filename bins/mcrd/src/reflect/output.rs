//! Statistics as text, JSON lines or CSV. Only data goes to standard output.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal, Write},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use mcr_proto::reflect::Reflect;
use mcr_reflect::{Count, Counters, Kind, Latency, Reason};
use mcr_supervisor::reflect::{Occasion, Report, State, WorkerReport};
use serde_json::{Map, Value, json};

/// FCS, preamble and gap, which the wire carries with each frame.
const LAYER1_BYTES: u64 = 24;
const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999)];

/// How statistics are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Text,
    Json,
    CompatJson,
    Csv,
}

/// What has been told last, to tell rates since then.
#[derive(Debug, Default)]
struct Before {
    uptime: Duration,
    frames: u64,
    bytes: u64,
}

/// Rates of what was reflected.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Rates {
    pps: f64,
    /// Mb/s of frames without FCS.
    mbps: f64,
    /// Mb/s on the wire.
    mbps_layer1: f64,
}

impl Rates {
    fn new(frames: u64, bytes: u64, time: Duration) -> Self {
        let seconds = time.as_secs_f64();
        if seconds <= 0.0 {
            return Self::default();
        }
        let mbps = |bytes: u64| bytes as f64 * 8.0 / seconds / 1e6;
        Self {
            pps: frames as f64 / seconds,
            mbps: mbps(bytes),
            mbps_layer1: mbps(bytes + frames * LAYER1_BYTES),
        }
    }

    fn json(self) -> Value {
        json!({ "pps": round(self.pps), "mbps": round(self.mbps), "mbps_layer1": round(self.mbps_layer1) })
    }
}

fn round(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

/// Writes statistics.
pub(super) struct Output {
    format: Format,
    interface: String,
    mode: String,
    before: Before,
    header: bool,
    terminal: bool,
}

impl Output {
    pub(super) fn new(format: Format, reflect: &Reflect) -> Self {
        let (interface, mode) = (reflect.interface.to_string(), reflect.mode.to_string());
        let terminal = io::stdout().is_terminal();
        Self { format, interface, mode, before: Before::default(), header: false, terminal }
    }

    /// Writes statistics as they are now. A closed standard output is no reason to stop reflecting.
    pub(super) fn tell(&mut self, occasion: Occasion, report: &Report) {
        let (frames, bytes) =
            (report.counters.count(Count::Reflected), report.counters.count(Count::ReflectedBytes));
        let since_start = Rates::new(frames, bytes, report.uptime);
        let since_last = Rates::new(
            frames.saturating_sub(self.before.frames),
            bytes.saturating_sub(self.before.bytes),
            report.uptime.saturating_sub(self.before.uptime),
        );
        self.before = Before { uptime: report.uptime, frames, bytes };
        let text = match self.format {
            Format::Text if occasion == Occasion::End => block(report, since_start),
            Format::Text => self.line(report, since_start),
            Format::Json => format!("{}\n", self.json(report, since_start, since_last)),
            Format::CompatJson => format!("{}\n", compat(report, since_start)),
            Format::Csv => self.csv(report, since_start),
        };
        let mut stdout = io::stdout().lock();
        let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    }

    /// On a terminal one line that is written over and over.
    fn line(&self, report: &Report, rates: Rates) -> String {
        let counters = &report.counters;
        let mut line = format!(
            "[{:.1}] RX {} packets, {} bytes; reflected {}; {:.0} pps, {:.2} Mbps",
            report.uptime.as_secs_f64(),
            counters.count(Count::Received),
            counters.count(Count::ReceivedBytes),
            counters.count(Count::Reflected),
            rates.pps,
            rates.mbps
        );
        if counters.count(Count::Reflected) > 0 {
            let [probe, data, latency] =
                [Kind::ProbeOt, Kind::DataOt, Kind::Latency].map(|kind| counters.kind(kind));
            let _ = write!(line, "; PROBEOT {probe}, DATA:OT {data}, LATENCY {latency}");
        }
        if report.latency.count > 0 {
            let [min, avg, max] = microseconds(&report.latency);
            let _ = write!(line, "; min {min:.1} avg {avg:.1} max {max:.1} us");
        }
        if self.terminal { format!("\r\x1b[K{line}") } else { format!("{line}\n") }
    }

    fn json(&self, report: &Report, since_start: Rates, since_last: Rates) -> Value {
        let counters = &report.counters;
        let state = match &report.state {
            State::Failed(_) => "failed",
            State::Unresolved => "unresolved",
            State::Paused => "paused",
            State::Starting => "starting",
            State::Active => "active",
        };
        let mut object = Map::new();
        let mut put = |key: &str, value: Value| {
            object.insert(key.to_owned(), value);
        };
        put("ts", json!(round(now())));
        put("iface", json!(self.interface));
        put("platform", json!(report.platform));
        put("mode", json!(self.mode));
        put("state", json!(state));
        put("uptime", json!(round(report.uptime.as_secs_f64())));
        for count in Count::ALL {
            put(count.name(), json!(counters.count(*count)));
        }
        put("rejected", reasons(counters));
        put("signatures", kinds(counters));
        put("rate", since_start.json());
        put("rate_interval", since_last.json());
        put("latency", latency(&report.latency));
        put("fault", json!(report.fault));
        put("workers", report.workers.iter().map(worker).collect());
        Value::Object(object)
    }

    fn csv(&mut self, report: &Report, rates: Rates) -> String {
        let counters = &report.counters;
        let counts = Count::ALL.iter().map(|count| (count.name(), counters.count(*count)));
        let reasons = Reason::ALL.iter().map(|reason| (reason.name(), counters.reason(*reason)));
        let kinds = Kind::ALL.iter().map(|kind| (kind.name(), counters.kind(*kind)));
        let numbers: Vec<(&str, u64)> = counts.chain(reasons).chain(kinds).collect();
        let [min, avg, max] = microseconds(&report.latency);
        let mut text = String::new();
        if !std::mem::replace(&mut self.header, true) {
            let names: Vec<_> = numbers.iter().map(|(name, _)| *name).collect();
            let _ = writeln!(
                text,
                "time,uptime,{},latency_count,latency_min_us,latency_avg_us,latency_max_us,pps,mbps",
                names.join(",")
            );
        }
        let values: Vec<_> = numbers.iter().map(|(_, number)| number.to_string()).collect();
        let _ = writeln!(
            text,
            "{:.3},{:.1},{},{},{min:.2},{avg:.2},{max:.2},{:.2},{:.2}",
            now(),
            report.uptime.as_secs_f64(),
            values.join(","),
            report.latency.count,
            rates.pps,
            rates.mbps
        );
        text
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

fn microseconds(latency: &Latency) -> [f64; 3] {
    [latency.min_ns, latency.mean_ns(), latency.max_ns].map(|ns| ns as f64 / 1000.0)
}

fn reasons(counters: &Counters) -> Value {
    let each = Reason::ALL.iter().map(|reason| (reason.name().to_owned(), json!(counters.reason(*reason))));
    Value::Object(each.collect())
}

fn kinds(counters: &Counters) -> Value {
    let each = Kind::ALL.iter().map(|kind| (kind.name().to_owned(), json!(counters.kind(*kind))));
    Value::Object(each.collect())
}

fn latency(latency: &Latency) -> Value {
    if latency.count == 0 {
        return Value::Null;
    }
    let mut object = json!({
        "count": latency.count,
        "min_us": round(latency.min_ns as f64 / 1000.0),
        "avg_us": round(latency.mean_ns() as f64 / 1000.0),
        "max_us": round(latency.max_ns as f64 / 1000.0),
        "since": match latency.stamped {
            0 => "dequeue",
            stamped if stamped == latency.count => "kernel",
            _ => "mixed",
        },
    });
    for (name, share) in QUANTILES {
        object[format!("{name}_us")] = json!(round(latency.quantile_ns(share) as f64 / 1000.0));
    }
    // Upper end in nanoseconds and how many; those without any are left out.
    let buckets = latency.buckets.iter().enumerate().filter(|(_, count)| **count > 0);
    object["histogram"] = buckets.map(|(at, count)| json!([Latency::upper_ns(at), count])).collect();
    object
}

fn worker(report: &WorkerReport) -> Value {
    let WorkerReport { queues, pid, ready, restarts, received, reflected } = report;
    json!({
        "queues": queues.clone().collect::<Vec<_>>(),
        "pid": pid,
        "ready": ready,
        "restarts": restarts,
        "received": received,
        "reflected": reflected,
    })
}

/// The keys of the reference reflector, which has no others.
fn compat(report: &Report, rates: Rates) -> Value {
    let counters = &report.counters;
    let kind = |kind| counters.kind(kind);
    let ito: u64 = [Kind::ProbeOt, Kind::DataOt, Kind::Latency].map(kind).iter().sum();
    let unknown = Kind::ALL.iter().map(|each| kind(*each)).sum::<u64>() - ito;
    let [min_us, avg_us, max_us] = microseconds(&report.latency).map(round);
    let Latency { count, min_ns, max_ns, .. } = report.latency;
    let failed = counters.count(Count::TxFull) + counters.count(Count::TxError);
    json!({
        "packets": {
            "received": counters.count(Count::Received),
            "reflected": counters.count(Count::Reflected),
            "dropped": counters.rejected() + failed,
        },
        "bytes": {
            "received": counters.count(Count::ReceivedBytes),
            "reflected": counters.count(Count::ReflectedBytes),
        },
        "signatures": {
            "probeot": kind(Kind::ProbeOt),
            "dataot": kind(Kind::DataOt),
            "latency": kind(Kind::Latency),
            "unknown": unknown,
        },
        "errors": {
            "invalid_mac": counters.reason(Reason::DstMac) + counters.reason(Reason::SrcOui),
            "invalid_ethertype": counters.reason(Reason::EtherType),
            "invalid_protocol": counters.reason(Reason::Protocol),
            "invalid_signature": counters.reason(Reason::Signature) + counters.reason(Reason::FamilyOff),
            "too_short": counters.reason(Reason::Short),
            "tx_failed": failed,
            "no_memory": 0,
        },
        "latency": {
            "count": count,
            "min_ns": min_ns,
            "max_ns": max_ns,
            "avg_ns": report.latency.mean_ns(),
            "min_us": min_us,
            "max_us": max_us,
            "avg_us": avg_us,
        },
        "performance": { "pps": round(rates.pps), "mbps": round(rates.mbps) },
    })
}

/// What is left to say at the end.
fn block(report: &Report, rates: Rates) -> String {
    let counters = &report.counters;
    let mut text = String::from("\n");
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<22}{value}");
    };
    let both =
        |packets, bytes| format!("{} packets, {} bytes", counters.count(packets), counters.count(bytes));
    line("received", both(Count::Received, Count::ReceivedBytes));
    line("reflected", both(Count::Reflected, Count::ReflectedBytes));
    line("rate", format!("{:.0} pps, {:.2} Mbps", rates.pps, rates.mbps));
    for kind in Kind::ALL.iter().filter(|kind| kind.index() < 5 || counters.kind(**kind) > 0) {
        line(kind.name(), counters.kind(*kind).to_string());
    }
    if report.latency.count > 0 {
        let [min, avg, max] = microseconds(&report.latency);
        let p99 = report.latency.quantile_ns(0.99) as f64 / 1000.0;
        line("turn-round (us)", format!("min {min:.2} avg {avg:.2} p99 {p99:.2} max {max:.2}"));
    }
    for reason in Reason::ALL.iter().filter(|reason| counters.reason(**reason) > 0) {
        line(&format!("rejected, {}", reason.name()), counters.reason(*reason).to_string());
    }
    for count in [Count::TxFull, Count::TxError, Count::RxRingDrop, Count::RxInvalidDesc] {
        if counters.count(count) > 0 {
            line(count.name(), counters.count(count).to_string());
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut counters = Counters::default();
        counters.counts[Count::Received.index()] = 7;
        counters.counts[Count::Reflected.index()] = 5;
        counters.counts[Count::ReflectedBytes.index()] = 500;
        counters.kinds[Kind::ProbeOt.index()] = 3;
        counters.kinds[Kind::Rfc2544.index()] = 2;
        counters.reasons[Reason::SrcOui.index()] = 2;
        let mut latency = Latency::default();
        latency.record(10_000, true);
        Report {
            reflect: Reflect::new("eth0".parse().expect("a name")),
            state: State::Active,
            platform: Some("packet"),
            uptime: Duration::from_secs(2),
            counters,
            latency,
            fault: None,
            workers: vec![WorkerReport {
                queues: 0..2,
                pid: Some(7),
                ready: true,
                restarts: 1,
                received: 7,
                reflected: 5,
            }],
        }
    }

    fn output(format: Format) -> Output {
        Output::new(format, &report().reflect)
    }

    #[test]
    fn json_has_every_counter_under_its_name() {
        let json = output(Format::Json).json(&report(), Rates::default(), Rates::default());
        assert_eq!(
            (&json["received"], &json["reflected"], &json["tx_full"]),
            (&json!(7), &json!(5), &json!(0))
        );
        assert_eq!(json["rejected"]["src_oui"], json!(2));
        assert_eq!(json["rejected"].as_object().map(Map::len), Some(Reason::ALL.len()));
        assert_eq!((&json["signatures"]["probeot"], &json["signatures"]["rfc2544"]), (&json!(3), &json!(2)));
        assert_eq!((&json["latency"]["since"], &json["latency"]["p99_us"]), (&json!("kernel"), &json!(10.0)));
        assert_eq!(json["workers"][0]["queues"], json!([0, 1]));
        assert!(json["fault"].is_null());
        for key in ["ts", "iface", "platform", "mode", "uptime"] {
            assert!(!json[key].is_null(), "{key}");
        }
    }

    #[test]
    fn csv_has_one_header_and_as_many_values_as_names() {
        let mut output = output(Format::Csv);
        let first = output.csv(&report(), Rates::default());
        let second = output.csv(&report(), Rates::default());
        let [header, line] = first.lines().collect::<Vec<_>>()[..] else { panic!("{first}") };
        assert_eq!(header.split(',').count(), line.split(',').count());
        assert_eq!(second.lines().count(), 1);
        let at = header.split(',').position(|name| name == "src_oui").expect("a column");
        assert_eq!(line.split(',').nth(at), Some("2"));
    }

    #[test]
    fn the_reference_s_keys_are_all_there_and_no_others() {
        let json = compat(&report(), Rates::default());
        let keys: Vec<_> = json.as_object().expect("an object").keys().map(String::as_str).collect();
        assert_eq!(keys, ["bytes", "errors", "latency", "packets", "performance", "signatures"]);
        assert_eq!(json["signatures"]["unknown"], json!(2));
        assert_eq!(json["errors"]["invalid_mac"], json!(2));
        assert_eq!(json["packets"]["dropped"], json!(2));
    }

    #[test]
    fn rates_are_of_what_was_reflected_on_both_layers() {
        let rates = Rates::new(1000, 100_000, Duration::from_secs(2));
        assert_eq!(rates, Rates { pps: 500.0, mbps: 0.4, mbps_layer1: 0.496 });
        assert_eq!(Rates::new(5, 5, Duration::ZERO), Rates::default());
    }
}

//! `trace`: what becomes of single datagrams, as lines, JSON, or a file for Wireshark.

mod pcapng;

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
    thread,
    time::Duration,
};

use mcr_proto::{
    message::{Sampling, TraceWanted, Traced},
    rpc::{
        TRACE_SECONDS_MAX, TRACE_SNAP_BYTES_MAX, TraceClock, TraceRecord, TraceRecords, TraceStart,
        TraceStarted, one_in,
    },
    rule::Datapath,
};

use self::pcapng::Capture;
use crate::{
    args::Trace,
    events,
    failure::Failure,
    run::{Session, named},
    text::one_line,
};

/// How often the daemon is asked. It holds a few thousand datagrams.
const ASK_EVERY: Duration = Duration::from_millis(20);

/// Where frames go.
enum Frames {
    Nowhere,
    /// In place of anything else.
    Stdout(Capture),
    File(Capture, BufWriter<File>),
}

impl Session<'_> {
    pub(crate) fn trace(&mut self, trace: &Trace) -> Result<(), Failure> {
        let start = start(trace)?;
        let mut client = self.connect()?;
        // Before the trace: of a file that cannot be written the daemon need not know.
        let mut frames = match &trace.pcapng {
            None => Frames::Nowhere,
            Some(file) if file.as_os_str() == "-" => Frames::Stdout(Capture::begin(self.out)?),
            Some(file) => create(file)?,
        };
        let started: TraceStarted = client.trace_start(&start)?;
        let mut shown = 0;
        let last = loop {
            let got: TraceRecords = client.trace_get(started.id)?;
            shown += got.records.len();
            for record in &got.records {
                self.show_record(trace, &mut frames, record)?;
            }
            // Somebody is watching, and Ctrl-C is how most traces end.
            self.out.flush()?;
            if let Frames::File(_, file) = &mut frames {
                file.flush().map_err(|error| unwritten(trace, &error))?;
            }
            if got.done {
                break got;
            }
            thread::sleep(ASK_EVERY);
        };
        let reason = last.reason.unwrap_or_else(|| "ended".into());
        let missed = match last.missed {
            0 => String::new(),
            missed => format!(", {missed} missed (--sample 1/N takes fewer)"),
        };
        self.note(&format!("{reason}: {shown} of {} datagrams shown{missed}", last.seen));
        Ok(())
    }

    fn show_record(
        &mut self,
        trace: &Trace,
        frames: &mut Frames,
        record: &TraceRecord,
    ) -> Result<(), Failure> {
        match frames {
            Frames::Stdout(capture) => return Ok(capture.add(self.out, record)?),
            Frames::File(capture, file) => {
                capture.add(file, record).map_err(|error| unwritten(trace, &error))?;
            }
            Frames::Nowhere => {}
        }
        if self.cli.json { self.json(record) } else { Ok(write(self.out, record)?) }
    }
}

fn start(trace: &Trace) -> Result<TraceStart, Failure> {
    let usage = |error: String| Failure::Usage(error);
    let what = match (&trace.rule, &trace.drops) {
        (Some(rule), _) => Traced::Rule(named(rule)?),
        (None, drops) => {
            let interface = drops.as_deref().unwrap_or_default();
            Traced::Drops(interface.parse().map_err(|error| usage(format!("--drops: {error}")))?)
        }
    };
    let one_in =
        trace.sample.as_deref().map_or(Ok(1), one_in).map_err(|error| usage(format!("--sample: {error}")))?;
    let whole = if trace.pcapng.is_some() { TRACE_SNAP_BYTES_MAX } else { 0 };
    let snap_bytes = trace.snap.unwrap_or(whole);
    let sampling = Sampling { one_in, count: trace.count, snap_bytes };
    let seconds = trace.seconds.unwrap_or(TRACE_SECONDS_MAX);
    Ok(TraceStart { trace: TraceWanted { what, sampling }, seconds })
}

fn create(path: &Path) -> Result<Frames, Failure> {
    let created = File::create(path).map(BufWriter::new).and_then(|mut file| {
        let capture = Capture::begin(&mut file)?;
        Ok(Frames::File(capture, file))
    });
    created.map_err(|error| {
        let text = format!("{}: {error}", path.display());
        match error.kind() {
            io::ErrorKind::PermissionDenied => Failure::NotPermitted(text),
            _ => Failure::Failed(text),
        }
    })
}

fn unwritten(trace: &Trace, error: &io::Error) -> Failure {
    let file = trace.pcapng.as_ref().map_or(String::new(), |file| file.display().to_string());
    Failure::Failed(format!("{file}: {error}"))
}

/// A line for the datagram, and one for each output.
fn write(out: &mut dyn Write, record: &TraceRecord) -> io::Result<()> {
    let TraceRecord { number, time_ns, bytes, interface, datapath, worker, .. } = record;
    write!(out, "{number} {} {interface} {datapath}", events::time(*time_ns))?;
    if *datapath != Datapath::Kernel {
        write!(out, " worker {worker}")?;
    }
    if record.clock == TraceClock::Worker {
        write!(out, " (taken)")?;
    }
    match (record.source, record.destination) {
        (Some(source), Some(destination)) => write!(out, "  {source} > {destination}")?,
        _ => write!(out, "  unreadable, {} bytes on the wire", record.frame_bytes)?,
    }
    if let (Some(ttl), Some(dscp)) = (record.ttl, record.dscp) {
        write!(out, "  {bytes} bytes, ttl {ttl}, dscp {dscp}")?;
    }
    if let Some(superframe) = record.superframe {
        write!(out, ", {} of {} merged", superframe.index + 1, superframe.datagrams)?;
    }
    if let Some(rule) = &record.rule {
        write!(out, ", rule {rule}")?;
    }
    if let Some(drop) = &record.drop {
        write!(out, ": dropped, {drop}")?;
    }
    writeln!(out)?;
    let width = record.outputs.iter().map(|output| output.output.chars().count()).max().unwrap_or(0);
    for output in &record.outputs {
        write!(out, "    {:width$}  {}", one_line(&output.output), output.outcome)?;
        if let Some(errno) = &output.errno {
            write!(out, " ({errno})")?;
        }
        if let Some(time_ns) = output.time_ns {
            write!(out, "  +{}", after(time_ns.saturating_sub(record.time_ns)))?;
        }
        writeln!(out)?;
    }
    Ok(())
}

/// A short time with three digits or so.
fn after(time_ns: u64) -> String {
    match time_ns {
        0..1_000_000 => format!("{:.1} us", time_ns as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} ms", time_ns as f64 / 1e6),
        _ => format!("{:.1} s", time_ns as f64 / 1e9),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn record() -> TraceRecord {
        let text = r#"{"number":7,"time_ns":1000000000123456789,"clock":"kernel","worker":1,"interface":"eth0","datapath":"packet",
            "source":"10.0.0.9:4000","destination":"239.1.1.1:5000","ttl":7,"dscp":46,"bytes":3,"superframe":{"index":1,"datagrams":5},
            "rule":"video","outputs":[
                {"output":"239.2.2.2:6000@eth1","outcome":"sent","time_ns":1000000000123476789},
                {"output":"10.0.0.1:6","outcome":"no_route","errno":"ENETUNREACH","time_ns":1000000000125956789}],
            "link":"ethernet","frame_bytes":60,"frame":"01005e010101020000000009080045"}"#;
        serde_json::from_str(text).expect("a record")
    }

    #[test]
    fn a_datagram_is_a_line_and_each_output_another() {
        let mut out = Vec::new();
        write(&mut out, &record()).expect("memory");
        let want = "\
7 2001-09-09T01:46:40.123456789Z eth0 packet worker 1  10.0.0.9:4000 > 239.1.1.1:5000  3 bytes, ttl 7, dscp 46, 2 of 5 merged, rule video
    239.2.2.2:6000@eth1  sent  +20.0 us
    10.0.0.1:6           no_route (ENETUNREACH)  +2.5 ms
";
        assert_eq!(String::from_utf8(out).expect("text"), want);
    }

    #[test]
    fn a_drop_says_why_and_what_could_not_be_read_is_said_to_be_so() {
        let dropped = TraceRecord {
            drop: Some("malformed".into()),
            outputs: Vec::new(),
            rule: None,
            source: None,
            destination: None,
            ttl: None,
            dscp: None,
            superframe: None,
            clock: TraceClock::Worker,
            ..record()
        };
        let mut out = Vec::new();
        write(&mut out, &dropped).expect("memory");
        let want = "7 2001-09-09T01:46:40.123456789Z eth0 packet worker 1 (taken)  unreadable, 60 bytes on the wire: dropped, malformed\n";
        assert_eq!(String::from_utf8(out).expect("text"), want);
    }
}

//! A reflector as a user starts it, and a tester at the other end of its cable: whole frames in and out, every one compared.

use std::{
    fs::{self, File},
    os::{fd::OwnedFd, unix::process::CommandExt},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use mcr_lab::Namespace;
use mcr_socket::{
    filter::Filter,
    packet::{self, FrameBatch, PortOptions},
};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    PATIENCE, eventually,
    processes::descendants,
    programs,
    traffic_lock::{self, TrafficLock},
};

/// The reflector's address in the vectors.
pub const REFLECTOR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The tester's, of NetAlly's OUI.
pub const TESTER_MAC: [u8; 6] = [0x00, 0xc0, 0x17, 0x54, 0x05, 0x98];
/// The reflector's interface.
pub const REFLECTOR_IF: &str = "port0";
/// The tester's interface.
pub const TESTER_IF: &str = "test0";

const BUFFER_BYTES: usize = 64 << 20;
const BATCH: usize = 64;
const ROOM_BYTES: usize = 9216;

/// A cable between a tester and a reflector's host.
#[derive(Debug)]
pub struct Cable {
    /// The tester's host.
    pub tester: Namespace,
    /// The reflector's host.
    pub reflector: Namespace,
}

impl Cable {
    /// A veth pair whose ends have the addresses of the vectors, and nothing else: neither host says a word by itself.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn new() -> Self {
        Self::with_queues(1)
    }

    /// As [`Cable::new`], with so many send and receive queues at each end.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn with_queues(queues: u32) -> Self {
        let made = || {
            let (tester, reflector) = (Namespace::new()?, Namespace::new()?);
            // Not even IPv6's own messages about groups: the tests count every frame.
            tester.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
            reflector.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
            mcr_lab::veth_with_queues((&tester, TESTER_IF), (&reflector, REFLECTOR_IF), queues)?;
            tester.set_mac(TESTER_IF, TESTER_MAC)?;
            reflector.set_mac(REFLECTOR_IF, REFLECTOR_MAC)?;
            tester.set_up(TESTER_IF)?;
            reflector.set_up(REFLECTOR_IF)?;
            tester.wait_running(TESTER_IF)?;
            reflector.wait_running(REFLECTOR_IF)?;
            Ok::<_, mcr_lab::LabError>(Self { tester, reflector })
        };
        made().unwrap_or_else(|error| panic!("{error}"))
    }
}

impl Default for Cable {
    fn default() -> Self {
        Self::new()
    }
}

/// Options of each platform that is tested.
pub const PLATFORMS: [&[&str]; 2] = [&["--platform", "packet"], &["--platform", "xdp"]];

/// A cable with a reflector at one end and a tester at the other, alone with the machine's cores.
#[derive(Debug)]
pub struct Bed {
    /// The cable.
    pub cable: Cable,
    /// The reflector.
    pub reflecting: Reflecting,
    /// The tester.
    pub tester: Tester,
    /// Held until the end.
    pub lock: TrafficLock,
}

impl Bed {
    /// A reflector with these options, which reflects.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn new(options: &[&str]) -> Self {
        let lock = traffic_lock::take();
        let cable = Cable::new();
        let reflecting = Reflecting::start(&cable.reflector, options);
        let tester = Tester::open(&cable);
        Self { cable, reflecting, tester, lock }
    }
}

/// `mcrd reflect --json`; killed when dropped.
#[derive(Debug)]
pub struct Reflecting {
    process: Child,
    directory: TempDir,
}

impl Reflecting {
    /// Starts it on [`REFLECTOR_IF`] and waits until it reflects.
    ///
    /// # Panics
    /// If it does not.
    pub fn start(namespace: &Namespace, arguments: &[&str]) -> Self {
        Self::start_on(namespace, REFLECTOR_IF, arguments)
    }

    /// Starts it on an interface and waits until it reflects.
    ///
    /// # Panics
    /// If it does not.
    pub fn start_on(namespace: &Namespace, interface: &str, arguments: &[&str]) -> Self {
        let directory = programs::directory_for_everyone();
        let file = |name: &str| File::create(directory.path().join(name)).expect("own directory");
        let mut command = namespace.command(programs::program("mcrd"));
        command.args(["reflect", interface, "--json"]).args(arguments).stdin(Stdio::null());
        let process = command.process_group(0).stdout(file("out")).stderr(file("err")).spawn();
        let this = Self { process: process.expect("a process"), directory };
        eventually("it reflects", || {
            assert!(!this.log().contains("mcrd: reflect:"), "{}", this.log());
            this.log().contains("reflecting interface")
        });
        this
    }

    /// The process that was started; its child reflects.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.process.id() as i32)
    }

    /// The process that reflects.
    ///
    /// # Panics
    /// If there is none.
    pub fn child(&self) -> Pid {
        let children = descendants(self.process.id());
        Pid::from_raw(children.first().unwrap_or_else(|| panic!("no child: {}", self.log())).pid as i32)
    }

    /// What it said on standard error.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("err")).unwrap_or_default()
    }

    fn lines(&self) -> Vec<String> {
        let text = fs::read_to_string(self.directory.path().join("out")).unwrap_or_default();
        // A last line without its end is still being written.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(ToOwned::to_owned).collect()
    }

    /// Asks for statistics by SIGUSR1.
    ///
    /// # Panics
    /// If none come, or they are no JSON.
    pub fn report(&self) -> Value {
        let before = self.lines().len();
        kill(self.pid(), Signal::SIGUSR1).expect("own process");
        eventually("it tells statistics", || self.lines().len() > before);
        parse(&self.lines()[before])
    }

    /// Statistics in which a counter is at least so much: a reply can be back before it is counted, which is some microseconds later.
    ///
    /// # Panics
    /// If they do not come.
    pub fn report_of(&self, name: &str, at_least: u64) -> Value {
        let mut report = self.report();
        eventually("it is counted", || {
            report = self.report();
            counter(&report, name) >= at_least
        });
        report
    }

    /// Stops it by a signal; its last statistics, and how long it took.
    ///
    /// # Panics
    /// If it ends otherwise than it should.
    pub fn stop(mut self, signal: Signal) -> (Value, Duration) {
        let begun = Instant::now();
        kill(self.pid(), signal).expect("own process");
        let status = self.process.wait().expect("own child");
        let took = begun.elapsed();
        assert_eq!(status.code(), Some(0), "{}", self.log());
        let last = parse(self.lines().last().unwrap_or_else(|| panic!("no statistics: {}", self.log())));
        assert_law(&last);
        (last, took)
    }
}

impl Drop for Reflecting {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn parse(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))
}

/// A counter of a report.
///
/// # Panics
/// If there is none of that name.
pub fn counter(report: &Value, name: &str) -> u64 {
    let places = [&report[name], &report["rejected"][name], &report["signatures"][name]];
    places.iter().find_map(|value| value.as_u64()).unwrap_or_else(|| panic!("no {name} in {report}"))
}

/// Panics unless every frame received is in exactly one counter.
pub fn assert_law(report: &Value) {
    let rejected: u64 =
        report["rejected"].as_object().into_iter().flatten().filter_map(|(_, count)| count.as_u64()).sum();
    let sent: u64 =
        ["reflected", "tx_full", "tx_error", "in_flight"].iter().map(|name| counter(report, name)).sum();
    assert_eq!(counter(report, "received"), sent + rejected, "{report}");
}

/// A tester's end of the cable.
#[derive(Debug)]
pub struct Tester {
    socket: OwnedFd,
    batch: FrameBatch,
}

impl Tester {
    /// Takes part in what happens on [`TESTER_IF`], from now on.
    ///
    /// # Panics
    /// If it cannot be opened.
    pub fn open(cable: &Cable) -> Self {
        Self::open_on(&cable.tester, TESTER_IF)
    }

    /// Takes part in what happens on an interface, from now on.
    ///
    /// # Panics
    /// If it cannot be opened.
    pub fn open_on(namespace: &Namespace, interface: &str) -> Self {
        let ifindex = namespace.link_index(interface).unwrap_or_else(|error| panic!("{error}"));
        // BPF_RET | BPF_K of everything.
        let everything = Filter::from_instructions([(0x06, 0, 0, u32::MAX)]);
        let options = PortOptions {
            ifindex,
            receive_buffer_bytes: BUFFER_BYTES,
            send_buffer_bytes: BUFFER_BYTES,
            timestamps: false,
            ring: None,
            filter: &everything,
        };
        let socket = namespace.enter(|| packet::open_port(&options));
        let socket = socket.unwrap_or_else(|error| panic!("{interface}: {error}"));
        Self { socket, batch: FrameBatch::new(BATCH, ROOM_BYTES) }
    }

    /// Sends a frame.
    ///
    /// # Panics
    /// If the kernel does not take it.
    pub fn send(&self, frame: &[u8]) {
        let until = Instant::now() + PATIENCE;
        loop {
            let sent = FrameBatch::send_one(&self.socket, frame);
            if sent.frames == 1 {
                return;
            }
            // A full send buffer empties as the other end is read.
            assert!(sent.full == 1 && Instant::now() < until, "{sent:?}");
            std::thread::yield_now();
        }
    }

    /// Calls `each` with the frames that are there; how many.
    ///
    /// # Panics
    /// If they cannot be received.
    pub fn take(&mut self, mut each: impl FnMut(&[u8])) -> usize {
        let count = self.batch.receive(&self.socket).unwrap_or_else(|error| panic!("{error}"));
        for at in 0..count {
            let (room, info) = self.batch.frame(at);
            assert_eq!(info.bytes, info.wire_bytes, "a frame was cut");
            each(&room[..info.bytes]);
        }
        count
    }

    /// Frames that the kernel dropped because they were not taken in time.
    pub fn lost(&self) -> u64 {
        mcr_socket::dropped(&self.socket).unwrap_or(0)
    }

    /// Waits a moment for a frame.
    pub fn wait(&self, patience: Duration) {
        let mut polled = [PollFd::new(std::os::fd::AsFd::as_fd(&self.socket), PollFlags::POLLIN)];
        let _ = poll(&mut polled, PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX));
    }

    /// The next frame, which comes alone.
    ///
    /// # Panics
    /// If none comes.
    pub fn one(&mut self) -> Vec<u8> {
        let (mut frames, begun) = (Vec::new(), Instant::now());
        while frames.is_empty() {
            assert!(begun.elapsed() < PATIENCE, "no frame comes");
            self.wait(Duration::from_millis(100));
            self.take(|frame| frames.push(frame.to_vec()));
        }
        assert_eq!(frames.len(), 1, "one frame: {frames:02x?}");
        frames.remove(0)
    }

    /// The frames up to and with `last`.
    ///
    /// # Panics
    /// If that does not come.
    pub fn until(&mut self, last: &[u8]) -> Vec<Vec<u8>> {
        let (mut frames, begun) = (Vec::new(), Instant::now());
        while frames.last().is_none_or(|frame: &Vec<u8>| frame != last) {
            assert!(
                begun.elapsed() < PATIENCE,
                "it did not come back; {} others did: {frames:02x?}",
                frames.len()
            );
            self.wait(Duration::from_millis(100));
            self.take(|frame| frames.push(frame.to_vec()));
        }
        frames
    }
}

/// A test frame of this length with a number in it: `DATA:OT`, UDP 50000 to 3842, without tags.
///
/// # Panics
/// If the length has no room for it.
pub fn probe(bytes: usize, number: u64) -> Vec<u8> {
    let udp_bytes = u16::try_from(bytes - 34).expect("a frame's length");
    let mut frame = [&REFLECTOR_MAC[..], &TESTER_MAC, &[8, 0, 0x45, 0]].concat();
    frame.extend((udp_bytes + 20).to_be_bytes());
    frame.extend([0x12, 0x34, 0x40, 0, 64, 17, 0, 0, 192, 0, 2, 10, 192, 0, 2, 1, 0xc3, 0x50, 0x0f, 0x02]);
    frame.extend(udp_bytes.to_be_bytes());
    frame.extend([0, 0, 9, 0x10, 0xea, 0x1d, 0]);
    frame.extend(b"DATA:OT");
    frame.extend(number.to_be_bytes());
    let filled = frame.len();
    assert!(filled <= bytes, "{bytes} bytes are too few");
    // Content that another frame's would not be taken for.
    frame.extend((filled..bytes).map(|at| (number as usize).wrapping_mul(31).wrapping_add(at) as u8));
    frame
}

/// What must come back for a frame of [`probe`].
pub fn echo(frame: &[u8]) -> Vec<u8> {
    let mut reply = frame.to_vec();
    let exchange = |reply: &mut [u8], at: usize, width: usize| {
        let (a, b) = reply[at..at + 2 * width].split_at_mut(width);
        a.swap_with_slice(b);
    };
    exchange(&mut reply, 0, 6);
    exchange(&mut reply, 26, 4);
    exchange(&mut reply, 34, 2);
    reply
}

/// What came of [`load`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Test frames sent.
    pub sent: u64,
    /// Those that came back, each the right one, whole, and in its turn.
    pub back: u64,
    /// Other frames sent.
    pub foreign: u64,
}

/// Sends `count` numbered frames, at most `window` of them on their way at a time, with `foreign` frames of other traffic
/// before each, and compares what comes back byte by byte.
///
/// # Panics
/// On the first frame that is lost, doubled, damaged, out of turn, or not ours.
pub fn load(tester: &mut Tester, bytes: usize, count: u64, window: u64, foreign: &[Vec<u8>]) -> Load {
    let mut load = Load::default();
    let mut moved = Instant::now();
    while load.back < count {
        while load.sent < count && load.sent - load.back < window {
            for other in foreign {
                tester.send(other);
                load.foreign += 1;
            }
            tester.send(&probe(bytes, load.sent));
            load.sent += 1;
        }
        let got = tester.take(|frame| {
            let expected = echo(&probe(bytes, load.back));
            if frame != expected {
                let head =
                    |frame: &[u8]| format!("{} bytes: {:02x?}", frame.len(), &frame[..frame.len().min(64)]);
                panic!("frame {}: came {}, not {}", load.back, head(frame), head(&expected));
            }
            load.back += 1;
        });
        if got > 0 {
            moved = Instant::now();
        } else {
            let lost = tester.lost();
            assert!(
                moved.elapsed() < PATIENCE,
                "frame {} does not come back ({lost} lost here): {load:?}",
                load.back
            );
            tester.wait(Duration::from_millis(100));
        }
    }
    load
}

//! `mcrctl top` in a real terminal: what a user sees and presses, against a real daemon with traffic.
#![allow(clippy::unwrap_used)] // A test has no better answer to an error than to fail.

use std::{
    fs::File,
    io::{ErrorKind, Read, Write},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use mcr_e2e::{Bed, Cell, Daemon, command, daemon, eventually, programs, source};
use mcr_lab::require;
use mcr_proto::reflect::Reflect;
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    pty::{OpenptyResult, Winsize, openpty},
    sys::{
        signal::Signal,
        termios::{LocalFlags, tcgetattr},
    },
};

const INPUT: &str = "239.1.1.1:5000@in0";
const TO: &str = "239.1.1.1:5000";

fn size(columns: u16, rows: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

/// `mcrctl top` and the terminal it runs in.
struct Top {
    child: Child,
    screen: File,
    // Held, so that the terminal outlives the program and can be asked how it was left.
    terminal: File,
    picture: vt100::Parser,
}

impl Top {
    fn start(socket: &Path) -> Self {
        let OpenptyResult { master, slave } = openpty(Some(&size(80, 24)), None).unwrap();
        fcntl(master.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        let end = || Stdio::from(slave.try_clone().unwrap());
        // In a session of its own with this as its terminal, as a login has it: the kernel tells it of sizes then.
        let mut command = Command::new("setsid");
        command.arg("--ctty").arg(programs::program("mcrctl"));
        command.arg("--socket").arg(socket).arg("top").env("TERM", "xterm-256color");
        let child = command.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        let picture = vt100::Parser::new(24, 80, 0);
        Self { child, screen: master.into(), terminal: slave.into(), picture }
    }

    fn press(&mut self, keys: &str) {
        self.screen.write_all(keys.as_bytes()).unwrap();
    }

    /// What is on the screen now.
    fn text(&mut self) -> String {
        let mut bytes = [0; 4096];
        loop {
            match self.screen.read(&mut bytes) {
                Ok(0) => break,
                Ok(count) => self.picture.process(&bytes[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        self.picture.screen().contents()
    }

    #[track_caller]
    fn shows(&mut self, what: &str) {
        let mut last = String::new();
        let found = mcr_lab::wait_until(mcr_e2e::PATIENCE, what, || {
            last = self.text();
            last.contains(what)
        });
        assert!(found.is_ok(), "`{what}` is not shown:\n{last}");
    }

    /// Whether the terminal is as it was: with lines and echo, and without the view's screen.
    fn is_restored(&mut self) -> bool {
        self.text();
        let flags = tcgetattr(&self.terminal).unwrap().local_flags;
        let picture = self.picture.screen();
        flags.contains(LocalFlags::ICANON | LocalFlags::ECHO)
            && !picture.alternate_screen()
            && !picture.hide_cursor()
    }

    #[track_caller]
    fn ends(mut self) {
        let mut status = None;
        eventually("the view has ended", || {
            self.text();
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        assert!(status.unwrap().success(), "{status:?}");
        eventually("the terminal is as it was", || self.is_restored());
    }
}

impl Drop for Top {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn rules_with_their_rates_their_outputs_and_what_happens_to_them() {
    let Some(()) = require::netns() else { return };
    let mut bed = Bed::new(Cell::PACKET_URING, 1);
    bed.add("quiet", "239.1.1.9:5000@in0", &["239.2.2.9:6000@out0"]);
    bed.add("video", INPUT, &["239.2.2.2:6000@out0", "239.2.2.3:6000@out0,rate=1pps"]);
    let mut top = Top::start(bed.daemon.socket());
    let (source, done) = (bed.source(TO), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                source.send(&source::payloads(1, [100; 10]));
                thread::sleep(Duration::from_millis(20));
            }
        });
        let watched = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually("the rule with traffic is first, and is red", || {
                let text = top.text();
                let lines: Vec<_> = text.lines().collect();
                let first = lines.get(3).is_some_and(|line| line.starts_with("video"));
                let red = top
                    .picture
                    .screen()
                    .cell(3, 0)
                    .is_some_and(|cell| cell.fgcolor() == vt100::Color::Idx(1));
                first && red && lines.get(4).is_some_and(|line| line.starts_with("quiet"))
            });
            top.press("\r");
            top.shows("239.2.2.3:6000@out0,rate=1pps");
            // What does not fit within 80 columns is a matter of the pictures' tests.
            top.shows("from 239.1.1.1:5000@in0");
            top.press("\u{1b}");
            top.shows("BIT/S");
        }));
        done.store(true, Ordering::Relaxed);
        watched.unwrap();
    });
    top.press("/qui\r");
    top.shows("[qui]");
    assert!(!top.text().contains("video"), "{}", top.text());
    top.press("4");
    top.shows("Nothing has happened");
    bed.line.relay.set_down("out0").unwrap();
    top.shows("rule video paused: interface out0 is down");
    top.press("3");
    top.shows("10.2.0.1");
    top.press("2");
    top.shows("running");
    top.press("5");
    top.shows("No reflectors");
    bed.client.reflect_add(&Reflect::new("in0".parse().unwrap())).unwrap();
    top.shows("in0-3842         active");
    top.press("q");
    top.ends();
}

#[test]
fn the_terminal_may_change_its_size() {
    let Some(()) = require::netns() else { return };
    let mut bed = Bed::new(Cell::PACKET_URING, 1);
    bed.add("video", INPUT, &["239.2.2.2:6000@out0"]);
    let mut top = Top::start(bed.daemon.socket());
    top.shows("BIT/S");
    rustix::termios::tcsetwinsize(
        &top.terminal,
        rustix::termios::Winsize { ws_row: 10, ws_col: 40, ws_xpixel: 0, ws_ypixel: 0 },
    )
    .unwrap();
    top.picture.screen_mut().set_size(10, 40);
    eventually("it is drawn for 40 columns", || {
        let text = top.text();
        text.contains("DROP/S")
            && !text.contains("BIT/S")
            && text.lines().all(|line| line.chars().count() <= 40)
    });
    top.press("\u{3}");
    top.ends();
}

#[test]
fn a_daemon_that_goes_is_waited_for_and_a_signal_gives_the_terminal_back() {
    let Some(()) = require::netns() else { return };
    let bed = Bed::new(Cell::PACKET_URING, 1);
    let place = programs::directory_for_everyone();
    let socket: PathBuf = place.path().join("run/mcrd.sock");
    let mut top = Top::start(&socket);
    top.shows("No daemon yet");
    let options = Cell::PACKET_URING.daemon(1);
    let daemon = Daemon::start_at(&bed.line.relay, &options, &socket);
    top.shows("No rules.");
    daemon.stop();
    top.shows("daemon gone, reconnecting");
    let daemon = Daemon::start_at(&bed.line.relay, &options, &socket);
    daemon.client().rule_add(&Cell::PACKET_URING.rule("talkback", INPUT, &["239.2.2.2:6000@out0"])).unwrap();
    top.shows("talkback");
    assert!(!top.text().contains("reconnecting"));
    daemon::signal(top.child.id(), Signal::SIGTERM);
    top.ends();
}

#[test]
fn without_a_terminal_it_says_what_to_use_instead() {
    let ended = command::mcrctl(Path::new("/nonexistent/mcrd.sock"), &["top"]);
    ended.says(1, &["is not a terminal", "mcrctl stats --watch"]);
}

#[test]
fn watched_counters_are_written_again_and_again() {
    let Some(()) = require::netns() else { return };
    let mut bed = Bed::new(Cell::PACKET_URING, 1);
    bed.add("video", INPUT, &["239.2.2.2:6000@out0"]);
    let mut command = Command::new(programs::program("mcrctl"));
    command.arg("--socket").arg(bed.daemon.socket()).args(["--json", "stats", "video", "--watch"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let times: Vec<_> = lines
        .take(2)
        .map(|line| serde_json::from_str::<mcr_proto::rpc::Stats>(&line.unwrap()).unwrap().time_ns)
        .collect();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(times[1] > times[0], "{times:?}");
}

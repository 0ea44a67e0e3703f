//! A sender that is faster than what it measures: no stamps, no checksums, no wait but by spinning on a core of its own.

use std::{
    io::IoSlice,
    net::{SocketAddrV4, UdpSocket},
    os::fd::AsRawFd as _,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, sendmmsg, setsockopt, sockopt},
};

use crate::{case::Case, core};

/// Messages that one system call hands over when the schedule is behind.
const BATCH_MAX: usize = 32;
/// A superframe holds at most this many bytes, and datagrams (UDP_MAX_SEGMENTS before Linux 6.9).
const SUPERFRAME_BYTES_MAX: usize = 65_000;
const SUPERFRAME_DATAGRAMS_MAX: usize = 64;
/// The address of `src0`.
const SOURCE: &str = "10.1.0.1:0";

/// How the run is seen, and ended, from outside.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    pub(crate) stop: AtomicBool,
    /// Datagrams handed over so far.
    pub(crate) sent: AtomicU64,
}

/// What was sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sent {
    pub(crate) datagrams: u64,
    pub(crate) seconds: f64,
}

/// Sends the streams of a case in turn at `rate_pps` for `duration`, or less if it falls behind. Runs in the calling thread,
/// which must be in the source's namespace and is pinned to the sender's core.
pub(crate) fn run(case: Case, rate_pps: f64, duration: Duration, watch: &Watch) -> anyhow::Result<Sent> {
    core::pin(core::SENDER)?;
    let mut sender = Sender::open(case)?;
    let messages = (rate_pps * duration.as_secs_f64() / sender.per_message as f64).ceil() as u64;
    let messages_pps = rate_pps / sender.per_message as f64;
    let started = Instant::now();
    let mut done = 0;
    while done < messages && !watch.stop.load(Relaxed) {
        let elapsed = started.elapsed();
        if elapsed >= duration {
            break;
        }
        let due = ((elapsed.as_secs_f64() * messages_pps) as u64 + 1).min(messages);
        if due <= done {
            std::hint::spin_loop();
            continue;
        }
        done += sender.send(done, (due - done) as usize)?;
        watch.sent.store(done * sender.per_message as u64, Relaxed);
    }
    // The last message has its interval after it.
    let seconds = started.elapsed().as_secs_f64().max(done as f64 / messages_pps);
    Ok(Sent { datagrams: done * sender.per_message as u64, seconds })
}

/// Datagrams that one message of a case carries.
fn per_message(case: Case) -> usize {
    match case.superframes() {
        true => (SUPERFRAME_BYTES_MAX / case.payload_bytes()).min(SUPERFRAME_DATAGRAMS_MAX),
        false => 1,
    }
}

struct Sender {
    socket: UdpSocket,
    per_message: usize,
    payload: Vec<u8>,
    /// One for each stream, then those of the next turn, so that a batch from any stream on is in one row. None of them where
    /// the socket is connected, which saves the kernel a look-up for each datagram.
    addresses: Vec<Option<SockaddrIn>>,
    streams: usize,
    headers: MultiHeaders<SockaddrIn>,
}

impl Sender {
    fn open(case: Case) -> anyhow::Result<Self> {
        let socket = UdpSocket::bind(SOURCE).context("cannot open the sender's socket")?;
        setsockopt(&socket, sockopt::SndBufForce, &(8 << 20))?;
        socket.set_multicast_ttl_v4(16)?;
        socket.set_multicast_loop_v4(false)?;
        let groups: Vec<SocketAddrV4> = case.inputs();
        let per_message = per_message(case);
        if per_message > 1 {
            setsockopt(&socket, sockopt::UdpGsoSegment, &(case.payload_bytes() as i32))?;
        }
        let mut addresses = vec![None; BATCH_MAX];
        if let [group] = groups[..] {
            socket.connect(group).context("cannot connect the sender's socket")?;
        } else {
            addresses = groups
                .iter()
                .cycle()
                .take(groups.len() + BATCH_MAX)
                .map(|&group| Some(group.into()))
                .collect();
        }
        Ok(Self {
            socket,
            per_message,
            payload: vec![0; per_message * case.payload_bytes()],
            addresses,
            streams: groups.len(),
            headers: MultiHeaders::preallocate(BATCH_MAX, None),
        })
    }

    /// Hands over at most `messages`, of which the first is number `first` of all; says how many were taken.
    fn send(&mut self, first: u64, messages: usize) -> anyhow::Result<u64> {
        let messages = messages.min(if self.per_message > 1 { 1 } else { BATCH_MAX });
        let at = (first % self.streams as u64) as usize;
        let slices = [[IoSlice::new(&self.payload)]; BATCH_MAX];
        let to = &self.addresses[at..at + messages];
        let taken = sendmmsg(self.socket.as_raw_fd(), &mut self.headers, &slices, to, [], MsgFlags::empty());
        match taken {
            Ok(taken) => Ok(taken.count() as u64),
            // The relay refuses nothing and has time to catch up: trying again is what offering a rate means.
            Err(Errno::EINTR | Errno::EAGAIN | Errno::ENOBUFS | Errno::ECONNREFUSED) => Ok(0),
            Err(errno) => Err(errno).context("cannot send"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_superframe_of_whole_payloads_fits_a_udp_datagram() {
        let datagrams = per_message(Case::Superframes);
        assert!(datagrams > 40 && datagrams * 1400 <= 65_507);
        assert_eq!(per_message(Case::Streams50), 1);
    }
}

//! The reflector one writes first: a packet socket, `recvmmsg`, addresses and ports exchanged, `sendmmsg`. It looks at a frame's
//! port and at nothing else.

use std::{
    io::{IoSlice, IoSliceMut},
    os::fd::{AsFd as _, AsRawFd as _},
};

use nix::{
    net::if_::if_nametoindex,
    sys::{
        prctl,
        signal::Signal,
        socket::{MsgFlags, MultiHeaders, recvmmsg, sendmmsg, setsockopt, sockopt},
    },
};

use crate::sys;

const BATCH: usize = 64;
const FRAME_BYTES_MAX: usize = 2048;
const PORT: [u8; 2] = 3842_u16.to_be_bytes();

/// Answers every frame to UDP port 3842 on `ifname` until the process is ended.
pub(crate) fn run(ifname: &str) -> anyhow::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    let socket = sys::packet_socket(if_nametoindex(ifname)?, libc::ETH_P_ALL as u16)?;
    setsockopt(&socket, sockopt::RcvBufForce, &(16 << 20))?;
    setsockopt(&socket, sockopt::SndBufForce, &(8 << 20))?;
    for option in [libc::PACKET_QDISC_BYPASS, libc::PACKET_IGNORE_OUTGOING] {
        sys::set_option(socket.as_fd(), libc::SOL_PACKET, option, &1_i32.to_ne_bytes())?;
    }
    let mut headers = MultiHeaders::<()>::preallocate(BATCH, None);
    let mut buffers = vec![[0; FRAME_BYTES_MAX]; BATCH];
    loop {
        let mut slices: Vec<_> = buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
        let batch = recvmmsg(socket.as_raw_fd(), &mut headers, &mut slices, MsgFlags::MSG_WAITFORONE, None)?;
        let lengths: Vec<usize> = batch.map(|message| message.bytes).collect();
        let ours = buffers.iter_mut().zip(lengths).filter(|(frame, _)| frame[36..38] == PORT);
        let replies: Vec<_> = ours.map(|(frame, bytes)| [IoSlice::new(&swapped(frame)[..bytes])]).collect();
        let to = &[None; BATCH][..replies.len()];
        // What the kernel does not take is lost, and counted as that by who compares.
        let _ = sendmmsg(socket.as_raw_fd(), &mut headers, &replies, to, [], MsgFlags::empty());
    }
}

/// The frame with source and destination exchanged, of MAC and IPv4 addresses and UDP ports.
fn swapped(frame: &mut [u8; FRAME_BYTES_MAX]) -> &[u8] {
    for (at, width) in [(0, 6), (26, 4), (34, 2)] {
        let (source, destination) = frame[at..at + 2 * width].split_at_mut(width);
        source.swap_with_slice(destination);
    }
    frame
}

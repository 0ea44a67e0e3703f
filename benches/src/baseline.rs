//! What one writes first: a UDP socket joined to all groups, `recvmmsg`, and a `sendmmsg` for each output.

use std::{
    io::{IoSlice, IoSliceMut},
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    os::fd::AsRawFd as _,
};

use anyhow::Context as _;
use nix::{
    cmsg_space,
    errno::Errno,
    libc::in_pktinfo,
    sys::{
        prctl,
        signal::Signal,
        socket::{
            ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg, setsockopt, sockopt,
        },
    },
};

use crate::case::{INPUT_BYTE, INPUT_PORT, OUTPUT_BYTE, OUTPUT_PORT, group};

const BATCH: usize = 64;
const DATAGRAM_BYTES_MAX: usize = 2048;
/// The address of `in0`.
const INPUT: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);

/// Relays the first `inputs` streams to all `outputs` until the process is ended.
pub(crate) fn run(inputs: u16, outputs: &[String]) -> anyhow::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    let input = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, INPUT_PORT))?;
    setsockopt(&input, sockopt::RcvBufForce, &(8 << 20)).context("cannot set the receive buffer")?;
    setsockopt(&input, sockopt::Ipv4PacketInfo, &true)?;
    for stream in 0..inputs {
        input.join_multicast_v4(&group(INPUT_BYTE, stream), &INPUT)?;
    }
    let outputs = outputs.iter().map(|ifname| open(ifname)).collect::<anyhow::Result<Vec<_>>>()?;
    relay(&input, &outputs)
}

fn open(ifname: &str) -> anyhow::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    setsockopt(&socket, sockopt::BindToDevice, &ifname.into())
        .with_context(|| format!("cannot send by {ifname}"))?;
    socket.set_multicast_loop_v4(false)?;
    socket.set_multicast_ttl_v4(16)?;
    Ok(socket)
}

fn relay(input: &UdpSocket, outputs: &[UdpSocket]) -> anyhow::Result<()> {
    let mut received = MultiHeaders::<SockaddrIn>::preallocate(BATCH, Some(cmsg_space!(in_pktinfo)));
    let mut sent = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let mut buffers = vec![[0; DATAGRAM_BYTES_MAX]; BATCH];
    let mut arrivals: Vec<(usize, Ipv4Addr)> = Vec::with_capacity(BATCH);
    loop {
        let mut slices: Vec<_> = buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
        let batch =
            match recvmmsg(input.as_raw_fd(), &mut received, &mut slices, MsgFlags::MSG_WAITFORONE, None) {
                Ok(batch) => batch,
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(errno).context("cannot receive"),
            };
        arrivals.clear();
        for message in batch {
            arrivals.push((message.bytes, message.cmsgs()?.find_map(group_of).context("no address")?));
        }
        let slices: Vec<_> = buffers
            .iter()
            .zip(&arrivals)
            .map(|(buffer, &(bytes, _))| [IoSlice::new(&buffer[..bytes])])
            .collect();
        let to: Vec<_> = arrivals.iter().map(|&(_, group)| Some(translated(group))).collect();
        for output in outputs {
            // What the kernel does not take is lost, and counted as that by who compares.
            let _ = sendmmsg(output.as_raw_fd(), &mut sent, &slices, &to, [], MsgFlags::empty());
        }
    }
}

fn group_of(message: ControlMessageOwned) -> Option<Ipv4Addr> {
    match message {
        // In network order, as it was in the header.
        ControlMessageOwned::Ipv4PacketInfo(info) => Some(info.ipi_addr.s_addr.to_ne_bytes().into()),
        _ => None,
    }
}

fn translated(group: Ipv4Addr) -> SockaddrIn {
    let [a, _, x, y] = group.octets();
    SocketAddrV4::new(Ipv4Addr::new(a, OUTPUT_BYTE, x, y), OUTPUT_PORT).into()
}

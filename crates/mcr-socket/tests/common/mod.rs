//! Receiving with everything the kernel tells, and frames made by hand.
#![allow(dead_code)] // Each test program uses its own part.

use mcr_lab::wait_until;
use mcr_socket::filter::Filter;
use mcr_socket::packet::{self, PacketOptions};
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

pub(crate) const DEADLINE: Duration = Duration::from_secs(5);

/// One message with its address and control bytes.
#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) data: Vec<u8>,
    pub(crate) name: Vec<u8>,
    pub(crate) control: Vec<u8>,
}

/// Receives what is there; `None` if nothing is.
pub(crate) fn try_recv(fd: &OwnedFd) -> io::Result<Option<Got>> {
    let mut got = Got { data: vec![0; 70_000], name: vec![0; 128], control: vec![0; 512] };
    let mut iov = libc::iovec { iov_base: got.data.as_mut_ptr().cast(), iov_len: got.data.len() };
    // SAFETY: msghdr is a C struct of integers and pointers, for which all zero bits are a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut iov;
    message.msg_iovlen = 1;
    message.msg_name = got.name.as_mut_ptr().cast();
    message.msg_namelen = got.name.len() as libc::socklen_t;
    message.msg_control = got.control.as_mut_ptr().cast();
    message.msg_controllen = got.control.len() as _;
    // SAFETY: every pointer in `message` is to a live buffer of the length given beside it.
    let bytes = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, 0) };
    if bytes < 0 {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::WouldBlock { Ok(None) } else { Err(error) };
    }
    got.data.truncate(bytes as usize);
    got.name.truncate(message.msg_namelen as usize);
    got.control.truncate(message.msg_controllen as usize);
    Ok(Some(got))
}

/// Waits for a message.
pub(crate) fn recv(fd: &OwnedFd) -> Got {
    let mut got = None;
    wait_until(DEADLINE, "a message has come", || {
        got = try_recv(fd).unwrap();
        got.is_some()
    })
    .unwrap();
    got.unwrap()
}

/// A UDP send to which any address family may be given; the socket stays the caller's.
pub(crate) fn sender(fd: &OwnedFd) -> std::net::UdpSocket {
    fd.try_clone().unwrap().into()
}

/// Something that puts frames on an interface as they are.
pub(crate) struct Injector(File);

impl Injector {
    pub(crate) fn new(ifindex: u32) -> Self {
        let filter = Filter::drop_all();
        let options =
            PacketOptions { ifindex, vnet_hdr: false, receive_buffer_bytes: 0, ring: None, filter: &filter };
        Self(packet::open(&options).unwrap().into())
    }

    pub(crate) fn send(&mut self, frame: &[u8]) {
        io::Write::write_all(&mut self.0, frame).unwrap();
    }
}

pub(crate) const BROADCAST: [u8; 6] = [0xff; 6];

pub(crate) fn ethernet(to: [u8; 6], protocol: u16, rest: &[u8]) -> Vec<u8> {
    [&to[..], &[2, 0, 0, 0, 0, 9], &protocol.to_be_bytes(), rest].concat()
}

/// An IPv4 packet with a right header checksum.
pub(crate) fn ipv4(source: Ipv4Addr, to: Ipv4Addr, fragment: u16, protocol: u8, rest: &[u8]) -> Vec<u8> {
    let total = (20 + rest.len()) as u16;
    let mut ip =
        [&[0x45, 0][..], &total.to_be_bytes(), &[0, 7], &fragment.to_be_bytes(), &[5, protocol]].concat();
    ip.extend([0, 0]);
    ip.extend(source.octets());
    ip.extend(to.octets());
    let sum: u32 = ip.chunks(2).map(|two| u32::from(u16::from_be_bytes([two[0], two[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = !((folded & 0xffff) + (folded >> 16)) as u16;
    ip[10..12].copy_from_slice(&folded.to_be_bytes());
    ip.extend(rest);
    ip
}

pub(crate) fn ipv6(source: Ipv6Addr, to: Ipv6Addr, next: u8, rest: &[u8]) -> Vec<u8> {
    let length = (rest.len() as u16).to_be_bytes();
    [&[0x60, 0, 0, 0][..], &length, &[next, 5], &source.octets(), &to.octets(), rest].concat()
}

/// UDP without a checksum.
pub(crate) fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
    let length = (8 + payload.len()) as u16;
    [&9u16.to_be_bytes()[..], &port.to_be_bytes(), &length.to_be_bytes(), &[0, 0], payload].concat()
}

/// UDP over IPv6, where a checksum is a must: computed over the pseudo header (RFC 8200, section 8.1).
pub(crate) fn udp6(source: Ipv6Addr, to: Ipv6Addr, port: u16, payload: &[u8]) -> Vec<u8> {
    let mut datagram = udp(port, payload);
    let length = datagram.len() as u32;
    let pseudo = [&source.octets()[..], &to.octets(), &length.to_be_bytes(), &[0, 0, 0, 17]].concat();
    let covered = [&pseudo[..], &datagram, &[0][..length as usize % 2]].concat();
    let sum: u32 = covered.chunks(2).map(|two| u32::from(u16::from_be_bytes([two[0], two[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = !((folded & 0xffff) + (folded >> 16)) as u16;
    datagram[6..8].copy_from_slice(&folded.to_be_bytes());
    datagram
}

/// Runs with no right at all, as user nobody; only this thread, by the bare system call (setresuid(2), C library notes).
pub(crate) fn as_nobody<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: takes three integers.
            let result = unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) };
            assert_eq!(result, 0, "{}", io::Error::last_os_error());
            f()
        });
        thread.join().unwrap()
    })
}

//! Tun devices: interfaces without a link layer, whose other end is a descriptor.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::error::LabError;
use crate::namespace::Namespace;

mod request {
    nix::ioctl_write_ptr_bad!(
        /// TUNSETIFF of linux/if_tun.h; reads and writes a `struct ifreq`.
        set_interface,
        nix::request_code_write!(b'T', 202, size_of::<nix::libc::c_int>()),
        nix::libc::ifreq
    );
}

/// A tun device, which is gone with its last descriptor. Packets are IP packets: nothing is in front of them.
#[derive(Debug)]
pub struct Tun(File);

impl Tun {
    /// Makes the device `name` in a namespace, down. It has one queue, of the kernel's usual length.
    pub fn new(namespace: &Namespace, name: &str) -> Result<Self, LabError> {
        namespace
            .try_enter(|| open(name))?
            .map(Self)
            .map_err(|source| LabError::Request { what: format!("make tun device {name}"), source })
    }

    /// Gives the host a packet, as if it had come in by the device.
    ///
    /// # Errors
    /// Those of the kernel; EIO while the device is down.
    pub fn write(&self, packet: &[u8]) -> io::Result<()> {
        let written = (&self.0).write(packet)?;
        if written == packet.len() { Ok(()) } else { Err(ErrorKind::WriteZero.into()) }
    }

    /// The next packet that the host sends by the device; none if there is none within `patience`.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn read(&self, patience: Duration) -> io::Result<Option<Vec<u8>>> {
        let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
        if poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], timeout)? == 0 {
            return Ok(None);
        }
        let mut packet = vec![0; 1 << 16];
        let bytes = (&self.0).read(&mut packet)?;
        packet.truncate(bytes);
        Ok(Some(packet))
    }
}

#[allow(unsafe_code)]
fn open(name: &str) -> io::Result<File> {
    // A name that is too long must not be cut: the device would not be found by it.
    if name.len() >= libc::IFNAMSIZ || name.contains('\0') {
        return Err(ErrorKind::InvalidInput.into());
    }
    let file = File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
    let mut ifr_name = [0; libc::IFNAMSIZ];
    ifr_name.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from as libc::c_char);
    let flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    let device = libc::ifreq { ifr_name, ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags } };
    // SAFETY: the descriptor is that of an open tun file, for which the request takes an `ifreq` with name and flags; it lives
    // until the call returns.
    unsafe { request::set_interface(std::os::fd::AsRawFd::as_raw_fd(&file), &raw const device) }?;
    Ok(file)
}

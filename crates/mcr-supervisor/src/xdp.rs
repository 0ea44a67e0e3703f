//! AF_XDP for reflectors: the program on an interface, a socket for each of its queues, and the way they run.
//!
//! A [`Redirect`] is opened here, where the rights are; its sockets and their memory are passed to a process that has none. Ways are
//! tried in order: in the driver and without copying, in the driver, in the stack. Which it became is told. All of it leaves
//! with this process, however that ends.

mod selection;

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use mcr_ebpf::xsk::{Attachment, Verdict, XskError, XskFilter};
use mcr_reflect::Config;
use mcr_xdp::{Binding, HEADROOM_BYTES, OpenError, Opened, Shape};
use nix::sys::resource::{Resource, getrlimit};

use selection::selection;

/// Entries of each ring: a burst of 2,000 frames fits, or that and whatever comes while the process waits some milliseconds for its
/// processor. With more queues each gets less of what comes.
const ENTRIES: u32 = 2048;
const ENTRIES_AMPLE: u32 = 8192;
const QUEUES_AMPLE_MAX: u32 = 4;
/// Frames for replies that are not sent in place.
const RESERVE_FRAMES: u32 = 16;
/// Ethernet header and two tags, and what the reply to a TWAMP or STAMP request can be longer than it.
const SPARE_BYTES: u32 = 14 + 8 + 98;
/// The usual limit of locked memory is 8 MiB, for all processes of a user. Above this there are the ample rings, if need be, and twice as
/// many frames as the receive ring holds, so that as many again can be on their way out.
const MEMLOCK_BYTES_AMPLE: u64 = 256 << 20;
/// Sizes of a frame's memory that are tried; the latter takes pages of 4 KiB.
const FRAME_BYTES: [u32; 2] = [2048, 4096];
/// A queue that a socket has just left is the kernel's for some milliseconds more.
const BUSY_WAIT: Duration = Duration::from_millis(200);
const BUSY_PAUSE: Duration = Duration::from_millis(2);

/// Which ways are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Wish {
    /// The driver, then the stack.
    #[default]
    Best,
    /// The stack only: what a driver that misbehaves can be avoided with.
    Generic,
}

/// The way it became.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Platform {
    /// The program runs in the driver, which works on the frames' memory directly.
    NativeZeroCopy,
    /// The program runs in the driver; frames are copied once.
    Native,
    /// The program runs in the stack; frames are copied.
    Generic,
}

impl Platform {
    /// Its name in statistics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NativeZeroCopy => "xdp-zerocopy",
            Self::Native => "xdp-native",
            Self::Generic => "xdp-generic",
        }
    }
}

/// Why there is no AF_XDP on an interface.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RedirectError {
    /// The program cannot be there.
    #[error(transparent)]
    Program(#[from] XskError),
    /// A socket cannot be had.
    #[error(transparent)]
    Socket(#[from] OpenError),
    /// The interface's frames do not fit one piece of memory.
    #[error("an MTU of {mtu} is too long for AF_XDP: at most {max}")]
    Mtu {
        /// The interface's.
        mtu: usize,
        /// The longest that fits.
        max: u32,
    },
}

impl RedirectError {
    /// Whether it was for want of rights.
    #[must_use]
    pub fn is_not_permitted(&self) -> bool {
        match self {
            Self::Program(XskError::NotPermitted) => true,
            Self::Socket(OpenError::Socket(error)) => error.kind() == io::ErrorKind::PermissionDenied,
            _ => false,
        }
    }
}

/// The program on one interface, and this process's hold on the sockets.
#[derive(Debug)]
pub struct Redirect {
    filter: XskFilter,
    sockets: Vec<OwnedFd>,
    platform: Platform,
    times: bool,
}

impl Redirect {
    /// Attaches to an interface of the calling thread's namespace and opens a socket for each of its queues, for the process that
    /// reflects. The stack goes on getting every frame until [`Redirect::begin`]. `times` has each frame tell when it came.
    ///
    /// Waits at most 200 ms, where sockets of these queues were closed just before.
    ///
    /// # Errors
    /// [`RedirectError`] of the last way that was tried; nothing is left behind.
    pub fn open(
        interface: &str,
        ifindex: u32,
        config: &Config,
        times: bool,
        wish: Wish,
    ) -> Result<(Self, Vec<Opened>), RedirectError> {
        // What cannot be asked has one.
        let queues = mcr_xdp::queues(interface).unwrap_or(1).min(mcr_ebpf::xsk::QUEUES_MAX);
        let limit = getrlimit(Resource::RLIMIT_MEMLOCK).map_or(0, |(soft, _)| soft);
        let shape = shape(config.mtu, queues, limit >= MEMLOCK_BYTES_AMPLE)?;
        let open = |attachment| Self::open_as(attachment, ifindex, queues, shape, config, times);
        if wish == Wish::Best {
            match open(Attachment::Native) {
                Err(RedirectError::Program(XskError::Attach { .. }) | RedirectError::Socket(_)) => {}
                other => return other,
            }
        }
        open(Attachment::Generic)
    }

    fn open_as(
        attachment: Attachment,
        ifindex: u32,
        queues: u32,
        shape: Shape,
        config: &Config,
        times: bool,
    ) -> Result<(Self, Vec<Opened>), RedirectError> {
        let filter = XskFilter::attach_as(attachment, ifindex, &selection(config, times))?;
        let binding = match attachment {
            Attachment::Native => Binding::Best,
            Attachment::Generic => Binding::Copy,
        };
        let (mut opened, mut sockets) = (Vec::new(), Vec::new());
        for queue in 0..queues {
            let queue =
                open_queue(&mcr_xdp::Config { shape, binding, ..mcr_xdp::Config::new(ifindex, queue) })?;
            sockets.push(queue.socket.try_clone().map_err(OpenError::Socket)?);
            opened.push(queue);
        }
        let platform = match attachment {
            Attachment::Generic => Platform::Generic,
            Attachment::Native if opened.iter().all(|queue| queue.zero_copy) => Platform::NativeZeroCopy,
            Attachment::Native => Platform::Native,
        };
        Ok((Self { filter, sockets, platform, times }, opened))
    }

    /// Gives the sockets their frames from now on: the process that has them is ready.
    ///
    /// # Errors
    /// [`RedirectError::Program`].
    pub fn begin(&mut self) -> Result<(), RedirectError> {
        for (queue, socket) in (0..).zip(&self.sockets) {
            self.filter.add(queue, socket.as_fd())?;
        }
        Ok(())
    }

    /// Wants what other options want.
    ///
    /// # Errors
    /// [`RedirectError::Program`]; the old options hold then.
    pub fn select(&mut self, config: &Config) -> Result<(), RedirectError> {
        Ok(self.filter.select(&selection(config, self.times))?)
    }

    /// The way it became.
    #[must_use]
    pub fn platform(&self) -> Platform {
        self.platform
    }

    /// Frames that were redirected and that the kernel dropped, because the process was too slow.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        let of = |socket: &OwnedFd| mcr_xdp::statistics(socket.as_fd()).unwrap_or_default();
        self.sockets.iter().map(of).map(|counted| counted.receive_dropped + counted.receive_ring_full).sum()
    }

    /// Frames that the program let go to the stack, by the reflector's names of the reasons: near misses, or all of them.
    #[must_use]
    pub fn passed(&self, all: bool) -> Vec<(&'static str, u64)> {
        let counts = if all { self.filter.counts() } else { self.filter.near_misses() };
        let Ok(counts) = counts else { return Vec::new() };
        let passed =
            counts.iter().filter(|(verdict, _)| !matches!(verdict, Verdict::Redirected | Verdict::NoSocket));
        passed.map(|(verdict, frames)| (verdict.name(), frames)).collect()
    }
}

fn shape(mtu: usize, queues: u32, ample: bool) -> Result<Shape, RedirectError> {
    let holds = |frame_bytes: u32| frame_bytes - HEADROOM_BYTES - SPARE_BYTES;
    let [_, largest] = FRAME_BYTES;
    let fits = FRAME_BYTES.into_iter().find(|&frame_bytes| mtu <= holds(frame_bytes) as usize);
    let frame_bytes = fits.ok_or(RedirectError::Mtu { mtu, max: holds(largest) })?;
    let entries = if ample && queues <= QUEUES_AMPLE_MAX { ENTRIES_AMPLE } else { ENTRIES };
    let frames = if ample { 2 * entries } else { entries };
    Ok(Shape { frames, frame_bytes, reserve_frames: RESERVE_FRAMES, ..Shape::with_entries(entries) })
}

fn open_queue(config: &mcr_xdp::Config) -> Result<Opened, OpenError> {
    let started = Instant::now();
    loop {
        match Opened::open(config) {
            Err(OpenError::Bind { source, .. })
                if source.kind() == io::ErrorKind::ResourceBusy && started.elapsed() < BUSY_WAIT =>
            {
                thread::sleep(BUSY_PAUSE);
            }
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_and_its_reply_fit_the_memory_or_the_mtu_is_refused() {
        let frame_bytes = |mtu| shape(mtu, 1, true).map(|shape| shape.frame_bytes);
        assert_eq!(frame_bytes(1500).expect("fits"), 2048);
        assert_eq!(frame_bytes(1672).expect("fits"), 2048);
        assert_eq!(frame_bytes(1673).expect("fits"), 4096);
        assert_eq!(frame_bytes(3720).expect("fits"), 4096);
        assert!(matches!(frame_bytes(3721), Err(RedirectError::Mtu { mtu: 3721, max: 3720 })));
    }

    #[test]
    fn the_frames_of_all_queues_fit_the_memory_that_may_be_locked() {
        let bytes = |queues, ample| {
            u64::from(queues) * shape(3720, queues, ample).expect("fits").memory_bytes() as u64
        };
        assert!(bytes(1, false) <= 8 << 20);
        assert!(bytes(QUEUES_AMPLE_MAX, true) <= MEMLOCK_BYTES_AMPLE);
        assert!(bytes(64, true) <= 1 << 30);
    }
}

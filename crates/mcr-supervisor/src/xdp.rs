//! AF_XDP for reflectors: the program on an interface, a socket for each of its queues, and the way they run.
//!
//! A [`Redirect`] is opened here, where the rights are; its sockets and their memory are passed to a process that has none. Ways are
//! tried in order: in the driver and without copying, in the driver, in the stack. Which it became is told. All of it leaves
//! with this process, however that ends. A queue whose process has died gets a new socket, and the others go on meanwhile.

mod selection;

use std::{
    io,
    ops::Range,
    os::fd::{AsFd, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use mcr_ebpf::xsk::{Attachment, Verdict, XskError, XskFilter};
use mcr_proto::reflect::Queues;
use mcr_reflect::Config;
use mcr_xdp::{Binding, HEADROOM_BYTES, OpenError, Opened, Shape};
use tracing::info;

use crate::rights::lockable_bytes;
use selection::selection;

/// Entries of each ring: a burst of 2,000 frames fits, or that and whatever comes while the process waits some milliseconds for its
/// processor. With more queues each gets less of what comes.
const ENTRIES: u32 = 2048;
const ENTRIES_AMPLE: u32 = 8192;
/// Fewer would be lost in one turn of the process.
const ENTRIES_MIN: u32 = 256;
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

    /// Whether the frames' memory is more than may be locked (RLIMIT_MEMLOCK, which is for all processes of a user).
    fn is_for_want_of_memory(&self) -> bool {
        matches!(self, Self::Socket(OpenError::Register { source, .. }) if source.raw_os_error() == Some(nix::libc::ENOBUFS))
    }
}

/// What is to be redirected to whom.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The interface's name, in the calling thread's namespace.
    pub interface: &'a str,
    /// Its index.
    pub ifindex: u32,
    /// How many of its queues get a socket.
    pub queues: Queues,
    /// What the reflector does.
    pub config: &'a Config,
    /// Each frame tells when it came.
    pub times: bool,
    /// Which ways are tried.
    pub wish: Wish,
}

/// The program on one interface, and this process's hold on the sockets.
#[derive(Debug)]
pub struct Redirect {
    filter: XskFilter,
    /// By queue; none where its process has died and no other has begun.
    sockets: Vec<Option<OwnedFd>>,
    /// How they are made.
    socket: mcr_xdp::Config,
    /// What those of before dropped.
    dropped_before: u64,
    platform: Platform,
    times: bool,
}

impl Redirect {
    /// Attaches to an interface and opens a socket for each queue that is wanted, for the processes that reflect. The stack goes on getting
    /// every frame of a queue until [`Redirect::begin`], and of queues without a socket always.
    ///
    /// Waits at most 200 ms, where sockets of these queues were closed just before.
    ///
    /// # Errors
    /// [`RedirectError`] of the last way that was tried; nothing is left behind.
    pub fn open(wanted: &Wanted<'_>) -> Result<(Self, Vec<Opened>), RedirectError> {
        // What cannot be asked has one.
        let there = mcr_xdp::queues(wanted.interface).unwrap_or(1).min(mcr_ebpf::xsk::QUEUES_MAX);
        let queues = wanted.queues.of(there);
        if queues < there {
            info!(interface = wanted.interface, "frames of queues {queues} to {} go to the stack", there - 1);
        }
        let mut shape = shape(wanted.config.mtu, queues, lockable_bytes())?;
        loop {
            match Self::open_shaped(wanted, queues, shape) {
                // Others of this user have locked some of what may be locked.
                Err(problem) if problem.is_for_want_of_memory() && can_be_halved(&shape) => {
                    shape = halved(&shape);
                }
                opened => return opened,
            }
        }
    }

    fn open_shaped(
        wanted: &Wanted<'_>,
        queues: u32,
        shape: Shape,
    ) -> Result<(Self, Vec<Opened>), RedirectError> {
        let open = |attachment| Self::open_as(attachment, wanted, queues, shape);
        if wanted.wish == Wish::Best {
            match open(Attachment::Native) {
                Err(RedirectError::Program(XskError::Attach { .. })) => {}
                Err(problem @ RedirectError::Socket(_)) if !problem.is_for_want_of_memory() => {}
                other => return other,
            }
        }
        open(Attachment::Generic)
    }

    fn open_as(
        attachment: Attachment,
        wanted: &Wanted<'_>,
        queues: u32,
        shape: Shape,
    ) -> Result<(Self, Vec<Opened>), RedirectError> {
        let Wanted { ifindex, config, times, .. } = *wanted;
        let filter = XskFilter::attach_as(attachment, ifindex, &selection(config, times))?;
        let binding = match attachment {
            Attachment::Native => Binding::Best,
            Attachment::Generic => Binding::Copy,
        };
        let socket = mcr_xdp::Config { shape, binding, ..mcr_xdp::Config::new(ifindex, 0) };
        let (mut opened, mut sockets) = (Vec::new(), Vec::new());
        for queue in 0..queues {
            let queue = open_queue(&mcr_xdp::Config { queue, ..socket })?;
            sockets.push(Some(queue.socket.try_clone().map_err(OpenError::Socket)?));
            opened.push(queue);
        }
        let platform = match attachment {
            Attachment::Generic => Platform::Generic,
            Attachment::Native if opened.iter().all(|queue| queue.zero_copy) => Platform::NativeZeroCopy,
            Attachment::Native => Platform::Native,
        };
        Ok((Self { filter, sockets, socket, dropped_before: 0, platform, times }, opened))
    }

    /// Whether each frame tells when it came.
    #[must_use]
    pub fn tells_times(&self) -> bool {
        self.times
    }

    /// How many queues have, or had, a socket: the first ones.
    #[must_use]
    pub fn queues(&self) -> u32 {
        // As many as were counted in this type before.
        self.sockets.len() as u32
    }

    /// Gives a queue's socket its frames from now on: the process that has it is ready.
    ///
    /// # Errors
    /// [`RedirectError::Program`].
    pub fn begin(&mut self, queue: u32) -> Result<(), RedirectError> {
        match self.sockets.get(queue as usize) {
            Some(Some(socket)) => Ok(self.filter.add(queue, socket.as_fd())?),
            _ => Ok(()),
        }
    }

    /// Gives a queue's frames to the stack: the process that had its socket is gone, and the frames it held with it.
    pub fn close(&mut self, queue: u32) {
        // The kernel takes a socket out of the map when its last descriptor is closed.
        if let Some(socket) = self.sockets.get_mut(queue as usize).and_then(Option::take) {
            self.dropped_before += dropped(&socket);
        }
    }

    /// New sockets, all of one size, for queues that were closed. Where memory is short they have less room for frames than the old ones, if
    /// `less_will_do`: what those had may come back in a moment.
    ///
    /// # Errors
    /// [`RedirectError::Socket`]; the queue, too, may be taken for some milliseconds more, which nobody waits for here.
    pub fn reopen(&mut self, queues: Range<u32>, less_will_do: bool) -> Result<Vec<Opened>, RedirectError> {
        let mut shape = self.socket.shape;
        loop {
            let opened = queues.clone().map(|queue| self.reopen_one(queue, shape));
            match opened.collect() {
                Err(problem) if less_will_do && problem.is_for_want_of_memory() && can_be_halved(&shape) => {
                    shape = halved(&shape);
                }
                opened => return opened,
            }
        }
    }

    fn reopen_one(&mut self, queue: u32, shape: Shape) -> Result<Opened, RedirectError> {
        self.close(queue);
        let opened = Opened::open(&mcr_xdp::Config { queue, shape, ..self.socket })?;
        let socket = opened.socket.try_clone().map_err(OpenError::Socket)?;
        if let Some(place) = self.sockets.get_mut(queue as usize) {
            *place = Some(socket);
        }
        Ok(opened)
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
        self.dropped_before + self.sockets.iter().flatten().map(dropped).sum::<u64>()
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

fn dropped(socket: &OwnedFd) -> u64 {
    let counted = mcr_xdp::statistics(socket.as_fd()).unwrap_or_default();
    counted.receive_dropped + counted.receive_ring_full
}

/// The sizes for each of the queues, whose frames all fit what may be locked.
fn shape(mtu: usize, queues: u32, memlock_bytes: u64) -> Result<Shape, RedirectError> {
    let holds = |frame_bytes: u32| frame_bytes - HEADROOM_BYTES - SPARE_BYTES;
    let [_, largest] = FRAME_BYTES;
    let fits = FRAME_BYTES.into_iter().find(|&frame_bytes| mtu <= holds(frame_bytes) as usize);
    let frame_bytes = fits.ok_or(RedirectError::Mtu { mtu, max: holds(largest) })?;
    let ample = memlock_bytes >= MEMLOCK_BYTES_AMPLE;
    let entries = if ample {
        if queues <= QUEUES_AMPLE_MAX { ENTRIES_AMPLE } else { ENTRIES }
    } else {
        let frames = memlock_bytes / (u64::from(queues) * u64::from(frame_bytes));
        let frames = u32::try_from(frames).unwrap_or(ENTRIES).clamp(ENTRIES_MIN, ENTRIES);
        // The largest power of two that is not more.
        1 << frames.ilog2()
    };
    let frames = if ample { 2 * entries } else { entries };
    Ok(Shape { frames, frame_bytes, reserve_frames: RESERVE_FRAMES, ..Shape::with_entries(entries) })
}

fn can_be_halved(shape: &Shape) -> bool {
    shape.receive_entries > ENTRIES_MIN
}

fn halved(shape: &Shape) -> Shape {
    let Shape { frames, frame_bytes, reserve_frames, receive_entries, .. } = *shape;
    Shape { frames: frames / 2, frame_bytes, reserve_frames, ..Shape::with_entries(receive_entries / 2) }
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
    fn half_as_much_memory_has_half_as_many_frames_of_the_same_size() {
        let shape = shape(3000, 1, u64::MAX).expect("fits");
        let half = halved(&shape);
        assert_eq!((half.memory_bytes() * 2, half.frame_bytes), (shape.memory_bytes(), 4096));
        assert_eq!((half.fill_entries * 2, half.reserve_frames), (shape.fill_entries, RESERVE_FRAMES));
        let refused = |errno| {
            let source = io::Error::from_raw_os_error(errno);
            RedirectError::Socket(OpenError::Register { bytes: 1, source }).is_for_want_of_memory()
        };
        assert!(refused(nix::libc::ENOBUFS) && !refused(nix::libc::EINVAL));
    }

    #[test]
    fn a_frame_and_its_reply_fit_the_memory_or_the_mtu_is_refused() {
        let frame_bytes = |mtu| shape(mtu, 1, u64::MAX).map(|shape| shape.frame_bytes);
        assert_eq!(frame_bytes(1500).expect("fits"), 2048);
        assert_eq!(frame_bytes(1672).expect("fits"), 2048);
        assert_eq!(frame_bytes(1673).expect("fits"), 4096);
        assert_eq!(frame_bytes(3720).expect("fits"), 4096);
        assert!(matches!(frame_bytes(3721), Err(RedirectError::Mtu { mtu: 3721, max: 3720 })));
    }

    #[test]
    fn the_frames_of_all_queues_fit_the_memory_that_may_be_locked() {
        let bytes = |queues, limit| {
            u64::from(queues) * shape(3720, queues, limit).expect("fits").memory_bytes() as u64
        };
        let usual = 8 << 20;
        assert_eq!(bytes(1, usual), usual);
        assert_eq!(bytes(2, usual), usual);
        assert!(bytes(3, usual) <= usual);
        assert_eq!(
            shape(1500, 64, usual).expect("fits").frames,
            ENTRIES_MIN,
            "more than may be locked: refused"
        );
        assert!(bytes(QUEUES_AMPLE_MAX, u64::MAX) <= MEMLOCK_BYTES_AMPLE);
        assert!(bytes(64, u64::MAX) <= 1 << 30);
    }
}

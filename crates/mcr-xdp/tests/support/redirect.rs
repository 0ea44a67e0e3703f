//! The smallest XDP program that redirects to sockets, made of its instructions: this crate brings none, and its tests need no compiler.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_MAP_TYPE_XSKMAP: u32 = 17;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
/// XDP_FLAGS_SKB_MODE and XDP_FLAGS_DRV_MODE of linux/if_link.h.
const GENERIC: u32 = 1 << 1;
const NATIVE: u32 = 1 << 2;

/// An attached program and its map; both are gone when it is dropped.
pub(crate) struct Redirect {
    map: OwnedFd,
    _program: OwnedFd,
    _link: OwnedFd,
}

/// `union bpf_attr`, as far as it is used, in words.
#[repr(C, align(8))]
#[derive(Default)]
struct Attr([u32; 32]);

impl Redirect {
    /// Attaches to an interface of the calling thread's namespace: everything that arrives on a queue with a socket goes to it, the
    /// rest to the stack.
    pub(crate) fn attach(ifindex: u32, native: bool) -> io::Result<Self> {
        let mut create = Attr::default();
        create.0[..4].copy_from_slice(&[BPF_MAP_TYPE_XSKMAP, 4, 4, 64]);
        let map = bpf(BPF_MAP_CREATE, &create)?;
        let program = load(map.as_fd())?;
        let mut attach = Attr::default();
        let flags = if native { NATIVE } else { GENERIC };
        attach.0[..4].copy_from_slice(&[program.as_raw_fd() as u32, ifindex, BPF_XDP, flags]);
        let link = bpf(BPF_LINK_CREATE, &attach)?;
        Ok(Self { map, _program: program, _link: link })
    }

    /// Sends what arrives on `queue` to a socket.
    pub(crate) fn add(&self, queue: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        let value = socket.as_raw_fd() as u32;
        let mut update = Attr::default();
        update.0[0] = self.map.as_raw_fd() as u32;
        put_address(&mut update, 2, (&raw const queue).addr());
        put_address(&mut update, 4, (&raw const value).addr());
        // SAFETY: the command reads a key and a value of four bytes each, which outlive the call.
        let result = unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_UPDATE_ELEM, &update, size_of::<Attr>()) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

fn load(map: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let instruction = |op: u8, registers: u8, offset: u16, immediate: u32| {
        u64::from(op) | u64::from(registers) << 8 | u64::from(offset) << 16 | u64::from(immediate) << 32
    };
    let program = [
        instruction(0x61, 0x12, 16, 0),                     // r2 = ctx->rx_queue_index
        instruction(0x18, 0x11, 0, map.as_raw_fd() as u32), // r1 = map
        0,
        instruction(0xb7, 0x03, 0, 2), // r3 = XDP_PASS, for a queue without a socket
        instruction(0x85, 0x00, 0, 51), // r0 = bpf_redirect_map(r1, r2, r3)
        instruction(0x95, 0x00, 0, 0), // return r0
    ];
    let mut attr = Attr::default();
    attr.0[0] = BPF_PROG_TYPE_XDP;
    attr.0[1] = program.len() as u32;
    put_address(&mut attr, 2, program.as_ptr().addr());
    put_address(&mut attr, 4, c"MIT".as_ptr().addr());
    bpf(BPF_PROG_LOAD, &attr)
}

fn put_address(attr: &mut Attr, word: usize, address: usize) {
    attr.0[word] = address as u32;
    attr.0[word + 1] = (address as u64 >> 32) as u32;
}

fn bpf(command: libc::c_long, attr: &Attr) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads the attributes, and from the program and licence that BPF_PROG_LOAD names, which outlive the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<Attr>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor for us, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

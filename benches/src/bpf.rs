//! The two eBPF programs of the bench: one drops all that an interface receives (tcx, Linux 6.6), one sends a frame at a steady rate
//! (`BPF_F_TEST_XDP_LIVE_FRAMES` of linux/bpf.h, Linux 5.18).

#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    time::Duration,
};

use nix::time::{ClockId, clock_gettime};

// linux/bpf.h
const MAP_CREATE: libc::c_long = 0;
const MAP_LOOKUP: libc::c_long = 1;
const MAP_UPDATE: libc::c_long = 2;
const PROG_LOAD: libc::c_long = 5;
const PROG_TEST_RUN: libc::c_long = 10;
const LINK_CREATE: libc::c_long = 28;
const SCHED_CLS: u32 = 3;
const XDP: u32 = 6;
const TCX_INGRESS: u32 = 46;
const TC_ACT_SHOT: u32 = 2;
const LIVE_FRAMES: u32 = 1 << 1;
const MAP_ARRAY: u32 = 2;
/// Functions of the kernel: bpf_map_lookup_elem, bpf_ktime_get_ns, bpf_redirect.
const LOOKUP: u32 = 1;
const CLOCK: u32 = 5;
const REDIRECT: u32 = 23;
/// XDP_DROP.
const DROP: u32 = 1;
/// BPF_PSEUDO_MAP_FD.
const BY_DESCRIPTOR: u8 = 1;

/// `union bpf_attr`, as far as it is used, in words.
#[repr(C, align(8))]
#[derive(Default)]
struct Attributes([u32; 32]);

impl Attributes {
    fn pointer(&mut self, word: usize, address: u64) {
        self.0[word] = address as u32;
        self.0[word + 1] = (address >> 32) as u32;
    }
}

/// Drops all that an interface of the calling thread's namespace receives, right behind its counters, until the result is dropped.
pub(crate) fn drop_at_ingress(ifindex: u32) -> io::Result<OwnedFd> {
    let program = load(SCHED_CLS, &[set(0, TC_ACT_SHOT), RETURN])?;
    let mut attributes = Attributes::default();
    attributes.0[..3].copy_from_slice(&[program.as_raw_fd() as u32, ifindex, TCX_INGRESS]);
    // SAFETY: the command takes no pointers.
    owned(unsafe { bpf(LINK_CREATE, &mut attributes) })
}

/// Ethernet, IPv4 and UDP headers.
pub(crate) const HEAD_BYTES: usize = 14 + 20 + 8;

/// What the program and its user tell each other. Times are those of CLOCK_MONOTONIC in 1/256 ns, so that a rate is exact.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Schedule {
    due: u64,
    interval: u64,
    end: u64,
    sent: u64,
}

/// A program that hands frames to an interface's driver, one whenever the next is due.
#[derive(Debug)]
pub(crate) struct Xmit {
    program: OwnedFd,
    schedule: OwnedFd,
}

impl Xmit {
    /// Of frames that begin with `head`, for an interface of the calling thread's namespace; [`Xmit::run`] is called in the same.
    pub(crate) fn new(ifindex: u32, head: &[u8; HEAD_BYTES]) -> io::Result<Self> {
        let mut attributes = Attributes::default();
        attributes.0[..4].copy_from_slice(&[MAP_ARRAY, 4, size_of::<Schedule>() as u32, 1]);
        // SAFETY: the command takes no pointers.
        let schedule = owned(unsafe { bpf(MAP_CREATE, &mut attributes) })?;
        // It is run over and over, and what is not due is dropped: that is how it waits.
        let mut program = vec![
            instruction(0xbf, 0x17, 0, 0), // r7 = context
            instruction(0x62, 10, -4, 0),  // the key, on the stack: 0
            instruction(0xbf, 0xa2, 0, 0),
            instruction(0x07, 2, 0, -4_i32 as u32), // r2 = &key
            instruction(0x18, BY_DESCRIPTOR << 4 | 1, 0, schedule.as_raw_fd() as u32),
            0, // r1 = the map
            call(LOOKUP),
            instruction(0x55, 0, 2, 0),
            set(0, DROP), // none, or nothing is due
            RETURN,
            instruction(0xbf, 0x06, 0, 0), // r6 = schedule
            call(CLOCK),
            instruction(0x67, 0, 0, 8),     // r0 = now, in 1/256 ns
            load_word(2, 16),               // r2 = end
            instruction(0x3d, 0x20, -7, 0), // now >= end
            instruction(0x57, 0, 0, !(BURST - 1)),
            load_word(1, 0),                 // r1 = due
            instruction(0xad, 0x10, -10, 0), // now, by the burst, < due
            instruction(0x3d, 0x21, -11, 0), // due >= end
            load_word(2, 8),
            instruction(0x0f, 0x21, 0, 0),
            instruction(0x7b, 0x16, 0, 0), // due += interval
            load_word(2, 24),
            instruction(0x07, 2, 0, 1),
            instruction(0x7b, 0x26, 24, 0), // sent += 1
            instruction(0x61, 0x72, 0, 0),
            instruction(0x61, 0x73, 4, 0),
            instruction(0xbf, 0x24, 0, 0),
            instruction(0x07, 4, 0, HEAD_BYTES as u32),
            instruction(0x2d, 0x34, -22, 0), // shorter than the headers
        ];
        // A relay may have written to the page before it came back.
        for (at, word) in head.chunks(2).enumerate() {
            let word = word.iter().rev().fold(0, |word, &byte| word << 8 | u32::from(byte));
            program.push(instruction(0x6a, 2, 2 * at as i16, word));
        }
        program.extend([set(1, ifindex), set(2, 0), call(REDIRECT), RETURN]);
        Ok(Self { program: load(XDP, &program)?, schedule })
    }

    /// From now on one frame is due each `interval_ns`, until `duration`.
    pub(crate) fn schedule(&self, interval_ns: f64, duration: Duration) -> io::Result<()> {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
        let now = (now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64) << 8;
        let end = now + ((duration.as_nanos() as u64) << 8);
        self.exchange(
            MAP_UPDATE,
            &mut Schedule { due: now, interval: (interval_ns * 256.0) as u64, end, sent: 0 },
        )
    }

    /// Frames handed over since [`Xmit::schedule`].
    pub(crate) fn sent(&self) -> io::Result<u64> {
        let mut schedule = Schedule::default();
        self.exchange(MAP_LOOKUP, &mut schedule)?;
        Ok(schedule.sent)
    }

    fn exchange(&self, command: libc::c_long, schedule: &mut Schedule) -> io::Result<()> {
        let mut attributes = Attributes::default();
        attributes.0[0] = self.schedule.as_raw_fd() as u32;
        let key = 0_u32;
        attributes.pointer(2, (&raw const key).expose_provenance() as u64);
        attributes.pointer(4, (&raw mut *schedule).expose_provenance() as u64);
        // SAFETY: the map's key has four bytes, its value is a Schedule, and both outlive the call.
        done(unsafe { bpf(command, &mut attributes) })
    }

    /// Runs the program so many times; each run may send `frame`, or wait for a moment.
    pub(crate) fn run(&self, frame: &[u8], times: u32) -> io::Result<()> {
        // struct xdp_md: begin, end, metadata, interface (0: the loopback), its queue, the interface that it leaves by.
        let context = [0, frame.len() as u32, 0, 0, 0, 0];
        let mut attributes = Attributes::default();
        attributes.0[0] = self.program.as_raw_fd() as u32;
        attributes.0[2] = frame.len() as u32;
        attributes.pointer(4, frame.as_ptr().expose_provenance() as u64);
        attributes.0[8] = times;
        attributes.0[10] = size_of_val(&context) as u32;
        attributes.pointer(12, context.as_ptr().expose_provenance() as u64);
        attributes.0[16] = LIVE_FRAMES;
        // SAFETY: the kernel reads so many bytes of the frame and of the context, which outlive the call; live frames write nothing
        // back (data_out and ctx_out are 0).
        done(unsafe { bpf(PROG_TEST_RUN, &mut attributes) })
    }
}

const RETURN: u64 = 0x95;
/// Frames come in bursts of what is due in 2^16 ns, in the units of a [`Schedule`]: as network cards deliver them, that coalesce
/// interrupts. Evenly spaced, each would be an interrupt of the other core, which costs a virtual machine more than any relay does.
const BURST: u32 = 1 << 24;

/// An instruction: code, registers (source in the upper half), offset, number.
fn instruction(code: u8, registers: u8, offset: i16, number: u32) -> u64 {
    u64::from(code) | u64::from(registers) << 8 | u64::from(offset as u16) << 16 | u64::from(number) << 32
}

fn set(register: u8, number: u32) -> u64 {
    instruction(0xb7, register, 0, number)
}

fn call(function: u32) -> u64 {
    instruction(0x85, 0, 0, function)
}

/// From the schedule, which r6 points at.
fn load_word(register: u8, offset: i16) -> u64 {
    instruction(0x79, 0x60 | register, offset, 0)
}

fn load(kind: u32, program: &[u64]) -> io::Result<OwnedFd> {
    let mut attributes = Attributes::default();
    attributes.0[0] = kind;
    attributes.0[1] = program.len() as u32;
    attributes.pointer(2, program.as_ptr().expose_provenance() as u64);
    attributes.pointer(4, c"MIT".as_ptr().expose_provenance() as u64);
    // SAFETY: the pointers are those of a slice of so many instructions and of a terminated string, which outlive the call.
    owned(unsafe { bpf(PROG_LOAD, &mut attributes) })
}

/// # Safety
/// The attributes must be those of the command, and pointers in them valid for what it reads and writes.
unsafe fn bpf(command: libc::c_long, attributes: &mut Attributes) -> libc::c_long {
    // SAFETY: pointer and size are those of one value; the rest is the caller's promise.
    unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<Attributes>()) }
}

fn done(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    done(result)?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows its number, which fits an int.
    Ok(unsafe { OwnedFd::from_raw_fd(result as libc::c_int) })
}

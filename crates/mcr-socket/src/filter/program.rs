//! The filter as an eBPF program that looks up what is wanted in a map, and the keys of that map. Pure.
//!
//! It decides as the exact classic filter does, see [`Precision`](super::Precision), whatever is in the map: the program never
//! changes, so letting one thing more through costs the same with ten entries as with ten thousand.

use super::{Codepoints, FilterLink};
use crate::sys::{Plain, bpf::Instruction};
use std::net::IpAddr;

/// An entry's key. Addresses are in host order, word by word, as the program loads them; IPv4 ones lie in the last word and have
/// [`V4_MARK`] before them. No source is all zero.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    destination: [u32; 4],
    source: [u32; 4],
    port: u32,
    // The program clears its key by double words.
    _pad: u32,
}

// SAFETY: ten integers of one size, no padding, no pointer.
unsafe impl Plain for Key {
    const ZERO: Self = Self { destination: [0; 4], source: [0; 4], port: 0, _pad: 0 };
}

// SAFETY: an integer.
unsafe impl Plain for u32 {
    const ZERO: Self = 0;
}

/// An entry without source: whoever sent it, let it through.
pub(super) const ANY_SOURCE: u32 = 1;
/// An entry without source: look for one with the packet's source.
pub(super) const SOME_SOURCES: u32 = 2;
/// As in IPv4-mapped addresses.
const V4_MARK: u32 = 0xffff;
/// Where no port was read: any will do. Above every port.
const ANY_PORT: u32 = 0x1_0000;

impl Key {
    pub(super) fn new(destination: IpAddr, port: u16, source: Option<IpAddr>) -> Self {
        let source = source.map_or([0; 4], words);
        Self { destination: words(destination), source, port: port.into(), ..Self::ZERO }
    }

    /// That of packets to an address that show no port.
    pub(super) fn portless(destination: IpAddr) -> Self {
        Self { destination: words(destination), port: ANY_PORT, ..Self::ZERO }
    }
}

fn words(address: IpAddr) -> [u32; 4] {
    match address {
        IpAddr::V4(v4) => [0, 0, V4_MARK, v4.to_bits()],
        IpAddr::V6(v6) => {
            let bits = v6.to_bits();
            [(bits >> 96) as u32, (bits >> 64) as u32, (bits >> 32) as u32, bits as u32]
        }
    }
}

// Instruction codes (Documentation/bpf/standardization/instruction-set.rst).
const MOVE: u8 = 0xb7;
const MOVE_REGISTER: u8 = 0xbf;
const ADD: u8 = 0x07;
const AND: u8 = 0x57;
const SHIFT_LEFT: u8 = 0x67;
const SHIFT_RIGHT: u8 = 0x77;
const SHIFT_RIGHT_BY_REGISTER: u8 = 0x7f;
const LOAD_WORD: u8 = 0x61;
const STORE_WORD: u8 = 0x63;
const CLEAR_DOUBLE_WORD: u8 = 0x7a;
const LOAD_MAP: u8 = 0x18;
const LOAD_DOUBLE_WORD: u8 = 0x18;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
const JUMP: u8 = 0x05;
const IF_EQUAL: u8 = 0x15;
const IF_NOT_EQUAL: u8 = 0x55;
const IF_SET: u8 = 0x45;
const IF_ABOVE: u8 = 0x25;
const IF_BELOW: u8 = 0xa5;
const IF_ABOVE_REGISTER: u8 = 0x2d;
// Of the packet, into R0, in host order; one that lies outside ends the program with 0. The context must be in R6.
const PACKET_BYTE: u8 = 0x30;
const PACKET_HALF: u8 = 0x28;
const PACKET_WORD: u8 = 0x20;
const PACKET_HALF_AT: u8 = 0x48;

/// `bpf_map_lookup_elem`.
const MAP_LOOKUP: i32 = 1;
// `struct __sk_buff`.
const CONTEXT_LENGTH: i16 = 0;
const CONTEXT_PACKET_TYPE: i16 = 4;
const CONTEXT_VLAN_PRESENT: i16 = 20;
const CONTEXT_VLAN_TCI: i16 = 24;

// The key on the stack, as offsets from R10.
const KEY: i16 = -40;
const KEY_DESTINATION: i16 = KEY;
const KEY_SOURCE: i16 = KEY + 16;
const KEY_PORT: i16 = KEY + 32;

const UDP: i32 = libc::IPPROTO_UDP;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Label {
    Ipv4,
    Ipv6,
    Ipv6Udp,
    LookUp,
    Ipv6Source,
    LookUpSource,
    Accept,
    Drop,
}
const LABELS: usize = Label::Drop as usize + 1;

#[derive(Default)]
struct Assembler {
    code: Vec<Instruction>,
    places: [Option<usize>; LABELS],
    jumps: Vec<(usize, Label)>,
}

/// The program for packets of a link that bear one of these codepoints, with the map of this number.
pub(super) fn program(link: FilterLink, marked: Codepoints, map: i32) -> Vec<Instruction> {
    let mut asm = Assembler::default();
    asm.op(MOVE_REGISTER, 6, 1, 0, 0);
    for at in 0..5 {
        asm.op(CLEAR_DOUBLE_WORD, 10, 0, KEY + 8 * at, 0);
    }
    for_us(&mut asm);
    let l3 = match link {
        FilterLink::Ethernet => {
            asm.packet(PACKET_HALF, 12);
            asm.jump(IF_EQUAL, libc::ETH_P_IP, Label::Ipv4);
            asm.jump(IF_EQUAL, libc::ETH_P_IPV6, Label::Ipv6);
            14
        }
        FilterLink::RawIp => {
            asm.packet(PACKET_BYTE, 0);
            asm.op(AND, 0, 0, 0, 0xf0);
            asm.jump(IF_EQUAL, 0x40, Label::Ipv4);
            asm.jump(IF_EQUAL, 0x60, Label::Ipv6);
            0
        }
    };
    asm.jump(JUMP, 0, Label::Drop);
    ipv4(&mut asm, l3, marked);
    ipv6(&mut asm, l3, marked);
    look_up(&mut asm, l3, map);
    asm.finish()
}

/// Refuses what is for another host, what this host sends, and what belongs to a VLAN's own interface.
fn for_us(asm: &mut Assembler) {
    asm.op(LOAD_WORD, 0, 6, CONTEXT_PACKET_TYPE, 0);
    asm.jump(IF_EQUAL, i32::from(libc::PACKET_OTHERHOST), Label::Drop);
    asm.jump(IF_EQUAL, i32::from(libc::PACKET_OUTGOING), Label::Drop);
    asm.op(LOAD_WORD, 0, 6, CONTEXT_VLAN_PRESENT, 0);
    // Over the next three.
    asm.op(IF_EQUAL, 0, 0, 3, 0);
    asm.op(LOAD_WORD, 0, 6, CONTEXT_VLAN_TCI, 0);
    asm.op(AND, 0, 0, 0, 0xfff);
    asm.jump(IF_NOT_EQUAL, 0, Label::Drop);
}

fn ipv4(asm: &mut Assembler, l3: i32, marked: Codepoints) {
    asm.place(Label::Ipv4);
    if marked != Codepoints::ALL {
        asm.packet(PACKET_BYTE, l3 + 1);
        asm.op(SHIFT_RIGHT, 0, 0, 0, 2);
        asm.require_bit(marked.bits());
    }
    asm.packet(PACKET_BYTE, l3 + 9);
    asm.jump(IF_NOT_EQUAL, UDP, Label::Drop);
    // R9: the family, for the sources.
    asm.op(MOVE, 9, 0, 0, 4);
    asm.packet(PACKET_WORD, l3 + 16);
    asm.op(STORE_WORD, 10, 0, KEY_DESTINATION + 12, 0);
    asm.op(MOVE, 1, 0, 0, V4_MARK as i32);
    asm.op(STORE_WORD, 10, 1, KEY_DESTINATION + 8, 0);
    // R8: the port.
    asm.op(MOVE, 8, 0, 0, ANY_PORT as i32);
    // Version 4 and a header of at least five words.
    asm.packet(PACKET_BYTE, l3);
    asm.jump(IF_BELOW, 0x45, Label::LookUp);
    asm.jump(IF_ABOVE, 0x4f, Label::LookUp);
    asm.op(MOVE_REGISTER, 7, 0, 0, 0);
    // More fragments, or an offset: later fragments have no ports, the first has too little behind them.
    asm.packet(PACKET_HALF, l3 + 6);
    asm.jump(IF_SET, 0x3fff, Label::LookUp);
    // The UDP header must lie within the frame.
    asm.op(AND, 7, 0, 0, 0xf);
    asm.op(SHIFT_LEFT, 7, 0, 0, 2);
    asm.op(MOVE_REGISTER, 1, 7, 0, 0);
    asm.op(ADD, 1, 0, 0, l3 + 8);
    asm.op(LOAD_WORD, 2, 6, CONTEXT_LENGTH, 0);
    asm.jump_registers(IF_ABOVE_REGISTER, 1, 2, Label::LookUp);
    asm.op(PACKET_HALF_AT, 0, 7, 0, l3 + 2);
    asm.op(MOVE_REGISTER, 8, 0, 0, 0);
    asm.jump(JUMP, 0, Label::LookUp);
}

fn ipv6(asm: &mut Assembler, l3: i32, marked: Codepoints) {
    asm.place(Label::Ipv6);
    if marked != Codepoints::ALL {
        asm.packet(PACKET_HALF, l3);
        asm.op(SHIFT_RIGHT, 0, 0, 0, 6);
        asm.op(AND, 0, 0, 0, 0x3f);
        asm.require_bit(marked.bits());
    }
    asm.packet(PACKET_BYTE, l3 + 6);
    asm.op(MOVE_REGISTER, 7, 0, 0, 0);
    asm.op(MOVE, 9, 0, 0, 6);
    asm.op(MOVE, 8, 0, 0, ANY_PORT as i32);
    for word in 0..4 {
        asm.packet(PACKET_WORD, l3 + 24 + 4 * word);
        asm.op(STORE_WORD, 10, 0, KEY_DESTINATION + 4 * word as i16, 0);
    }
    asm.op(MOVE_REGISTER, 0, 7, 0, 0);
    asm.jump(IF_EQUAL, UDP, Label::Ipv6Udp);
    for number in super::compile::EXTENSION_HEADERS {
        asm.jump(IF_EQUAL, number as i32, Label::LookUp);
    }
    asm.jump(JUMP, 0, Label::Drop);
    asm.place(Label::Ipv6Udp);
    asm.packet(PACKET_BYTE, l3);
    asm.op(AND, 0, 0, 0, 0xf0);
    asm.jump(IF_NOT_EQUAL, 0x60, Label::LookUp);
    asm.op(LOAD_WORD, 0, 6, CONTEXT_LENGTH, 0);
    asm.jump(IF_BELOW, l3 + 48, Label::LookUp);
    asm.packet(PACKET_HALF, l3 + 42);
    asm.op(MOVE_REGISTER, 8, 0, 0, 0);
}

fn look_up(asm: &mut Assembler, l3: i32, map: i32) {
    asm.place(Label::LookUp);
    asm.op(STORE_WORD, 10, 8, KEY_PORT, 0);
    asm.call_lookup(map);
    asm.jump(IF_EQUAL, 0, Label::Drop);
    asm.op(LOAD_WORD, 0, 0, 0, 0);
    asm.jump(IF_SET, ANY_SOURCE as i32, Label::Accept);

    asm.op(MOVE_REGISTER, 0, 9, 0, 0);
    asm.jump(IF_EQUAL, 6, Label::Ipv6Source);
    asm.packet(PACKET_WORD, l3 + 12);
    asm.op(STORE_WORD, 10, 0, KEY_SOURCE + 12, 0);
    asm.op(MOVE, 1, 0, 0, V4_MARK as i32);
    asm.op(STORE_WORD, 10, 1, KEY_SOURCE + 8, 0);
    asm.jump(JUMP, 0, Label::LookUpSource);
    asm.place(Label::Ipv6Source);
    for word in 0..4 {
        asm.packet(PACKET_WORD, l3 + 8 + 4 * word);
        asm.op(STORE_WORD, 10, 0, KEY_SOURCE + 4 * word as i16, 0);
    }
    asm.place(Label::LookUpSource);
    asm.call_lookup(map);
    asm.jump(IF_EQUAL, 0, Label::Drop);
    asm.place(Label::Accept);
    // All of it: the filter's result is a length.
    asm.op(MOVE, 0, 0, 0, -1);
    asm.op(EXIT, 0, 0, 0, 0);
    asm.place(Label::Drop);
    asm.op(MOVE, 0, 0, 0, 0);
    asm.op(EXIT, 0, 0, 0, 0);
}

impl Assembler {
    fn op(&mut self, code: u8, destination: u8, source: u8, offset: i16, immediate: i32) {
        self.code.push(Instruction { code, registers: destination | source << 4, offset, immediate });
    }

    /// R0 = what is there in the packet.
    fn packet(&mut self, code: u8, at: i32) {
        self.op(code, 0, 0, 0, at);
    }

    /// Refuses unless the bit that R0 says is set.
    fn require_bit(&mut self, bits: u64) {
        // Two instructions wide, the low word first.
        self.op(LOAD_DOUBLE_WORD, 1, 0, 0, bits as i32);
        self.op(0, 0, 0, 0, (bits >> 32) as i32);
        self.op(SHIFT_RIGHT_BY_REGISTER, 1, 0, 0, 0);
        self.op(MOVE_REGISTER, 0, 1, 0, 0);
        self.op(AND, 0, 0, 0, 1);
        self.jump(IF_EQUAL, 0, Label::Drop);
    }

    fn jump(&mut self, code: u8, value: i32, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.op(code, 0, 0, 0, value);
    }

    fn jump_registers(&mut self, code: u8, left: u8, right: u8, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.op(code, left, right, 0, 0);
    }

    /// R0 = where the value of the key on the stack lies, or 0.
    fn call_lookup(&mut self, map: i32) {
        // Source register 1: the immediate is a map's descriptor (BPF_PSEUDO_MAP_FD). Two instructions wide.
        self.op(LOAD_MAP, 1, 1, 0, map);
        self.op(0, 0, 0, 0, 0);
        self.op(MOVE_REGISTER, 2, 10, 0, 0);
        self.op(ADD, 2, 0, 0, KEY.into());
        self.op(CALL, 0, 0, 0, MAP_LOOKUP);
    }

    fn place(&mut self, label: Label) {
        self.places[label as usize] = Some(self.code.len());
    }

    fn finish(mut self) -> Vec<Instruction> {
        for (from, to) in self.jumps {
            let place = self.places[to as usize];
            assert!(place.is_some(), "every label is placed");
            // A hundred instructions or so, all told.
            let distance = place.unwrap_or(0) as i64 - from as i64 - 1;
            self.code[from].offset = distance as i16;
        }
        self.code
    }
}

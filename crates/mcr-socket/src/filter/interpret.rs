//! A classic BPF machine for tests, written from bpf(4) and Documentation/networking/filter.rst, not from the compiler
//! it judges.

use libc::sock_filter;

/// A packet as the kernel's filter sees it.
#[derive(Clone, Debug, Default)]
pub(super) struct Packet {
    pub(super) bytes: Vec<u8>,
    pub(super) packet_type: u32,
    pub(super) vlan_tci: Option<u16>,
}

/// Runs a program; returns how many bytes of the packet it lets through, and asserts what the kernel's checker would.
pub(super) fn run(program: &[sock_filter], packet: &Packet) -> u32 {
    let (mut a, mut x) = (0u32, 0u32);
    let mut at = 0;
    loop {
        let sock_filter { code, jt, jf, k } = *program.get(at).expect("runs off the end");
        at += 1;
        let load = |offset: u64, width: usize| load(packet, offset, width);
        match code {
            // ld [k] with width word, half, byte
            0x20 | 0x28 | 0x30 => match load(k.into(), 4 >> ((code >> 3) & 3)) {
                Some(value) => a = value,
                None => return 0,
            },
            // ldh [x + k]
            0x48 => match load(u64::from(x) + u64::from(k), 2) {
                Some(value) => a = value,
                None => return 0,
            },
            // ld len
            0x80 => a = packet.bytes.len() as u32,
            // ldx #k
            0x01 => x = k,
            // ldxb 4*([k]&0xf)
            0xb1 => match load(k.into(), 1) {
                Some(value) => x = 4 * (value & 0xf),
                None => return 0,
            },
            // ld #k
            0x00 => a = k,
            // rsh #k, lsh x
            0x74 => a >>= k,
            0x6c => a = a.checked_shl(x).unwrap_or(0),
            // add #k, and #k
            0x04 => a = a.wrapping_add(k),
            0x54 => a &= k,
            // tax, txa
            0x07 => x = a,
            0x87 => a = x,
            // ja
            0x05 => at += k as usize,
            // jeq, jgt, jge, jset with #k, jge with x
            0x15 => at += usize::from(if a == k { jt } else { jf }),
            0x25 => at += usize::from(if a > k { jt } else { jf }),
            0x35 => at += usize::from(if a >= k { jt } else { jf }),
            0x45 => at += usize::from(if a & k != 0 { jt } else { jf }),
            0x3d => at += usize::from(if a >= x { jt } else { jf }),
            // ret #k
            0x06 => return k,
            other => panic!("instruction {other:#x} at {}", at - 1),
        }
    }
}

fn load(packet: &Packet, offset: u64, width: usize) -> Option<u32> {
    const METADATA: u64 = 0xffff_f000;
    if offset >= METADATA {
        return match offset - METADATA {
            4 => Some(packet.packet_type),
            44 => Some(packet.vlan_tci.unwrap_or(0).into()),
            48 => Some(packet.vlan_tci.is_some().into()),
            other => panic!("metadata field {other}"),
        };
    }
    let start = usize::try_from(offset).ok()?;
    let bytes = packet.bytes.get(start..start + width)?;
    Some(bytes.iter().fold(0, |value, &byte| value << 8 | u32::from(byte)))
}

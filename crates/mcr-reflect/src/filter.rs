//! The kernel's part of the work: a classic BPF program that keeps foreign traffic away, from the same options as the parser.
//!
//! It never refuses what the parser would accept, whether the kernel left a frame's outer VLAN tag in it or took it out. What it lets
//! through besides are near misses: frames that have the right port or a signature but lack something else. They are
//! few, and let through they can be counted with the reason; the rest of the traffic costs nothing.

use crate::{
    config::{Config, Mode},
    headers::{IPV4, IPV6, OAM, TPIDS},
};

/// One instruction, as `struct sock_filter` of linux/filter.h has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions to skip if a condition holds.
    pub jt: u8,
    /// Instructions to skip if it does not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

// Operations, by their names in linux/bpf_common.h.
const LD_W_ABS: u16 = 0x20;
const LD_H_ABS: u16 = 0x28;
const LD_B_ABS: u16 = 0x30;
const LD_W_IND: u16 = 0x40;
const LD_H_IND: u16 = 0x48;
const LD_B_IND: u16 = 0x50;
const LDX_IMM: u16 = 0x01;
const ADD_K: u16 = 0x04;
const ADD_X: u16 = 0x0c;
const AND_K: u16 = 0x54;
const LSH_K: u16 = 0x64;
const JA: u16 = 0x05;
const JEQ_K: u16 = 0x15;
const JGE_K: u16 = 0x35;
const RET_K: u16 = 0x06;
const TAX: u16 = 0x07;
const TXA: u16 = 0x87;

const PASS: u32 = u32::MAX;
const DROP: u32 = 0;

/// What the filter lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scope {
    /// What may be ours, and near misses.
    #[default]
    NearMisses,
    /// Everything, so that each frame on the interface is counted with its reason.
    Everything,
}

/// Where a jump goes. All go forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Label {
    Next,
    Tagged,
    TwiceTagged,
    Type,
    Ipv4,
    Ipv6,
    Ports,
    Services,
    Pass,
    Drop,
}

/// Instructions with jumps that are not resolved yet.
#[derive(Default)]
struct Assembler {
    steps: Vec<(u16, u32, Label, Label)>,
    labels: Vec<(Label, usize)>,
}

impl Assembler {
    fn step(&mut self, code: u16, k: u32) {
        self.steps.push((code, k, Label::Next, Label::Next));
    }

    fn jump(&mut self, code: u16, k: u32, then: Label, otherwise: Label) {
        self.steps.push((code, k, then, otherwise));
    }

    fn label(&mut self, label: Label) {
        self.labels.push((label, self.steps.len()));
    }

    fn finish(self) -> Vec<Instruction> {
        let distance = |from: usize, to: Label| match self.labels.iter().find(|(label, _)| *label == to) {
            Some((_, at)) => at - from - 1,
            None => 0,
        };
        let instruction = |(at, (code, k, then, otherwise)): (usize, &(u16, u32, Label, Label))| {
            let (jt, jf) = (distance(at, *then), distance(at, *otherwise));
            if *code == JA {
                return Instruction { code: *code, jt: 0, jf: 0, k: jt as u32 };
            }
            // The program is at most some hundred instructions long, which a test holds it to.
            assert!(jt <= 255 && jf <= 255, "a jump too far");
            Instruction { code: *code, jt: jt as u8, jf: jf as u8, k: *k }
        };
        self.steps.iter().enumerate().map(instruction).collect()
    }
}

/// The program for these options. It is at most 128 instructions long.
#[must_use]
pub fn program(config: &Config, scope: Scope) -> Vec<Instruction> {
    let mut out = Assembler::default();
    if scope == Scope::Everything {
        out.step(RET_K, PASS);
        return out.finish();
    }
    if config.mode == Mode::Auto && (config.oui.is_some() || !config.allow.is_empty()) {
        any_of_testers(&mut out, config);
    }
    out.label(Label::Services);
    ether_type(&mut out, config);
    out.label(Label::Ipv4);
    ipv4(&mut out);
    out.label(Label::Ipv6);
    ipv6(&mut out, config);
    out.label(Label::Ports);
    ports_and_signatures(&mut out, config);
    out.label(Label::Drop);
    out.step(RET_K, DROP);
    out.label(Label::Pass);
    out.step(RET_K, PASS);
    out.finish()
}

/// Mode `auto`: all that has the right addresses passes. The rest may still be for a service.
fn any_of_testers(out: &mut Assembler, config: &Config) {
    let word = |bytes: &[u8]| bytes.iter().fold(0, |word, byte| word << 8 | u32::from(*byte));
    if config.mac_filter {
        out.step(LD_W_ABS, 2);
        out.jump(JEQ_K, word(&config.mac[2..]), Label::Next, Label::Services);
        out.step(LD_H_ABS, 0);
        out.jump(JEQ_K, word(&config.mac[..2]), Label::Next, Label::Services);
    }
    if let Some(oui) = config.oui {
        out.step(LD_H_ABS, 6);
        out.jump(JEQ_K, word(&oui[..2]), Label::Next, Label::Services);
        out.step(LD_B_ABS, 8);
        out.jump(JEQ_K, word(&oui[2..]), Label::Next, Label::Services);
    }
    out.jump(JA, 0, Label::Pass, Label::Next);
}

/// Leaves in X how many bytes of tags there are.
fn ether_type(out: &mut Assembler, config: &Config) {
    let tpids = &TPIDS[..if config.tpid_9100 { 3 } else { 2 }];
    let level = |out: &mut Assembler, tag_bytes: u32, deeper: Label| {
        out.step(LD_H_ABS, 12 + tag_bytes);
        for tpid in tpids {
            out.jump(JEQ_K, u32::from(*tpid), deeper, Label::Next);
        }
        out.step(LDX_IMM, tag_bytes);
    };
    level(out, 0, Label::Tagged);
    out.jump(JA, 0, Label::Type, Label::Next);
    out.label(Label::Tagged);
    level(out, 4, Label::TwiceTagged);
    out.jump(JA, 0, Label::Type, Label::Next);
    out.label(Label::TwiceTagged);
    // A third tag is one too many, which is worth counting.
    level(out, 8, Label::Pass);
    out.label(Label::Type);
    if config.oam.is_some() {
        out.jump(JEQ_K, u32::from(OAM), Label::Pass, Label::Next);
    }
    out.jump(JEQ_K, u32::from(IPV4), Label::Ipv4, Label::Next);
    out.jump(JEQ_K, u32::from(IPV6), Label::Ipv6, Label::Drop);
}

/// Leaves in X where the transport header is, less the Ethernet header; a damaged header passes, to be counted.
fn ipv4(out: &mut Assembler) {
    out.step(LD_B_IND, 14);
    out.step(AND_K, 0xf0);
    out.jump(JEQ_K, 0x40, Label::Next, Label::Pass);
    out.step(LD_B_IND, 14);
    out.step(AND_K, 0x0f);
    out.jump(JGE_K, 5, Label::Next, Label::Pass);
    out.step(LSH_K, 2);
    out.step(ADD_X, 0);
    out.step(TAX, 0);
    out.jump(JA, 0, Label::Ports, Label::Next);
}

fn ipv6(out: &mut Assembler, config: &Config) {
    if config.extension_headers {
        // Their lengths would take a loop: let the parser walk.
        out.step(LD_B_IND, 20);
        out.jump(JEQ_K, 0, Label::Pass, Label::Next);
        out.jump(JEQ_K, 60, Label::Pass, Label::Next);
    }
    out.step(TXA, 0);
    out.step(ADD_K, 40);
    out.step(TAX, 0);
}

/// A load beyond the frame ends the program with a refusal, so what a shorter payload can have is looked for first.
fn ports_and_signatures(out: &mut Assembler, config: &Config) {
    out.step(LD_H_IND, 16);
    let ports = config.service_ports().chain((config.port != 0).then_some(config.port));
    for port in ports {
        out.jump(JEQ_K, u32::from(port), Label::Pass, Label::Next);
    }
    if config.mode == Mode::Auto && config.port == 0 {
        // No signature is asked for, and who is meant was told by addresses above.
        return;
    }
    let starts = |at: u32, words: &[&[u8; 4]], out: &mut Assembler| {
        out.step(LD_W_IND, at);
        for word in words {
            out.jump(JEQ_K, u32::from_be_bytes(**word), Label::Pass, Label::Next);
        }
    };
    starts(22, &[b"RFC2", b"Y.15"], out);
    starts(27, &[b"PROB", b"DATA", b"LATE"], out);
}

/// Runs a program over a frame as the kernel does: whether it passes. For tests; instructions that [`program`] does not use
/// refuse.
#[must_use]
pub fn passes(program: &[Instruction], frame: &[u8]) -> bool {
    run(program, frame).is_some_and(|snapshot| snapshot != 0)
}

fn run(program: &[Instruction], frame: &[u8]) -> Option<u32> {
    let load = |at: usize, bytes: usize| {
        let bytes = frame.get(at..at.checked_add(bytes)?)?;
        Some(bytes.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)))
    };
    let (mut a, mut x, mut at) = (0u32, 0u32, 0usize);
    loop {
        let Instruction { code, jt, jf, k } = *program.get(at)?;
        at += 1;
        let jump = |holds: bool| usize::from(if holds { jt } else { jf });
        match code {
            LD_W_ABS => a = load(k as usize, 4)?,
            LD_H_ABS => a = load(k as usize, 2)?,
            LD_B_ABS => a = load(k as usize, 1)?,
            LD_W_IND => a = load((x + k) as usize, 4)?,
            LD_H_IND => a = load((x + k) as usize, 2)?,
            LD_B_IND => a = load((x + k) as usize, 1)?,
            LDX_IMM => x = k,
            ADD_K => a = a.wrapping_add(k),
            ADD_X => a = a.wrapping_add(x),
            AND_K => a &= k,
            LSH_K => a <<= k,
            TAX => x = a,
            TXA => a = x,
            JA => at += k as usize,
            JEQ_K => at += jump(a == k),
            JGE_K => at += jump(a >= k),
            RET_K => return Some(k),
            _ => return None,
        }
    }
}

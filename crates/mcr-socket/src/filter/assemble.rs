//! Puts a classic BPF program together from its end to its beginning.
//!
//! Classic BPF jumps forward only, and conditionally at most 255 instructions far. Written backwards, every target is
//! known when a jump to it is written, and where one is too far a stepping stone (a `ja`, or another `ret`) is put in
//! between right there. Knows nothing of packets.

use libc::sock_filter;
use std::collections::HashMap;

/// A place in the program to go on at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Label {
    /// Let the packet through, whole.
    Accept,
    /// Refuse it.
    Drop,
    /// An instruction, by its number from the end.
    At(usize),
}

/// How far a conditional jump is let go: two less than it can, for the second stepping stone of one branch moves the
/// first a place further off.
const REACH: usize = 253;

#[derive(Default)]
pub(super) struct Assembler {
    /// The program, last instruction first.
    reversed: Vec<sock_filter>,
    /// The nearest instruction that leads to a label that was jumped to before.
    nearest: HashMap<Label, usize>,
}

impl Assembler {
    /// An instruction that is not a jump, followed by `next`.
    pub(super) fn step(&mut self, code: u32, k: u32, next: Label) -> Label {
        let leads_there = |at: &usize| *at + 1 == self.reversed.len();
        let falls_through = match next {
            Label::At(at) => leads_there(&at),
            Label::Accept | Label::Drop => self.nearest.get(&next).is_some_and(leads_there),
        };
        if !falls_through {
            self.stone(next);
        }
        self.push(code, 0, 0, k)
    }

    /// Several of them in program order, followed by `next`.
    pub(super) fn steps(&mut self, steps: &[(u32, u32)], next: Label) -> Label {
        steps.iter().rev().fold(next, |next, &(code, k)| self.step(code, k, next))
    }

    /// A conditional jump to one of two places.
    pub(super) fn branch(&mut self, condition: u32, k: u32, yes: Label, no: Label) -> Label {
        if yes == no {
            return yes;
        }
        let yes = self.within_reach(yes);
        let no = self.within_reach(no);
        let here = self.reversed.len();
        // Within `REACH`, hence within a byte.
        self.push(libc::BPF_JMP | condition, (here - yes - 1) as u8, (here - no - 1) as u8, k)
    }

    /// The program that starts at `entry`.
    pub(super) fn finish(mut self, entry: Label) -> Vec<sock_filter> {
        if entry != Label::At(self.reversed.len().wrapping_sub(1)) {
            self.stone(entry);
        }
        self.reversed.reverse();
        self.reversed
    }

    fn within_reach(&mut self, label: Label) -> usize {
        let here = self.reversed.len();
        let known = match label {
            Label::At(at) => Some(*self.nearest.get(&label).unwrap_or(&at)),
            Label::Accept | Label::Drop => self.nearest.get(&label).copied(),
        };
        match known {
            Some(at) if here - at <= REACH => at,
            _ => self.stone(label),
        }
    }

    /// An instruction of its own that leads to a label, however far that is.
    fn stone(&mut self, label: Label) -> usize {
        let here = self.reversed.len();
        match label {
            Label::Accept => self.push(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
            Label::Drop => self.push(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
            // The jump of a `ja` is 32 bits wide.
            Label::At(at) => self.push(libc::BPF_JMP | libc::BPF_JA, 0, 0, (here - at - 1) as u32),
        };
        self.nearest.insert(label, here);
        here
    }

    fn push(&mut self, code: u32, jt: u8, jf: u8, k: u32) -> Label {
        self.reversed.push(sock_filter { code: code as u16, jt, jf, k });
        Label::At(self.reversed.len() - 1)
    }
}

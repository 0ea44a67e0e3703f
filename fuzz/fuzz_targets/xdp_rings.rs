//! Whatever a broken driver puts into the rings, no frame is handed out twice, lost, or reaches beyond its own memory.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mcr_xdp::{Frame, Shape, twin};

const FRAMES: u32 = 16;

fuzz_target!(|bytes: &[u8]| {
    let shape = Shape { frames: FRAMES, reserve_frames: 2, ..Shape::with_entries(8) };
    let (mut rings, mut kernel) = twin::pair(shape).expect("memory");
    let mut held: Vec<Frame> = Vec::new();
    for step in bytes.chunks_exact(4) {
        let [what, low, high, extra] = [step[0], step[1], step[2], step[3]];
        let word = u64::from(u16::from_le_bytes([low, high]));
        match what % 8 {
            0 => drop(kernel.deliver(&vec![extra; usize::from(low) * 8])),
            1 => drop(kernel.deliver_descriptor(word, u32::from(extra) * 16, u32::from(what >> 7))),
            2 => drop(kernel.complete_address(word)),
            3 => drop(rings.receive(&mut held, usize::from(extra))),
            4 => {
                let Some(frame) = held.pop() else { continue };
                if frame.is_empty() {
                    rings.release(frame);
                } else if let Err(frame) = rings.send(frame) {
                    held.push(frame);
                }
                rings.submit();
            }
            5 => drop(rings.recycle()),
            6 => drop((kernel.transmit(), kernel.complete(word as usize))),
            _ => held.extend(rings.take()),
        }
        let counts = rings.counts();
        assert_eq!(counts.free + counts.receiving + counts.held + counts.sending, FRAMES);
        assert_eq!(counts.held as usize, held.len());
        // Each frame has memory of its own: what is written to one shows in no other.
        for (mark, frame) in (0..).zip(&mut held) {
            rings.room_mut(frame).fill(mark);
        }
        for (mark, frame) in (0..).zip(&mut held) {
            assert!(rings.room_mut(frame).iter().all(|&byte| byte == mark));
        }
    }
});

//! Both sides at full speed on threads of their own: nothing is lost, doubled, reordered or torn.
#![allow(clippy::unwrap_used)] // Whatever fails here fails the test.

use std::thread;
use std::time::{Duration, Instant};

use mcr_xdp::twin::{self, Delivered};
use mcr_xdp::{Rings, Shape};

const FRAMES: u64 = 300_000;
const BYTES: usize = 64;
const DEADLINE: Duration = Duration::from_secs(60);

#[test]
fn each_frame_comes_back_once_in_order_and_whole() {
    let shape = Shape { frames: 96, reserve_frames: 8, ..Shape::with_entries(64) };
    let (rings, mut kernel) = twin::pair(shape).unwrap();
    let started = Instant::now();
    let program = thread::spawn(move || swap(rings, started));
    let (mut delivered, mut returned) = (0_u64, 0_u64);
    while returned < FRAMES {
        assert!(started.elapsed() < DEADLINE, "{delivered} delivered, {returned} returned");
        let data = delivered.to_le_bytes().repeat(BYTES / 8);
        if delivered < FRAMES && kernel.deliver(&data) == Delivered::Yes {
            delivered += 1;
        } else {
            thread::yield_now();
        }
        while let Some(sent) = kernel.transmit() {
            assert_eq!(sent, (!returned).to_le_bytes().repeat(BYTES / 8));
            returned += 1;
        }
        // Out of order, as drivers do.
        while kernel.complete(returned as usize) {}
    }
    while kernel.under_way() > 0 && started.elapsed() < DEADLINE {
        kernel.complete(0);
    }
    let counts = program.join().unwrap().counts();
    assert_eq!(counts.held, 0);
    assert_eq!((counts.receive_invalid, counts.completion_invalid), (0, 0));
    assert_eq!(counts.free + counts.receiving + counts.sending, 96);
}

fn swap(mut rings: Rings, started: Instant) -> Rings {
    let mut frames = Vec::with_capacity(16);
    let mut sent = 0;
    while sent < FRAMES || rings.counts().sending > 0 {
        assert!(started.elapsed() < DEADLINE, "{:?}", rings.counts());
        rings.recycle();
        if rings.receive(&mut frames, 16) == 0 {
            thread::yield_now();
        }
        for mut frame in frames.drain(..) {
            rings.bytes_mut(&mut frame).iter_mut().for_each(|byte| *byte = !*byte);
            // What does not fit is kept, in order.
            let mut unsent = Some(frame);
            while let Some(frame) = unsent.take() {
                if let Err(frame) = rings.send(frame) {
                    rings.submit();
                    rings.recycle();
                    thread::yield_now();
                    unsent = Some(frame);
                }
            }
            sent += 1;
        }
        rings.submit();
    }
    rings
}

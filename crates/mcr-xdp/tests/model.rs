//! The rings against a slow model of them, over random interleavings of both sides.

use std::collections::VecDeque;

use mcr_xdp::twin::{self, Delivered};
use mcr_xdp::{Frame, Shape};
use proptest::prelude::*;

/// One step of either side.
#[derive(Clone, Debug)]
enum Step {
    /// A frame of that many bytes arrives.
    Deliver(u16),
    /// The program receives at most so many.
    Receive(usize),
    /// The program sends the oldest frame it holds, changed.
    Send,
    /// The program takes a free frame and sends it.
    Originate(u16),
    /// The program gives the newest frame it holds up.
    Release,
    Submit,
    Recycle,
    /// The kernel sends at most so many.
    Transmit(usize),
    /// The kernel completes one of those it sent.
    Complete(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_u16..1800).prop_map(Step::Deliver),
        3 => (0_usize..20).prop_map(Step::Receive),
        4 => Just(Step::Send),
        1 => (1_u16..1792).prop_map(Step::Originate),
        1 => Just(Step::Release),
        2 => Just(Step::Submit),
        2 => Just(Step::Recycle),
        3 => (0_usize..20).prop_map(Step::Transmit),
        4 => any::<usize>().prop_map(Step::Complete),
    ]
}

fn shape() -> impl Strategy<Value = Shape> {
    let entries = || (0_u32..5).prop_map(|log| 1 << log);
    (2_u32..40, entries(), entries(), entries(), entries(), 0_u32..2).prop_map(
        |(frames, receive_entries, transmit_entries, fill_entries, completion_entries, reserve_frames)| {
            Shape {
                frames,
                frame_bytes: 2048,
                receive_entries,
                transmit_entries,
                fill_entries,
                completion_entries,
                reserve_frames,
            }
        },
    )
}

/// What must be where: numbers of frames, and the contents in order.
#[derive(Debug)]
struct Model {
    shape: Shape,
    free: u32,
    fill: u32,
    receive: VecDeque<Vec<u8>>,
    held: VecDeque<Vec<u8>>,
    written: VecDeque<Vec<u8>>,
    transmit: VecDeque<Vec<u8>>,
    under_way: u32,
    completion: u32,
}

impl Model {
    fn new(shape: Shape) -> Self {
        let mut model = Self {
            shape,
            free: shape.frames,
            fill: 0,
            receive: VecDeque::new(),
            held: VecDeque::new(),
            written: VecDeque::new(),
            transmit: VecDeque::new(),
            under_way: 0,
            completion: 0,
        };
        model.refill();
        model
    }

    fn refill(&mut self) {
        let spare = self.free.saturating_sub(self.shape.reserve_frames);
        let moved = spare.min(self.shape.fill_entries - self.fill);
        self.free -= moved;
        self.fill += moved;
    }

    fn deliver(&mut self, data: Vec<u8>) -> Delivered {
        if data.len() > self.shape.receive_bytes_max() as usize {
            return Delivered::TooLong;
        }
        if self.receive.len() == self.shape.receive_entries as usize {
            return Delivered::RingFull;
        }
        if self.fill == 0 {
            return Delivered::NoFrame;
        }
        self.fill -= 1;
        self.receive.push_back(data);
        Delivered::Yes
    }

    fn has_transmit_room(&self) -> bool {
        self.written.len() + self.transmit.len() < self.shape.transmit_entries as usize
    }
}

/// A frame that no other is equal to.
fn content(number: usize, bytes: u16) -> Vec<u8> {
    (0..usize::from(bytes)).map(|at| (number.wrapping_mul(31) + at * 7) as u8).collect()
}

fn run(shape: Shape, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let (mut rings, mut kernel) = twin::pair(shape).expect("memory");
    let mut model = Model::new(shape);
    let mut held: VecDeque<Frame> = VecDeque::new();
    for (number, step) in steps.into_iter().enumerate() {
        match step {
            Step::Deliver(bytes) => {
                let data = content(number, bytes);
                prop_assert_eq!(kernel.deliver(&data), model.deliver(data));
            }
            Step::Receive(max) => {
                let mut out = Vec::new();
                let received = rings.receive(&mut out, max);
                prop_assert_eq!(received, max.min(model.receive.len()));
                held.extend(out);
                model.held.extend(model.receive.drain(..received));
            }
            Step::Send => {
                let Some(mut frame) = held.pop_front() else { continue };
                if frame.is_empty() {
                    held.push_front(frame);
                    continue;
                }
                rings.bytes_mut(&mut frame)[0] ^= 0x55;
                let mut data = model.held.pop_front().expect("as many as frames");
                data[0] ^= 0x55;
                match rings.send(frame) {
                    Ok(()) => {
                        prop_assert!(model.has_transmit_room());
                        model.written.push_back(data);
                    }
                    Err(frame) => {
                        prop_assert!(!model.has_transmit_room());
                        prop_assert_eq!(rings.bytes(&frame), &data[..]);
                        held.push_front(frame);
                        model.held.push_front(data);
                    }
                }
            }
            Step::Originate(bytes) => {
                let Some(mut frame) = rings.take() else {
                    prop_assert_eq!(model.free, 0);
                    continue;
                };
                let data = content(number, bytes);
                prop_assert!(rings.resize(&mut frame, data.len()));
                rings.bytes_mut(&mut frame).copy_from_slice(&data);
                match rings.send(frame) {
                    Ok(()) => {
                        model.free -= 1;
                        model.written.push_back(data);
                    }
                    Err(frame) => rings.release(frame),
                }
            }
            Step::Release => {
                let Some(frame) = held.pop_back() else { continue };
                rings.release(frame);
                model.held.pop_back();
                model.free += 1;
            }
            Step::Submit => {
                rings.submit();
                let written = std::mem::take(&mut model.written);
                model.transmit.extend(written);
            }
            Step::Recycle => {
                prop_assert_eq!(rings.recycle(), model.completion as usize);
                model.free += std::mem::take(&mut model.completion);
                model.refill();
            }
            Step::Transmit(max) => {
                for _ in 0..max {
                    let sent = kernel.transmit();
                    prop_assert_eq!(&sent, &model.transmit.pop_front());
                    if sent.is_none() {
                        break;
                    }
                    model.under_way += 1;
                }
            }
            Step::Complete(which) => {
                let possible = model.under_way > 0 && model.completion < shape.completion_entries;
                prop_assert_eq!(kernel.complete(which), possible);
                if possible {
                    model.under_way -= 1;
                    model.completion += 1;
                }
            }
        }
        let counts = rings.counts();
        prop_assert_eq!(counts.free, model.free);
        prop_assert_eq!(counts.receiving, model.fill + model.receive.len() as u32);
        prop_assert_eq!(counts.held, held.len() as u32);
        let sending = model.written.len() + model.transmit.len();
        prop_assert_eq!(counts.sending, sending as u32 + model.under_way + model.completion);
        prop_assert_eq!(counts.free + counts.receiving + counts.held + counts.sending, shape.frames);
        prop_assert_eq!((counts.receive_invalid, counts.completion_invalid), (0, 0));
        for (frame, data) in held.iter().zip(&model.held) {
            prop_assert_eq!(rings.bytes(frame), &data[..]);
        }
    }
    held.into_iter().for_each(|frame| rings.release(frame));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_frame_is_in_one_place_and_holds_what_it_should(
        shape in shape(),
        steps in proptest::collection::vec(step(), 0..400),
    ) {
        run(shape, steps)?;
    }

    #[test]
    fn a_descriptor_that_was_never_given_out_is_counted_and_changes_nothing(
        address in any::<u64>(),
        bytes in any::<u32>(),
        options in 0_u32..2,
    ) {
        let shape = Shape { frames: 8, fill_entries: 4, ..Shape::with_entries(8) };
        let (mut rings, mut kernel) = twin::pair(shape).expect("memory");
        // Four frames are in the fill ring (the lowest), four are free: only the former can be received, nothing completed.
        let address = address % (10 * 2048);
        prop_assert!(kernel.deliver_descriptor(address, bytes, options));
        prop_assert!(kernel.complete_address(address));
        let mut out = Vec::new();
        let received = rings.receive(&mut out, 8);
        let fits = u64::from(bytes) <= 2048 - address % 2048;
        prop_assert_eq!(received, usize::from(address < 4 * 2048 && fits && options == 0));
        prop_assert_eq!(rings.counts().receive_invalid, u64::from(received == 0));
        prop_assert_eq!(rings.recycle(), 0);
        prop_assert_eq!(rings.counts().completion_invalid, 1);
        for frame in out {
            prop_assert_eq!(rings.bytes(&frame).len(), bytes as usize);
            rings.release(frame);
        }
        let counts = rings.counts();
        prop_assert_eq!(counts.free + counts.receiving, 8);
    }
}

#[test]
#[should_panic(expected = "was used with UMEM")]
fn a_frame_of_another_umem_is_refused() {
    let (mut one, _kernel) = twin::pair(Shape::with_entries(4)).unwrap();
    let (mut other, _kernel) = twin::pair(Shape::with_entries(4)).unwrap();
    let frame = one.take().unwrap();
    other.release(frame);
}

#[test]
#[should_panic(expected = "an empty frame")]
fn an_empty_frame_is_not_sent_because_the_kernel_would_never_complete_it() {
    let (mut rings, _kernel) = twin::pair(Shape::with_entries(4)).unwrap();
    let mut frame = rings.take().unwrap();
    assert!(rings.resize(&mut frame, 0));
    let _ = rings.send(frame);
}

#[test]
fn a_frame_grows_up_to_its_end_and_no_further() {
    let (mut rings, mut kernel) = twin::pair(Shape::with_entries(4)).unwrap();
    kernel.deliver(b"short");
    let mut out = Vec::new();
    rings.receive(&mut out, 1);
    let mut frame = out.pop().unwrap();
    assert_eq!(rings.room_mut(&mut frame).len(), 2048 - 256);
    assert!(!rings.resize(&mut frame, 2048 - 255));
    assert_eq!(rings.bytes(&frame), b"short");
    rings.room_mut(&mut frame)[5..9].copy_from_slice(b"er!!");
    assert!(rings.resize(&mut frame, 8));
    assert_eq!(rings.bytes(&frame), b"shorter!");
    assert_eq!(rings.metadata(&frame, 256).map(<[u8]>::len), Some(256));
    assert_eq!(rings.metadata(&frame, 257), None);
    rings.release(frame);
}

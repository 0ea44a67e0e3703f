//! In steady state a worker allocates nothing, over either back end.

#[allow(dead_code)] // Shared with the tests of whole workers, which need more of it.
#[path = "worker/rig.rs"]
mod rig;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
};

use mcr_lab::{Namespace, require};
use mcr_proto::plan::{Via, WorkerIndex};
use mcr_socket::Family;

use crate::rig::{
    BACK_ENDS, Rig, output, payload, receive, route, send_segments, sink, source, udp_input, udp_output,
};

/// The system's allocator, which counts what threads that asked for it allocate.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static COUNTED: Cell<bool> = const { Cell::new(false) };
}

fn count() {
    if COUNTED.try_with(Cell::get).unwrap_or(false) {
        ALLOCATIONS.fetch_add(1, SeqCst);
    }
}

// SAFETY: every call is handed on to the system's allocator as it came; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise for `alloc` is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: `memory` came from `alloc` or `realloc` above, hence from the system's allocator.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count();
        // SAFETY: as for `dealloc`; the caller's promise for `bytes` is the system allocator's.
        unsafe { System.realloc(memory, layout, bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const IN: &str = "127.0.0.1:5000";

#[test]
fn after_the_first_traffic_no_datagram_costs_an_allocation() {
    let Some(()) = require::netns() else { return };
    for io in BACK_ENDS {
        let net = Namespace::new().expect("root");
        let mut rig = Rig::start_as(io, WorkerIndex(0), None, || COUNTED.set(true));
        let (fd, kind) = udp_input(&net, IN);
        let input = rig.receiver(fd, kind);
        let sender = rig.sender(udp_output(&net, Family::V4));
        let to = ["127.0.0.1:6000", "127.0.0.1:6001"];
        let sinks = to.map(|to| sink(&net, to));
        let outputs = [0, 1].map(|slot| output(slot, to[slot as usize], Via::Udp(sender)));
        rig.apply(vec![route(1, input, IN, &outputs)]);
        let source = source(&net, "127.0.0.1:0");
        let mut total = 0;
        let mut traffic = |rig: &Rig| {
            for number in 0..200 {
                send_segments(&source, IN, &payload(number, 9000), 1000);
                for bytes in [100, 200, 0, 1400] {
                    source.send_to(&payload(number, bytes), IN).expect("room");
                }
            }
            total += 200 * 13;
            rig.wait_received(total, &outputs);
            sinks.iter().for_each(|sink| drop(receive(sink, 200 * 13)));
        };
        // Queues grow to what the traffic needs. How much of it is there at once is up to the scheduler, so a few times.
        for _ in 0..5 {
            traffic(&rig);
        }
        let before = ALLOCATIONS.load(SeqCst);
        assert!(before > 0, "the worker's thread is counted");
        for _ in 0..10 {
            traffic(&rig);
        }
        let allocations = ALLOCATIONS.load(SeqCst) - before;
        // A queue may still double once or twice; a datagram costs nothing.
        assert!(allocations <= 4, "{allocations} allocations for {} datagrams", 10 * 200 * 13);
        rig.stop();
    }
}

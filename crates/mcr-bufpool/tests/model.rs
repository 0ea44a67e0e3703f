//! Both pools against a model: sets of free and taken buffers, and what was last written into each.

use std::collections::HashMap;

use mcr_bufpool::{Class, HugePages, LocalBuffer, LocalPool, PoolConfig, SharedPool};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Take(usize),
    TakeFrom(usize),
    Give(usize),
    Write(usize, u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0usize..2500).prop_map(Step::Take),
        (0usize..2).prop_map(Step::TakeFrom),
        any::<usize>().prop_map(Step::Give),
        (any::<usize>(), any::<u8>()).prop_map(|(which, byte)| Step::Write(which, byte)),
    ];
    prop::collection::vec(step, 0..400)
}

const CLASSES: [Class; 2] =
    [Class { buffer_bytes: 100, buffers: 5 }, Class { buffer_bytes: 2048, buffers: 3 }];
/// Class sizes are rounded up to whole cache lines.
const ROUNDED: [usize; 2] = [128, 2048];

fn config() -> PoolConfig {
    PoolConfig { classes: CLASSES.to_vec(), huge_pages: HugePages::Never, colour: true }
}

#[derive(Default)]
struct Model {
    out: [u32; 2],
    taken: [u64; 2],
    given: [u64; 2],
    empty: [u64; 2],
    high_water: [u32; 2],
}

impl Model {
    /// Whether a take from this class succeeds.
    fn take(&mut self, class: usize) -> bool {
        if self.out[class] == CLASSES[class].buffers {
            self.empty[class] += 1;
            return false;
        }
        self.out[class] += 1;
        self.taken[class] += 1;
        self.high_water[class] = self.high_water[class].max(self.out[class]);
        true
    }

    fn give(&mut self, class: usize) {
        self.out[class] -= 1;
        self.given[class] += 1;
    }
}

/// One generic run: the pools differ in `&self` and `&mut self` only, so a macro stands in for a trait.
macro_rules! run {
    ($pool:ident, $steps:ident) => {{
        let mut model = Model::default();
        let mut held: Vec<(usize, _, Option<u8>)> = Vec::new();
        for step in $steps {
            match step {
                Step::Take(bytes) => {
                    let class = ROUNDED.iter().position(|&rounded| rounded >= bytes);
                    let expected = class.is_some_and(|class| model.take(class));
                    let got = $pool.take(bytes);
                    prop_assert_eq!(got.is_some(), expected);
                    held.extend(got.map(|buffer| (class.unwrap(), buffer, None)));
                }
                Step::TakeFrom(class) => {
                    let expected = model.take(class);
                    let got = $pool.take_from(class);
                    prop_assert_eq!(got.is_some(), expected);
                    held.extend(got.map(|buffer| (class, buffer, None)));
                }
                Step::Give(which) if !held.is_empty() => {
                    let (class, buffer, _) = held.swap_remove(which % held.len());
                    model.give(class);
                    $pool.give(buffer);
                }
                Step::Write(which, byte) if !held.is_empty() => {
                    let which = which % held.len();
                    let (_, buffer, written) = &mut held[which];
                    $pool.bytes_mut(buffer).fill(byte);
                    *written = Some(byte);
                }
                Step::Give(_) | Step::Write(..) => {}
            }
            for (class, buffer, written) in &held {
                let bytes = $pool.bytes(buffer);
                prop_assert_eq!(bytes.len(), ROUNDED[*class]);
                prop_assert!(written.is_none_or(|byte| bytes.iter().all(|&b| b == byte)));
            }
            for class in 0..2 {
                let counts = $pool.counts(class);
                prop_assert_eq!(counts.taken, model.taken[class]);
                prop_assert_eq!(counts.given, model.given[class]);
                prop_assert_eq!(counts.empty, model.empty[class]);
                prop_assert_eq!(counts.high_water, model.high_water[class]);
                prop_assert_eq!($pool.available(class), (CLASSES[class].buffers - model.out[class]) as usize);
            }
        }
        for (_, buffer, _) in held {
            $pool.give(buffer);
        }
    }};
}

proptest! {
    #[test]
    fn a_local_pool_does_what_the_model_does(steps in steps()) {
        let mut pool = LocalPool::new(&config()).unwrap();
        run!(pool, steps);
    }

    #[test]
    fn a_shared_pool_does_what_the_model_does(steps in steps()) {
        let pool = SharedPool::new(&config()).unwrap();
        run!(pool, steps);
    }
}

#[test]
fn every_local_buffer_has_its_own_number_and_its_address_is_where_its_bytes_are() {
    let mut pool = LocalPool::new(&PoolConfig::one_class(4096, 64)).unwrap();
    let buffers: Vec<LocalBuffer> = std::iter::from_fn(|| pool.take_from(0)).collect();
    let mut seen = HashMap::new();
    for buffer in &buffers {
        let index = pool.index(buffer);
        let address = pool.address(0, index).as_ptr() as usize;
        assert_eq!(address, pool.bytes(buffer).as_ptr() as usize);
        assert!(address >= pool.base().as_ptr() as usize);
        assert!(address + 4096 <= pool.base().as_ptr() as usize + pool.mapped_bytes());
        assert_eq!(seen.insert(index, address), None);
    }
    assert_eq!(seen.len(), 64);
    buffers.into_iter().for_each(|buffer| pool.give(buffer));
}

#[test]
#[should_panic(expected = "was used with pool")]
fn giving_a_local_buffer_to_another_pool_panics() {
    let mut ours = LocalPool::new(&PoolConfig::one_class(64, 1)).unwrap();
    let mut theirs = LocalPool::new(&PoolConfig::one_class(64, 1)).unwrap();
    let buffer = ours.take(1).unwrap();
    theirs.give(buffer);
}

#[test]
#[should_panic(expected = "was used with pool")]
fn reading_a_shared_buffer_from_another_pool_panics() {
    let ours = SharedPool::new(&PoolConfig::one_class(64, 1)).unwrap();
    let theirs = SharedPool::new(&PoolConfig::one_class(64, 1)).unwrap();
    let buffer = ours.take(1).unwrap();
    let _ = theirs.bytes(&buffer);
}

#[test]
fn buffers_given_back_by_other_threads_are_never_out_twice() {
    const ROUNDS: usize = 20_000;
    let pool = SharedPool::new(&PoolConfig::one_class(64, 8)).unwrap();
    let (sender, receiver) = std::sync::mpsc::sync_channel(4);
    std::thread::scope(|scope| {
        for thread in 0..2u8 {
            let sender = sender.clone();
            let pool = &pool;
            scope.spawn(move || {
                let mut sent = 0;
                while sent < ROUNDS {
                    let Some(mut buffer) = pool.take(64) else {
                        std::thread::yield_now();
                        continue;
                    };
                    pool.bytes_mut(&mut buffer).fill(thread);
                    sender.send((thread, buffer)).unwrap();
                    sent += 1;
                }
            });
        }
        drop(sender);
        for (thread, buffer) in receiver {
            assert!(pool.bytes(&buffer).iter().all(|&byte| byte == thread));
            pool.give(buffer);
        }
    });
    let counts = pool.counts(0);
    assert_eq!((counts.taken, counts.given), (2 * ROUNDS as u64, 2 * ROUNDS as u64));
    assert!(counts.high_water <= 8);
    assert_eq!(pool.available(0), 8);
}

//! Both pools against a model, whatever is taken, written and given back: a buffer is out once, as large as it must be, and its bytes
//! are nobody else's.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mcr_bufpool::{Class, HugePages, LocalPool, PoolConfig, SharedPool};

/// One class, as it must be.
struct Model {
    buffer_bytes: usize,
    buffers: u32,
    out: u32,
    taken: u64,
    given: u64,
    empty: u64,
    high_water: u32,
}

impl Model {
    fn new(buffer_bytes: usize, buffers: u32) -> Self {
        Self { buffer_bytes, buffers, out: 0, taken: 0, given: 0, empty: 0, high_water: 0 }
    }

    /// Whether there is one to be had.
    fn take(&mut self) -> bool {
        let is_empty = self.out == self.buffers;
        if is_empty {
            self.empty += 1;
        } else {
            self.out += 1;
            self.taken += 1;
            self.high_water = self.high_water.max(self.out);
        }
        !is_empty
    }
}

/// The pools differ in `&self` and `&mut self` only, so a macro stands in for a trait.
macro_rules! run {
    ($pool:ident, $config:expr, $steps:expr) => {{
        let mut models: Vec<_> = (0..$pool.classes())
            .map(|class| Model::new($pool.buffer_bytes(class), $config.classes[class].buffers))
            .collect();
        let mut held: Vec<(usize, _, Option<u8>)> = Vec::new();
        for step in $steps.chunks_exact(3) {
            let number = usize::from(u16::from_le_bytes([step[1], step[2]]));
            match step[0] % 4 {
                0 => {
                    let class = models.iter().position(|model| model.buffer_bytes >= number);
                    let expected = class.is_some_and(|class| models[class].take());
                    let got = $pool.take(number);
                    assert_eq!(got.is_some(), expected);
                    held.extend(class.zip(got).map(|(class, buffer)| (class, buffer, None)));
                }
                1 => {
                    let class = number % models.len();
                    let got = $pool.take_from(class);
                    assert_eq!(got.is_some(), models[class].take());
                    held.extend(got.map(|buffer| (class, buffer, None)));
                }
                2 if !held.is_empty() => {
                    let (class, buffer, _) = held.swap_remove(number % held.len());
                    (models[class].out, models[class].given) =
                        (models[class].out - 1, models[class].given + 1);
                    $pool.give(buffer);
                }
                3 if !held.is_empty() => {
                    let which = number % held.len();
                    let (_, buffer, written) = &mut held[which];
                    $pool.bytes_mut(buffer).fill(step[0]);
                    *written = Some(step[0]);
                }
                _ => {}
            }
            for (class, buffer, written) in &held {
                let bytes = $pool.bytes(buffer);
                assert_eq!(bytes.len(), models[*class].buffer_bytes);
                assert!(written.is_none_or(|byte| bytes.iter().all(|&found| found == byte)));
            }
            for (class, model) in models.iter().enumerate() {
                let counts = $pool.counts(class);
                assert_eq!((counts.taken, counts.given), (model.taken, model.given));
                assert_eq!((counts.empty, counts.high_water), (model.empty, model.high_water));
                assert_eq!($pool.available(class), (model.buffers - model.out) as usize);
            }
        }
        held.into_iter().for_each(|(_, buffer, _)| $pool.give(buffer));
    }};
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&[kind, small, medium, large], steps)) = bytes.split_first_chunk() else { return };
    // Longer inputs say nothing new.
    let steps = &steps[..steps.len().min(900)];
    let [small, medium, large] = [small, medium, large].map(usize::from);
    // Refused where the first is nothing, or another no larger than the one before it.
    let sizes = [small, small + medium * 4, small + medium * 4 + large * 16];
    let classes = sizes.into_iter().take(1 + usize::from(kind % 3));
    let classes =
        classes.zip([5, 3, 2]).map(|(buffer_bytes, buffers)| Class { buffer_bytes, buffers }).collect();
    let config = PoolConfig { classes, huge_pages: HugePages::Never, colour: kind & 4 != 0 };
    let (local, shared) = (LocalPool::new(&config), SharedPool::new(&config));
    assert_eq!(local.is_ok(), shared.is_ok(), "both take the same classes");
    let (Ok(mut local), Ok(shared)) = (local, shared) else { return };
    run!(local, config, steps);
    run!(shared, config, steps);
});

//! What threads share things by: the real ones, or, in tests built with `--cfg loom`, those of loom, which tries every order of threads
//! that the memory model allows.

#[cfg(not(all(loom, test)))]
pub(crate) use {
    crossbeam_queue::ArrayQueue,
    std::sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

#[cfg(all(loom, test))]
pub(crate) use self::modelled::ArrayQueue;
#[cfg(all(loom, test))]
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};

#[cfg(all(loom, test))]
mod modelled {
    use std::collections::VecDeque;

    use loom::sync::Mutex;

    /// What crossbeam's queue promises, and no more: one push or pop after another, and what happened before a push has happened for
    /// whoever pops the value. Its own implementation is crossbeam's to test.
    #[derive(Debug)]
    pub(crate) struct ArrayQueue<T> {
        values: Mutex<VecDeque<T>>,
        values_max: usize,
    }

    impl<T> ArrayQueue<T> {
        pub(crate) fn new(values_max: usize) -> Self {
            Self { values: Mutex::new(VecDeque::new()), values_max }
        }

        pub(crate) fn push(&self, value: T) -> Result<(), T> {
            let mut values = self.values.lock().expect("nobody panics with it");
            if values.len() == self.values_max {
                return Err(value);
            }
            values.push_back(value);
            Ok(())
        }

        pub(crate) fn pop(&self) -> Option<T> {
            self.values.lock().expect("nobody panics with it").pop_front()
        }

        pub(crate) fn len(&self) -> usize {
            self.values.lock().expect("nobody panics with it").len()
        }
    }
}

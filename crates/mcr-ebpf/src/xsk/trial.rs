//! What the program would do with frames, asked of the kernel, with nothing attached: for tests of the decision.

use std::fmt;

use aya::programs::{TestRun as _, TestRunOptions};

use super::{Program, Selection, Verdict, XskError, load_error, program, sum};

/// XDP_PASS of linux/bpf.h.
const PASS: u32 = 2;

/// The program, loaded and attached to nothing.
pub struct Trial(Program);

impl fmt::Debug for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Trial")
    }
}

impl Trial {
    /// Loads the program.
    ///
    /// # Errors
    /// [`XskError`].
    pub fn new(selection: &Selection) -> Result<Self, XskError> {
        Program::load(selection).map(Self)
    }

    /// Wants something else from now on.
    ///
    /// # Errors
    /// [`XskError`].
    pub fn select(&mut self, selection: &Selection) -> Result<(), XskError> {
        self.0.select(selection)
    }

    /// Runs it over a frame of at least 14 bytes (BPF_PROG_TEST_RUN). There is no socket, so a frame that would be redirected is
    /// [`Verdict::NoSocket`]. Says also whether it was counted as a near miss.
    ///
    /// # Errors
    /// [`XskError`], if the kernel does not run it.
    ///
    /// # Panics
    /// If the program changes the frame, drops it, or does not count it once.
    pub fn run(&mut self, frame: &[u8]) -> Result<(Verdict, bool), XskError> {
        let before = sum(&self.0.counts)?;
        let near_before = sum(&self.0.near_misses)?;
        let mut out = vec![0; frame.len()];
        let options =
            TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), ..TestRunOptions::default() };
        let result = program(&mut self.0.ebpf)?.test_run(options).map_err(|error| load_error(&error))?;
        let after = sum(&self.0.counts)?;
        assert_eq!(result.return_value, PASS, "without a socket everything goes to the stack");
        assert_eq!(out, frame, "and is not changed");
        let counted: Vec<_> =
            Verdict::ALL.iter().filter(|verdict| after.of(**verdict) != before.of(**verdict)).collect();
        assert!(after.total() == before.total() + 1 && counted.len() == 1, "counted as {counted:?}");
        let near = sum(&self.0.near_misses)?;
        assert!(near == near_before || near.of(*counted[0]) == near_before.of(*counted[0]) + 1);
        Ok((*counted[0], near != near_before))
    }
}

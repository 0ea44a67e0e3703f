//! Generic netlink: families that have names, whose numbers the kernel is asked for first.

use std::io;

use crate::{
    asker::{Asker, ONE, Protocol},
    attribute::{attribute, put, u16_at, zero_ended},
};

// linux/genetlink.h
const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
/// Length of `struct genlmsghdr`.
const HEADER_BYTES: usize = 4;

/// A socket that asks one family.
#[derive(Debug)]
pub struct Generic {
    asker: Asker,
    family: u16,
}

impl Generic {
    /// Opens a socket in the network namespace of the calling thread, to ask the family of this name.
    ///
    /// # Errors
    /// As [`Asker::open`] and [`Asker::ask`]; ENOENT if the kernel has no such family.
    pub fn open(name: &str) -> io::Result<Self> {
        let mut control = Self { asker: Asker::open(Protocol::Generic)?, family: GENL_ID_CTRL };
        let mut body = Vec::new();
        put(&mut body, CTRL_ATTR_FAMILY_NAME, &zero_ended(name));
        let mut family = None;
        control.ask(CTRL_CMD_GETFAMILY, &body, |attributes| {
            family = attribute(attributes, CTRL_ATTR_FAMILY_ID).and_then(|id| u16_at(id, 0));
        })?;
        let family = family.ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { family, ..control })
    }

    /// Sends a command with these attributes, and hands the attributes of each message of the answer to `each`.
    ///
    /// # Errors
    /// As [`Asker::ask`].
    pub fn ask(&mut self, command: u8, attributes: &[u8], mut each: impl FnMut(&[u8])) -> io::Result<()> {
        // Command, version, and two bytes reserved.
        let body = [&[command, 1, 0, 0], attributes].concat();
        self.asker.ask(self.family, ONE, &body, |_, answer| {
            each(answer.get(HEADER_BYTES..).unwrap_or_default());
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_is_found_by_its_name_and_a_name_that_no_family_has_is_an_error() {
        let mut control = Generic::open("nlctrl").expect("every kernel has it");
        assert_eq!(control.family, GENL_ID_CTRL);
        let mut name = Vec::new();
        put(&mut name, CTRL_ATTR_FAMILY_NAME, &zero_ended("nlctrl"));
        let mut answers = 0;
        control.ask(CTRL_CMD_GETFAMILY, &name, |_| answers += 1).expect("an answer");
        assert_eq!(answers, 1);
        let error = Generic::open("no_such_family").expect_err("there is none");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}

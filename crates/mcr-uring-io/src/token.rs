//! The `user_data` of an operation. The only place that packs these bits, so that a completion cannot be taken for
//! another's: operation in the top byte, generation in the next four, slot in the low three.

/// What an operation was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Operation {
    /// A multishot receive; the slot is a socket's.
    Receive = 1,
    /// A send; the slot is a send slot's.
    Send = 2,
    /// A poll for readability; the slot is a socket's.
    Watch = 3,
    /// A cancellation; the slot is that of the socket whose operation it cancels.
    Cancel = 4,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token(u64);

impl Token {
    /// How many slots can be told apart.
    pub(crate) const SLOTS: u32 = 1 << 24;

    pub(crate) fn new(operation: Operation, generation: u32, slot: u32) -> Self {
        assert!(slot < Self::SLOTS, "slot {slot} does not fit a token");
        Self(u64::from(operation as u8) << 56 | u64::from(generation) << 24 | u64::from(slot))
    }

    /// `None` for bits that `new` never makes.
    pub(crate) fn from_bits(bits: u64) -> Option<(Operation, u32, u32)> {
        let operation = match (bits >> 56) as u8 {
            1 => Operation::Receive,
            2 => Operation::Send,
            3 => Operation::Watch,
            4 => Operation::Cancel,
            _ => return None,
        };
        Some((operation, (bits >> 24) as u32, bits as u32 & (Self::SLOTS - 1)))
    }

    pub(crate) fn bits(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_comes_back_as_it_went_in() {
        for operation in [Operation::Receive, Operation::Send, Operation::Watch, Operation::Cancel] {
            for generation in [0, 1, 0x00ff_00ff, u32::MAX] {
                for slot in [0, 1, 0xab_cdef, Token::SLOTS - 1] {
                    let bits = Token::new(operation, generation, slot).bits();
                    assert_eq!(Token::from_bits(bits), Some((operation, generation, slot)));
                }
            }
        }
    }

    #[test]
    fn bits_of_no_operation_are_refused() {
        assert_eq!(Token::from_bits(0), None);
        assert_eq!(Token::from_bits(5 << 56), None);
        assert_eq!(Token::from_bits(u64::MAX), None);
    }

    #[test]
    #[should_panic(expected = "does not fit")]
    fn a_slot_that_would_spill_into_the_generation_panics() {
        let _ = Token::new(Operation::Send, 0, Token::SLOTS);
    }
}

//! What is sent to a reflector.

use clap::ValueEnum;

/// A length of frames, and whether they are alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Case {
    /// Frames of 128 bytes
    #[value(name = "128")]
    Small,
    /// Frames of 1514 bytes
    #[value(name = "1514")]
    Long,
    /// Frames of 128 bytes, each with three foreign ones of its length
    #[value(name = "128-foreign")]
    SmallForeign,
    /// Frames of 1514 bytes, each with three foreign ones of its length
    #[value(name = "1514-foreign")]
    LongForeign,
}

impl Case {
    pub(crate) const ALL: [Self; 4] = [Self::Small, Self::Long, Self::SmallForeign, Self::LongForeign];

    /// The name on the command line and in results.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Small => "128",
            Self::Long => "1514",
            Self::SmallForeign => "128-foreign",
            Self::LongForeign => "1514-foreign",
        }
    }

    /// What a reader of the table is told.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Small => "Frames of 128 B",
            Self::Long => "Frames of 1,514 B",
            Self::SmallForeign => "Frames of 128 B, and three times as many foreign ones",
            Self::LongForeign => "Frames of 1,514 B, and three times as many foreign ones",
        }
    }

    pub(super) fn bytes(self) -> usize {
        match self {
            Self::Small | Self::SmallForeign => 128,
            Self::Long | Self::LongForeign => 1514,
        }
    }

    pub(super) fn foreign(self) -> bool {
        matches!(self, Self::SmallForeign | Self::LongForeign)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_are_called_in_results_as_on_the_command_line() {
        for case in Case::ALL {
            let value = case.to_possible_value();
            assert_eq!(value.map(|value| value.get_name().to_owned()).as_deref(), Some(case.name()));
        }
    }
}

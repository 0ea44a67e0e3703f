//! Results as data. Each has its case, its peer and its round.

use serde::{Deserialize, Serialize};

/// Whose result it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Whose {
    /// Frame length, and `-foreign` where three foreign frames go with each test frame.
    pub(crate) case: String,
    pub(crate) peer: String,
    pub(crate) round: u32,
}

/// One result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub(crate) enum Result {
    /// One trial at a rate.
    Trial(Trial),
    /// What a search found.
    Rate(Rate),
    /// Bursts of 2,000 frames at once.
    Bursts(Bursts),
    /// Turn-round times.
    TurnRound(TurnRound),
    /// What a reflector takes that nobody asks anything.
    Idle(Idle),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Trial {
    #[serde(flatten)]
    pub(crate) whose: Whose,
    pub(crate) offered_pps: f64,
    pub(crate) sent: u64,
    pub(crate) seconds: f64,
    /// Replies, each whole, once, in its turn.
    pub(crate) back: u64,
    /// Of those, the ones that came more than 10 ms after the last frame was sent.
    pub(crate) late: u64,
    /// Frames that came and were no right reply.
    pub(crate) wrong: u64,
    /// Replies that came again, or after later ones.
    pub(crate) out_of_turn: u64,
    /// Replies that the tester was too slow for.
    pub(crate) tester_lost: u64,
    /// At least 99 % of the offered rate was sent.
    pub(crate) reached: bool,
    pub(crate) cut_short: bool,
    pub(crate) passed: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Rate {
    #[serde(flatten)]
    pub(crate) whose: Whose,
    /// Test frames a second; 0 if no rate was without loss.
    pub(crate) loss_free_pps: f64,
    pub(crate) sender_bound: bool,
    pub(crate) trials: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Bursts {
    #[serde(flatten)]
    pub(crate) whose: Whose,
    pub(crate) bursts: u32,
    /// Of those, the ones of which every frame came back.
    pub(crate) whole: u32,
    pub(crate) sent: u64,
    pub(crate) back: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct TurnRound {
    #[serde(flatten)]
    pub(crate) whose: Whose,
    pub(crate) offered_pps: f64,
    pub(crate) sent: u64,
    pub(crate) back: u64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p99_9_us: f64,
    pub(crate) max_us: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Idle {
    #[serde(flatten)]
    pub(crate) whose: Whose,
    /// Foreign frames a second meanwhile.
    pub(crate) foreign_pps: f64,
    /// Percent of its core that the reflector's processes took.
    pub(crate) percent: f64,
}

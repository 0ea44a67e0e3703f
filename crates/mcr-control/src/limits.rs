//! Every bound of the process in one place, so that tests can set others.

use std::time::Duration;

use mcr_proto::rpc::{LINE_BYTES_MAX, RESPONSE_BYTES_MAX};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Connections at a time; a further one is told so and closed.
    pub(crate) clients_max: usize,
    /// The longest request.
    pub(crate) line_bytes_max: usize,
    /// Text of a configuration that comes in parts.
    pub(crate) config_bytes_max: usize,
    /// The longest response.
    pub(crate) response_bytes_max: usize,
    /// From the first byte of a line to its newline.
    pub(crate) half_line: Duration,
    /// Without the peer taking a single byte of a response.
    pub(crate) unread_response: Duration,
    /// Requests under way at the supervisor; further ones wait, and their waiting counts.
    pub(crate) requests_max: usize,
    /// From a request to its reply.
    pub(crate) reply: Duration,
    /// Between two looks at the counters while somebody asks for rates.
    pub(crate) rate_period: Duration,
    /// Between the two looks at counters that have not been looked at yet.
    pub(crate) first_rate_period: Duration,
    /// Without anybody asking; then looking stops.
    pub(crate) rates_unasked: Duration,
    /// Events that wait for one subscriber; one that is slower misses some.
    pub(crate) events_max: usize,
    /// Before the next attempt when no connection could be accepted.
    pub(crate) accept_pause: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            clients_max: 256,
            line_bytes_max: LINE_BYTES_MAX,
            config_bytes_max: 16 << 20,
            response_bytes_max: RESPONSE_BYTES_MAX,
            half_line: Duration::from_secs(10),
            unread_response: Duration::from_secs(10),
            requests_max: 64,
            reply: Duration::from_secs(5),
            rate_period: Duration::from_secs(1),
            first_rate_period: Duration::from_millis(200),
            rates_unasked: Duration::from_secs(10),
            events_max: 1024,
            accept_pause: Duration::from_millis(100),
        }
    }
}

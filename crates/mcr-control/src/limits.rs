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
    /// Without anybody asking for the records of a trace; then it ends, and after as long again it is forgotten.
    pub(crate) trace_idle: Duration,
    /// Events that wait for one subscriber; one that is slower misses some.
    pub(crate) events_max: usize,
    /// Connections over HTTP at a time, event streams among them; a further one is told so and closed.
    pub(crate) http_connections_max: usize,
    /// Event streams over HTTP at a time.
    pub(crate) http_events_max: usize,
    /// From the beginning of a request, or the end of the one before, to the end of its head; and then to the end of its body.
    pub(crate) http_head: Duration,
    /// The longest body of a request.
    pub(crate) http_body_bytes_max: usize,
    /// For how long what was made for one is given to others.
    pub(crate) http_fresh: Duration,
    /// Between two signs of life in an event stream where nothing happens.
    pub(crate) http_beat: Duration,
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
            trace_idle: Duration::from_secs(30),
            events_max: 1024,
            http_connections_max: 128,
            http_events_max: 32,
            http_head: Duration::from_secs(15),
            http_body_bytes_max: 16 * 1024,
            http_fresh: Duration::from_millis(500),
            http_beat: Duration::from_secs(15),
            accept_pause: Duration::from_millis(100),
        }
    }
}

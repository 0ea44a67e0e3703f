//! The protocol of one connection without the connection: requests to bytes, bytes to answers.
//!
//! Invariant: an answer is only given to the request whose number it carries; answers to earlier requests are passed over.

use std::collections::VecDeque;

use mcr_proto::rpc::{EVENT, ErrorObject, Event, LINE_BYTES_MAX, RESPONSE_BYTES_MAX};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::ClientError;

/// What a method without parameters is sent.
#[derive(Serialize)]
pub(crate) struct NoParams {}

/// What this client calls itself.
pub(crate) const CLIENT: &str = concat!("mcr-client ", env!("CARGO_PKG_VERSION"));

/// Events that may come while one answer is waited for.
const EVENTS_MAX: usize = 65_536;

/// Reads of this size, so that a small answer costs one.
pub(crate) const READ_BYTES: usize = 64 * 1024;

#[derive(Debug, Default)]
pub(crate) struct Session {
    last_id: u64,
    received: Vec<u8>,
    // Bytes of `received` known to hold no newline.
    searched: usize,
    // Came while an answer was waited for.
    events: VecDeque<Event>,
    closed: bool,
}

#[derive(Serialize)]
struct RequestLine<'a, P> {
    jsonrpc: &'static str,
    id: u64,
    method: &'a str,
    params: &'a P,
}

#[derive(Deserialize)]
struct Answer<R> {
    id: Value,
    #[serde(default = "Option::default")]
    result: Option<R>,
    #[serde(default)]
    error: Option<ErrorObject>,
}

#[derive(Deserialize)]
struct Notification {
    method: String,
    params: Event,
}

impl Session {
    /// The line that asks for `method`; its answer is the next that [`Session::answer`] gives.
    pub(crate) fn request<P: Serialize>(&mut self, method: &str, params: &P) -> Result<Vec<u8>, ClientError> {
        if self.closed {
            return Err(ClientError::Closed);
        }
        let id = self.last_id + 1;
        let mut line = serde_json::to_vec(&RequestLine { jsonrpc: "2.0", id, method, params })
            .map_err(|error| ClientError::Malformed { method: method.into(), what: error.to_string() })?;
        if line.len() > LINE_BYTES_MAX {
            return Err(ClientError::TooLong { bytes: line.len() });
        }
        line.push(b'\n');
        self.last_id = id;
        Ok(line)
    }

    /// Takes in what was read.
    pub(crate) fn receive(&mut self, bytes: &[u8]) {
        self.received.extend_from_slice(bytes);
    }

    /// The answer to the last request, if it is there.
    pub(crate) fn answer<R: DeserializeOwned>(&mut self, method: &str) -> Result<Option<R>, ClientError> {
        let malformed = |what: String| ClientError::Malformed { method: method.into(), what };
        while let Some(line) = self.line() {
            let answer: Answer<R> = match serde_json::from_slice(&line) {
                Ok(answer) => answer,
                Err(_) if self.is_earlier(&line) => continue,
                Err(_) if self.take_event(&line) => {
                    if self.events.len() > EVENTS_MAX {
                        return Err(malformed(format!("more than {EVENTS_MAX} events before the answer")));
                    }
                    continue;
                }
                Err(error) => return Err(malformed(format!("the answer is not understood: {error}"))),
            };
            match answer {
                // Null: the daemon could not read the request, or speaks of the connection as a whole.
                Answer { id, error: Some(error), .. } if id == self.last_id || id.is_null() => {
                    return Err(ClientError::from_object(error));
                }
                Answer { id, result: Some(result), .. } if id == self.last_id => return Ok(Some(result)),
                Answer { id, .. } if id.as_u64().is_some_and(|id| id < self.last_id) => {}
                Answer { id, .. } => {
                    return Err(malformed(format!("an answer without result, or to another request: {id}")));
                }
            }
        }
        if self.received.len() > RESPONSE_BYTES_MAX {
            return Err(malformed(format!("the answer is longer than {RESPONSE_BYTES_MAX} bytes")));
        }
        Ok(None)
    }

    /// The next event, if it is there.
    pub(crate) fn event(&mut self) -> Result<Option<Event>, ClientError> {
        while self.events.is_empty() {
            let Some(line) = self.line() else { return Ok(None) };
            // What is no event answers a request that nobody waits for any more.
            if !self.take_event(&line) && serde_json::from_slice::<Answer<Value>>(&line).is_err() {
                let what = "something that is neither an answer nor an event".to_owned();
                return Err(ClientError::Malformed { method: EVENT.into(), what });
            }
        }
        Ok(self.events.pop_front())
    }

    fn take_event(&mut self, line: &[u8]) -> bool {
        match serde_json::from_slice::<Notification>(line) {
            Ok(Notification { method, params }) if method == EVENT => {
                self.events.push_back(params);
                true
            }
            _ => false,
        }
    }

    /// Whether the connection can be used.
    pub(crate) fn check_open(&self) -> Result<(), ClientError> {
        if self.closed { Err(ClientError::Closed) } else { Ok(()) }
    }

    /// An exchange begins: until its end is known, nothing says where in a line the connection stands.
    pub(crate) fn begin(&mut self) {
        self.closed = true;
    }

    /// An exchange has ended, and the connection is of further use unless that is what its error denies.
    pub(crate) fn end<R>(&mut self, outcome: Result<R, ClientError>) -> Result<R, ClientError> {
        self.closed = outcome.as_ref().is_err_and(ClientError::ends_connection);
        outcome
    }

    /// Whether the line answers a request before the last, whose result has another type.
    fn is_earlier(&self, line: &[u8]) -> bool {
        serde_json::from_slice::<Answer<Value>>(line)
            .is_ok_and(|answer| answer.id.as_u64().is_some_and(|id| id < self.last_id))
    }

    fn line(&mut self) -> Option<Vec<u8>> {
        let Some(end) = self.received[self.searched..].iter().position(|byte| *byte == b'\n') else {
            self.searched = self.received.len();
            return None;
        };
        let rest = self.received.split_off(self.searched + end + 1);
        self.searched = 0;
        Some(std::mem::replace(&mut self.received, rest))
    }
}

#[cfg(test)]
mod tests {
    use mcr_proto::rpc::{Pong, Version};

    use super::*;

    fn asked() -> Session {
        let mut session = Session::default();
        let line = session.request("ping", &NoParams {}).expect("small");
        assert_eq!(line, b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\",\"params\":{}}\n");
        session
    }

    #[test]
    fn an_answer_in_pieces_is_whole_with_its_newline() {
        let mut session = asked();
        for piece in [r#"{"jsonrpc":"2.0","id":1,"#, r#""result":{"pong":true}}"#] {
            session.receive(piece.as_bytes());
            assert_eq!(session.answer::<Pong>("ping").expect("nothing wrong"), None);
        }
        session.receive(b"\n");
        assert_eq!(session.answer("ping").expect("whole"), Some(Pong { pong: true }));
    }

    #[test]
    fn an_answer_to_an_earlier_request_is_passed_over_whatever_its_type() {
        let mut session = asked();
        session.request("version", &NoParams {}).expect("small");
        session.receive(b"{\"id\":1,\"result\":{\"pong\":true}}\n{\"id\":2,\"result\":{\"version\":\"1\",\"protocol\":1}}\n");
        let version = session.answer::<Version>("version").expect("there").expect("whole");
        assert_eq!(version.version, "1");
    }

    #[test]
    fn events_between_answers_are_kept_in_order() {
        let mut session = asked();
        let event = |seq: u64| {
            format!(
                "{{\"jsonrpc\":\"2.0\",\"method\":\"event\",\"params\":{{\"seq\":{seq},\"time_ns\":1,\"kind\":\"worker\",\"what\":\"ready\",\"worker\":0}}}}\n"
            )
        };
        session.receive((event(1) + "{\"id\":1,\"result\":{\"pong\":true}}\n" + &event(2)).as_bytes());
        assert_eq!(session.answer("ping").expect("there"), Some(Pong { pong: true }));
        let next = |session: &mut Session| session.event().expect("nothing wrong").map(|event| event.seq);
        assert_eq!([next(&mut session), next(&mut session), next(&mut session)], [Some(1), Some(2), None]);
        session.receive(b"junk\n");
        assert!(session.event().is_err());
    }

    #[test]
    fn an_answer_to_a_request_never_made_is_malformed() {
        for line in
            ["{\"id\":9,\"result\":{\"pong\":true}}\n", "{\"id\":1}\n", "{\"id\":1,\"result\":7}\n", "junk\n"]
        {
            let mut session = asked();
            session.receive(line.as_bytes());
            let error = session.answer::<Pong>("ping").expect_err(line);
            assert!(matches!(error, ClientError::Malformed { .. }), "{line} {error}");
        }
    }

    #[test]
    fn a_request_over_a_line_is_refused_and_the_connection_stays_usable() {
        let mut session = Session::default();
        let outcome = session.request("x", &"y".repeat(LINE_BYTES_MAX));
        assert!(matches!(outcome, Err(ClientError::TooLong { .. })));
        session.request("ping", &NoParams {}).expect("still open");
    }
}

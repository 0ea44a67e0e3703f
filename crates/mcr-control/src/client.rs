//! One client: lines in, lines out, one request at a time.

use std::{io, rc::Rc, time::Duration};

use mcr_metrics::Segment;
use mcr_proto::{
    message::{EventKind, Fault, FaultKind},
    rpc::{
        ConfigLoad, ConfigPartTaken, ErrorData, ErrorObject, PROTOCOL, Subscribed, TraceStart, Welcome, code,
    },
};
use serde::Serialize;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::Mutex,
    time::{Instant, timeout, timeout_at},
};
use tracing::debug;

use crate::{
    answer::{Outcome, VERSION, answer},
    feed::{Feed, Feeds, KINDS, Told},
    limits::Limits,
    line::{Lines, TooLong},
    peer::Rights,
    rates::Sampler,
    request::{Call, Incoming, parse_line},
    supervisor::Supervisor,
    trace::{self, Traces},
};

/// What to do about a missing handshake.
const FIRST: &str = "the first request is `hello` with the number of the protocol, as in {\"protocol\": 1}";

/// What all clients share.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) supervisor: Supervisor,
    pub(crate) sampler: Rc<Sampler>,
    pub(crate) segments: Rc<[Segment]>,
    pub(crate) feeds: Feeds,
    pub(crate) traces: Traces,
    /// Held while the startup configuration is loaded again.
    pub(crate) reloading: Mutex<()>,
    pub(crate) limits: Limits,
}

/// A response that need not become a tree of values first.
#[derive(Serialize)]
struct ResponseLine<'a> {
    jsonrpc: &'static str,
    id: &'a Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a Outcome>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a ErrorObject>,
}

/// Why no further line came.
enum End {
    /// The client has closed.
    Closed,
    /// Half a line, and then nothing, or not enough of it.
    Half(&'static str),
    /// A line over the cap.
    TooLong,
}

struct Client {
    service: Rc<Service>,
    stream: UnixStream,
    lines: Lines,
    /// When the line that has begun must have ended.
    line_end: Option<Instant>,
    rights: Rights,
    greeted: bool,
    feed: Option<Rc<Feed>>,
    /// Traces that end with the connection.
    traces: Vec<u64>,
    /// Of a configuration whose end has not come yet.
    text: String,
}

/// What is to be done next.
enum Next {
    Line(Result<Incoming, End>),
    Event(Rc<Told>),
}

/// Serves a client until it closes or has to be closed.
pub(crate) async fn attend(service: Rc<Service>, stream: UnixStream, rights: Rights) {
    let lines = Lines::new(service.limits.line_bytes_max);
    let (text, traces) = (String::new(), Vec::new());
    let mut client =
        Client { service, stream, lines, line_end: None, rights, greeted: false, feed: None, traces, text };
    // An error means that the client is gone or does not read: there is nobody to tell.
    let _ = client.converse().await;
    trace::end(&client.service, &client.traces).await;
}

/// Says why a client is not served, as far as its socket takes that at once.
pub(crate) fn refuse(stream: &UnixStream, fault: Fault) {
    let _ = stream.try_write(&line(&Value::Null, Err(fault.into()), usize::MAX));
}

impl Client {
    async fn converse(&mut self) -> io::Result<()> {
        loop {
            let incoming = match self.next().await? {
                Next::Line(incoming) => incoming,
                Next::Event(told) => {
                    // Without a deadline: what a slow subscriber does not take piles up in its own, bounded queue.
                    self.stream.write_all(told.line()).await?;
                    continue;
                }
            };
            let fault = match incoming {
                Ok(Incoming { id, call }) => {
                    if self.respond(id, call).await? {
                        continue;
                    }
                    return Ok(());
                }
                Err(End::Closed) => return Ok(()),
                Err(End::Half(message)) => ErrorObject { code: code::PARSE, ..invalid(message) },
                Err(End::TooLong) => {
                    let message = format!(
                        "the line is longer than {} bytes; send a smaller request on a new connection",
                        self.service.limits.line_bytes_max
                    );
                    Fault::new(FaultKind::Limit, message).into()
                }
            };
            return self.write(&line(&Value::Null, Err(fault), usize::MAX)).await;
        }
    }

    async fn next(&mut self) -> io::Result<Next> {
        let Some(feed) = self.feed.clone() else {
            return self.next_line().await.map(Next::Line);
        };
        tokio::select! {
            incoming = self.next_line() => incoming.map(Next::Line),
            told = feed.next() => Ok(Next::Event(told)),
        }
    }

    /// The next request that is not a blank line. Dropping the future loses nothing.
    async fn next_line(&mut self) -> io::Result<Result<Incoming, End>> {
        loop {
            match self.lines.take() {
                Ok(Some(line)) if line.trim_ascii().is_empty() => {
                    self.line_end = None;
                    continue;
                }
                Ok(Some(line)) => {
                    self.line_end = None;
                    return Ok(Ok(parse_line(line)));
                }
                Err(TooLong) => return Ok(Err(End::TooLong)),
                Ok(None) => {}
            }
            let half = self.lines.has_half_line();
            let read = self.stream.read_buf(self.lines.room());
            let count = if half {
                let end =
                    *self.line_end.get_or_insert_with(|| Instant::now() + self.service.limits.half_line);
                match timeout_at(end, read).await {
                    Ok(count) => count?,
                    Err(_) => return Ok(Err(End::Half("the rest of the line did not come in time"))),
                }
            } else {
                read.await?
            };
            if count == 0 {
                let half = "the last line does not end in a newline and was not carried out";
                return Ok(Err(if self.lines.has_half_line() { End::Half(half) } else { End::Closed }));
            }
        }
    }

    /// Carries out one request and answers it; false if the connection must end.
    async fn respond(&mut self, id: Option<Value>, call: Result<Call, ErrorObject>) -> io::Result<bool> {
        let was_greeted = self.greeted;
        let mut go_on = true;
        let outcome = match call {
            Ok(call) => self.perform(call).await,
            // What is no request at all is no breach of order.
            Err(error) if self.greeted || matches!(error.code, code::PARSE | code::INVALID_REQUEST) => {
                Err(error)
            }
            Err(error) => Err(protocol_fault(format!("{}; {FIRST}", error.message))),
        };
        if let Err(error) = &outcome {
            go_on = error.data.kind != FaultKind::Protocol;
        }
        // Before the handshake there is no notification: a client that does not speak the protocol must find out.
        if let Some(id) = id.or((!was_greeted).then_some(Value::Null)) {
            self.write(&line(&id, outcome, self.service.limits.response_bytes_max)).await?;
        }
        Ok(go_on)
    }

    async fn perform(&mut self, call: Call) -> Result<Outcome, ErrorObject> {
        if let Call::Hello(hello) = call {
            return self.greet(hello.protocol);
        }
        if !self.greeted {
            return Err(protocol_fault(format!("`{}` before `hello`; {FIRST}", call.method())));
        }
        if call.changes() && self.rights != Rights::Change {
            let message = format!(
                "`{}` is not permitted to you; ask as root, as the daemon's user or as a member of its group",
                call.method()
            );
            return Err(Fault::new(FaultKind::NotPermitted, message).into());
        }
        debug!(method = call.method(), "request");
        if let Call::Subscribe(kinds) = call {
            return Ok(self.subscribe(kinds));
        }
        let call = match call {
            Call::ConfigPart(part) => return self.take_part(&part.text),
            Call::TraceStart(start) => return self.trace(start).await,
            Call::ConfigLoad(load) if !self.text.is_empty() => {
                Call::ConfigLoad(ConfigLoad { text: std::mem::take(&mut self.text) + &load.text, ..load })
            }
            call => call,
        };
        answer(&self.service, call).await.map_err(ErrorObject::from)
    }

    /// Keeps a part of a configuration until the rest has come. One that becomes too long is forgotten.
    fn take_part(&mut self, part: &str) -> Result<Outcome, ErrorObject> {
        if self.text.len() + part.len() > self.service.limits.config_bytes_max {
            self.text = String::new();
            let message = format!(
                "the configuration has more than {} bytes; load it in several",
                self.service.limits.config_bytes_max
            );
            return Err(Fault::new(FaultKind::Limit, message).at("text").into());
        }
        self.text += part;
        Ok(Outcome::PartTaken(ConfigPartTaken { bytes: self.text.len() }))
    }

    /// Starts a trace that ends with the connection, if not before.
    async fn trace(&mut self, start: TraceStart) -> Result<Outcome, ErrorObject> {
        let started = trace::start(&self.service, start).await?;
        self.traces.push(started.id);
        tokio::task::spawn_local(trace::look_after(Rc::clone(&self.service), started.id));
        Ok(Outcome::TraceStarted(started))
    }

    /// From now on events come between the responses; a later subscription takes the place of an earlier one.
    fn subscribe(&mut self, kinds: Option<Vec<EventKind>>) -> Outcome {
        let feed = self.service.feeds.subscribe(kinds.unwrap_or_else(|| KINDS.to_vec()));
        let kinds = feed.kinds().to_vec();
        self.feed = Some(feed);
        Outcome::Subscribed(Subscribed { kinds })
    }

    fn greet(&mut self, theirs: u32) -> Result<Outcome, ErrorObject> {
        if theirs != PROTOCOL {
            let message = format!(
                "the daemon speaks control protocol {PROTOCOL}, the client {theirs}; use the client that came with the daemon"
            );
            return Err(protocol_fault(message));
        }
        self.greeted = true;
        Ok(Outcome::Welcome(Welcome {
            protocol: PROTOCOL,
            version: VERSION.into(),
            may_change: self.rights == Rights::Change,
        }))
    }

    /// Writes a whole line, for as long as the peer takes some of it from time to time.
    async fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let patience: Duration = self.service.limits.unread_response;
        while !bytes.is_empty() {
            match timeout(patience, self.stream.write(bytes)).await {
                Ok(written) => bytes = &bytes[written?..],
                Err(_) => return Err(io::ErrorKind::TimedOut.into()),
            }
        }
        Ok(())
    }
}

/// The response with its newline. One over the cap becomes an error that says so.
fn line(id: &Value, outcome: Result<Outcome, ErrorObject>, bytes_max: usize) -> Vec<u8> {
    let (result, error) = match &outcome {
        Ok(result) => (Some(result), None),
        Err(error) => (None, Some(error)),
    };
    let response = ResponseLine { jsonrpc: "2.0", id, result, error };
    // Strings, numbers and maps with string keys: nothing in a response can fail to be JSON.
    let mut line = serde_json::to_vec(&response).expect("a response is plain data");
    if line.len() > bytes_max && result.is_some() {
        let message = format!("the response has more than {bytes_max} bytes; ask for one rule at a time");
        return self::line(id, Err(Fault::new(FaultKind::Limit, message).into()), usize::MAX);
    }
    line.push(b'\n');
    line
}

fn protocol_fault(message: String) -> ErrorObject {
    let data = ErrorData { kind: FaultKind::Protocol, field: None, protocol: Some(PROTOCOL) };
    ErrorObject { code: code::FAILED, message, data }
}

fn invalid(message: &str) -> ErrorObject {
    Fault::new(FaultKind::Invalid, message).into()
}

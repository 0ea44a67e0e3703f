//! A daemon that follows a script: for each connection a list of what to answer, over a real socket.
#![allow(dead_code)] // Each test program uses a part.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    thread::JoinHandle,
};

use mcr_proto::message::FaultKind;
use mcr_proto::rpc::{ErrorData, ErrorObject, PROTOCOL, Welcome, code};
use serde_json::{Value, json};

pub(crate) type Request = mcr_proto::rpc::Request<Value, Value>;
pub(crate) type Response = mcr_proto::rpc::Response<Value, Value>;

/// What the daemon does on a request.
pub(crate) enum Step {
    Result(Value),
    Error(ErrorObject),
    /// Bytes as they are.
    Raw(Vec<u8>),
    /// Nothing, until the client goes away.
    Silence,
    /// Says this without having read a request, and closes.
    Refuse(ErrorObject),
}

pub(crate) struct Daemon {
    pub(crate) path: PathBuf,
    _directory: tempfile::TempDir,
    thread: JoinHandle<Vec<Request>>,
}

impl Daemon {
    /// Serves one connection: one step for each request, then closes.
    pub(crate) fn new(steps: Vec<Step>) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("mcrd.sock");
        let listener = UnixListener::bind(&path).expect("a fresh path");
        let thread = std::thread::spawn(move || {
            let (stream, _) = listener.accept().expect("a client");
            serve(stream, steps)
        });
        Self { path, _directory: directory, thread }
    }

    /// The requests that came, once the connection has ended.
    pub(crate) fn requests(self) -> Vec<Request> {
        self.thread.join().expect("the script runs through")
    }
}

fn serve(stream: UnixStream, steps: Vec<Step>) -> Vec<Request> {
    let mut requests = Vec::new();
    let mut lines = BufReader::new(stream.try_clone().expect("a duplicate"));
    let mut stream = stream;
    for step in steps {
        if let Step::Refuse(error) = step {
            stream.write_all(&line(&Response::failure(Value::Null, error))).expect("sent");
            return requests;
        }
        let mut text = String::new();
        if lines.read_line(&mut text).expect("a line") == 0 {
            return requests;
        }
        let request: Request = serde_json::from_str(&text).expect("a request");
        let id = request.id.clone().expect("an id");
        requests.push(request);
        let bytes = match step {
            Step::Result(result) => line(&Response::success(id, result)),
            Step::Error(error) => line(&Response::failure(id, error)),
            Step::Raw(bytes) => bytes,
            Step::Silence => {
                let _ = lines.read_line(&mut String::new());
                return requests;
            }
            Step::Refuse(_) => unreachable!("handled before reading"),
        };
        stream.write_all(&bytes).expect("sent");
    }
    requests
}

pub(crate) fn line(response: &Response) -> Vec<u8> {
    let mut line = serde_json::to_vec(response).expect("plain data");
    line.push(b'\n');
    line
}

pub(crate) fn welcome() -> Step {
    let welcome = Welcome { protocol: PROTOCOL, version: "9.9.9".into(), may_change: true };
    Step::Result(serde_json::to_value(welcome).expect("plain data"))
}

pub(crate) fn error(
    kind: FaultKind,
    message: &str,
    field: Option<&str>,
    protocol: Option<u32>,
) -> ErrorObject {
    let data = ErrorData { kind, field: field.map(Into::into), protocol };
    ErrorObject { code: code::FAILED, message: message.into(), data }
}

pub(crate) fn rule(name: &str) -> Value {
    json!({
        "id": 3, "name": name, "input": "239.1.1.1:5000@eth0", "outputs": ["10.0.0.2:6000"],
        "output_states": [{"state": "active"}], "enabled": true, "state": "unresolved",
        "reason": "interface eth0 does not exist", "worker": 0, "datapath": null, "datapath_wanted": "auto",
        "datapath_reason": "not decided yet",
    })
}

/// A notification.
pub(crate) fn event(seq: u64) -> Vec<u8> {
    let params = json!({"seq": seq, "time_ns": 1, "kind": "worker", "what": "ready", "worker": 0});
    format!("{}\n", json!({"jsonrpc": "2.0", "method": "event", "params": params})).into_bytes()
}

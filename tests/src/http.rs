//! Requests over HTTP, as a scraper or a script sends them.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use mcr_lab::Namespace;
use serde_json::Value;

use crate::PATIENCE;

/// Where the daemons of tests serve HTTP; each is alone in its namespace.
pub const ADDRESS: &str = "127.0.0.1:9650";

/// A response.
#[derive(Debug)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// Status line and headers, in lower case.
    pub head: String,
    /// The body.
    pub body: String,
}

impl Response {
    /// The body as JSON.
    ///
    /// # Panics
    /// If it is none.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// `GET` of a path at [`ADDRESS`].
///
/// # Panics
/// If there is no response.
#[track_caller]
pub fn get(namespace: &Namespace, path: &str) -> Response {
    request(namespace, ADDRESS, "GET", path, "", "")
}

/// Any request, with header lines that each have their line end.
///
/// # Panics
/// If there is no response.
#[track_caller]
pub fn request(
    namespace: &Namespace,
    address: &str,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> Response {
    let mut stream = namespace.enter(|| TcpStream::connect(address)).expect("the daemon listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("it is not zero");
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    )
    .expect("the daemon reads");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("a response in time");
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Response {
        status: status.unwrap_or_else(|| panic!("no status in {head:?}")),
        head: head.to_ascii_lowercase(),
        body: body.to_owned(),
    }
}

//! HTTP: metrics, health, the web page and what it reads.
//!
//! Everybody who reaches the listener may read; whoever shows the token may also change rules, if there is a token. A request
//! is served only under a name that is known to be this host's, so that no page of another site can read through its reader's
//! browser (DNS rebinding), and a change only from a page of this server.
//!
//! Bounds: connections and event streams; the time for a head, a body, and for a client to take what it asked for; sizes of head
//! and body. What is asked for often is made once a period for all: see `shelf`.

mod api;
mod body;
mod guard;
mod health;
mod metrics;
mod page;
mod shelf;
mod stall;

use std::{cell::Cell, convert::Infallible, io, os::fd::OwnedFd, rc::Rc};

use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{self, HeaderName, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use mcr_proto::message::{Fault, FaultKind, Http};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tracing::debug;

use self::{body::Body, guard::Guard, shelf::Shelf, stall::Stall};
use crate::client::Service;

/// The longest request line with all headers, in bytes; hyper takes no less.
const HEAD_BYTES_MAX: usize = 8192;
/// Headers of a request.
const HEADERS_MAX: usize = 64;

/// What a connection that is one too many is told.
const FULL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// The server.
#[derive(Debug)]
pub(crate) struct Web {
    service: Rc<Service>,
    guard: Guard,
    shelf: Shelf,
    /// Event streams that are open.
    streams: Cell<usize>,
}

/// An answer that can be given to many.
#[derive(Debug, Clone)]
pub(crate) struct Document {
    status: StatusCode,
    media_type: &'static str,
    text: Bytes,
}

const JSON: &str = "application/json";
const PLAIN: &str = "text/plain; charset=utf-8";

impl Document {
    fn new(status: StatusCode, media_type: &'static str, text: impl Into<Bytes>) -> Self {
        Self { status, media_type, text: text.into() }
    }

    fn plain(status: StatusCode, text: impl Into<String>) -> Self {
        Self::new(status, PLAIN, text.into() + "\n")
    }
}

/// The supervisor's listener as the event loop has it.
pub(crate) fn listen(listener: OwnedFd) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::from(listener);
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// The next connection; for ever none without a listener.
pub(crate) async fn accept(listener: Option<&TcpListener>) -> io::Result<TcpStream> {
    match listener {
        Some(listener) => listener.accept().await.map(|(stream, _)| stream),
        None => std::future::pending().await,
    }
}

impl Web {
    pub(crate) fn new(service: Rc<Service>, http: Http) -> Rc<Self> {
        let shelf = Shelf::new(service.limits.http_fresh);
        Rc::new(Self { service, guard: Guard::new(http), shelf, streams: Cell::new(0) })
    }

    /// Serves a new connection, or tells it that it is one too many.
    pub(crate) fn admit(self: &Rc<Self>, connections: &mut JoinSet<()>, stream: TcpStream) {
        if connections.len() >= self.service.limits.http_connections_max {
            // As far as its socket takes that at once; a request that is on its way already turns the end into a reset.
            let _ = stream.try_write(FULL);
            return;
        }
        connections.spawn_local(attend(Rc::clone(self), stream));
    }

    async fn respond(self: Rc<Self>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let mut response = match self.guard.admit(&request) {
            Ok(()) => self.route(request).await,
            Err(document) => document.into(),
        };
        for (name, value) in HEADERS {
            put(response.headers_mut(), HeaderName::from_static(name), value);
        }
        debug!(%method, path, status = response.status().as_u16(), "http");
        Ok(response)
    }

    async fn route(self: &Rc<Self>, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path();
        let looks = matches!(*request.method(), Method::GET | Method::HEAD);
        if let Some(rest) = path.strip_prefix("/api/") {
            let rest = rest.to_owned();
            return self.api(&rest, request).await;
        }
        let document = match path {
            _ if !looks => return not_allowed("GET, HEAD"),
            "/metrics" => self.metrics().await,
            "/healthz" => Document::plain(StatusCode::OK, "alive"),
            "/readyz" => self.readiness().await,
            _ => match page::find(path) {
                Some(document) => document,
                None => Document::plain(
                    StatusCode::NOT_FOUND,
                    format!("nothing at {path}; there are /, /metrics, /healthz, /readyz and /api/"),
                ),
            },
        };
        document.into()
    }
}

async fn attend(web: Rc<Web>, stream: TcpStream) {
    let limits = web.service.limits;
    let stream = TokioIo::new(Stall::new(stream, limits.unread_response));
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(limits.http_head);
    server.max_buf_size(HEAD_BYTES_MAX).max_headers(HEADERS_MAX);
    let serve = server.serve_connection(stream, service_fn(move |request| Rc::clone(&web).respond(request)));
    // An error means that the client is gone, or sent what is no request: hyper has told it.
    if let Err(error) = serve.await {
        debug!("http connection: {error}");
    }
}

/// On every response. The page needs nothing from elsewhere and is part of no other page.
const HEADERS: [(&str, &str); 6] = [
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("x-frame-options", "DENY"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cache-control", "no-store"),
];

impl From<Document> for Response<Body> {
    fn from(document: Document) -> Self {
        let Document { status, media_type, text } = document;
        let mut response = Self::new(Body::whole(text));
        *response.status_mut() = status;
        put(response.headers_mut(), header::CONTENT_TYPE, media_type);
        response
    }
}

impl From<Fault> for Document {
    /// As the control protocol has it: an object with a member `error`.
    fn from(fault: Fault) -> Self {
        let status = match fault.kind {
            FaultKind::Invalid | FaultKind::Protocol => StatusCode::BAD_REQUEST,
            FaultKind::NotPermitted => StatusCode::FORBIDDEN,
            FaultKind::NotFound => StatusCode::NOT_FOUND,
            FaultKind::Exists => StatusCode::CONFLICT,
            FaultKind::Unsupported => StatusCode::NOT_IMPLEMENTED,
            FaultKind::Limit => StatusCode::TOO_MANY_REQUESTS,
            FaultKind::Busy => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        api::refusal(status, fault)
    }
}

fn not_allowed(allowed: &'static str) -> Response<Body> {
    let text = format!("this takes {allowed}");
    let mut response = Response::from(Document::plain(StatusCode::METHOD_NOT_ALLOWED, text));
    put(response.headers_mut(), header::ALLOW, allowed);
    response
}

fn put(headers: &mut HeaderMap, name: HeaderName, value: &'static str) {
    headers.insert(name, HeaderValue::from_static(value));
}

//! `/api/`: what the page reads and does, in the types of the control protocol.
//!
//! | request | answer |
//! |---|---|
//! | `GET /api/rules`, `stats`, `workers`, `interfaces` | as `rule.list`, `stats.get`, `worker.list`, `interface.list` |
//! | `GET /api/stats/RULE` | as `stats.get` of one rule, with its flows |
//! | `GET /api/version` | as `version`, and `may_change`: whether a token is configured |
//! | `GET /api/events` | server-sent events; the last ones first, or those after `Last-Event-ID` |
//! | `GET /api/token` | 204 if the token is right |
//! | `POST /api/rules/RULE/enable`, `disable`, `remove`, `move` | as `rule.enable` and so on; `move` takes `{"worker": N}` |
//!
//! An error is an object `{"error": ...}` as in the control protocol.

use std::{collections::HashMap, rc::Rc};

use http_body_util::{BodyExt, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header,
};
use mcr_proto::{
    message::{Fault, FaultKind, RuleRef},
    rpc::{ErrorObject, PROTOCOL, rule_ref},
};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tracing::{info, warn};

use super::{
    Document, JSON, Web,
    body::{Body, Place},
    guard::Refused,
    not_allowed, put,
    shelf::Kind,
};
use crate::{
    answer::{VERSION, answer},
    feed::KINDS,
    request::Call,
};

#[derive(Serialize)]
struct Version {
    version: &'static str,
    protocol: u32,
    may_change: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Move {
    worker: u16,
}

impl Web {
    pub(super) async fn api(self: &Rc<Self>, path: &str, request: Request<Incoming>) -> Response<Body> {
        if let Some((rule, verb)) = path.strip_prefix("rules/").and_then(|path| path.split_once('/')) {
            if request.method() != Method::POST {
                return not_allowed("POST");
            }
            let (rule, verb) = (rule.to_owned(), verb.to_owned());
            return self.change(&rule, &verb, request).await;
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return not_allowed("GET, HEAD");
        }
        if let Some(rule) = path.strip_prefix("stats/") {
            return self.one(rule).await.into();
        }
        let document = match path {
            "rules" => self.ask(Kind::Rules, Call::RuleList(None)).await,
            "stats" => self.ask(Kind::Stats, Call::StatsGet(None)).await,
            "workers" => self.ask(Kind::Workers, Call::WorkerList).await,
            "interfaces" => self.ask(Kind::Interfaces, Call::InterfaceList).await,
            "version" => {
                let may_change = self.guard.has_token();
                json(&Version { version: VERSION, protocol: PROTOCOL, may_change })
            }
            "token" => match self.guard.may_change(&request) {
                Ok(()) => Document::new(StatusCode::NO_CONTENT, JSON, Bytes::new()),
                Err(refused) => return refuse(&refused),
            },
            "events" => return self.events(&request),
            _ => Fault::new(FaultKind::NotFound, "no such part of the API; docs/protocol.md has them all")
                .into(),
        };
        document.into()
    }

    async fn ask(&self, kind: Kind, call: Call) -> Document {
        self.shelf.get(kind, self.make(call)).await
    }

    async fn one(&self, rule: &str) -> Document {
        match rule_ref(rule) {
            Ok(of) => self.shelf.get_of(rule, self.make(Call::StatsGet(Some(of)))).await,
            Err(message) => Fault::new(FaultKind::Invalid, message).at("rule").into(),
        }
    }

    async fn make(&self, call: Call) -> Document {
        match answer(&self.service, call).await {
            Ok(outcome) => json(&outcome),
            Err(fault) => fault.into(),
        }
    }

    fn events(self: &Rc<Self>, request: &Request<Incoming>) -> Response<Body> {
        let Some(place) = Place::take(self) else {
            let message = "too many event streams are open; close one, or try again later";
            return Document::from(Fault::new(FaultKind::Limit, message)).into();
        };
        let last = request.headers().get("last-event-id").and_then(|last| last.to_str().ok()?.parse().ok());
        let feeds = &self.service.feeds;
        // Nothing is published between the two.
        let (before, feed) = (feeds.recent(last), feeds.subscribe(KINDS.to_vec()));
        let beat = self.service.limits.http_beat;
        let mut response = Response::new(Body::events(place, before, feed, beat));
        put(response.headers_mut(), header::CONTENT_TYPE, "text/event-stream");
        response
    }

    async fn change(&self, rule: &str, verb: &str, request: Request<Incoming>) -> Response<Body> {
        if let Err(refused) = self.guard.may_change(&request) {
            return refuse(&refused);
        }
        let call = match self.read_change(rule, verb, request).await {
            Ok(call) => call,
            Err(fault) => return Document::from(fault).into(),
        };
        info!(rule, "{} over HTTP", call.method());
        let document = match answer(&self.service, call).await {
            Ok(outcome) => json(&outcome),
            Err(fault) => fault.into(),
        };
        // Also where it failed: a worker that is busy carries it out later.
        self.shelf.clear();
        document.into()
    }

    async fn read_change(&self, rule: &str, verb: &str, request: Request<Incoming>) -> Result<Call, Fault> {
        let invalid = |message: String, field: &str| Fault::new(FaultKind::Invalid, message).at(field);
        let rule: RuleRef = rule_ref(rule).map_err(|message| invalid(message, "rule"))?;
        let call = match verb {
            "enable" => Call::RuleEnable { rule, enabled: true },
            "disable" => Call::RuleEnable { rule, enabled: false },
            "remove" => Call::RuleRemove(rule),
            "move" => {
                let is_json = request.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == JSON);
                if !is_json {
                    return Err(invalid(format!("the body is of type {JSON}"), "worker"));
                }
                let body = self.read_body(request).await?;
                let Move { worker } =
                    serde_json::from_slice(&body).map_err(|error| invalid(error.to_string(), "worker"))?;
                Call::RuleMove { rule, worker }
            }
            _ => {
                let message = "a rule can be told to enable, disable, remove and move";
                return Err(Fault::new(FaultKind::NotFound, message));
            }
        };
        Ok(call)
    }

    async fn read_body(&self, request: Request<Incoming>) -> Result<Bytes, Fault> {
        let limits = self.service.limits;
        let body = Limited::new(request.into_body(), limits.http_body_bytes_max);
        match timeout(limits.http_head, body.collect()).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(_)) => {
                let message =
                    format!("the body is broken, or longer than {} bytes", limits.http_body_bytes_max);
                Err(Fault::new(FaultKind::Invalid, message))
            }
            Err(_) => Err(Fault::new(FaultKind::Invalid, "the body did not come in time")),
        }
    }
}

fn refuse(refused: &Refused) -> Response<Body> {
    let (status, message) = match refused {
        Refused::ReadOnly => (
            StatusCode::FORBIDDEN,
            "this server only shows; start mcrd with --http-token-file to let it change rules",
        ),
        Refused::Token => {
            warn!("a request to change something over HTTP did not show the token");
            (StatusCode::UNAUTHORIZED, "show the token: `Authorization: Bearer TOKEN`")
        }
        Refused::Origin => (StatusCode::FORBIDDEN, "changes are made from this server's own page only"),
    };
    let mut response = Response::from(refusal(status, Fault::new(FaultKind::NotPermitted, message)));
    if status == StatusCode::UNAUTHORIZED {
        put(response.headers_mut(), header::WWW_AUTHENTICATE, "Bearer");
    }
    response
}

pub(super) fn refusal(status: StatusCode, fault: Fault) -> Document {
    let error = HashMap::from([("error", ErrorObject::from(fault))]);
    Document { status, ..json(&error) }
}

fn json(value: &impl Serialize) -> Document {
    // Strings, numbers and maps with string keys: nothing in an answer can fail to be JSON.
    Document::new(StatusCode::OK, JSON, serde_json::to_vec(value).expect("an answer is plain data"))
}

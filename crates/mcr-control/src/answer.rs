//! What a call comes to: the supervisor asked, its answer as clients see it.

use mcr_proto::{
    message::{Diagnosis, Explanation, Facility, Fault, LogLevel, Reply, Request, RuleRef},
    plan::WorkerIndex,
    rpc::{
        ConfigChecked, ConfigLoaded, ConfigPartTaken, ConfigSaved, ConfigShown, InterfaceList, LogSet,
        LogShown, PROTOCOL, Pong, ReflectAdded, ReflectList, RuleAdded, RuleInfo, RuleList, Stats,
        Subscribed, TraceParams, TraceRecords, TraceStarted, Version, Welcome, WorkerList,
    },
};
use serde::Serialize;

use crate::{
    client::Service,
    config,
    request::Call,
    stats,
    supervisor::{Supervisor, misunderstood},
    trace, view,
};

pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The result of any method.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Outcome {
    Welcome(Welcome),
    Added(Box<RuleAdded>),
    Removed {},
    Rule(Box<RuleInfo>),
    Rules(RuleList),
    Config(Box<ConfigShown>),
    Checked(ConfigChecked),
    PartTaken(ConfigPartTaken),
    Loaded(ConfigLoaded),
    Saved(ConfigSaved),
    Stats(Stats),
    ReflectAdded(Box<ReflectAdded>),
    Reflectors(ReflectList),
    Workers(WorkerList),
    Interfaces(InterfaceList),
    Log(LogShown),
    Subscribed(Subscribed),
    TraceStarted(TraceStarted),
    Trace(TraceRecords),
    Diagnosis(Box<Diagnosis>),
    Explanation(Box<Explanation>),
    Pong(Pong),
    Version(Version),
}

/// Carries out a call that is about the daemon, not about the connection.
pub(crate) async fn answer(service: &Service, call: Call) -> Result<Outcome, Fault> {
    let Service { supervisor, sampler, segments, .. } = service;
    match call {
        // Those of the connection are its own.
        Call::Hello(_) | Call::Subscribe(_) | Call::ConfigPart(_) | Call::TraceStart(_) | Call::Version => {
            Ok(Outcome::Version(Version { version: VERSION.into(), protocol: PROTOCOL }))
        }
        Call::RuleAdd(spec) => match supervisor.ask(Request::RuleAdd(spec)).await? {
            Reply::Added { rule, created } => {
                Ok(Outcome::Added(Box::new(RuleAdded { rule: view::rule(*rule), created })))
            }
            _ => Err(misunderstood("RuleAdd")),
        },
        Call::RuleRemove(rule) => match supervisor.ask(Request::RuleRemove(rule)).await? {
            Reply::Done => Ok(Outcome::Removed {}),
            _ => Err(misunderstood("RuleRemove")),
        },
        Call::RuleMove { rule, worker } => {
            changed(supervisor, Request::RuleMove { rule, worker: WorkerIndex(worker) }, "RuleMove").await
        }
        Call::RuleEnable { rule, enabled } => {
            changed(supervisor, Request::RuleEnable { rule, enabled }, "RuleEnable").await
        }
        Call::RuleList(rule) => rules(supervisor, rule.as_ref()).await,
        Call::ConfigGet => config::get(supervisor).await.map(|shown| Outcome::Config(Box::new(shown))),
        Call::ConfigCheck(text) => config::check(&text).map(Outcome::Checked),
        Call::ConfigLoad(load) => config::load(supervisor, &load).await.map(Outcome::Loaded),
        Call::ConfigSave => match supervisor.ask(Request::ConfigSave).await? {
            Reply::Saved { path, rules } => Ok(Outcome::Saved(ConfigSaved { path, rules })),
            _ => Err(misunderstood("ConfigSave")),
        },
        Call::StatsGet(rule) => {
            stats::stats(supervisor, segments, sampler, rule.as_ref()).await.map(Outcome::Stats)
        }
        Call::ReflectAdd(reflect) => match supervisor.ask(Request::ReflectAdd(reflect)).await? {
            Reply::ReflectAdded { reflector, created } => {
                Ok(Outcome::ReflectAdded(Box::new(ReflectAdded { reflector: *reflector, created })))
            }
            _ => Err(misunderstood("ReflectAdd")),
        },
        Call::ReflectRemove(name) => match supervisor.ask(Request::ReflectRemove(name)).await? {
            Reply::Done => Ok(Outcome::Removed {}),
            _ => Err(misunderstood("ReflectRemove")),
        },
        Call::ReflectList(name) => {
            let reflectors = supervisor.reflectors(name).await?;
            Ok(Outcome::Reflectors(ReflectList { reflectors }))
        }
        Call::WorkerList => {
            let workers = supervisor.workers().await?;
            Ok(Outcome::Workers(WorkerList { workers: workers.into_iter().map(view::worker).collect() }))
        }
        Call::InterfaceList => {
            let interfaces = supervisor.interfaces().await?.into_iter().map(view::interface).collect();
            Ok(Outcome::Interfaces(InterfaceList { interfaces }))
        }
        Call::LogGet => log(supervisor, None).await,
        Call::LogSet(LogSet { level, facility }) => log(supervisor, Some((level, facility))).await,
        Call::Doctor => match supervisor.ask(Request::Doctor).await? {
            Reply::Diagnosis(diagnosis) => Ok(Outcome::Diagnosis(diagnosis)),
            _ => Err(misunderstood("Doctor")),
        },
        Call::Why(probe) => match supervisor.ask(Request::Why(probe)).await? {
            Reply::Explanation(explanation) => Ok(Outcome::Explanation(explanation)),
            _ => Err(misunderstood("Why")),
        },
        Call::TraceGet(TraceParams { id }) => trace::get(service, id).await.map(Outcome::Trace),
        Call::TraceStop(TraceParams { id }) => trace::stop(service, id).await.map(|()| Outcome::Removed {}),
        Call::Ping => match supervisor.ask(Request::Ping).await? {
            Reply::Done => Ok(Outcome::Pong(Pong { pong: true })),
            _ => Err(misunderstood("Ping")),
        },
    }
}

/// Asks for a change whose answer is the rule as it stands then.
async fn changed(supervisor: &Supervisor, request: Request, name: &str) -> Result<Outcome, Fault> {
    match supervisor.ask(request).await? {
        Reply::Rule(rule) => Ok(Outcome::Rule(Box::new(view::rule(*rule)))),
        _ => Err(misunderstood(name)),
    }
}

async fn rules(supervisor: &Supervisor, rule: Option<&RuleRef>) -> Result<Outcome, Fault> {
    let rules = supervisor.rules(rule).await?;
    Ok(Outcome::Rules(RuleList { rules: rules.into_iter().map(view::rule).collect() }))
}

async fn log(supervisor: &Supervisor, set: Option<(LogLevel, Option<Facility>)>) -> Result<Outcome, Fault> {
    let request = set.map_or(Request::LogGet, |(level, facility)| Request::LogSet { level, facility });
    match supervisor.ask(request).await? {
        Reply::Log(levels) => Ok(Outcome::Log(levels.into())),
        _ => Err(misunderstood("LogGet")),
    }
}

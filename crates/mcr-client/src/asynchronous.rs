//! The client for tasks.

use std::{
    io::{self, ErrorKind},
    path::Path,
    time::Duration,
};

use mcr_proto::{
    message::{ReflectView, RuleRef},
    reflect::Reflect,
    rpc::{
        ConfigLoad, ConfigLoaded, ConfigPartTaken, ConfigSaved, ConfigShown, Event, Hello, InterfaceInfo,
        InterfaceList, LogSet, LogShown, MoveParams, OptionalReflect, OptionalRule, PROTOCOL, Pong,
        ReflectAdded, ReflectList, ReflectParams, RuleAdded, RuleInfo, RuleList, RuleParams, Stats,
        Subscribe, Subscribed, TraceParams, TraceRecords, TraceStart, TraceStarted, Version, Welcome,
        WorkerInfo, WorkerList, method,
    },
    rule::RuleSpec,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::{Instant, sleep, timeout_at},
};

use crate::{
    ClientError, Options,
    session::{CLIENT, NoParams, READ_BYTES, Session},
};

/// Between two attempts to connect to a daemon whose queue is full.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// A connection to the daemon, handshake done. The methods are those of [`crate::Client`].
///
/// A call that is dropped before it has finished leaves the connection unusable.
#[derive(Debug)]
pub struct AsyncClient {
    stream: UnixStream,
    session: Session,
    deadline: Duration,
    welcome: Welcome,
}

impl AsyncClient {
    /// Connects to the daemon that listens at `path`.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`], [`ClientError::NotPermitted`], [`ClientError::Protocol`], or any that a call has.
    ///
    /// # Panics
    /// Outside a tokio runtime with its I/O and time drivers enabled.
    pub async fn connect(path: impl AsRef<Path>, options: Options) -> Result<Self, ClientError> {
        let path = path.as_ref();
        let Options { deadline } = options;
        let mut stream = connect(path, Instant::now() + deadline)
            .await
            .map_err(|source| ClientError::from_connect(path.to_owned(), source))?;
        let mut session = Session::default();
        let hello = Hello { protocol: PROTOCOL, client: Some(CLIENT.into()) };
        let welcome = call(&mut stream, &mut session, deadline, method::HELLO, &hello).await?;
        Ok(Self { stream, session, deadline, welcome })
    }

    /// What the daemon said at the handshake.
    pub fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    /// Calls any method.
    ///
    /// # Errors
    /// Those of [`crate::Client::call`].
    pub async fn call<P: Serialize, R: DeserializeOwned>(
        &mut self,
        method: &str,
        params: &P,
    ) -> Result<R, ClientError> {
        call(&mut self.stream, &mut self.session, self.deadline, method, params).await
    }

    /// Adds a rule. An identical one of the same name is not added again; `created` says so.
    ///
    /// # Errors
    /// Those of [`AsyncClient::call`].
    pub async fn rule_add(&mut self, rule: &RuleSpec) -> Result<RuleAdded, ClientError> {
        self.call(method::RULE_ADD, rule).await
    }

    /// Removes a rule.
    ///
    /// # Errors
    /// Those of [`AsyncClient::call`].
    pub async fn rule_remove(&mut self, rule: &RuleRef) -> Result<(), ClientError> {
        let removed: serde_json::Value =
            self.call(method::RULE_REMOVE, &RuleParams { rule: rule.clone() }).await?;
        drop(removed);
        Ok(())
    }

    /// One rule, or all of them in order of id.
    ///
    /// # Errors
    /// Those of [`AsyncClient::call`].
    pub async fn rules(&mut self, rule: Option<&RuleRef>) -> Result<Vec<RuleInfo>, ClientError> {
        self.call(method::RULE_LIST, &OptionalRule { rule: rule.cloned() })
            .await
            .map(|list: RuleList| list.rules)
    }

    /// Has a rule carried by another worker; the rule as it stands then.
    ///
    /// # Errors
    /// Those of [`AsyncClient::call`].
    pub async fn rule_move(&mut self, rule: &RuleRef, worker: u16) -> Result<RuleInfo, ClientError> {
        self.call(method::RULE_MOVE, &MoveParams { rule: rule.clone(), worker }).await
    }

    /// Switches a rule on or off; the rule as it stands then. One that is off is kept, but has no sockets.
    ///
    /// # Errors
    /// Those of [`AsyncClient::call`].
    pub async fn rule_enable(&mut self, rule: &RuleRef, enabled: bool) -> Result<RuleInfo, ClientError> {
        let name = if enabled { method::RULE_ENABLE } else { method::RULE_DISABLE };
        self.call(name, &RuleParams { rule: rule.clone() }).await
    }

    /// The running configuration.
    ///
    /// # Errors
    /// Those of [`AsyncClient::call`].
    pub async fn config(&mut self) -> Result<ConfigShown, ClientError> {
        self.call(method::CONFIG_GET, &NoParams {}).await
    }

    /// Makes a configuration the running one (`replace`), or adds it to that. All of it takes effect, or nothing. Its text may be
    /// longer than a line: it is sent in parts then.
    ///
    /// # Errors
    /// Those of [`AsyncClient::call`].
    pub async fn config_load(&mut self, load: &ConfigLoad) -> Result<ConfigLoaded, ClientError> {
        let (parts, load) = load.in_parts();
        for part in parts {
            self.call::<_, ConfigPartTaken>(method::CONFIG_PART, &part).await?;
        }
        self.call(method::CONFIG_LOAD, &load).await
    }

    /// Has the daemon write the running configuration to its startup configuration's file.
    ///
    /// # Errors
    /// Those of [`AsyncClient::call`].
    pub async fn config_save(&mut self) -> Result<ConfigSaved, ClientError> {
        self.call(method::CONFIG_SAVE, &NoParams {}).await
    }

    /// The levels of the daemon's log.
    ///
    /// # Errors
    /// Those of [`AsyncClient::call`].
    pub async fn log_levels(&mut self) -> Result<LogShown, ClientError> {
        self.call(method::LOG_GET, &NoParams {}).await
    }

    /// Sets the level of the daemon's log, or of one facility.
    ///
    /// # Errors
    /// Those of [`AsyncClient::call`].
    pub async fn log_set(&mut self, set: &LogSet) -> Result<LogShown, ClientError> {
        self.call(method::LOG_SET, set).await
    }

    /// Asks for events from now on; they come by [`AsyncClient::next_event`].
    ///
    /// # Errors
    /// Those of [`AsyncClient::call`].
    pub async fn subscribe(&mut self, subscribe: &Subscribe) -> Result<Subscribed, ClientError> {
        self.call(method::EVENT_SUBSCRIBE, subscribe).await
    }

    /// The next event. Dropping the future loses nothing.
    ///
    /// # Errors
    /// Any [`ClientError`] of the connection; it is of no more use then.
    pub async fn next_event(&mut self) -> Result<Event, ClientError> {
        self.session.check_open()?;
        let outcome = next_event(&mut self.stream, &mut self.session).await;
        self.session.end(outcome)
    }

    /// As [`crate::Client::trace_start`].
    ///
    /// # Errors
    /// Those of [`AsyncClient::call`].
    pub async fn trace_start(&mut self, start: &TraceStart) -> Result<TraceStarted, ClientError> {
        self.call(method::TRACE_START, start).await
    }

    /// As [`crate::Client::trace_get`].
    ///
    /// # Errors
    /// Those of [`AsyncClient::call`].
    pub async fn trace_get(&mut self, id: u64) -> Result<TraceRecords, ClientError> {
        self.call(method::TRACE_GET, &TraceParams { id }).await
    }

    /// As [`crate::Client::trace_stop`].
    ///
    /// # Errors
    /// Those of [`AsyncClient::call`].
    pub async fn trace_stop(&mut self, id: u64) -> Result<(), ClientError> {
        let stopped: serde_json::Value = self.call(method::TRACE_STOP, &TraceParams { id }).await?;
        drop(stopped);
        Ok(())
    }

    /// Counters and rates of one rule, or of all.
    ///
    /// # Errors
    /// Those of [`AsyncClient::call`].
    pub async fn stats(&mut self, rule: Option<&RuleRef>) -> Result<Stats, ClientError> {
        self.call(method::STATS_GET, &OptionalRule { rule: rule.cloned() }).await
    }

    /// Adds a reflector of test packets. The same one is not added again; `created` says so.
    ///
    /// # Errors
    /// Those of [`AsyncClient::call`].
    pub async fn reflect_add(&mut self, reflect: &Reflect) -> Result<ReflectAdded, ClientError> {
        self.call(method::REFLECT_ADD, reflect).await
    }

    /// Removes the reflector of this name.
    ///
    /// # Errors
    /// Those of [`AsyncClient::call`].
    pub async fn reflect_remove(&mut self, name: &str) -> Result<(), ClientError> {
        let params = ReflectParams { name: name.to_owned() };
        let removed: serde_json::Value = self.call(method::REFLECT_REMOVE, &params).await?;
        drop(removed);
        Ok(())
    }

    /// The reflector of this name, or all, with their counters.
    ///
    /// # Errors
    /// Those of [`AsyncClient::call`].
    pub async fn reflectors(&mut self, name: Option<&str>) -> Result<Vec<ReflectView>, ClientError> {
        let params = OptionalReflect { name: name.map(ToOwned::to_owned) };
        self.call(method::REFLECT_LIST, &params).await.map(|list: ReflectList| list.reflectors)
    }

    /// The daemon's workers.
    ///
    /// # Errors
    /// Those of [`AsyncClient::call`].
    pub async fn workers(&mut self) -> Result<Vec<WorkerInfo>, ClientError> {
        self.call(method::WORKER_LIST, &NoParams {}).await.map(|list: WorkerList| list.workers)
    }

    /// The interfaces of the daemon's host.
    ///
    /// # Errors
    /// Those of [`AsyncClient::call`].
    pub async fn interfaces(&mut self) -> Result<Vec<InterfaceInfo>, ClientError> {
        self.call(method::INTERFACE_LIST, &NoParams {}).await.map(|list: InterfaceList| list.interfaces)
    }

    /// Asks whether the daemon is there, its privileged half included.
    ///
    /// # Errors
    /// Those of [`AsyncClient::call`].
    pub async fn ping(&mut self) -> Result<(), ClientError> {
        self.call(method::PING, &NoParams {}).await.map(|_: Pong| ())
    }

    /// The daemon's version.
    ///
    /// # Errors
    /// Those of [`AsyncClient::call`].
    pub async fn version(&mut self) -> Result<Version, ClientError> {
        self.call(method::VERSION, &NoParams {}).await
    }
}

/// Connects within the deadline. A non-blocking `connect` to a daemon whose queue is full says so at once, and no event
/// tells when there is room.
async fn connect(path: &Path, end: Instant) -> io::Result<UnixStream> {
    loop {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            done => return done,
        }
        if Instant::now() >= end {
            return Err(ErrorKind::TimedOut.into());
        }
        sleep(RETRY_PAUSE).await;
    }
}

async fn next_event(stream: &mut UnixStream, session: &mut Session) -> Result<Event, ClientError> {
    let mut bytes = vec![0; READ_BYTES];
    loop {
        if let Some(event) = session.event()? {
            return Ok(event);
        }
        match stream.read(&mut bytes).await {
            Ok(0) => return Err(ClientError::Closed),
            Ok(count) => session.receive(&bytes[..count]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Err(ClientError::Closed),
            Err(error) => return Err(ClientError::Io(error)),
        }
    }
}

async fn call<P: Serialize, R: DeserializeOwned>(
    stream: &mut UnixStream,
    session: &mut Session,
    deadline: Duration,
    method: &str,
    params: &P,
) -> Result<R, ClientError> {
    let line = session.request(method, params)?;
    session.begin();
    let outcome = timeout_at(Instant::now() + deadline, exchange(stream, session, method, &line)).await;
    let outcome = outcome.unwrap_or_else(|_| Err(ClientError::Timeout { method: method.into(), deadline }));
    session.end(outcome)
}

async fn exchange<R: DeserializeOwned>(
    stream: &mut UnixStream,
    session: &mut Session,
    method: &str,
    line: &[u8],
) -> Result<R, ClientError> {
    match stream.write_all(line).await {
        // The daemon has closed, but may have said why before; reading finds out.
        Err(error) if !matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
            return Err(ClientError::Io(error));
        }
        _ => {}
    }
    let mut bytes = vec![0; READ_BYTES];
    loop {
        if let Some(result) = session.answer(method)? {
            return Ok(result);
        }
        match stream.read(&mut bytes).await {
            Ok(0) => return Err(ClientError::Closed),
            Ok(count) => session.receive(&bytes[..count]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Err(ClientError::Closed),
            Err(error) => return Err(ClientError::Io(error)),
        }
    }
}

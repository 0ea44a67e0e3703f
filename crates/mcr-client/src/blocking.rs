//! The client that blocks.

use std::{
    io::{ErrorKind, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
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
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    ClientError, Options,
    session::{NoParams, READ_BYTES, Session},
};

/// A connection to the daemon, handshake done.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    session: Session,
    deadline: Duration,
    welcome: Welcome,
}

impl Client {
    /// Connects to the daemon that listens at `path`.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`], [`ClientError::NotPermitted`], [`ClientError::Protocol`], or any that a call has.
    pub fn connect(path: impl AsRef<Path>, options: Options) -> Result<Self, ClientError> {
        let path = path.as_ref();
        let Options { deadline } = options;
        let stream =
            connect(path, deadline).map_err(|source| ClientError::from_connect(path.to_owned(), source))?;
        let mut session = Session::default();
        let hello = Hello { protocol: PROTOCOL, client: Some(crate::session::CLIENT.into()) };
        let welcome = call(&stream, &mut session, deadline, method::HELLO, &hello)?;
        Ok(Self { stream, session, deadline, welcome })
    }

    /// What the daemon said at the handshake.
    pub fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    /// Calls any method.
    ///
    /// # Errors
    /// Any [`ClientError`]. After [`ClientError::Fault`], [`ClientError::NotPermitted`] and [`ClientError::TooLong`] the
    /// connection can be used on; after any other, further calls give [`ClientError::Closed`].
    pub fn call<P: Serialize, R: DeserializeOwned>(
        &mut self,
        method: &str,
        params: &P,
    ) -> Result<R, ClientError> {
        call(&self.stream, &mut self.session, self.deadline, method, params)
    }

    /// Adds a rule. An identical one of the same name is not added again; `created` says so.
    ///
    /// # Errors
    /// Those of [`Client::call`].
    pub fn rule_add(&mut self, rule: &RuleSpec) -> Result<RuleAdded, ClientError> {
        self.call(method::RULE_ADD, rule)
    }

    /// Removes a rule.
    ///
    /// # Errors
    /// Those of [`Client::call`].
    pub fn rule_remove(&mut self, rule: &RuleRef) -> Result<(), ClientError> {
        let removed: serde_json::Value =
            self.call(method::RULE_REMOVE, &RuleParams { rule: rule.clone() })?;
        drop(removed);
        Ok(())
    }

    /// One rule, or all of them in order of id.
    ///
    /// # Errors
    /// Those of [`Client::call`].
    pub fn rules(&mut self, rule: Option<&RuleRef>) -> Result<Vec<RuleInfo>, ClientError> {
        self.call(method::RULE_LIST, &OptionalRule { rule: rule.cloned() }).map(|list: RuleList| list.rules)
    }

    /// Has a rule carried by another worker; the rule as it stands then.
    ///
    /// # Errors
    /// Those of [`Client::call`].
    pub fn rule_move(&mut self, rule: &RuleRef, worker: u16) -> Result<RuleInfo, ClientError> {
        self.call(method::RULE_MOVE, &MoveParams { rule: rule.clone(), worker })
    }

    /// Switches a rule on or off; the rule as it stands then. One that is off is kept, but has no sockets.
    ///
    /// # Errors
    /// Those of [`Client::call`].
    pub fn rule_enable(&mut self, rule: &RuleRef, enabled: bool) -> Result<RuleInfo, ClientError> {
        let name = if enabled { method::RULE_ENABLE } else { method::RULE_DISABLE };
        self.call(name, &RuleParams { rule: rule.clone() })
    }

    /// The running configuration.
    ///
    /// # Errors
    /// Those of [`Client::call`].
    pub fn config(&mut self) -> Result<ConfigShown, ClientError> {
        self.call(method::CONFIG_GET, &NoParams {})
    }

    /// Makes a configuration the running one (`replace`), or adds it to that. All of it takes effect, or nothing. Its text may be
    /// longer than a line: it is sent in parts then.
    ///
    /// # Errors
    /// Those of [`Client::call`].
    pub fn config_load(&mut self, load: &ConfigLoad) -> Result<ConfigLoaded, ClientError> {
        let (parts, load) = load.in_parts();
        for part in parts {
            self.call::<_, ConfigPartTaken>(method::CONFIG_PART, &part)?;
        }
        self.call(method::CONFIG_LOAD, &load)
    }

    /// Has the daemon write the running configuration to its startup configuration's file.
    ///
    /// # Errors
    /// Those of [`Client::call`].
    pub fn config_save(&mut self) -> Result<ConfigSaved, ClientError> {
        self.call(method::CONFIG_SAVE, &NoParams {})
    }

    /// The levels of the daemon's log.
    ///
    /// # Errors
    /// Those of [`Client::call`].
    pub fn log_levels(&mut self) -> Result<LogShown, ClientError> {
        self.call(method::LOG_GET, &NoParams {})
    }

    /// Sets the level of the daemon's log, or of one facility.
    ///
    /// # Errors
    /// Those of [`Client::call`].
    pub fn log_set(&mut self, set: &LogSet) -> Result<LogShown, ClientError> {
        self.call(method::LOG_SET, set)
    }

    /// Asks for events from now on; they come by [`Client::next_event`].
    ///
    /// # Errors
    /// Those of [`Client::call`].
    pub fn subscribe(&mut self, subscribe: &Subscribe) -> Result<Subscribed, ClientError> {
        self.call(method::EVENT_SUBSCRIBE, subscribe)
    }

    /// The next event, waited for as long as given or for ever; none if none came.
    ///
    /// # Errors
    /// Any [`ClientError`] of the connection; it is of no more use then.
    pub fn next_event(&mut self, patience: Option<Duration>) -> Result<Option<Event>, ClientError> {
        self.session.check_open()?;
        let outcome = next_event(&self.stream, &mut self.session, patience);
        self.session.end(outcome)
    }

    /// Has the daemon show what becomes of single datagrams, until the trace ends, with this connection at the latest.
    ///
    /// # Errors
    /// Those of [`Client::call`].
    pub fn trace_start(&mut self, start: &TraceStart) -> Result<TraceStarted, ClientError> {
        self.call(method::TRACE_START, start)
    }

    /// What a trace has shown since the last time.
    ///
    /// # Errors
    /// Those of [`Client::call`].
    pub fn trace_get(&mut self, id: u64) -> Result<TraceRecords, ClientError> {
        self.call(method::TRACE_GET, &TraceParams { id })
    }

    /// Ends a trace; what it has shown can still be had.
    ///
    /// # Errors
    /// Those of [`Client::call`].
    pub fn trace_stop(&mut self, id: u64) -> Result<(), ClientError> {
        let stopped: serde_json::Value = self.call(method::TRACE_STOP, &TraceParams { id })?;
        drop(stopped);
        Ok(())
    }

    /// Counters and rates of one rule, or of all.
    ///
    /// # Errors
    /// Those of [`Client::call`].
    pub fn stats(&mut self, rule: Option<&RuleRef>) -> Result<Stats, ClientError> {
        self.call(method::STATS_GET, &OptionalRule { rule: rule.cloned() })
    }

    /// Adds a reflector of test packets. The same one is not added again; `created` says so.
    ///
    /// # Errors
    /// Those of [`Client::call`].
    pub fn reflect_add(&mut self, reflect: &Reflect) -> Result<ReflectAdded, ClientError> {
        self.call(method::REFLECT_ADD, reflect)
    }

    /// Removes the reflector of this name.
    ///
    /// # Errors
    /// Those of [`Client::call`].
    pub fn reflect_remove(&mut self, name: &str) -> Result<(), ClientError> {
        let params = ReflectParams { name: name.to_owned() };
        let removed: serde_json::Value = self.call(method::REFLECT_REMOVE, &params)?;
        drop(removed);
        Ok(())
    }

    /// The reflector of this name, or all, with their counters.
    ///
    /// # Errors
    /// Those of [`Client::call`].
    pub fn reflectors(&mut self, name: Option<&str>) -> Result<Vec<ReflectView>, ClientError> {
        let params = OptionalReflect { name: name.map(ToOwned::to_owned) };
        self.call(method::REFLECT_LIST, &params).map(|list: ReflectList| list.reflectors)
    }

    /// The daemon's workers.
    ///
    /// # Errors
    /// Those of [`Client::call`].
    pub fn workers(&mut self) -> Result<Vec<WorkerInfo>, ClientError> {
        self.call(method::WORKER_LIST, &NoParams {}).map(|list: WorkerList| list.workers)
    }

    /// The interfaces of the daemon's host.
    ///
    /// # Errors
    /// Those of [`Client::call`].
    pub fn interfaces(&mut self) -> Result<Vec<InterfaceInfo>, ClientError> {
        self.call(method::INTERFACE_LIST, &NoParams {}).map(|list: InterfaceList| list.interfaces)
    }

    /// Asks whether the daemon is there, its privileged half included.
    ///
    /// # Errors
    /// Those of [`Client::call`].
    pub fn ping(&mut self) -> Result<(), ClientError> {
        self.call(method::PING, &NoParams {}).map(|_: Pong| ())
    }

    /// The daemon's version.
    ///
    /// # Errors
    /// Those of [`Client::call`].
    pub fn version(&mut self) -> Result<Version, ClientError> {
        self.call(method::VERSION, &NoParams {})
    }
}

/// Connects within the deadline. A daemon that does not accept lets its queue run full, where `connect` would wait forever;
/// the send timeout bounds it (af_unix, `unix_stream_connect`).
fn connect(path: &Path, deadline: Duration) -> std::io::Result<UnixStream> {
    let address = SocketAddrUnix::new(path)?;
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(deadline))?;
    loop {
        match rustix::net::connect(&socket, &address) {
            Ok(()) => return Ok(socket.into()),
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => return Err(ErrorKind::TimedOut.into()),
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn call<P: Serialize, R: DeserializeOwned>(
    stream: &UnixStream,
    session: &mut Session,
    deadline: Duration,
    method: &str,
    params: &P,
) -> Result<R, ClientError> {
    let line = session.request(method, params)?;
    session.begin();
    let exchange = Exchange { stream, method, deadline, end: Instant::now() + deadline };
    let outcome = exchange.send(&line).and_then(|()| exchange.receive(session));
    session.end(outcome)
}

fn next_event(
    stream: &UnixStream,
    session: &mut Session,
    patience: Option<Duration>,
) -> Result<Option<Event>, ClientError> {
    let end = patience.map(|patience| Instant::now() + patience);
    let mut bytes = vec![0; READ_BYTES];
    loop {
        if let Some(event) = session.event()? {
            return Ok(Some(event));
        }
        let remaining = end.map(|end| end.saturating_duration_since(Instant::now()));
        if remaining.is_some_and(|remaining| remaining.is_zero()) {
            return Ok(None);
        }
        stream.set_read_timeout(remaining).map_err(ClientError::Io)?;
        match { stream }.read(&mut bytes) {
            Ok(0) => return Err(ClientError::Closed),
            Ok(count) => session.receive(&bytes[..count]),
            Err(error) => match error.kind() {
                ErrorKind::Interrupted | ErrorKind::WouldBlock | ErrorKind::TimedOut => {}
                ErrorKind::ConnectionReset => return Err(ClientError::Closed),
                _ => return Err(ClientError::Io(error)),
            },
        }
    }
}

/// One request and its answer, under one deadline.
struct Exchange<'a> {
    stream: &'a UnixStream,
    method: &'a str,
    deadline: Duration,
    end: Instant,
}

impl Exchange<'_> {
    fn send(&self, mut line: &[u8]) -> Result<(), ClientError> {
        while !line.is_empty() {
            self.stream.set_write_timeout(Some(self.remaining()?)).map_err(ClientError::Io)?;
            match { self.stream }.write(line) {
                Ok(bytes) => line = &line[bytes..],
                // The daemon has closed, but may have said why before; reading finds out.
                Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                    break;
                }
                Err(error) => self.judge(error)?,
            }
        }
        Ok(())
    }

    fn receive<R: DeserializeOwned>(&self, session: &mut Session) -> Result<R, ClientError> {
        let mut bytes = vec![0; READ_BYTES];
        loop {
            if let Some(result) = session.answer(self.method)? {
                return Ok(result);
            }
            self.stream.set_read_timeout(Some(self.remaining()?)).map_err(ClientError::Io)?;
            match { self.stream }.read(&mut bytes) {
                Ok(0) => return Err(ClientError::Closed),
                Ok(count) => session.receive(&bytes[..count]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Err(ClientError::Closed),
                Err(error) => self.judge(error)?,
            }
        }
    }

    /// Time left; never zero, which a socket takes for "forever".
    fn remaining(&self) -> Result<Duration, ClientError> {
        let remaining = self.end.saturating_duration_since(Instant::now());
        if remaining.is_zero() { Err(self.late()) } else { Ok(remaining) }
    }

    fn judge(&self, error: std::io::Error) -> Result<(), ClientError> {
        match error.kind() {
            ErrorKind::Interrupted => Ok(()),
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Err(self.late()),
            _ => Err(ClientError::Io(error)),
        }
    }

    fn late(&self) -> ClientError {
        ClientError::Timeout { method: self.method.into(), deadline: self.deadline }
    }
}

//! A supervisor for tests, and clients that say what they like.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener},
    os::{
        fd::AsFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::PathBuf,
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use mcr_fdpass::{Channel, Tag};
use mcr_metrics::Segment;
use mcr_proto::{
    codec,
    message::{
        Fault, FaultKind, FromControl, Http, InputView, OutputView, Reply, Request, RuleRef, RuleState,
        RuleView, Secret, ToControl, tag,
    },
    plan::{InputSlot, OutputSlot, RuleSlot, WorkerIndex},
    rule::{Datapath, RuleId, RuleSpec},
};
use serde_json::{Value, json};

use crate::{Confinement, ControlError, limits::Limits, peer::Admission, run_within};

pub(crate) const WORKERS: usize = 2;
/// Long enough for anything to happen on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What lets change rules over HTTP.
pub(crate) const TOKEN: &str = "token-of-the-stage";

/// What a supervisor answers; None is silence.
pub(crate) type Answer = Option<Result<Reply, Fault>>;

/// Control with a supervisor around it.
pub(crate) struct Stage {
    pub(crate) path: PathBuf,
    pub(crate) segments: Arc<Vec<Segment>>,
    pub(crate) channel: Arc<Channel>,
    pub(crate) directory: tempfile::TempDir,
    /// Where it serves HTTP, with [`TOKEN`].
    pub(crate) http: SocketAddr,
    control: JoinHandle<Result<(), ControlError>>,
    supervisor: JoinHandle<()>,
}

impl Stage {
    pub(crate) fn new(limits: Limits, answer: impl FnMut(Request) -> Answer + Send + 'static) -> Self {
        let admission = Admission { owner_uid: 0, group_gid: None, others_may_read: false };
        Self::with_admission(limits, admission, answer)
    }

    pub(crate) fn with_admission(
        limits: Limits,
        admission: Admission,
        answer: impl FnMut(Request) -> Answer + Send + 'static,
    ) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("mcrd.sock");
        let listener = UnixListener::bind(&path).expect("a fresh path");
        let segments: Vec<_> = (0..WORKERS).map(|_| Segment::create().expect("memory")).collect();
        let (ours, theirs) = mcr_fdpass::pair().expect("sockets");
        let channel = Arc::new(Channel::from(ours));
        let control = std::thread::spawn(move || run_within(theirs, limits, Confinement::None));
        let Admission { owner_uid, group_gid, others_may_read } = admission;
        let web = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = web.local_addr().expect("it is bound");
        let http = Some(Http { names: vec!["relay1".into()], token: Some(Secret(TOKEN.into())) });
        let start = ToControl::Start {
            segments: WORKERS as u16,
            owner_uid,
            group_gid,
            others_may_read,
            http,
            ids: None,
        };
        let read_only: Vec<_> = segments.iter().map(|segment| segment.read_only().expect("/proc")).collect();
        let mut fds = vec![(Tag(tag::LISTENER), listener.as_fd()), (Tag(tag::HTTP), web.as_fd())];
        fds.extend(read_only.iter().map(|fd| (Tag(tag::COUNTERS), fd.as_fd())));
        channel.send(&codec::encode(&start).expect("small"), &fds).expect("control listens");
        assert_eq!(receive(&channel), Some(FromControl::Ready));
        let supervisor = std::thread::spawn({
            let channel = Arc::clone(&channel);
            move || supervise(&channel, answer)
        });
        Self { path, segments: Arc::new(segments), channel, directory, http: address, control, supervisor }
    }

    /// Says `Stop` and sees everything end well.
    pub(crate) fn stop(self) {
        send(&self.channel, &ToControl::Stop);
        self.control.join().expect("no panic").expect("a clean end");
        self.supervisor.join().expect("no panic");
    }

    /// A client that has not said hello.
    pub(crate) fn connect(&self) -> Talk {
        Talk::over(UnixStream::connect(&self.path).expect("control listens"))
    }

    /// A client that has.
    pub(crate) fn client(&self) -> Talk {
        let mut talk = self.connect();
        let welcome = talk.call("hello", json!({"protocol": 1}));
        assert_eq!(welcome["result"]["protocol"], 1, "{welcome}");
        talk
    }
}

fn supervise(channel: &Channel, mut answer: impl FnMut(Request) -> Answer) {
    while let Some(message) = receive(channel) {
        if let FromControl::Request { seq, request } = message
            && let Some(reply) = answer(request)
        {
            send(channel, &ToControl::Reply { seq, reply });
        }
    }
}

pub(crate) fn send(channel: &Channel, message: &ToControl) {
    // Control may be gone by now, as it should be after `Stop`.
    let _ = channel.send(&codec::encode(message).expect("small"), &[]);
}

pub(crate) fn receive(channel: &Channel) -> Option<FromControl> {
    let mut body = Vec::new();
    channel.recv(&mut body).ok()?;
    Some(codec::decode(&body).expect("control's own bytes"))
}

/// A connection as a script uses it.
pub(crate) struct Talk {
    pub(crate) reader: BufReader<UnixStream>,
    pub(crate) stream: UnixStream,
    last_id: u64,
}

impl Talk {
    pub(crate) fn over(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("an open socket");
        stream.set_write_timeout(Some(PATIENCE)).expect("an open socket");
        Self { reader: BufReader::new(stream.try_clone().expect("a duplicate")), stream, last_id: 0 }
    }

    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("control reads");
    }

    /// The next response; None if the connection has ended.
    pub(crate) fn response(&mut self) -> Option<Value> {
        let mut line = String::new();
        match self.reader.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(serde_json::from_str(&line).expect("a response is JSON")),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("no response: {error}"),
        }
    }

    /// A raw line and its response.
    pub(crate) fn line(&mut self, line: &str) -> Value {
        self.send(format!("{line}\n"));
        self.response().expect("a response")
    }

    pub(crate) fn call(&mut self, method: &str, params: Value) -> Value {
        self.last_id += 1;
        let id = self.last_id;
        let line = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string();
        let response = self.line(&line);
        assert_eq!(response["id"], id, "{response}");
        response
    }

    /// Waits until the connection has ended, reading whatever still comes.
    pub(crate) fn wait_for_end(&mut self) {
        let mut rest = Vec::new();
        match self.reader.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
            Err(error) => panic!("still open: {error}"),
        }
    }
}

/// A supervisor that holds these rules and gives them out in pages.
pub(crate) fn holding(
    rules: Vec<RuleView>,
    inputs: Vec<InputView>,
    page: usize,
) -> impl FnMut(Request) -> Answer {
    move |request| {
        Some(Ok(match request {
            Request::RuleRemove(_) => Reply::Done,
            Request::RuleAdd(spec) => {
                Reply::Added { rule: Box::new(RuleView { spec: *spec, ..rule(1) }), created: true }
            }
            Request::RuleShow(wanted) => {
                let found = rules.iter().find(|rule| match &wanted {
                    RuleRef::Id(id) => rule.id == *id,
                    RuleRef::Name(name) => rule.spec.name.as_ref() == Some(name),
                });
                match found {
                    Some(rule) => Reply::Rule(Box::new(rule.clone())),
                    None => {
                        let message = format!("no rule {wanted}");
                        return Some(Err(Fault::new(FaultKind::NotFound, message).at("rule")));
                    }
                }
            }
            Request::RuleList { after } => {
                let mut rest = rules.iter().filter(|rule| Some(rule.id) > after).cloned();
                let rules = rest.by_ref().take(page).collect();
                Reply::Rules { rules, more: rest.next().is_some() }
            }
            Request::InputList { after } => {
                let mut rest = inputs.iter().filter(|input| Some(input.slot) > after).cloned();
                let inputs = rest.by_ref().take(page).collect();
                Reply::Inputs { inputs, more: rest.next().is_some() }
            }
            Request::InterfaceList { .. } => Reply::Interfaces { interfaces: Vec::new(), more: false },
            Request::WorkerList => Reply::Workers(Vec::new()),
            Request::ReflectList { .. } => Reply::Reflectors { reflectors: Vec::new(), more: false },
            Request::SettingsGet => Reply::Settings { settings: Default::default(), path: None },
            _ => Reply::Done,
        }))
    }
}

/// Rule `number`, named `r` and the number, with two outputs: its slots are the number, twice it and one more.
pub(crate) fn rule(number: u32) -> RuleView {
    let input = "239.1.1.1:5000@eth0".parse().expect("an input");
    let outputs: Vec<_> =
        ["10.0.0.2:6000", "10.0.0.3:6000"].iter().map(|text| text.parse().expect("an output")).collect();
    let mut spec = RuleSpec::new(input, outputs);
    spec.name = Some(format!("r{number}").parse().expect("a name"));
    let output = |index: usize| OutputView {
        slot: OutputSlot(2 * number + index as u32),
        output: spec.outputs[index].clone(),
        state: RuleState::Active,
        reason: None,
    };
    RuleView {
        id: RuleId(number.into()),
        state: RuleState::Active,
        reason: None,
        worker: WorkerIndex(0),
        datapath: Some(Datapath::Udp),
        datapath_reason: "asked for".into(),
        swallowed: false,
        slot: RuleSlot(number),
        outputs: vec![output(0), output(1)],
        spec,
    }
}

pub(crate) fn input(slot: u32, worker: u16, interface: &str, datapath: Datapath) -> InputView {
    InputView {
        class: None,
        slot: InputSlot(slot),
        worker: WorkerIndex(worker),
        interface: interface.parse().expect("a name"),
        datapath,
        open: true,
    }
}

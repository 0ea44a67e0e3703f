//! The main loop: messages of the supervisor, new clients, and the end.

use std::{io, os::fd::OwnedFd, rc::Rc};

use mcr_confine::{Policy, Role, confine};
use mcr_fdpass::{AsyncChannel, Channel, Received, RecvError, Tag};
use mcr_metrics::{Access, Segment};
use mcr_proto::{
    codec,
    message::{Fault, FaultKind, FromControl, Http, Ids, LogLevel, ToControl, tag},
};
use tokio::{
    net::{TcpListener, UnixListener, UnixStream},
    sync::Mutex,
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tracing::{debug, error, warn};

use crate::{
    Confinement, ControlError,
    client::{self, Service},
    config,
    feed::Feeds,
    http::{self, Web},
    limits::Limits,
    logs::Lines,
    peer::{Admission, Peer},
    rates::Sampler,
    supervisor::Supervisor,
    trace::Traces,
};

/// Everything that came with `Start`.
struct Started {
    listener: UnixListener,
    http: Option<(TcpListener, Http)>,
    segments: Rc<[Segment]>,
    admission: Admission,
    ids: Option<Ids>,
}

pub(crate) async fn serve(
    channel: OwnedFd,
    limits: Limits,
    confinement: Confinement,
    lines: Lines,
) -> Result<(), ControlError> {
    let channel = AsyncChannel::new(Channel::from(channel)).map_err(ControlError::Runtime)?;
    let Some(started) = start(&channel).await? else { return Ok(()) };
    let Started { listener, http, segments, admission, ids } = started;
    if confinement == Confinement::Process {
        give_up_rights(&channel, ids).await?;
    }
    let service = Rc::new(Service {
        supervisor: Supervisor::new(channel, limits),
        sampler: Sampler::new(Rc::clone(&segments), limits),
        segments,
        feeds: Feeds::new(limits.events_max),
        traces: Traces::default(),
        reloading: Mutex::new(()),
        limits,
    });
    service.supervisor.ready().await?;
    let (http_listener, http) = http.unzip();
    let web = http.map(|http| Web::new(Rc::clone(&service), http));

    // Dropped when this function returns, and with it all clients.
    let (mut clients, mut connections) = (JoinSet::new(), JoinSet::new());
    let mut body = Vec::new();
    let mut pause: Option<Instant> = None;
    loop {
        tokio::select! {
            message = service.supervisor.message(&mut body) => match message? {
                Some((ToControl::Reply { seq, reply }, _)) => service.supervisor.deliver(seq, reply),
                Some((ToControl::Events { events }, _)) => {
                    events.into_iter().for_each(|event| service.feeds.publish(event));
                }
                Some((ToControl::Reload { file }, fds)) => reload(&service, file, fds),
                Some((ToControl::LogLevel(level), _)) => lines.set_level(level),
                Some((ToControl::Ping, _)) => service.supervisor.tell(&FromControl::Pong),
                Some((ToControl::Start { .. }, _)) => return Err(ControlError::NotStarted),
                Some((ToControl::Stop, _)) | None => {
                    service.supervisor.flush_logs(&lines);
                    return Ok(());
                }
            },
            accepted = listener.accept(), if pause.is_none() => match accepted {
                Ok((stream, _)) => admit(&service, &admission, &mut clients, stream),
                Err(error) => pause = Some(refused(&error, limits)),
            },
            accepted = http::accept(http_listener.as_ref()), if pause.is_none() => match (accepted, &web) {
                (Ok(stream), Some(web)) => web.admit(&mut connections, stream),
                (Ok(_), None) => {}
                (Err(error), _) => pause = Some(refused(&error, limits)),
            },
            () = sleep_until(pause.unwrap_or_else(Instant::now)), if pause.is_some() => pause = None,
            Some(ended) = clients.join_next() => {
                if let Err(error) = ended {
                    error!("serving a client failed: {error}");
                }
            }
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    error!("serving HTTP failed: {error}");
                }
            }
            () = service.supervisor.send_logs(&lines) => {}
        }
    }
}

/// When to try again to accept somebody.
fn refused(error: &io::Error, limits: Limits) -> Instant {
    warn!("a client could not be accepted: {error}");
    Instant::now() + limits.accept_pause
}

/// Loads a configuration file in a task of its own; one after the other, so that the last one asked for is the one that stays.
fn reload(service: &Rc<Service>, file: String, mut fds: Received) {
    let Some(opened) = fds.take(Tag(tag::CONFIG)) else {
        error!("{file}: it came without a descriptor");
        service.supervisor.tell(&FromControl::Reloaded);
        return;
    };
    let service = Rc::clone(service);
    tokio::task::spawn_local(async move {
        let _turn = service.reloading.lock().await;
        config::reload(&service.supervisor, opened, file).await;
        service.supervisor.tell(&FromControl::Reloaded);
    });
}

/// Waits for the first message; none if there is nothing to start any more.
async fn start(channel: &AsyncChannel) -> Result<Option<Started>, ControlError> {
    let mut body = Vec::new();
    let received = match channel.recv(&mut body).await {
        Ok(received) => received,
        Err(RecvError::Closed) => return Ok(None),
        Err(error) => return Err(ControlError::Receive(error)),
    };
    match codec::decode(&body).map_err(ControlError::Message)? {
        ToControl::Start { segments, owner_uid, group_gid, others_may_read, http, ids } => {
            let admission = Admission { owner_uid, group_gid, others_may_read };
            take_up(received, usize::from(segments), admission, http, ids).map(Some)
        }
        ToControl::Stop => Ok(None),
        _ => Err(ControlError::NotStarted),
    }
}

fn take_up(
    mut received: Received,
    segments: usize,
    admission: Admission,
    http: Option<Http>,
    ids: Option<Ids>,
) -> Result<Started, ControlError> {
    let missing = |what: String| ControlError::Missing { what };
    let listener = received.take(Tag(tag::LISTENER)).ok_or_else(|| missing("a listener".into()))?;
    let http = http
        .map(|http| {
            let listener =
                received.take(Tag(tag::HTTP)).ok_or_else(|| missing("a listener for HTTP".into()))?;
            Ok((http::listen(listener).map_err(ControlError::Listener)?, http))
        })
        .transpose()?;
    let segments = (0..segments)
        .map(|worker| {
            let counters = received.take(Tag(tag::COUNTERS));
            let counters = counters.ok_or_else(|| missing(format!("the counters of worker {worker}")))?;
            Segment::attach(counters, Access::Read)
                .map_err(|source| ControlError::Counters { worker, source })
        })
        .collect::<Result<_, _>>()?;
    Ok(Started {
        listener: listen(listener).map_err(ControlError::Listener)?,
        http,
        segments,
        admission,
        ids,
    })
}

/// From here on the process can do what its work takes, and nothing else. All that takes more has been done.
async fn give_up_rights(channel: &AsyncChannel, ids: Option<Ids>) -> Result<(), ControlError> {
    let ids = ids.map(|Ids { uid, gid }| mcr_confine::Ids { uid, gid });
    let outcome = confine(&Policy { role: Role::Control, ids });
    let (level, text) = match &outcome {
        Ok(confined) => (LogLevel::Info, confined.to_string()),
        Err(error) => (LogLevel::Error, format!("cannot confine itself: {error}: {}", error.source)),
    };
    let body = codec::encode(&FromControl::Log { level, text }).map_err(ControlError::Message)?;
    channel.send(&body, &[]).await.map_err(ControlError::Send)?;
    outcome.map(drop).map_err(ControlError::Confine)
}

fn listen(listener: OwnedFd) -> io::Result<UnixListener> {
    let listener = std::os::unix::net::UnixListener::from(listener);
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// Serves a new client, or tells it why not.
fn admit(service: &Rc<Service>, admission: &Admission, clients: &mut JoinSet<()>, stream: UnixStream) {
    let refusal = match Peer::of(&stream) {
        Err(error) => Fault::new(FaultKind::Internal, format!("who you are cannot be found out: {error}")),
        Ok(peer) => match admission.rights(&peer) {
            None => {
                let message = format!(
                    "user {} may not use this daemon; ask as root, as the daemon's user or as a member of its group",
                    peer.uid
                );
                Fault::new(FaultKind::NotPermitted, message)
            }
            Some(_) if clients.len() >= service.limits.clients_max => {
                let message = format!(
                    "{} clients are connected, which is the limit; close one, or try again later",
                    service.limits.clients_max
                );
                Fault::new(FaultKind::Limit, message)
            }
            Some(rights) => {
                debug!(uid = peer.uid, ?rights, "client connected");
                clients.spawn_local(client::attend(Rc::clone(service), stream, rights));
                return;
            }
        },
    };
    client::refuse(&stream, refusal);
}

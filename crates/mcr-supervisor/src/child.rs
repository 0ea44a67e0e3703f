//! A child process and its channel, as the supervisor sees them: messages out without waiting, events in.
//!
//! A child is this same program, started anew with a role. It inherits one descriptor, its channel, as standard input; all
//! others are close-on-exec. It ends when the channel does, so it cannot outlive the supervisor.

use std::{
    cell::Cell,
    io,
    os::fd::{AsFd, OwnedFd},
    process::Stdio,
    rc::Rc,
    time::Duration,
};

use mcr_fdpass::{AsyncChannel, Channel, SendError, Tag};
use mcr_proto::codec;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    process::{Child, Command},
    sync::mpsc,
};

/// What a child is for; the argument it is started with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The control plane.
    Control,
    /// The data plane.
    Worker,
    /// A reflector of test packets.
    Reflector,
}

impl Role {
    /// The hidden subcommand of `mcrd` that runs the role.
    pub fn argument(self) -> &'static str {
        match self {
            Self::Control => "role-control",
            Self::Worker => "role-worker",
            Self::Reflector => "role-reflector",
        }
    }
}

/// Something a child did. `start` tells the lives of a child apart: what an earlier one sent late must not count.
#[derive(Debug)]
pub(crate) struct ChildEvent<M> {
    pub(crate) start: u32,
    pub(crate) what: Happened<M>,
}

#[derive(Debug)]
pub(crate) enum Happened<M> {
    Said(M),
    /// It is gone; whether it left of its own accord and content.
    Ended {
        clean: bool,
        how: String,
    },
}

/// A message on its way to a child.
struct Outgoing {
    body: Vec<u8>,
    fds: Vec<(Tag, OwnedFd)>,
}

/// Messages that were not sent yet.
struct Queue {
    messages: mpsc::UnboundedReceiver<Outgoing>,
    waiting: Rc<Cell<usize>>,
}

/// A running child.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) pid: u32,
    outbox: mpsc::UnboundedSender<Outgoing>,
    waiting: Rc<Cell<usize>>,
    kill: mpsc::Sender<()>,
}

impl std::fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Outgoing({} bytes, {} descriptors)", self.body.len(), self.fds.len())
    }
}

impl Running {
    /// Starts a child. Its messages and its end arrive as `events`.
    pub(crate) fn start<M, E>(
        role: Role,
        start: u32,
        events: mpsc::Sender<E>,
        wrap: impl Fn(ChildEvent<M>) -> E + 'static,
    ) -> io::Result<Self>
    where
        M: DeserializeOwned + 'static,
        E: 'static,
    {
        let (ours, theirs) = mcr_fdpass::pair()?;
        let mut command = Command::new("/proc/self/exe");
        // The name is for people who look at the process list.
        command.arg0("mcrd").arg(role.argument());
        // Nothing of it concerns a child; RUST_BACKTRACE would even have a panic open files, which ends it before its time.
        command.env_clear();
        command.stdin(Stdio::from(theirs)).stdout(Stdio::null()).stderr(Stdio::inherit());
        command.kill_on_drop(true);
        // Signals of a terminal are for the supervisor, which stops its children in order.
        command.process_group(0);
        let child = command.spawn()?;
        // The command holds the child's end until it is dropped; then a dead child ends our reads.
        drop(command);
        let pid = child.id().unwrap_or(0);
        let channel = AsyncChannel::new(Channel::from(ours))?;
        let (outbox, queue) = mpsc::unbounded_channel();
        let (kill, killed) = mpsc::channel(1);
        let waiting = Rc::<Cell<usize>>::default();
        let queue = Queue { messages: queue, waiting: Rc::clone(&waiting) };
        tokio::task::spawn_local(async move {
            let what = attend(child, channel, queue, killed, start, &events, &wrap).await;
            let _ = events.send(wrap(ChildEvent { start, what })).await;
        });
        Ok(Self { pid, outbox, waiting, kill })
    }

    /// Queues a message. The caller bounds the queue: it sends a plan only when the one before has been applied.
    pub(crate) fn send<M: Serialize>(
        &self,
        message: &M,
        fds: Vec<(u32, OwnedFd)>,
    ) -> Result<(), codec::CodecError> {
        let body = codec::encode(message)?;
        let fds = fds.into_iter().map(|(tag, fd)| (Tag(tag), fd)).collect();
        // A child that is gone has an event on its way that says so.
        if self.outbox.send(Outgoing { body, fds }).is_ok() {
            self.waiting.set(self.waiting.get() + 1);
        }
        Ok(())
    }

    /// How many messages the child has not taken yet.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.get()
    }

    /// Ends the child at once.
    pub(crate) fn kill(&self) {
        let _ = self.kill.try_send(());
    }
}

/// Moves messages until the child is gone, and says how it went.
async fn attend<M: DeserializeOwned, E>(
    mut child: Child,
    channel: AsyncChannel,
    mut queue: Queue,
    mut killed: mpsc::Receiver<()>,
    start: u32,
    events: &mpsc::Sender<E>,
    wrap: &impl Fn(ChildEvent<M>) -> E,
) -> Happened<M> {
    let sending = async {
        while let Some(Outgoing { body, fds }) = queue.messages.recv().await {
            let borrowed: Vec<_> = fds.iter().map(|(tag, fd)| (*tag, fd.as_fd())).collect();
            match channel.send(&body, &borrowed).await {
                Ok(()) => queue.waiting.set(queue.waiting.get().saturating_sub(1)),
                Err(SendError::PeerGone) => break,
                Err(error) => return Some(format!("cannot send to it: {error}")),
            }
        }
        std::future::pending().await
    };
    let receiving = async {
        let mut body = Vec::new();
        loop {
            match channel.recv(&mut body).await {
                // Children hand over no descriptors; any that come are closed here.
                Ok(_) => {}
                Err(mcr_fdpass::RecvError::Closed) => return None,
                Err(error) => return Some(format!("cannot receive from it: {error}")),
            }
            match codec::decode(&body) {
                Ok(message) => {
                    let _ = events.send(wrap(ChildEvent { start, what: Happened::Said(message) })).await;
                }
                Err(error) => return Some(format!("it sent a bad message: {error}")),
            }
        }
    };
    let problem = tokio::select! {
        problem = sending => problem,
        problem = receiving => problem,
        _ = killed.recv() => Some("killed by the supervisor".to_owned()),
    };
    finish(&mut child, problem).await
}

/// Waits for a child whose channel is done with; one that lingers is killed.
async fn finish<M>(child: &mut Child, problem: Option<String>) -> Happened<M> {
    const GRACE: Duration = Duration::from_millis(500);
    let ended = match problem {
        None => tokio::time::timeout(GRACE, child.wait()).await.ok(),
        Some(_) => None,
    };
    let status = match ended {
        Some(status) => status,
        None => {
            let _ = child.start_kill();
            child.wait().await
        }
    };
    match (problem, status) {
        (Some(problem), _) => Happened::Ended { clean: false, how: problem },
        (None, Ok(status)) => Happened::Ended { clean: status.success(), how: status.to_string() },
        (None, Err(error)) => Happened::Ended { clean: false, how: format!("lost track of it: {error}") },
    }
}

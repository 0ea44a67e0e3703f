//! What can go wrong between a client and the daemon.

use std::{io, path::PathBuf, time::Duration};

use mcr_proto::{
    message::{Fault, FaultKind},
    rpc::{ErrorObject, LINE_BYTES_MAX, PROTOCOL},
};

/// Why a call, or connecting, failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody listens at this path.
    #[error("no daemon answers at {}: {source}", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The socket, or the daemon, does not let this user in or do this.
    #[error("{message}")]
    NotPermitted {
        /// Who refused what.
        message: String,
    },
    /// The daemon speaks another protocol.
    #[error(
        "this client speaks control protocol {ours}, the daemon {theirs}; use the client that came with the daemon"
    )]
    Protocol {
        /// The client's number.
        ours: u32,
        /// The daemon's number.
        theirs: u32,
    },
    /// The daemon refused the request, or failed at it.
    #[error(transparent)]
    Fault(Fault),
    /// No answer within the deadline. Whether the request was carried out is not known.
    #[error("no answer to `{method}` within {deadline:?}; the daemon may still carry it out")]
    Timeout {
        /// What was asked.
        method: String,
        /// The deadline.
        deadline: Duration,
    },
    /// The daemon closed the connection, or an earlier call left it unusable; a new connection is needed.
    #[error("the connection to the daemon is closed; connect again")]
    Closed,
    /// The request does not fit into a line.
    #[error("the request has {bytes} bytes, at most {LINE_BYTES_MAX} are taken")]
    TooLong {
        /// Its size.
        bytes: usize,
    },
    /// The daemon's answer, or the request's parameters, are not what the protocol says.
    #[error("`{method}`: {what}")]
    Malformed {
        /// What was asked.
        method: String,
        /// What is wrong.
        what: String,
    },
    /// The kernel refused to send or receive.
    #[error("the control socket failed: {0}")]
    Io(#[source] io::Error),
}

impl ClientError {
    /// The daemon's refusal as the client's error.
    pub(crate) fn from_object(error: ErrorObject) -> Self {
        let ErrorObject { message, data, .. } = error;
        match (data.kind, data.protocol) {
            (FaultKind::NotPermitted, _) => Self::NotPermitted { message },
            (FaultKind::Protocol, Some(theirs)) => Self::Protocol { ours: PROTOCOL, theirs },
            (kind, _) => Self::Fault(Fault { kind, message, field: data.field }),
        }
    }

    /// What connecting failed with.
    pub(crate) fn from_connect(path: PathBuf, source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::PermissionDenied {
            let message = format!(
                "{}: permission denied; ask as root, as the daemon's user or as a member of its group",
                path.display()
            );
            return Self::NotPermitted { message };
        }
        Self::Unreachable { path, source }
    }

    /// Whether the connection is of no more use after this.
    pub(crate) fn ends_connection(&self) -> bool {
        !matches!(self, Self::Fault(_) | Self::NotPermitted { .. } | Self::TooLong { .. })
    }
}

//! Why a verb was not carried out, and the exit code for it.

use std::{fmt, io, process::ExitCode};

use mcr_client::ClientError;
use mcr_proto::message::FaultKind;

#[derive(Debug)]
pub(crate) enum Failure {
    /// Something typed that makes no sense, found here before the daemon was asked.
    Usage(String),
    /// Anything else found here.
    Failed(String),
    /// A file that may not be read.
    NotPermitted(String),
    /// The daemon was asked, or should have been.
    Client(ClientError),
    /// Standard output.
    Output(io::Error),
}

impl Failure {
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Output(_) | Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::NotPermitted(_) => 3,
            Self::Client(error) => match error {
                ClientError::NotPermitted { .. } => 3,
                ClientError::Unreachable { .. } => 5,
                ClientError::Fault(fault) => match fault.kind {
                    FaultKind::Invalid | FaultKind::Exists => 2,
                    FaultKind::NotPermitted => 3,
                    FaultKind::NotFound => 4,
                    _ => 1,
                },
                _ => 1,
            },
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(message) | Self::Failed(message) | Self::NotPermitted(message) => {
                f.write_str(message)
            }
            Self::Client(error @ ClientError::Unreachable { .. }) => {
                write!(f, "{error}: start mcrd, or name its socket with --socket")
            }
            Self::Client(error @ ClientError::Timeout { .. }) => {
                write!(f, "{error}: look with `mcrctl list`, or restart mcrd if it stays silent")
            }
            Self::Client(error) => error.fmt(f),
            Self::Output(error) => write!(f, "standard output: {error}"),
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

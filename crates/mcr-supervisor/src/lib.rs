//! The supervisor: the one process with rights. It starts the others, holds the rules, opens the sockets, and drives each worker
//! from the plan it has to the plan it should have.
//!
//! It never reads what a client or the network sent: clients talk to the control process, which sends typed messages, and
//! packets go to the workers. Nothing in it waits for a child: what a child does not take is queued, bounded, and what it does
//! not answer becomes an error for the client while the loop goes on trying.
//!
//! One thread, one loop ([`run`]): a message of a child, a change in the network, a signal or a timer changes what is desired;
//! then `State::reconcile` brings the workers nearer to it.
#![forbid(unsafe_code)]

mod acquire;
mod backoff;
mod carry;
mod child;
mod classes;
mod clock;
mod events;
mod health;
mod holds;
mod inputs;
mod kernel;
mod ledger;
mod listen;
mod load;
mod logs;
mod loops;
mod moves;
mod network;
mod options;
pub mod reflect;
mod refresh;
mod requests;
mod rights;
mod rules;
mod run;
mod save;
mod slots;
mod sockets;
mod state;
mod traces;
mod why;
mod worker;
pub mod xdp;

pub use child::Role;
pub use listen::ListenError;
pub use logs::{FACILITIES, Log, LogOutput};
pub use options::{Options, SupervisorError, Watchdog};
pub use run::run;

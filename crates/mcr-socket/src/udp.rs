//! UDP sockets, in and out, and what the kernel tells of each datagram.
//!
//! Opens and tunes; sends and receives nothing. Works without any right, and uses those it has.

mod control;
mod input;
mod output;

pub use control::UdpControl;
pub use input::{UdpInput, add_group, add_source, open_input, remove_group, remove_source};
pub use output::{UdpOutput, open_output};
pub(crate) use output::{deaf, report_errors, send_by};

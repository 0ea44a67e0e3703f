//! Whole workers in this process, with real sockets in network namespaces, over both I/O back ends.

mod packet;
mod rig;
mod supervision;
mod udp;

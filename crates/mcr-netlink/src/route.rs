//! Rtnetlink with typed messages.

use std::io;

use netlink_packet_core::{NetlinkDeserializable as _, NetlinkHeader, NetlinkSerializable as _};
use netlink_packet_route::RouteNetlinkMessage;

use crate::asker::{Asker, ONE, Protocol};

/// A socket that asks rtnetlink.
#[derive(Debug)]
pub struct Route(Asker);

impl Route {
    /// Opens a socket in the network namespace of the calling thread, where it stays.
    ///
    /// # Errors
    /// As [`Asker::open`].
    pub fn open() -> io::Result<Self> {
        Asker::open(Protocol::Route).map(Self)
    }

    /// Sends `message` with `flags` beside those of [`ONE`]; gives what came before the end of the answer.
    ///
    /// # Errors
    /// As [`Asker::ask`].
    pub fn send(
        &mut self,
        flags: u16,
        message: &RouteNetlinkMessage,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut body = vec![0; message.buffer_len()];
        message.serialize(&mut body);
        let mut answers = Vec::new();
        self.0.ask(message.message_type(), ONE | flags, &body, |kind, answer| {
            let mut header = NetlinkHeader::default();
            header.message_type = kind;
            answers.push(RouteNetlinkMessage::deserialize(&header, answer));
        })?;
        answers.into_iter().collect::<Result<_, _>>().map_err(io::Error::other)
    }
}

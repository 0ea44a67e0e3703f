//! The main path: classify, ask the guards, rewrite or answer.

use crate::{
    classify::{Found, Service, classify},
    config::{Config, ConfigError, Mode},
    guard::{Guard, Source},
    headers::{self, Mac, UDP_BYTES},
    outcome::{Kind, Outcome, Reason},
    rewrite,
    standard::Standards,
    time::{Now, WallTime},
};

/// Where UDP and TCP have their checksum.
const UDP_CHECKSUM: usize = 6;
const TCP_CHECKSUM: usize = 16;

/// What a back end knows of a frame besides its bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Meta {
    /// When it arrived, if the kernel or the NIC said so.
    pub received: Option<WallTime>,
    /// The sender left its transport checksum for a device to complete.
    pub partial_checksum: bool,
    /// Nobody can say whether that is so (XDP, Linux 6.18): a checksum that is wrong, and is exactly what such a sender leaves, is one.
    pub partial_checksum_unknown: bool,
}

/// Test frames received and replies to them sent, without OAM: what STAMP's Direct Measurement and Y.1731's loss measurement tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Frames that were ours.
    pub received: u64,
    /// Replies made.
    pub sent: u64,
}

/// A reflector: its options, and what its guards and sessions remember.
#[derive(Debug)]
pub struct Reflector {
    config: Config,
    guard: Guard,
    standard_guard: Guard,
    standards: Standards,
    traffic: Traffic,
}

impl Reflector {
    /// Checks the options and begins with empty tables.
    ///
    /// # Errors
    /// [`ConfigError`], where options contradict each other.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(Self {
            guard: Guard::new(&config.effective_limits()),
            standard_guard: Guard::new(&config.standard_limits),
            standards: Standards::new(&config),
            traffic: Traffic::default(),
            config,
        })
    }

    /// The options in force.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Takes other options. Sessions of standards go on where the options of standards stay; buckets are full again.
    ///
    /// # Errors
    /// [`ConfigError`]; the old options stay in force.
    pub fn reconfigure(&mut self, config: Config) -> Result<(), ConfigError> {
        let mut new = Self::new(config)?;
        if new.config.stamp == self.config.stamp && new.config.twamp == self.config.twamp {
            std::mem::swap(&mut new.standards, &mut self.standards);
        }
        new.traffic = self.traffic;
        *self = new;
        Ok(())
    }

    /// Goes on counting from there, as after a restart: peers take the counts to grow.
    pub fn resume(&mut self, traffic: Traffic) {
        self.traffic = traffic;
    }

    /// What was received and sent so far.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// Whether replies carry the time, so that it should be read for each frame and not for each batch.
    #[must_use]
    pub fn tells_time(&self) -> bool {
        let Config { twamp, stamp, oam, .. } = &self.config;
        twamp.is_some() || stamp.is_some() || oam.is_some()
    }

    /// Decides on the frame that is the first `bytes` of `room` and, if it is to be answered, makes it the reply.
    ///
    /// Tags that the kernel took out must be back in it. A reply is as long as the request, but for replies of TWAMP and STAMP
    /// to short requests, which need up to 98 bytes more room.
    ///
    /// Panics if the frame is longer than the room.
    #[inline]
    pub fn reflect(&mut self, room: &mut [u8], bytes: usize, meta: &Meta, now: &Now) -> Outcome {
        let found = match classify(&self.config, &room[..bytes]) {
            Ok(found) => found,
            Err(reason) => return Outcome::Drop(reason),
        };
        let outcome = match found.service {
            Service::Test(kind) => self.test(&mut room[..bytes], &found, kind, meta, now),
            Service::Echo => self.echo(&mut room[..bytes], &found, meta, now),
            Service::Twamp | Service::Stamp => self.session(room, &found, meta, now),
            Service::Oam => self.oam(&mut room[..bytes], &found, meta, now),
        };
        outcome.unwrap_or_else(Outcome::Drop)
    }

    #[inline]
    fn test(
        &mut self,
        frame: &mut [u8],
        found: &Found,
        kind: Kind,
        meta: &Meta,
        now: &Now,
    ) -> Result<Outcome, Reason> {
        self.traffic.received += 1;
        let bytes = frame.len();
        if !self.guard.admits(source(found), bytes, now.monotonic_ns) {
            return Err(Reason::Rate);
        }
        exchange(self.config.mac, self.config.mode, frame, found, meta);
        self.traffic.sent += 1;
        Ok(Outcome::Send { bytes, kind })
    }

    fn echo(&mut self, frame: &mut [u8], found: &Found, meta: &Meta, now: &Now) -> Result<Outcome, Reason> {
        self.traffic.received += 1;
        let bytes = frame.len();
        if !self.standard_guard.admits(source(found), bytes, now.monotonic_ns) {
            return Err(Reason::Rate);
        }
        exchange(self.config.mac, Mode::All, frame, found, meta);
        self.traffic.sent += 1;
        Ok(Outcome::Send { bytes, kind: Kind::Echo })
    }

    fn session(&mut self, room: &mut [u8], found: &Found, meta: &Meta, now: &Now) -> Result<Outcome, Reason> {
        let (Some(ip), Some(udp), Some(addresses)) = (found.ip, found.udp, found.addresses) else {
            return Err(Reason::Protocol);
        };
        self.traffic.received += 1;
        let stamp = found.service == Service::Stamp;
        let payload_bytes = self.standards.accept(stamp, &room[udp.payload()])?;
        let bytes = udp.offset + UDP_BYTES + payload_bytes;
        if bytes > room.len() {
            return Err(Reason::Oversize);
        }
        if !self.standard_guard.admits(source(found), bytes, now.monotonic_ns) {
            return Err(Reason::Rate);
        }
        let request = crate::standard::Request {
            ip,
            udp,
            addresses,
            source: found.source,
            received: meta.received.unwrap_or(now.wall),
            now: *now,
            traffic: self.traffic,
        };
        let traffic_class = self.standards.answer(stamp, &mut room[..bytes], &request, payload_bytes);
        rewrite::swap_macs(room);
        rewrite::swap_addresses(room, &ip);
        rewrite::swap_ports(room, udp.offset);
        rewrite::finish_udp(&mut room[..bytes], &ip, payload_bytes, traffic_class);
        self.traffic.sent += 1;
        let kind = if stamp { Kind::Stamp } else { Kind::Twamp };
        Ok(Outcome::Send { bytes, kind })
    }

    fn oam(&mut self, frame: &mut [u8], found: &Found, meta: &Meta, now: &Now) -> Result<Outcome, Reason> {
        let bytes = frame.len();
        let at = found.link.payload;
        let kind = self.standards.accept_oam(&frame[at..])?;
        if !self.standard_guard.admits(Source::Mac(found.source), bytes, now.monotonic_ns) {
            return Err(Reason::Rate);
        }
        let received = meta.received.unwrap_or(now.wall);
        self.standards.answer_oam(&mut frame[at..], kind, found.source, received, now, self.traffic);
        rewrite::answer_from(frame, self.config.mac);
        if kind == Kind::Lbm && found.to_group {
            // All end points of the level answer; so that they do not all at once, each waits a random while.
            return Ok(Outcome::SendLater { bytes, kind, delay_ns: self.standards.random_delay_ns() });
        }
        Ok(Outcome::Send { bytes, kind })
    }
}

#[inline]
fn source(found: &Found) -> Source {
    found.addresses.map_or(Source::Mac(found.source), |(source, _)| Source::Ip(source))
}

/// Makes the frame its own reply.
#[inline]
fn exchange(mac: Mac, mode: Mode, frame: &mut [u8], found: &Found, meta: &Meta) {
    let Found { ip, ports, addresses, to_group, .. } = found;
    if *to_group {
        rewrite::answer_from(frame, mac);
    } else {
        rewrite::swap_macs(frame);
    }
    let Some(ip) = ip else { return };
    let checksum_at = match ip.protocol {
        headers::UDP => Some(UDP_CHECKSUM),
        headers::TCP => Some(TCP_CHECKSUM),
        _ => None,
    };
    if let Some(at) = checksum_at {
        let unknown = meta.partial_checksum_unknown;
        if meta.partial_checksum || (unknown && rewrite::looks_partial(frame, ip, at)) {
            rewrite::complete_checksum(frame, ip, at);
        }
    }
    // A group cannot be the source of anything.
    let group_address = addresses.is_some_and(|(_, destination)| headers::is_group(destination));
    if mode != Mode::Mac && !group_address {
        rewrite::swap_addresses(frame, ip);
    }
    if let Some(ports) = ports.filter(|_| matches!(mode, Mode::All | Mode::Auto)) {
        rewrite::swap_ports(frame, ports);
    }
}

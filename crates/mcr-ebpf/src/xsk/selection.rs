//! Which frames are wanted.

use aya::Pod;

use super::XskError;

/// Ports of services that the program compares (SERVICES_MAX in bpf/xsk.h).
pub const SERVICES_MAX: usize = 4;

/// Signatures that are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(clippy::struct_excessive_bools)] // They are a set.
pub struct Signatures {
    /// `PROBEOT`, 5 bytes into the payload.
    pub probeot: bool,
    /// `DATA:OT`, 5 bytes into the payload.
    pub dataot: bool,
    /// `LATENCY`, 5 bytes into the payload.
    pub latency: bool,
    /// `RFC2544`, at the start of the payload.
    pub rfc2544: bool,
    /// `Y.1564 `, at the start of the payload.
    pub y1564: bool,
}

/// OAM requests that are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(clippy::struct_excessive_bools)] // They are a set.
pub struct Oam {
    /// Of this level.
    pub level: u8,
    /// Loopback.
    pub lbm: bool,
    /// Delay measurement.
    pub dmm: bool,
    /// Synthetic loss measurement.
    pub slm: bool,
    /// Loss measurement.
    pub lmm: bool,
}

/// Which frames are wanted: what the reflector's parser would accept with the same options.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // They are options that do not exclude each other.
pub struct Selection {
    /// The interface's own address.
    pub mac: [u8; 6],
    /// The interface's MTU.
    pub mtu: u32,
    /// Only frames to our own address.
    pub to_us: bool,
    /// Frames to groups, too.
    pub groups: bool,
    /// Only test frames from this OUI.
    pub oui: Option<[u8; 3]>,
    /// UDP destination port of test frames; 0 for any.
    pub port: u16,
    /// Signatures of test frames.
    pub signatures: Signatures,
    /// Frames without a signature, too (mode auto); true if something besides the port says whose they are, so that they need not be UDP
    /// or TCP.
    pub auto: Option<bool>,
    /// UDP destination ports of services, whoever asks; at most [`SERVICES_MAX`].
    pub services: Vec<u16>,
    /// OAM requests (Y.1731), also to the group of their level.
    pub oam: Option<Oam>,
    /// 0x9100 counts as a VLAN tag's protocol id, too.
    pub tpid_9100: bool,
    /// First fragments count as whole datagrams.
    pub first_fragments: bool,
    /// IPv6 hop-by-hop and destination options are skipped.
    pub extension_headers: bool,
    /// 16 bytes before each redirected frame say when it came: CLOCK_MONOTONIC in nanoseconds (8 bytes), `0x4d435258` (4), zero (4), in the
    /// machine's byte order. Missing where the driver has no room for metadata.
    pub times: bool,
}

/// `struct selection` of bpf/xsk.h.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct RawSelection {
    flags: u32,
    signatures: u32,
    mtu: u32,
    mac_first: u32,
    mac_last: u16,
    oui_first: u16,
    oui_last: u16,
    oam_level: u16,
    port: u16,
    services: [u16; SERVICES_MAX],
    oam_requests: u16,
}

// SAFETY: integers without padding between them (the fields sum up to its size, see below), so every byte of it is initialised and
// every pattern is a value.
unsafe impl Pod for RawSelection {}
const _: () = assert!(size_of::<RawSelection>() == 4 * 4 + 10 * 2);

impl Selection {
    pub(super) fn raw(&self) -> Result<RawSelection, XskError> {
        if self.services.len() > SERVICES_MAX {
            return Err(XskError::Services { ports: self.services.len() });
        }
        let mut services = [0; SERVICES_MAX];
        services[..self.services.len()].copy_from_slice(&self.services);
        let [a, b, c, d, e, f] = self.mac;
        let oui = self.oui.unwrap_or_default();
        let oam = self.oam.unwrap_or_default();
        Ok(RawSelection {
            flags: self.flags(),
            signatures: self.signatures.bits(),
            mtu: self.mtu,
            mac_first: u32::from_ne_bytes([a, b, c, d]),
            mac_last: u16::from_ne_bytes([e, f]),
            oui_first: u16::from_ne_bytes([oui[0], oui[1]]),
            oui_last: oui[2].into(),
            oam_level: oam.level.into(),
            port: self.port,
            services,
            // Four bits.
            oam_requests: bits(&[oam.lbm, oam.dmm, oam.slm, oam.lmm]) as u16,
        })
    }

    fn flags(&self) -> u32 {
        // In the order of bpf/xsk.h.
        bits(&[
            self.to_us,
            self.oui.is_some(),
            self.groups,
            self.tpid_9100,
            self.first_fragments,
            self.extension_headers,
            self.oam.is_some(),
            self.oam.is_some() || !self.services.is_empty(),
            self.auto.is_some(),
            self.auto == Some(true),
            self.times,
        ])
    }
}

impl Signatures {
    /// All five.
    pub const ALL: Self = Self { probeot: true, dataot: true, latency: true, rfc2544: true, y1564: true };

    fn bits(self) -> u32 {
        bits(&[self.probeot, self.dataot, self.latency, self.rfc2544, self.y1564])
    }
}

fn bits(flags: &[bool]) -> u32 {
    flags.iter().zip(0..).map(|(&flag, bit)| u32::from(flag) << bit).sum()
}

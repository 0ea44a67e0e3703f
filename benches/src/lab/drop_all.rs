//! A sink that costs little: an nf_tables chain at the netdev ingress hook whose policy is to drop. The device has
//! counted the frame by then, and nothing behind has seen it.

use anyhow::Context as _;
use mcr_lab::Namespace;
use nix::sys::socket::SockProtocol;

use super::netlink::{ACK, Attributes, CREATE, Message, Netlink, REQUEST};

// linux/netfilter/nfnetlink.h and nf_tables.h
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NF_TABLES: u8 = 10;
const NEW_TABLE: u16 = (NF_TABLES as u16) << 8;
const DELETE_TABLE: u16 = NEW_TABLE | 2;
const NEW_CHAIN: u16 = NEW_TABLE | 3;
const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const HOOK_DEV: u16 = 3;
/// NF_NETDEV_INGRESS.
const INGRESS: u32 = 0;
/// NF_DROP.
const DROP: u32 = 0;
/// NFPROTO_NETDEV.
const NETDEV: u8 = 5;

const NAME: &str = "mcr-bench";

/// Drops all frames that an interface receives, until it is dropped itself.
#[derive(Debug)]
#[must_use = "frames are dropped as long as this lives"]
pub(crate) struct DropAll(Netlink);

impl DropAll {
    pub(crate) fn new(namespace: &Namespace, ifname: &str) -> anyhow::Result<Self> {
        let netlink = Netlink::open(namespace, SockProtocol::NetlinkNetFilter)?;
        let table = Attributes::default().text(TABLE_NAME, NAME);
        let hook = Attributes::default()
            .bytes(HOOK_NUMBER, &INGRESS.to_be_bytes())
            .bytes(HOOK_PRIORITY, &0_i32.to_be_bytes())
            .text(HOOK_DEV, ifname);
        let chain = Attributes::default()
            .text(CHAIN_TABLE, NAME)
            .text(CHAIN_NAME, "ingress")
            .nested(CHAIN_HOOK, hook)
            .text(CHAIN_TYPE, "filter")
            .bytes(CHAIN_POLICY, &DROP.to_be_bytes());
        let flags = REQUEST | ACK | CREATE;
        let messages = vec![message(NEW_TABLE, flags).with(table), message(NEW_CHAIN, flags).with(chain)];
        netlink.request(batch(messages), 2).with_context(|| format!("cannot have {ifname} drop all"))?;
        Ok(Self(netlink))
    }
}

impl Drop for DropAll {
    fn drop(&mut self) {
        let table = Attributes::default().text(TABLE_NAME, NAME);
        let delete = message(DELETE_TABLE, REQUEST | ACK).with(table);
        if let Err(error) = self.0.request(batch(vec![delete]), 1) {
            eprintln!("a sink goes on dropping: {error:#}");
        }
    }
}

fn message(kind: u16, flags: u16) -> Message {
    Message::new(kind, flags, &[NETDEV, 0, 0, 0])
}

/// nf_tables takes changes only as transactions.
fn batch(changes: Vec<Message>) -> Vec<Message> {
    let edge = |kind| Message::new(kind, REQUEST, &[0, 0, 0, NF_TABLES]);
    let mut messages = vec![edge(BATCH_BEGIN)];
    messages.extend(changes);
    messages.push(edge(BATCH_END));
    messages
}

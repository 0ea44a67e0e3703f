//! A program at interfaces' ingress where the kernel has no tcx links (before Linux 6.6): by a filter of the queueing discipline
//! `clsact`.
//!
//! Such a filter outlives the process. What stands there is therefore only an entry (`bpf/entry.c`) that jumps to the program through
//! an array, and the kernel empties the array when the process ends, however it ends. The next process puts its own entry in the
//! place of one that was left. Which places are taken is told by sockets with abstract names, for these belong to the network namespace,
//! as interfaces do, and go with their process.

use std::{
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _},
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr as UnixAddress, UnixDatagram},
    },
};

use aya::{
    Ebpf,
    maps::{MapData, ProgramArray},
    programs::{ProgramFd, SchedClassifier},
};
use mcr_netlink::Route;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcHeader, TcMessage, TcOption},
};

use crate::{
    error::{AttachError, LoadError},
    loader,
    object::{self, attach_error, refused},
};

static ENTRY: &[u8] = aya::include_bytes_aligned!("../bpf/entry.bpf.o");

/// Behind the filters of others, whose priorities the kernel chooses from 49,152 downwards.
const PRIORITY: u32 = 0xfff0;
/// Daemons in one network namespace that may stand at one interface.
const PLACES_MAX: u32 = 64;
const ETH_P_ALL: u16 = 3;

/// The entry, and where it leads.
pub(crate) struct Entry {
    ebpf: Ebpf,
    programs: ProgramArray<MapData>,
}

impl Entry {
    /// Loads an entry that leads to `program`; nothing is attached yet.
    pub(crate) fn load(program: &ProgramFd) -> Result<Self, LoadError> {
        let mut ebpf = loader::load(ENTRY, &[]).map_err(|error| LoadError::of(&error))?;
        object::program(&mut ebpf, "mcr_entry")?.load().map_err(|error| LoadError::from_chain(&error))?;
        let programs = object::map(&mut ebpf, "programs")?;
        let mut entry = Self { ebpf, programs };
        entry.lead_to(program)?;
        Ok(entry)
    }

    /// Has every frame that comes from now on seen by `program`, on all interfaces at once.
    pub(crate) fn lead_to(&mut self, program: &ProgramFd) -> Result<(), LoadError> {
        self.programs.set(0, program, 0).map_err(|error| LoadError::from_chain(&error))
    }

    /// Puts the entry at an interface of the calling thread's network namespace.
    pub(crate) fn attach(&mut self, ifindex: u32) -> Result<Filter, AttachError> {
        let program: &SchedClassifier =
            object::program(&mut self.ebpf, "mcr_entry").map_err(|error| refused(&error))?;
        let program = program.fd().map_err(|error| refused(&error))?.as_fd().as_raw_fd();
        let refused = |error: io::Error| attach_error(&error, ifindex);
        let mut requests = Route::open().map_err(refused)?;
        let has_made_clsact = make_clsact(&mut requests, ifindex).map_err(refused)?;
        // From here on the filter's end is the discipline's, too.
        let (place, name) = take_place(ifindex).map_err(refused)?;
        let mut filter = Filter { requests, ifindex, place, has_made_clsact, _name: name };
        filter.put(program).map_err(refused)?;
        Ok(filter)
    }
}

/// The entry at one interface, as long as this lives.
pub(crate) struct Filter {
    /// Of the interface's network namespace, whoever drops this.
    requests: Route,
    ifindex: u32,
    /// The filter's handle.
    place: u32,
    has_made_clsact: bool,
    _name: UnixDatagram,
}

impl Filter {
    /// Also in the place of one whose process has ended.
    fn put(&mut self, program: i32) -> io::Result<()> {
        let options = [
            TcFilterBpfOption::ProgFd(program as u32),
            TcFilterBpfOption::ProgName("mcr_entry".to_owned()),
            TcFilterBpfOption::Flags(TcBpfFlags::DirectAction),
        ];
        let mut message = self.message();
        message.attributes.push(TcAttribute::Options(options.map(TcOption::Bpf).into()));
        let message = RouteNetlinkMessage::NewTrafficFilter(message);
        self.requests.send(NLM_F_CREATE | NLM_F_REPLACE, &message).map(drop)
    }

    fn message(&self) -> TcMessage {
        let mut message = message(self.ifindex, ingress(), TcFilterBpf::KIND);
        message.header.handle = TcHandle::from(self.place);
        message.header.info = PRIORITY << 16 | u32::from(ETH_P_ALL.to_be());
        message
    }

    /// How many filters there are at the discipline.
    fn filters(&mut self) -> io::Result<usize> {
        let Self { requests, ifindex, .. } = self;
        Ok(filters(requests, *ifindex, ingress())? + filters(requests, *ifindex, egress())?)
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        // Errors: the interface is gone, and all this with it; or another has taken away what is not there any more.
        let _ = self.requests.send(0, &RouteNetlinkMessage::DelTrafficFilter(self.message()));
        if self.has_made_clsact && matches!(self.filters(), Ok(0)) {
            let _ = self.requests.send(0, &RouteNetlinkMessage::DelQueueDiscipline(clsact(self.ifindex)));
        }
    }
}

/// How many filters stand at the ingress of an interface of the calling thread's network namespace, whoever put them there.
pub(crate) fn filters_at(ifindex: u32) -> io::Result<usize> {
    filters(&mut Route::open()?, ifindex, ingress())
}

fn filters(requests: &mut Route, ifindex: u32, parent: TcHandle) -> io::Result<usize> {
    let header = TcHeader { index: ifindex as i32, parent, ..TcHeader::default() };
    let dump = RouteNetlinkMessage::GetTrafficFilter(TcMessage::from_parts(header, Vec::new()));
    Ok(requests.send(NLM_F_DUMP, &dump)?.iter().filter(|answer| is_filter(answer)).count())
}

/// Each priority is in the answer on its own, before its filters, which have handles.
fn is_filter(answer: &RouteNetlinkMessage) -> bool {
    match answer {
        RouteNetlinkMessage::NewTrafficFilter(filter) => u32::from(filter.header.handle) != 0,
        _ => false,
    }
}

/// Sees to it that the interface has the discipline; whether it had none.
fn make_clsact(requests: &mut Route, ifindex: u32) -> io::Result<bool> {
    let made =
        requests.send(NLM_F_CREATE | NLM_F_EXCL, &RouteNetlinkMessage::NewQueueDiscipline(clsact(ifindex)));
    match made {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// The first place at an interface that no living process has, and what holds it.
fn take_place(ifindex: u32) -> io::Result<(u32, UnixDatagram)> {
    for place in 1..=PLACES_MAX {
        let name = UnixAddress::from_abstract_name(format!("mcr-clsact-{ifindex}-{place}"))?;
        match UnixDatagram::bind_addr(&name) {
            Ok(held) => return Ok((place, held)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::from_raw_os_error(libc::ENOSPC))
}

fn ingress() -> TcHandle {
    TcHandle { minor: TcHandle::MIN_INGRESS, ..TcHandle::CLSACT }
}

fn egress() -> TcHandle {
    TcHandle { minor: TcHandle::MIN_EGRESS, ..TcHandle::CLSACT }
}

fn clsact(ifindex: u32) -> TcMessage {
    let mut message = message(ifindex, TcHandle::CLSACT, "clsact");
    message.header.handle = TcHandle { minor: 0, ..TcHandle::CLSACT };
    message
}

fn message(ifindex: u32, parent: TcHandle, kind: &str) -> TcMessage {
    let header = TcHeader { index: ifindex as i32, parent, ..TcHeader::default() };
    TcMessage::from_parts(header, vec![TcAttribute::Kind(kind.to_owned())])
}

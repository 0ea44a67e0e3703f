//! Driving the twin: sending the queues, polling, receiving in batches.

use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use super::{BATCH_MAX, SyscallIo, epoll_remove};
use crate::config::ReceiveShape;
use crate::frames::{HEADER_BYTES, Layout, payload_start};
use crate::packet_ring;
use crate::rings::LOOK_AGAIN;
use crate::table::Kind;
use crate::token::{Operation, Token};
use crate::{Event, SocketKey, WaitError};

impl SyscallIo {
    pub(crate) fn wait(
        &mut self,
        timeout: Option<Duration>,
        events: &mut Vec<Event>,
    ) -> Result<(), WaitError> {
        let retry = self.resume_paused();
        let timeout = [timeout, retry].into_iter().flatten().min();
        self.flush()?;
        let full = events.len() + self.events_max;
        self.report_ended(full, events);
        // The watches first would be fairer to them still, but sends are bounded and commands come with the next wait.
        let at_once = events.len() + self.events_max > full
            || !self.stopped.is_empty()
            || self.rings.are_ready(&self.frames);
        let timeout = if at_once { Some(Duration::ZERO) } else { timeout };
        if events.len() >= full {
            return Ok(());
        }
        if self.frames.available() == 0 && self.staged.is_empty() {
            self.counts.starved += 1;
            let rings = (!self.rings.open().is_empty()).then_some(LOOK_AGAIN);
            let timeout = [timeout, rings].into_iter().flatten().min();
            self.poll_watches(timeout, full, events)?;
        } else {
            let ready = self.poll_all(timeout, full - events.len())?;
            let Self { batch, table, .. } = self;
            // By the sockets they are about: who comes first gets the buffers that are free.
            batch.ready[..ready].sort_by_key(|event| {
                let token = Token::from_bits(event.u64);
                let key = token.map(|(_, generation, slot)| SocketKey { slot, generation });
                key.and_then(|key| table.find(key)).map_or(0, |socket| socket.priority)
            });
            for at in 0..ready {
                let event = self.batch.ready[at];
                self.serve(event, full, events);
            }
        }
        let room = full.saturating_sub(events.len());
        self.rings.take(&mut self.frames, &self.table, room, events);
        let room = full.saturating_sub(events.len()).min(self.stopped.len());
        events.extend(self.stopped.drain(..room).map(|socket| Event::Stopped { socket }));
        Ok(())
    }

    pub(crate) fn flush(&mut self) -> Result<(), WaitError> {
        let mut queued = std::mem::take(&mut self.queued);
        for key in queued.drain(..) {
            self.send_queue(key);
        }
        self.queued = queued;
        Ok(())
    }

    /// Sends all that is queued on one socket.
    pub(super) fn send_queue(&mut self, key: SocketKey) {
        let Some(socket) = self.table.find_mut(key) else { return };
        let queue = &mut socket.state.slots;
        while !queue.is_empty() {
            let batch = queue.len().min(BATCH_MAX);
            for (message, &slot) in self.batch.messages.iter_mut().zip(queue.iter()) {
                // SAFETY: `header` points to a live, initialised msghdr of the slab (slots.rs).
                message.msg_hdr = unsafe { *self.slots.header(slot) };
            }
            let messages = &mut self.batch.messages[..batch];
            self.counts.calls += 1;
            // sendmmsg stops at a message that fails, and says why only if that is the first.
            let sent = match send_messages(socket.fd.as_raw_fd(), messages) {
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => continue,
                sent => sent,
            };
            let errno = sent.as_ref().err().map(|error| error.raw_os_error().unwrap_or(libc::EIO));
            for at in 0..sent.unwrap_or(1) {
                let Some(slot) = queue.pop_front() else { break };
                let result = errno.map_or(self.batch.messages[at].msg_len as i32, |errno| -errno);
                self.slots.release(slot, &mut self.frames, |frames, buffer| frames.give(buffer));
                self.ended.push_back((slot, result));
            }
        }
    }

    fn report_ended(&mut self, full: usize, events: &mut Vec<Event>) {
        while events.len() < full {
            let Some((slot, result)) = self.ended.pop_front() else { break };
            let token = self.slots.free(slot);
            events.push(Event::Sent { token, result: usize::try_from(result).map_err(|_| -result) });
        }
    }

    /// Lets epoll report sockets again whose pause is over; says how soon the next one is.
    fn resume_paused(&mut self) -> Option<Duration> {
        let mut soonest = None;
        let mut paused = std::mem::take(&mut self.paused);
        paused.retain(|&(key, until)| {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                // A failure (no memory) leaves it here for the next wait.
                return self.resume(key, Operation::Receive).is_err();
            }
            soonest = Some(soonest.map_or(left, |soonest: Duration| soonest.min(left)));
            true
        });
        self.paused = paused;
        soonest
    }

    fn poll_all(&mut self, timeout: Option<Duration>, room: usize) -> Result<usize, WaitError> {
        self.counts.calls += 1;
        let epoll = self.epoll.as_raw_fd();
        let milliseconds = match timeout {
            None => -1,
            Some(timeout) if timeout.subsec_nanos().is_multiple_of(1_000_000) => {
                i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX)
            }
            // epoll_wait knows milliseconds only; ppoll waits on the epoll instance to the nanosecond.
            Some(timeout) => {
                let mut polled = [libc::pollfd { fd: epoll, events: libc::POLLIN, revents: 0 }];
                ready_count(ppoll(&mut polled, Some(timeout))).map_err(WaitError::Enter)?;
                0
            }
        };
        let ready = &mut self.batch.ready[..room.min(BATCH_MAX)];
        // SAFETY: the kernel writes at most `ready.len()` events to where `ready` points.
        let result = unsafe { libc::epoll_wait(epoll, ready.as_mut_ptr(), ready.len() as i32, milliseconds) };
        ready_count(result).map_err(WaitError::Enter)
    }

    /// While no buffer is free.
    fn poll_watches(
        &mut self,
        timeout: Option<Duration>,
        full: usize,
        events: &mut Vec<Event>,
    ) -> Result<(), WaitError> {
        self.counts.calls += 1;
        ready_count(ppoll(&mut self.polled, timeout)).map_err(WaitError::Enter)?;
        let readable = self.watches.iter().zip(&self.polled).filter(|(_, polled)| polled.revents != 0);
        let room = full - events.len();
        events.extend(readable.take(room).map(|(&socket, _)| Event::Readable { socket }));
        Ok(())
    }

    fn serve(&mut self, event: libc::epoll_event, full: usize, events: &mut Vec<Event>) {
        let Some((operation, generation, slot)) = Token::from_bits(event.u64) else {
            panic!("epoll reported no token of ours");
        };
        let key = SocketKey { slot, generation };
        if events.len() >= full {
            return;
        }
        match operation {
            Operation::Watch => events.push(Event::Readable { socket: key }),
            Operation::Receive => self.receive(key, event.events, full - events.len(), events),
            Operation::Send | Operation::Cancel => panic!("epoll reported an operation that is never polled"),
        }
    }

    fn receive(&mut self, key: SocketKey, flags: u32, room: usize, events: &mut Vec<Event>) {
        let Some(socket) = self.table.find(key) else { return };
        let Kind::Receiver(shape) = socket.kind else {
            // A ring: its frames are taken afterwards.
            let errno = (flags & libc::EPOLLERR as u32 != 0).then(|| packet_ring::error(socket.borrow_fd()));
            events.extend(errno.flatten().map(|errno| Event::ReceiveFailed { socket: key, errno }));
            return;
        };
        let fd = socket.fd.as_raw_fd();
        let batch = self.stage(shape, room.min(BATCH_MAX));
        if batch == 0 {
            self.counts.starved += 1;
            return;
        }
        self.counts.calls += 1;
        let got = match receive_messages(fd, &mut self.batch.messages[..batch]) {
            Ok(got) => got,
            Err(errno) => return self.failed(key, errno, flags, events),
        };
        if let Some(socket) = self.table.find_mut(key) {
            socket.backoff.succeed();
        }
        for (buffer, message) in self.staged.drain(..got).zip(&self.batch.messages) {
            let frame = self.frames.received_with(buffer, layout(shape, message));
            events.push(Event::Received { socket: key, frame });
        }
    }

    /// Points messages to the staged buffers, taking more as needed; how many there are.
    fn stage(&mut self, shape: ReceiveShape, wanted: usize) -> usize {
        while self.staged.len() < wanted && self.frames.available() > 0 {
            let Some(buffer) = self.frames.take() else { break };
            self.staged.push(buffer);
        }
        let payload = payload_start(shape);
        let payload_room = self.frames.buffer_bytes() - payload;
        let batch = &mut *self.batch;
        let staged = self.staged.iter().take(wanted);
        for ((buffer, part), message) in staged.zip(&mut batch.parts).zip(&mut batch.messages) {
            let base = self.frames.address(self.frames.index(buffer)).as_ptr();
            // Offsets within the buffer, by `payload_start` and the size of a pool's buffers (frames.rs).
            *part = libc::iovec { iov_base: base.wrapping_add(payload).cast(), iov_len: payload_room };
            let header = &mut message.msg_hdr;
            header.msg_name = base.wrapping_add(HEADER_BYTES).cast();
            header.msg_namelen = shape.name_bytes.into();
            header.msg_control = base.wrapping_add(HEADER_BYTES + usize::from(shape.name_bytes)).cast();
            header.msg_controllen = usize::from(shape.control_bytes) as _;
            header.msg_iov = part;
            header.msg_iovlen = 1;
            header.msg_flags = 0;
            message.msg_len = 0;
        }
        self.staged.len().min(wanted)
    }

    fn failed(&mut self, key: SocketKey, errno: i32, flags: u32, events: &mut Vec<Event>) {
        // Nothing there after all: a checksum was wrong, or another process read it. But an error that epoll reports and no
        // receive fetches would be reported for ever.
        let passing = matches!(errno, libc::EAGAIN | libc::EINTR);
        if passing && flags & libc::EPOLLERR as u32 == 0 {
            return;
        }
        events.push(Event::ReceiveFailed { socket: key, errno });
        let Some(socket) = self.table.find_mut(key) else { return };
        if let Some(pause) = socket.backoff.fail() {
            epoll_remove(&self.epoll, socket.fd.as_raw_fd());
            self.paused.push((key, Instant::now() + pause));
        }
    }
}

/// What the kernel left in a message that `stage` pointed to a buffer.
fn layout(shape: ReceiveShape, message: &libc::mmsghdr) -> Layout {
    let header = &message.msg_hdr;
    Layout {
        shape,
        name_len: header.msg_namelen.min(shape.name_bytes.into()) as u16,
        control_len: header.msg_controllen.min(shape.control_bytes.into()) as u16,
        payload_len: message.msg_len,
        truncated: header.msg_flags & libc::MSG_TRUNC != 0,
        control_truncated: header.msg_flags & libc::MSG_CTRUNC != 0,
    }
}

fn send_messages(fd: i32, messages: &mut [libc::mmsghdr]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: every header was copied from a filled send slot, whose memory stays in place until it is freed; `messages`
    // is as long as we say.
    let sent = unsafe { libc::sendmmsg(fd, messages.as_mut_ptr(), messages.len() as u32, flags as _) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

fn receive_messages(fd: i32, messages: &mut [libc::mmsghdr]) -> Result<usize, i32> {
    let no_timeout = std::ptr::null_mut();
    // SAFETY: every header was just pointed to a buffer of which we have the handle (`stage`), with the sizes of its
    // parts; `messages` is as long as we say.
    let got = unsafe {
        libc::recvmmsg(fd, messages.as_mut_ptr(), messages.len() as u32, libc::MSG_DONTWAIT as _, no_timeout)
    };
    usize::try_from(got).map_err(|_| io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}

fn ppoll(polled: &mut [libc::pollfd], timeout: Option<Duration>) -> i32 {
    let timeout = timeout.map(|timeout| libc::timespec {
        tv_sec: timeout.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    });
    let pointer = timeout.as_ref().map_or(std::ptr::null(), |timeout| &raw const *timeout);
    // SAFETY: `polled` is as long as we say, the timeout lives until the call's end, no signal mask is given.
    unsafe { libc::ppoll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, pointer, std::ptr::null()) }
}

/// The count that a polling call returned; an interruption is none.
fn ready_count(result: i32) -> io::Result<usize> {
    usize::try_from(result).or_else(|_| match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::EINTR) => Ok(0),
        error => Err(error),
    })
}

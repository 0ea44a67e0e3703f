//! Driving the ring: what is submitted before a wait, the wait, and what each completion means.

use std::io;
use std::time::{Duration, Instant};

use io_uring::types::{CancelBuilder, Fixed, SubmitArgs, Timespec};
use io_uring::{cqueue, opcode};

use super::{Memory, RingIo, State, Todo};
use crate::packet_ring;
use crate::probe::BUFFER_GROUP;
use crate::rings::{LOOK_AGAIN, Open};
use crate::table::Kind;
use crate::token::{Operation, Token};
use crate::{Event, SocketKey, WaitError};

/// IORING_ENTER_GETEVENTS of include/uapi/linux/io_uring.h: run deferred work and make completions.
const ENTER_GETEVENTS: u32 = 1;

impl RingIo {
    #[inline]
    pub(crate) fn wait(
        &mut self,
        timeout: Option<Duration>,
        events: &mut Vec<Event>,
    ) -> Result<(), WaitError> {
        let retry = self.work_off_todo();
        let mut timeout = [timeout, retry].into_iter().flatten().min();
        let there = self.ring.completion().len();
        let ready = self.rings.are_ready(&self.memory.frames) || !self.stopped.is_empty();
        // Sends end at once, and then nothing is waited for. To be woken by rings as well would cost a poll for each batch.
        if !ready && there == 0 && !self.sends_queued {
            timeout = [timeout, self.arm_rings()].into_iter().flatten().min();
        }
        let enough = there >= self.events_max && self.ring.submission().is_empty();
        if !enough {
            // What is there already must not be kept waiting for more.
            let timeout = if there > 0 || ready { Some(Duration::ZERO) } else { timeout };
            self.enter(timeout).map_err(WaitError::Enter)?;
        }
        let before = events.len();
        for _ in 0..self.events_max {
            let Some(completion) = self.ring.completion().next() else { break };
            self.complete(&completion, events);
        }
        let room = self.events_max - (events.len() - before);
        self.rings.take(&mut self.memory.frames, &self.table, room, events);
        if !self.stopped.is_empty() {
            let room = self.events_max - (events.len() - before);
            events.extend(
                self.stopped.drain(..room.min(self.stopped.len())).map(|socket| Event::Stopped { socket }),
            );
        }
        Ok(())
    }

    /// Has the kernel say when frames come; how soon to look where it cannot.
    fn arm_rings(&mut self) -> Option<Duration> {
        if self.rings.frames_max == 0 {
            return None;
        }
        let mut look_again = None;
        for at in 0..self.rings.open().len() {
            let Open { key, ring, .. } = self.rings.open()[at];
            let unarmed = self.table.find(key).is_some_and(|socket| !socket.state.armed);
            if unarmed && !(self.memory.frames.ring(ring).is_last_given_back() && self.arm(key)) {
                look_again = Some(LOOK_AGAIN);
            }
        }
        look_again
    }

    #[inline]
    pub(crate) fn flush(&mut self) -> Result<(), WaitError> {
        if self.ring.submission().is_empty() {
            return Ok(());
        }
        self.counts.calls += 1;
        ignore_passing(self.ring.submit()).map_err(WaitError::Enter)
    }

    /// Submits and waits for one completion, in one system call.
    pub(super) fn enter(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.counts.calls += 1;
        self.sends_queued = false;
        let entered = match timeout {
            None => self.ring.submit_and_wait(1),
            Some(Duration::ZERO) => {
                let queued = self.ring.submission().len() as u32;
                // SAFETY: no argument is passed, so there is nothing for the kernel to read but the submission queue,
                // whose entries `push` vouches for.
                unsafe { self.ring.submitter().enter::<libc::sigset_t>(queued, 0, ENTER_GETEVENTS, None) }
            }
            Some(timeout) => {
                let timeout = Timespec::from(timeout);
                self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&timeout))
            }
        };
        ignore_passing(entered)
    }

    /// Submits what is due; says how soon something else is.
    fn work_off_todo(&mut self) -> Option<Duration> {
        if self.todo.is_empty() {
            return None;
        }
        let mut todo = std::mem::take(&mut self.todo);
        let mut soonest = None;
        // Who comes first gets the buffers that are free.
        todo.sort_by_key(|item| match item {
            Todo::Cancel(_) => 0,
            Todo::Arm(key, _) => self.table.find(*key).map_or(0, |socket| socket.priority),
        });
        todo.retain(|item| match *item {
            Todo::Cancel(key) => !self.cancel(key),
            Todo::Arm(key, None) => !self.arm(key),
            Todo::Arm(key, Some(when)) => {
                let left = when.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return !self.arm(key);
                }
                soonest = Some(soonest.map_or(left, |soonest: Duration| soonest.min(left)));
                true
            }
        });
        self.todo = todo;
        soonest
    }

    /// Arms a receiver or watch; true if nothing is left to do. A receiver waits for a free buffer: armed without one
    /// it would fail at once, and again, and again.
    fn arm(&mut self, key: SocketKey) -> bool {
        let is_done = |state: &State| state.closing || state.stopped;
        let Some(socket) = self.table.find(key).filter(|socket| !is_done(&socket.state)) else { return true };
        let (entry, operation) = match socket.kind {
            Kind::Sender => return true,
            Kind::Watch | Kind::Ring(_) => {
                // Once, not multishot: re-armed after the caller had a chance to read, it reports what was left unread.
                let flags = (libc::POLLIN | libc::POLLRDHUP) as u32;
                (opcode::PollAdd::new(Fixed(key.slot), flags).build(), Operation::Watch)
            }
            Kind::Receiver(_) => {
                if self.memory.lent.count() == 0 {
                    return false;
                }
                let header = &raw const self.memory.headers[key.slot as usize];
                (opcode::RecvMsgMulti::new(Fixed(key.slot), header, BUFFER_GROUP).build(), Operation::Receive)
            }
        };
        if !self.push(entry, Token::new(operation, key.generation, key.slot)) {
            return false;
        }
        self.counts.armed += u64::from(operation == Operation::Receive);
        if let Some(socket) = self.table.find_mut(key) {
            socket.state.armed = true;
        }
        true
    }

    /// Cancels the receive or poll of a closing or stopped socket; true if nothing is left to do.
    fn cancel(&mut self, key: SocketKey) -> bool {
        let Some(socket) = self.table.find(key).filter(|socket| socket.state.armed) else { return true };
        let operation = match socket.kind {
            Kind::Receiver(_) => Operation::Receive,
            _ => Operation::Watch,
        };
        let target = Token::new(operation, key.generation, key.slot);
        let cancel = opcode::AsyncCancel2::new(CancelBuilder::user_data(target.bits())).build();
        self.push(cancel, Token::new(Operation::Cancel, key.generation, key.slot))
    }

    #[inline]
    fn complete(&mut self, completion: &cqueue::Entry, events: &mut Vec<Event>) {
        let (result, flags) = (completion.result(), completion.flags());
        let Some((operation, generation, slot)) = Token::from_bits(completion.user_data()) else {
            panic!("a completion bears no token of ours");
        };
        let key = SocketKey { slot, generation };
        self.in_flight -= usize::from(!cqueue::more(flags));
        match operation {
            Operation::Receive => self.received(key, result, flags, events),
            Operation::Send => self.sent(slot, generation, result, events),
            Operation::Watch => self.watched(key, result, events),
            // EALREADY: it was about to run. It may have been armed for ever by now, so once more.
            Operation::Cancel if result == -libc::EALREADY => self.todo.push(Todo::Cancel(key)),
            Operation::Cancel => {}
        }
    }

    #[inline]
    fn received(&mut self, key: SocketKey, result: i32, flags: u32, events: &mut Vec<Event>) {
        let Memory { lent, frames, .. } = &mut *self.memory;
        let buffer = cqueue::buffer_select(flags).map(|index| lent.collect(index));
        let Some(socket) = self.table.find_mut(key) else {
            panic!("a socket was removed before its receive ended")
        };
        let Kind::Receiver(shape) = socket.kind else { panic!("a receive on a socket that is no receiver") };
        let mut pause = None;
        match buffer {
            Some(buffer) if result >= 0 && !socket.state.closing => {
                socket.backoff.succeed();
                let frame = frames.received(buffer, shape, result as usize);
                events.push(Event::Received { socket: key, frame });
            }
            Some(buffer) => lent.lend(frames, buffer),
            None if result == -libc::ENOBUFS => self.counts.starved += 1,
            None if result < 0 && !socket.state.closing && !socket.state.stopped => {
                pause = socket.backoff.fail();
                events.push(Event::ReceiveFailed { socket: key, errno: -result });
            }
            None => {}
        }
        if !cqueue::more(flags) {
            self.disarmed(key, pause);
        }
    }

    #[inline]
    fn sent(&mut self, slot: u32, generation: u32, result: i32, events: &mut Vec<Event>) {
        assert!(self.memory.slots.generation(slot) == generation, "a send ended twice");
        let key = self.memory.slots.socket(slot);
        let token = self.memory.end_send(slot);
        events.push(Event::Sent { token, result: usize::try_from(result).map_err(|_| -result) });
        if let Some(socket) = self.table.find_mut(key) {
            socket.state.sends -= 1;
            if socket.state.closing {
                self.settle(key);
            }
        }
    }

    /// A failed poll is reported as well: whoever reads then learns why.
    fn watched(&mut self, key: SocketKey, result: i32, events: &mut Vec<Event>) {
        if let Some(Kind::Ring(_)) = self.table.find(key).map(|socket| socket.kind) {
            return self.ring_polled(key, result, events);
        }
        if self.table.find(key).is_some_and(|socket| !socket.state.closing) {
            events.push(Event::Readable { socket: key });
        }
        self.disarmed(key, None);
    }

    /// A ring has frames, which are taken when all completions are dealt with, or its socket has an error to tell.
    fn ring_polled(&mut self, key: SocketKey, result: i32, events: &mut Vec<Event>) {
        let Some(socket) = self.table.find_mut(key) else { return };
        socket.state.armed = false;
        if socket.state.closing {
            return self.settle(key);
        }
        if socket.state.stopped {
            return self.stopped.push(key);
        }
        if (result < 0 || result & i32::from(libc::POLLERR) != 0)
            && let Some(errno) = packet_ring::error(socket.borrow_fd())
        {
            events.push(Event::ReceiveFailed { socket: key, errno });
        }
    }

    /// After the last completion of a receive or poll: arm it again, or let the socket go.
    fn disarmed(&mut self, key: SocketKey, pause: Option<Duration>) {
        let Some(socket) = self.table.find_mut(key) else { return };
        socket.state.armed = false;
        if socket.state.closing {
            self.settle(key);
        } else if socket.state.stopped {
            self.stopped.push(key);
        } else {
            self.todo.push(Todo::Arm(key, pause.map(|pause| Instant::now() + pause)));
        }
    }
}

/// Interrupted, timed out, or completions must be taken first: all of them mean "look and come again".
fn ignore_passing(entered: io::Result<usize>) -> io::Result<()> {
    match entered {
        Err(error) if !matches!(error.raw_os_error(), Some(libc::EINTR | libc::ETIME | libc::EBUSY)) => {
            Err(error)
        }
        _ => Ok(()),
    }
}

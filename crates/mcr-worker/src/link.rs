//! The worker's end of the channel to the supervisor. Never blocks: what cannot be said at once waits in a bounded queue.

use std::{collections::VecDeque, os::fd::OwnedFd};

use mcr_fdpass::{Channel, Received, RecvError, SendError};
use mcr_proto::{
    codec,
    message::{FromWorker, LogLevel, ToWorker},
};

use crate::WorkerError;

/// Notes are dropped when so many messages wait.
const NOTES_MAX: usize = 64;
/// The most messages that wait. A supervisor that takes no answer for so long is beyond help; the worker's successor gets
/// everything anew.
const WAITING_MAX: usize = 1024;

#[derive(Debug)]
pub(crate) struct Link {
    channel: Channel,
    waiting: VecDeque<Vec<u8>>,
    body: Vec<u8>,
    notes_dropped: u64,
    /// Less severe lines are not sent.
    level: LogLevel,
}

/// What came from the supervisor.
#[derive(Debug)]
pub(crate) enum Heard {
    Message(ToWorker, Received),
    /// Not a message, or not whole; it is gone.
    Unreadable(String),
    /// Nothing for now.
    Nothing,
    /// The supervisor is gone.
    End,
}

impl Link {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self {
            channel: fd.into(),
            waiting: VecDeque::new(),
            body: Vec::new(),
            notes_dropped: 0,
            level: LogLevel::Info,
        }
    }

    pub(crate) fn channel(&self) -> &Channel {
        &self.channel
    }

    pub(crate) fn hear(&mut self) -> Heard {
        match self.channel.recv(&mut self.body) {
            Ok(received) => match codec::decode(&self.body) {
                Ok(message) => Heard::Message(message, received),
                Err(error) => Heard::Unreadable(error.to_string()),
            },
            Err(RecvError::WouldBlock) => Heard::Nothing,
            Err(RecvError::Closed) => Heard::End,
            Err(error) => Heard::Unreadable(chain(&error)),
        }
    }

    /// Says what the supervisor waits for.
    pub(crate) fn answer(&mut self, message: &FromWorker) -> Result<(), WorkerError> {
        if self.waiting.len() >= WAITING_MAX {
            return Err(WorkerError::Unheard);
        }
        let body = codec::encode(message).map_err(WorkerError::Encode)?;
        self.waiting.push_back(body);
        self.flush()
    }

    /// Says what the supervisor can do without, if it listens.
    pub(crate) fn note(&mut self, message: &FromWorker) -> Result<(), WorkerError> {
        if self.waiting.len() >= NOTES_MAX {
            self.notes_dropped += 1;
            return Ok(());
        }
        self.answer(message)
    }

    /// Sends lines of this severity and above from now on.
    pub(crate) fn set_level(&mut self, level: LogLevel) {
        self.level = level;
    }

    pub(crate) fn log(&mut self, level: LogLevel, text: impl Into<String>) -> Result<(), WorkerError> {
        if level > self.level {
            return Ok(());
        }
        self.note(&FromWorker::Log { level, text: text.into() })
    }

    pub(crate) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Sends what waits, as far as the supervisor takes it.
    pub(crate) fn flush(&mut self) -> Result<(), WorkerError> {
        while let Some(body) = self.waiting.front() {
            match self.channel.send(body, &[]) {
                Ok(()) => {}
                Err(SendError::WouldBlock) => return Ok(()),
                // The end comes in order behind what is still to be heard.
                Err(SendError::PeerGone) => self.waiting.clear(),
                Err(SendError::Io(source)) => return Err(WorkerError::Channel(source)),
                // Too large: it will not go later either.
                Err(_) => self.notes_dropped += 1,
            }
            self.waiting.pop_front();
        }
        if self.notes_dropped > 0 {
            let text =
                format!("{} messages to the supervisor were dropped, its queue was full", self.notes_dropped);
            self.notes_dropped = 0;
            return self.log(LogLevel::Warn, text);
        }
        Ok(())
    }
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_to_a_supervisor_that_does_not_listen_are_dropped_and_counted_but_answers_wait() {
        let (ours, theirs) = Channel::pair().expect("sockets");
        ours.set_nonblocking(true).expect("own socket");
        let mut link = Link::new(ours.into());
        let text = "x".repeat(1000);
        while link.notes_dropped < 3 {
            link.log(LogLevel::Info, text.clone()).expect("not full");
        }
        let answer = FromWorker::Applied { generation: mcr_proto::plan::Generation(7) };
        link.answer(&answer).expect("not full");
        assert_eq!(link.waiting.len(), NOTES_MAX + 1);

        theirs.set_nonblocking(true).expect("own socket");
        let (mut body, mut heard) = (Vec::new(), Vec::new());
        while link.is_waiting() || heard.is_empty() {
            while theirs.recv(&mut body).is_ok() {
                heard.push(codec::decode::<FromWorker>(&body).expect("own message"));
            }
            link.flush().expect("room");
        }
        while theirs.recv(&mut body).is_ok() {
            heard.push(codec::decode::<FromWorker>(&body).expect("own message"));
        }
        let last = &heard[heard.len() - 2..];
        assert_eq!(last[0], answer);
        assert!(matches!(&last[1], FromWorker::Log { text, .. } if text.starts_with("3 messages")));
    }

    #[test]
    fn lines_that_nobody_would_print_are_not_sent() {
        let (ours, theirs) = Channel::pair().expect("sockets");
        theirs.set_nonblocking(true).expect("own socket");
        let mut link = Link::new(ours.into());
        let sent = |link: &mut Link, level| {
            link.log(level, "text").expect("there is room");
            theirs.recv(&mut Vec::new()).is_ok()
        };
        assert_eq!([LogLevel::Warn, LogLevel::Debug].map(|level| sent(&mut link, level)), [true, false]);
        link.set_level(LogLevel::Debug);
        assert!(sent(&mut link, LogLevel::Debug));
        link.set_level(LogLevel::Error);
        assert!(!sent(&mut link, LogLevel::Warn));
    }

    #[test]
    fn a_supervisor_that_never_takes_an_answer_is_given_up() {
        let (ours, _theirs) = Channel::pair().expect("sockets");
        ours.set_nonblocking(true).expect("own socket");
        let mut link = Link::new(ours.into());
        let problem = "x".repeat(1000);
        let error = loop {
            if let Err(error) = link.answer(&FromWorker::Refused { problem: problem.clone() }) {
                break error;
            }
        };
        assert!(matches!(error, WorkerError::Unheard));
    }
}

//! Events on their way to subscribers. Each has a queue of its own; one that is slow misses events and is told how many, and
//! nobody else notices.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::{Rc, Weak},
};

use mcr_proto::{
    message::{self, EventKind},
    rpc::Event,
};
use tokio::sync::Notify;

/// What can be asked for.
pub(crate) const KINDS: [EventKind; 3] = [EventKind::Rule, EventKind::Interface, EventKind::Worker];

/// Events that are kept for who subscribes later.
const RECENT_MAX: usize = 200;

/// All subscribers.
#[derive(Debug)]
pub(crate) struct Feeds {
    feeds: RefCell<Vec<Weak<Feed>>>,
    recent: RefCell<VecDeque<Rc<Told>>>,
    lines_max: usize,
}

/// An event as it is told.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) seq: u64,
    line: Vec<u8>,
}

/// What one subscriber has not been sent yet.
#[derive(Debug)]
pub(crate) struct Feed {
    kinds: Vec<EventKind>,
    lines: RefCell<VecDeque<Rc<Told>>>,
    lines_max: usize,
    missed: Cell<u64>,
    /// Number and time of the last that was missed.
    missed_last: Cell<(u64, u64)>,
    news: Notify,
}

impl Told {
    fn new(event: message::Event) -> Rc<Self> {
        let seq = event.seq;
        // Strings and numbers: nothing in an event can fail to be JSON.
        let event = serde_json::to_vec(&Event::from(event)).expect("an event is plain data");
        Rc::new(Self { seq, line: [BEGIN.as_bytes(), &event, END.as_bytes()].concat() })
    }

    /// The notification, with its newline.
    pub(crate) fn line(&self) -> &[u8] {
        &self.line
    }

    /// The event alone.
    pub(crate) fn event(&self) -> &[u8] {
        &self.line[BEGIN.len()..self.line.len() - END.len()]
    }
}

/// What stands around an event in its notification ([`mcr_proto::rpc::EVENT`]).
const BEGIN: &str = r#"{"jsonrpc":"2.0","method":"event","params":"#;
const END: &str = "}\n";

impl Feeds {
    pub(crate) fn new(lines_max: usize) -> Self {
        Self { feeds: RefCell::default(), recent: RefCell::default(), lines_max }
    }

    /// A feed of these kinds, for as long as it is kept.
    pub(crate) fn subscribe(&self, kinds: Vec<EventKind>) -> Rc<Feed> {
        let feed = Rc::new(Feed {
            kinds,
            lines: RefCell::default(),
            lines_max: self.lines_max,
            missed: Cell::new(0),
            missed_last: Cell::new((0, 0)),
            news: Notify::new(),
        });
        self.feeds.borrow_mut().push(Rc::downgrade(&feed));
        feed
    }

    /// What happened last, in order; with `after`, only what came behind the event of that number.
    pub(crate) fn recent(&self, after: Option<u64>) -> Vec<Rc<Told>> {
        let recent = self.recent.borrow();
        recent.iter().filter(|told| after.is_none_or(|after| told.seq > after)).cloned().collect()
    }

    /// Gives an event to everyone who wants it.
    pub(crate) fn publish(&self, event: message::Event) {
        let mut feeds = self.feeds.borrow_mut();
        feeds.retain(|feed| feed.strong_count() > 0);
        let (kind, seq, time_ns) = (event.kind, event.seq, event.time_ns);
        let told = Told::new(event);
        let mut recent = self.recent.borrow_mut();
        if recent.len() >= RECENT_MAX {
            recent.pop_front();
        }
        recent.push_back(Rc::clone(&told));
        for feed in feeds.iter().filter_map(Weak::upgrade) {
            // What nobody was told concerns everybody.
            if kind == EventKind::Missed || feed.kinds.contains(&kind) {
                feed.push(Rc::clone(&told), seq, time_ns);
            }
        }
    }
}

impl Feed {
    pub(crate) fn kinds(&self) -> &[EventKind] {
        &self.kinds
    }

    /// The next event. Dropping the future loses nothing.
    pub(crate) async fn next(&self) -> Rc<Told> {
        loop {
            if let Some(line) = self.pop() {
                return line;
            }
            self.news.notified().await;
        }
    }

    fn push(&self, told: Rc<Told>, seq: u64, time_ns: u64) {
        let mut lines = self.lines.borrow_mut();
        if lines.len() >= self.lines_max {
            self.missed.set(self.missed.get() + 1);
            self.missed_last.set((seq, time_ns));
            return;
        }
        lines.extend(self.missed_line());
        lines.push_back(told);
        self.news.notify_one();
    }

    fn pop(&self) -> Option<Rc<Told>> {
        self.lines.borrow_mut().pop_front().or_else(|| self.missed_line())
    }

    fn missed_line(&self) -> Option<Rc<Told>> {
        let (count, (seq, time_ns)) = (self.missed.take(), self.missed_last.get());
        (count > 0).then(|| Told::new(message::Event::missed(seq, time_ns, count)))
    }
}

#[cfg(test)]
mod tests {
    use mcr_proto::{message::EventWhat, plan::WorkerIndex};
    use serde_json::Value;

    use super::*;

    fn event(seq: u64, kind: EventKind) -> message::Event {
        let worker = Some(WorkerIndex(0));
        message::Event { seq, time_ns: 10 * seq, worker, ..message::Event::new(kind, EventWhat::Ready) }
    }

    fn drain(feed: &Feed) -> Vec<(u64, String, Option<u64>)> {
        std::iter::from_fn(|| feed.pop())
            .map(|told| {
                let line: Value = serde_json::from_slice(told.line()).expect("JSON");
                assert_eq!(
                    (&line["jsonrpc"], &line["method"]),
                    (&"2.0".into(), &mcr_proto::rpc::EVENT.into())
                );
                let event: Value = serde_json::from_slice(told.event()).expect("JSON");
                assert_eq!(event, line["params"]);
                let params = &line["params"];
                let kind = params["kind"].as_str().expect("text").to_owned();
                (params["seq"].as_u64().expect("a number"), kind, params["count"].as_u64())
            })
            .collect()
    }

    #[test]
    fn a_subscriber_gets_what_it_asked_for_in_order() {
        let feeds = Feeds::new(10);
        let (all, rules) = (feeds.subscribe(KINDS.to_vec()), feeds.subscribe(vec![EventKind::Rule]));
        for (seq, kind) in [(1, EventKind::Rule), (2, EventKind::Worker), (3, EventKind::Rule)] {
            feeds.publish(event(seq, kind));
        }
        let seqs = |feed: &Feed| drain(feed).iter().map(|one| one.0).collect::<Vec<_>>();
        assert_eq!((seqs(&all), seqs(&rules)), (vec![1, 2, 3], vec![1, 3]));
    }

    #[test]
    fn a_slow_subscriber_is_told_how_many_it_missed_and_where() {
        let feeds = Feeds::new(2);
        let (slow, quick) = (feeds.subscribe(KINDS.to_vec()), feeds.subscribe(KINDS.to_vec()));
        let mut seen = 0;
        for seq in 1..=5 {
            feeds.publish(event(seq, EventKind::Rule));
            seen += drain(&quick).len();
        }
        assert_eq!(seen, 5);
        assert_eq!(slow.pop().map(|told| told.line().is_empty()), Some(false));
        feeds.publish(event(6, EventKind::Rule));
        let got: Vec<_> = drain(&slow);
        let rule = |seq| (seq, "rule".to_owned(), None);
        assert_eq!(got, [rule(2), (5, "missed".to_owned(), Some(3)), rule(6)]);
    }

    #[test]
    fn what_was_missed_last_is_told_also_when_nothing_follows() {
        let feeds = Feeds::new(1);
        let feed = feeds.subscribe(KINDS.to_vec());
        (1..=3).for_each(|seq| feeds.publish(event(seq, EventKind::Rule)));
        assert_eq!(drain(&feed).last(), Some(&(3, "missed".to_owned(), Some(2))));
    }

    #[test]
    fn what_happened_last_is_kept_for_those_who_come_later() {
        let feeds = Feeds::new(1);
        (1..=RECENT_MAX as u64 + 5).for_each(|seq| feeds.publish(event(seq, EventKind::Worker)));
        let seqs = |after| feeds.recent(after).iter().map(|told| told.seq).collect::<Vec<_>>();
        assert_eq!(seqs(None), (6..=RECENT_MAX as u64 + 5).collect::<Vec<_>>());
        assert_eq!(seqs(Some(203)), [204, 205]);
    }

    #[test]
    fn a_subscriber_that_is_gone_is_forgotten() {
        let feeds = Feeds::new(1);
        drop(feeds.subscribe(KINDS.to_vec()));
        feeds.publish(event(1, EventKind::Rule));
        assert!(feeds.feeds.borrow().is_empty());
    }
}

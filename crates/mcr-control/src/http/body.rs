//! Bodies of responses: whole ones, and streams of server-sent events that never end.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use hyper::body::{Bytes, Frame, SizeHint};
use tokio::time::timeout;

use super::Web;
use crate::feed::{Feed, Told};

/// The body of a response.
pub(crate) enum Body {
    Whole(Option<Bytes>),
    Events(Events),
}

/// Events for one client ("Server-sent events" of the HTML standard), from its place among the streams to its last.
pub(crate) struct Events {
    _place: Place,
    waiting: VecDeque<Bytes>,
    feed: Rc<Feed>,
    beat: Duration,
    next: Pin<Box<dyn Future<Output = Bytes>>>,
}

/// One of the streams there may be; given up when dropped.
pub(crate) struct Place(Rc<Web>);

impl Place {
    /// None if all are taken.
    pub(super) fn take(web: &Rc<Web>) -> Option<Self> {
        let taken = web.streams.get();
        (taken < web.service.limits.http_events_max).then(|| {
            web.streams.set(taken + 1);
            Self(Rc::clone(web))
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
    }
}

impl Body {
    pub(super) fn whole(bytes: Bytes) -> Self {
        Self::Whole(Some(bytes))
    }

    /// What happened already, then what happens; and a comment when nothing does, so that a client that is gone is noticed.
    pub(super) fn events(place: Place, before: Vec<Rc<Told>>, feed: Rc<Feed>, beat: Duration) -> Self {
        // The browser tries again after so many milliseconds when the connection is lost.
        let mut waiting = VecDeque::from([Bytes::from_static(b"retry: 2000\n\n")]);
        waiting.extend(before.iter().map(|told| event(told)));
        let next = Box::pin(next(Rc::clone(&feed), beat));
        Self::Events(Events { _place: place, waiting, feed, beat, next })
    }
}

async fn next(feed: Rc<Feed>, beat: Duration) -> Bytes {
    match timeout(beat, feed.next()).await {
        Ok(told) => event(&told),
        Err(_) => Bytes::from_static(b":\n\n"),
    }
}

fn event(told: &Told) -> Bytes {
    let text = [b"id: ", told.seq.to_string().as_bytes(), b"\ndata: ", told.event(), b"\n\n"].concat();
    text.into()
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let bytes = match &mut *self {
            Self::Whole(bytes) => return Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Events(events) => match events.waiting.pop_front() {
                Some(bytes) => bytes,
                None => {
                    let Poll::Ready(bytes) = events.next.as_mut().poll(context) else { return Poll::Pending };
                    events.next = Box::pin(next(Rc::clone(&events.feed), events.beat));
                    bytes
                }
            },
        };
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Events(_) => SizeHint::default(),
        }
    }
}

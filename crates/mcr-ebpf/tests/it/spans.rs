//! Rules that begin and end at a time: each frame by its stamp goes to those that are there then.

use std::time::{Duration, Instant, SystemTime};

use mcr_ebpf::Rule;
use mcr_lab::require;
use mcr_proto::plan::{RuleSlot, Span};

use crate::{
    frames::v4,
    rig::{IN, OUT, Rig},
};

fn now_ns() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_nanos() as u64
}

/// The numbers in the frames that came out, in order.
fn numbers(frames: &[crate::rig::Seen]) -> Vec<u32> {
    frames.iter().map(|seen| u32::from_be_bytes(*seen.frame.last_chunk().expect("a number"))).collect()
}

fn frame(number: u32) -> Vec<u8> {
    v4("10.1.0.1:9", IN, 64, 0, &number.to_be_bytes())
}

impl Rig {
    fn spanned(&mut self, slot: u32, output: u32, sink: u8, source: Option<&str>, span: Span) {
        let outputs = vec![self.output(sink, output, OUT)];
        let source = source.map(|text| text.parse().expect("an address"));
        let rule = Rule { span, source, ..self.rule_of(IN, outputs) };
        self.path.set_rule(RuleSlot(slot), rule).expect("the rule is taken");
    }
}

#[test]
fn at_a_time_one_rule_ends_and_another_begins_and_every_frame_is_for_one_of_them() {
    let Some(()) = require::netns() else { return };
    for source in [None, Some("10.1.0.1")] {
        let mut rig = Rig::new(2);
        rig.watch(&[OUT]);
        let _stamps = mcr_socket::stamp::hold().expect("a socket");
        let at_ns = now_ns() + 200_000_000;
        rig.spanned(1, 1, 0, source, Span::until(at_ns));
        rig.spanned(2, 2, 1, None, Span::from(at_ns));
        rig.spanned(3, 3, 1, None, Span::NEVER);
        let (mut number, begun) = (0, Instant::now());
        while now_ns() < at_ns + 100_000_000 {
            rig.send(&frame(number));
            number += 1;
            std::thread::sleep(Duration::from_micros(100));
        }
        let seen = rig.seen();
        let [before, after] = [numbers(&seen[0]), numbers(&seen[1])];
        assert_eq!([before.clone(), after.clone()].concat(), (0..number).collect::<Vec<_>>(), "{source:?}");
        assert!(before.len() > 100 && after.len() > 50, "{} and {}", before.len(), after.len());
        assert!(begun.elapsed() < Duration::from_secs(60));
        let (first, second) = (before.len() as u64, after.len() as u64);
        let totals = rig.totals();
        assert_eq!((totals.frames, totals.matched), (u64::from(number), u64::from(number)));
        assert_eq!(
            [1, 2].map(|slot| totals.rules.get(&slot).map(|rule| rule.0)),
            [Some(first), Some(second)]
        );
    }
}

#[test]
fn between_two_times_what_nobody_takes_goes_on_uncounted_and_a_frame_without_a_stamp_is_of_before() {
    let Some(()) = require::netns() else { return };
    let mut rig = Rig::new(2);
    rig.watch(&[OUT]);
    let long_ago = 1_000;
    rig.spanned(1, 1, 0, None, Span::until(long_ago));
    rig.spanned(2, 2, 1, None, Span::from(u64::MAX - 1));
    // Nobody holds stamps, unless some other process of this host does: then a frame is in the gap.
    rig.send(&frame(1));
    let unstamped = rig.seen_at_first().len() as u64;
    assert_eq!(rig.totals().matched, unstamped);

    let _stamps = mcr_socket::stamp::hold().expect("a socket");
    let mut relayed = unstamped;
    let begun = Instant::now();
    loop {
        rig.send(&frame(2));
        match rig.seen_at_first().len() {
            0 => break,
            one => relayed += one as u64,
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "no stamps come");
    }
    assert_eq!(rig.totals().frames, relayed, "what is in the gap is not the program's");
}

//! A kernel that refuses tcx links, as those before Linux 6.6 do: the program stands behind a filter of `clsact`.

use mcr_ebpf::{KernelPath, programs_at};
use mcr_lab::{Line, forbid, require, wait_until};
use nix::libc;

use crate::{
    frames::v4,
    life::holder,
    rig::{DEADLINE, Rig},
};

const IN: &str = "239.1.1.1:5000";
const OUT: &str = "239.2.2.2:6000";
const FROM: &str = "10.1.0.1:4000";
/// `enum bpf_cmd` of linux/bpf.h.
const BPF_LINK_CREATE: u32 = 28;

/// Runs something in a thread, and what that starts, to which the kernel says of links what one says that does not know them.
fn without_links<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            forbid(libc::SYS_bpf, Some(BPF_LINK_CREATE), libc::EINVAL.unsigned_abs()).expect("a filter");
            run()
        });
        thread.join().expect("no panic")
    })
}

fn programs(line: &Line) -> usize {
    line.relay.enter(|| programs_at("in0")).expect("an interface")
}

/// Whether the interface has the discipline.
fn has_clsact(line: &Line) -> bool {
    let output = line.relay.command("tc").args(["qdisc", "show", "dev", "in0"]).output().expect("tc runs");
    String::from_utf8(output.stdout).expect("text").contains("clsact")
}

fn relays(rig: &mut Rig, rule: u32) {
    rig.watch(&[OUT]);
    let output = rig.output(0, rule, OUT);
    rig.rule(rule, IN, vec![output]);
    rig.send(&v4(FROM, IN, 9, 0, b"once"));
    let seen = rig.seen_at_first();
    assert_eq!(seen.len(), 1);
    assert!(seen[0].frame.ends_with(b"once"));
}

#[test]
fn frames_are_relayed_and_a_detached_interface_is_as_it_was() {
    let Some(()) = require::netns() else { return };
    without_links(|| {
        let mut rig = Rig::new(1);
        assert_eq!(programs(&rig.line), 1);
        assert!(has_clsact(&rig.line));
        relays(&mut rig, 1);
        let input = rig.input;
        rig.path.detach(input);
        assert_eq!((programs(&rig.line), has_clsact(&rig.line)), (0, false));
        rig.line.relay.enter(|| rig.path.attach(input)).expect("attached again");
        relays(&mut rig, 1);
        assert_eq!(rig.totals().rules[&1].0, 2);
        let Rig { line, path, .. } = rig;
        drop(path);
        assert_eq!((programs(&line), has_clsact(&line)), (0, false));
    });
}

#[test]
fn a_path_that_outgrows_its_maps_goes_on_counting() {
    let Some(()) = require::netns() else { return };
    without_links(|| {
        let mut rig = Rig::new(1);
        relays(&mut rig, 1);
        // More than a new path has room for.
        for port in 0..300 {
            let output = rig.output(0, 1000 + port, OUT);
            rig.rule(1000 + port, &format!("239.3.3.3:{}", 7000 + port), vec![output]);
        }
        relays(&mut rig, 1);
        rig.send(&v4(FROM, "239.3.3.3:7299", 9, 0, b"last"));
        assert_eq!(rig.seen_at_first().len(), 1);
        let totals = rig.totals();
        assert_eq!((totals.rules[&1].0, totals.rules[&1299].0, totals.copies[&1].0), (2, 1, 2));
        assert_eq!(programs(&rig.line), 1);
    });
}

#[test]
fn the_discipline_stays_as_long_as_others_use_it() {
    let Some(()) = require::netns() else { return };
    without_links(|| {
        let mut rig = Rig::new(1);
        let mut other = KernelPath::load().expect("the program loads");
        rig.line.relay.enter(|| other.attach(rig.input)).expect("attached");
        assert_eq!(programs(&rig.line), 2);
        let input = rig.input;
        rig.path.detach(input);
        assert_eq!((programs(&rig.line), has_clsact(&rig.line)), (1, true));
        rig.line.relay.enter(|| rig.path.attach(input)).expect("attached");
        drop(other);
        assert_eq!((programs(&rig.line), has_clsact(&rig.line)), (1, true));
        relays(&mut rig, 1);
    });
}

#[test]
fn what_a_killed_process_leaves_relays_nothing_and_is_replaced() {
    let Some(()) = require::netns() else { return };
    without_links(|| {
        let line = Line::new().expect("a line");
        let mut child = holder(&line.relay);
        let before = mcr_ebpf::loaded().programs.len();
        child.kill().expect("SIGKILL");
        child.wait().expect("dead");
        // The entry stays at the interface; the program that it led to, and its maps, are gone.
        wait_until(DEADLINE, "the relay is gone", || mcr_ebpf::loaded().programs.len() < before)
            .expect("gone");
        assert_eq!(programs(&line), 1);
        let mut path = KernelPath::load().expect("the program loads");
        let input = line.relay.link_index("in0").expect("in0");
        line.relay.enter(|| path.attach(input)).expect("attached");
        assert_eq!(programs(&line), 1);
        drop(path);
        assert_eq!(programs(&line), 0);
    });
}

//! A socket that one process opens and another uses.
#![allow(clippy::unwrap_used)] // Whatever fails here fails the test.

use std::io::{self, Read, Write};

use mcr_lab::require;
use mcr_xdp::{Opened, Shape, Socket};

mod support;
use support::{BYTES, DEADLINE, Pair, content, open, swap_addresses};

#[test]
fn a_socket_works_in_a_process_that_did_not_open_it_and_has_no_rights() {
    let Some(()) = require::netns() else { return };
    let pair = Pair::new();
    let shape = Shape { reserve_frames: 16, ..Shape::with_entries(64) };
    let (_near_redirect, mut near) = pair.near(true, shape);
    let (_far_redirect, opened) = open(&pair.far, "far", true, shape);
    let (mut ready, mut is_ready) = io::pipe().unwrap();
    // SAFETY: the child maps, polls and swaps, takes no lock that a thread of the parent may have held but the allocator's, which the
    // C library takes care of, and ends by _exit.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "{}", io::Error::last_os_error());
    if child == 0 {
        let code = if swap_once_without_rights(opened, &mut is_ready).is_some() { 0 } else { 1 };
        // SAFETY: ends the child at once, without running what the parent registered.
        unsafe { libc::_exit(code) };
    }
    drop((opened, is_ready));
    ready.read_exact(&mut [0]).expect("the child has mapped it");

    let rings = near.rings_mut();
    let mut frame = rings.take().unwrap();
    assert!(rings.resize(&mut frame, BYTES));
    rings.bytes_mut(&mut frame).copy_from_slice(&content(7));
    rings.send(frame).unwrap();
    assert_eq!(near.flush().unwrap().pending, 0);
    let mut frames = Vec::new();
    assert!(near.wait(Some(DEADLINE)).unwrap());
    assert_eq!(near.receive(&mut frames, 8).unwrap(), 1);
    let mut want = content(7);
    swap_addresses(&mut want);
    let frame = frames.pop().unwrap();
    assert_eq!(near.rings().bytes(&frame), want);
    near.rings_mut().release(frame);

    let mut status = 0;
    // SAFETY: waits for our own child and writes one int.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!(status, 0, "the child failed");
}

fn swap_once_without_rights(opened: Opened, is_ready: &mut impl Write) -> Option<()> {
    // SAFETY: changes this process's ids, and touches no memory.
    if unsafe { libc::setresuid(65_534, 65_534, 65_534) } != 0 {
        return None;
    }
    let mut socket = Socket::new(opened).ok()?;
    is_ready.write_all(&[1]).ok()?;
    let mut frames = Vec::with_capacity(1);
    if !socket.wait(Some(DEADLINE)).ok()? || socket.receive(&mut frames, 1).ok()? != 1 {
        return None;
    }
    let mut frame = frames.pop()?;
    swap_addresses(socket.rings().bytes_mut(&mut frame));
    socket.rings_mut().send(frame).ok()?;
    (socket.flush().ok()?.pending == 0).then_some(())
}

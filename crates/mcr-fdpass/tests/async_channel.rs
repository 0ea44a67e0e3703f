//! The same channel under a runtime.
#![allow(clippy::unwrap_used)] // The helpers of a test are the test.

use mcr_fdpass::{AsyncChannel, Channel, RecvError, SendError, Tag};
use std::fs::File;
use std::os::fd::AsFd;
use std::time::Duration;

fn pair() -> (AsyncChannel, AsyncChannel) {
    let (near, far) = Channel::pair().unwrap();
    (AsyncChannel::new(near).unwrap(), AsyncChannel::new(far).unwrap())
}

#[tokio::test]
async fn a_receiver_waits_for_the_message_and_its_descriptor() {
    let (near, far) = pair();
    let receiver = tokio::spawn(async move {
        let mut body = Vec::new();
        let received = far.recv(&mut body).await.unwrap();
        (body, received)
    });
    tokio::task::yield_now().await;
    let file = File::open("/dev/null").unwrap();
    near.send(b"hello", &[(Tag(3), file.as_fd())]).await.unwrap();
    let (body, mut received) = receiver.await.unwrap();
    assert_eq!(body, b"hello");
    assert!(received.take(Tag(3)).is_some());
}

#[tokio::test]
async fn a_sender_waits_for_room_and_every_message_arrives_in_order() {
    let (near, far) = pair();
    let sender = tokio::spawn(async move {
        for number in 0..200u32 {
            let mut body = vec![0; 8192];
            body[..4].copy_from_slice(&number.to_le_bytes());
            near.send(&body, &[]).await.unwrap();
        }
    });
    let mut body = Vec::new();
    for number in 0..200u32 {
        far.recv(&mut body).await.unwrap();
        assert_eq!(body[..4], number.to_le_bytes());
    }
    sender.await.unwrap();
    assert!(matches!(far.recv(&mut body).await, Err(RecvError::Closed)));
}

#[tokio::test]
async fn a_full_socket_refuses_try_send_and_an_abandoned_send_sends_nothing() {
    let (near, far) = pair();
    let mut sent = 0;
    while near.try_send(&[0; 32 * 1024], &[]).is_ok() {
        sent += 1;
    }
    assert!(matches!(near.try_send(&[0; 32 * 1024], &[]), Err(SendError::WouldBlock)));
    let waited = tokio::time::timeout(Duration::from_millis(20), near.send(&[1; 32 * 1024], &[])).await;
    assert!(waited.is_err());
    let mut body = Vec::new();
    for _ in 0..sent {
        far.recv(&mut body).await.unwrap();
        assert_eq!(body[0], 0);
    }
    assert!(matches!(far.try_recv(&mut body), Err(RecvError::WouldBlock)));
}

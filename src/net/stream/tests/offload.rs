//! What stays in user space: why, counted how often, and at no cost of a byte.

use super::SHAPES;
use crate::config::OffloadPolicy;
use crate::metrics::{self, Counter};
use crate::net::stream::testing::{Setup, has_kernel_tls, on_each_driver, pattern, this_kernel};
use crate::net::stream::{ReceivePath, SendPath, Transport};
use crate::sys::probe::{KernelTls, TlsRefusal};

const REASONS: [Counter; 6] = [
    Counter::NotOffloadedNoUlp,
    Counter::NotOffloadedSuite,
    Counter::NotOffloadedFailed,
    Counter::NotOffloadedPolicy,
    Counter::OffloadedSend,
    Counter::OffloadedReceive,
];

#[test]
fn a_kernel_without_tls_leaves_the_connection_in_user_space() {
    let kernel = KernelTls::refused(TlsRefusal::NoModule);
    stays_in_user_space(OffloadPolicy::Always, kernel, [1, 0, 0, 0, 0, 0]);
}

#[test]
fn a_kernel_without_the_suite_leaves_the_connection_in_user_space() {
    let mut kernel = KernelTls::refused(TlsRefusal::WrongBytes);
    kernel.ulp = Ok(());
    stays_in_user_space(OffloadPolicy::Always, kernel, [0, 1, 0, 0, 0, 0]);
}

#[test]
fn the_policy_never_leaves_the_connection_in_user_space() {
    let kernel = this_kernel().clone();
    stays_in_user_space(OffloadPolicy::Never, kernel, [0, 0, 0, 1, 0, 0]);
}

/// A setsockopt that fails although the probe had promised that it would not.
#[test]
fn a_hand_over_that_fails_leaves_the_connection_in_user_space() {
    if has_kernel_tls() {
        // It cannot be made to fail here; what the promise is good for is told by the tests in
        // `kernel`.
        assert_eq!(this_kernel().ulp, Ok(()));
        return;
    }
    let mut kernel = KernelTls::refused(TlsRefusal::NoModule);
    kernel.ulp = Ok(());
    for support in &mut kernel.suites {
        (support.send, support.receive) = (Ok(()), Ok(()));
    }
    stays_in_user_space(OffloadPolicy::Always, kernel, [0, 0, 1, 0, 0, 0]);
}

/// Bytes go both ways over a connection of each shape, in user space, and of [`REASONS`] exactly
/// these are counted for it.
fn stays_in_user_space(policy: OffloadPolicy, kernel: KernelTls, reasons: [u64; 6]) {
    let data = pattern(300_000);
    for suite in SHAPES {
        let setup = Setup {
            policy,
            kernel: kernel.clone(),
            ..Setup::user(suite)
        };
        on_each_driver(
            &setup,
            async |mut served| {
                // The hand-over was tried when the stream was made: all of this thread's counts are
                // of such connections.
                assert_is_in_user_space(served.transport());
                let received = served.receive_exactly(data.len()).await;
                assert!(received == data);
                served.send(&received).await.unwrap();
                served.write.finish().await.unwrap();
                assert_is_in_user_space(served.transport());
            },
            |mut peer| {
                for record in data.chunks(10_000) {
                    peer.send(record);
                }
                assert!(peer.receive_exactly(data.len()) == data);
                peer.expect_close_notify();
            },
        );
    }
    // Of two drivers.
    let connections = 2 * SHAPES.len() as u64;
    assert_eq!(
        REASONS.map(metrics::of_this_thread),
        reasons.map(|count| count * connections)
    );
}

fn assert_is_in_user_space(transport: &Transport) {
    assert!(matches!(
        transport.sending.borrow().path,
        SendPath::UserTls(_)
    ));
    assert!(matches!(
        transport.receiving.borrow().path,
        ReceivePath::UserTls(_)
    ));
}

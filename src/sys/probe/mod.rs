//! What this kernel gives to this process, found out by trying it once at the start.
//!
//! Version numbers and configuration files lie (backports, seccomp, missing modules), so every
//! capability is exercised: a ring is built and turned, a loopback connection carries a message
//! through kernel TLS.

mod kernel_tls;
mod process;
mod ring;

pub use kernel_tls::{KernelTls, SuiteSupport, TlsRefusal, kernel_tls};
pub use process::Process;
pub use ring::{Ring, RingRefusal, RingSetup, ring};

/// The data path in one line, as `serve` prints it: "io_uring, kernel TLS", or what is used instead
/// and why.
#[must_use]
pub fn summary(ring: &Ring, tls: &KernelTls) -> String {
    let driver = match ring {
        Ring::Usable(_) => "io_uring".to_owned(),
        Ring::Refused(refusal) => format!("epoll ({refusal})"),
    };
    format!("{driver}, {}", summary_of_tls(tls))
}

fn summary_of_tls(tls: &KernelTls) -> String {
    if let Err(refusal) = &tls.ulp {
        return format!("TLS in user space: {refusal}");
    }
    let whole = tls
        .suites
        .iter()
        .filter(|support| support.send.is_ok() && support.receive.is_ok())
        .count();
    let slow = match tls.suites.iter().filter(|support| support.is_slow).count() {
        0 => String::new(),
        some => format!(", {some} of them slowly"),
    };
    if whole == tls.suites.len() && slow.is_empty() {
        return "kernel TLS".to_owned();
    }
    let refused = tls.suites.iter().find_map(|support| {
        support
            .send
            .as_ref()
            .err()
            .or(support.receive.as_ref().err())
    });
    match refused {
        Some(refusal) if whole == 0 => format!("TLS in user space: {refusal}"),
        _ => format!(
            "kernel TLS for {whole} of {} suites{slow}",
            tls.suites.len()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_says_what_is_used_and_why() {
        let usable = Ring::Usable(RingSetup::default());
        let refused = Ring::Refused(RingRefusal::ForbiddenBySeccomp);
        let mut tls = KernelTls::refused(TlsRefusal::NoModule);
        assert_eq!(
            summary(&usable, &tls),
            "io_uring, TLS in user space: the kernel has no tls module"
        );
        tls.ulp = Ok(());
        for support in &mut tls.suites {
            support.send = Ok(());
            support.receive = Ok(());
        }
        assert_eq!(
            summary(&refused, &tls),
            "epoll (io_uring is forbidden by seccomp), kernel TLS"
        );
        tls.suites[0].is_slow = true;
        assert_eq!(
            summary(&usable, &tls),
            "io_uring, kernel TLS for 6 of 6 suites, 1 of them slowly"
        );
        tls.suites[1].receive = Err(TlsRefusal::WrongBytes);
        assert_eq!(
            summary(&usable, &tls),
            "io_uring, kernel TLS for 5 of 6 suites, 1 of them slowly"
        );
        tls.suites[1].receive = Ok(());
        tls.suites[0].is_slow = false;
        tls.suites[0].send = Err(TlsRefusal::WrongBytes);
        assert_eq!(
            summary(&usable, &tls),
            "io_uring, kernel TLS for 5 of 6 suites"
        );
        for support in &mut tls.suites {
            support.receive = Err(TlsRefusal::Call {
                name: "TLS_RX",
                errno: libc::ENOPROTOOPT,
            });
        }
        tls.suites[0].send = Ok(());
        assert_eq!(
            summary(&usable, &tls),
            "io_uring, TLS in user space: TLS_RX: Protocol not available (os error 92)"
        );
    }
}

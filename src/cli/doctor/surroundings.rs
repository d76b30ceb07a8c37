//! What the facts of the network interfaces, pipes and the clock mean.

use super::facts::Facts;
use super::{Finding, Guide, Level};
use crate::limits::PIPE_BYTES;
use crate::sys::interfaces::{Interface, Offload};

pub(super) fn interfaces(found: Option<&[Interface]>) -> Vec<Finding> {
    let subject = "interfaces";
    let guide = Guide::KernelTls;
    let Some(found) = found else {
        return vec![Finding::unknown(subject, guide, "/sys/class/net")];
    };
    let is_able = |interface: &&Interface| {
        (interface.send, interface.receive) != (Offload::Absent, Offload::Absent)
    };
    let able: Vec<&Interface> = found.iter().filter(is_able).collect();
    if able.is_empty() {
        let finding = Finding::good(subject, guide, "none takes over TLS records");
        return vec![finding.because(
            Level::Note,
            "The processor seals and opens all records; few network cards can.",
            "",
        )];
    }
    let judge = |interface: &Interface| {
        let word = |offload| match offload {
            Offload::Absent => "no",
            Offload::Off => "off",
            Offload::On => "yes",
        };
        let (send, receive) = (word(interface.send), word(interface.receive));
        let name = &interface.name;
        let found = format!("{name} takes over TLS records: send {send}, receive {receive}");
        let finding = Finding::good(subject, guide, found);
        if [interface.send, interface.receive].contains(&Offload::Off) {
            return finding.because(
                Level::Note,
                "Kernel TLS uses it by itself once it is on.",
                "ethtool -K INTERFACE tls-hw-tx-offload on tls-hw-rx-offload on.",
            );
        }
        finding
    };
    able.into_iter().map(judge).collect()
}

pub(super) fn pipes(facts: &Facts) -> Finding {
    let (Some(bytes), Some(pages)) = (facts.pipe_bytes_max, facts.pipe_user_pages_max) else {
        return Finding::unknown("pipes", Guide::Limits, "/proc/sys/fs/pipe-*");
    };
    let of_user = match pages {
        0 => "as many pages as a user wants".to_owned(),
        pages => format!("{pages} pages for a user"),
    };
    let found = format!("at most {bytes} bytes each, {of_user}");
    let finding = Finding::good("pipes", Guide::Limits, found);
    if bytes < u64::from(PIPE_BYTES) {
        return finding.because(
            Level::Degraded,
            "Tunnels splice through pipes of 262144 bytes; smaller ones take more calls.",
            "sysctl -w fs.pipe-max-size=1048576.",
        );
    }
    finding
}

pub(super) fn clock(facts: &Facts) -> Finding {
    let guide = Guide::Cpu;
    let (Some(source), Some(is_synchronised)) = (&facts.clock_source, facts.is_clock_synchronised)
    else {
        return Finding::unknown("clock", guide, "its source, or whether it is synchronised,");
    };
    let state = match is_synchronised {
        true => "synchronised",
        false => "not synchronised",
    };
    let finding = Finding::good("clock", guide, format!("{source}, {state}"));
    if SLOW_SOURCES.contains(&source.as_str()) {
        return finding.because(
            Level::Degraded,
            "Reading it takes a slow access to a device, several times for each request.",
            "use the processor's own counter: clocksource=tsc on the kernel's command line, or a \
             hypervisor that offers kvm-clock or hyperv_clocksource.",
        );
    }
    if !is_synchronised {
        return finding.because(
            Level::Degraded,
            "Certificates are judged, and logs and responses dated, by a clock that nothing corrects.",
            "run chrony, ntpd or systemd-timesyncd; in a container, on its host.",
        );
    }
    finding
}

/// Those that the vDSO cannot read (kernel: drivers/clocksource, arch/x86).
const SLOW_SOURCES: [&str; 5] = ["hpet", "acpi_pm", "pit", "jiffies", "refined-jiffies"];

#[cfg(test)]
mod tests {
    use super::super::findings::tests::{good, judge};
    use super::*;

    fn interface(send: Offload, receive: Offload) -> Interface {
        Interface {
            name: "eth0".to_owned(),
            send,
            receive,
        }
    }

    #[test]
    fn an_interface_that_could_help_says_how_to_let_it() {
        let on = interfaces(Some(&[interface(Offload::On, Offload::Absent)]));
        assert_eq!(on[0].level, Level::Good);
        assert!(on[0].found.contains("send yes, receive no"), "{on:?}");
        let off = interfaces(Some(&[
            interface(Offload::Absent, Offload::Absent),
            interface(Offload::On, Offload::Off),
        ]));
        assert_eq!((off.len(), off[0].level), (1, Level::Note));
        assert!(off[0].mend.contains("ethtool -K"), "{off:?}");
        for none in [
            Some(&[][..]),
            Some(&[interface(Offload::Absent, Offload::Absent)]),
            None,
        ] {
            let none = interfaces(none);
            assert_eq!((none.len(), none[0].level), (1, Level::Note));
        }
    }

    #[test]
    fn pipes_and_clock_have_their_level() {
        judge("pipes", Level::Degraded, |it| {
            it.pipe_bytes_max = Some(65_536)
        });
        judge("pipes", Level::Note, |it| it.pipe_user_pages_max = None);
        judge("pipes", Level::Good, |it| it.pipe_user_pages_max = Some(0));
        judge("clock", Level::Degraded, |it| {
            it.clock_source = Some("hpet".to_owned())
        });
        judge("clock", Level::Degraded, |it| {
            it.is_clock_synchronised = Some(false)
        });
        judge("clock", Level::Note, |it| it.is_clock_synchronised = None);
        assert!(clock(&good()).found.starts_with("tsc, synchronised"));
    }
}

//! What /proc/net/tls_stat says of kernel TLS.

/// Sessions that the kernel has ever begun to seal for, by itself or on a network card.
pub(crate) fn sealed_sessions(text: &str) -> u64 {
    let is_counted = |name: &str| SEALED.contains(&name);
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            words.next().filter(|name| is_counted(name))?;
            words.next()?.parse::<u64>().ok()
        })
        .sum()
}

const SEALED: [&str; 2] = ["TlsTxSw", "TlsTxDevice"];

//! The Date field (RFC 9110 6.6.1), written once per second.

use std::cell::Cell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The text of the current second, cached.
pub(super) struct DateCache(Cell<(u64, DateText)>);

/// A date as IMF-fixdate (RFC 9110 5.6.7).
pub(super) type DateText = [u8; 29];

impl DateCache {
    /// The text for `now`. A time before 1970 or after 9999 is written as the nearest within.
    pub(super) fn text(&self, now: SystemTime) -> DateText {
        let seconds = now
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs())
            .min(SECONDS_MAX);
        let (cached, text) = self.0.get();
        if cached == seconds {
            return text;
        }
        let text = format(seconds);
        self.0.set((seconds, text));
        text
    }
}

impl Default for DateCache {
    fn default() -> Self {
        Self(Cell::new((0, format(0))))
    }
}

#[cold]
fn format(seconds: u64) -> DateText {
    let text = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds));
    let mut bytes = [b' '; 29];
    for (byte, character) in bytes.iter_mut().zip(text.bytes()) {
        *byte = character;
    }
    bytes
}

/// 9999-12-31 23:59:59: the format has four digits for the year.
const SECONDS_MAX: u64 = 253_402_300_799;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc9110_5_6_7_dates_are_imf_fixdate() {
        let cache = DateCache::default();
        let text = |seconds| cache.text(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(&text(784_111_777), b"Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(&text(784_111_777), b"Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(&text(784_111_778), b"Sun, 06 Nov 1994 08:49:38 GMT");
        assert_eq!(&text(0), b"Thu, 01 Jan 1970 00:00:00 GMT");
    }

    #[test]
    fn a_clock_out_of_range_is_clamped() {
        let cache = DateCache::default();
        let early = UNIX_EPOCH - Duration::from_secs(5);
        assert_eq!(&cache.text(early), b"Thu, 01 Jan 1970 00:00:00 GMT");
        let late = UNIX_EPOCH + Duration::from_secs(SECONDS_MAX + 5);
        assert_eq!(&cache.text(late), b"Fri, 31 Dec 9999 23:59:59 GMT");
    }
}

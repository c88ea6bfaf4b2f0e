//! What this namespace's stack makes of SYN cookies: whether it takes them, and what it says in a handshake.

use std::io;

/// Without `is_taken` a listener must not want cookies: its connections would be refused after the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CookieConditions {
    /// `net.ipv4.tcp_syncookies` is 2: every SYN that goes through is answered with a cookie, and so listeners take them.
    pub is_taken: bool,
    /// `net.ipv4.tcp_timestamps` is 2. With 1 the stack shifts timestamps by a secret, and reads nonsense in them.
    pub are_timestamps_plain: bool,
    pub mss_v4: u16,
    pub mss_v6: u16,
    /// Not more than what the stack believes to have said.
    pub window: u16,
    /// What the stack will choose for a listener that did not set `SO_RCVBUF`.
    pub window_scale: u8,
}

impl Default for CookieConditions {
    /// For links of 1500 bytes, without timestamps.
    fn default() -> CookieConditions {
        CookieConditions {
            is_taken: false,
            are_timestamps_plain: false,
            mss_v4: 1460,
            mss_v6: 1440,
            window: 64_000,
            window_scale: 7,
        }
    }
}

impl CookieConditions {
    /// As they are in the calling thread's network namespace.
    ///
    /// # Errors
    /// What cannot be read.
    pub fn here() -> io::Result<CookieConditions> {
        let words = |name: &str| -> io::Result<Vec<u64>> {
            let text = std::fs::read_to_string(format!("/proc/sys/net/{name}"))?;
            Ok(text.split_whitespace().filter_map(|word| word.parse().ok()).collect())
        };
        let first = |name: &str| Ok::<u64, io::Error>(words(name)?.first().copied().unwrap_or(0));
        let most = words("ipv4/tcp_rmem")?.last().copied().unwrap_or(0);
        // The sysctl of the core is the first namespace's only; elsewhere its usual value stands for it.
        let most = most.max(first("core/rmem_max").unwrap_or(212_992));
        Ok(CookieConditions {
            is_taken: first("ipv4/tcp_syncookies")? == 2,
            are_timestamps_plain: first("ipv4/tcp_timestamps")? == 2,
            window_scale: scale_of(most),
            ..CookieConditions::default()
        })
    }

    /// Are SACK, window scale and timestamps kept? Else a connection by cookie has none of them.
    pub fn keeps_options(&self) -> bool {
        self.are_timestamps_plain
    }

    /// What an operator has to do before listeners may want cookies, and options are kept.
    pub fn advice(&self) -> Option<&'static str> {
        match (self.is_taken, self.are_timestamps_plain) {
            (false, _) => Some("set net.ipv4.tcp_syncookies=2 (and tcp_timestamps=2): else listeners refuse cookies"),
            (true, false) => {
                Some("set net.ipv4.tcp_timestamps=2: else cookies keep no SACK, window scale and timestamps")
            }
            _ => None,
        }
    }
}

/// `tcp_select_initial_window` of the kernel: the smallest shift by which `space` fits 16 bits.
fn scale_of(space: u64) -> u8 {
    (space.max(1).ilog2() as i32 - 15).clamp(0, 14) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_is_the_one_that_the_kernel_chooses() {
        assert_eq!([0, 65_535, 65_536, 6_291_456, 33_554_432].map(scale_of), [0, 0, 1, 7, 10]);
    }
}

//! What holds for all listeners, and how the program reads it.

use super::CookieConditions;
use super::shared::RawSettings;

/// The program's sampling counts by ticks of 2^27 ns.
const TICKS_OF_SECOND: f64 = 1e9 / (1u64 << 27) as f64;

/// What holds for all listeners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// IP protocols, beyond TCP, UDP and ICMP, for addresses that want known ones only.
    pub protocols: Vec<u8>,
    /// Samples are one in so many packets of guarded listeners (0: none),
    pub sample_every: u32,
    /// and on each processor at most about so many a second.
    pub samples_per_second: u32,
    /// What SYN-ACKs with a cookie say.
    pub cookies: CookieConditions,
    /// Time that stands still, for trials that have to be repeatable. Monotonic ns.
    pub clock_ns: Option<u64>,
}

impl Default for Settings {
    fn default() -> Settings {
        let cookies = CookieConditions::default();
        Settings { protocols: Vec::new(), sample_every: 0, samples_per_second: 2000, cookies, clock_ns: None }
    }
}

impl Settings {
    /// What others have written there, in `before`, stays.
    pub(super) fn raw(&self, before: &RawSettings) -> RawSettings {
        let mut protocols = [0u64; 4];
        self.protocols.iter().for_each(|p| protocols[usize::from(*p) / 64] |= 1 << (p % 64));
        RawSettings {
            clock: self.clock_ns.unwrap_or(0),
            protocols,
            sample_every: self.sample_every,
            samples_per_tick: (f64::from(self.samples_per_second) / TICKS_OF_SECOND).ceil() as u32,
            has_wildcards: before.has_wildcards,
            mss4: self.cookies.mss_v4,
            mss6: self.cookies.mss_v6,
            window: self.cookies.window,
            window_scale: self.cookies.window_scale,
            keeps_timestamps: self.cookies.keeps_options().into(),
            generation: before.generation,
        }
    }
}

//! What the machine itself says of a flood: its network namespace's counters, its queues, its processors.
//!
//! What cannot be read is 0: a symptom that is missing is none.

use std::fs;

use super::wire::System;

/// Ticks of all processors: busy, and all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ticks {
    busy: u64,
    all: u64,
}

#[derive(Debug, Default)]
pub struct Symptoms {
    before: Ticks,
}

impl Symptoms {
    /// As they are now, of the calling thread's network namespace.
    pub fn look(&mut self) -> System {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let netstat = read("/proc/thread-self/net/netstat");
        let tcp = |name: &str| field(&netstat, "TcpExt:", name);
        let (received_bytes, received_packets, missed_packets) = received(&read("/proc/thread-self/net/dev"));
        let now = ticks(&read("/proc/stat"));
        let all = now.all.saturating_sub(self.before.all);
        let busy = now.busy.saturating_sub(self.before.busy);
        self.before = now;
        System {
            cookies_sent: tcp("SyncookiesSent"),
            cookies_taken: tcp("SyncookiesRecv"),
            cookies_failed: tcp("SyncookiesFailed"),
            listen_drops: tcp("ListenDrops"),
            queue_drops: queue_drops(&read("/proc/thread-self/net/softnet_stat")),
            received_packets,
            received_bytes,
            missed_packets,
            cpu_busy: if all == 0 { 0.0 } else { busy as f64 / all as f64 },
        }
    }
}

/// Two lines begin with the same word: names, then values.
fn field(text: &str, kind: &str, name: &str) -> u64 {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(kind));
    let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let at = names.split_whitespace().position(|word| word == name);
    at.and_then(|at| values.split_whitespace().nth(at)).and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// Of all interfaces but loopback: bytes, packets, and those that found no room (dropped and missed).
fn received(text: &str) -> (u64, u64, u64) {
    let lines = text.lines().filter_map(|line| line.split_once(':')).filter(|(name, _)| name.trim() != "lo");
    lines.fold((0, 0, 0), |(bytes, packets, missed), (_, words)| {
        let words: Vec<u64> = words.split_whitespace().map_while(|word| word.parse().ok()).collect();
        let at = |at: usize| words.get(at).copied().unwrap_or(0);
        (bytes + at(0), packets + at(1), missed + at(3))
    })
}

/// A line for each processor, in hex; the second word counts packets for which its queue had no room.
fn queue_drops(text: &str) -> u64 {
    let second = text.lines().filter_map(|line| line.split_whitespace().nth(1));
    second.filter_map(|word| u64::from_str_radix(word, 16).ok()).sum()
}

/// "cpu user nice system idle iowait irq softirq steal ..."; guests are in user already.
fn ticks(text: &str) -> Ticks {
    let line = text.lines().find_map(|line| line.strip_prefix("cpu ")).unwrap_or_default();
    let words: Vec<u64> = line.split_whitespace().take(8).filter_map(|word| word.parse().ok()).collect();
    let all: u64 = words.iter().sum();
    Ticks { busy: all - words.iter().skip(3).take(2).sum::<u64>(), all }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_by_name_and_place() {
        let netstat = "TcpExt: SyncookiesSent SyncookiesRecv ListenDrops\nTcpExt: 7 8 9\nIpExt: InNoRoutes\nIpExt: 3\n";
        assert_eq!(field(netstat, "TcpExt:", "ListenDrops"), 9);
        assert_eq!((field(netstat, "TcpExt:", "Nothing"), field("", "TcpExt:", "ListenDrops")), (0, 0));
        let dev = "Inter-|   Receive  |\n face |bytes packets errs drop\n    lo: 1 1 1 1 1\n  eth0: 100 10 0 2 0 0 0 0 5 5\n c0:50 5 0 1\n";
        assert_eq!(received(dev), (150, 15, 3));
        assert_eq!(queue_drops("0000a0 00000010 0\n0000b0 00000002 0\n"), 18);
        assert_eq!(ticks("cpu  10 0 5 80 5 0 0 0 9 9\ncpu0 1 1\n"), Ticks { busy: 15, all: 100 });
        assert_eq!(ticks(""), Ticks::default());
    }

    #[test]
    fn this_machine_says_something() {
        let mut symptoms = Symptoms::default();
        symptoms.look();
        let busy = symptoms.look().cpu_busy;
        assert!((0.0..=1.0).contains(&busy), "{busy}");
        assert!(symptoms.before.all > 0);
    }
}

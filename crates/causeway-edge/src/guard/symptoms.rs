//! What the machine itself says of a flood: its network namespace's counters, its queues, its processors.
//!
//! What cannot be read is 0: a symptom that is missing is none.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::wire::System;

/// More than any of these files holds, on a machine of a thousand processors.
const ROOM: usize = 1 << 18;
const STEP: usize = 16 << 10;

/// Ticks of all processors: busy, and all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ticks {
    busy: u64,
    all: u64,
}

/// A file of the kernel's that is read again and again: opened once, which costs more than to read it.
#[derive(Debug)]
struct Told {
    path: &'static str,
    file: Option<File>,
}

impl Told {
    fn at(path: &'static str) -> Told {
        Told { path, file: None }
    }

    /// As it is now.
    fn read<'a>(&mut self, buffer: &'a mut Vec<u8>) -> &'a str {
        if self.file.is_none() {
            self.file = File::open(self.path).ok();
        }
        let Some(file) = &self.file else { return "" };
        let mut length = 0;
        while length < ROOM {
            buffer.resize(buffer.len().max(length + STEP), 0);
            match file.read_at(&mut buffer[length..], length as u64) {
                Ok(0) => break,
                Ok(more) => length += more,
                Err(_) => return "",
            }
        }
        std::str::from_utf8(&buffer[..length]).unwrap_or_default()
    }
}

/// The network namespace is that of the thread that looks first.
#[derive(Debug)]
pub struct Symptoms {
    netstat: Told,
    dev: Told,
    softnet: Told,
    stat: Told,
    buffer: Vec<u8>,
    before: Ticks,
}

impl Default for Symptoms {
    fn default() -> Symptoms {
        Symptoms {
            netstat: Told::at("/proc/thread-self/net/netstat"),
            dev: Told::at("/proc/thread-self/net/dev"),
            softnet: Told::at("/proc/thread-self/net/softnet_stat"),
            stat: Told::at("/proc/stat"),
            buffer: Vec::new(),
            before: Ticks::default(),
        }
    }
}

impl Symptoms {
    /// As they are now.
    pub fn look(&mut self) -> System {
        let buffer = &mut self.buffer;
        let names = ["SyncookiesSent", "SyncookiesRecv", "SyncookiesFailed", "ListenDrops"];
        let [cookies_sent, cookies_taken, cookies_failed, listen_drops] =
            fields(self.netstat.read(buffer), "TcpExt:", names);
        let (received_bytes, received_packets, missed_packets) = received(self.dev.read(buffer));
        let queue_drops = queue_drops(self.softnet.read(buffer));
        let now = ticks(self.stat.read(buffer));
        let all = now.all.saturating_sub(self.before.all);
        let busy = now.busy.saturating_sub(self.before.busy);
        self.before = now;
        System {
            cookies_sent,
            cookies_taken,
            cookies_failed,
            listen_drops,
            queue_drops,
            received_packets,
            received_bytes,
            missed_packets,
            cpu_busy: if all == 0 { 0.0 } else { busy as f64 / all as f64 },
        }
    }
}

/// Two lines begin with the same word: names, then values.
fn fields<const N: usize>(text: &str, kind: &str, wanted: [&str; N]) -> [u64; N] {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(kind));
    let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let mut found = [0; N];
    for (name, value) in names.split_ascii_whitespace().zip(values.split_ascii_whitespace()) {
        if let Some(at) = wanted.iter().position(|wanted| *wanted == name) {
            found[at] = value.parse().unwrap_or(0);
        }
    }
    found
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
        assert_eq!(fields(netstat, "TcpExt:", ["ListenDrops", "Nothing", "SyncookiesSent"]), [9, 0, 7]);
        assert_eq!(fields("", "TcpExt:", ["ListenDrops"]), [0]);
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
        let first_ticks = symptoms.before.all;
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while symptoms.before.all == first_ticks && std::time::Instant::now() < deadline {
            let busy = symptoms.look().cpu_busy;
            assert!((0.0..=1.0).contains(&busy), "{busy}");
        }
        assert!(symptoms.before.all > first_ticks, "what is read again is what is there now");
    }
}

//! What a packet costs in the guard: ns by the kernel's own run-time statistics, with as many prefixes as are asked for
//! (`guard_cost 100000 1000000`), and what loading them takes.
//!
//! Packets come over a veth, natively, from as many sources as there are prefixes, so a table is as cold for each as it
//! is in a flood; the sender has the machine's other processor. The statistics' own two clock readings are in the
//! figures; an ARP frame, which the program leaves at once, shows them. Beside it the kernel's own trie with the same
//! IPv4 prefixes, in a program that does nothing else, on a wire of its own.
#![allow(clippy::unwrap_used)]

#[path = "beside/lpm_trie.rs"]
mod lpm_trie;
#[path = "../tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use causeway_bpf::Spot;
use causeway_bpf::flow::PortTable;
use causeway_bpf::guard::{Entry, Guard, Listener, Mode, Options, Prefix, PrefixSet};
use support::forge::Random;
use support::packet::{SYN, Tcp, tcp, udp};
use support::{EDGE, EDGE6, Namespace, at};

const FRAMES: usize = 400_000;
const BATCH: usize = 64;

fn memory(of: &str, line: &str) -> u64 {
    let text = std::fs::read_to_string(of).unwrap();
    let line = text.lines().find(|found| found.starts_with(line)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

/// Hosts, and one in eight a /24; or /64s and, one in eight, hosts.
fn prefixes(count: usize, is_ipv6: bool) -> Vec<Prefix> {
    let mut random = Random(7);
    (0..count)
        .map(|n| {
            let bits = u128::from(random.next()) << 96 | u128::from(random.next()) << 64 | u128::from(random.next());
            let (length, address) = match (is_ipv6, n % 8) {
                (false, 0) => (24, IpAddr::V4(Ipv4Addr::from_bits((bits >> 96) as u32 >> 9 << 8))),
                (false, _) => (32, IpAddr::V4(Ipv4Addr::from_bits((bits >> 97) as u32))),
                (true, 0) => (128, IpAddr::V6(Ipv6Addr::from_bits(0x2001_0db8 << 96 | bits >> 32))),
                (true, _) => (64, IpAddr::V6(Ipv6Addr::from_bits((0x2001_0db8 << 96 | bits >> 32) >> 64 << 64))),
            };
            Prefix::new(address, length).unwrap()
        })
        .collect()
}

/// Send frames by a packet socket of `interface`, from the namespace that it is in.
fn send(interface: u32, frames: &[Vec<u8>]) -> Duration {
    // SAFETY: plain numbers, for which zeroes are a value.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = libc::AF_PACKET as u16;
    to.sll_ifindex = interface as i32;
    to.sll_halen = 6;
    // SAFETY: plain numbers; the socket lives to the end of the program.
    let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0) };
    assert!(socket >= 0);
    let begin = Instant::now();
    for batch in frames.chunks(BATCH) {
        let mut parts: Vec<libc::iovec> =
            batch.iter().map(|f| libc::iovec { iov_base: f.as_ptr() as *mut _, iov_len: f.len() }).collect();
        let mut messages: Vec<libc::mmsghdr> = parts
            .iter_mut()
            .map(|part| {
                // SAFETY: plain numbers and pointers, for which zeroes are a value.
                let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
                message.msg_hdr.msg_iov = part;
                message.msg_hdr.msg_iovlen = 1;
                message.msg_hdr.msg_name = std::ptr::from_mut(&mut to).cast();
                message.msg_hdr.msg_namelen = size_of::<libc::sockaddr_ll>() as u32;
                message
            })
            .collect();
        loop {
            // SAFETY: as many messages as it says, of parts that outlive the call.
            let sent = unsafe { libc::sendmmsg(socket, messages.as_mut_ptr(), messages.len() as u32, 0) };
            let error = std::io::Error::last_os_error();
            if sent > 0 {
                break;
            }
            assert_eq!(error.raw_os_error(), Some(libc::ENOBUFS), "{error}"); // full for a moment
        }
    }
    begin.elapsed()
}

struct Bench {
    /// Where the guard is: it is gone when nobody has it.
    edge: Namespace,
    sender: Namespace,
    far: u32,
    guard: Guard,
}

impl Bench {
    fn new() -> Option<Bench> {
        let (edge, sender) = (Namespace::new()?, Namespace::new()?);
        edge.ip(&format!("link add g0 type veth peer name g1 netns {}", sender.path()));
        edge.ip("link set g0 up");
        sender.ip("link set g1 up");
        let guard = edge.run(|| Guard::open(&Options::default()));
        let guard = guard.map_err(|reason| eprintln!("SKIPPED: {reason}")).ok()?;
        let attachment = edge.run(|| guard.attach(edge.index("g0"))).unwrap();
        println!("attached: {attachment:?}");
        let mut table = PortTable::default();
        table.set(1000..=1999, 1);
        for ip in [EDGE, EDGE6] {
            guard.set_ports(Spot::udp(ip.parse().unwrap()), &table).unwrap();
            guard.set_ports(Spot::tcp(ip.parse().unwrap()), &table).unwrap();
        }
        let listener = Listener { mode: Mode::Protect, sets: vec![1], ..Listener::default() };
        guard.set_listener(1, &listener).unwrap();
        let far = sender.index("g1");
        Some(Bench { edge, sender, far, guard })
    }

    fn tell(&self, what: &str, frames: &[Vec<u8>]) {
        self.tell_of(what, self.far, frames, |act| self.guard.timed(act));
    }

    /// The kernel's trie of the same prefixes.
    fn beside(&self, list: &[Prefix]) {
        let begin = Instant::now();
        let trie = lpm_trie::Trie::new(list).unwrap();
        println!("  BPF_MAP_TYPE_LPM_TRIE: loaded in {:.2?}", begin.elapsed());
        self.edge.ip(&format!("link add t0 type veth peer name t1 netns {}", self.sender.path()));
        self.edge.ip("link set t0 up");
        self.sender.ip("link set t1 up");
        let _link = self.edge.run(|| trie.attach(self.edge.index("t0"))).unwrap();
        let far = self.sender.index("t1");
        let arp = vec![[&[0xff; 12][..], &[8, 6], &[0; 46]].concat(); 100_000];
        self.tell_of("  BPF_MAP_TYPE_LPM_TRIE, an ARP frame", far, &arp, |act| trie.timed(act));
        let dropped = frames(list, false, FRAMES);
        self.tell_of("  BPF_MAP_TYPE_LPM_TRIE, dropped", far, &dropped, |act| trie.timed(act));
        self.edge.ip("link del t0");
    }

    fn tell_of(
        &self,
        what: &str,
        far: u32,
        frames: &[Vec<u8>],
        timed: impl Fn(&mut dyn FnMut()) -> std::io::Result<(u64, u64)>,
    ) {
        let of = |_: usize| {
            let mut took = Duration::ZERO;
            let (runs, ns) = timed(&mut || {
                took = self.sender.run(|| send(far, frames));
                std::thread::sleep(Duration::from_millis(20)); // what is still in the queue
            })
            .unwrap();
            (ns as f64 / runs as f64, frames.len() as f64 / took.as_secs_f64() / 1e6)
        };
        let mut rounds: Vec<(f64, f64)> = (0..5).map(of).collect();
        rounds.sort_by(|one, other| one.0.total_cmp(&other.0));
        println!(
            "{what}: median {:.0} ns, worst {:.0} ns a packet ({:.2} Mpps sent)",
            rounds[2].0, rounds[4].0, rounds[2].1
        );
    }
}

fn frames(prefixes: &[Prefix], is_tcp: bool, count: usize) -> Vec<Vec<u8>> {
    let mut random = Random(3);
    (0..count)
        .map(|_| {
            let prefix = prefixes[random.next() as usize % prefixes.len()];
            let from = SocketAddr::new(prefix.address(), 40_000 + random.below(1000) as u16);
            let to = at(if from.is_ipv4() { EDGE } else { EDGE6 }, 1000 + random.below(100) as u16);
            if is_tcp { tcp(from, to, &Tcp::new(SYN, 1, 0, b"")) } else { udp(from, to, b"0123456789012345") }
        })
        .collect()
}

fn main() {
    let Some(bench) = Bench::new() else { return };
    let arp = vec![[&[0xff; 12][..], &[8, 6], &[0; 46]].concat(); 100_000];
    bench.tell("an ARP frame (nothing but the clock readings and a look)", &arp);
    for count in std::env::args().skip(1).map(|word| word.parse::<usize>().unwrap()) {
        for is_ipv6 in [false, true] {
            let list = prefixes(count, is_ipv6);
            let family = if is_ipv6 { "IPv6" } else { "IPv4" };
            let (kernel, process) = (memory("/proc/meminfo", "MemAvailable"), memory("/proc/self/status", "VmRSS"));
            let begin = Instant::now();
            let set: PrefixSet = list.iter().map(|prefix| (*prefix, Entry::block())).collect();
            bench.guard.swap_prefixes(1, set).unwrap();
            let took = begin.elapsed();
            let used = kernel.saturating_sub(memory("/proc/meminfo", "MemAvailable"));
            println!(
                "{count} {family} prefixes: loaded in {took:.2?}, {used} MB of the machine's memory, {} MB of them the process's",
                memory("/proc/self/status", "VmRSS").saturating_sub(process)
            );
            let mut took = BTreeMap::new();
            for n in 0..100u32 {
                let address = format!("100.{}.7.{n}", n % 50);
                let six = format!("2001:db8:{n:x}:7::{n:x}");
                let prefix = if is_ipv6 { six } else { address }.parse().unwrap();
                for entry in [Some(Entry::block()), None] {
                    let begin = Instant::now();
                    bench.guard.change_prefix(1, prefix, entry).unwrap();
                    took.insert(begin.elapsed(), n);
                }
            }
            println!(
                "  one entry more or less: median {:.0?}, worst {:.0?}",
                took.keys().nth(took.len() / 2).unwrap(),
                took.keys().last().unwrap()
            );
            if !is_ipv6 {
                bench.beside(&list);
            }
            bench.tell("  dropped by prefix, UDP", &frames(&list, false, FRAMES));
            bench.tell("  dropped by prefix, SYN", &frames(&list, true, FRAMES));
            let others: Vec<Prefix> = prefixes(count * 2, is_ipv6)[count..]
                .iter()
                .map(|prefix| match prefix.address() {
                    // 128.0.0.0 and up, or another /32, have no prefix
                    IpAddr::V4(v4) => Prefix::host(Ipv4Addr::from_bits(v4.to_bits() >> 1 | 1 << 31).into()),
                    IpAddr::V6(v6) => Prefix::host(Ipv6Addr::from_bits(v6.to_bits() ^ 1 << 70).into()),
                })
                .collect();
            bench.tell("  passed, in no prefix, UDP", &frames(&others, false, FRAMES / 2));
            let unguarded: Vec<Vec<u8>> = frames(&list, false, FRAMES / 2)
                .into_iter()
                .map(|mut frame| {
                    let at = if is_ipv6 { 56 } else { 36 };
                    frame[at..at + 2].copy_from_slice(&22u16.to_be_bytes());
                    frame
                })
                .collect();
            bench.tell("  to a port that is not guarded", &unguarded);
        }
    }
}

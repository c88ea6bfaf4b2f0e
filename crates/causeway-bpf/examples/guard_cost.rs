//! What a packet costs in the guard: ns by the kernel's own run-time statistics, with as many prefixes as are asked for
//! (`guard_cost 100000 1000000`), and what loading them takes; with the word `beside`, the kernel's own trie too.
//!
//! Packets come over a veth, natively, from as many sources as there are prefixes, so a table is as cold for each as it
//! is in a flood; the sender has the machine's other processor. The statistics' own two clock readings are in the
//! figures; a program that does nothing shows what they are, and each figure is told without them too. The parts of the
//! cost are of one packet over and over (`BPF_PROG_TEST_RUN`), so nothing is cold there and no statistics are in it.
#![allow(clippy::unwrap_used)]

#[path = "beside/lpm_trie.rs"]
mod lpm_trie;
#[path = "../tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use causeway_bpf::Spot;
use causeway_bpf::flow::{FlowPath, Options as FlowOptions, PortTable};
use causeway_bpf::guard::{Entry, Guard, Listener, Mode, Options, Prefix, PrefixSet, Settings};
use support::forge::Random;
use support::packet::{ACK, SYN, Tcp, tcp, udp};
use support::{EDGE, EDGE6, Namespace, at};

const FRAMES: usize = 400_000;
const ROUNDS: usize = 3;
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

/// A few frames that are sent over and over, each time from the next of many sources: a flood does not come out of a
/// memory of its own, which would push the tables out of the caches.
struct Flood {
    frames: Vec<Vec<u8>>,
    sources: Vec<IpAddr>,
    count: usize,
}

impl Flood {
    /// What comes from some of these, one by one: here the frames of one batch.
    fn of(count: usize, sources: Vec<IpAddr>, frame: impl Fn(SocketAddr, SocketAddr) -> Vec<u8>) -> Flood {
        let to = at(if sources[0].is_ipv4() { EDGE } else { EDGE6 }, 1000);
        let to = |n: usize| SocketAddr::new(to.ip(), 1000 + n as u16);
        let frames = (0..BATCH).map(|n| frame(SocketAddr::new(sources[0], 40_000), to(n))).collect();
        Flood { frames, sources, count }
    }

    fn fill(&mut self, batch: usize) {
        for (n, frame) in self.frames.iter_mut().enumerate() {
            match self.sources.get((batch * BATCH + n) % self.sources.len().max(1)) {
                Some(IpAddr::V4(source)) => frame[26..30].copy_from_slice(&source.octets()),
                Some(IpAddr::V6(source)) => frame[22..38].copy_from_slice(&source.octets()),
                None => (),
            }
        }
    }
}

/// Send frames by a packet socket of `interface`, from the namespace that it is in.
fn send(interface: u32, flood: &mut Flood) -> Duration {
    // SAFETY: plain numbers, for which zeroes are a value.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = libc::AF_PACKET as u16;
    to.sll_ifindex = interface as i32;
    to.sll_halen = 6;
    // SAFETY: plain numbers; the socket lives to the end of the program.
    let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0) };
    assert!(socket >= 0);
    let begin = Instant::now();
    for batch in 0..flood.count / BATCH {
        flood.fill(batch);
        let mut parts: Vec<libc::iovec> =
            flood.frames.iter().map(|f| libc::iovec { iov_base: f.as_ptr() as *mut _, iov_len: f.len() }).collect();
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
    /// What the statistics say of a program that does nothing.
    nothing_ns: f64,
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
        let mut bench = Bench { edge, sender, far, guard, nothing_ns: 0.0 };
        bench.nothing_ns =
            bench.beside(&[Prefix::host(Ipv4Addr::LOCALHOST.into())], "a program that does nothing", others());
        Some(bench)
    }

    /// What of the cost is whose, with nothing cold.
    fn parts(&self) {
        const REPEAT: u32 = 2_000_000;
        let from = |ip: &str| at(ip, 40_000);
        let blocked = [from("203.0.113.9"), from("2001:db8:7::9")];
        let set: PrefixSet = blocked.iter().map(|address| (Prefix::host(address.ip()), Entry::block())).collect();
        self.guard.swap_prefixes(1, set).unwrap();
        self.guard.swap_prefixes(2, [("192.0.2.9".parse().unwrap(), Entry::block())].into_iter().collect()).unwrap();
        let (web, web6) = (at(EDGE, 1000), at(EDGE6, 1000));
        let (other, other6) = (from("203.0.113.10"), from("2001:db8:7::10"));
        let data = b"0123456789012345";
        println!("parts, ns of one packet over and over:");
        let tell = |what: &str, frame: &[u8]| {
            let mut rounds: Vec<u32> = (0..3).map(|_| self.guard.cost(frame, REPEAT).unwrap()).collect();
            rounds.sort_unstable();
            println!("  {what}: {}", rounds[1]);
        };
        self.edge.run(|| {
            tell("an ARP frame: being called", &arp());
            tell("UDP to a port that is not guarded: reading it, and whose it is", &udp(other, at(EDGE, 22), data));
            let with = |sets: &[u16]| Listener { mode: Mode::Protect, sets: sets.to_vec(), ..Listener::default() };
            for (count, sets) in [(0, &[][..]), (1, &[1]), (2, &[1, 2])] {
                self.guard.set_listener(1, &with(sets)).unwrap();
                tell(&format!("UDP that passes, {count} sets"), &udp(other, web, data));
            }
            self.guard.set_listener(1, &with(&[1])).unwrap();
            tell("UDP over IPv6 that passes, 1 set", &udp(other6, web6, data));
            tell("UDP that is dropped", &udp(blocked[0], web, data));
            tell("UDP over IPv6 that is dropped", &udp(blocked[1], web6, data));
            tell("a SYN that is dropped", &tcp(blocked[0], web, &Tcp::new(SYN, 1, 0, b"")));
            tell("an ACK that is dropped: is it of a socket?", &tcp(blocked[0], web, &Tcp::new(ACK, 1, 1, b"")));
            let settings = |sample_every| Settings { sample_every, ..Settings::default() };
            self.guard.set_settings(&settings(1024)).unwrap();
            tell("UDP that is dropped, one in 1024 sampled", &udp(blocked[0], web, data));
            self.guard.set_settings(&settings(0)).unwrap();
            let pins = std::path::PathBuf::from(format!("/sys/fs/bpf/causeway-cost-{}", std::process::id()));
            let options = FlowOptions { pins: Some(pins.clone()), ..FlowOptions::default() };
            let flows = FlowPath::open(&options).unwrap();
            self.guard.join_flows(&pins).unwrap();
            tell("UDP that is dropped, with the fast path: is it of a flow?", &udp(blocked[0], web, data));
            tell("a SYN that is dropped, with the fast path", &tcp(blocked[0], web, &Tcp::new(SYN, 1, 0, b"")));
            drop(flows);
            FlowPath::flush(&options).unwrap();
        });
    }

    fn tell(&self, what: &str, flood: Flood) {
        self.tell_of(what, self.far, flood, |act| self.guard.timed(act));
    }

    /// The kernel's trie of the same prefixes.
    fn beside(&self, list: &[Prefix], what: &str, flood: Flood) -> f64 {
        let begin = Instant::now();
        let trie = lpm_trie::Trie::new(list).unwrap();
        let took = begin.elapsed();
        self.edge.ip(&format!("link add t0 type veth peer name t1 netns {}", self.sender.path()));
        self.edge.ip("link set t0 up");
        self.sender.ip("link set t1 up");
        let link = self.edge.run(|| trie.attach(self.edge.index("t0"))).unwrap();
        let far = self.sender.index("t1");
        let ns = self.tell_of(&format!("{what} (loaded in {took:.2?})"), far, flood, |act| trie.timed(act));
        drop(link);
        self.edge.ip("link del t0");
        ns
    }

    fn tell_of(
        &self,
        what: &str,
        far: u32,
        mut flood: Flood,
        timed: impl Fn(&mut dyn FnMut()) -> std::io::Result<(u64, u64)>,
    ) -> f64 {
        let mut of = |_: usize| {
            let mut took = Duration::ZERO;
            let (runs, ns) = timed(&mut || {
                took = self.sender.run(|| send(far, &mut flood));
                std::thread::sleep(Duration::from_millis(20)); // what is still in the queue
            })
            .unwrap();
            (ns as f64 / runs as f64, flood.count as f64 / took.as_secs_f64() / 1e6)
        };
        let mut rounds: Vec<(f64, f64)> = (0..ROUNDS).map(&mut of).collect();
        rounds.sort_by(|one, other| one.0.total_cmp(&other.0));
        let (median, mpps) = rounds[ROUNDS / 2];
        println!(
            "{what}: median {median:.0} ns, worst {:.0} ns, without the statistics' own {:.0} ns ({mpps:.2} Mpps sent)",
            rounds[ROUNDS - 1].0,
            median - self.nothing_ns
        );
        median
    }
}

fn arp() -> Vec<u8> {
    [&[0xff; 12][..], &[8, 6], &[0; 46]].concat()
}

/// Nothing that the guard looks at.
fn others() -> Flood {
    Flood { frames: vec![arp(); BATCH], sources: Vec::new(), count: FRAMES }
}

/// Some of them, in any order.
fn sources(prefixes: &[Prefix]) -> Vec<IpAddr> {
    let mut random = Random(3);
    (0..FRAMES).map(|_| prefixes[random.next() as usize % prefixes.len()].address()).collect()
}

fn datagrams(sources: Vec<IpAddr>) -> Flood {
    Flood::of(FRAMES, sources, |from, to| udp(from, to, b"0123456789012345"))
}

fn syns(sources: Vec<IpAddr>) -> Flood {
    Flood::of(FRAMES, sources, |from, to| tcp(from, to, &Tcp::new(SYN, 1, 0, b"")))
}

fn main() {
    let Some(bench) = Bench::new() else { return };
    bench.tell("an ARP frame", others());
    let words: Vec<String> = std::env::args().skip(1).collect();
    let is_beside = words.iter().any(|word| word == "beside");
    for count in words.iter().filter(|word| *word != "beside").map(|word| word.parse::<usize>().unwrap()) {
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
            if is_beside && !is_ipv6 {
                bench.beside(&list, "  BPF_MAP_TYPE_LPM_TRIE, dropped", datagrams(sources(&list)));
            }
            bench.tell("  dropped by prefix, UDP", datagrams(sources(&list)));
            bench.tell("  dropped by prefix, SYN", syns(sources(&list)));
            let unlisted: Vec<Prefix> = prefixes(count * 2, is_ipv6)[count..]
                .iter()
                .map(|prefix| match prefix.address() {
                    // 128.0.0.0 and up, or another /32, have no prefix
                    IpAddr::V4(v4) => Prefix::host(Ipv4Addr::from_bits(v4.to_bits() >> 1 | 1 << 31).into()),
                    IpAddr::V6(v6) => Prefix::host(Ipv6Addr::from_bits(v6.to_bits() ^ 1 << 70).into()),
                })
                .collect();
            bench.tell("  passed, in no prefix, UDP", datagrams(sources(&unlisted)));
            let unguarded =
                Flood::of(FRAMES, sources(&list), |from, to| udp(from, SocketAddr::new(to.ip(), 22), b"0123"));
            bench.tell("  to a port that is not guarded", unguarded);
        }
    }
    bench.parts(); // last: it joins a fast path
}

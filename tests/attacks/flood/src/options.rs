//! What is asked for, and the fence around it.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::RangeInclusive;
use std::time::Duration;

pub const LONGEST: Duration = Duration::from_secs(60);

/// Attacks by the names of the project's reference (reliability.md, section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A01: SYN, everything random.
    SpoofedSyn,
    /// A02: SYN of one tool, without options, from random sources.
    FixedSyn,
    /// A04: ACK that belongs to nothing.
    Ack,
    /// A05: RST that guesses.
    Rst,
    /// A06: every set of flags, most of them impossible.
    Flags,
    /// A07: SYN-ACK that nobody asked for, from port 443.
    Reflected,
    /// A08 to A11: answers of DNS, NTP, SSDP, memcached and their like that nobody asked for.
    Amplified,
    /// A12: datagrams of 64 random bytes.
    Udp,
    /// A14: later fragments without a first one.
    Fragments,
    /// A15: GRE.
    Gre,
    /// A16: echo requests.
    Ping,
}

const KINDS: [(&str, Kind); 11] = [
    ("spoofed-syn", Kind::SpoofedSyn),
    ("fixed-syn", Kind::FixedSyn),
    ("ack", Kind::Ack),
    ("rst", Kind::Rst),
    ("flags", Kind::Flags),
    ("reflected", Kind::Reflected),
    ("amplified", Kind::Amplified),
    ("udp", Kind::Udp),
    ("fragments", Kind::Fragments),
    ("gre", Kind::Gre),
    ("ping", Kind::Ping),
];

impl Kind {
    pub fn name(self) -> &'static str {
        KINDS.iter().find(|(_, kind)| *kind == self).map_or("?", |(name, _)| name)
    }
}

#[derive(Debug)]
pub struct Options {
    pub kind: Kind,
    pub interface: u32,
    pub from_mac: [u8; 6],
    pub to_mac: [u8; 6],
    pub to: SocketAddrV4,
    pub to_ports: u16,
    pub sources: RangeInclusive<u32>,
    /// Packets per second; 0: as many as there can be.
    pub rate: u64,
    pub length: Duration,
}

const USAGE: &str = "KIND --interface NAME --to-mac MAC --to ADDRESS:PORT [--to-ports N] [--sources FIRST-LAST] \
                     [--rate PER_SECOND] [--seconds S]";

impl Options {
    pub fn read(mut words: impl Iterator<Item = String>) -> Result<Options, String> {
        let names = KINDS.map(|(name, _)| name).join(", ");
        let kind = words.next().ok_or_else(|| format!("causeway-flood {USAGE}"))?;
        let kind = KINDS.iter().find(|(name, _)| *name == kind).ok_or(format!("{kind}: KIND is one of {names}"))?.1;
        let (mut interface, mut to_mac, mut to) = (None, None, None);
        let (mut to_ports, mut rate, mut seconds) = (1u16, 0u64, 5f64);
        let mut sources = Ipv4Addr::new(198, 19, 0, 0).to_bits()..=Ipv4Addr::new(198, 19, 255, 255).to_bits();
        while let Some(name) = words.next() {
            let value = words.next().ok_or_else(|| format!("{name} needs a value"))?;
            let wrong = || format!("{name} {value}: not understood");
            match name.as_str() {
                "--interface" => interface = Some(value.clone()),
                "--to-mac" => to_mac = Some(mac(&value).ok_or_else(wrong)?),
                "--to" => to = Some(value.parse::<SocketAddrV4>().map_err(|_| wrong())?),
                "--to-ports" => to_ports = value.parse().map_err(|_| wrong())?,
                "--rate" => rate = value.parse().map_err(|_| wrong())?,
                "--seconds" => seconds = value.parse().map_err(|_| wrong())?,
                "--sources" => {
                    let (first, last) = value.split_once('-').ok_or_else(wrong)?;
                    let bits = |word: &str| word.parse::<Ipv4Addr>().map(Ipv4Addr::to_bits).map_err(|_| wrong());
                    sources = bits(first)?..=bits(last)?;
                }
                _ => return Err(format!("{name}: not an option; causeway-flood {USAGE}")),
            }
        }
        let name = interface.ok_or("--interface is needed")?;
        let about = |what: &str| {
            let path = format!("/sys/class/net/{name}/{what}");
            std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))
        };
        let index = about("ifindex")?.trim().parse().map_err(|_| "no index of the interface")?;
        let from_mac = mac(about("address")?.trim()).ok_or("the interface has no MAC")?;
        let length = Duration::try_from_secs_f64(seconds).map_err(|_| "--seconds: 0 to 60")?;
        let (to_mac, to) = (to_mac.ok_or("--to-mac is needed")?, to.ok_or("--to is needed")?);
        Ok(Options { kind, interface: index, from_mac, to_mac, to, to_ports, sources, rate, length })
    }

    /// Nothing of it may reach anybody but a test.
    pub fn fence(&self) -> Result<(), String> {
        let own = std::fs::read_link("/proc/thread-self/ns/net").map_err(|error| error.to_string())?;
        let is_the_machines = std::fs::read_link("/proc/1/ns/net").is_ok_and(|first| first == own);
        let routes = std::fs::read_to_string("/proc/thread-self/net/route").map_err(|error| error.to_string())?;
        let has_way_out = routes.lines().any(|line| line.split_whitespace().nth(1) == Some("00000000"));
        if is_the_machines || has_way_out {
            return Err("this network has a way out: run it in a namespace that has none".into());
        }
        if self.length > LONGEST {
            return Err(format!("--seconds: at most {}", LONGEST.as_secs()));
        }
        let is_for_tests = |bits: u32| bits & 0xFFFE_0000 == Ipv4Addr::new(198, 18, 0, 0).to_bits();
        if ![self.to.ip().to_bits(), *self.sources.start(), *self.sources.end()].into_iter().all(is_for_tests) {
            return Err("only addresses of 198.18.0.0/15 (RFC 2544)".into());
        }
        Ok(())
    }
}

/// Of `--interface NAME`.
pub fn interface(mut words: impl Iterator<Item = String>) -> Result<u32, String> {
    let name = words.next().filter(|word| word == "--interface").and(words.next()).ok_or("--interface is needed")?;
    let path = format!("/sys/class/net/{name}/ifindex");
    let index = std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    index.trim().parse().map_err(|_| "no index of the interface".into())
}

fn mac(text: &str) -> Option<[u8; 6]> {
    let mut bytes = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(bytes)
}

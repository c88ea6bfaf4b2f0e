//! `dispatch.bpf.c` at work in this network namespace: which ports are claimed and which sockets get their flows.
//!
//! All that it is lives in four descriptors, which may come from and go to another process: while one holder of
//! the link is left, claimed ports go to the sockets. Sockets leave by being closed.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use aya::programs::SkLookup;

use crate::ports::WORDS;
use crate::shared::{Slot, Spot, VERDICTS};
use crate::{PortSet, Unavailable, built, call};

/// The object of clang; empty if it could not be compiled. The ELF reader wants its words aligned.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/dispatch.bpf.o"));

#[derive(Debug)]
pub struct Dispatch(Parts);

/// What another process needs to take over.
#[derive(Debug)]
pub struct Parts {
    pub program: OwnedFd,
    pub link: OwnedFd,
    pub ports: OwnedFd,
    pub sockets: OwnedFd,
    pub verdicts: OwnedFd,
}

/// How many lookups ended in which way, over all processors since the program was loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdicts {
    pub passed: u64,
    pub assigned: u64,
    pub no_socket: u64,
    pub failed: u64,
}

/// A first packet to ask about.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    pub is_tcp: bool,
    pub source: SocketAddr,
    pub destination: SocketAddr,
}

impl Dispatch {
    /// Load the program and attach it to the network namespace of the calling thread. Nothing is claimed yet.
    ///
    /// # Errors
    /// Why this build or this machine cannot.
    pub fn attach() -> Result<Dispatch, Unavailable> {
        let (program, ports, sockets, verdicts) = load()?;
        let refused = |error| Unavailable::refused("the dispatch program could not be attached", error);
        let namespace = File::open("/proc/thread-self/ns/net").map_err(refused)?;
        let link = call::attach_sk_lookup(program.as_fd(), namespace.as_fd()).map_err(refused)?;
        Ok(Dispatch(Parts { program, link, ports, sockets, verdicts }))
    }

    pub fn from_parts(parts: Parts) -> Dispatch {
        Dispatch(parts)
    }

    pub fn into_parts(self) -> Parts {
        self.0
    }

    pub fn parts(&self) -> &Parts {
        &self.0
    }

    /// Make `ports` all that is claimed of `spot`, in one step.
    ///
    /// # Errors
    /// The kernel's; what was claimed stays.
    pub fn claim(&self, spot: Spot, ports: &PortSet) -> io::Result<()> {
        let map = self.0.ports.as_fd();
        if ports.is_empty() { call::delete(map, &spot) } else { call::update(map, &spot, ports.words()) }
    }

    /// What is claimed of `spot`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn claimed(&self, spot: Spot) -> io::Result<PortSet> {
        let mut words = Box::new([0u64; WORDS]);
        match call::lookup(self.0.ports.as_fd(), &spot, &mut *words) {
            Ok(()) => Ok(PortSet::from(words)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(PortSet::default()),
            Err(error) => Err(error),
        }
    }

    /// Everything that is claimed.
    ///
    /// # Errors
    /// The kernel's.
    pub fn spots(&self) -> io::Result<Vec<Spot>> {
        let mut spots = Vec::new();
        let room = Spot::tcp(std::net::Ipv4Addr::UNSPECIFIED.into());
        while let Some(next) = call::next_key(self.0.ports.as_fd(), spots.last(), room)? {
            spots.push(next);
        }
        Ok(spots)
    }

    /// Let `socket`, and the others of its `SO_REUSEPORT` group, have the flows of `slot`.
    ///
    /// # Errors
    /// The kernel's: it takes listening TCP and bound UDP sockets.
    pub fn give(&self, slot: Slot, socket: BorrowedFd<'_>) -> io::Result<()> {
        call::update(self.0.sockets.as_fd(), &(slot as u32), &(socket.as_raw_fd() as u64))
    }

    /// # Errors
    /// The kernel's.
    pub fn verdicts(&self) -> io::Result<Verdicts> {
        // Eight bytes for each processor that the kernel thinks possible; more room than needed is fine.
        let mut of_each = vec![0u64; possible_processors()?];
        let mut sum = |verdict: u32| {
            call::lookup(self.0.verdicts.as_fd(), &verdict, of_each.as_mut_slice())?;
            Ok::<u64, io::Error>(of_each.iter().sum())
        };
        const _: () = assert!(VERDICTS == 4);
        Ok(Verdicts { passed: sum(0)?, assigned: sum(1)?, no_socket: sum(2)?, failed: sum(3)? })
    }

    /// How many instructions the verifier looked at; 0: the kernel does not tell (before 5.16).
    ///
    /// # Errors
    /// The kernel's.
    pub fn verified(&self) -> io::Result<u32> {
        call::verified(self.0.program.as_fd())
    }

    /// What would become of `packet`: `Ok(Some(cookie))` of the socket that is chosen, `Ok(None)` if it passes.
    /// Which worker gets it the kernel decides later.
    ///
    /// # Errors
    /// `ConnectionRefused` where the program drops, else the kernel's.
    pub fn ask(&self, packet: Packet) -> io::Result<Option<u64>> {
        let mut context = Context::from(packet);
        match call::try_out(self.0.program.as_fd(), &mut context)? {
            0 => Err(io::ErrorKind::ConnectionRefused.into()),
            _ => Ok(Some(context.cookie).filter(|cookie| *cookie != 0)),
        }
    }
}

type Loaded = (OwnedFd, OwnedFd, OwnedFd, OwnedFd);

fn load() -> Result<Loaded, Unavailable> {
    built()?;
    raise_locked_memory();
    let mut object = aya::Ebpf::load(OBJECT)
        .map_err(|error| Unavailable::refused("the maps of the dispatch program could not be made", error))?;
    let map = |name: &str| {
        let map = object.map(name).ok_or_else(|| broken("a map is missing in the object"))?;
        let data = match map {
            aya::maps::Map::HashMap(data) | aya::maps::Map::SockMap(data) | aya::maps::Map::PerCpuArray(data) => data,
            _ => return Err(broken("a map in the object has another type")),
        };
        data.fd().as_fd().try_clone_to_owned().map_err(|error| Unavailable::refused("out of descriptors", error))
    };
    let (ports, sockets, verdicts) = (map("ports")?, map("sockets")?, map("verdicts")?);
    let program = object.program_mut("dispatch").ok_or_else(|| broken("the program is missing in the object"))?;
    let program: &mut SkLookup = program.try_into().map_err(|_| broken("the program has another type"))?;
    let refused = |error| Unavailable::refused("the dispatch program could not be loaded", error);
    program.load().map_err(refused)?;
    let fd = program.fd().map_err(refused)?.as_fd().try_clone_to_owned();
    Ok((fd.map_err(|error| Unavailable::refused("out of descriptors", error))?, ports, sockets, verdicts))
}

fn broken(reason: &str) -> Unavailable {
    Unavailable::Refused { what: "dispatch.bpf.o", reason: reason.to_string() }
}

/// Kernels before 5.11 count maps against this limit; failing is told by what fails then.
pub(crate) fn raise_locked_memory() {
    let limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: a readable rlimit.
    unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) };
}

/// The largest number in a list such as `0-3`, plus one.
pub(crate) fn possible_processors() -> io::Result<usize> {
    static KNOWN: OnceLock<usize> = OnceLock::new(); // it does not change until the next boot
    if let Some(known) = KNOWN.get() {
        return Ok(*known);
    }
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let last = text.trim().rsplit([',', '-']).next().and_then(|number| number.parse::<usize>().ok());
    let count = last.map(|last| last + 1);
    count
        .map(|count| *KNOWN.get_or_init(|| count))
        .ok_or_else(|| io::Error::other("the list of processors cannot be read"))
}

/// `struct bpf_sk_lookup` of the kernel.
#[repr(C)]
struct Context {
    cookie: u64,
    family: u32,
    protocol: u32,
    remote_ip4: [u8; 4],
    remote_ip6: [u8; 16],
    remote_port_be: [u8; 2],
    unused: u16,
    local_ip4: [u8; 4],
    local_ip6: [u8; 16],
    local_port: u32,
    /// The kernel insists on zeroes from here on.
    ingress_ifindex: u32,
    padding: u32,
}

const _: () = assert!(size_of::<Context>() == 72);

impl From<Packet> for Context {
    fn from(packet: Packet) -> Context {
        let halves = |address: SocketAddr| match address.ip() {
            std::net::IpAddr::V4(v4) => (v4.octets(), [0; 16]),
            std::net::IpAddr::V6(v6) => ([0; 4], v6.octets()),
        };
        let ((remote_ip4, remote_ip6), (local_ip4, local_ip6)) = (halves(packet.source), halves(packet.destination));
        Context {
            cookie: 0,
            family: (if packet.destination.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }) as u32,
            protocol: (if packet.is_tcp { libc::IPPROTO_TCP } else { libc::IPPROTO_UDP }) as u32,
            remote_ip4,
            remote_ip6,
            remote_port_be: packet.source.port().to_be_bytes(),
            unused: 0,
            local_ip4,
            local_ip6,
            local_port: packet.destination.port().into(),
            ingress_ifindex: 0,
            padding: 0,
        }
    }
}

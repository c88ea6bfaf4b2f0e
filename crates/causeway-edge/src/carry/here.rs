//! This machine as the fast path sees it: addresses, interfaces, ways to origins, and word of their changes.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::ops::RangeInclusive;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::choice::Machine;
use crate::sys;

const PINS: &str = "/sys/fs/bpf/causeway";
/// The form of keys and entries: another one is another place. Maps that are new, and more counters, are not another form.
pub const LAYOUT: &str = "flow-v1";
/// Fewer source ports than this are not worth it.
const LEAST_PORTS: usize = 1000;

/// As it was at one look; ways to origins are looked up once.
#[derive(Debug, Default)]
pub struct Here {
    local: Vec<IpAddr>,
    sources: Vec<IpAddr>,
    ways: RefCell<HashMap<IpAddr, Option<IpAddr>>>,
}

impl Here {
    /// `sources`: the addresses that origins are to be reached from; none: the kernel's choice.
    pub fn look(sources: &[IpAddr]) -> Here {
        Here { local: sys::local_addresses(), sources: sources.to_vec(), ways: RefCell::default() }
    }

    pub fn is_for(&self, sources: &[IpAddr]) -> bool {
        self.sources == sources
    }

    fn way(&self, origin: IpAddr) -> Option<IpAddr> {
        *self.ways.borrow_mut().entry(origin).or_insert_with(|| preferred_source(origin))
    }
}

impl Machine for Here {
    fn is_local(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.local.contains(&address)
    }

    fn addresses(&self, is_ipv4: bool) -> Vec<IpAddr> {
        let is_link_local = |address: &IpAddr| match address {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        let fits = |a: &&IpAddr| a.is_ipv4() == is_ipv4 && !a.is_loopback() && !is_link_local(a);
        let mut found: Vec<IpAddr> = self.local.iter().filter(fits).copied().collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    fn sources(&self, origin: IpAddr) -> Vec<IpAddr> {
        let Some(preferred) = self.way(origin) else { return Vec::new() };
        let mut given = self.sources.iter().filter(|source| source.is_ipv4() == origin.is_ipv4()).peekable();
        if given.peek().is_none() {
            return vec![preferred];
        }
        given.filter(|source| self.local.contains(source)).copied().collect()
    }
}

/// A connected datagram socket is told which address the kernel would use, and sends nothing.
fn preferred_source(origin: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = if origin.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).ok()?;
    socket.connect(SocketAddr::new(origin, 9)).ok()?;
    let source = socket.local_addr().ok()?.ip();
    (!source.is_loopback() && !source.is_unspecified()).then_some(source)
}

/// Every interface of this network namespace but loopback.
pub fn interfaces() -> Vec<u32> {
    let mut found = Vec::new();
    // SAFETY: the list ends with a zero index, is read before it is freed, and its names end with zero.
    unsafe {
        let list = libc::if_nameindex();
        let mut entry = list;
        while !entry.is_null() && (*entry).if_index != 0 {
            if std::ffi::CStr::from_ptr((*entry).if_name) != c"lo" {
                found.push((*entry).if_index);
            }
            entry = entry.add(1);
        }
        if !list.is_null() {
            libc::if_freenameindex(list);
        }
    }
    found
}

/// The larger block of ports that no socket of this machine gets by itself.
///
/// # Errors
/// Why there is none, ready to stand in brackets.
pub fn source_ports() -> Result<RangeInclusive<u16>, String> {
    const RANGE: &str = "net.ipv4.ip_local_port_range";
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut numbers = text.split_whitespace().filter_map(|number| number.parse::<u16>().ok());
    let (Some(first), Some(last)) = (numbers.next(), numbers.next()) else {
        return Err(format!("{RANGE} cannot be read"));
    };
    let below = 1024..=first.saturating_sub(1).max(1023);
    let above = last.saturating_add(1)..=u16::MAX;
    let larger = if above.len() > below.len() && last < u16::MAX { above } else { below };
    if larger.len() < LEAST_PORTS {
        return Err(format!("{RANGE} is {first}-{last}: leave {LEAST_PORTS} ports or more outside of it"));
    }
    Ok(larger)
}

/// Where the maps of the edge with this state directory are pinned; another network namespace is another edge.
pub fn pins(state_dir: &Path) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::MetadataExt;
    let namespace = std::fs::metadata("/proc/thread-self/ns/net").ok()?.ino();
    let state_dir = std::path::absolute(state_dir).ok()?;
    let mut hash = Sha256::new();
    hash.update(namespace.to_le_bytes());
    hash.update(state_dir.as_os_str().as_bytes());
    let id: String = hash.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    Some(Path::new(PINS).join(id).join(LAYOUT))
}

/// Word of changes of interfaces, addresses and routes: poll it, then [`Notices::take`].
#[derive(Debug)]
pub struct Notices(OwnedFd);

impl Notices {
    /// # Errors
    /// The kernel's.
    pub fn listen() -> io::Result<Notices> {
        const GROUPS: i32 = libc::RTMGRP_LINK
            | libc::RTMGRP_IPV4_IFADDR
            | libc::RTMGRP_IPV6_IFADDR
            | libc::RTMGRP_IPV4_ROUTE
            | libc::RTMGRP_IPV6_ROUTE;
        // SAFETY: no pointers.
        let fd = unsafe {
            libc::socket(
                libc::AF_NETLINK,
                libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
                libc::NETLINK_ROUTE,
            )
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just made it for us.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: all zeroes is a sockaddr_nl.
        let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
        address.nl_groups = GROUPS as u32;
        // SAFETY: address and length belong together.
        let bound =
            unsafe { libc::bind(fd, (&raw const address).cast(), size_of::<libc::sockaddr_nl>() as libc::socklen_t) };
        if bound == 0 { Ok(Notices(socket)) } else { Err(io::Error::last_os_error()) }
    }

    /// Was there any? What it says does not matter: all is looked at anew.
    pub fn take(&self) -> bool {
        let mut buffer = [0u8; 8192];
        let mut is_any = false;
        loop {
            match sys::recv(self.0.as_raw_fd(), &mut buffer) {
                Ok(bytes) if bytes > 0 => is_any = true,
                // More than the socket could hold: something has changed.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => is_any = true,
                _ => return is_any,
            }
        }
    }
}

impl AsRawFd for Notices {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

//! What this machine lets the edge do, found by trying where trying leaves no trace.
//!
//! Each answer is a name that scripts can rely on, yes or no, and a sentence: what it means and, when it is off,
//! what to do. Nothing here decides anything: the engine tries for itself and copes.

mod bpf;

use std::fs;
use std::io;
use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use serde::Serialize;
use socket2::{Domain, Protocol, Socket, Type};

const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_SYS_RESOURCE: u32 = 24;
const CAP_BPF: u32 = 39;

/// Oldest kernel with sk_lookup; everything else the edge uses is older.
const FULL_KERNEL: (u32, u32) = (5, 9);
const BULK_PIPE_BYTES: u64 = 1 << 20;
const SPARE_FILES: u64 = 200; // listeners, event loops, files

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Capability {
    pub name: &'static str,
    pub available: bool,
    pub detail: String,
}

/// Look at this machine as the calling thread may use it.
pub fn probe() -> Vec<Capability> {
    vec![
        kernel(),
        low_ports(),
        icmp_reply(),
        capability("net_admin", CAP_NET_ADMIN, "CAP_NET_ADMIN", "XDP filters and transparent source addresses"),
        capability("cap_bpf", CAP_BPF, "CAP_BPF", "kernel programs"),
        bpf_maps(),
        sk_lookup(),
        fast_path(),
        guard(),
        btf(),
        splice(),
        open_files(),
        ephemeral_ports(),
        ipv6(),
        option(
            "bind_address_no_port",
            Type::STREAM,
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            Meaning {
                on: "a source address can be chosen without using up a port for all origins together",
                off: "each source address has its ephemeral ports once for all origins together: use Linux 4.2 or newer",
            },
        ),
        option(
            "reuse_port",
            Type::STREAM,
            libc::SOL_SOCKET,
            libc::SO_REUSEPORT,
            Meaning {
                on: "every worker has listeners of its own and the kernel spreads connections over them",
                off: "only one worker can listen on a port: use Linux 3.9 or newer",
            },
        ),
        option(
            "udp_gso",
            Type::DGRAM,
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            Meaning {
                on: "many datagrams of one flow can be sent with one call",
                off: "every datagram costs a send of its own: use Linux 4.18 or newer",
            },
        ),
        option(
            "udp_gro",
            Type::DGRAM,
            libc::SOL_UDP,
            libc::UDP_GRO,
            Meaning {
                on: "many datagrams of one flow can be received with one call",
                off: "every datagram is received by itself: use Linux 5.0 or newer",
            },
        ),
        io_uring(),
    ]
}

fn io_uring() -> Capability {
    let ring = crate::outbox::try_ring();
    let available = ring.is_ok();
    let detail = match ring {
        Ok(()) => "Available: the messages of one turn of a worker leave with one call.".into(),
        Err(error) => format!(
            "Not available ({error}): every message leaves with a call of its own; see sysctl kernel.io_uring_disabled \
             and, in a container, its seccomp profile."
        ),
    };
    answer("io_uring", available, detail)
}

fn answer(name: &'static str, available: bool, detail: String) -> Capability {
    Capability { name, available, detail }
}

fn kernel() -> Capability {
    let release = read("/proc/sys/kernel/osrelease").unwrap_or_default();
    let (major, minor) = FULL_KERNEL;
    let is_new = version(&release).is_some_and(|found| found >= FULL_KERNEL);
    let detail = if is_new {
        format!("Linux {release} has everything that the edge can use.")
    } else {
        format!(
            "Linux {release} is older than {major}.{minor} or unknown: the edge works, one socket per port; upgrade for port ranges on one socket."
        )
    };
    answer("kernel", is_new, detail)
}

fn low_ports() -> Capability {
    // A bind is the only judge that knows user namespaces; UDP on loopback disturbs nobody.
    let refused = match UdpSocket::bind("127.0.0.1:1") {
        Err(error) => error.kind() == io::ErrorKind::PermissionDenied,
        Ok(_) => false,
    };
    let first_free = read_number("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or(1024);
    let detail = if refused {
        format!(
            "Ports below {first_free} cannot be listened on: grant CAP_NET_BIND_SERVICE (systemd: AmbientCapabilities=) \
             or set sysctl net.ipv4.ip_unprivileged_port_start lower."
        )
    } else {
        "Ports below 1024, such as 22, 53 and 443, can be listened on.".to_string()
    };
    answer("low_ports", !refused, detail)
}

fn icmp_reply() -> Capability {
    let opened = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4));
    let detail = match &opened {
        Ok(_) => "Raw ICMP sockets can be opened: UDP clients are told when an origin's port is closed.".to_string(),
        Err(error) => format!(
            "Raw ICMP sockets cannot be opened ({error}): UDP clients run into their own time-out when an origin's port \
             is closed; grant CAP_NET_RAW to tell them."
        ),
    };
    answer("icmp_reply", opened.is_ok(), detail)
}

fn capability(name: &'static str, bit: u32, title: &str, what: &str) -> Capability {
    let is_held = holds(bit);
    let detail = if is_held {
        format!("{title} is held: {what} are possible.")
    } else {
        format!("{title} is not held: {what} stay off and user space does the work; grant it to switch them on.")
    };
    answer(name, is_held, detail)
}

fn bpf_maps() -> Capability {
    let detail = match bpf::create_map() {
        Ok(()) => return answer("bpf", true, "A BPF map could be created: kernel programs can be used.".to_string()),
        Err(error) => error,
    };
    let detail = format!(
        "A BPF map could not be created ({detail}): kernel programs stay off and user space does the work; grant CAP_BPF \
         and let the container's seccomp profile pass bpf(2)."
    );
    answer("bpf", false, detail)
}

fn sk_lookup() -> Capability {
    if let Err(missing) = causeway_bpf::built() {
        let detail =
            format!("This build has no kernel programs ({missing}): every port of a range needs a socket of its own.");
        return answer("sk_lookup", false, detail);
    }
    let detail = match bpf::load_sk_lookup() {
        Ok(()) => {
            let detail = "An sk_lookup program could be loaded: any port range can sit on one socket.";
            return answer("sk_lookup", true, detail.to_string());
        }
        Err(error) => error,
    };
    let detail = format!(
        "An sk_lookup program could not be loaded ({detail}): every port of a range needs a socket of its own; use Linux \
         5.9 or newer and grant CAP_BPF and CAP_NET_ADMIN."
    );
    answer("sk_lookup", false, detail)
}

fn fast_path() -> Capability {
    let detail = match crate::carry::probe() {
        Ok(hook) => {
            let detail = format!(
                "Plain flows between other machines never leave the kernel ({}), and outlive this process. IP access \
                 rules and limits are kept by the engine: applications that have some are carried by it.",
                hook.name()
            );
            return answer("fast_path", true, detail);
        }
        Err(reason) => reason,
    };
    let detail = format!(
        "Plain flows are carried by the engine, not by the kernel ({detail}): use Linux 6.1 or newer, run with CAP_BPF, \
         CAP_NET_ADMIN and, to mount /sys/fs/bpf, CAP_SYS_ADMIN."
    );
    answer("fast_path", false, detail)
}

fn guard() -> Capability {
    let detail = match crate::guard::probe() {
        Ok(()) => {
            let detail = "Packets can be judged before the stack sees them (XDP), with causeway up --guard on; causeway \
                          status names the interfaces, and native or generic.";
            return answer("guard", true, detail.to_string());
        }
        Err(reason) => reason,
    };
    let detail = format!(
        "Packets are judged by the stack and the engine only ({detail}): use Linux 6.1 or newer and run with CAP_BPF and \
         CAP_NET_ADMIN."
    );
    answer("guard", false, detail)
}

fn btf() -> Capability {
    let is_there = fs::metadata("/sys/kernel/btf/vmlinux").is_ok();
    let detail = if is_there {
        "The kernel describes its types (BTF): one build of a kernel program fits this kernel."
    } else {
        "The kernel has no type description at /sys/kernel/btf/vmlinux: programs that read kernel structures stay off; \
         use a kernel built with CONFIG_DEBUG_INFO_BTF."
    };
    answer("btf", is_there, detail.to_string())
}

fn splice() -> Capability {
    let largest = read_number("/proc/sys/fs/pipe-max-size").unwrap_or(0);
    let pages = read_number("/proc/sys/fs/pipe-user-pages-soft").unwrap_or(0);
    let granted = largest_pipe();
    let is_full = granted.as_ref().is_ok_and(|bytes| *bytes >= BULK_PIPE_BYTES);
    let quota = match pages * page_bytes() / BULK_PIPE_BYTES {
        _ if holds(CAP_SYS_RESOURCE) || holds(CAP_SYS_ADMIN) => "without a limit on their number".to_string(),
        0 => "without a limit on their number".to_string(),
        count => {
            format!("for {count} bulk streams at once (sysctl fs.pipe-user-pages-soft = {pages}), smaller ones beyond")
        }
    };
    let detail = match granted {
        Ok(_) if is_full => format!("Bulk streams go through pipes of 1 MiB without being copied, {quota}."),
        Ok(bytes) => format!(
            "A pipe got {bytes} bytes instead of 1 MiB: bulk streams cost more system calls; set sysctl fs.pipe-max-size \
             (now {largest}) and fs.pipe-user-pages-soft (now {pages}) higher."
        ),
        Err(error) => {
            format!("No pipe could be made ({error}): bulk streams are copied; raise the limit of open files.")
        }
    };
    answer("splice", is_full, detail)
}

fn open_files() -> Capability {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live rlimit.
    let is_known = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0;
    let flows = limit.rlim_max.saturating_sub(SPARE_FILES) / 2;
    let is_ample = is_known && flows >= 10_000;
    let advice =
        if is_ample { "." } else { "; that is few: raise it (systemd: LimitNOFILE=1048576, shell: ulimit -Hn)." };
    let detail = format!(
        "{} files may be open now and {} after the start, which raises the soft limit to the hard one: room for about \
         {flows} connections{advice}",
        limit.rlim_cur, limit.rlim_max
    );
    answer("open_files", is_ample, detail)
}

fn ephemeral_ports() -> Capability {
    let range = read("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let reserved = read("/proc/sys/net/ipv4/ip_local_reserved_ports").unwrap_or_default();
    let Some((first, last)) = port_range(&range) else {
        return answer(
            "ephemeral_ports",
            false,
            "The range of ephemeral ports cannot be read: is /proc mounted?".to_string(),
        );
    };
    let count = usable_ports(first, last, &reserved);
    let is_ample = count >= 20_000;
    let advice = if is_ample { "for more" } else { "that is few" };
    let detail = format!(
        "Ports {first}-{last} give {count} connections at once to one port of one origin; {advice}: widen sysctl \
         net.ipv4.ip_local_port_range or give several origins."
    );
    answer("ephemeral_ports", is_ample, detail)
}

fn ipv6() -> Capability {
    let bound = UdpSocket::bind(SocketAddr::from((Ipv6Addr::LOCALHOST, 0)));
    let detail = match &bound {
        Ok(_) => "IPv6 works: ::1 could be bound.".to_string(),
        Err(error) => format!(
            "::1 could not be bound ({error}): only IPv4 can be served; set sysctl net.ipv6.conf.all.disable_ipv6=0 \
             (containers: enable IPv6 on the network)."
        ),
    };
    answer("ipv6", bound.is_ok(), detail)
}

struct Meaning {
    on: &'static str,
    off: &'static str,
}

/// Does a fresh socket take this integer option?
fn option(name: &'static str, kind: Type, level: i32, option: i32, meaning: Meaning) -> Capability {
    let set = Socket::new(Domain::IPV4, kind, None).and_then(|socket| {
        let one: libc::c_int = 1;
        let length = size_of_val(&one) as libc::socklen_t;
        // SAFETY: the pointer and length describe `one`.
        match unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const one).cast(), length) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    });
    match set {
        Ok(()) => answer(name, true, format!("Available: {}.", meaning.on)),
        Err(error) => answer(name, false, format!("Not available ({error}): {}.", meaning.off)),
    }
}

fn largest_pipe() -> io::Result<u64> {
    let mut ends = [0; 2];
    // SAFETY: the pointer is to two integers.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave us these two descriptors, nobody else knows them.
    let [read, _write] = ends.map(|end| unsafe { OwnedFd::from_raw_fd(end) });
    // SAFETY: fcntl with integer arguments touches no memory of ours. A refused size leaves the default one.
    let bytes = unsafe {
        libc::fcntl(read.as_raw_fd(), libc::F_SETPIPE_SZ, BULK_PIPE_BYTES as libc::c_int);
        libc::fcntl(read.as_raw_fd(), libc::F_GETPIPE_SZ)
    };
    u64::try_from(bytes).map_err(|_| io::Error::last_os_error())
}

/// Is this capability effective for the calling thread?
fn holds(bit: u32) -> bool {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).is_some_and(|bits| bits >> bit & 1 == 1)
}

fn page_bytes() -> u64 {
    // SAFETY: sysconf has no memory arguments.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_string())
}

fn read_number(path: &str) -> Option<u64> {
    read(path)?.parse().ok()
}

/// Major and minor of a release such as `6.1.0-18-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn port_range(text: &str) -> Option<(u16, u16)> {
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next()?, numbers.next()?) {
        (Ok(first), Ok(last)) if first <= last => Some((first, last)),
        _ => None,
    }
}

/// Ports of the range that are not in the reserved list (`80,5000-5100`).
fn usable_ports(first: u16, last: u16, reserved: &str) -> usize {
    let reserved: Vec<(u16, u16)> = reserved
        .split(',')
        .filter_map(|part| {
            port_range(&part.replace('-', " ")).or_else(|| part.trim().parse().ok().map(|port| (port, port)))
        })
        .collect();
    (first..=last).filter(|port| !reserved.iter().any(|(from, to)| (from..=to).contains(&port))).count()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

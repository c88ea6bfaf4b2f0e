//! A client, an edge and an origin, each in a network namespace of its own, in a row: client - edge - origin.
#![allow(dead_code, clippy::unwrap_used)]

pub mod forge;
pub mod model;
pub mod packet;

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::{Duration, Instant};

use causeway_bpf::flow::{Carried, CarriedOrigin, FlowEvent, FlowEvents, FlowPath, HeaderKind, Options, PortTable};
use causeway_bpf::guard::Guard;
use causeway_bpf::{Spot, Unavailable};

pub const DEADLINE: Duration = Duration::from_secs(10);
pub const CLIENT: &str = "198.18.1.2";
pub const EDGE: &str = "198.18.1.1";
pub const ORIGIN: &str = "198.18.2.2";
pub const SOURCE: &str = "198.18.2.1";
pub const CLIENT6: &str = "2001:db8:1::2";
pub const EDGE6: &str = "2001:db8:1::1";
pub const ORIGIN6: &str = "2001:db8:2::2";
pub const SOURCE6: &str = "2001:db8:2::1";

pub fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

/// Ask again until it answers something, or fail with what it was about.
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begin.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// None, and a word of why, where this machine has no guard; that a program is not accepted is a failure.
pub fn guard(opened: Result<Guard, Unavailable>) -> Option<Guard> {
    match opened {
        Ok(guard) => Some(guard),
        Err(reason) => {
            assert!(causeway_bpf::built().is_err(), "{reason}");
            assert!(!reason.to_string().contains("could not compile"), "{reason}");
            eprintln!("SKIPPED: no guard ({reason})");
            None
        }
    }
}

pub struct Namespace(File);

impl Namespace {
    /// None, and a word of why, where that is not permitted.
    pub fn new() -> Option<Namespace> {
        let made = std::thread::spawn(|| {
            // SAFETY: no pointers; it concerns this thread, which is new.
            (unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0).then(|| File::open("/proc/thread-self/ns/net").unwrap())
        });
        let made = made.join().unwrap();
        if made.is_none() {
            eprintln!("SKIPPED: no network namespace of its own (CAP_SYS_ADMIN)");
        }
        let made = Namespace(made?);
        made.ip("link set lo up");
        Some(made)
    }

    /// Do something there, in a thread.
    pub fn run<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let run = scope.spawn(|| {
                self.enter();
                act()
            });
            run.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// This thread is there from now on.
    pub fn enter(&self) {
        // SAFETY: a descriptor of a namespace; it concerns the calling thread.
        assert_eq!(unsafe { libc::setns(self.0.as_raw_fd(), libc::CLONE_NEWNET) }, 0);
    }

    pub fn ip(&self, arguments: &str) {
        let status = self.run(|| Command::new("ip").args(arguments.split(' ')).status());
        assert!(status.is_ok_and(|status| status.success()), "ip {arguments}");
    }

    pub fn set(&self, name: &str, value: &str) {
        self.run(|| std::fs::write(format!("/proc/sys/net/{name}"), value)).unwrap_or_else(|e| panic!("{name}: {e}"));
    }

    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// The index of an interface. The same number may be another one's elsewhere.
    pub fn index(&self, name: &str) -> u32 {
        let name = std::ffi::CString::new(name).unwrap();
        // SAFETY: a string that ends with zero.
        let index = self.run(|| unsafe { libc::if_nametoindex(name.as_ptr()) });
        assert_ne!(index, 0);
        index
    }
}

/// A mount namespace with a bpffs of this test's own.
pub fn own_bpffs() {
    // SAFETY: no pointers; it concerns this thread and those that it starts.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, 0);
    for arguments in [&["--make-rprivate", "/"][..], &["-t", "bpf", "bpf", "/sys/fs/bpf"]] {
        assert!(Command::new("mount").args(arguments).status().unwrap().success());
    }
}

pub struct World {
    pub client: Namespace,
    pub edge: Namespace,
    pub origin: Namespace,
    pub path: FlowPath,
    pub events: FlowEvents,
}

pub fn options() -> Options {
    Options { capacity_v4: 4096, capacity_v6: 1024, ..Options::default() }
}

pub fn world() -> Option<World> {
    world_with(&options())
}

pub fn world_with(options: &Options) -> Option<World> {
    let (client, edge, origin) = (Namespace::new()?, Namespace::new()?, Namespace::new()?);
    for (near, far, net, there) in [("c0", "c1", 1, &client), ("o0", "o1", 2, &origin)] {
        edge.ip(&format!("link add {near} type veth peer name {far} netns {}", there.path()));
        for (at, name, last) in [(&edge, near, 1), (there, far, 2)] {
            at.ip(&format!("addr add 198.18.{net}.{last}/24 dev {name}"));
            at.ip(&format!("addr add 2001:db8:{net}::{last}/64 dev {name} nodad"));
            at.ip(&format!("link set {name} up"));
        }
    }
    let path = match edge.run(|| FlowPath::open(options)) {
        Ok(path) => path,
        Err(reason) => {
            // Built, and permitted to make namespaces: then it is ours to make it load.
            assert!(causeway_bpf::built().is_err(), "{reason}");
            assert!(!reason.to_string().contains("could not compile"), "{reason}");
            eprintln!("SKIPPED: no flow path ({reason})");
            return None;
        }
    };
    for name in ["c0", "o0"] {
        edge.run(|| path.attach(edge.index(name))).unwrap();
    }
    let events = path.events().unwrap();
    Some(World { client, edge, origin, path, events })
}

/// One origin, the addresses of this world, ports as they are.
pub fn carried(is_tcp: bool, header: HeaderKind, origin: &str) -> Carried {
    let address: IpAddr = origin.parse().unwrap();
    let source = if address.is_ipv4() { SOURCE } else { SOURCE6 };
    let origins = vec![CarriedOrigin { address, first_port: 1000, sources: vec![source.parse().unwrap()] }];
    Carried {
        id: [7; 16],
        is_tcp,
        header,
        is_transparent: false,
        edge_first_port: 1000,
        origins,
        choices: [0; 64],
        slots: vec![],
    }
}

/// The same, with the client's own address and port in front of the origin.
pub fn transparent(is_tcp: bool, origin: &str) -> Carried {
    let mut told = carried(is_tcp, HeaderKind::None, origin);
    told.is_transparent = true;
    told.origins[0].sources.clear();
    told
}

impl World {
    /// Carry TCP (indices 1, 2) and UDP (3, 4) of ports 1000 to 1999 of both families.
    pub fn carry(&self, header: [HeaderKind; 2]) {
        self.carry_as(|is_tcp, origin| carried(is_tcp, header[usize::from(!is_tcp)], origin));
    }

    /// The same with the client's own address; the origin routes back through the edge.
    pub fn carry_transparently(&self) {
        self.carry_as(transparent);
        self.origin.ip(&format!("route add default via {SOURCE}"));
        self.origin.ip(&format!("-6 route add default via {SOURCE6}"));
    }

    fn carry_as(&self, told: impl Fn(bool, &str) -> Carried) {
        for (index, is_tcp, edge, origin) in
            [(1, true, EDGE, ORIGIN), (2, true, EDGE6, ORIGIN6), (3, false, EDGE, ORIGIN), (4, false, EDGE6, ORIGIN6)]
        {
            self.path.set_application(index, &told(is_tcp, origin)).unwrap();
            let mut table = PortTable::default();
            table.set(1000..=1999, index);
            let edge = edge.parse().unwrap();
            self.path.set_ports(if is_tcp { Spot::tcp(edge) } else { Spot::udp(edge) }, &table).unwrap();
        }
    }

    pub fn listen(&self, address: SocketAddr) -> TcpListener {
        self.origin.run(|| TcpListener::bind(address)).unwrap()
    }

    pub fn connect(&self, address: SocketAddr) -> TcpStream {
        let stream = self.client.run(|| TcpStream::connect_timeout(&address, DEADLINE)).unwrap();
        patient(&stream);
        stream
    }

    pub fn udp(&self, at: &Namespace, address: SocketAddr) -> UdpSocket {
        let socket = at.run(|| UdpSocket::bind(address)).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket
    }

    pub fn event(&mut self) -> FlowEvent {
        let events = &mut self.events;
        eventually("an event", || events.next())
    }
}

/// A call with a time-out is not begun again by itself where a signal has interrupted it.
pub fn again<T>(mut call: impl FnMut() -> std::io::Result<T>) -> std::io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

pub fn patient(stream: &TcpStream) {
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream.set_nodelay(true).unwrap();
}

pub fn accept(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().unwrap();
    patient(&stream);
    stream
}

pub fn say(from: &mut TcpStream, to: &mut TcpStream, words: &[u8]) {
    from.write_all(words).unwrap();
    let mut heard = vec![0; words.len()];
    to.read_exact(&mut heard).unwrap();
    assert!(heard == words, "bytes differ");
}

/// Bytes that differ everywhere, the same for the same seed (xorshift).
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

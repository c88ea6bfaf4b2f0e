//! How late the WAN of a lab is: four nodes, each sends to the three others, so many packets a second in all, each way 20 ms.
//!
//! `cargo run --release -p causeway-lab --example accuracy -- [packets a second] [seconds]`, as root. Sent is the moment before
//! `send`, received the moment at which the kernel of the receiver has the packet, so the numbers hold all that the relay
//! does and nothing of the two programs.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::time::Duration;

const NODES: usize = 4;
const DELAY_NS: i64 = 20_000_000;
const PORT: u16 = 9_000;
const BYTES: usize = 200;
const GOAL_NS: i64 = 300_000;

fn main() -> io::Result<()> {
    let mut numbers = std::env::args().skip(1).filter_map(|word| word.parse::<u64>().ok());
    let (rate, seconds) = (numbers.next().unwrap_or(20_000), numbers.next().unwrap_or(10));
    let names: Vec<String> = (1..=NODES).map(|number| format!("accuracy-{}-{number}", std::process::id())).collect();
    ip(&[], &names.iter().map(|name| format!("netns add {name}\n")).collect::<String>())?;
    let measured = measure(&names, rate, seconds);
    ip(&[], &names.iter().map(|name| format!("netns delete {name}\n")).collect::<String>())?;
    measured
}

fn measure(names: &[String], rate: u64, seconds: u64) -> io::Result<()> {
    let socket = std::env::temp_dir().join(format!("{}.sock", names[0]));
    let (listener, world) = (UnixListener::bind(&socket)?, world(names));
    std::thread::spawn(move || causeway_lab::run(world.as_bytes(), listener).expect("the relay goes on"));
    let mut wan = UnixStream::connect(&socket)?;
    std::fs::remove_file(&socket)?;
    ask(&mut wan)?; // it answers once its devices are there
    for (number, name) in names.iter().enumerate() {
        let n = number + 1;
        let lines = format!(
            "link set wan0 address 02:00:00:00:00:0{n}\naddress add 198.18.{n}.1/15 dev wan0\nlink set wan0 up\n"
        );
        ip(&["-netns", name], &lines)?;
    }
    let sockets: Vec<UdpSocket> = names.iter().map(|name| socket_in(name)).collect::<io::Result<_>>()?;
    let senders: Vec<UdpSocket> = sockets.iter().map(UdpSocket::try_clone).collect::<io::Result<_>>()?;
    let total = rate * seconds;
    let sender = std::thread::spawn(move || send(&senders, rate, total));
    let late_ns = receive(&sockets, total)?;
    let sent = sender.join().expect("the sender sends")?;
    report(late_ns, sent, rate);
    println!("relay's own: {}", ask(&mut wan)?.trim().split(",\"links\"").next().unwrap_or_default());
    Ok(())
}

fn world(names: &[String]) -> String {
    let nodes: Vec<String> = (1..=NODES)
        .map(|n| {
            format!(
                r#"{{"name":"{n}","namespace":"/run/netns/{}","device":"wan0","mac":"02:00:00:00:00:0{n}","prefixes":["198.18.{n}.0/24"]}}"#,
                names[n - 1]
            )
        })
        .collect();
    let shape = format!(r#"{{"delay_us":{}}}"#, DELAY_NS / 1_000);
    let links: Vec<String> = (1..=NODES)
        .flat_map(|a| (a + 1..=NODES).map(move |b| (a, b)))
        .map(|(a, b)| format!(r#"{{"between":["{a}","{b}"],"there":{shape},"back":{shape}}}"#))
        .collect();
    format!(r#"{{"seed":1,"nodes":[{}],"links":[{}]}}"#, nodes.join(","), links.join(","))
}

fn ask(wan: &mut UnixStream) -> io::Result<String> {
    wan.write_all(b"{\"do\":\"status\",\"is_all\":false}\n")?;
    let mut line = String::new();
    BufReader::new(wan).read_line(&mut line)?;
    Ok(line)
}

fn ip(flags: &[&str], lines: &str) -> io::Result<()> {
    let mut child = Command::new("ip").args(flags).args(["-batch", "-"]).stdin(Stdio::piped()).spawn()?;
    child.stdin.take().expect("it was asked for").write_all(lines.as_bytes())?;
    if child.wait()?.success() { Ok(()) } else { Err(io::Error::other(format!("ip refused {lines}"))) }
}

/// A socket stays in the namespace in which it was made.
fn socket_in(name: &str) -> io::Result<UdpSocket> {
    let there = File::open(format!("/run/netns/{name}"))?;
    let made = std::thread::spawn(move || {
        // SAFETY: no memory is passed; the thread ends with this.
        if unsafe { libc::setns(there.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
            return Err(io::Error::last_os_error());
        }
        UdpSocket::bind(("0.0.0.0", PORT))
    });
    let socket = made.join().expect("no panic in it")?;
    socket.set_read_timeout(Some(Duration::from_millis(5)))?;
    for (option, value) in [(libc::SO_TIMESTAMPNS, 1i32), (libc::SO_RCVBUFFORCE, 32 << 20)] {
        // SAFETY: the value outlives the call and its size is told.
        unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                option,
                (&raw const value).cast(),
                size_of::<i32>() as libc::socklen_t,
            )
        };
    }
    Ok(socket)
}

fn real_ns() -> i64 {
    std::time::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_nanos() as i64)
}

/// Evenly, as long as the processor is there; what could not be sent in its time is sent after it.
fn send(sockets: &[UdpSocket], rate: u64, total: u64) -> io::Result<u64> {
    let priority = libc::sched_param { sched_priority: 1 };
    // SAFETY: the parameter outlives the call. Else a sender that waits for the processor would count as a late relay.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const priority) };
    let began_ns = causeway_lab::now_ns() + 50_000_000;
    let mut payload = [0; BYTES];
    for number in 0..total {
        let at_ns = began_ns + number * 1_000_000_000 / rate;
        while let Some(left_ns) = at_ns.checked_sub(causeway_lab::now_ns()).filter(|left| *left > 0) {
            std::thread::sleep(Duration::from_nanos(left_ns));
        }
        let from = number as usize % NODES;
        let to = (from + 1 + (number as usize / NODES) % (NODES - 1)) % NODES;
        payload[..8].copy_from_slice(&real_ns().to_be_bytes());
        sockets[from].send_to(&payload, address_of(to))?;
    }
    Ok(total)
}

fn address_of(node: usize) -> std::net::SocketAddrV4 {
    std::net::SocketAddrV4::new(std::net::Ipv4Addr::new(198, 18, node as u8 + 1, 1), PORT)
}

/// How much later than its delay each packet was; ends when all are there or none came for a second.
fn receive(sockets: &[UdpSocket], total: u64) -> io::Result<Vec<i64>> {
    let mut late_ns = Vec::with_capacity(total as usize);
    let mut last_ns = causeway_lab::now_ns();
    while (late_ns.len() as u64) < total && causeway_lab::now_ns() - last_ns < 1_000_000_000 {
        std::thread::sleep(Duration::from_millis(5)); // the kernel keeps them, with their time
        for socket in sockets {
            while let Some((sent_ns, received_ns)) = receive_one(socket) {
                late_ns.push(received_ns - sent_ns - DELAY_NS);
                last_ns = causeway_lab::now_ns();
            }
        }
    }
    Ok(late_ns)
}

fn receive_one(socket: &UdpSocket) -> Option<(i64, i64)> {
    let (mut payload, mut control) = ([0u8; BYTES], [0u64; 16]);
    let mut part = libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: BYTES };
    // SAFETY: all zeros is a valid msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    // SAFETY: the message points to what outlives the call, with its sizes; the header it leads to is read only if there.
    let time = unsafe {
        if libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) < 8 {
            return None;
        }
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        if header.is_null() || (*header).cmsg_type != libc::SCM_TIMESTAMPNS {
            return None;
        }
        libc::CMSG_DATA(header).cast::<libc::timespec>().read_unaligned()
    };
    let sent_ns = i64::from_be_bytes(payload[..8].try_into().ok()?);
    Some((sent_ns, time.tv_sec * 1_000_000_000 + time.tv_nsec))
}

fn report(mut late_ns: Vec<i64>, sent: u64, rate: u64) {
    late_ns.sort_unstable();
    let Some(last) = late_ns.len().checked_sub(1) else { return println!("nothing came") };
    let us = |share: f64| late_ns[(last as f64 * share) as usize] as f64 / 1_000.0;
    let within = late_ns.iter().filter(|late| late.abs() < GOAL_NS).count();
    println!(
        "{rate} packets/s in all: {} of {sent} came, {:.3} % within 0.3 ms of 20 ms",
        last + 1,
        within as f64 * 100.0 / (last + 1) as f64
    );
    println!(
        "late by us: least {:.0}, p50 {:.0}, p90 {:.0}, p99 {:.0}, p99.9 {:.0}, worst {:.0}",
        us(0.0),
        us(0.5),
        us(0.9),
        us(0.99),
        us(0.999),
        us(1.0)
    );
}

//! Sockets around `answer`: one thread, UDP and TCP, everything bounded. The table is swapped while it serves.
//!
//! Sockets share their port with those of another process of the same user, so that one can take over from the other
//! without a question unanswered. An answer leaves from the address that was asked.

use std::collections::HashMap;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::answer::{Kind, Reply, Transport, answer, truncated};
use crate::error::DnsError;
use crate::pace::{Pace, Verdict};
use crate::places::Places;
use crate::table::{Facts, Table};

const BATCH: usize = 16; // datagrams of one system call
const BUFFER_BYTES: usize = 65_535; // the kernel hands several of one asker over as one
const MOST_QUERY_BYTES: usize = 4_096; // no question comes near it
const MOST_CONNECTIONS: usize = 256;
const MOST_OF_ONE: usize = 16; // of one address
const MOST_QUESTIONS: usize = 100; // of one connection
const IDLE: Duration = Duration::from_secs(5);
const BACKLOG: i32 = 256;

/// All that is shared between who sets the table and who serves.
#[derive(Default)]
struct Shared {
    table: ArcSwapOption<Table>,
    places: ArcSwapOption<Places>,
    counts: Counts,
    connections: Mutex<HashMap<IpAddr, usize>>,
}

#[derive(Default)]
struct Counts {
    udp: AtomicU64,
    tcp: AtomicU64,
    answered: AtomicU64,
    negative: AtomicU64,
    refused: AtomicU64,
    malformed: AtomicU64,
    failed: AtomicU64,
    limited: AtomicU64,
    unsent: AtomicU64,
    connections_refused: AtomicU64,
    turn: AtomicU64,
}

/// Since the server has started. `limited`: truncated or dropped for coming too often. `unsent`: the kernel had no
/// room for the answer, or no way.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Counters {
    pub udp_total: u64,
    pub tcp_total: u64,
    pub answered_total: u64,
    pub negative_total: u64,
    pub refused_total: u64,
    pub malformed_total: u64,
    pub failed_total: u64,
    pub limited_total: u64,
    pub unsent_total: u64,
    pub connections_refused_total: u64,
    pub table: Option<Facts>,
    pub has_places: bool,
}

pub struct Server {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Server {
    /// # Errors
    /// One of the addresses cannot be listened on; then none is.
    pub fn start(listen: &[SocketAddr]) -> Result<Self, DnsError> {
        let mut sockets = Vec::new();
        for &address in listen {
            let bound = bind(address, Type::DGRAM).and_then(|udp| Ok((udp, bind(address, Type::STREAM)?)));
            sockets.push(bound.map_err(|why| DnsError::Listen { address, why })?);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(DnsError::Thread)?;
        let (stop, stopped) = watch::channel(false);
        let shared = Arc::new(Shared::default());
        let given = Arc::clone(&shared);
        let entered = runtime.enter();
        let sockets: Result<Vec<(UdpSocket, TcpListener)>, io::Error> = sockets
            .into_iter()
            .map(|(udp, tcp)| Ok((UdpSocket::from_std(udp.into())?, TcpListener::from_std(tcp.into())?)))
            .collect();
        drop(entered);
        let sockets = sockets.map_err(DnsError::Thread)?;
        let serve = move || runtime.block_on(run(sockets, given, stopped));
        let thread = std::thread::Builder::new().name("dns".to_string()).spawn(serve).map_err(DnsError::Thread)?;
        Ok(Self { shared, stop, thread: Mutex::new(Some(thread)) })
    }

    /// # Errors
    /// It is no table; the one before stays.
    pub fn set_table(&self, json: &[u8]) -> Result<Facts, DnsError> {
        let table = Table::compile(json)?;
        let facts = table.facts;
        self.shared.table.store(Some(Arc::new(table)));
        Ok(facts)
    }

    /// # Errors
    /// It is no MMDB file; the one before stays.
    pub fn set_places(&self, mmdb: Option<Vec<u8>>) -> Result<(), DnsError> {
        self.shared.places.store(mmdb.map(Places::from_mmdb).transpose()?.map(Arc::new));
        Ok(())
    }

    #[must_use]
    pub fn counters(&self) -> Counters {
        let (of, read) = (&self.shared.counts, |count: &AtomicU64| count.load(Ordering::Relaxed));
        Counters {
            udp_total: read(&of.udp),
            tcp_total: read(&of.tcp),
            answered_total: read(&of.answered),
            negative_total: read(&of.negative),
            refused_total: read(&of.refused),
            malformed_total: read(&of.malformed),
            failed_total: read(&of.failed),
            limited_total: read(&of.limited),
            unsent_total: read(&of.unsent),
            connections_refused_total: read(&of.connections_refused),
            table: self.shared.table.load().as_ref().map(|table| table.facts),
            has_places: self.shared.places.load().is_some(),
        }
    }

    /// Close the sockets, and return once they are.
    pub fn stop(&self) {
        self.stop.send_replace(true);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn bind(address: SocketAddr, kind: Type) -> io::Result<Socket> {
    let protocol = if kind == Type::DGRAM { Protocol::UDP } else { Protocol::TCP };
    let socket = Socket::new(Domain::for_address(address), kind.nonblocking().cloexec(), Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_port(true)?;
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?;
    }
    socket.bind(&address.into())?;
    if kind == Type::STREAM {
        socket.listen(BACKLOG)?;
    }
    Ok(socket)
}

async fn run(sockets: Vec<(UdpSocket, TcpListener)>, shared: Arc<Shared>, mut stopped: watch::Receiver<bool>) {
    let mut tasks = tokio::task::JoinSet::new();
    for (udp, tcp) in sockets {
        tasks.spawn(datagrams(udp, Arc::clone(&shared)));
        tasks.spawn(connections(tcp, Arc::clone(&shared)));
    }
    let _ = stopped.wait_for(|is_stopped| *is_stopped).await; // an error: nobody holds the server any more
}

async fn datagrams(socket: UdpSocket, shared: Arc<Shared>) {
    let Ok(state) = UdpSocketState::new((&socket).into()) else { return };
    let (mut pace, began) = (Pace::new(), Instant::now());
    let mut room = vec![0u8; BATCH * BUFFER_BYTES];
    let mut metas = [RecvMeta::default(); BATCH];
    loop {
        if socket.readable().await.is_err() {
            continue;
        }
        let mut buffers: Vec<IoSliceMut<'_>> = room.chunks_mut(BUFFER_BYTES).map(IoSliceMut::new).collect();
        let came = socket.try_io(Interest::READABLE, || state.recv((&socket).into(), &mut buffers, &mut metas));
        let Ok(count) = came else { continue };
        drop(buffers);
        let now_ms = began.elapsed().as_millis() as u64;
        for (meta, buffer) in metas.iter().zip(room.chunks(BUFFER_BYTES)).take(count) {
            let content = buffer.get(..meta.len).unwrap_or_default();
            for query in content.chunks(meta.stride.max(1)) {
                let verdict = pace.judge(meta.addr.ip(), now_ms);
                let Some(bytes) = shared.datagram(query, meta.addr.ip(), verdict) else { continue };
                let sent = Transmit {
                    destination: meta.addr,
                    ecn: None,
                    contents: &bytes,
                    segment_size: None,
                    src_ip: meta.dst_ip,
                };
                if socket.try_io(Interest::WRITABLE, || state.try_send((&socket).into(), &sent)).is_err() {
                    count_up(&shared.counts.unsent);
                }
            }
        }
    }
}

async fn connections(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok((stream, from)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await; // no descriptors, most likely
            continue;
        };
        match Place::take(&shared, from.ip()) {
            Some(place) => drop(tokio::spawn(connection(stream, from.ip(), place))),
            None => count_up(&shared.counts.connections_refused),
        }
    }
}

async fn connection(mut stream: TcpStream, asker: IpAddr, place: Place) {
    let _ = stream.set_nodelay(true);
    let mut query = Vec::new();
    for _ in 0..MOST_QUESTIONS {
        let Ok(Ok(length)) = timeout(IDLE, stream.read_u16()).await else { return };
        if usize::from(length) > MOST_QUERY_BYTES {
            return;
        }
        query.resize(usize::from(length), 0);
        let Ok(Ok(_)) = timeout(IDLE, stream.read_exact(&mut query)).await else { return };
        count_up(&place.shared.counts.tcp);
        let Some(bytes) = place.shared.answer(&query, asker, Transport::Tcp) else { return };
        let Ok(length) = u16::try_from(bytes.len()) else { return };
        let framed = [length.to_be_bytes().as_slice(), &bytes].concat();
        let Ok(Ok(())) = timeout(IDLE, stream.write_all(&framed)).await else { return };
    }
}

/// One of the connections that there may be, given back when it is dropped.
struct Place {
    shared: Arc<Shared>,
    of: IpAddr,
}

impl Place {
    fn take(shared: &Arc<Shared>, of: IpAddr) -> Option<Self> {
        let mut open = shared.connections.lock().unwrap_or_else(PoisonError::into_inner);
        if open.values().sum::<usize>() >= MOST_CONNECTIONS {
            return None;
        }
        let count = open.entry(of).or_default();
        if *count >= MOST_OF_ONE {
            return None;
        }
        *count += 1;
        Some(Self { shared: Arc::clone(shared), of })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.shared.connections.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.of) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.of);
            }
        }
    }
}

impl Shared {
    fn datagram(&self, query: &[u8], asker: IpAddr, verdict: Verdict) -> Option<Vec<u8>> {
        count_up(&self.counts.udp);
        if verdict != Verdict::Answer {
            count_up(&self.counts.limited);
        }
        match verdict {
            Verdict::Answer => self.answer(query, asker, Transport::Udp),
            Verdict::Truncate => catch_unwind(|| truncated(query)).ok().flatten(),
            Verdict::Drop => None,
        }
    }

    /// A panic of a library is one question unanswered, and not the end of the server.
    fn answer(&self, query: &[u8], asker: IpAddr, transport: Transport) -> Option<Vec<u8>> {
        if query.len() > MOST_QUERY_BYTES {
            return None;
        }
        let (table, places) = (self.table.load(), self.places.load());
        let turn = self.counts.turn.fetch_add(1, Ordering::Relaxed) as usize;
        let asked = AssertUnwindSafe(|| answer(table.as_deref(), places.as_deref(), query, asker, transport, turn));
        let Reply { bytes, kind } = catch_unwind(asked).ok().flatten()?;
        count_up(match kind {
            Kind::Answered => &self.counts.answered,
            Kind::Negative => &self.counts.negative,
            Kind::Refused => &self.counts.refused,
            Kind::Malformed => &self.counts.malformed,
            Kind::Failed => &self.counts.failed,
        });
        Some(bytes)
    }
}

fn count_up(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}

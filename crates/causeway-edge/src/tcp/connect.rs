//! Towards the origin: choose, connect, try the next, begin to relay.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use super::connection::State;
use super::{TcpPlane, counters};
use crate::application::Active;
use crate::clock::unix_ms;
use crate::event::Cause;
use crate::origin::Choice;
use crate::relay::Readiness;
use crate::snapshot::ProxyProtocol;
use crate::source;
use crate::sys;
use crate::worker::{Desk, Token};

impl TcpPlane {
    /// Try origins in order until one connect is under way.
    pub(super) fn connect(&mut self, desk: &mut Desk, slot: usize) {
        loop {
            if self.connections[slot].wants_path(desk.now_ms) && self.go_by_path(desk, slot) {
                return;
            }
            let connection = &mut self.connections[slot];
            let active = connection.active.clone();
            let offset = active.offset(connection.edge_address);
            let origin =
                match active.origins.choose(&mut connection.tried, connection.client_address.ip(), offset, desk.now_ms)
                {
                    Choice::Try(origin) => origin,
                    Choice::Wait(watched) => {
                        if connection.state != State::Resolving {
                            (connection.state, connection.since_ms) = (State::Resolving, desk.now_ms);
                            self.resolving.push((slot, connection.generation));
                            watched.wait_with(desk.wake_fd());
                        }
                        return self.arm(desk, slot);
                    }
                    Choice::Exhausted(cause) => {
                        let cause = *connection.last_failure.get_or_insert(cause);
                        if connection.gives_up_direct(desk.now_ms) {
                            continue;
                        }
                        return self.end_unanswered(desk, slot, cause);
                    }
                };
            connection.origin_address = Some(origin);
            let failure = match start_connect(&active, origin, &mut desk.next_source) {
                Ok(socket) => {
                    let fd = socket.as_raw_fd();
                    connection.origin = Some(socket);
                    (connection.state, connection.since_ms) = (State::Connecting, desk.now_ms);
                    connection.wait_for_origin(desk.now_ms);
                    connection.ready[1] = Readiness { watches_writable: true, ..Readiness::default() };
                    let interest = sys::IN | sys::OUT | sys::RDHUP | sys::EDGE;
                    if desk.epoll.add(fd, interest, Token::Origin.at(slot)).is_ok() {
                        return self.arm(desk, slot);
                    }
                    Cause::OutOfResources
                }
                Err(cause) => cause,
            };
            self.note_failure(desk, slot, failure);
        }
    }

    pub(super) fn note_failure(&mut self, desk: &Desk, slot: usize, cause: Cause) {
        let connection = &mut self.connections[slot];
        connection.origin = None;
        connection.last_failure = Some(cause);
        let counters = counters(&connection.active, desk);
        counters.connect_errors_total.add(1);
        let is_late = cause == Cause::ConnectTimeout && connection.is_hurried();
        match &connection.active.steered {
            Some(steered) if is_late => steered.reach.is_late(connection.since_ms, desk.now_ms),
            Some(steered) => steered.reach.failed(cause, desk.now_ms),
            None => {}
        }
        match (cause, connection.origin_address) {
            (Cause::PortsExhausted, _) => counters.ports_exhausted_total.add(1),
            (Cause::ConnectTimeout, Some(origin)) if is_late => connection.active.origins.is_late(origin, desk.now_ms),
            (Cause::ConnectTimeout, Some(origin)) => connection.active.origins.shun(origin, desk.now_ms),
            _ => {}
        }
    }

    pub(super) fn on_connected(&mut self, desk: &mut Desk, slot: usize) {
        let connection = &mut self.connections[slot];
        connection.state = State::Open;
        connection.connect_time_ms = unix_ms();
        connection.ready[1].is_writable = true;
        if let Some(origin) = connection.origin_address {
            connection.active.origins.welcome(origin);
        }
        if let (Some(steered), Some(socket)) = (&connection.active.steered, &connection.origin) {
            steered.reach.connected(socket.as_raw_fd(), desk.now_ms);
        }
        desk.events.write(connection.event(Cause::Opened, (desk.now_ms - connection.since_ms) * 1_000_000));
        connection.since_ms = desk.now_ms;
        if connection.tunnel.is_some() {
            self.tell_connected(slot);
        }
        let connection = &mut self.connections[slot];
        if connection.active.proxy_protocol() != ProxyProtocol::Off || !connection.early.is_empty() {
            self.send_header(slot);
        }
        self.arm(desk, slot);
        self.run(desk, slot);
    }
    /// Names have been answered: go on with those that waited.
    pub fn on_names(&mut self, desk: &mut Desk) {
        for (slot, generation) in std::mem::take(&mut self.resolving) {
            let is_waiting =
                self.connections.get(slot).is_some_and(|c| c.generation == generation && c.state == State::Resolving);
            if is_waiting {
                self.connect(desk, slot);
                if self.connections[slot].state == State::Resolving {
                    self.resolving.push((slot, generation));
                }
            }
        }
    }
}

pub(super) fn start_connect(active: &Active, origin: SocketAddr, next_source: &mut usize) -> Result<OwnedFd, Cause> {
    if !active.may_connect(origin) {
        return Err(Cause::OriginDenied);
    }
    let errno = |error: io::Error| connect_cause(error.raw_os_error().unwrap_or(libc::EIO));
    active.policy.sources().connect(origin, next_source, |source| {
        let socket = sys::stream_socket(origin).map_err(errno)?;
        let fd = socket.as_raw_fd();
        if let Some(source) = source {
            sys::bind_source(fd, source).map_err(|error| source::cause(&error).unwrap_or_else(|| errno(error)))?;
        }
        sys::connect(fd, origin).map_err(errno)?;
        Ok(socket)
    })
}

pub fn connect_cause(errno: i32) -> Cause {
    match errno {
        libc::ECONNREFUSED | libc::ECONNRESET => Cause::ConnectRefused,
        libc::ETIMEDOUT => Cause::ConnectTimeout,
        libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ENETDOWN | libc::EHOSTDOWN => Cause::ConnectUnreachable,
        libc::EADDRNOTAVAIL => Cause::PortsExhausted,
        libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS => Cause::OutOfResources,
        _ => Cause::ConnectFailed,
    }
}

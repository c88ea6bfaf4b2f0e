//! PROXY headers over TCP: the one a trusted proxy sends us, and the one an origin gets from us.

use std::io;
use std::os::fd::AsRawFd;

use causeway_wire::{accept, proxy_v1, proxy_v2};

use super::connection::Reset;
use super::{TcpPlane, banned, counters};
use crate::event::Cause;
use crate::relay::BUFFER_BYTES;
use crate::snapshot::ProxyProtocol;
use crate::sys;
use crate::worker::Desk;

impl TcpPlane {
    pub(super) fn read_header(&mut self, desk: &mut Desk, slot: usize) {
        let connection = &mut self.connections[slot];
        let Some(client) = &connection.client else { return };
        loop {
            let room = (accept::MAX_HEADER + BUFFER_BYTES / 4).saturating_sub(connection.early.len());
            let buffer = &mut self.tools.scratch()[..room];
            let n = match sys::recv(client.as_raw_fd(), buffer) {
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    connection.ready[0].is_readable = false;
                    return;
                }
                Err(_) => return self.close(desk, slot, Cause::ClientGone, Reset::Both),
            };
            connection.early.extend_from_slice(&buffer[..n]);
            match accept::parse(&connection.early) {
                Ok(accept::Parsed::Header { consumed, endpoints }) => {
                    connection.told = endpoints.map(Box::new);
                    connection.early.drain(..consumed);
                    if connection.active.gate.is_none() {
                        connection.up.bytes += connection.early.len() as u64;
                    }
                    if !connection.admits() {
                        return self.close(desk, slot, Cause::FirewallBlocked, Reset::Both);
                    }
                    let (active, client) = (connection.active.clone(), connection.endpoints().source.ip());
                    if let Some(cause) = banned(desk, &active, client, connection.edge_address.port()) {
                        counters(&active, desk).mitigation_refused_total.add(1);
                        return self.close(desk, slot, cause, Reset::Both);
                    }
                    match active.permit(client, desk.now_ms, &active.counters[desk.worker]) {
                        Ok(permit) => connection.permit = permit,
                        Err(cause) => return self.close(desk, slot, cause, Reset::Both),
                    }
                    return self.go_in(desk, slot);
                }
                Ok(accept::Parsed::NeedMore) if n > 0 => {}
                Ok(accept::Parsed::NeedMore) | Err(_) => {
                    return self.close(desk, slot, Cause::HeaderInvalid, Reset::Both);
                }
            }
        }
    }

    /// The header goes first and, where the client has sent bytes already, in one segment with them.
    pub(super) fn send_header(&mut self, slot: usize) {
        let connection = &mut self.connections[slot];
        let endpoints = connection.endpoints();
        let mut first = match connection.active.proxy_protocol() {
            ProxyProtocol::V1 => {
                let mut header = [0; 107];
                let n = proxy_v1::encode(&endpoints, &mut header);
                header[..n].to_vec()
            }
            ProxyProtocol::V2 => {
                let mut header = [0; 52];
                let n = proxy_v2::encode(&endpoints, proxy_v2::Transport::Stream, &mut header);
                header[..n].to_vec()
            }
            ProxyProtocol::Off | ProxyProtocol::Simple => Vec::new(), // simple is for datagrams
        };
        first.append(&mut connection.early);
        connection.early = Vec::new();
        let is_plain = connection.tunnel.as_ref().is_none_or(|tunnel| tunnel.client.is_none());
        if let Some(client) = &connection.client
            && is_plain
            && let buffer = &mut self.tools.scratch()[..BUFFER_BYTES - 512]
            && let Ok(n) = sys::recv(client.as_raw_fd(), buffer)
            && n > 0
        {
            first.extend_from_slice(&buffer[..n]);
            connection.up.bytes += n as u64;
        }
        match connection.tunnel.as_mut().and_then(|tunnel| tunnel.kept.as_mut()) {
            Some(kept) => kept.give_first(first),
            None => connection.up.hold(first),
        }
        connection.ready[0].is_readable = true; // an end may have come with the bytes
    }
}

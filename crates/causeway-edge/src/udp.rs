//! UDP sessions of one worker.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::application::Active;
use crate::snapshot::OnDelete;
use crate::worker::Desk;

#[derive(Debug)]
pub struct Listener {
    pub fd: OwnedFd,
    pub address: SocketAddr,
    pub active: Arc<Active>,
}

#[derive(Debug)]
pub struct UdpPlane {}

impl UdpPlane {
    pub fn new(_most_sessions: usize) -> io::Result<UdpPlane> {
        Ok(UdpPlane {})
    }
    pub fn listen(&mut self, _desk: &Desk, _listener: Listener) -> io::Result<usize> {
        Err(io::Error::other("UDP is not built yet"))
    }
    pub fn replace(&mut self, _slot: usize, _active: Arc<Active>) {}
    pub fn unlisten(&mut self, _desk: &mut Desk, _slot: usize) {}
    pub fn on_listener(&mut self, _desk: &mut Desk, _slot: usize) {}
    pub fn on_session(&mut self, _desk: &mut Desk, _slot: usize, _notice: u32) {}
    pub fn on_timer(&mut self, _desk: &mut Desk, _slot: usize, _generation: u32) {}
    pub fn on_names(&mut self, _desk: &mut Desk) {}
    pub fn retire(&mut self, _desk: &mut Desk, _application: Option<u128>, _policy: OnDelete, _cut_ms: u64) {}
    pub fn abandon(&mut self, _desk: &mut Desk, _slot: usize) {}
    pub fn free_closed(&mut self) {}
    pub fn open(&self) -> usize {
        0
    }
}

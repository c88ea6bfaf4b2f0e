//! May ports be claimed? Dispatch binds nothing, so a claim would take clients away from whoever listens there.
//!
//! What a bind would refuse is refused, with the same reasons, because a bind is asked: for the address, for ports that
//! need a right, and for those on which somebody might be in the way.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::os::fd::AsRawFd;

use causeway_bpf::{PortSet, Spot};

use super::{Dispatching, Owners, place, spot};
use crate::listen;
use crate::report::Reason;
use crate::sockets::Sockets;
use crate::taken::Taken;
use crate::worker::Place;

/// What became of a range that an application wants.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Had by somebody of this edge already.
    pub kept: PortSet,
    pub new: PortSet,
    pub refused: Vec<(PortSet, Reason)>,
}

/// What others hold, looked at once for a change, if at all.
#[derive(Debug, Default)]
pub struct Look(Option<Taken>);

impl Dispatching {
    /// May `wanted` of `spot` be claimed? `beside` are claims made earlier in the same change.
    pub fn judge(&mut self, spot: Spot, wanted: &PortSet, beside: &BTreeMap<Spot, Owners>, look: &mut Look) -> Verdict {
        let mut verdict = Verdict { kept: wanted.clone(), new: wanted.clone(), refused: Vec::new() };
        match self.claims.get(&spot) {
            Some(claim) => {
                verdict.kept.keep(&claim.written);
                verdict.new.take_out(&claim.written);
            }
            None => verdict.kept = PortSet::default(),
        }
        if verdict.new.is_empty() {
            return verdict;
        }
        let place = |port| place(spot, port);
        if let Err(reason) = listen::may_have(place(0)) {
            verdict.refused.push((std::mem::take(&mut verdict.new), reason)); // the address itself
            return verdict;
        }
        self.judge_low_ports(&mut verdict, place);
        let mut doubtful = look.candidates(spot, self.own_inodes());
        doubtful.keep(&verdict.new);
        for port in doubtful.iter() {
            if let Err(reason) = listen::may_have(place(port)) {
                verdict.new.remove(port);
                verdict.refused.push((PortSet::range(port, port), reason));
            }
        }
        let mut ours = self.overlapping(spot, beside);
        ours.keep(&verdict.new);
        let first = ours.iter().next();
        if let Some(first) = first {
            verdict.new.take_out(&ours);
            verdict.refused.push((ours, listen::reason(place(first), &in_use())));
        }
        verdict
    }

    /// May the kernel have `wanted` of `spot` carried, which nobody of ours is going to bind?
    ///
    /// # Errors
    /// Who is in the way.
    pub fn judge_unbound(&self, spot: Spot, wanted: &PortSet, look: &mut Look) -> Result<(), Reason> {
        if wanted.is_empty() {
            return Ok(());
        }
        listen::may_have(place(spot, 0))?; // the address itself
        let mut doubtful = look.candidates(spot, self.own_inodes());
        doubtful.keep(wanted);
        doubtful.iter().try_for_each(|port| listen::may_have(place(spot, port)))
    }

    fn judge_low_ports(&self, verdict: &mut Verdict, place: impl Fn(u16) -> Place) {
        let free_from = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
        let free_from: u16 = free_from.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1024);
        let Some(lowest) = verdict.new.iter().next().filter(|port| *port < free_from) else { return };
        if let Err(reason) = listen::may_have(place(lowest))
            && reason.code == listen::NOT_PERMITTED
        {
            let mut low = PortSet::range(1, free_from - 1);
            low.keep(&verdict.new);
            verdict.new.take_out(&low);
            verdict.refused.push((low, reason));
        }
    }

    /// Ports that this edge serves by dispatch on addresses that overlap: any against one of its family. What a bind
    /// would find there.
    fn overlapping(&self, spot: Spot, beside: &BTreeMap<Spot, Owners>) -> PortSet {
        let meets = |other: &&Spot| {
            other.slot() == spot.slot() && **other != spot && (other.is_wildcard() || spot.is_wildcard())
        };
        let mut ports = PortSet::default();
        self.claims.keys().filter(meets).for_each(|other| ports.add(&self.claims[other].written));
        for other in beside.keys().filter(meets) {
            beside[other].iter().for_each(|(range, _)| ports.insert(range.first, range.last));
        }
        ports
    }

    /// Does dispatch have a place that is to be bound, on its address or one that overlaps?
    pub fn has(&self, place: Place, beside: &BTreeMap<Spot, Owners>) -> Result<(), Reason> {
        if self.claims.is_empty() && beside.is_empty() {
            return Ok(());
        }
        let port = place.address.port();
        match self.overlapping(spot(place.protocol, place.address.ip()), beside).contains(port) {
            true => Err(listen::reason(place, &in_use())),
            false => Ok(()),
        }
    }

    fn own_inodes(&self) -> HashSet<u64> {
        let sockets: Vec<Sockets> = self.bases().map(|(.., sockets)| sockets).collect();
        sockets.iter().flat_map(|shared| &*shared.fds).filter_map(|fd| inode(fd.as_raw_fd())).collect()
    }
}

impl Look {
    fn candidates(&mut self, spot: Spot, own: HashSet<u64>) -> PortSet {
        self.0.get_or_insert_with(|| Taken::look(&own)).candidates(spot)
    }
}

fn in_use() -> io::Error {
    io::Error::from_raw_os_error(libc::EADDRINUSE)
}

/// What sock_diag calls a socket by.
fn inode(fd: i32) -> Option<u64> {
    // SAFETY: all zeroes is a valid stat, which the call then fills.
    unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        (libc::fstat(fd, &raw mut stat) == 0).then_some(stat.st_ino)
    }
}

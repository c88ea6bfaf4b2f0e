//! The way in where there is no tcx: a filter of the interface's clsact qdisc, which lives on by itself.
//!
//! Whose a filter is, its name says; priority and handle are our own, so that filters of others are never touched and
//! ours is replaced in one step. Which interfaces, and who made their qdiscs, is remembered elsewhere.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::rtnetlink::{About, Attributes, CREATE, DUMP, EXCLUSIVE, REPLACE, Rtnetlink};

/// Behind filters that are given a priority by hand, most of which are small numbers.
const PRIORITY: u32 = 0xca00;
const EVERY_PROTOCOL: u16 = 3; // ETH_P_ALL
const QDISC: u32 = 0xffff_0000;
const CLSACT: u32 = 0xffff_fff1;
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;

const KIND: u16 = 1;
const OPTIONS: u16 = 2;
const BPF_FD: u16 = 6;
const BPF_NAME: u16 = 7;
const BPF_FLAGS: u16 = 8;
const ACT_DIRECT: u32 = 1;

/// Those of one edge.
#[derive(Debug)]
pub(super) struct Filters {
    kernel: Rtnetlink,
    name: String,
    handle: u32,
}

impl Filters {
    /// In the calling thread's network namespace. `owner`: who has the same is the same.
    pub fn of(owner: &str) -> io::Result<Filters> {
        let hash = owner.bytes().fold(0x811c_9dc5u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        Ok(Filters { kernel: Rtnetlink::new()?, name: format!("causeway {owner}"), handle: hash.max(1) })
    }

    /// Interfaces that have one.
    pub fn interfaces(&self) -> io::Result<Vec<u32>> {
        let mut found = Vec::new();
        for interface in self.qdiscs()? {
            if self.is_at(interface)? {
                found.push(interface);
            }
        }
        Ok(found)
    }

    /// Interfaces that have a qdisc which can take one.
    pub fn qdiscs(&self) -> io::Result<Vec<u32>> {
        let all = self.kernel.ask(libc::RTM_GETQDISC, DUMP, About::default(), &Attributes::default())?;
        let fits = |attributes: &Attributes| matches!(attributes.text(KIND), Some("clsact" | "ingress"));
        Ok(all.into_iter().filter(|(_, qdisc)| fits(qdisc)).map(|(about, _)| about.interface).collect())
    }

    /// Is ours there?
    pub fn is_at(&self, interface: u32) -> io::Result<bool> {
        Ok(self.name_at(interface)?.is_some_and(|name| name == self.name))
    }

    /// The name of the filter in our place.
    fn name_at(&self, interface: u32) -> io::Result<Option<String>> {
        match self.kernel.ask(libc::RTM_GETTFILTER, 0, self.place(interface), &bpf()) {
            Ok(found) => {
                Ok(found.first().map(|(_, filter)| filter.all(OPTIONS).text(BPF_NAME).unwrap_or_default().to_string()))
            }
            // No such filter, qdisc or interface.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL | libc::ENODEV)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Let packets that come in by `interface` go through `program`, instead of through ours that is there: no packet
    /// passes by neither. Answers whether the qdisc was made for it.
    pub fn put(&self, interface: u32, program: BorrowedFd<'_>) -> io::Result<bool> {
        if self.name_at(interface)?.is_some_and(|name| name != self.name) {
            let reason = format!("another's filter is at priority {PRIORITY}, handle {:#x}", self.handle);
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, reason));
        }
        let is_made = self.make_qdisc(interface)?;
        let options = Attributes::default()
            .with(BPF_FD, &(program.as_raw_fd() as u32).to_ne_bytes())
            .with_text(BPF_NAME, &self.name)
            .with(BPF_FLAGS, &ACT_DIRECT.to_ne_bytes());
        let filter = bpf().with_all(OPTIONS, &options);
        let asked = self.kernel.ask(libc::RTM_NEWTFILTER, CREATE | REPLACE, self.place(interface), &filter);
        if let Err(error) = asked {
            if is_made {
                self.remove(interface, true)?;
            }
            return Err(refused("a bpf filter (cls_bpf)", &error));
        }
        Ok(is_made)
    }

    fn make_qdisc(&self, interface: u32) -> io::Result<bool> {
        let kind = Attributes::default().with_text(KIND, "clsact");
        match self.kernel.ask(libc::RTM_NEWQDISC, CREATE | EXCLUSIVE, qdisc(interface), &kind) {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
            Err(error) => Err(refused("a clsact qdisc (sch_ingress)", &error)),
        }
    }

    /// Take ours away, and with `is_qdisc_ours` the qdisc, if nobody has a filter there. Answers whether ours was there.
    pub fn remove(&self, interface: u32, is_qdisc_ours: bool) -> io::Result<bool> {
        let is_there = self.is_at(interface)?;
        if is_there {
            let_go(self.kernel.ask(libc::RTM_DELTFILTER, 0, self.place(interface), &bpf()))?;
        }
        if is_qdisc_ours && !self.is_used(interface)? {
            let kind = Attributes::default().with_text(KIND, "clsact");
            let_go(self.kernel.ask(libc::RTM_DELQDISC, 0, qdisc(interface), &kind))?;
        }
        Ok(is_there)
    }

    fn is_used(&self, interface: u32) -> io::Result<bool> {
        for parent in [INGRESS, EGRESS] {
            let about = About { interface, parent, ..About::default() };
            if !self.kernel.ask(libc::RTM_GETTFILTER, DUMP, about, &Attributes::default())?.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn place(&self, interface: u32) -> About {
        let info = PRIORITY << 16 | u32::from(EVERY_PROTOCOL.to_be());
        About { interface, handle: self.handle, parent: INGRESS, info }
    }
}

fn qdisc(interface: u32) -> About {
    About { interface, handle: QDISC, parent: CLSACT, info: 0 }
}

fn bpf() -> Attributes {
    Attributes::default().with_text(KIND, "bpf")
}

/// Gone already, by itself or with its interface: fine.
fn let_go<T>(asked: io::Result<T>) -> io::Result<()> {
    match asked {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL | libc::ENODEV)) => Ok(()),
        other => other.map(drop),
    }
}

fn refused(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("the kernel refused {what}: {error}"))
}

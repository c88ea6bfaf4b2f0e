//! Requests to the kernel about qdiscs and filters, and what it answers (rtnetlink(7)).

use std::io;

pub(super) use crate::netlink::Attributes;
use crate::netlink::{Netlink, word};

pub(super) const CREATE: u16 = 0x400;
pub(super) const EXCLUSIVE: u16 = 0x200;
pub(super) const REPLACE: u16 = 0x100;
pub(super) const DUMP: u16 = 0x300;

/// What all messages of this kind begin with: `struct tcmsg`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct About {
    pub interface: u32,
    pub handle: u32,
    pub parent: u32,
    /// Of a filter: its priority and protocol.
    pub info: u32,
}

const ABOUT_BYTES: usize = 20;

impl About {
    fn bytes(self) -> [u8; ABOUT_BYTES] {
        let mut bytes = [0; ABOUT_BYTES]; // the family is zero
        let words = [self.interface, self.handle, self.parent, self.info];
        bytes[4..].chunks_exact_mut(4).zip(words).for_each(|(at, word)| at.copy_from_slice(&word.to_ne_bytes()));
        bytes
    }

    fn of(bytes: &[u8; ABOUT_BYTES]) -> About {
        let of = |at: usize| word(bytes, at).unwrap_or(0);
        About { interface: of(4), handle: of(8), parent: of(12), info: of(16) }
    }
}

#[derive(Debug)]
pub(super) struct Rtnetlink(Netlink);

impl Rtnetlink {
    /// For the calling thread's network namespace, whoever asks later.
    pub fn new() -> io::Result<Rtnetlink> {
        Ok(Rtnetlink(Netlink::new(libc::NETLINK_ROUTE)?))
    }

    /// Answers what the kernel told before it said that it was done. One at a time.
    pub fn ask(
        &self,
        kind: u16,
        flags: u16,
        about: About,
        attributes: &Attributes,
    ) -> io::Result<Vec<(About, Attributes)>> {
        let told = self.0.ask(kind, flags, &about.bytes(), attributes)?;
        Ok(told.into_iter().map(|(head, attributes)| (About::of(&head), attributes)).collect())
    }
}

//! Requests to the kernel about qdiscs and filters, and what it answers (rtnetlink(7)). Knows the form, not the meaning.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const ACKNOWLEDGE: u16 = 4;
pub(super) const CREATE: u16 = 0x400;
pub(super) const EXCLUSIVE: u16 = 0x200;
pub(super) const REPLACE: u16 = 0x100;
pub(super) const DUMP: u16 = 0x300;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const HEADER_BYTES: usize = 16;
const ANSWER_BYTES: usize = 1 << 16; // the kernel fills 32 KiB of it at most

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

/// Attributes, each with its kind and length.
#[derive(Clone, Debug, Default)]
pub(super) struct Attributes(Vec<u8>);

impl Attributes {
    pub fn with(mut self, kind: u16, value: &[u8]) -> Attributes {
        self.0.extend(((4 + value.len()) as u16).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// A string, as the kernel keeps it: with a zero at its end.
    pub fn with_text(self, kind: u16, text: &str) -> Attributes {
        self.with(kind, &[text.as_bytes(), &[0]].concat())
    }

    pub fn with_all(self, kind: u16, inner: &Attributes) -> Attributes {
        self.with(kind, &inner.0)
    }

    pub fn get(&self, wanted: u16) -> Option<&[u8]> {
        let mut rest = self.0.as_slice();
        while let Some((bytes, kind)) = pair(rest) {
            let value = rest.get(4..bytes.into())?;
            if kind & 0x3fff == wanted {
                return Some(value); // above are flags
            }
            rest = rest.get(usize::from(bytes).next_multiple_of(4)..)?;
        }
        None
    }

    pub fn text(&self, wanted: u16) -> Option<&str> {
        std::str::from_utf8(self.get(wanted)?.split(|byte| *byte == 0).next()?).ok()
    }

    pub fn all(&self, wanted: u16) -> Attributes {
        Attributes(self.get(wanted).unwrap_or_default().to_vec())
    }
}

#[derive(Debug)]
pub(super) struct Rtnetlink(OwnedFd);

impl Rtnetlink {
    /// For the calling thread's network namespace, whoever asks later.
    pub fn new() -> io::Result<Rtnetlink> {
        // SAFETY: no pointers.
        let fd = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just made it for us.
        Ok(Rtnetlink(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Answers what the kernel told before it said that it was done. One at a time.
    pub fn ask(
        &self,
        kind: u16,
        flags: u16,
        about: About,
        attributes: &Attributes,
    ) -> io::Result<Vec<(About, Attributes)>> {
        let bytes = HEADER_BYTES + ABOUT_BYTES + attributes.0.len();
        let mut message = Vec::with_capacity(bytes);
        message.extend((bytes as u32).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend((libc::NLM_F_REQUEST as u16 | ACKNOWLEDGE | flags).to_ne_bytes());
        for word in [0, 0, 0, about.interface, about.handle, about.parent, about.info] {
            message.extend(u32::to_ne_bytes(word)); // number and port of the message, and the family, are zero
        }
        message.extend(&attributes.0);
        // SAFETY: the message outlives the call.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut answers = Vec::new();
        let mut room = vec![0u8; ANSWER_BYTES];
        loop {
            // SAFETY: as many bytes of room as it says, which outlive the call.
            let got = unsafe { libc::recv(self.0.as_raw_fd(), room.as_mut_ptr().cast(), room.len(), 0) };
            match usize::try_from(got) {
                Ok(bytes) => {
                    if read(&room[..bytes], &mut answers)? {
                        return Ok(answers);
                    }
                }
                Err(_) => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => {}
                    error => return Err(error),
                },
            }
        }
    }
}

/// Take in a batch of messages. True: that was all.
fn read(mut batch: &[u8], answers: &mut Vec<(About, Attributes)>) -> io::Result<bool> {
    while let Some(bytes) = word(batch, 0) {
        let message = batch.get(..bytes as usize).ok_or(io::ErrorKind::InvalidData)?;
        let body = message.get(HEADER_BYTES..).ok_or(io::ErrorKind::InvalidData)?;
        match u16::from_ne_bytes([message[4], message[5]]) {
            DONE => return Ok(true),
            ERROR => match word(body, 0).unwrap_or(0) as i32 {
                0 => return Ok(true),
                code => return Err(io::Error::from_raw_os_error(-code)),
            },
            _ => {
                let of = |at: usize| word(body, at).unwrap_or(0);
                let about = About { interface: of(4), handle: of(8), parent: of(12), info: of(16) };
                answers.push((about, Attributes(body.get(ABOUT_BYTES..).unwrap_or_default().to_vec())));
            }
        }
        batch = batch.get((bytes as usize).next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

fn pair(bytes: &[u8]) -> Option<(u16, u16)> {
    let word = word(bytes, 0)?.to_ne_bytes();
    Some((u16::from_ne_bytes([word[0], word[1]]), u16::from_ne_bytes([word[2], word[3]])))
}

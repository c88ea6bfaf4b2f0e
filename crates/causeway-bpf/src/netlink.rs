//! Requests to the kernel by netlink(7), and what it answers. Knows the form, not the meaning.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const ACKNOWLEDGE: u16 = 4;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const HEADER_BYTES: usize = 16;
const ANSWER_BYTES: usize = 1 << 16; // the kernel fills 32 KiB of it at most

/// Attributes, each with its kind and length.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attributes(Vec<u8>);

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
pub(crate) struct Netlink(OwnedFd);

impl Netlink {
    /// For the calling thread's network namespace, whoever asks later. `protocol`: such as `NETLINK_ROUTE`.
    pub fn new(protocol: i32) -> io::Result<Netlink> {
        // SAFETY: no pointers.
        let fd = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just made it for us.
        Ok(Netlink(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// `head`: what all messages of this kind begin with, before their attributes, both in what is sent and in what is
    /// told. Answers what the kernel told before it said that it was done. One at a time.
    pub fn ask<const HEAD: usize>(
        &self,
        kind: u16,
        flags: u16,
        head: &[u8; HEAD],
        attributes: &Attributes,
    ) -> io::Result<Vec<([u8; HEAD], Attributes)>> {
        let bytes = HEADER_BYTES + HEAD + attributes.0.len();
        let mut message = Vec::with_capacity(bytes);
        message.extend((bytes as u32).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend((libc::NLM_F_REQUEST as u16 | ACKNOWLEDGE | flags).to_ne_bytes());
        message.extend([0; 8]); // number and port of the message
        message.extend(head);
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
fn read<const HEAD: usize>(mut batch: &[u8], answers: &mut Vec<([u8; HEAD], Attributes)>) -> io::Result<bool> {
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
                let (head, attributes) = body.split_first_chunk().ok_or(io::ErrorKind::InvalidData)?;
                answers.push((*head, Attributes(attributes.to_vec())));
            }
        }
        batch = batch.get((bytes as usize).next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

pub(crate) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

fn pair(bytes: &[u8]) -> Option<(u16, u16)> {
    let word = word(bytes, 0)?.to_ne_bytes();
    Some((u16::from_ne_bytes([word[0], word[1]]), u16::from_ne_bytes([word[2], word[3]])))
}

//! A few packets as they were, through a ring that the kernel writes and one process reads.

use std::io;
use std::os::fd::OwnedFd;

use aya::maps::{Map, MapData, RingBuf};

use super::Mode;
use super::counts::Verdict;
use super::shared::{RawSample, SAMPLE_BYTES};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Monotonic, with a grain of some ms.
    pub at_ns: u64,
    pub interface: u32,
    pub listener: u16,
    /// Of what decided; 0 if that has none.
    pub tag: u16,
    pub verdict: Verdict,
    /// With `Watch` the packet passed whatever the verdict is.
    pub mode: Mode,
    /// Of a connection or flow that has gone both ways: its source is real.
    pub is_two_way: bool,
    /// Of a connection or flow that was asked for, perhaps by somebody else than its source says.
    pub is_open: bool,
    /// Of the whole frame.
    pub length: u32,
    /// Its first bytes, from the Ethernet header on.
    pub frame: Vec<u8>,
}

/// `standing` of bpf/guard.h.
const OPEN: u8 = 1;
const TWO_WAY: u8 = 2;

/// Take until there is none. Nobody is woken for a sample: come every tick.
pub struct Samples {
    ring: RingBuf<MapData>,
}

impl Samples {
    pub(super) fn new(map: OwnedFd) -> io::Result<Samples> {
        let data = MapData::from_fd(map).map_err(io::Error::other)?;
        Ok(Samples { ring: RingBuf::try_from(Map::RingBuf(data)).map_err(io::Error::other)? })
    }
}

impl Iterator for Samples {
    type Item = Sample;

    /// `None`: nothing more just now.
    fn next(&mut self) -> Option<Sample> {
        loop {
            let item = self.ring.next()?;
            if let Some(sample) = read(&item) {
                return Some(sample);
            }
        }
    }
}

fn read(bytes: &[u8]) -> Option<Sample> {
    if bytes.len() < size_of::<RawSample>() {
        return None;
    }
    // SAFETY: long enough, and every pattern of bits is a value; read without regard to alignment.
    let raw: RawSample = unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast()) };
    Some(Sample {
        at_ns: raw.at,
        interface: raw.interface,
        listener: raw.listener,
        tag: raw.tag,
        verdict: Verdict::of(raw.verdict)?, // none: of a newer program
        mode: Mode::of(raw.mode)?,
        is_open: raw.standing >= OPEN,
        is_two_way: raw.standing >= TWO_WAY,
        length: raw.length,
        frame: raw.frame[..usize::from(raw.captured).min(SAMPLE_BYTES)].to_vec(),
    })
}

//! The mirror of `bpf/guard.h`: sizes are asserted on both sides, offsets here.

use std::mem::offset_of;

pub(super) const MAX_GUARDED: u16 = 4096;
pub(super) const MAX_SETS: u16 = 512;
pub(super) const MAX_RATES: u16 = 1024;
pub(super) const MAX_RULES_OF_LISTENER: usize = 128;
pub(super) const SAMPLE_BYTES: usize = 128;
pub(super) const VERDICTS: usize = 18;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(super) struct RawGuarded {
    pub mode: u8,
    pub unused: u8,
    pub wants: u16,
    pub sets: [u16; 2],
    pub rates: [u16; 4],
    pub bans: u16,
    pub more: u16,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(super) struct RawSettings {
    pub clock: u64,
    pub protocols: [u64; 4],
    pub sample_every: u32,
    pub samples_per_tick: u32,
    pub has_wildcards: u32,
    pub mss4: u16,
    pub mss6: u16,
    pub window: u16,
    pub window_scale: u8,
    pub keeps_timestamps: u8,
    pub generation: u32,
}

const _: () = assert!(size_of::<RawGuarded>() == 20 && offset_of!(RawGuarded, bans) == 16);
const _: () = assert!(size_of::<RawSettings>() == 64 && offset_of!(RawSettings, mss4) == 52);

/// A cache line of a prefix table.
pub(super) type Line = [u32; 16];

pub(super) const SMALL_BITS: u32 = 16;
pub(super) const WINDOW_BITS: u32 = 21;
pub(super) const LARGE_WINDOWS: u32 = 16;
/// Values that lines have by a byte; in the lines behind the head.
pub(super) const PALETTE: usize = 256;
pub(super) const KIND_NODE: u32 = 3;
pub(super) const KIND_LINE16: u32 = 5;
pub(super) const KIND_LINE32: u32 = 6;
pub(super) const KIND_LINE64: u32 = 7;
pub(super) const KIND_WIDE: u32 = 8;
pub(super) const NODE_LINE: u32 = 0x7f_ffff;
pub(super) const MAX_NODE_BITS: u32 = 20;
pub(super) const VALUE_ALLOW: u32 = 1 << 31;
pub(super) const VALUE_BLOCK: u32 = 1 << 30;
pub(super) const VALUE_MARK: u32 = 1 << 29;
pub(super) const VALUE_DEEPER: u32 = 1 << 28;
pub(super) const VALUE_HOST: u32 = 1 << 27;
pub(super) const VALUE_LENGTH: u32 = 20;
pub(super) const VALUE_RECORD: u32 = 0x7ff_ffff;
pub(super) const MAX_MARKS_BELOW: usize = 8;

pub(super) const RANGES_OF_RULE: usize = 16;
pub(super) const RANGE_RULES: usize = MAX_GUARDED as usize / RANGES_OF_RULE;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(super) struct RawRange {
    pub first: u16,
    pub count: u16,
    pub sport: [u16; 2],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(super) struct RawRule {
    pub expires: u64,
    pub tag: u16,
    pub action: u8,
    pub family: u8,
    pub tests: u16,
    pub protocol: u8,
    pub flags_mask: u8,
    pub flags: u8,
    pub payload_bytes: u8,
    pub hops: [u8; 2],
    pub length: [u16; 2],
    pub sport: [u16; 2],
    pub dport: [u16; 2],
    pub window: [u16; 2],
    pub mss: [u16; 2],
    pub payload_at: u16,
    pub unused: u16,
    pub fingerprint: u32,
    pub source: [u8; 16],
    pub source_mask: [u8; 16],
    pub destination: [u8; 16],
    pub destination_mask: [u8; 16],
    pub payload: [u8; 16],
    pub payload_mask: [u8; 16],
}

const _: () = assert!(size_of::<RawRule>() == 144 && RANGES_OF_RULE * size_of::<RawRange>() <= 144);
const _: () = assert!(offset_of!(RawRule, length) == 20 && offset_of!(RawRule, fingerprint) == 44);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(super) struct RawRate {
    pub of: u8,
    pub length4: u8,
    pub length6: u8,
    pub spares_returning: u8,
    pub unused: [u8; 4],
    pub interval: u64,
    pub depth: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(super) struct RawSource {
    pub address: [u8; 16],
    pub listener: u16,
    pub rate: u16,
    pub is_ipv6: u8,
    pub is_returning: u8,
    pub unused: [u8; 2],
}

/// `struct ends4` of `bpf/flow.h`: what the client's datagrams have. Its value is a teller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub(super) struct RawEnds4 {
    pub source: [u8; 4],
    pub destination: [u8; 4],
    pub source_port: [u8; 2],
    pub destination_port: [u8; 2],
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub(super) struct RawEnds6 {
    pub source: [u8; 16],
    pub destination: [u8; 16],
    pub source_port: [u8; 2],
    pub destination_port: [u8; 2],
}

const _: () = assert!(size_of::<RawEnds4>() == 12 && size_of::<RawEnds6>() == 36);

#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct RawCounts {
    pub packets: [u64; VERDICTS],
    pub bytes: [u64; VERDICTS],
    pub watched: [u64; VERDICTS],
}

#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct RawHits {
    pub packets: u64,
    pub established: u64,
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct RawSample {
    pub at: u64,
    pub interface: u32,
    pub listener: u16,
    pub tag: u16,
    pub verdict: u8,
    pub mode: u8,
    pub captured: u8,
    pub standing: u8,
    pub length: u32,
    pub frame: [u8; SAMPLE_BYTES],
}

const _: () = assert!(size_of::<RawRate>() == 24 && size_of::<RawSource>() == 24);
const _: () = assert!(size_of::<RawCounts>() == 24 * VERDICTS && size_of::<RawHits>() == 16);
const _: () = assert!(size_of::<RawSample>() == 152 && offset_of!(RawSample, frame) == 24);

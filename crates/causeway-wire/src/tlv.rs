//! The type-length-value list behind the addresses of a PROXY v2 header.
//!
//! Its end is the header's end, to the byte: a value never reaches into the payload, and nothing is left over.
//! Values are opaque bytes here, never text.

const HEAD: usize = 3;
/// CRC32c over the whole header, its own four bytes taken as zero.
pub const CRC32C: u8 = 0x03;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tlv<'a> {
    pub kind: u8,
    pub value: &'a [u8],
}

/// Walks a list that [`crate::accept::parse`] has passed; stops where a list breaks off.
#[derive(Debug, Clone)]
pub struct Tlvs<'a> {
    rest: &'a [u8],
}

impl<'a> Tlvs<'a> {
    pub(crate) fn new(list: &'a [u8]) -> Self {
        Self { rest: list }
    }
}

impl<'a> Iterator for Tlvs<'a> {
    type Item = Tlv<'a>;

    fn next(&mut self) -> Option<Tlv<'a>> {
        let (&[kind, high, low], behind) = self.rest.split_first_chunk::<HEAD>()?;
        let (value, rest) = behind.split_at_checked(usize::from(u16::from_be_bytes([high, low])))?;
        self.rest = rest;
        Some(Tlv { kind, value })
    }
}

/// A list, whole or only begun, that can't end at its `total` length.
pub(crate) struct Broken;

/// Where the checksum's value starts, if it has been seen.
pub(crate) type ChecksumAt = Option<usize>;

/// Check as much of a list of `total` bytes as has been `seen`.
pub(crate) fn check(seen: &[u8], total: usize) -> Result<ChecksumAt, Broken> {
    let mut checksum_at = None;
    let mut at = 0;
    if matches!(total, 1..HEAD) {
        return Err(Broken);
    }
    while let Some(&kind) = seen.get(at) {
        let room = total - at - HEAD; // every round ends with nothing or at least HEAD bytes left
        let fits = |length: usize| length == room || length + HEAD <= room;
        let is_checksum = kind == CRC32C;
        if is_checksum && (checksum_at.is_some() || !fits(4)) {
            return Err(Broken);
        }
        let Some(&high) = seen.get(at + 1) else { break };
        if usize::from(high) << 8 > room || (is_checksum && high != 0) {
            return Err(Broken);
        }
        let Some(&low) = seen.get(at + 2) else { break };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if !fits(length) || (is_checksum && length != 4) {
            return Err(Broken);
        }
        if is_checksum {
            checksum_at = Some(at + HEAD);
        }
        at += HEAD + length;
    }
    Ok(checksum_at)
}

/// CRC32c (Castagnoli) of a header whose four bytes at `hole` count as zero.
pub(crate) fn crc32c(header: &[u8], hole: usize) -> u32 {
    let hole = hole..hole + 4;
    !header.iter().enumerate().fold(!0, |crc, (at, &byte)| {
        let byte = if hole.contains(&at) { 0 } else { byte };
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0x82F6_3B78 & (crc & 1).wrapping_neg()))
    })
}

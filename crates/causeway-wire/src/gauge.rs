//! What one edge asks another, once a second, to know how far it is: a stamp, which comes back as it was.
//!
//! A PROXY v2 header with the command LOCAL, which the specification has for what no client stands behind, and one TLV
//! of the range for own use. It is always as long.

use crate::overlay::{HopError, Read};
use crate::proxy_v2;

pub const GAUGE_BYTES: usize = 27;

const LOCAL: u8 = 0x20;
const STAMP: u8 = 0xE3;
const TLV_BYTES: u8 = 3 + 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gauge {
    /// Of whoever asks; it means nothing to anybody else.
    pub stamp: u64,
}

impl Gauge {
    #[must_use]
    pub fn encode(self) -> [u8; GAUGE_BYTES] {
        let mut out = [0; GAUGE_BYTES];
        out[..12].copy_from_slice(&proxy_v2::SIGNATURE);
        out[12] = LOCAL;
        out[15] = TLV_BYTES;
        (out[16], out[18]) = (STAMP, 8);
        out[19..].copy_from_slice(&self.stamp.to_be_bytes());
        out
    }

    /// Does this begin one, as far as can be said?
    #[must_use]
    pub fn is_begun(bytes: &[u8]) -> bool {
        bytes.get(12) == Some(&LOCAL)
    }

    /// Read what has arrived so far.
    ///
    /// # Errors
    /// It is not, and can't become, one.
    pub fn parse(bytes: &[u8]) -> Result<Read<Gauge>, HopError> {
        let form = Gauge { stamp: 0 }.encode();
        let known = bytes.len().min(19);
        if bytes[..known] != form[..known] {
            return Err(HopError::Header);
        }
        let Some(stamp) = bytes.get(19..GAUGE_BYTES) else { return Ok(Read::NeedMore) };
        let stamp = u64::from_be_bytes(stamp.try_into().map_err(|_| HopError::Header)?);
        Ok(Read::Whole { consumed: GAUGE_BYTES, value: Gauge { stamp } })
    }
}

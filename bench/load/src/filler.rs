//! The bytes that are sent, so that a receiver knows what must arrive: a fixed pseudo-random ring for streams, and
//! messages that name their connection and sequence number.

pub const CHUNK: usize = 256 * 1024;
const PERIOD: usize = 65_521; // prime: no buffer size of a proxy divides it, so shifted bytes cannot pass
pub const MESSAGE_MIN: usize = 16;

pub struct Filler {
    ring: Vec<u8>,
}

impl Filler {
    pub fn new() -> Self {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let period: Vec<u8> = (0..PERIOD)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state as u8
            })
            .collect();
        Self { ring: period.iter().copied().cycle().take(PERIOD + CHUNK).collect() }
    }

    /// What a stream carries from `offset` on, at most CHUNK bytes.
    pub fn at(&self, offset: u64, length: usize) -> &[u8] {
        let start = (offset % PERIOD as u64) as usize;
        &self.ring[start..start + length.min(CHUNK)]
    }

    /// Bytes of `received` that a look at both ends finds wrong, or a look at each when `all`.
    pub fn wrong(&self, offset: u64, received: &[u8], all: bool) -> u64 {
        const EDGE: usize = 64;
        let expected = self.at(offset, received.len());
        let differs = |from: usize, to: usize| received[from..to] != expected[from..to];
        let length = received.len();
        if all || length <= 2 * EDGE {
            if !differs(0, length) {
                return 0;
            }
            return received.iter().zip(expected).filter(|(a, b)| a != b).count() as u64;
        }
        u64::from(differs(0, EDGE)) + u64::from(differs(length - EDGE, length))
    }

    pub fn write_message(&self, message: &mut [u8], connection: u64, sequence: u64) {
        message[..8].copy_from_slice(&connection.to_be_bytes());
        message[8..16].copy_from_slice(&sequence.to_be_bytes());
        let rest = message.len() - MESSAGE_MIN;
        message[MESSAGE_MIN..].copy_from_slice(self.at(connection * 31 + sequence * 7, rest));
    }

    /// The sequence number, if this is a whole message of that connection.
    pub fn read_message(&self, message: &[u8], size: usize, connection: u64) -> Option<u64> {
        if message.len() != size || message[..8] != connection.to_be_bytes() {
            return None;
        }
        let sequence = u64::from_be_bytes(message[8..16].try_into().ok()?);
        let place = (connection * 31).checked_add(sequence.checked_mul(7)?)?;
        (message[MESSAGE_MIN..] == *self.at(place, size - MESSAGE_MIN)).then_some(sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shifted_short_or_foreign_message_is_not_taken() {
        let filler = Filler::new();
        let mut message = [0; 64];
        filler.write_message(&mut message, 3, 9);
        assert_eq!(filler.read_message(&message, 64, 3), Some(9));
        assert_eq!(filler.read_message(&message, 64, 4), None);
        assert_eq!(filler.read_message(&message[..63], 64, 3), None);
        message[40] ^= 1;
        assert_eq!(filler.read_message(&message, 64, 3), None);
    }

    #[test]
    fn a_stream_is_right_only_at_its_own_offset() {
        let filler = Filler::new();
        let bytes = filler.at(1_000_000, 4096).to_vec();
        assert_eq!(filler.wrong(1_000_000, &bytes, true), 0);
        assert_eq!(filler.wrong(1_000_000, &bytes, false), 0);
        assert!(filler.wrong(1_000_001, &bytes, false) > 0);
        assert!(filler.wrong(1_000_001, &bytes, true) > 1000);
    }
}

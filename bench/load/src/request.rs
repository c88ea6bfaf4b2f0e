//! How a bulk client tells the origin what to do: one fixed header at the start of a stream, one count at its end.
use crate::clock::Window;

pub const REQUEST: usize = 40;
pub const RECEIPT: usize = 32;
const MAGIC: u64 = 0x6361_7573_6577_6179;

#[derive(Clone, Copy)]
pub struct Request {
    pub window: Window,
    /// Bytes to carry exactly, or 0: as many as go before the window closes.
    pub bytes: u64,
}

/// What the end that received a stream saw of it.
#[derive(Clone, Copy, Default)]
pub struct Receipt {
    pub bytes: u64,
    pub bytes_in_window: u64,
    pub wrong: u64,
}

impl Request {
    pub fn to_bytes(self) -> [u8; REQUEST] {
        words([MAGIC, self.window.from_ns, self.window.to_ns, self.bytes, !MAGIC])
    }

    pub fn from_bytes(bytes: &[u8; REQUEST]) -> Option<Self> {
        let [magic, from_ns, to_ns, bytes, end]: [u64; 5] = numbers(bytes);
        (magic == MAGIC && end == !MAGIC).then_some(Self { window: Window { from_ns, to_ns }, bytes })
    }

    pub fn checks_all(&self) -> bool {
        self.bytes > 0
    }
}

impl Receipt {
    pub fn to_bytes(self) -> [u8; RECEIPT] {
        words([MAGIC, self.bytes, self.bytes_in_window, self.wrong])
    }

    pub fn from_bytes(bytes: &[u8; RECEIPT]) -> Option<Self> {
        let [magic, bytes, bytes_in_window, wrong]: [u64; 4] = numbers(bytes);
        (magic == MAGIC).then_some(Self { bytes, bytes_in_window, wrong })
    }
}

fn words<const N: usize, const B: usize>(numbers: [u64; N]) -> [u8; B] {
    let mut bytes = [0; B];
    for (place, number) in bytes.chunks_exact_mut(8).zip(numbers) {
        place.copy_from_slice(&number.to_be_bytes());
    }
    bytes
}

fn numbers<const N: usize>(bytes: &[u8]) -> [u64; N] {
    std::array::from_fn(|i| {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[8 * i..8 * i + 8]);
        u64::from_be_bytes(word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_receipts_come_back_as_they_went() {
        let request = Request { window: Window { from_ns: 1, to_ns: 2 }, bytes: 3 };
        let back = Request::from_bytes(&request.to_bytes()).expect("a request");
        assert_eq!((back.window.from_ns, back.window.to_ns, back.bytes), (1, 2, 3));
        assert!(Request::from_bytes(&[0; REQUEST]).is_none());
        let receipt = Receipt { bytes: 1, bytes_in_window: 2, wrong: 3 };
        let back = Receipt::from_bytes(&receipt.to_bytes()).expect("a receipt");
        assert_eq!((back.bytes, back.bytes_in_window, back.wrong), (1, 2, 3));
    }
}

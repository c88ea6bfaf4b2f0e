//! How often the same network is answered over UDP, where anybody can write whose address he likes on a question.
//!
//! Beyond the rate every second answer is the word to ask over TCP, which a real asker does and a forged one cannot;
//! the others are dropped. A fixed table: networks that share a cell share its rate.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;

const CELLS: usize = 16_384;
const ANSWERS_PER_S: u64 = 1_000; // of a /24 or /56: more than any resolver asks of one server for names that it keeps
const BURST: u64 = 2_000;
const MILLI: u64 = 1_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Answer,
    Truncate,
    Drop,
}

pub struct Pace {
    cells: Vec<Cell>,
    hasher: RandomState,
}

#[derive(Clone, Copy)]
struct Cell {
    credit_milli: u64,
    seen_ms: u64,
    is_next_dropped: bool,
}

impl Pace {
    pub fn new() -> Self {
        let full = Cell { credit_milli: BURST * MILLI, seen_ms: 0, is_next_dropped: false };
        Self { cells: vec![full; CELLS], hasher: RandomState::new() }
    }

    pub fn judge(&mut self, asker: IpAddr, now_ms: u64) -> Verdict {
        let index = self.hasher.hash_one(network(asker)) as usize % CELLS;
        let cell = &mut self.cells[index];
        let earned = now_ms.saturating_sub(cell.seen_ms).saturating_mul(ANSWERS_PER_S);
        cell.credit_milli = cell.credit_milli.saturating_add(earned).min(BURST * MILLI);
        cell.seen_ms = now_ms;
        if let Some(left) = cell.credit_milli.checked_sub(MILLI) {
            cell.credit_milli = left;
            return Verdict::Answer;
        }
        cell.is_next_dropped = !cell.is_next_dropped;
        if cell.is_next_dropped { Verdict::Truncate } else { Verdict::Drop }
    }
}

fn network(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(v4) => u64::from(v4.to_bits() >> 8),
        IpAddr::V6(v6) => (v6.to_bits() >> 72) as u64 | 1 << 63,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_rate_every_second_answer_is_to_ask_over_tcp_and_other_networks_do_not_notice() {
        let mut pace = Pace::new();
        let [asker, neighbour, other]: [IpAddr; 3] =
            ["192.0.2.1", "192.0.2.99", "198.51.100.1"].map(|text| text.parse().unwrap());
        let judged: Vec<Verdict> = (0..BURST + 4).map(|_| pace.judge(asker, 7)).collect();
        assert!(judged[..BURST as usize].iter().all(|verdict| *verdict == Verdict::Answer));
        let after = &judged[BURST as usize..];
        assert_eq!(after, [Verdict::Truncate, Verdict::Drop, Verdict::Truncate, Verdict::Drop]);
        assert_ne!(pace.judge(neighbour, 7), Verdict::Answer, "it is of the same network");
        assert_eq!(pace.judge(other, 7), Verdict::Answer);
        assert_eq!(pace.judge(asker, 8), Verdict::Answer, "a millisecond earns one");
        assert_ne!(pace.judge(asker, 8), Verdict::Answer);
        assert_ne!(pace.judge(asker, 3), Verdict::Answer, "nor does a clock that goes back");
    }
}

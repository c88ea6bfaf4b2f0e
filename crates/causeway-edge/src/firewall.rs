//! The IP firewall of a zone: which clients its applications refuse. Compiled once per change, borrowed by `Arc`.
//!
//! Pure. Prefixes become ranges that do not overlap, each with the verdict of its most specific prefix, so that a
//! look-up is a search in a sorted list and takes no lock. Knows nothing of connections.

use std::net::IpAddr;

use serde::Serialize;

use crate::snapshot;

/// What the rules say of a client; the names are those of Cloudflare's `ClientMatchedIpFirewall`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum Matched {
    /// The application has no firewall.
    #[default]
    #[serde(rename = "UNKNOWN")]
    Unknown,
    /// No rule is about this client.
    #[serde(rename = "ALLOW")]
    Allow,
    #[serde(rename = "BLOCK_IP")]
    BlockIp,
    #[serde(rename = "WHITELIST_IP")]
    WhitelistIp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No rule.
    None,
    Allow,
    Block,
    /// As `Block`, and what is established ends too.
    Cut,
}

impl Verdict {
    pub fn is_refusal(self) -> bool {
        matches!(self, Verdict::Block | Verdict::Cut)
    }
}

impl From<Verdict> for Matched {
    fn from(verdict: Verdict) -> Matched {
        match verdict {
            Verdict::None => Matched::Allow,
            Verdict::Allow => Matched::WhitelistIp,
            Verdict::Block | Verdict::Cut => Matched::BlockIp,
        }
    }
}

#[derive(Debug)]
pub struct Firewall {
    pub spec: snapshot::Firewall,
    v4: Ranges<u32>,
    v6: Ranges<u128>,
}

impl Firewall {
    pub fn new(spec: snapshot::Firewall) -> Firewall {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (prefixes, verdict) in
            [(&spec.allow, Verdict::Allow), (&spec.block, Verdict::Block), (&spec.cut, Verdict::Cut)]
        {
            for prefix in prefixes {
                match prefix.first() {
                    IpAddr::V4(first) => {
                        let first = first.to_bits();
                        let last = first | u32::MAX.checked_shr(prefix.length().into()).unwrap_or(0);
                        v4.push((first, last, verdict));
                    }
                    IpAddr::V6(first) => {
                        let first = first.to_bits();
                        let last = first | u128::MAX.checked_shr(prefix.length().into()).unwrap_or(0);
                        v6.push((first, last, verdict));
                    }
                }
            }
        }
        Firewall { v4: Ranges::new(v4), v6: Ranges::new(v6), spec }
    }

    pub fn is_empty(&self) -> bool {
        self.spec.allow.is_empty() && self.spec.block.is_empty() && self.spec.cut.is_empty()
    }

    /// Does any rule end what is established?
    pub fn cuts(&self) -> bool {
        !self.spec.cut.is_empty()
    }

    pub fn judge(&self, client: IpAddr) -> Verdict {
        match client.to_canonical() {
            IpAddr::V4(v4) => self.v4.find(v4.to_bits()),
            IpAddr::V6(v6) => self.v6.find(v6.to_bits()),
        }
    }
}

trait Bits: Copy + Ord {
    fn next(self) -> Option<Self>;
    fn less(self, other: Self) -> Self;
    fn bits(self) -> u32;
    fn shifted(self, by: u32) -> usize;
}

macro_rules! bits {
    ($kind:ty) => {
        impl Bits for $kind {
            fn next(self) -> Option<Self> {
                self.checked_add(1)
            }
            fn less(self, other: Self) -> Self {
                self.wrapping_sub(other)
            }
            fn bits(self) -> u32 {
                Self::BITS - self.leading_zeros()
            }
            fn shifted(self, by: u32) -> usize {
                self.checked_shr(by).unwrap_or(0) as usize
            }
        }
    };
}
bits!(u32);
bits!(u128);

/// The index narrows a search to a few entries where the prefixes are spread.
const INDEX_BITS: u32 = 16;

/// Where each verdict begins; it holds up to the next one.
#[derive(Debug)]
struct Ranges<N> {
    starts: Vec<N>,
    verdicts: Vec<Verdict>,
    /// For each part of the space that is used, how many starts lie before it.
    index: Vec<u32>,
    shift: u32,
}

impl<N: Bits> Ranges<N> {
    fn new(mut prefixes: Vec<(N, N, Verdict)>) -> Ranges<N> {
        // The wider prefix first where two begin at the same address: prefixes nest, they never cross.
        prefixes.sort_unstable_by(|a, b| (a.0, b.1).cmp(&(b.0, a.1)));
        let mut made = Ranges { starts: Vec::new(), verdicts: Vec::new(), index: Vec::new(), shift: 0 };
        let mut around: Vec<(N, Verdict)> = Vec::new();
        for (first, last, verdict) in prefixes {
            made.close(&mut around, Some(first));
            made.begin(first, verdict);
            around.push((last, verdict));
        }
        made.close(&mut around, None);
        made.starts.shrink_to_fit();
        made.verdicts.shrink_to_fit();
        made.make_index();
        made
    }

    /// What ends before `next` gives way to what is around it.
    fn close(&mut self, around: &mut Vec<(N, Verdict)>, next: Option<N>) {
        while let Some((last, _)) = around.last().copied()
            && next.is_none_or(|next| last < next)
        {
            around.pop();
            if let Some(after) = last.next() {
                self.begin(after, around.last().map_or(Verdict::None, |(_, verdict)| *verdict));
            }
        }
    }

    fn begin(&mut self, start: N, verdict: Verdict) {
        if self.starts.last() == Some(&start) {
            self.starts.pop();
            self.verdicts.pop();
        }
        if self.verdicts.last().copied().unwrap_or(Verdict::None) != verdict {
            self.starts.push(start);
            self.verdicts.push(verdict);
        }
    }

    fn make_index(&mut self) {
        let (Some(first), Some(last)) = (self.starts.first(), self.starts.last()) else { return };
        let span = last.less(*first);
        self.shift = span.bits().saturating_sub(INDEX_BITS);
        let parts = span.shifted(self.shift) + 1;
        self.index = Vec::with_capacity(parts + 1);
        let mut before = 0;
        for part in 0..parts {
            while before < self.starts.len() && self.starts[before].less(*first).shifted(self.shift) < part {
                before += 1;
            }
            self.index.push(before as u32);
        }
        self.index.push(self.starts.len() as u32);
    }

    fn find(&self, address: N) -> Verdict {
        let Some(first) = self.starts.first() else { return Verdict::None };
        if address < *first {
            return Verdict::None;
        }
        let part = address.less(*first).shifted(self.shift).min(self.index.len() - 2);
        let (from, to) = (self.index[part] as usize, self.index[part + 1] as usize);
        let after = from + self.starts[from..to].partition_point(|start| *start <= address);
        self.verdicts[after - 1]
    }
}

#[cfg(test)]
#[path = "firewall_tests.rs"]
mod tests;

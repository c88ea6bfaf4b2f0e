//! Which flow it is that can be resumed, and what is asked for it: a TLV of the header between edges.

/// A secret, what is asked, and an offset or an age.
pub const MAX_KEEP: usize = 16 + 1 + 8;

/// Of a flow that can be resumed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// Known to the edges that the flow goes through, and not to be guessed.
    pub secret: [u8; 16],
    pub ask: Ask,
}

impl std::fmt::Debug for Keep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keep(…, {:?})", self.ask)
    }
}

/// What the first edge wants of the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    Begin,
    /// Go on where the connection before this one broke; so much of what the origin says has arrived.
    Resume(u64),
    /// The same, or begin: nobody has answered yet. An edge that is there for less than so many milliseconds may have
    /// begun it before it was started anew, and begins nothing.
    ResumeOrBegin(u64),
}

impl Keep {
    /// Write it; answers its length.
    pub(crate) fn encode(&self, out: &mut [u8; MAX_KEEP]) -> usize {
        out[..16].copy_from_slice(&self.secret);
        let (kind, offset) = match self.ask {
            Ask::Begin => (0, None),
            Ask::Resume(offset) => (1, Some(offset)),
            Ask::ResumeOrBegin(age_ms) => (2, Some(age_ms)),
        };
        out[16] = kind;
        let Some(offset) = offset else { return 17 };
        out[17..].copy_from_slice(&offset.to_be_bytes());
        MAX_KEEP
    }

    /// None: it is not what an edge says.
    pub(crate) fn read(value: &[u8]) -> Option<Keep> {
        let (secret, rest) = value.split_first_chunk()?;
        let ask = match rest {
            [0] => Ask::Begin,
            [1, offset @ ..] => Ask::Resume(u64::from_be_bytes(offset.try_into().ok()?)),
            [2, age_ms @ ..] => Ask::ResumeOrBegin(u64::from_be_bytes(age_ms.try_into().ok()?)),
            _ => return None,
        };
        Some(Keep { secret: *secret, ask })
    }
}

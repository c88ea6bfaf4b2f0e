//! Which flow it is that can be resumed, and what is asked for it: a TLV of the header between edges.

/// A secret, what is asked, an offset or an age, and another offset.
pub const MAX_KEEP: usize = 16 + 1 + 8 + 8;

const BEGIN: u8 = 0;
const RESUME: u8 = 1;
const RESUME_OR_BEGIN: u8 = 2;
/// What is added to a kind where something is said at once.
const AT_ONCE: u8 = 2;
const RESUME_AT_ONCE: u8 = RESUME + AT_ONCE;
const RESUME_OR_BEGIN_AT_ONCE: u8 = RESUME_OR_BEGIN + AT_ONCE;

/// Of a flow that can be resumed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// Known to the edges that the flow goes through, and not to be guessed.
    pub secret: [u8; 16],
    pub ask: Ask,
    /// What is said behind the header begins at this offset, and whoever has heard a part of it passes over that. None:
    /// nothing is said before the last edge has told what has arrived.
    pub says_from: Option<u64>,
}

impl std::fmt::Debug for Keep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keep(…, {:?}, says from {:?})", self.ask, self.says_from)
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
            Ask::Begin => (BEGIN, 0),
            Ask::Resume(offset) => (RESUME, offset),
            Ask::ResumeOrBegin(age_ms) => (RESUME_OR_BEGIN, age_ms),
        };
        out[16] = kind;
        if kind == BEGIN {
            return 17;
        }
        out[17..25].copy_from_slice(&offset.to_be_bytes());
        let Some(from) = self.says_from else { return 25 };
        out[16] = kind + AT_ONCE;
        out[25..].copy_from_slice(&from.to_be_bytes());
        MAX_KEEP
    }

    /// None: it is not what an edge says.
    pub(crate) fn read(value: &[u8]) -> Option<Keep> {
        let (secret, rest) = value.split_first_chunk()?;
        let (&kind, offsets) = rest.split_first()?;
        let (offsets, rest) = offsets.as_chunks::<8>();
        let (kind, offset, says_from) = match (kind, offsets) {
            (BEGIN, []) => (kind, 0, None),
            (RESUME | RESUME_OR_BEGIN, [offset]) => (kind, u64::from_be_bytes(*offset), None),
            (RESUME_AT_ONCE | RESUME_OR_BEGIN_AT_ONCE, [offset, from]) => {
                (kind - AT_ONCE, u64::from_be_bytes(*offset), Some(u64::from_be_bytes(*from)))
            }
            _ => return None,
        };
        let ask = match kind {
            BEGIN => Ask::Begin,
            RESUME => Ask::Resume(offset),
            _ => Ask::ResumeOrBegin(offset),
        };
        rest.is_empty().then_some(Keep { secret: *secret, ask, says_from })
    }
}

//! A flow that can be resumed, between its first edge and its last: what was said in frames, and what has arrived.
//!
//! Behind the header or the answer, a frame is a byte that says what it is, three of a length, and as many bytes. Edges
//! on the way pass all of it on unread. Offsets count the bytes of one direction from 0; its end counts as one more.

/// In front of what a frame has.
pub const HEAD_BYTES: usize = 4;
/// Of a stream, in one frame.
pub const MOST_DATA: usize = 64 << 10;
/// The longest frame that is not data.
pub const MAX_WORD: usize = HEAD_BYTES + 8;

const DATA: u8 = 0;
const PASSED: u8 = 1;
const ARRIVED: u8 = 2;
const END: u8 = 3;
const RESET: u8 = 4;
const ASK: u8 = 5;
const HERE: u8 = 6;

/// What the two edges say to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// All before this offset was given to the client or the origin: nobody needs to keep it.
    Passed(u64),
    /// On a new connection, once: all before this offset has arrived, what comes after it is to be said again.
    Arrived(u64),
    /// There is no more in this direction.
    End,
    /// The client or the origin has reset the flow.
    Reset,
    /// Is somebody there?
    Ask,
    Here,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Of the stream: a frame, or a part of one.
    Data(&'a [u8]),
    Word(Word),
}

/// What it said is not what an edge says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame of kind {0} with {1} bytes")]
pub struct FrameError(u8, u32);

/// What goes in front of that many bytes of the stream, 1 to [`MOST_DATA`].
#[must_use]
pub fn data_head(len: usize) -> [u8; HEAD_BYTES] {
    debug_assert!((1..=MOST_DATA).contains(&len), "a frame has at least a byte, and a bound");
    head(DATA, len as u32)
}

fn head(kind: u8, len: u32) -> [u8; HEAD_BYTES] {
    let [_, a, b, c] = len.to_be_bytes();
    [kind, a, b, c]
}

impl Word {
    /// Write it; answers its length.
    #[must_use]
    pub fn encode(self, out: &mut [u8; MAX_WORD]) -> usize {
        let (kind, offset) = match self {
            Word::Passed(offset) => (PASSED, Some(offset)),
            Word::Arrived(offset) => (ARRIVED, Some(offset)),
            Word::End => (END, None),
            Word::Reset => (RESET, None),
            Word::Ask => (ASK, None),
            Word::Here => (HERE, None),
        };
        out[HEAD_BYTES..].copy_from_slice(&offset.unwrap_or_default().to_be_bytes());
        let len = if offset.is_some() { 8 } else { 0 };
        out[..HEAD_BYTES].copy_from_slice(&head(kind, len as u32));
        HEAD_BYTES + len
    }
}

/// Where the reading of a connection's frames is.
#[derive(Debug, Default)]
pub struct Reader {
    begun: [u8; MAX_WORD],
    have: usize,
    /// Still to come of a frame of data.
    data_left: usize,
}

impl Reader {
    /// The next piece of `bytes`, which then begin behind it. None: all of them are read.
    ///
    /// # Errors
    /// It is not, and can't become, what an edge says.
    pub fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Option<Piece<'a>>, FrameError> {
        if self.data_left == 0 {
            if !self.fill(HEAD_BYTES, bytes) {
                return Ok(None);
            }
            let [kind, a, b, c, ..] = self.begun;
            let len = u32::from_be_bytes([0, a, b, c]);
            match (kind, len) {
                (DATA, 1..) if len as usize <= MOST_DATA => (self.have, self.data_left) = (0, len as usize),
                (PASSED | ARRIVED, 8) | (END | RESET | ASK | HERE, 0) => {
                    let is_whole = self.fill(HEAD_BYTES + len as usize, bytes);
                    return Ok(is_whole.then(|| Piece::Word(self.take_word(kind))));
                }
                _ => return Err(FrameError(kind, len)),
            }
        }
        let (data, rest) = bytes.split_at(self.data_left.min(bytes.len()));
        (self.data_left, *bytes) = (self.data_left - data.len(), rest);
        Ok((!data.is_empty()).then_some(Piece::Data(data)))
    }

    /// Has it begun with so many bytes, with some of these?
    fn fill(&mut self, want: usize, bytes: &mut &[u8]) -> bool {
        let (more, rest) = bytes.split_at(want.saturating_sub(self.have).min(bytes.len()));
        self.begun[self.have..self.have + more.len()].copy_from_slice(more);
        (self.have, *bytes) = (self.have + more.len(), rest);
        self.have >= want
    }

    fn take_word(&mut self, kind: u8) -> Word {
        self.have = 0;
        let [_, _, _, _, offset @ ..] = self.begun;
        let offset = u64::from_be_bytes(offset);
        match kind {
            PASSED => Word::Passed(offset),
            ARRIVED => Word::Arrived(offset),
            END => Word::End,
            RESET => Word::Reset,
            ASK => Word::Ask,
            _ => Word::Here,
        }
    }
}

//! The first packets of a Minecraft client (Java Edition): what it wants, and what is said to it without a server.
//!
//! A packet is a varint length, a varint id and fields. As with `accept`: call again with more bytes while more are
//! needed; an error is given at the first byte that no such packet can have there.
//! <https://minecraft.wiki/w/Java_Edition_protocol/Server_List_Ping>

/// The longest handshake: proxies and mods put more than a host name into its address.
pub const MAX_HANDSHAKE: usize = 4096;
/// The longest packet that a client sends for a status: a ping.
const MAX_QUESTION: usize = 16;
/// Of a status: 32,767 characters.
pub const MAX_STATUS: usize = 128 * 1024;
/// Two bytes that servers before 1.7 were asked with.
const LEGACY: u8 = 0xfe;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Status,
    Login,
    /// A login that another server has sent.
    Transfer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Greeting {
    NeedMore,
    Handshake {
        consumed: usize,
        /// The client's version; negative ones are for trying out.
        protocol: i32,
        next: Next,
    },
    /// Of a client from before 1.7.
    Legacy,
}

/// What a client that wants the status says after its handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    NeedMore,
    Status { consumed: usize },
    Ping { consumed: usize, payload: [u8; 8] },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MinecraftError {
    #[error("a number has more than five bytes")]
    Varint,
    #[error("the first packet has a length of {0}, it has 1 to {MAX_HANDSHAKE}")]
    Length(i32),
    #[error("the packet has id {0}, which does not belong here")]
    Packet(i32),
    #[error("the fields of the handshake do not end where it does")]
    Handshake,
    #[error("the next state is {0}: only status (1), login (2) and transfer (3) exist")]
    NextState(i32),
}

impl MinecraftError {
    /// Stable, for logs and vectors.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Varint => "minecraft_varint",
            Self::Length(_) => "minecraft_length",
            Self::Packet(_) => "minecraft_packet",
            Self::Handshake => "minecraft_handshake",
            Self::NextState(_) => "minecraft_next_state",
        }
    }
}

type Result<T> = std::result::Result<T, MinecraftError>;

/// Read what has arrived so far, from the first byte of the connection.
///
/// # Errors
/// The bytes are not, and can't become, a handshake.
pub fn greeting(bytes: &[u8]) -> Result<Greeting> {
    if bytes.first() == Some(&LEGACY) {
        return Ok(Greeting::Legacy);
    }
    let mut reader = Reader { bytes, at: 0, end: usize::MAX };
    Ok(handshake(&mut reader)?.unwrap_or(Greeting::NeedMore))
}

fn handshake(reader: &mut Reader) -> Result<Option<Greeting>> {
    let Some(length) = reader.varint()? else { return Ok(None) };
    let is_possible = usize::try_from(length).is_ok_and(|length| (1..=MAX_HANDSHAKE).contains(&length));
    if !is_possible {
        return Err(MinecraftError::Length(length));
    }
    reader.end = reader.at + length as usize;
    match reader.varint()? {
        None => return Ok(None),
        Some(0) => {}
        Some(id) => return Err(MinecraftError::Packet(id)),
    }
    let Some(protocol) = reader.varint()? else { return Ok(None) };
    let Some(address) = reader.varint()? else { return Ok(None) };
    let rest = usize::try_from(address).ok().and_then(|address| address.checked_add(2 + 1));
    if rest.is_none_or(|rest| rest > reader.end - reader.at) {
        return Err(MinecraftError::Handshake); // no room for a port and the next state behind it
    }
    reader.at += address as usize + 2;
    let Some(next) = reader.varint()? else { return Ok(None) };
    let next = match next {
        1 => Next::Status,
        2 => Next::Login,
        3 => Next::Transfer,
        other => return Err(MinecraftError::NextState(other)),
    };
    if reader.at != reader.end {
        return Err(MinecraftError::Handshake);
    }
    Ok(Some(Greeting::Handshake { consumed: reader.at, protocol, next }))
}

/// Read what a client says that is asking for the status.
///
/// # Errors
/// It says something else.
pub fn question(bytes: &[u8]) -> Result<Question> {
    let mut reader = Reader { bytes, at: 0, end: usize::MAX };
    let Some(length) = reader.varint()? else { return Ok(Question::NeedMore) };
    if !usize::try_from(length).is_ok_and(|length| (1..=MAX_QUESTION).contains(&length)) {
        return Err(MinecraftError::Length(length));
    }
    reader.end = reader.at + length as usize;
    match (reader.varint()?, reader.end - reader.at.min(reader.end)) {
        (None, _) => Ok(Question::NeedMore),
        (Some(0), 0) => Ok(Question::Status { consumed: reader.at }),
        (Some(1), 8) => {
            let payload = bytes.get(reader.at..reader.end).and_then(|bytes| bytes.try_into().ok());
            let of = |payload| Question::Ping { consumed: reader.end, payload };
            Ok(payload.map_or(Question::NeedMore, of))
        }
        (Some(id), _) => Err(MinecraftError::Packet(id)),
    }
}

/// How long the packet is that begins here, its length included; none: more bytes are needed to say so.
///
/// # Errors
/// It is longer than `most`, or no packet.
pub fn packet_length(bytes: &[u8], most: usize) -> Result<Option<usize>> {
    let mut reader = Reader { bytes, at: 0, end: usize::MAX };
    let Some(length) = reader.varint()? else { return Ok(None) };
    match usize::try_from(length) {
        Ok(whole) if (1..=most).contains(&whole) => Ok(Some(reader.at + whole)),
        _ => Err(MinecraftError::Length(length)),
    }
}

/// Write a number; answers its bytes and how many of them count.
#[must_use]
pub fn varint(number: i32) -> ([u8; 5], usize) {
    let (mut out, mut rest) = ([0; 5], number as u32);
    for (at, byte) in out.iter_mut().enumerate() {
        *byte = (rest & 0x7f) as u8;
        rest >>= 7;
        if rest == 0 {
            return (out, at + 1);
        }
        *byte |= 0x80;
    }
    (out, 5)
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Of the packet.
    end: usize,
}

impl Reader<'_> {
    /// None: it has not all arrived.
    fn varint(&mut self) -> Result<Option<i32>> {
        let mut value = 0u32;
        for shift in (0..35).step_by(7) {
            if self.at >= self.end {
                return Err(MinecraftError::Handshake);
            }
            let Some(byte) = self.bytes.get(self.at) else { return Ok(None) };
            self.at += 1;
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(Some(value as i32));
            }
        }
        Err(MinecraftError::Varint)
    }
}

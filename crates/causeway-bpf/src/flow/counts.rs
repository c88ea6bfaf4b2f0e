//! How many, over all processors and since the maps were made: of an application, and of what became of packets.

/// Of one application index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowTotals {
    /// Flows that were opened.
    pub connections: u64,
    /// Payload that the client sent; each byte of a TCP stream once.
    pub client_bytes: u64,
    pub client_packets: u64,
    pub origin_bytes: u64,
    pub origin_packets: u64,
    /// Packets of its flows that could not go on (no route, too big, expired).
    pub drops: u64,
    /// Flows that were not opened, because every source port towards the origin was taken.
    pub ports_exhausted: u64,
    /// Flows that stayed among the opening ones, because the table was full.
    pub table_full: u64,
}

/// What becomes of first packets to one application index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowOpenings {
    /// Flows that a first packet has begun.
    pub opened: u64,
    /// Of them: those that became two-way.
    pub two_way: u64,
    /// SYNs that were left to the stack, because too many came to nothing.
    pub pressed: u64,
}

/// What became of packets that were not plainly carried; the index of its counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Verdict {
    /// To a carried port, but of no flow and no first packet of one: left to the stack.
    Strayed,
    /// A flow was opened.
    Opened,
    /// Flows that became two-way.
    Promoted,
    /// No route to where it should go, or that is this machine.
    NoRoute,
    /// Larger than the next link takes: answered with ICMP.
    TooBig,
    /// A later fragment whose first was not seen.
    FragmentDropped,
    /// Lengths or offsets in it contradict each other.
    Malformed,
    /// IP options or extension headers that are not carried: left to the stack.
    Unusual,
    /// Time to live used up: left to the stack, which answers.
    Expired,
    /// Outside of the window of its connection: forwarded, but changes no state.
    OutOfWindow,
    /// An ICMP error about a flow, translated.
    ErrorTranslated,
    /// No source port left.
    Exhausted,
    /// The table of flows was full.
    TableFull,
    /// An event found the ring full; the sweep makes up for it.
    EventLost,
    /// A flow that is over, or that nobody finished, made room for a new one of the same addresses and ports.
    Reclaimed,
    /// A SYN while too many came to nothing: left to the stack, whose cookies the client has to answer.
    Pressed,
}

impl Verdict {
    pub const ALL: [Verdict; 16] = [
        Verdict::Strayed,
        Verdict::Opened,
        Verdict::Promoted,
        Verdict::NoRoute,
        Verdict::TooBig,
        Verdict::FragmentDropped,
        Verdict::Malformed,
        Verdict::Unusual,
        Verdict::Expired,
        Verdict::OutOfWindow,
        Verdict::ErrorTranslated,
        Verdict::Exhausted,
        Verdict::TableFull,
        Verdict::EventLost,
        Verdict::Reclaimed,
        Verdict::Pressed,
    ];

    /// Stable, for reports.
    pub fn code(self) -> &'static str {
        match self {
            Verdict::Strayed => "strayed",
            Verdict::Opened => "opened",
            Verdict::Promoted => "promoted",
            Verdict::NoRoute => "no_route",
            Verdict::TooBig => "too_big",
            Verdict::FragmentDropped => "fragment_dropped",
            Verdict::Malformed => "malformed",
            Verdict::Unusual => "unusual",
            Verdict::Expired => "expired",
            Verdict::OutOfWindow => "out_of_window",
            Verdict::ErrorTranslated => "error_translated",
            Verdict::Exhausted => "exhausted",
            Verdict::TableFull => "table_full",
            Verdict::EventLost => "event_lost",
            Verdict::Reclaimed => "reclaimed",
            Verdict::Pressed => "pressed",
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowVerdicts([u64; Verdict::ALL.len()]);

impl FlowVerdicts {
    pub fn set(&mut self, verdict: Verdict, count: u64) {
        self.0[verdict as usize] = count;
    }

    pub fn get(&self, verdict: Verdict) -> u64 {
        self.0[verdict as usize]
    }

    /// With their codes.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Verdict::ALL.into_iter().map(|verdict| (verdict.code(), self.get(verdict)))
    }
}

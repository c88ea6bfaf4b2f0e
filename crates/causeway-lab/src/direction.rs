//! One direction of a link: a line with a rate and a queue before it, then the way with its delay.
//!
//! Pure: the caller brings the time, and calls `line` and `arrive` when the steps are due. A frame that was taken
//! arrives, or is counted under what became of it; it arrives in the order of the line unless it was held back by `reorder`.

use std::collections::VecDeque;

use serde::Serialize;

use crate::random::Random;
use crate::shape::Shape;

pub type Frame = Box<[u8]>;

pub const ETHERNET: usize = 14;

/// What has become of the frames that were offered.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Counts {
    pub offered: u64,
    pub arrived: u64,
    pub arrived_bytes: u64,
    pub duplicated: u64,
    pub reordered: u64,
    pub lost: u64,
    pub queue_full: u64,
    pub too_big: u64,
    pub cut: u64,
    /// The relay holds all that it may.
    pub no_memory: u64,
    pub under_way: u64,
}

/// What is to happen at a time.
#[derive(Debug)]
pub enum Step {
    /// The frame that is on the line has left it.
    Line,
    Arrive(Frame),
}

/// What became of an offer at once.
#[derive(Debug, PartialEq, Eq)]
pub enum Offer {
    Taken,
    Dropped,
    /// Its sender is to be told the MTU.
    TooBig(u64),
}

#[derive(Debug)]
pub struct Direction {
    pub shape: Shape,
    pub counts: Counts,
    /// It is not as the world had it at the start.
    pub is_changed: bool,
    /// In the queue, on the line and on the way.
    pub held_bytes: u64,
    random: Random,
    queue: VecDeque<Frame>,
    queued_bytes: u64,
    last_arrival_ns: u64,
}

impl Direction {
    pub fn new(shape: Shape, seed: u64, number: u64) -> Self {
        Self {
            shape,
            counts: Counts::default(),
            is_changed: false,
            held_bytes: 0,
            random: Random::new(seed, number),
            queue: VecDeque::new(),
            queued_bytes: 0,
            last_arrival_ns: 0,
        }
    }

    pub fn offer(&mut self, now_ns: u64, frame: &[u8], steps: &mut Vec<(u64, Step)>) -> Offer {
        self.counts.offered += 1;
        let bytes = frame.len() as u64;
        if self.shape.is_cut {
            self.counts.cut += 1;
            return Offer::Dropped;
        }
        if self.shape.mtu != 0 && bytes > self.shape.mtu + ETHERNET as u64 {
            self.counts.too_big += 1;
            return if self.shape.is_mtu_silent { Offer::Dropped } else { Offer::TooBig(self.shape.mtu) };
        }
        if self.random.happens(self.shape.loss) {
            self.counts.lost += 1;
            return Offer::Dropped;
        }
        if self.shape.rate_bps == 0 && self.queue.is_empty() {
            self.held_bytes += bytes;
            self.counts.under_way += 1;
            self.launch(now_ns, frame.into(), steps);
            return Offer::Taken;
        }
        if self.queued_bytes + bytes > self.shape.queue_bytes {
            self.counts.queue_full += 1;
            return Offer::Dropped;
        }
        self.held_bytes += bytes;
        self.counts.under_way += 1;
        self.queued_bytes += bytes;
        self.queue.push_back(frame.into());
        if self.queue.len() == 1 {
            steps.push((now_ns + self.line_time_ns(bytes), Step::Line));
        }
        Offer::Taken
    }

    /// The first of the queue has left the line; the next one is put on it, at the rate of now.
    pub fn line(&mut self, at_ns: u64, steps: &mut Vec<(u64, Step)>) {
        let Some(frame) = self.queue.pop_front() else { return };
        self.queued_bytes -= frame.len() as u64;
        self.launch(at_ns, frame, steps);
        if let Some(next) = self.queue.front() {
            steps.push((at_ns + self.line_time_ns(next.len() as u64), Step::Line));
        }
    }

    /// Whether the frame gets out at the other end.
    pub fn arrive(&mut self, bytes: u64, is_down: bool) -> bool {
        self.held_bytes -= bytes;
        self.counts.under_way -= 1;
        if self.shape.is_cut || is_down {
            self.counts.cut += 1;
            return false;
        }
        self.counts.arrived += 1;
        self.counts.arrived_bytes += bytes;
        true
    }

    fn launch(&mut self, at_ns: u64, frame: Frame, steps: &mut Vec<(u64, Step)>) {
        if self.random.happens(self.shape.duplicate) {
            self.counts.duplicated += 1;
            self.counts.under_way += 1;
            self.held_bytes += frame.len() as u64;
            let arrival_ns = self.arrival_ns(at_ns);
            steps.push((arrival_ns, Step::Arrive(frame.clone())));
        }
        let arrival_ns = self.arrival_ns(at_ns);
        steps.push((arrival_ns, Step::Arrive(frame)));
    }

    fn arrival_ns(&mut self, at_ns: u64) -> u64 {
        let jitter_ns = self.shape.jitter_us * 1_000;
        let least_ns = at_ns + (self.shape.delay_us * 1_000).saturating_sub(jitter_ns);
        let most_ns = at_ns + self.shape.delay_us * 1_000 + jitter_ns;
        let arrival_ns = least_ns + self.random.up_to(most_ns - least_ns);
        if self.random.happens(self.shape.reorder) {
            self.counts.reordered += 1;
            return arrival_ns + self.shape.reorder_us * 1_000;
        }
        self.last_arrival_ns = self.last_arrival_ns.max(arrival_ns);
        self.last_arrival_ns
    }

    fn line_time_ns(&self, bytes: u64) -> u64 {
        match self.shape.rate_bps {
            0 => 0,
            rate => (u128::from(bytes) * 8_000_000_000 / u128::from(rate)) as u64,
        }
    }
}

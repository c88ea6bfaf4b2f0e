//! How one direction of a link behaves, and a change to that. Values out of bounds are refused by name.

use serde::{Deserialize, Serialize};

use crate::LabError;

const LONGEST_US: u64 = 60_000_000;
const LEAST_RATE_BPS: u64 = 1_000;
const MOST_RATE_BPS: u64 = 1_000_000_000_000;
const LEAST_QUEUE_BYTES: u64 = 1_514; // one frame
const MOST_QUEUE_BYTES: u64 = 64 << 20;
const LEAST_MTU: u64 = 576;
const MOST_MTU: u64 = 65_535;

/// Rate and MTU 0: none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Shape {
    pub delay_us: u64,
    /// The delay of a packet is as much as this above or below.
    pub jitter_us: u64,
    pub loss: f64,
    pub duplicate: f64,
    /// The share that is held back by `reorder_us`, so that what follows overtakes it.
    pub reorder: f64,
    pub reorder_us: u64,
    pub rate_bps: u64,
    /// What waits for a line that has a rate, with the packet that is on it.
    pub queue_bytes: u64,
    /// Of the IP packet.
    pub mtu: u64,
    /// A black hole: what is too big is not told to its sender.
    pub is_mtu_silent: bool,
    pub is_cut: bool,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            delay_us: 0,
            jitter_us: 0,
            loss: 0.0,
            duplicate: 0.0,
            reorder: 0.0,
            reorder_us: 10_000,
            rate_bps: 0,
            queue_bytes: 256 << 10,
            mtu: 0,
            is_mtu_silent: false,
            is_cut: false,
        }
    }
}

/// What is to be other than it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Change {
    pub delay_us: Option<u64>,
    pub jitter_us: Option<u64>,
    pub loss: Option<f64>,
    pub duplicate: Option<f64>,
    pub reorder: Option<f64>,
    pub reorder_us: Option<u64>,
    pub rate_bps: Option<u64>,
    pub queue_bytes: Option<u64>,
    pub mtu: Option<u64>,
    pub is_mtu_silent: Option<bool>,
    pub is_cut: Option<bool>,
}

impl Shape {
    pub fn changed(&self, change: &Change) -> Result<Shape, LabError> {
        let shape = Shape {
            delay_us: change.delay_us.unwrap_or(self.delay_us),
            jitter_us: change.jitter_us.unwrap_or(self.jitter_us),
            loss: change.loss.unwrap_or(self.loss),
            duplicate: change.duplicate.unwrap_or(self.duplicate),
            reorder: change.reorder.unwrap_or(self.reorder),
            reorder_us: change.reorder_us.unwrap_or(self.reorder_us),
            rate_bps: change.rate_bps.unwrap_or(self.rate_bps),
            queue_bytes: change.queue_bytes.unwrap_or(self.queue_bytes),
            mtu: change.mtu.unwrap_or(self.mtu),
            is_mtu_silent: change.is_mtu_silent.unwrap_or(self.is_mtu_silent),
            is_cut: change.is_cut.unwrap_or(self.is_cut),
        };
        shape.check()?;
        Ok(shape)
    }

    pub fn check(&self) -> Result<(), LabError> {
        let times = [("delay_us", self.delay_us), ("jitter_us", self.jitter_us), ("reorder_us", self.reorder_us)];
        for (field, value) in times {
            within(field, value, 0, LONGEST_US, "0 to 60000000")?;
        }
        for (field, value) in [("loss", self.loss), ("duplicate", self.duplicate), ("reorder", self.reorder)] {
            if !(0.0..=1.0).contains(&value) {
                return Err(LabError::Shape { field, value: value.to_string(), wanted: "a share, 0 to 1" });
            }
        }
        if self.rate_bps != 0 {
            within("rate_bps", self.rate_bps, LEAST_RATE_BPS, MOST_RATE_BPS, "0 (none) or 1000 to 1000000000000")?;
        }
        within("queue_bytes", self.queue_bytes, LEAST_QUEUE_BYTES, MOST_QUEUE_BYTES, "1514 to 67108864")?;
        if self.mtu != 0 {
            within("mtu", self.mtu, LEAST_MTU, MOST_MTU, "0 (none) or 576 to 65535")?;
        }
        Ok(())
    }
}

fn within(field: &'static str, value: u64, least: u64, most: u64, wanted: &'static str) -> Result<(), LabError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(LabError::Shape { field, value: value.to_string(), wanted })
}

//! The loaded program and its maps: made or adopted, pinned, attached.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use aya::programs::SchedClassifier;

use super::hook::Hooks;
use super::{Family, Options, Table, Verdict, pins};
use crate::{Unavailable, built};

/// The object of clang; empty if it could not be compiled.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/flow.bpf.o"));

/// One-way flows at a time, of a family; a flood has its own oldest ones evicted.
const MOST_OPENING: u32 = 32_768;

pub(super) const MAPS: [&str; 16] = [
    "flows4",
    "flows6",
    "opening4",
    "opening6",
    "ended4",
    "ended6",
    "listeners",
    "applications",
    "balances",
    "totals",
    "flow_verdicts",
    "pressures",
    "openings",
    "timings4",
    "timings6",
    "events",
];

#[derive(Debug)]
pub(super) struct Maps {
    pub flows4: OwnedFd,
    pub flows6: OwnedFd,
    pub opening4: OwnedFd,
    pub opening6: OwnedFd,
    pub ended4: OwnedFd,
    pub ended6: OwnedFd,
    pub listeners: OwnedFd,
    pub applications: OwnedFd,
    pub balances: OwnedFd,
    pub totals: OwnedFd,
    pub openings: OwnedFd,
    pub flow_verdicts: OwnedFd,
    pub events: OwnedFd,
}

#[derive(Debug)]
pub(super) struct Kernel {
    pub maps: Maps,
    pub hooks: Hooks,
}

pub(super) fn load(options: &Options) -> Result<Kernel, Unavailable> {
    built()?;
    crate::dispatch::raise_locked_memory();
    if let Some(directory) = &options.pins {
        pins::prepare(directory).map_err(|error| Unavailable::refused("no place to pin flows", error))?;
    }
    let mut loader = aya::EbpfLoader::new();
    let count = u32::from(*options.source_ports.end()) + 1 - u32::from(*options.source_ports.start());
    let first = u32::from(*options.source_ports.start());
    loader.override_global("source_first", &first, true).override_global("source_count", &count, true);
    for (name, flows) in [("flows4", options.capacity_v4), ("flows6", options.capacity_v6)] {
        loader.map_max_entries(name, flows.max(1) * 2);
    }
    for (name, flows) in [("opening4", options.capacity_v4), ("opening6", options.capacity_v6)] {
        loader.map_max_entries(name, flows.clamp(512, MOST_OPENING) * 2);
    }
    if let Some(directory) = &options.pins {
        pins::drop_smaller(&directory.join("flow_verdicts"), Verdict::ALL.len() as u32)
            .map_err(|error| Unavailable::refused("counters of an earlier version cannot be replaced", error))?;
        MAPS.iter().for_each(|name| _ = loader.map_pin_path(name, directory.join(name)));
    }
    let mut object = loader
        .load(OBJECT)
        .map_err(|error| Unavailable::refused("the maps of the flow program could not be made", error))?;
    let map = |name: &str| {
        let map = object.map(name).ok_or_else(|| broken("a map is missing in the object"))?;
        use aya::maps::Map;
        let data = match map {
            Map::HashMap(data) | Map::LruHashMap(data) | Map::PerCpuArray(data) | Map::RingBuf(data) => data,
            Map::Array(data) => data,
            _ => return Err(broken("a map in the object has another type")),
        };
        data.fd().as_fd().try_clone_to_owned().map_err(|error| Unavailable::refused("out of descriptors", error))
    };
    let maps = Maps {
        flows4: map("flows4")?,
        flows6: map("flows6")?,
        opening4: map("opening4")?,
        opening6: map("opening6")?,
        ended4: map("ended4")?,
        ended6: map("ended6")?,
        listeners: map("listeners")?,
        applications: map("applications")?,
        balances: map("balances")?,
        totals: map("totals")?,
        openings: map("openings")?,
        flow_verdicts: map("flow_verdicts")?,
        events: map("events")?,
    };
    let program = object.program_mut("flow").ok_or_else(|| broken("the program is missing in the object"))?;
    let program: &mut SchedClassifier = program.try_into().map_err(|_| broken("the program has another type"))?;
    let refused = |error| Unavailable::refused("the flow program could not be loaded", error);
    program.load().map_err(judged)?;
    let program = program.fd().map_err(refused)?.as_fd().try_clone_to_owned();
    let program = program.map_err(|error| Unavailable::refused("out of descriptors", error))?;
    forward_from_lo().map_err(|error| Unavailable::refused("forwarding could not be switched on for lo", error))?;
    let hooks = Hooks::adopt(program, options.hook, options.pins.as_deref());
    let hooks = hooks.map_err(|error| Unavailable::refused("what is attached could not be adopted", error))?;
    if let Some(directory) = &options.pins {
        pins::drop_former(directory, &MAPS)
            .map_err(|error| Unavailable::refused("maps of an earlier version cannot be given up", error))?;
    }
    Ok(Kernel { maps, hooks })
}

/// The route of a translated packet is asked for as if it came in by lo, which has to forward for that. Nothing comes
/// in by lo that is to be forwarded, so nothing else does.
fn forward_from_lo() -> io::Result<()> {
    for path in ["/proc/sys/net/ipv4/conf/lo/forwarding", "/proc/sys/net/ipv6/conf/lo/forwarding"] {
        match std::fs::write(path, "1") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {} // no IPv6 here
            other => other?,
        }
    }
    Ok(())
}

/// The verifier's last words tell more than the number that it answers.
fn judged(error: aya::programs::ProgramError) -> Unavailable {
    const WHAT: &str = "the flow program could not be loaded";
    match &error {
        aya::programs::ProgramError::LoadError { verifier_log, .. } => {
            let log = verifier_log.to_string();
            if let Ok(path) = std::env::var("CAUSEWAY_BPF_LOG") {
                let _ = std::fs::write(path, &log);
            }
            match crate::last_words(&log) {
                Some(reason) => Unavailable::Refused { what: WHAT, reason: format!("the verifier: {reason}") },
                None => Unavailable::refused(WHAT, error),
            }
        }
        _ => Unavailable::refused(WHAT, error),
    }
}

fn broken(reason: &str) -> Unavailable {
    Unavailable::Refused { what: "flow.bpf.o", reason: reason.to_string() }
}

impl Kernel {
    pub fn program(&self) -> BorrowedFd<'_> {
        self.hooks.program()
    }

    pub fn table(&self, family: Family, table: Table) -> BorrowedFd<'_> {
        match (family, table) {
            (Family::V4, Table::Open) => self.maps.flows4.as_fd(),
            (Family::V6, Table::Open) => self.maps.flows6.as_fd(),
            (Family::V4, Table::Opening) => self.maps.opening4.as_fd(),
            (Family::V6, Table::Opening) => self.maps.opening6.as_fd(),
        }
    }

    /// Flows whose end was told, each leg in its place.
    pub fn ended(&self, family: Family) -> BorrowedFd<'_> {
        match family {
            Family::V4 => self.maps.ended4.as_fd(),
            Family::V6 => self.maps.ended6.as_fd(),
        }
    }
}

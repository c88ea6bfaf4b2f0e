//! Where packets come to the program: a tcx link for each interface, or, before kernel 6.6, a filter.
//!
//! Both outlive the process if there are pins: links are pinned themselves, filters stay, and a mark says whose qdiscs
//! are ours to take away.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::clsact::Filters;
use super::pins;
use crate::call;

/// How the kernel calls the program for what comes in by an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// By a link of its own (kernel 6.6).
    Tcx,
    /// By a filter of the interface's clsact qdisc.
    Clsact,
}

impl Hook {
    pub fn name(self) -> &'static str {
        match self {
            Hook::Tcx => "tcx",
            Hook::Clsact => "clsact",
        }
    }
}

#[derive(Debug)]
enum Held {
    Link(OwnedFd),
    Filter { is_qdisc_ours: bool },
}

#[derive(Debug)]
pub(super) struct Hooks {
    pub hook: Hook,
    program: OwnedFd,
    filters: Filters,
    pins: Option<PathBuf>,
    /// By interface.
    held: Mutex<BTreeMap<u32, Held>>,
}

impl Hooks {
    /// Whatever is left of earlier processes is adopted: `program` in the place of the last one's, interface by
    /// interface. What is of interfaces that are gone goes too. `hook`: for new interfaces; none: the kernel's best.
    pub fn adopt(program: OwnedFd, hook: Option<Hook>, pins: Option<&Path>) -> io::Result<Hooks> {
        let best = if call::has_tcx(program.as_fd())? { Hook::Tcx } else { Hook::Clsact };
        let owner = match pins {
            Some(directory) => owner(directory),
            None => format!("program {}", call::program_id(program.as_fd())?),
        };
        let filters = Filters::of(&owner)?;
        let mut held = BTreeMap::new();
        if let Some(directory) = pins {
            links(directory, program.as_fd(), &mut held)?;
            let (marked, qdiscs) = (pins::qdiscs(directory)?, filters.qdiscs()?);
            for interface in marked.difference(&qdiscs.iter().copied().collect()) {
                std::fs::remove_file(pins::qdisc(directory, *interface))?;
            }
            for interface in filters.interfaces()? {
                filters.put(interface, program.as_fd())?;
                held.insert(interface, Held::Filter { is_qdisc_ours: marked.contains(&interface) });
            }
        }
        let (hook, pins) = (hook.unwrap_or(best), pins.map(Path::to_path_buf));
        Ok(Hooks { hook, program, filters, pins, held: Mutex::new(held) })
    }

    pub fn program(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<u32, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn attached(&self) -> Vec<u32> {
        self.held().keys().copied().collect()
    }

    pub fn attach(&self, interface: u32) -> io::Result<()> {
        let mut held = self.held();
        match held.get(&interface) {
            Some(Held::Link(_)) => return Ok(()),
            // Whoever takes the qdisc away takes the filter with it.
            Some(Held::Filter { .. }) if self.filters.is_at(interface)? => return Ok(()),
            _ => {}
        }
        let new = match self.hook {
            Hook::Tcx => Held::Link(self.link(interface)?),
            Hook::Clsact => Held::Filter { is_qdisc_ours: self.filter(interface)? },
        };
        held.insert(interface, new);
        Ok(())
    }

    fn link(&self, interface: u32) -> io::Result<OwnedFd> {
        let link = call::attach_tcx(self.program(), interface)?;
        if let Some(directory) = &self.pins {
            call::pin(link.as_fd(), &pins::link(directory, interface))?;
        }
        Ok(link)
    }

    fn filter(&self, interface: u32) -> io::Result<bool> {
        let is_made = self.filters.put(interface, self.program())?;
        let Some(directory) = &self.pins else { return Ok(is_made) };
        if is_made {
            pins::mark_qdisc(directory, interface)?;
        }
        Ok(pins::qdiscs(directory)?.contains(&interface))
    }

    /// Tries on lo, for a moment.
    pub fn try_out(&self) -> io::Result<()> {
        const LO: u32 = 1; // in every network namespace
        let held = self.held();
        match self.hook {
            Hook::Tcx => call::attach_tcx(self.program(), LO).map(drop),
            Hook::Clsact if held.values().any(|it| matches!(it, Held::Filter { .. })) => Ok(()),
            Hook::Clsact => {
                let is_made = self.filters.put(LO, self.program())?;
                self.filters.remove(LO, is_made).map(drop)
            }
        }
    }

    pub fn detach(&self, interface: u32) -> io::Result<()> {
        match self.held().remove(&interface) {
            Some(Held::Link(link)) => {
                drop(link);
                self.pins.as_ref().map_or(Ok(()), |at| std::fs::remove_file(pins::link(at, interface)))
            }
            Some(Held::Filter { is_qdisc_ours }) => {
                self.filters.remove(interface, is_qdisc_ours)?;
                self.pins.as_ref().map_or(Ok(()), |at| pins::unmark_qdisc(at, interface))
            }
            None => Ok(()),
        }
    }
}

impl Drop for Hooks {
    /// Filters are nobody's: without pins they go with their process, as links do.
    fn drop(&mut self) {
        if self.pins.is_none() {
            self.attached().into_iter().for_each(|interface| _ = self.detach(interface));
        }
    }
}

fn owner(directory: &Path) -> String {
    directory.display().to_string()
}

fn links(directory: &Path, program: BorrowedFd<'_>, held: &mut BTreeMap<u32, Held>) -> io::Result<()> {
    for path in pins::links(directory)? {
        let link = call::pinned(&path)?;
        match call::interface_of(link.as_fd())? {
            0 => std::fs::remove_file(&path)?,
            interface => {
                call::replace(link.as_fd(), program)?;
                held.insert(interface, Held::Link(link));
            }
        }
    }
    Ok(())
}

/// Take filters away, and qdiscs that were made for them. Answers how many filters there were.
pub(super) fn flush(directory: &Path) -> io::Result<usize> {
    let filters = Filters::of(&owner(directory))?;
    let marked = if directory.exists() { pins::qdiscs(directory)? } else { BTreeSet::new() };
    let interfaces: BTreeSet<u32> = filters.interfaces()?.into_iter().chain(marked.iter().copied()).collect();
    let mut count = 0;
    for interface in interfaces {
        count += usize::from(filters.remove(interface, marked.contains(&interface))?);
        pins::unmark_qdisc(directory, interface)?;
    }
    Ok(count)
}

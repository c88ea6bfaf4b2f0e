//! The life of the guard: opened or adopted, attached to what packets come in by, left behind, flushed.

use std::collections::HashSet;
use std::ffi::CStr;
use std::path::{Path, PathBuf};

use causeway_bpf::guard::{Attachment, Guard, Options};

use super::fixed::Sets;
use super::{Guarding, Kernel, Mode, tables};
use crate::carry::here;
use crate::report::GuardedInterface;

impl Guarding {
    /// # Errors
    /// Why this machine cannot, if it must.
    pub fn start(mode: Mode, state_dir: Option<&Path>) -> Result<Guarding, String> {
        let pins = state_dir.and_then(pins);
        let mut it = Guarding { mode, pins, ..Guarding::default() };
        let is_left = it.pins.as_ref().is_some_and(|pins| pins.exists());
        if is_left && mode == Mode::Off {
            let _ = Guard::flush(&it.options()); // nobody looks after it any more
        }
        it.is_asked_for = is_left && mode == Mode::Auto; // until it is known what is
        if mode == Mode::On || it.is_asked_for {
            it.open();
        }
        match &it.kernel {
            Kernel::Without(reason) if mode == Mode::On => Err(reason.clone()),
            _ => Ok(it),
        }
    }

    /// A tenth of the fast path's rate on veth, for what the stack drops anyway: `auto` leaves it out (decision 9) unless
    /// the operator has rules for it.
    pub(super) fn is_wanted(&self) -> bool {
        let is_at_work = matches!(self.kernel, Kernel::Has(_));
        self.mode == Mode::On || (self.mode == Mode::Auto && (self.is_asked_for || is_at_work))
    }

    pub(super) fn missing(&self) -> String {
        match (&self.kernel, self.mode) {
            (_, Mode::Off) => "switched off (--guard off)".into(),
            (Kernel::Without(reason), _) => reason.clone(),
            (_, Mode::Auto) => "only with IP access rules or limits, or if it is asked for (--guard on)".into(),
            _ => "no listener on an address that others can reach".into(),
        }
    }

    fn options(&self) -> Options {
        Options { pins: self.pins.clone(), ..Options::default() }
    }

    /// Load the program and adopt what is pinned, if that was not tried yet.
    pub(super) fn open(&mut self) {
        if !matches!(self.kernel, Kernel::Untried) || !self.is_wanted() {
            return;
        }
        self.kernel = match self.try_open() {
            Ok(guard) => Kernel::Has(guard),
            Err(reason) => Kernel::Without(reason),
        };
    }

    fn try_open(&mut self) -> Result<Guard, String> {
        if self.pins.is_none() {
            return Err("without a state directory its rules would end with the process".into());
        }
        let guard = Guard::open(&self.options()).map_err(|error| error.to_string())?;
        let left = |error: std::io::Error| format!("what an earlier process has left cannot be read: {error}");
        for spot in guard.spots().map_err(left)? {
            self.tables.insert(spot, guard.ports(spot).map_err(left)?);
        }
        let mut sets = Vec::new();
        for index in tables::indices_of(&self.tables).collect::<HashSet<_>>() {
            sets.extend(guard.listener(index).map_err(left)?.sets);
        }
        self.sets = Sets::left(sets.into_iter());
        Ok(guard)
    }

    /// Interfaces come and go: guard those that are there. Cheap if none has.
    pub fn look(&mut self) {
        let Kernel::Has(guard) = &self.kernel else { return };
        let (there, guarded) = (here::interfaces(), guard.attached());
        for (gone, _) in guarded.iter().filter(|(interface, _)| !there.contains(interface)) {
            let _ = guard.detach(*gone);
        }
        self.unguarded.retain(|interface, _| there.contains(interface));
        let is_needed = self.is_asked_for || (self.mode == Mode::On && !self.tables.is_empty());
        if !is_needed {
            if self.mode == Mode::Auto {
                guarded.iter().for_each(|(interface, _)| drop(guard.detach(*interface)));
            }
            return; // nothing to judge: packets need not come by
        }
        for interface in there {
            match guard.attach(interface) {
                Ok(_) => drop(self.unguarded.remove(&interface)),
                Err(error) => {
                    let reason = match error.raw_os_error() {
                        Some(libc::EBUSY | libc::EEXIST) => "another XDP program is attached there".to_string(),
                        _ => error.to_string(),
                    };
                    self.unguarded.insert(interface, reason);
                }
            }
        }
        self.tidy();
    }

    pub(super) fn interfaces(&self) -> Vec<GuardedInterface> {
        let Kernel::Has(guard) = &self.kernel else { return Vec::new() };
        let guarded = guard.attached().into_iter().map(|(interface, attachment)| {
            let mode = if attachment == Attachment::Native { "native" } else { "generic" };
            GuardedInterface { name: name_of(interface), mode: Some(mode), reason: None }
        });
        let not = self.unguarded.iter().map(|(interface, reason)| GuardedInterface {
            name: name_of(*interface),
            mode: None,
            reason: Some(reason.clone()),
        });
        guarded.chain(not).collect()
    }

    /// It is another process's: touch nothing of it any more. What is in the kernel stays in force.
    pub fn let_go(&mut self) {
        *self = Guarding { mode: Mode::Off, ..Guarding::default() };
    }
}

pub(super) fn name_of(interface: u32) -> String {
    let mut name = [0 as libc::c_char; libc::IF_NAMESIZE];
    // SAFETY: room of the size that the call asks for; it ends with zero then.
    unsafe {
        if libc::if_indextoname(interface, name.as_mut_ptr()).is_null() {
            return interface.to_string(); // it went a moment ago
        }
        CStr::from_ptr(name.as_ptr()).to_string_lossy().into_owned()
    }
}

/// Beside the fast path's.
fn pins(state_dir: &Path) -> Option<PathBuf> {
    here::pins(state_dir)?.parent().map(|parent| parent.join("guard"))
}

/// Take the rules of the edge with this state directory out of the kernel. Answers how much it was.
///
/// # Errors
/// The kernel's.
pub fn flush(state_dir: &Path) -> std::io::Result<usize> {
    let pins = pins(state_dir);
    let parent = pins.as_ref().and_then(|pins| pins.parent().map(Path::to_path_buf));
    let count = Guard::flush(&Options { pins, ..Options::default() })?;
    if let Some(parent) = parent {
        let _ = std::fs::remove_dir(parent); // not empty: the fast path's are there
    }
    Ok(count)
}

/// Has an edge with this state directory left rules in the kernel?
pub fn is_left(state_dir: &Path) -> bool {
    pins(state_dir).is_some_and(|pins| pins.exists())
}

/// Could packets be guarded here? Leaves no trace.
///
/// # Errors
/// Why not, ready to stand in brackets.
pub fn probe() -> Result<(), String> {
    Guard::open(&Options { pins: None, sources: 1024 }).map(drop).map_err(|error| error.to_string())
}

//! The life of the guard: opened or adopted, attached to what packets come in by, left behind, flushed.

use std::collections::HashSet;
use std::ffi::CStr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use causeway_bpf::guard::{Attachment, Guard, Options};

use super::fixed::Sets;
use super::teller::Telling;
use super::{Guarding, Kernel, Mode, kept, syncookies, tables};
use crate::carry::here;
use crate::memory;
use crate::report::GuardedInterface;
use crate::sys;

impl Guarding {
    /// What an earlier process has left in force stays so; without a word of it on disk it goes after a while.
    ///
    /// # Errors
    /// Why this machine cannot, if it must.
    pub fn start(mode: Mode, idle_ms: u64, state_dir: Option<&Path>) -> Result<Guarding, String> {
        let (pins, kept_at) = (state_dir.and_then(pins), state_dir.map(kept::path));
        let mut it = Guarding { mode, idle: Duration::from_millis(idle_ms), pins, kept_at, ..Guarding::default() };
        let is_left = it.pins.as_ref().is_some_and(|pins| pins.exists());
        it.remember();
        match mode {
            Mode::Off => {
                it.forget();
                if is_left {
                    let _ = Guard::flush(&it.options()); // nobody looks after it any more
                }
            }
            Mode::Auto if !is_left => {}
            Mode::Auto => it.open(),
            Mode::On => {
                it.open();
                it.settle(true);
            }
        }
        if let (Mode::On, Kernel::Has(guard)) = (mode, &it.kernel) {
            guard.keep().map_err(|error| format!("there is no place to pin it: {error}"))?;
        }
        match &it.kernel {
            Kernel::Without(reason) | Kernel::Short(reason) if mode == Mode::On => Err(reason.clone()),
            _ => Ok(it),
        }
    }

    /// A tenth of the fast path's rate on veth, for what the stack drops anyway (decision 9): not without a reason.
    pub(super) fn is_wanting(&self) -> bool {
        match self.mode {
            Mode::On => true,
            Mode::Off => false,
            Mode::Auto => self.plan.is_wanting() || self.is_asked_for() || !self.bans.is_empty(),
        }
    }

    /// By the operator's rules and limits.
    fn is_asked_for(&self) -> bool {
        self.fixed.values().any(|fixed| fixed.is_wanting)
    }

    pub(super) fn is_attached(&self) -> bool {
        matches!(&self.kernel, Kernel::Has(guard) if !guard.attached().is_empty())
    }

    pub(super) fn missing(&self) -> String {
        match (&self.kernel, self.mode) {
            (_, Mode::Off) => "switched off (--guard off)".into(),
            (Kernel::Without(reason) | Kernel::Short(reason), _) => reason.clone(),
            _ if !self.is_wanting() => "nothing to hold: it is attached when there is (--guard auto)".into(),
            (Kernel::Coming(_), _) => "it is being loaded".into(),
            _ if self.entries.is_empty() => "no listener on an address that others can reach".into(),
            _ => {
                let reasons: Vec<&str> = self.unguarded.values().map(String::as_str).collect();
                format!("no interface takes it: {}", reasons.first().unwrap_or(&"there is none"))
            }
        }
    }

    fn options(&self) -> Options {
        Options { pins: self.pins.clone(), ..Options::default() }
    }

    /// Load the program and adopt what is pinned, if that was not tried yet. It takes the kernel a second of thinking, so
    /// that is done beside: see `settle`.
    pub(super) fn open(&mut self) {
        if !matches!(self.kernel, Kernel::Untried | Kernel::Short(_)) || self.mode == Mode::Off {
            return;
        }
        let needs = Guard::load_bytes();
        if let Some(room) = memory::room_bytes().filter(|room| *room < needs) {
            let (needs, room) = (needs >> 20, room >> 20);
            self.kernel = Kernel::Short(format!("to load it takes {needs} MiB, and the memory limit leaves {room}"));
            return;
        }
        if self.pins.is_none() {
            let reason = "without a state directory its rules would end with the process";
            self.kernel = Kernel::Without(reason.into());
            return;
        }
        // What is in force goes on without us, but somebody has to be able to change it.
        let is_left = self.pins.as_ref().is_some_and(|pins| pins.exists());
        let (options, is_urgent) = (self.options(), is_left || self.mode == Mode::On);
        let load = move || {
            if !is_urgent {
                sys::give_way();
            }
            Guard::open(&options).map_err(|error| error.to_string())
        };
        self.kernel = match thread::Builder::new().name("guard-load".into()).spawn(load) {
            Ok(loading) => Kernel::Coming(loading),
            Err(error) => Kernel::Without(format!("no thread to load it: {error}")),
        };
    }

    /// Take up the program that was loaded; `wait` for it if need be. Answers whether it has come just now.
    pub fn settle(&mut self, wait: bool) -> bool {
        if !matches!(&self.kernel, Kernel::Coming(loading) if wait || loading.is_finished()) {
            return false;
        }
        let Kernel::Coming(loading) = std::mem::take(&mut self.kernel) else { return false };
        let loaded = loading.join().unwrap_or_else(|_| Err("it could not be loaded".into()));
        self.kernel = match loaded.and_then(|guard| self.adopt(guard)) {
            Ok(guard) => Kernel::Has(guard),
            Err(reason) => Kernel::Without(reason),
        };
        matches!(self.kernel, Kernel::Has(_))
    }

    fn adopt(&mut self, guard: Guard) -> Result<Guard, String> {
        let left = |error: std::io::Error| format!("what an earlier process has left cannot be read: {error}");
        for spot in guard.spots().map_err(left)? {
            self.written.tables.insert(spot, guard.ports(spot).map_err(left)?);
        }
        self.written.addresses.extend(guard.addresses().map_err(left)?);
        let mut sets = Vec::new();
        let mine = tables::indices_of(&self.written.tables).chain(self.written.addresses.values().copied());
        for index in mine.collect::<HashSet<_>>() {
            let listener = guard.listener(index).map_err(left)?;
            sets.extend(listener.sets.into_iter().chain(listener.bans));
        }
        self.sets = Sets::left(sets.into_iter());
        self.samples = guard.samples().ok(); // without it there are none
        self.telling = Telling::over(guard.sessions()); // without it the engine's sessions look like strangers
        Ok(guard)
    }

    /// Interfaces come and go: guard those that are there, while anything wants that. Cheap if nothing has changed.
    pub fn attend(&mut self) {
        self.tidy();
        let Kernel::Has(guard) = &self.kernel else { return };
        // Before an application with rules comes, its packets do.
        if !self.is_wanting() || (self.written.tables.is_empty() && !self.is_asked_for()) {
            let is_patient = self.idle_since.get_or_insert_with(Instant::now).elapsed() < self.idle;
            if !is_patient && guard.is_kept() {
                self.trouble = guard.release().err().map(|error| error.to_string());
                self.unguarded.clear();
            }
            return;
        }
        self.idle_since = None;
        let (there, guarded) = (here::interfaces(), guard.attached());
        for (gone, _) in guarded.iter().filter(|(interface, _)| !there.contains(interface)) {
            let _ = guard.detach(*gone);
        }
        let _ = guard.see_drivers(); // who cannot be asked stays as it was
        self.unguarded.retain(|interface, _| there.contains(interface));
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
    }

    pub(super) fn interfaces(&self) -> Vec<GuardedInterface> {
        let Kernel::Has(guard) = &self.kernel else { return Vec::new() };
        let guarded = guard.attached().into_iter().map(|(interface, attachment)| {
            let mode = if attachment == Attachment::Generic { "generic" } else { "native" };
            let cookies_by = if attachment == Attachment::Mute { "stack" } else { "guard" };
            GuardedInterface { name: name_of(interface), mode: Some(mode), cookies_by: Some(cookies_by), reason: None }
        });
        let not = self.unguarded.iter().map(|(interface, reason)| GuardedInterface {
            name: name_of(*interface),
            mode: None,
            cookies_by: None,
            reason: Some(reason.clone()),
        });
        guarded.chain(not).collect()
    }

    /// As a process ends: what holds nothing is not left behind.
    pub fn abandon(&mut self) {
        if let Kernel::Has(guard) = &self.kernel
            && !self.is_wanting()
            && guard.is_kept()
        {
            let _ = guard.release();
        }
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
    forget(&kept::path(state_dir));
    let pins = pins(state_dir);
    let parent = pins.as_ref().and_then(|pins| pins.parent().map(Path::to_path_buf));
    let count = Guard::flush(&Options { pins, ..Options::default() })?;
    if let Some(parent) = parent {
        let _ = std::fs::remove_dir(parent); // not empty: the fast path's are there
    }
    Ok(count)
}

/// No plan holds any more.
pub(super) fn forget(kept_at: &Path) {
    if let Ok(Some(kept)) = kept::read(kept_at)
        && let Some(before) = kept.syncookies
    {
        let _ = syncookies::put_back(before);
    }
    kept::remove(kept_at);
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

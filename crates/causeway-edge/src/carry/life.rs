//! The life of the fast path: opened or adopted, attached, looked after, handed on, left behind, flushed.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use causeway_bpf::flow::{FlowPath, Hook, Options};

use super::here::{self, LAYOUT};
use super::keeper::{self, Keeper, Orders};
use super::{Carry, Kernel, Mode, Recarry, Refuses, Wanted};
use crate::event::Events;
use crate::sys::Wake;

impl Carry {
    /// Nothing is opened before it is needed, unless an earlier process has left flows.
    ///
    /// # Errors
    /// Why this machine cannot, if it must.
    pub fn start(
        wanted: Wanted,
        state_dir: Option<&Path>,
        events: Events,
        (recarry, refuses): (Recarry, Refuses),
        is_held: bool,
    ) -> Result<Carry, String> {
        let pins = state_dir.and_then(here::pins);
        let Wanted { mode, flows } = wanted;
        let (events, recarry, refuses) = (Some(events), Some(recarry), Some(refuses));
        let mut it = Carry { mode, flows, pins, events, recarry, refuses, is_held, ..Carry::default() };
        let is_left = it.pins.as_ref().is_some_and(|pins| pins.exists());
        if mode == Mode::Off && is_left {
            let _ = FlowPath::flush(&it.options()); // what it carried is the engine's from now on
        }
        if mode == Mode::On || (mode == Mode::Auto && is_left) {
            it.open();
        }
        match &it.kernel {
            Kernel::Without(reason) if mode == Mode::On => Err(reason.clone()),
            _ => Ok(it),
        }
    }

    fn options(&self) -> Options {
        let (capacity_v4, capacity_v6) = (self.flows, self.flows / 4);
        Options { pins: self.pins.clone(), capacity_v4, capacity_v6, ..Options::default() }
    }

    /// Load the program and adopt what is pinned, if that was not tried yet.
    pub(super) fn open(&mut self) {
        if !matches!(self.kernel, Kernel::Untried) || self.mode == Mode::Off {
            return;
        }
        self.kernel = match self.try_open() {
            Ok(path) => Kernel::Has(Arc::new(path)),
            Err(reason) => Kernel::Without(reason),
        };
        if !self.is_held {
            self.look_after();
        }
    }

    fn try_open(&mut self) -> Result<FlowPath, String> {
        let Some(pins) = &self.pins else {
            return Err("without a state directory flows would end with the process".into());
        };
        drop_other_layouts(pins);
        let options = Options { source_ports: here::source_ports()?, ..self.options() };
        let path = FlowPath::open(&options).map_err(|error| error.to_string())?;
        path.try_attaching().map_err(|error| error.to_string())?;
        let left = |error: std::io::Error| format!("what an earlier process has left cannot be read: {error}");
        let mut entries = self.book.open();
        for (index, told) in path.applications().map_err(left)? {
            entries.adopt(index, told);
        }
        drop(entries);
        for spot in path.spots().map_err(left)? {
            self.tables.insert(spot, path.ports(spot).map_err(left)?);
        }
        Ok(path)
    }

    /// Packets of every interface may be carried, also of those that have come since.
    pub(super) fn attach(&self) {
        let Kernel::Has(path) = &self.kernel else { return };
        if self.tables.is_empty() && path.attached().is_empty() {
            return;
        }
        let there = here::interfaces();
        for gone in path.attached().into_iter().filter(|interface| !there.contains(interface)) {
            let _ = path.detach(gone);
        }
        for interface in there {
            let _ = path.attach(interface); // its packets go to the engine
        }
    }

    /// Start the thread.
    fn look_after(&mut self) {
        let Kernel::Has(path) = &self.kernel else { return };
        let (Some(recarry), Some(refuses)) = (self.recarry.clone(), self.refuses.clone()) else { return };
        let Some(events) = self.events.take() else { return };
        let Ok(wake) = Wake::new() else { return self.events = Some(events) };
        let wake = Arc::new(wake);
        self.orders = Arc::new(Orders::default());
        let made =
            Keeper::new(path.clone(), self.book.clone(), events, wake.clone(), self.orders.clone(), (recarry, refuses));
        match made {
            Ok(keeper) => self.thread = keeper::spawn(keeper).ok(),
            Err((events, _)) => self.events = Some(events),
        }
        self.wake = Some(wake);
    }

    pub(super) fn rouse(&self) {
        if let Some(wake) = &self.wake {
            wake.wake();
        }
    }

    /// Stop the thread and have it back.
    fn stop(&mut self) -> Option<Keeper> {
        self.orders.is_stopping.store(true, Ordering::Release);
        self.rouse();
        self.thread.take()?.join().ok()
    }

    /// Another process is about to look after the flows: leave the ring alone. `go_on` takes that back.
    pub fn hold(&mut self) {
        self.is_held = true;
        if let Some(keeper) = self.stop() {
            self.events = Some(keeper.events);
        }
    }

    pub fn go_on(&mut self) {
        self.is_held = false;
        self.attach();
        if self.thread.is_none() {
            self.look_after();
        }
    }

    /// It is another process's: touch nothing of it any more.
    pub fn let_go(&mut self) {
        self.hold();
        (self.kernel, self.mode) = (Kernel::Untried, Mode::Off);
        self.tables.clear();
        self.book.open().of.clear();
    }

    /// As a process ends: the thread, and nothing else. What is in the kernel goes on for whoever follows.
    pub fn abandon(&mut self) {
        drop(self.stop());
    }
}

fn flush_pins(options: &Options) -> std::io::Result<usize> {
    let count = FlowPath::flush(options)?;
    if let Some(parent) = options.pins.as_ref().and_then(|pins| pins.parent()) {
        let _ = std::fs::remove_dir(parent); // not empty: another layout
    }
    Ok(count)
}

/// A layout of the fast path's, and not this one; others pin their things here too.
fn is_former(path: &Path) -> bool {
    !path.ends_with(LAYOUT) && path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("flow"))
}

/// What an earlier version has pinned in a form that this one does not read.
fn drop_other_layouts(pins: &Path) {
    let Some(entries) = pins.parent().and_then(|parent| std::fs::read_dir(parent).ok()) else { return };
    for path in entries.flatten().map(|entry| entry.path()).filter(|path| is_former(path)) {
        let _ = FlowPath::flush(&Options { pins: Some(path), ..Options::default() });
    }
}

/// Take everything of the edge with this state directory out of the kernel; its flows end. Answers how much it was.
///
/// # Errors
/// The kernel's.
pub fn flush(state_dir: &Path) -> std::io::Result<usize> {
    let pins = here::pins(state_dir);
    flush_pins(&Options { pins, ..Options::default() })
}

/// Has an edge with this state directory left anything in the kernel?
pub fn is_left(state_dir: &Path) -> bool {
    here::pins(state_dir).is_some_and(|pins| pins.exists())
}

const FORWARDING: [&str; 2] = ["/proc/sys/net/ipv4/conf/lo/forwarding", "/proc/sys/net/ipv6/conf/lo/forwarding"];

/// Could flows be carried here, and how would packets come to the program? Leaves no trace.
///
/// # Errors
/// Why not, ready to stand in brackets.
pub fn probe() -> Result<Hook, String> {
    let source_ports = here::source_ports()?;
    let options = Options { capacity_v4: 1, capacity_v6: 1, source_ports, ..Options::default() };
    let before = FORWARDING.map(|path| (path, std::fs::read(path)));
    let opened = FlowPath::open(&options).map_err(|error| error.to_string());
    let opened = opened.and_then(|path| match path.try_attaching() {
        Ok(()) => Ok(path.hook()),
        Err(error) => Err(error.to_string()),
    });
    for (path, setting) in before {
        let _ = setting.and_then(|setting| std::fs::write(path, setting)); // opening has changed it
    }
    opened
}

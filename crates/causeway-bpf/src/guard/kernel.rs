//! The loaded program and its maps: made or adopted, pinned, attached.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::programs::Xdp;

use super::driver::Drivers;
use super::{Attachment, Options};
use crate::flow::pins;
use crate::{Unavailable, built, call};

/// The object of clang; empty if it could not be compiled.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/guard.bpf.o"));

/// Of `bpf/guard.h`: maps of another layout are not adopted. Count up with every change there.
const LAYOUT: &str = "maps-7";
const GENERIC: &str = "-generic";

macro_rules! maps {
    ($($name:ident),*) => {
        /// All of them are held, because they are pinned together; some only the program looks at.
        #[derive(Debug)]
        #[allow(dead_code)]
        pub(super) struct Maps { $(pub $name: OwnedFd),* }

        const MAPS: &[&str] = &[$(stringify!($name)),*];

        impl Maps {
            fn of(object: &aya::Ebpf) -> Result<Maps, Unavailable> {
                Ok(Maps { $($name: descriptor(object, stringify!($name))?),* })
            }

            fn all(&self) -> Vec<(&'static str, BorrowedFd<'_>)> {
                vec![$((stringify!($name), self.$name.as_fd())),*]
            }
        }
    };
}

maps!(
    settings,
    guarded_ports,
    guarded_addresses,
    guarded,
    guard_counts,
    guard_hits,
    small_tables,
    medium_tables,
    large_tables,
    huge_tables,
    rule_sets,
    rates,
    rate_sources,
    returns,
    joined_flows4,
    joined_flows6,
    joined_opening4,
    joined_opening6,
    sessions4,
    sessions6,
    datagrams,
    guard_samples,
    primed,
    mute_interfaces
);

#[derive(Debug)]
pub(super) struct Link {
    pub link: OwnedFd,
    pub attachment: Attachment,
    /// Runs this build's program.
    is_ours: bool,
}

#[derive(Debug)]
pub(super) struct Kernel {
    pub maps: Maps,
    pub program: OwnedFd,
    pins: Option<PathBuf>,
    /// Until it is attached nothing is left behind.
    is_pinned: AtomicBool,
    /// By interface.
    links: Mutex<BTreeMap<u32, Link>>,
}

fn descriptor(object: &aya::Ebpf, name: &str) -> Result<OwnedFd, Unavailable> {
    use aya::maps::Map;
    let map = object.map(name).ok_or_else(|| broken("a map is missing in the object"))?;
    let data = match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::ArrayOfMaps(data)
        | Map::RingBuf(data) => data,
        _ => return Err(broken("a map in the object has another type")),
    };
    data.fd().as_fd().try_clone_to_owned().map_err(|error| Unavailable::refused("out of descriptors", error))
}

pub(super) fn load(options: &Options) -> Result<Kernel, Unavailable> {
    built()?;
    crate::dispatch::raise_locked_memory();
    let layout = options.pins.as_ref().map(|directory| directory.join(LAYOUT));
    let is_adopted = layout.as_ref().is_some_and(|layout| layout.exists());
    let mut loader = aya::EbpfLoader::new();
    loader.map_max_entries("rate_sources", options.sources.max(1024));
    if let Some(layout) = layout.as_ref().filter(|_| is_adopted) {
        MAPS.iter().for_each(|name| _ = loader.map_pin_path(name, layout.join(name)));
    }
    let mut object = loader
        .load(OBJECT)
        .map_err(|error| Unavailable::refused("the maps of the guard program could not be made", error))?;
    let maps = Maps::of(&object)?;
    let program = object.program_mut("guard").ok_or_else(|| broken("the program is missing in the object"))?;
    let program: &mut Xdp = program.try_into().map_err(|_| broken("the program has another type"))?;
    program.load().map_err(judged)?;
    let refused = |error| Unavailable::refused("the guard program could not be loaded", error);
    let program = program.fd().map_err(refused)?.as_fd().try_clone_to_owned();
    let program = program.map_err(|error| Unavailable::refused("out of descriptors", error))?;
    let links = match &options.pins {
        Some(directory) if directory.exists() => adopt(directory, &program, is_adopted),
        _ => Ok(BTreeMap::new()),
    };
    let links = links.map_err(|error| Unavailable::refused("pinned links could not be adopted", error))?;
    let is_pinned = AtomicBool::new(is_adopted);
    Ok(Kernel { maps, program, pins: options.pins.clone(), is_pinned, links: Mutex::new(links) })
}

/// This build's program in the place of the last one's, interface by interface: at once if it has the maps that the
/// last one has, else when it is attached there. Links of interfaces that are gone go too.
fn adopt(directory: &Path, program: &OwnedFd, has_its_maps: bool) -> io::Result<BTreeMap<u32, Link>> {
    let mut links = BTreeMap::new();
    for path in pins::links(directory)? {
        let link = call::pinned(&path)?;
        match call::interface_of(link.as_fd())? {
            0 => std::fs::remove_file(&path)?,
            interface => {
                if has_its_maps {
                    call::replace(link.as_fd(), program.as_fd())?;
                }
                let is_generic = path.to_string_lossy().ends_with(GENERIC);
                let attachment = if is_generic { Attachment::Generic } else { Attachment::Native };
                links.insert(interface, Link { link, attachment, is_ours: has_its_maps });
            }
        }
    }
    Ok(links)
}

/// Links first, so that no program runs on maps that are going.
pub(super) fn flush(directory: &Path) -> io::Result<usize> {
    if !directory.exists() {
        return Ok(0);
    }
    let mut count = 0;
    for path in pins::links(directory)? {
        if let Err(error) = call::detach(call::pinned(&path)?.as_fd())
            && error.raw_os_error() != Some(libc::ENOLINK)
        {
            return Err(error);
        }
        std::fs::remove_file(path)?;
        count += 1;
    }
    for layout in std::fs::read_dir(directory)? {
        count += pins::flush(&layout?.path())?;
    }
    std::fs::remove_dir(directory)?;
    Ok(count)
}

/// The verifier's last words tell more than the number that it answers.
fn judged(error: aya::programs::ProgramError) -> Unavailable {
    const WHAT: &str = "the guard program could not be loaded";
    if let aya::programs::ProgramError::LoadError { verifier_log, .. } = &error {
        let log = verifier_log.to_string();
        if let Ok(path) = std::env::var("CAUSEWAY_BPF_LOG") {
            let _ = std::fs::write(path, &log);
        }
        if let Some(reason) = crate::last_words(&log) {
            return Unavailable::Refused { what: WHAT, reason: format!("the verifier: {reason}") };
        }
    }
    Unavailable::refused(WHAT, error)
}

fn broken(reason: &str) -> Unavailable {
    Unavailable::Refused { what: "guard.bpf.o", reason: reason.to_string() }
}

impl Kernel {
    pub fn links(&self) -> MutexGuard<'_, BTreeMap<u32, Link>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn attach(&self, interface: u32) -> io::Result<Attachment> {
        self.keep()?; // what hangs on an interface must be found by the next process
        let mut links = self.links();
        if let Some(link) = links.get_mut(&interface) {
            if !link.is_ours {
                call::replace(link.link.as_fd(), self.program.as_fd())?;
                link.is_ours = true;
            }
            return Ok(link.attachment);
        }
        let (link, attachment) = match call::attach_xdp(self.program.as_fd(), interface, true) {
            Ok(link) => (link, Attachment::Native),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL | libc::ERANGE)) => {
                (call::attach_xdp(self.program.as_fd(), interface, false)?, Attachment::Generic)
            }
            Err(error) => return Err(error),
        };
        if let Some(directory) = &self.pins {
            call::pin(link.as_fd(), &pin_of(directory, interface, attachment))?;
        }
        links.insert(interface, Link { link, attachment, is_ours: true });
        drop(links);
        let _ = self.see_drivers(); // it is attached all the same
        Ok(self.links().get(&interface).map_or(attachment, |link| link.attachment))
    }

    pub fn see_drivers(&self) -> io::Result<()> {
        let mut links = self.links();
        if links.values().all(|link| link.attachment == Attachment::Generic) {
            return Ok(());
        }
        let drivers = Drivers::here()?;
        for (interface, link) in links.iter_mut().filter(|(_, link)| link.attachment != Attachment::Generic) {
            let is_mute = drivers.is_mute(*interface);
            link.attachment = if is_mute { Attachment::Mute } else { Attachment::Native };
            self.tell_mute(*interface, is_mute)?; // whatever an earlier process has left there
        }
        Ok(())
    }

    fn tell_mute(&self, interface: u32, is_mute: bool) -> io::Result<()> {
        let map = self.maps.mute_interfaces.as_fd();
        if is_mute { call::update(map, &interface, &1u8) } else { call::delete(map, &interface) }
    }

    pub fn is_kept(&self) -> bool {
        self.is_pinned.load(Ordering::Relaxed)
    }

    /// Let the maps outlive this process.
    pub fn keep(&self) -> io::Result<()> {
        let Some(directory) = self.pins.as_ref().filter(|_| !self.is_pinned.load(Ordering::Relaxed)) else {
            return Ok(());
        };
        let layout = directory.join(LAYOUT);
        pins::prepare(&layout)?;
        for (name, map) in self.maps.all() {
            let path = layout.join(name);
            if path.exists() {
                std::fs::remove_file(&path)?; // of a process that ended in the middle of this
            }
            call::pin(map, &path)?;
        }
        self.is_pinned.store(true, Ordering::Relaxed);
        // Of an earlier layout, which a program still at work holds by itself.
        for entry in std::fs::read_dir(directory)? {
            let path = entry?.path();
            if path.is_dir() && path != layout {
                pins::flush(&path)?;
            }
        }
        Ok(())
    }

    /// Leave nothing behind any more: links, then pins. The maps are this process's alone again.
    pub fn release(&self) -> io::Result<()> {
        let mut links = self.links();
        if let Some(directory) = &self.pins {
            flush(directory)?;
        }
        links.clear();
        self.is_pinned.store(false, Ordering::Relaxed);
        Ok(())
    }

    pub fn detach(&self, interface: u32) -> io::Result<()> {
        let Some(link) = self.links().remove(&interface) else { return Ok(()) };
        if let Some(directory) = &self.pins {
            std::fs::remove_file(pin_of(directory, interface, link.attachment))?;
        }
        self.tell_mute(interface, false)
    }
}

fn pin_of(directory: &Path, interface: u32, attachment: Attachment) -> PathBuf {
    let kind = if attachment == Attachment::Generic { GENERIC } else { "" };
    directory.join(format!("link-{interface}{kind}"))
}

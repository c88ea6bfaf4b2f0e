//! Where maps and links are pinned: a directory of a bpffs, which is mounted if it is not.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::call;

const BPFFS: &str = "/sys/fs/bpf";
const BPFFS_MAGIC: i64 = 0xcafe_4a11;
const LINK: &str = "link-";
/// A mark that the clsact qdisc of an interface was made by us. A link to nowhere: a bpffs has no files.
const QDISC: &str = "qdisc-";

pub(crate) fn prepare(directory: &Path) -> io::Result<()> {
    if !is_bpffs(directory)? && directory.starts_with(BPFFS) {
        mount()?;
    }
    if !is_bpffs(directory)? {
        return Err(io::Error::other(format!("{} is not in a bpffs (mount -t bpf)", directory.display())));
    }
    std::fs::create_dir_all(directory)
}

pub(crate) fn link(directory: &Path, interface: u32) -> PathBuf {
    directory.join(format!("{LINK}{interface}"))
}

pub(crate) fn links(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let is_link = |path: &PathBuf| path.file_name().is_some_and(|name| name.as_bytes().starts_with(LINK.as_bytes()));
    let paths: io::Result<Vec<PathBuf>> = std::fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect();
    Ok(paths?.into_iter().filter(is_link).collect())
}

pub(super) fn qdisc(directory: &Path, interface: u32) -> PathBuf {
    directory.join(format!("{QDISC}{interface}"))
}

/// Interfaces that are marked.
pub(super) fn qdiscs(directory: &Path) -> io::Result<BTreeSet<u32>> {
    let names: io::Result<Vec<_>> = std::fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name())).collect();
    let marked = |name: &std::ffi::OsString| name.to_str()?.strip_prefix(QDISC)?.parse().ok();
    Ok(names?.iter().filter_map(marked).collect())
}

pub(super) fn mark_qdisc(directory: &Path, interface: u32) -> io::Result<()> {
    match std::os::unix::fs::symlink("made-here", qdisc(directory, interface)) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Not marked: fine.
pub(super) fn unmark_qdisc(directory: &Path, interface: u32) -> io::Result<()> {
    match std::fs::remove_file(qdisc(directory, interface)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// A map of counters that an earlier version had fewer of makes way for a new one. Its program counts in the old one
/// until it is replaced.
pub(super) fn drop_smaller(path: &Path, entries: u32) -> io::Result<()> {
    if path.exists() && call::most_entries(call::pinned(path)?.as_fd())? < entries {
        std::fs::remove_file(path)?;
    }
    Ok(())
}

/// Maps that an earlier version had and this one has not. No program uses them once this one's is in its place.
pub(super) fn drop_former(directory: &Path, maps: &[&str]) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        let is_map = ![LINK, QDISC].iter().any(|kind| name.as_bytes().starts_with(kind.as_bytes()));
        if is_map && !maps.iter().any(|map| name == *map) {
            std::fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Of the nearest directory above that exists.
fn is_bpffs(path: &Path) -> io::Result<bool> {
    let there = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let path = CString::new(there.as_os_str().as_bytes())?;
    // SAFETY: statfs is plain numbers, for which zeroes are a value.
    let mut about: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: a path that ends with zero, and room for the answer.
    match unsafe { libc::statfs(path.as_ptr(), &raw mut about) } {
        0 => Ok(about.f_type as i64 == BPFFS_MAGIC),
        _ => Err(io::Error::last_os_error()),
    }
}

fn mount() -> io::Result<()> {
    let (kind, place) = (c"bpf", CString::new(BPFFS)?);
    // SAFETY: strings that end with zero; this kind takes no data.
    match unsafe { libc::mount(kind.as_ptr(), place.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Links first, so that no program runs on maps that are going.
pub(crate) fn flush(directory: &Path) -> io::Result<usize> {
    if !directory.exists() {
        return Ok(0);
    }
    let links = links(directory)?;
    for path in &links {
        // Detached, not only unpinned: a process that still has it would keep it working.
        if let Err(error) = call::detach(call::pinned(path)?.as_fd())
            && error.raw_os_error() != Some(libc::ENOLINK)
        {
            return Err(error);
        }
        std::fs::remove_file(path)?;
    }
    let mut count = links.len();
    for entry in std::fs::read_dir(directory)? {
        std::fs::remove_file(entry?.path())?;
        count += 1;
    }
    std::fs::remove_dir(directory)?;
    Ok(count)
}

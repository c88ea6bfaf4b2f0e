//! The few bpf(2) commands that are needed once a program is loaded, on plain descriptors, so that a descriptor
//! that came from another process is as good as one of our own.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const MAP_LOOKUP: libc::c_long = 1;
const MAP_UPDATE: libc::c_long = 2;
const MAP_DELETE: libc::c_long = 3;
const MAP_NEXT_KEY: libc::c_long = 4;
const PROG_TEST_RUN: libc::c_long = 10;
const LINK_CREATE: libc::c_long = 28;
const ATTACH_SK_LOOKUP: u32 = 36;

#[repr(C)]
struct Element {
    map: u32,
    unused: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct Link {
    program: u32,
    target: u32,
    kind: u32,
    flags: u32,
}

/// The beginning of `union bpf_attr` for a trial run; the kernel takes what follows as zero.
#[repr(C)]
#[derive(Default)]
struct Trial {
    program: u32,
    result: u32,
    data_in_bytes: u32,
    data_out_bytes: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_in_bytes: u32,
    context_out_bytes: u32,
    context_in: u64,
    context_out: u64,
}

pub fn update<K, V: ?Sized>(map: BorrowedFd<'_>, key: &K, value: &V) -> io::Result<()> {
    let mut element = element(map, key);
    element.value = std::ptr::from_ref(value).cast::<u8>() as u64;
    call(MAP_UPDATE, &mut element).map(drop)
}

/// Nothing to delete is fine.
pub fn delete<K>(map: BorrowedFd<'_>, key: &K) -> io::Result<()> {
    match call(MAP_DELETE, &mut element(map, key)) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other.map(drop),
    }
}

/// The key after `key`, or the first one.
pub fn next_key<K: Copy>(map: BorrowedFd<'_>, key: Option<&K>, mut next: K) -> io::Result<Option<K>> {
    let mut element = element(map, &next);
    element.key = key.map_or(0, |key| std::ptr::from_ref(key) as u64);
    element.value = std::ptr::from_mut(&mut next) as u64;
    match call(MAP_NEXT_KEY, &mut element) {
        Ok(_) => Ok(Some(next)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// `value` must be as large as what the map holds for a key.
pub fn lookup<K, V: ?Sized>(map: BorrowedFd<'_>, key: &K, value: &mut V) -> io::Result<()> {
    let mut element = element(map, key);
    element.value = std::ptr::from_mut(value).cast::<u8>() as u64;
    call(MAP_LOOKUP, &mut element).map(drop)
}

fn element<K>(map: BorrowedFd<'_>, key: &K) -> Element {
    Element { map: map.as_raw_fd() as u32, unused: 0, key: std::ptr::from_ref(key) as u64, value: 0, flags: 0 }
}

/// Attach an sk_lookup program to a network namespace for as long as the answer is open.
pub fn attach_sk_lookup(program: BorrowedFd<'_>, namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut link = Link {
        program: program.as_raw_fd() as u32,
        target: namespace.as_raw_fd() as u32,
        kind: ATTACH_SK_LOOKUP,
        flags: 0,
    };
    let fd = call(LINK_CREATE, &mut link)?;
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Run a program once on a context, which it may write to; answers what it returned.
pub fn try_out<C>(program: BorrowedFd<'_>, context: &mut C) -> io::Result<u32> {
    let place = std::ptr::from_mut(context) as u64;
    let bytes = size_of::<C>() as u32;
    let mut trial = Trial {
        program: program.as_raw_fd() as u32,
        context_in_bytes: bytes,
        context_out_bytes: bytes,
        context_in: place,
        context_out: place,
        ..Trial::default()
    };
    call(PROG_TEST_RUN, &mut trial)?;
    Ok(trial.result)
}

fn call<T>(command: libc::c_long, attributes: &mut T) -> io::Result<i32> {
    // SAFETY: pointer and length describe `attributes`; the addresses in it are of values that outlive the call and
    // are as large as the map or context says, which the callers in this crate see to.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

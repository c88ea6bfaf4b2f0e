//! The few bpf(2) commands that are needed once a program is loaded, on plain descriptors, so that a descriptor
//! that came from another process is as good as one of our own.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const MAP_CREATE: libc::c_long = 0;
const MAP_LOOKUP: libc::c_long = 1;
const MAP_UPDATE: libc::c_long = 2;
const MAP_DELETE: libc::c_long = 3;
const MAP_NEXT_KEY: libc::c_long = 4;
const OBJ_PIN: libc::c_long = 6;
const OBJ_GET: libc::c_long = 7;
const PROG_TEST_RUN: libc::c_long = 10;
const OBJ_INFO: libc::c_long = 15;
const MAP_LOOKUP_BATCH: libc::c_long = 24;
const LINK_CREATE: libc::c_long = 28;
const LINK_UPDATE: libc::c_long = 29;
const ENABLE_STATS: libc::c_long = 32;
const LINK_DETACH: libc::c_long = 34;
const ATTACH_SK_LOOKUP: u32 = 36;
const ATTACH_XDP: u32 = 37;
const ATTACH_TCX_INGRESS: u32 = 46;
const MAP_TYPE_ARRAY: u32 = 2;
const MMAPABLE: u32 = 1 << 10;
const MMAPABLE_INNER: u32 = MMAPABLE | 1 << 12;
const XDP_GENERIC: u32 = 1 << 1;
const XDP_NATIVE: u32 = 1 << 2;

#[repr(C)]
struct Element {
    map: u32,
    unused: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Also an update, which names link and program first.
#[repr(C)]
#[derive(Default)]
struct Link {
    program: u32,
    target: u32,
    kind: u32,
    flags: u32,
    more: [u64; 4],
}

#[repr(C)]
struct Pin {
    path: u64,
    object: u32,
    flags: u32,
}

#[repr(C)]
struct Batch {
    from: u64,
    to: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

#[repr(C)]
struct Info {
    object: u32,
    bytes: u32,
    place: u64,
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
    let (program, target) = (program.as_raw_fd() as u32, namespace.as_raw_fd() as u32);
    descriptor(LINK_CREATE, &mut Link { program, target, kind: ATTACH_SK_LOOKUP, ..Link::default() })
}

/// Attach a tc program to what comes in by an interface, behind those that are there (kernel 6.6).
pub fn attach_tcx(program: BorrowedFd<'_>, interface: u32) -> io::Result<OwnedFd> {
    let program = program.as_raw_fd() as u32;
    descriptor(LINK_CREATE, &mut Link { program, target: interface, kind: ATTACH_TCX_INGRESS, ..Link::default() })
}

/// Does this kernel know links of that kind? Asked with an interface that does not exist.
pub fn has_tcx(program: BorrowedFd<'_>) -> io::Result<bool> {
    match attach_tcx(program, i32::MAX as u32).map_err(|error| (error.raw_os_error(), error)) {
        Err((Some(libc::ENODEV), _)) => Ok(true),
        Err((Some(libc::EINVAL | libc::EOPNOTSUPP), _)) => Ok(false),
        Err((_, error)) => Err(error),
        Ok(_) => Ok(true),
    }
}

/// Attach an XDP program to an interface: natively, in its driver, or else to what the driver hands on (kernel 5.9).
pub fn attach_xdp(program: BorrowedFd<'_>, interface: u32, is_native: bool) -> io::Result<OwnedFd> {
    let (program, flags) = (program.as_raw_fd() as u32, if is_native { XDP_NATIVE } else { XDP_GENERIC });
    descriptor(LINK_CREATE, &mut Link { program, target: interface, kind: ATTACH_XDP, flags, ..Link::default() })
}

/// An array that can be an inner map of any length, and be mapped.
pub fn create_array(value_bytes: u32, entries: u32) -> io::Result<OwnedFd> {
    // Type, bytes of key and value, entries, flags; the kernel takes what follows as zero.
    descriptor(MAP_CREATE, &mut [MAP_TYPE_ARRAY, 4, value_bytes, entries, MMAPABLE_INNER])
}

/// An array that can be mapped, and be an inner map where one of just that size is expected.
pub fn create_mappable_array(value_bytes: u32, entries: u32) -> io::Result<OwnedFd> {
    descriptor(MAP_CREATE, &mut [MAP_TYPE_ARRAY, 4, value_bytes, entries, MMAPABLE])
}

/// Put another program in the place of a link's own; no packet passes by neither.
pub fn replace(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let (program, target) = (link.as_raw_fd() as u32, program.as_raw_fd() as u32);
    call(LINK_UPDATE, &mut Link { program, target, ..Link::default() }).map(drop)
}

/// The link does nothing any more, whoever still holds it.
pub fn detach(link: BorrowedFd<'_>) -> io::Result<()> {
    call(LINK_DETACH, &mut Link { program: link.as_raw_fd() as u32, ..Link::default() }).map(drop)
}

/// Which interface a tcx link is attached to; 0 if that is gone.
pub fn interface_of(link: BorrowedFd<'_>) -> io::Result<u32> {
    let mut about = [0u32; 32];
    let place = about.as_mut_ptr() as u64;
    call(OBJ_INFO, &mut Info { object: link.as_raw_fd() as u32, bytes: size_of_val(&about) as u32, place })?;
    Ok(about[4])
}

pub fn most_entries(map: BorrowedFd<'_>) -> io::Result<u32> {
    let mut about = [0u32; 32]; // type, id, sizes of key and value, entries
    let place = about.as_mut_ptr() as u64;
    call(OBJ_INFO, &mut Info { object: map.as_raw_fd() as u32, bytes: size_of_val(&about) as u32, place })?;
    Ok(about[4])
}

pub fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    call(OBJ_PIN, &mut Pin { path: path.as_ptr() as u64, object: object.as_raw_fd() as u32, flags: 0 }).map(drop)
}

pub fn pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    descriptor(OBJ_GET, &mut Pin { path: path.as_ptr() as u64, object: 0, flags: 0 })
}

/// Entries of a hash map from bucket `from` (its beginning: `None`) on, as many whole buckets as there is room for.
/// Answers how many, and where to go on (`None`: that was all).
pub fn entries<K, V>(
    map: BorrowedFd<'_>,
    from: Option<u32>,
    keys: &mut [K],
    values: &mut [V],
) -> io::Result<(usize, Option<u32>)> {
    let (first, mut next) = (from.unwrap_or(0), 0u32);
    let mut batch = Batch {
        from: from.map_or(0, |_| std::ptr::from_ref(&first) as u64),
        to: std::ptr::from_mut(&mut next) as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: keys.len().min(values.len()) as u32,
        map: map.as_raw_fd() as u32,
        element_flags: 0,
        flags: 0,
    };
    match call(MAP_LOOKUP_BATCH, &mut batch) {
        Ok(_) => Ok((batch.count as usize, Some(next))),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok((batch.count as usize, None)),
        Err(error) => Err(error),
    }
}

fn descriptor<T>(command: libc::c_long, attributes: &mut T) -> io::Result<OwnedFd> {
    let fd = call(command, attributes)?;
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Run a program on a packet `repeat` times; answers what it returned and what the packet became.
pub fn try_packet(program: BorrowedFd<'_>, packet: &[u8], repeat: u32) -> io::Result<(i32, Vec<u8>)> {
    run_on(program, packet, repeat).map(|(result, became, _)| (result, became))
}

/// The same; answers what a run took, in ns.
pub fn time_packet(program: BorrowedFd<'_>, packet: &[u8], repeat: u32) -> io::Result<u32> {
    run_on(program, packet, repeat).map(|(_, _, ns)| ns)
}

fn run_on(program: BorrowedFd<'_>, packet: &[u8], repeat: u32) -> io::Result<(i32, Vec<u8>, u32)> {
    let mut became = vec![0u8; packet.len() + 512];
    let mut trial = Trial {
        program: program.as_raw_fd() as u32,
        data_in_bytes: packet.len() as u32,
        data_in: packet.as_ptr() as u64,
        data_out_bytes: became.len() as u32,
        data_out: became.as_mut_ptr() as u64,
        repeat,
        ..Trial::default()
    };
    call(PROG_TEST_RUN, &mut trial)?;
    became.truncate(trial.data_out_bytes as usize);
    Ok((trial.result as i32, became, trial.duration))
}

/// The kernel times programs while the answer is open.
pub fn time_programs() -> io::Result<OwnedFd> {
    descriptor(ENABLE_STATS, &mut [0u32; 2])
}

/// A number that no other program has.
pub fn program_id(program: BorrowedFd<'_>) -> io::Result<u32> {
    let mut about = [0u32; 64]; // type, id
    let place = about.as_mut_ptr() as u64;
    call(OBJ_INFO, &mut Info { object: program.as_raw_fd() as u32, bytes: size_of_val(&about) as u32, place })?;
    Ok(about[1])
}

/// How often a program ran while programs were timed, and for how many ns in all.
pub fn time_of(program: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
    let mut about = [0u64; 32];
    let place = about.as_mut_ptr() as u64;
    call(OBJ_INFO, &mut Info { object: program.as_raw_fd() as u32, bytes: size_of_val(&about) as u32, place })?;
    Ok((about[25], about[24]))
}

/// How many instructions the verifier looked at before it accepted a program; 0: the kernel does not tell (before 5.16).
pub fn verified(program: BorrowedFd<'_>) -> io::Result<u32> {
    let mut about = [0u64; 32];
    let place = about.as_mut_ptr() as u64;
    call(OBJ_INFO, &mut Info { object: program.as_raw_fd() as u32, bytes: size_of_val(&about) as u32, place })?;
    Ok(about[27] as u32)
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

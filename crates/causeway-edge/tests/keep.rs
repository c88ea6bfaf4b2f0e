//! Snapshots on disk: whatever happens to the files, only bytes that were saved are served again.
#![allow(clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use causeway_edge::keep::{Keep, Rejected};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

const MAX_BYTES: usize = 64 * 1024;

/// Remembers the largest allocation of each thread, to prove that no length in a file decides one.
struct Watching;
thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

fn note(size: usize) {
    let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(size)));
}

// SAFETY: every call goes to the system allocator unchanged.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Watching = Watching;

/// A directory of its own for each test, removed with it.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Dir {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("causeway-keep-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(&dir).unwrap();
        Dir(dir)
    }

    fn file(&self, version: u64) -> PathBuf {
        self.0.join(format!("snapshot-{version:020}.causeway"))
    }

    fn keep(&self) -> Keep {
        Keep::open(&self.0).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(&self.0).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn load(keep: &Keep) -> (Option<(u64, Vec<u8>)>, Vec<Rejected>) {
    keep.load_newest(MAX_BYTES, |version, json| Ok((version, json.to_vec())))
}

fn reason(rejected: &[Rejected], file: &Path) -> String {
    rejected.iter().find(|r| r.file == file).map(|r| r.reason.clone()).unwrap_or_default()
}

#[test]
fn the_newest_is_loaded_and_three_stay() {
    let dir = Dir::new();
    let keep = Keep::open(&dir.0.join("a/edge")).unwrap();
    let mode = fs::metadata(dir.0.join("a/edge")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    assert_eq!(load(&keep), (None, vec![]));
    for version in [1, 2, 9, 10, 11] {
        keep.save(version, format!("{{\"version\":{version}}}").as_bytes()).unwrap();
    }
    assert_eq!(load(&keep), (Some((11, b"{\"version\":11}".to_vec())), vec![]));
    let edge = Dir(dir.0.join("a/edge"));
    assert_eq!(edge.names(), [9, 10, 11].map(|v| format!("snapshot-{v:020}.causeway")));
    let mode = fs::metadata(edge.file(11)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn the_file_is_as_documented() {
    let dir = Dir::new();
    dir.keep().save(42, b"{}").unwrap();
    let digest = "6a0653a4228e502599110724e7616775e774896c84f96dfad9d73abdc06f0dd4";
    let expected = format!("causeway-snapshot 1 42 2 {digest}\n{{}}");
    assert_eq!(fs::read_to_string(dir.file(42)).unwrap(), expected);
}

#[test]
fn an_empty_one_a_large_one_and_the_largest_version_come_back() {
    let dir = Dir::new();
    for (version, json) in [(0, vec![]), (1, vec![b'x'; MAX_BYTES]), (u64::MAX, b"\n\n causeway-snapshot".to_vec())] {
        dir.keep().save(version, &json).unwrap();
        assert_eq!(load(&dir.keep()), (Some((version, json)), vec![]));
    }
}

#[test]
fn what_is_saved_last_is_what_is_loaded_even_if_its_version_is_lower() {
    let dir = Dir::new();
    dir.keep().save(100, b"old life").unwrap();
    dir.keep().save(1, b"new life").unwrap();
    assert_eq!(load(&dir.keep()), (Some((1, b"new life".to_vec())), vec![]));
    assert_eq!(dir.names().len(), 1);
}

#[test]
fn the_next_older_one_is_tried_when_the_caller_refuses_the_newest() {
    let dir = Dir::new();
    for version in [1, 2, 3] {
        dir.keep().save(version, b"{}").unwrap();
    }
    let accept = |version, _: &[u8]| if version < 2 { Ok(version) } else { Err(format!("no {version}")) };
    let (loaded, rejected) = dir.keep().load_newest(MAX_BYTES, accept);
    assert_eq!(loaded, Some(1));
    let reasons: Vec<&str> = rejected.iter().map(|r| r.reason.as_str()).collect();
    assert_eq!(reasons, ["no 3", "no 2"]);
}

#[test]
fn each_kind_of_damage_is_named_and_the_older_one_is_served() {
    let dir = Dir::new();
    let keep = dir.keep();
    keep.save(1, b"{\"good\":true}").unwrap();
    keep.save(2, b"{\"newer\":true}").unwrap();
    let whole = fs::read(dir.file(2)).unwrap();
    let text = String::from_utf8(whole.clone()).unwrap();
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (vec![], "does not begin"),
        (whole[..whole.len() - 1].to_vec(), "truncated"),
        (whole[..40].to_vec(), "does not begin"),
        ([whole.as_slice(), b" "].concat(), "truncated or damaged"),
        (flipped, "checksum"),
        (text.replace("snapshot 1 2", "snapshot 2 2").into(), "file format 2"),
        (text.replace("snapshot 1 2", "snapshot 1 3").into(), "says it is version 3, its name says 2"),
        (text.replace("snapshot 1 2", "snapshot 1 +2").into(), "version +2"),
        (text.replace("snapshot 1 2", "snapshot 1  2").into(), "version"),
        (text.replace(" 14 ", " 18446744073709551615 ").into(), "header says 18446744073709551615"),
        (text.replace('\n', "\r\n").into(), "checksum"),
        (b"causeway-snapshot \x1b[31m\n".to_vec(), "file format \\u{1b}[31m"),
        (vec![b'a'; MAX_BYTES + 1000], "the limit is 65536"),
        (text.to_uppercase().into(), "does not begin"),
    ];
    for (bytes, expected) in cases {
        fs::write(dir.file(2), &bytes).unwrap();
        let (loaded, rejected) = load(&keep);
        assert_eq!(loaded, Some((1, b"{\"good\":true}".to_vec())), "{expected}");
        let reason = reason(&rejected, &dir.file(2));
        assert!(reason.contains(expected), "{expected}: {reason}");
        assert!(reason.len() < 400 && !reason.contains(char::is_control), "{reason}");
    }
}

#[test]
fn only_regular_files_with_the_exact_name_are_read() {
    let dir = Dir::new();
    let keep = dir.keep();
    keep.save(5, b"{}").unwrap();
    let whole = fs::read(dir.file(5)).unwrap();
    let aside = dir.0.join("aside");
    fs::write(&aside, String::from_utf8(whole).unwrap().replace("1 5 2", "1 9 2")).unwrap();
    symlink(&aside, dir.file(9)).unwrap();
    fs::create_dir(dir.file(8)).unwrap();
    let fifo = CString::new(dir.file(7).as_os_str().as_bytes()).unwrap();
    // SAFETY: the path is a valid C string.
    assert_eq!(unsafe { libc::mkfifo(fifo.as_ptr(), 0o600) }, 0);
    for ignored in
        ["snapshot-9.causeway", "snapshot-0000000000000000000x.causeway", "snapshot-99999999999999999999.causeway"]
    {
        fs::copy(&aside, dir.0.join(ignored)).unwrap();
    }
    let (loaded, rejected) = load(&keep);
    assert_eq!(loaded, Some((5, b"{}".to_vec())));
    assert_eq!(rejected.len(), 3);
    assert!(rejected.iter().all(|r| r.reason == "is not a regular file"), "{rejected:?}");
}

#[test]
fn what_was_begun_last_is_known_to_the_next_process_and_can_be_taken_out() {
    let dir = Dir::new();
    let keep = Keep::open(&dir.0).unwrap();
    assert_eq!(keep.set_last_aside(MAX_BYTES), None);
    for version in [5, 6, 7] {
        keep.save(version, b"{}").unwrap();
    }
    keep.begin(8, b"{\"eight\":8}");
    let next = Keep::open(&dir.0).unwrap();
    assert_eq!(next.set_last_aside(MAX_BYTES), Some((8, b"{\"eight\":8}".to_vec())), "it got no further than this");
    assert_eq!(load(&next).0.unwrap().0, 7);
    next.begin(9, b"{}");
    next.end_begun();
    next.begin(10, b"another's");
    next.save_begun(7, b"{}").unwrap();
    next.begin(7, b"{}");
    next.save_begun(7, b"{}").unwrap();
    assert_eq!(load(&next).0, Some((7, b"{}".to_vec())));
    next.end_begun();
    assert_eq!(next.set_last_aside(MAX_BYTES), Some((7, b"{}".to_vec())));
    assert_eq!(load(&next).0.unwrap().0, 6);
    let aside = |entry: &fs::DirEntry| entry.file_name().to_str().unwrap().starts_with("aside-");
    assert_eq!(fs::read_dir(&dir.0).unwrap().flatten().filter(aside).count(), 1, "they do not gather");
    for damaged in [&b""[..], b"causeway-snapshot 1 7 2 ", b"causeway-snapshot 1 -7", b"\xff"] {
        keep.save(6, b"{}").unwrap();
        fs::write(dir.0.join("begun"), damaged).unwrap();
        assert_eq!(next.set_last_aside(MAX_BYTES).unwrap().0, 6, "{damaged:?}");
    }
}

#[test]
fn a_file_of_a_terabyte_is_refused_without_reading_it() {
    let dir = Dir::new();
    dir.keep().save(1, b"{}").unwrap();
    File::create(dir.file(2)).unwrap().set_len(1 << 40).unwrap(); // sparse
    LARGEST.set(0);
    let (loaded, rejected) = load(&dir.keep());
    assert_eq!(loaded.unwrap().0, 1);
    assert!(rejected[0].reason.contains("1099511627776 bytes"), "{rejected:?}");
    assert!(LARGEST.get() <= MAX_BYTES, "{} bytes", LARGEST.get());
}

#[test]
fn a_save_that_fails_names_path_and_cause_and_leaves_the_old_one() {
    let dir = Dir::new();
    let gone = Keep::open(&dir.0.join("gone")).unwrap();
    fs::remove_dir(dir.0.join("gone")).unwrap();
    let said = gone.save(1, b"{}").unwrap_err().to_string();
    assert!(said.contains("gone/snapshot-") && said.contains("No such file"), "{said}");
    assert_eq!(load(&gone).1.len(), 1);

    fs::write(dir.0.join("file"), b"").unwrap();
    let said = Keep::open(&dir.0.join("file")).unwrap_err().to_string();
    assert!(said.contains("/file: ") && said.contains("exists"), "{said}");
}

/// A file system of four pages, seen by this thread only; `None` without the privilege to mount.
fn small_disk(at: &Path, flags: libc::c_ulong) -> Option<()> {
    let at = CString::new(at.as_os_str().as_bytes()).unwrap();
    let none = std::ptr::null();
    // SAFETY: every pointer is null or a valid C string; a mount namespace of its own keeps others out of it.
    let result = unsafe {
        if flags & libc::MS_REMOUNT == 0 {
            if libc::unshare(libc::CLONE_NEWNS) != 0 {
                return None;
            }
            libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, none.cast());
        }
        libc::mount(c"none".as_ptr(), at.as_ptr(), c"tmpfs".as_ptr(), flags, c"size=16k".as_ptr().cast())
    };
    (result == 0).then_some(())
}

#[test]
fn a_full_or_read_only_disk_is_an_error_and_the_old_one_stays() {
    let dir = Dir::new();
    let path = dir.0.clone();
    let in_namespace = move || {
        let keep = Keep::open(&path).unwrap();
        if small_disk(&path, 0).is_none() {
            return eprintln!("skipped: a full disk needs CAP_SYS_ADMIN to mount a small one");
        }
        keep.save(1, b"{}").unwrap();
        let said = keep.save(2, &[b'x'; 32 * 1024]).unwrap_err().to_string();
        assert!(
            said.starts_with("writing /") && said.contains("No space left") && said.contains("free some"),
            "{said}"
        );
        assert_eq!(fs::read_dir(&path).unwrap().count(), 1, "the half-written file gives its room back");
        small_disk(&path, libc::MS_REMOUNT | libc::MS_RDONLY).unwrap();
        let said = keep.save(3, b"{}").unwrap_err().to_string();
        assert!(said.contains("Read-only file system") && said.contains("remount"), "{said}");
        assert_eq!(load(&keep).0, Some((1, b"{}".to_vec())));
    };
    std::thread::spawn(in_namespace).join().unwrap();
}

#[test]
fn a_temporary_file_is_never_loaded_and_goes_once_it_is_stale() {
    let dir = Dir::new();
    let keep = dir.keep();
    keep.save(1, b"{}").unwrap();
    let [stale, fresh] = ["stale", "fresh"].map(|name| dir.0.join(format!("snapshot-{:020}.causeway.{name}.tmp", 2)));
    for file in [&stale, &fresh] {
        fs::copy(dir.file(1), file).unwrap();
    }
    let hour_ago = SystemTime::now() - Duration::from_secs(3600);
    File::options().write(true).open(&stale).unwrap().set_modified(hour_ago).unwrap();
    assert_eq!(load(&keep).0.unwrap().0, 1);
    keep.save(3, b"{}").unwrap();
    assert!(!stale.exists(), "left behind by a process that was killed");
    assert!(fresh.exists(), "may be being written right now");
}

const SAVER_DIR: &str = "CAUSEWAY_TEST_KEEP_SAVER";

/// The other process of the test below; does nothing on its own.
#[test]
fn saver() {
    let Some(dir) = std::env::var_os(SAVER_DIR) else { return };
    let keep = Keep::open(Path::new(&dir)).unwrap();
    let first = load(&keep).0.map_or(1, |(version, _)| version + 1);
    for version in first.. {
        keep.save(version, &content(version)).unwrap();
        println!("\nsaved {version}");
        std::io::stdout().flush().unwrap();
    }
}

fn content(version: u64) -> Vec<u8> {
    version.to_string().repeat(40_000 / version.to_string().len()).into_bytes()
}

#[test]
fn a_process_killed_while_saving_leaves_the_last_saved_one() {
    let dir = Dir::new();
    for round in 0..20u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "saver", "--nocapture", "--test-threads=1"])
            .env(SAVER_DIR, &dir.0)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut saved = lines.filter_map(|line| line.ok()?.strip_prefix("saved ")?.parse::<u64>().ok());
        let mut last = saved.by_ref().nth(2).unwrap();
        std::thread::sleep(Duration::from_micros(round * 331)); // somewhere within a save
        child.kill().unwrap();
        child.wait().unwrap();
        last = saved.last().unwrap_or(last);
        let (loaded, rejected) = load(&dir.keep());
        let (version, json) = loaded.unwrap();
        assert_eq!(rejected, []);
        assert!(version == last || version == last + 1, "told {last}, found {version}");
        assert_eq!(json, content(version));
    }
}

#[derive(Clone, Debug)]
enum Mutation {
    Flip {
        at: usize,
        bit: u8,
    },
    Truncate {
        to: usize,
    },
    Extend {
        by: Vec<u8>,
    },
    Insert {
        at: usize,
        bytes: Vec<u8>,
    },
    Remove {
        at: usize,
        length: usize,
    },
    Zero {
        at: usize,
        length: usize,
    },
    Overwrite {
        at: usize,
        bytes: Vec<u8>,
    },
    /// The first part of this file with the last part of another good one.
    Splice {
        at: usize,
        other_at: usize,
    },
    Repeat {
        at: usize,
        length: usize,
    },
}

fn mutations() -> impl Strategy<Value = Vec<Mutation>> {
    let at = || prop_oneof![0..120usize, 0..2_000usize]; // half of them in or near the header
    let bytes = || proptest::collection::vec(any::<u8>(), 1..40);
    // Digits and separators: what a header that is almost right is made of.
    let plausible = || "[0-9a-f \n]{1,8}".prop_map(String::into_bytes);
    let one = prop_oneof![
        (at(), 0..8u8).prop_map(|(at, bit)| Mutation::Flip { at, bit }),
        at().prop_map(|to| Mutation::Truncate { to }),
        bytes().prop_map(|by| Mutation::Extend { by }),
        (at(), bytes()).prop_map(|(at, bytes)| Mutation::Insert { at, bytes }),
        (at(), plausible()).prop_map(|(at, bytes)| Mutation::Insert { at, bytes }),
        (at(), 1..50usize).prop_map(|(at, length)| Mutation::Remove { at, length }),
        (at(), 1..600usize).prop_map(|(at, length)| Mutation::Zero { at, length }),
        (at(), plausible()).prop_map(|(at, bytes)| Mutation::Overwrite { at, bytes }),
        (at(), at()).prop_map(|(at, other_at)| Mutation::Splice { at, other_at }),
        (at(), 1..200usize).prop_map(|(at, length)| Mutation::Repeat { at, length }),
    ];
    proptest::collection::vec(one, 1..4)
}

fn mutate(bytes: &mut Vec<u8>, mutation: &Mutation, other: &[u8]) {
    let length_now = bytes.len();
    let within = |at: usize| at.min(length_now);
    match mutation {
        Mutation::Flip { at, bit } if *at < length_now => bytes[*at] ^= 1 << bit,
        Mutation::Flip { .. } => {}
        Mutation::Truncate { to } => bytes.truncate(*to),
        Mutation::Extend { by } => bytes.extend(by),
        Mutation::Insert { at, bytes: new } => drop(bytes.splice(within(*at)..within(*at), new.iter().copied())),
        Mutation::Remove { at, length } => drop(bytes.drain(within(*at)..within(at + length))),
        Mutation::Zero { at, length } => bytes[within(*at)..within(at + length)].fill(0),
        Mutation::Overwrite { at, bytes: new } => {
            let end = within(at + new.len());
            drop(bytes.splice(within(*at)..end, new.iter().copied()));
        }
        Mutation::Splice { at, other_at } => {
            bytes.truncate(*at);
            bytes.extend(&other[(*other_at).min(other.len())..]);
        }
        Mutation::Repeat { at, length } => {
            let part = bytes[within(*at)..within(at + length)].to_vec();
            bytes.extend(part);
        }
    }
}

#[test]
fn the_content_of_one_version_under_the_header_of_another_is_refused() {
    let dir = Dir::new();
    for version in [2, 3] {
        dir.keep().save(version, format!("{{\"version\":{version}}}").as_bytes()).unwrap();
    }
    let text = fs::read_to_string(dir.file(2)).unwrap();
    fs::write(dir.file(3), text.replacen("snapshot 1 2 ", "snapshot 1 3 ", 1)).unwrap();
    let (loaded, rejected) = load(&dir.keep());
    assert_eq!((loaded.unwrap().0, rejected.len()), (2, 1));
}

/// 12,000 files that are almost right: none is accepted, the older good one is, and nothing large is allocated.
#[test]
fn a_mutated_file_is_never_accepted() {
    let dir = Dir::new();
    let json = |version: u64| format!("{{\"version\":{version},\"x\":\"{}\"}}", "content ".repeat(200)).into_bytes();
    for version in [1, 2, 3] {
        dir.keep().save(version, &json(version)).unwrap();
    }
    let (other, whole) = (fs::read(dir.file(2)).unwrap(), fs::read(dir.file(3)).unwrap());
    let (mutated, identical) = (Cell::new(0), Cell::new(0));
    LARGEST.set(0);
    let config = Config { cases: 12_000, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&mutations(), |mutations| {
            let mut bytes = whole.clone();
            mutations.iter().for_each(|mutation| mutate(&mut bytes, mutation, &other));
            fs::write(dir.file(3), &bytes).unwrap();
            let (loaded, rejected) = load(&dir.keep());
            let (version, loaded_json) = loaded.unwrap();
            prop_assert_eq!(loaded_json, json(version));
            if bytes == whole {
                identical.set(identical.get() + 1);
                prop_assert_eq!(version, 3);
            } else {
                mutated.set(mutated.get() + 1);
                prop_assert_eq!(version, 2);
                prop_assert_eq!(rejected.len(), 1);
            }
            Ok(())
        })
        .unwrap();
    println!("{} mutated, {} identical, largest allocation {} bytes", mutated.get(), identical.get(), LARGEST.get());
    assert!(mutated.get() >= 10_000);
    assert!(LARGEST.get() <= MAX_BYTES, "{} bytes", LARGEST.get());
}

/// Every single bit of the file, flipped alone.
#[test]
fn no_flipped_bit_goes_unnoticed() {
    let dir = Dir::new();
    dir.keep().save(7, b"{\"version\":7}").unwrap();
    let whole = fs::read(dir.file(7)).unwrap();
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(dir.file(7), &bytes).unwrap();
        assert_eq!(load(&dir.keep()).0, None, "bit {bit}");
    }
}

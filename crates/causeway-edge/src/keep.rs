//! The last good snapshots on disk, so that an edge serves after a restart with nothing else up.
//!
//! A file is whole or absent: written beside, synced, renamed. What is read back is believed only if every byte
//! is as written. Knows nothing of what a snapshot means; the caller brings that as `accept`.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

const MAGIC: &str = "causeway-snapshot";
const FORMAT: &str = "1";
const PREFIX: &str = "snapshot-";
const SUFFIX: &str = ".causeway";
const TEMPORARY: &str = ".tmp";
const BEGUN: &str = "begun"; // what is about to be served, in the form of a snapshot's file
const ASIDE: &str = "aside-";
const VERSION_DIGITS: usize = 20; // u64::MAX, so that names sort as numbers do
const HEADER_MAX_BYTES: usize = 160; // magic, format, two numbers of 20 digits, 64 hex digits, separators
const KEPT: usize = 3;
const STALE_AFTER: Duration = Duration::from_secs(60); // another process may be writing beside us right now

/// A snapshot could not be kept. The edge goes on serving; only a restart would not know this version.
#[derive(Debug, thiserror::Error)]
#[error("{doing} {}: {source}: {}", path.display(), advice(source))]
pub struct KeepError {
    doing: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// A file that was not used, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    pub file: PathBuf,
    pub reason: String,
}

/// A directory of snapshots.
#[derive(Debug)]
pub struct Keep {
    dir: PathBuf,
}

impl Keep {
    /// Use `dir`; made with mode 0700 if it is not there.
    pub fn open(dir: &Path) -> Result<Keep, KeepError> {
        DirBuilder::new()
            .recursive(true) // and so no error if it exists
            .mode(0o700)
            .create(dir)
            .map_err(failed("creating the directory", dir))?;
        Ok(Keep { dir: dir.to_path_buf() })
    }

    /// Put `json` on disk as what runs from now on, durable when this returns.
    pub fn save(&self, version: u64, json: &[u8]) -> Result<(), KeepError> {
        let path = self.dir.join(file_name(version));
        let nonce = RandomState::new().hash_one(version); // two processes share the directory during a hand-over
        let temporary = self.dir.join(format!("{}.{nonce:016x}{TEMPORARY}", file_name(version)));
        if let Err(error) = self.replace(&temporary, &path, version, json) {
            let _ = fs::remove_file(&temporary); // gives room back on a full disk; the first error is the one to tell
            return Err(error);
        }
        self.clear_out(version);
        Ok(())
    }

    fn replace(&self, temporary: &Path, path: &Path, version: u64, json: &[u8]) -> Result<(), KeepError> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let mut file = options.open(temporary).map_err(failed("creating", temporary))?;
        file.write_all(header(version, json).as_bytes())
            .and_then(|()| file.write_all(json))
            .map_err(failed("writing", temporary))?;
        self.commit(&file, temporary, path)
    }

    fn commit(&self, file: &File, temporary: &Path, path: &Path) -> Result<(), KeepError> {
        file.sync_all().map_err(failed("syncing", temporary))?;
        fs::rename(temporary, path).map_err(failed("renaming to", path))?;
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(failed("syncing the directory", &self.dir))
    }

    /// Put `json` beside, as what is about to be served: should the process die of it before it is saved, the next one
    /// can tell what it was. Not synced, since it has to outlive a process and not the machine; where there is no room
    /// for it nobody can tell.
    pub fn begin(&self, version: u64, json: &[u8]) {
        self.end_begun();
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let write =
            |mut file: File| file.write_all(header(version, json).as_bytes()).and_then(|()| file.write_all(json));
        if options.open(self.dir.join(BEGUN)).and_then(write).is_err() {
            self.end_begun();
        }
    }

    /// What was begun is what runs from now on: as `save`, without writing it a second time.
    pub fn save_begun(&self, version: u64, json: &[u8]) -> Result<(), KeepError> {
        let begun = self.dir.join(BEGUN);
        let Some(file) = File::open(&begun).ok().filter(|_| version_in(&begun) == Some(version)) else {
            return self.save(version, json); // there was no room for it, or it is another process's by now
        };
        self.commit(&file, &begun, &self.dir.join(file_name(version))).inspect_err(|_| self.end_begun())?;
        self.clear_out(version);
        Ok(())
    }

    /// It is not served after all.
    pub fn end_begun(&self) {
        let _ = fs::remove_file(self.dir.join(BEGUN));
    }

    /// Take what was served last out of what a start may serve: what was begun and got no further, or else the newest
    /// that is whole. Its file stays under another name, one such at a time. Answers version and JSON.
    pub fn set_last_aside(&self, max_bytes: usize) -> Option<(u64, Vec<u8>)> {
        let begun = self.dir.join(BEGUN);
        let of_begun = version_in(&begun).map(|version| (version, begun));
        let (version, path, json) = of_begun.into_iter().chain(self.files().ok()?).find_map(|(version, path)| {
            let json = read(&path, version, max_bytes).ok()?;
            Some((version, path, json))
        })?;
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            if entry.file_name().to_str().is_some_and(|name| name.starts_with(ASIDE)) {
                let _ = fs::remove_file(entry.path());
            }
        }
        let _ = fs::rename(path, self.dir.join(format!("{ASIDE}{}", file_name(version))));
        Some((version, json))
    }

    /// Remove all but `version` and the two before it. A higher version does not run, so it must not be served
    /// at the next start either. A file that cannot be removed is tried again with the next save.
    fn clear_out(&self, version: u64) {
        let mut older = 0;
        for (found, path) in self.files().unwrap_or_default() {
            older += usize::from(found < version);
            if found > version || older >= KEPT {
                let _ = fs::remove_file(path);
            }
        }
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let is_ours = entry.file_name().to_str().is_some_and(|n| n.starts_with(PREFIX) && n.ends_with(TEMPORARY));
            let age = || SystemTime::now().duration_since(entry.metadata().ok()?.modified().ok()?).ok();
            if is_ours && age().is_some_and(|age| age > STALE_AFTER) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// The newest snapshot that is whole and that `accept` takes, and every newer file with what is wrong with it.
    pub fn load_newest<T>(
        &self,
        max_bytes: usize,
        mut accept: impl FnMut(u64, &[u8]) -> Result<T, String>,
    ) -> (Option<T>, Vec<Rejected>) {
        let mut rejected = Vec::new();
        let files = self.files().unwrap_or_else(|error| {
            rejected.push(Rejected { file: self.dir.clone(), reason: format!("cannot be listed: {error}") });
            Vec::new()
        });
        for (version, file) in files {
            match read(&file, version, max_bytes).and_then(|json| accept(version, &json)) {
                Ok(accepted) => return (Some(accepted), rejected),
                Err(reason) => rejected.push(Rejected { file, reason }),
            }
        }
        (None, rejected)
    }

    /// Every file that is named like a snapshot, newest first.
    fn files(&self) -> io::Result<Vec<(u64, PathBuf)>> {
        let mut files: Vec<(u64, PathBuf)> = fs::read_dir(&self.dir)?
            .flatten()
            .filter_map(|entry| Some((version_of(entry.file_name().to_str()?)?, entry.path())))
            .collect();
        files.sort_unstable_by_key(|(version, _)| std::cmp::Reverse(*version));
        Ok(files)
    }
}

fn file_name(version: u64) -> String {
    format!("{PREFIX}{version:0VERSION_DIGITS$}{SUFFIX}")
}

fn version_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    let is_plain = digits.len() == VERSION_DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
    if is_plain { digits.parse().ok() } else { None }
}

/// The version that the header of a file says it is of.
fn version_in(path: &Path) -> Option<u64> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let mut start = String::new();
    let most_bytes = MAGIC.len() + FORMAT.len() + VERSION_DIGITS + 3;
    options.open(path).ok()?.take(most_bytes as u64).read_to_string(&mut start).ok()?;
    start.strip_prefix(&format!("{MAGIC} {FORMAT} "))?.split(' ').next()?.parse().ok()
}

fn header(version: u64, json: &[u8]) -> String {
    // Over the version too: the JSON of one snapshot under the name of another must not pass.
    let sum = Sha256::new().chain_update(version.to_string()).chain_update(b"\n").chain_update(json).finalize();
    let digest: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{MAGIC} {FORMAT} {version} {} {digest}\n", json.len())
}

/// The JSON in `file`, or why it is not to be believed. Reads what the file system says is there, never more
/// than allowed; what the header claims decides no allocation.
fn read(file: &Path, version: u64, max_bytes: usize) -> Result<Vec<u8>, String> {
    let told = |error: io::Error| format!("cannot be read: {error}");
    // Before opening: a FIFO or a device must not be opened at all.
    if !fs::symlink_metadata(file).map_err(told)?.is_file() {
        return Err("is not a regular file".to_string());
    }
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let opened = options.open(file).map_err(told)?;
    let metadata = opened.metadata().map_err(told)?;
    let limit = max_bytes.saturating_add(HEADER_MAX_BYTES);
    match usize::try_from(metadata.len()) {
        Ok(size) if metadata.is_file() && size <= limit => {
            let mut bytes = Vec::with_capacity(size + 1);
            opened.take(limit as u64 + 1).read_to_end(&mut bytes).map_err(told)?;
            check(bytes, version, max_bytes)
        }
        _ => Err(too_large(metadata.len(), max_bytes)),
    }
}

/// Exactly one sequence of bytes is right for a JSON and a version, so compare with that; then find words.
fn check(mut bytes: Vec<u8>, version: u64, max_bytes: usize) -> Result<Vec<u8>, String> {
    let end = bytes.iter().take(HEADER_MAX_BYTES).position(|byte| *byte == b'\n').map(|newline| newline + 1);
    let (found, json) = bytes.split_at(end.unwrap_or(0));
    if json.len() > max_bytes {
        return Err(too_large(json.len() as u64, max_bytes));
    }
    if found == header(version, json).as_bytes() {
        let length = found.len();
        bytes.drain(..length); // in place: a snapshot may be large, one copy is enough
        return Ok(bytes);
    }
    let text = String::from_utf8_lossy(found).trim_end_matches('\n').escape_debug().to_string();
    let fields: Vec<&str> = text.split(' ').collect();
    Err(match fields.as_slice() {
        [MAGIC, format, ..] if *format != FORMAT => {
            format!("is in file format {format}, this engine reads {FORMAT}: it was written by another release")
        }
        [MAGIC, _, told, ..] if *told != version.to_string() => {
            format!("says it is version {told}, its name says {version}")
        }
        [MAGIC, _, _, told, ..] if *told != json.len().to_string() => {
            format!("holds {} bytes, its header says {told}: it is truncated or damaged", json.len())
        }
        [MAGIC, ..] => "does not match its checksum: it is damaged".to_string(),
        _ => "does not begin with a snapshot header".to_string(),
    })
}

fn too_large(bytes: u64, max_bytes: usize) -> String {
    format!("has {bytes} bytes, the limit is {max_bytes}")
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KeepError {
    let path = path.to_path_buf();
    move |source| KeepError { doing, path, source }
}

fn advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "free some space",
        io::ErrorKind::ReadOnlyFilesystem => "remount it writable or choose another directory",
        io::ErrorKind::PermissionDenied => "give this user write permission",
        _ => "check the directory and its disk",
    }
}

//! Small files of an engine that follows another on this machine: whole or not there, and never believed blindly.
//!
//! They need not be synced: what they are about is found again, or over, when the machine has lost its power.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// In the place of what was there, in one step, for this user alone.
///
/// # Errors
/// The file system's; what was there is there still.
pub fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let written = options.open(&temporary).and_then(|mut file| file.write_all(content));
    let renamed = written.and_then(|()| fs::rename(&temporary, path));
    if renamed.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    renamed
}

/// None: there is none.
///
/// # Errors
/// Why it cannot be read, with its path: also if it is no plain file, or has more than `most_bytes`.
pub fn read(path: &Path, most_bytes: u64) -> Result<Option<Vec<u8>>, String> {
    let told = |error: io::Error| format!("{} cannot be read: {error}", path.display());
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        found => found.map_err(told)?,
    };
    if !found.is_file() || found.len() > most_bytes {
        return Err(format!("{} is no file of at most {most_bytes} bytes", path.display()));
    }
    let mut bytes = Vec::new();
    fs::File::open(path).and_then(|file| file.take(most_bytes).read_to_end(&mut bytes)).map_err(told)?;
    Ok(Some(bytes))
}

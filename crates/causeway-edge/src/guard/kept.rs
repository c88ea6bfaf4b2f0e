//! The plan in force, on disk: a process that follows finds what its kernel still holds.
//!
//! It is of one boot: times in it are of a clock that a boot begins anew, and the kernel has forgotten the rest. A file
//! that is not as written is not believed; the kernel's rules go then, which is the safe side.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::tags::Tags;
use super::wire::{MOST_PLAN_BYTES, Plan};
use crate::small_file;

const FILE: &str = "mitigation.json";
const FORMAT: u32 = 1;
const MOST_BYTES: u64 = 2 * MOST_PLAN_BYTES as u64;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    format: u32,
    boot: String,
    pub plan: Plan,
    pub tags: Tags,
    /// What `net.ipv4.tcp_syncookies` was before cookies were wanted, if that was changed.
    pub syncookies: Option<u8>,
}

impl Kept {
    pub fn new(plan: Plan, tags: Tags, syncookies: Option<u8>) -> Kept {
        Kept { format: FORMAT, boot: boot_id().unwrap_or_default(), plan, tags, syncookies }
    }
}

pub fn path(state_dir: &Path) -> PathBuf {
    state_dir.join(FILE)
}

/// # Errors
/// The file system's.
pub fn write(path: &Path, kept: &Kept) -> io::Result<()> {
    small_file::write(path, &serde_json::to_vec(kept)?)
}

pub fn remove(path: &Path) {
    let _ = fs::remove_file(path);
}

/// None: nothing was in force.
///
/// # Errors
/// Why it is not believed.
pub fn read(path: &Path) -> Result<Option<Kept>, String> {
    let Some(bytes) = small_file::read(path, MOST_BYTES)? else { return Ok(None) };
    let kept: Kept = serde_json::from_slice(&bytes).map_err(|error| format!("{}: {error}", path.display()))?;
    if kept.format != FORMAT {
        return Err(format!("{} is of format {}, this engine reads {FORMAT}", path.display(), kept.format));
    }
    if boot_id().is_none_or(|boot| boot != kept.boot) {
        return Err(format!("{} is of another boot of this machine: what it held is over", path.display()));
    }
    Ok(Some(kept))
}

fn boot_id() -> Option<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().map(|text| text.trim().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_in_this_boot_is_read_and_all_else_is_told_and_not_believed() {
        let dir = std::env::temp_dir().join(format!("causeway-kept-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let at = path(&dir);
        assert_eq!(read(&at), Ok(None));
        let plan = Plan { is_watching: true, sample_every: 7, ..Plan::default() };
        let kept = Kept::new(plan, Tags::default(), Some(1));
        write(&at, &kept).unwrap();
        assert_eq!(read(&at), Ok(Some(kept.clone())));
        let whole = serde_json::to_string(&kept).unwrap();
        for (text, why) in [
            (whole[..whole.len() / 2].to_string(), "EOF"),
            (whole.replace("\"format\":1", "\"format\":2"), "format 2"),
            (whole.replace("\"boot\":\"", "\"boot\":\"x"), "another boot"),
            (whole.replace("\"sample_every\":7", "\"sample_ever\":7"), "unknown field"),
            (String::new(), "EOF"),
        ] {
            fs::write(&at, &text).unwrap();
            let reason = read(&at).unwrap_err();
            assert!(reason.contains(why), "{text}: {reason}");
        }
        fs::File::create(&at).unwrap().set_len(MOST_BYTES + 1).unwrap();
        assert!(read(&at).unwrap_err().contains("at most"));
        remove(&at);
        std::os::unix::fs::symlink("/proc/self/mem", &at).unwrap();
        assert!(read(&at).unwrap_err().contains("is no file"));
        fs::remove_dir_all(&dir).unwrap();
    }
}

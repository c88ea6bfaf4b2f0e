//! Bans on disk, so that a restart, an upgrade or a kill ends none: each until its own end, and those that are over for
//! as long as they make the next one longer.
//!
//! Times are Unix time: bans are of sources, and hold across a boot. A file that is not as written is not believed: its
//! sources are found again if they go on.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::bans::MOST_BANS;
use super::judge::Kind;
use super::source::{Source, Width};
use crate::firewall::list;
use crate::small_file;

const FILE: &str = "bans.json";
const FORMAT: u32 = 1;
/// A row has less than 256 bytes.
const MOST_ROWS: usize = 2 * MOST_BANS;
const MOST_BYTES: u64 = 256 * MOST_ROWS as u64;

/// A ban that goes on, or is over and remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    pub source: Source,
    pub kind: Kind,
    pub since_unix_ms: u64,
    pub until_unix_ms: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: u32,
    bans: Vec<Written>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    application: String,
    source: String,
    kind: String,
    since_unix_ms: u64,
    until_unix_ms: u64,
}

pub fn path(state_dir: &Path) -> PathBuf {
    state_dir.join(FILE)
}

/// # Errors
/// The file system's.
pub fn write(path: &Path, rows: &[Row]) -> io::Result<()> {
    if rows.is_empty() {
        return match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    }
    let written = rows.iter().take(MOST_ROWS).map(|row| Written {
        application: format!("{:032x}", row.source.application),
        source: row.source.text(),
        kind: row.kind.code().into(),
        since_unix_ms: row.since_unix_ms,
        until_unix_ms: row.until_unix_ms,
    });
    let content = serde_json::to_vec(&File { format: FORMAT, bans: written.collect() })?;
    small_file::write(path, &content)
}

/// # Errors
/// Why the file is not believed; it is gone then.
pub fn read(path: &Path) -> Result<Vec<Row>, String> {
    let found = read_file(path);
    if found.is_err() {
        let _ = fs::remove_file(path);
    }
    found
}

fn read_file(path: &Path) -> Result<Vec<Row>, String> {
    let Some(bytes) = small_file::read(path, MOST_BYTES)? else { return Ok(Vec::new()) };
    let told = |reason: String| format!("{}: {reason}", path.display());
    let file: File = serde_json::from_slice(&bytes).map_err(|error| told(error.to_string()))?;
    if file.format != FORMAT {
        return Err(told(format!("it is of format {}, this engine reads {FORMAT}", file.format)));
    }
    file.bans.iter().map(row).collect::<Result<_, _>>().map_err(told)
}

fn row(of: &Written) -> Result<Row, String> {
    let kind = [Kind::Flood, Kind::BruteForce, Kind::Scan].into_iter().find(|kind| kind.code() == of.kind);
    let application = u128::from_str_radix(&of.application, 16).ok();
    let (first, length) = list::prefix(&of.source)?;
    let sources = application
        .into_iter()
        .flat_map(|application| [Width::Host, Width::Network].map(|width| Source::of(application, first, width)));
    let source = sources.into_iter().find(|source| source.prefix() == (first, length));
    match (kind, source) {
        (Some(kind), Some(source)) => {
            Ok(Row { source, kind, since_unix_ms: of.since_unix_ms, until_unix_ms: of.until_unix_ms })
        }
        _ => Err(format!("{} of {} from {} is no ban", of.kind, of.source, of.application)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_all_else_is_told_and_gone() {
        let dir = std::env::temp_dir().join(format!("causeway-bans-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let at = path(&dir);
        assert_eq!(read(&at), Ok(Vec::new()));
        let row = |client: &str, width, kind| Row {
            source: Source::of(7, client.parse().unwrap(), width),
            kind,
            since_unix_ms: 1,
            until_unix_ms: 2,
        };
        let rows = vec![
            row("198.51.100.7", Width::Host, Kind::Flood),
            row("198.51.100.7", Width::Network, Kind::BruteForce),
            row("2001:db8::7", Width::Host, Kind::Scan),
        ];
        write(&at, &rows).unwrap();
        assert_eq!(read(&at), Ok(rows));
        let whole = fs::read_to_string(&at).unwrap();
        for (text, why) in [
            (whole[..whole.len() / 2].to_string(), "EOF"),
            (whole.replace("\"format\":1", "\"format\":2"), "format 2"),
            (whole.replace("/24", "/25"), "is no ban"),
            (whole.replace("port_scan", "scan"), "is no ban"),
            (whole.replace("until_unix_ms", "until"), "unknown field"),
            (String::new(), "EOF"),
        ] {
            fs::write(&at, &text).unwrap();
            let reason = read(&at).unwrap_err();
            assert!(reason.contains(why), "{text}: {reason}");
            assert_eq!(read(&at), Ok(Vec::new()), "it is gone");
        }
        fs::File::create(&at).unwrap().set_len(MOST_BYTES + 1).unwrap();
        assert!(read(&at).unwrap_err().contains("at most"));
        write(&at, &[]).unwrap();
        fs::remove_dir_all(&dir).unwrap();
    }
}

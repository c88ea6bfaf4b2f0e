//! What was found, as people are told of it: one row for each source and kind, bounded, the newest last.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};

use serde::Serialize;

use super::judge::Kind;
use super::source::Source;

const MOST: usize = 256;
/// A pause this long ends a row; what comes after it has a new one.
const ONE_ROW_MS: u64 = 120_000;

/// Times are Unix time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Detection {
    /// 32 hex digits.
    pub id: String,
    pub application: String,
    pub kind: &'static str,
    /// A prefix.
    pub source: String,
    pub started_unix_ms: u64,
    pub last_unix_ms: u64,
    /// Connections: those that gave it away, and those refused or cut since.
    pub count: u64,
    /// None: it is not banned.
    pub until_unix_ms: Option<u64>,
}

#[derive(Debug, Default)]
pub struct Rows {
    rows: VecDeque<(Source, Kind, Detection)>,
    hasher: RandomState,
    made: u64,
    is_changed: bool,
}

impl Rows {
    /// Count on in the row of this source, or begin one.
    pub fn add(&mut self, source: Source, kind: Kind, count: u64, until_unix_ms: Option<u64>, unix_ms: u64) {
        self.is_changed = true;
        let is_it = |row: &&mut (Source, Kind, Detection)| {
            (row.0, row.1) == (source, kind) && unix_ms.saturating_sub(row.2.last_unix_ms) < ONE_ROW_MS
        };
        if let Some((_, _, row)) = self.rows.iter_mut().rev().find(is_it) {
            row.count += count;
            row.last_unix_ms = unix_ms;
            row.until_unix_ms = until_unix_ms.or(row.until_unix_ms);
            return;
        }
        self.made += 1;
        let id = [0, 1].map(|half| self.hasher.hash_one((half, self.made, unix_ms)));
        if self.rows.len() == MOST {
            self.rows.pop_front();
        }
        let detection = Detection {
            id: format!("{:016x}{:016x}", id[0], id[1]),
            application: format!("{:032x}", source.application),
            kind: kind.code(),
            source: source.text(),
            started_unix_ms: unix_ms,
            last_unix_ms: unix_ms,
            count,
            until_unix_ms,
        };
        self.rows.push_back((source, kind, detection));
    }

    /// All rows, if there is anything new.
    pub fn take_news(&mut self) -> Option<Vec<Detection>> {
        let is_changed = std::mem::take(&mut self.is_changed);
        is_changed.then(|| self.rows.iter().map(|(_, _, row)| row.clone()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::source::Width;
    use super::*;

    #[test]
    fn a_source_has_one_row_while_it_goes_on_and_rows_are_bounded() {
        let source = |number: u32| Source::of(1, std::net::IpAddr::V4(number.into()), Width::Host);
        let mut rows = Rows::default();
        rows.add(source(1), Kind::Flood, 100, Some(61_000), 1_000);
        rows.add(source(1), Kind::Flood, 20, None, 2_000);
        rows.add(source(1), Kind::Scan, 1, None, 2_000);
        rows.add(source(1), Kind::Flood, 1, None, 500_000);
        let told = rows.take_news().unwrap();
        let counts: Vec<_> = told.iter().map(|row| (row.kind, row.count, row.until_unix_ms)).collect();
        let expected = [("connection_flood", 120, Some(61_000)), ("port_scan", 1, None), ("connection_flood", 1, None)];
        assert_eq!(counts, expected);
        assert_eq!((rows.take_news(), told[0].id.len(), told[0].source.as_str()), (None, 32, "0.0.0.1/32"));
        (2..1_000).for_each(|number| rows.add(source(number), Kind::Flood, 1, None, 600_000));
        assert_eq!(rows.take_news().unwrap().len(), MOST);
    }
}

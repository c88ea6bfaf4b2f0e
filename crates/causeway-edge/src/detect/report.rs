//! What was found, as people are told of it: one row for each source and kind, bounded, the newest last.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};

use serde::Serialize;

use super::judge::{Kind, Suspect};
use super::source::Source;

const MOST: usize = 256;
/// A pause this long ends a row; what comes after it has a new one.
const ONE_ROW_MS: u64 = 120_000;
/// Whoever counts comes once a second, and may be a little early.
const ABOUT_A_SECOND_MS: u64 = 900;

/// Times are Unix time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Detection {
    /// 32 hex digits.
    pub id: String,
    pub application: String,
    pub kind: &'static str,
    /// A prefix.
    pub source: String,
    /// When its ban began, or it was seen; what it did began earlier.
    pub started_unix_ms: u64,
    pub began_unix_ms: u64,
    pub last_unix_ms: u64,
    /// Connections: those that gave it away, and those refused or cut since.
    pub count: u64,
    /// Of them: in a second, when it was seen last.
    pub per_s: u64,
    /// None: it is not banned.
    pub until_unix_ms: Option<u64>,
}

#[derive(Debug)]
struct Row {
    told: Detection,
    /// Since when its last second is counted, and what it has had.
    second: (u64, u64),
}

#[derive(Debug, Default)]
pub struct Rows {
    rows: VecDeque<(Source, Kind, Row)>,
    hasher: RandomState,
    made: u64,
    is_changed: bool,
}

impl Rows {
    /// Begin a row, or count on in the one that this source has.
    pub fn begin(&mut self, suspect: &Suspect, until_unix_ms: Option<u64>, (now_ms, unix_ms): (u64, u64)) {
        let Suspect { kind, source, count, per_s, began_ms, .. } = *suspect;
        if self.count_on(source, kind, count, until_unix_ms, unix_ms) {
            return;
        }
        self.is_changed = true;
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
            began_unix_ms: unix_ms.saturating_sub(now_ms.saturating_sub(began_ms)),
            last_unix_ms: unix_ms,
            count,
            per_s,
            until_unix_ms,
        };
        self.rows.push_back((source, kind, Row { told: detection, second: (unix_ms, 0) }));
    }

    /// False: it has no row, or that is over.
    pub fn count_on(
        &mut self,
        source: Source,
        kind: Kind,
        count: u64,
        until_unix_ms: Option<u64>,
        unix_ms: u64,
    ) -> bool {
        let is_it = |row: &&mut (Source, Kind, Row)| {
            (row.0, row.1) == (source, kind) && unix_ms.saturating_sub(row.2.told.last_unix_ms) < ONE_ROW_MS
        };
        let Some((_, _, Row { told, second })) = self.rows.iter_mut().rev().find(is_it) else { return false };
        self.is_changed = true;
        if unix_ms.saturating_sub(second.0) >= ABOUT_A_SECOND_MS {
            *second = (unix_ms, 0);
            told.per_s = 0;
        }
        second.1 += count;
        told.per_s = told.per_s.max(second.1);
        told.count += count;
        told.last_unix_ms = unix_ms;
        told.until_unix_ms = until_unix_ms.or(told.until_unix_ms);
        true
    }

    /// All rows, if there is anything new.
    pub fn take_news(&mut self) -> Option<Vec<Detection>> {
        let is_changed = std::mem::take(&mut self.is_changed);
        is_changed.then(|| self.rows.iter().map(|(_, _, row)| row.told.clone()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::source::Width;
    use super::*;

    #[test]
    fn a_source_has_one_row_while_it_goes_on_and_rows_are_bounded() {
        let source = |number: u32| Source::of(1, std::net::IpAddr::V4(number.into()), Width::Host);
        let suspect = |number, kind, count| {
            let (source, is_proven, per_s, began_ms) = (source(number), true, count / 2, 100);
            Suspect { kind, source, is_proven, count, per_s, began_ms }
        };
        let mut rows = Rows::default();
        rows.begin(&suspect(1, Kind::Flood, 100), Some(61_000), (500, 1_000));
        assert!(rows.count_on(source(1), Kind::Flood, 20, None, 2_000));
        assert!(rows.count_on(source(1), Kind::Flood, 10, None, 2_100));
        assert!(!rows.count_on(source(1), Kind::Scan, 20, None, 2_000));
        rows.begin(&suspect(1, Kind::Scan, 1), None, (500, 2_000));
        rows.begin(&suspect(1, Kind::Flood, 1), None, (500, 500_000));
        let told = rows.take_news().unwrap();
        let counts: Vec<_> = told.iter().map(|row| (row.kind, row.count, row.per_s, row.until_unix_ms)).collect();
        let expected =
            [("connection_flood", 130, 30, Some(61_000)), ("port_scan", 1, 0, None), ("connection_flood", 1, 0, None)];
        assert_eq!(counts, expected);
        assert_eq!((told[0].began_unix_ms, told[0].started_unix_ms), (600, 1_000));
        assert_eq!((rows.take_news(), told[0].id.len(), told[0].source.as_str()), (None, 32, "0.0.0.1/32"));
        (2..1_000).for_each(|number| rows.begin(&suspect(number, Kind::Flood, 1), None, (500, 600_000)));
        assert_eq!(rows.take_news().unwrap().len(), MOST);
    }
}

//! Which country or AS an address belongs to, by an MMDB or a CSV file of the operator's.
//!
//! Read whole and turned into ranges once; the file itself is not kept in memory. Layouts of the CC0 country database
//! (`country_code`), of MaxMind (`country.iso_code`, `autonomous_system_number`) and of IPinfo (`country`, `asn`).

use std::collections::HashMap;
use std::net::IpAddr;

use maxminddb::{Reader, WithinOptions};
use serde::Deserialize;

use super::list;
use super::ranges::Map;

/// Keys by address: an AS number, or two letters in 16 bits.
pub type Geo = Map<u32>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Asn,
    Country,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Facts {
    pub prefixes: usize,
    /// Countries or AS numbers.
    pub keys: usize,
}

/// # Errors
/// It is not two letters or digits.
pub fn country_key(code: &str) -> Result<u32, String> {
    match code.to_ascii_uppercase().as_bytes() {
        [a @ b'A'..=b'Z', b @ (b'A'..=b'Z' | b'0'..=b'9')] => Ok(u32::from(*a) << 8 | u32::from(*b)),
        _ => Err(format!("{code:?} is no country of two letters")),
    }
}

pub fn country_name(key: u32) -> String {
    [(key >> 8) as u8, key as u8].iter().map(|byte| char::from(*byte)).collect()
}

/// # Errors
/// What is wrong with the file, in words.
pub fn read(bytes: &[u8], kind: Kind) -> Result<(Geo, Facts), String> {
    let is_mmdb = bytes.windows(METADATA.len()).rev().take(131_072).any(|window| window == METADATA);
    let entries = if is_mmdb { from_mmdb(bytes, kind)? } else { from_csv(bytes, kind)? };
    if entries.is_empty() {
        return Err(format!("the file names no {}: is it the right one?", kind.noun()));
    }
    let keys: std::collections::HashSet<u32> = entries.iter().map(|(.., key)| *key).collect();
    let facts = Facts { prefixes: entries.len(), keys: keys.len() };
    Ok((Map::new(entries.into_iter()), facts))
}

/// Several times what there is of either: a file with more would take the memory of the edge.
const MOST_PREFIXES: usize = 4_000_000;
const METADATA: &[u8] = b"\xab\xcd\xefMaxMind.com";

type Entry = (IpAddr, u8, u32);

#[derive(Deserialize)]
struct Row {
    country_code: Option<String>,
    country: Option<Country>,
    autonomous_system_number: Option<u32>,
    asn: Option<Number>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Country {
    Code(String),
    Record { iso_code: Option<String> },
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Number {
    Plain(u32),
    Text(String),
}

impl Row {
    fn key(self, kind: Kind) -> Option<u32> {
        if kind == Kind::Asn {
            return match (self.autonomous_system_number, self.asn) {
                (Some(number), _) | (None, Some(Number::Plain(number))) => Some(number),
                (None, Some(Number::Text(text))) => asn(&text),
                (None, None) => None,
            };
        }
        let code = match (self.country_code, self.country) {
            (Some(code), _) | (None, Some(Country::Code(code))) => Some(code),
            (None, Some(Country::Record { iso_code })) => iso_code,
            (None, None) => None,
        };
        code.and_then(|code| country_key(&code).ok())
    }
}

fn from_mmdb(bytes: &[u8], kind: Kind) -> Result<Vec<Entry>, String> {
    let broken = |error: maxminddb::MaxMindDbError| format!("the MMDB file cannot be read: {error}");
    let reader = Reader::from_source(bytes).map_err(broken)?;
    let mut entries = Vec::new();
    let mut decoded: HashMap<usize, Option<u32>> = HashMap::new(); // many networks share a record
    for found in reader.networks(WithinOptions::default()).map_err(broken)? {
        let found = found.map_err(broken)?;
        let Some(offset) = found.offset() else { continue };
        let key = match decoded.get(&offset) {
            Some(key) => *key,
            None => {
                let row: Option<Row> = found.decode().map_err(broken)?;
                *decoded.entry(offset).or_insert(row.and_then(|row| row.key(kind)))
            }
        };
        refuse_more(&entries)?;
        let network = found.network().map_err(broken)?;
        if let Some(key) = key {
            let (first, length) = unmapped(network.network(), network.prefix());
            entries.push((first, length, key));
        }
    }
    Ok(entries)
}

/// IPv4 lies in the first 96 bits of an IPv6 tree.
fn unmapped(first: IpAddr, length: u8) -> (IpAddr, u8) {
    match first {
        IpAddr::V6(v6) if length >= 96 && v6.to_bits() >> 32 == 0 => {
            (std::net::Ipv4Addr::from_bits(v6.to_bits() as u32).into(), length - 96)
        }
        other => (other, length),
    }
}

fn asn(text: &str) -> Option<u32> {
    text.trim().trim_start_matches(['A', 'a']).trim_start_matches(['S', 's']).parse().ok().filter(|number| *number > 0)
}

/// `PREFIX,KEY…` or `FIRST,LAST,KEY…`, with commas or tabs; what is more on the line is not read.
fn from_csv(bytes: &[u8], kind: Kind) -> Result<Vec<Entry>, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "the file is neither MMDB nor text (CSV)".to_string())?;
    let mut entries = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut fields = line.split([',', '\t']).map(|field| field.trim().trim_matches('"'));
        let (begin, next) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        let wrong = |why: String| format!("line {}: {why}", number + 1);
        let (ranges, key) = match (begin.parse::<IpAddr>(), next.parse::<IpAddr>()) {
            (Ok(first), Ok(last)) => (spans(first, last).map_err(wrong)?, fields.next().unwrap_or_default()),
            _ if number == 0 && list::prefix(begin).is_err() => continue, // names of columns
            _ => (vec![list::prefix(begin).map_err(wrong)?], next),
        };
        let key = match kind {
            _ if matches!(key, "0" | "" | "-" | "None" | "ZZ") => continue, // nobody's
            Kind::Asn => asn(key).ok_or_else(|| wrong(format!("{key:?} is no AS number")))?,
            Kind::Country => country_key(key).map_err(wrong)?,
        };
        refuse_more(&entries)?;
        entries.extend(ranges.into_iter().map(|(first, length)| (first, length, key)));
    }
    Ok(entries)
}

fn refuse_more(entries: &[Entry]) -> Result<(), String> {
    if entries.len() >= MOST_PREFIXES {
        return Err(format!("the file has more than {MOST_PREFIXES} prefixes: is it the right one?"));
    }
    Ok(())
}

/// The prefixes from `first` to `last`.
fn spans(first: IpAddr, last: IpAddr) -> Result<Vec<(IpAddr, u8)>, String> {
    let (mut at, end, bits) = match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => (u128::from(first.to_bits()), u128::from(last.to_bits()), 32),
        (IpAddr::V6(first), IpAddr::V6(last)) => (first.to_bits(), last.to_bits(), 128),
        _ => return Err(format!("{first} and {last} are of different IP versions")),
    };
    if at > end {
        return Err(format!("{first} is behind {last}"));
    }
    let mut found = Vec::new();
    loop {
        let mut size = at.trailing_zeros().min(bits);
        // The largest block that begins here and does not end behind `end`.
        while size > 0 && (size == 128 && end != u128::MAX || size < 128 && end - at < (1 << size) - 1) {
            size -= 1;
        }
        let address =
            if bits == 32 { IpAddr::V4((at as u32).into()) } else { IpAddr::V6(std::net::Ipv6Addr::from_bits(at)) };
        found.push((address, (bits - size) as u8));
        let Some(next) = 1u128.checked_shl(size).and_then(|step| at.checked_add(step)) else { return Ok(found) };
        if next > end {
            return Ok(found);
        }
        at = next;
    }
}

impl Kind {
    fn noun(self) -> &'static str {
        match self {
            Kind::Asn => "AS number",
            Kind::Country => "country",
        }
    }
}

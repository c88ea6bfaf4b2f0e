//! What control says of ways and measurements, as it comes: bounded, and whole or not at all.

use std::collections::HashMap;

use causeway_wire::overlay::{Name, Path};
use serde::Deserialize;

use crate::error::EdgeError;

const MOST_BYTES: usize = 32 << 20;
const MOST_LEGS: usize = 1_024;
const MOST_REACHED: usize = 4_096;
const MOST_PATHS: usize = 8; // a bit for each, in whoever tries them
const MOST_TTL_MS: u64 = 3_600_000;

#[derive(Debug)]
pub struct Plan {
    pub version: u64,
    pub ttl_ms: u64,
    pub direct_one_in: u64,
    pub legs: Vec<Name>,
    pub reach: Vec<u128>,
    pub applications: HashMap<u128, Box<[Path]>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Told {
    version: u64,
    ttl_ms: u64,
    direct_one_in: u64,
    legs: Vec<String>,
    reach: Vec<String>,
    applications: Vec<ToldWays>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ToldWays {
    id: String,
    paths: Vec<Vec<String>>,
}

impl Plan {
    /// # Errors
    /// `Refused`: what is wrong with it.
    pub fn read(json: &[u8]) -> Result<Plan, EdgeError> {
        if json.len() > MOST_BYTES {
            return Err(refused(&format!("{} bytes, at most {MOST_BYTES} are taken", json.len())));
        }
        let told: Told = serde_json::from_slice(json).map_err(|error| refused(&error.to_string()))?;
        if told.legs.len() > MOST_LEGS || told.reach.len() > MOST_REACHED || told.ttl_ms > MOST_TTL_MS {
            return Err(refused("more legs, origins or time than are taken"));
        }
        let applications = told.applications.iter().map(|ways| Ok((id(&ways.id)?, paths(&ways.paths)?)));
        Ok(Plan {
            version: told.version,
            ttl_ms: told.ttl_ms,
            direct_one_in: told.direct_one_in,
            legs: told.legs.iter().map(|text| name(text)).collect::<Result<_, _>>()?,
            reach: told.reach.iter().map(|text| id(text)).collect::<Result<_, _>>()?,
            applications: applications.collect::<Result<_, EdgeError>>()?,
        })
    }
}

fn paths(told: &[Vec<String>]) -> Result<Box<[Path]>, EdgeError> {
    if told.is_empty() || told.len() > MOST_PATHS {
        return Err(refused(&format!("{} paths of an application, 1 to {MOST_PATHS} are possible", told.len())));
    }
    let path = |names: &Vec<String>| {
        let names: Vec<Name> = names.iter().map(|text| name(text)).collect::<Result<_, _>>()?;
        Path::new(&names).ok_or_else(|| refused("a path that is too long, or goes through an edge twice"))
    };
    told.iter().map(path).collect()
}

fn name(text: &str) -> Result<Name, EdgeError> {
    Name::new(text.as_bytes()).ok_or_else(|| refused(&format!("{text:?}, which is no name of an edge")))
}

fn id(text: &str) -> Result<u128, EdgeError> {
    let is_id = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    u128::from_str_radix(text, 16).ok().filter(|_| is_id).ok_or_else(|| refused(&format!("{text:?}, which is no id")))
}

fn refused(what: &str) -> EdgeError {
    EdgeError::Refused(format!("the plan of routes has {what}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    const WHOLE: &str = r#"{"version": 1, "ttl_ms": 1000, "direct_one_in": 64, "legs": ["fra-1"],
        "reach": ["0123456789abcdef0123456789abcdef"],
        "applications": [{"id": "0123456789abcdef0123456789abcdef", "paths": [["fra-1", "ams-1"], []]}]}"#;

    #[test]
    fn a_whole_one_is_read_and_no_part_of_one() {
        let plan = Plan::read(WHOLE.as_bytes()).unwrap();
        assert_eq!((plan.legs.len(), plan.reach.len(), plan.applications.len()), (1, 1, 1));
        for end in 0..WHOLE.len() {
            assert!(Plan::read(&WHOLE.as_bytes()[..end]).is_err(), "{end}");
        }
    }

    #[test]
    fn what_cannot_be_followed_is_refused() {
        let paths = |paths: &str| WHOLE.replace(r#"[["fra-1", "ams-1"], []]"#, paths);
        for wrong in [
            paths("[]"),
            paths(r#"[["fra-1", "fra-1"]]"#),
            paths(r#"[["a", "b", "c", "d"]]"#),
            paths(r#"[["-"]]"#),
            paths(&format!("[{}]", ["[]"; 9].join(","))),
            WHOLE.replace("1000", "3600001"),
            WHOLE.replace(r#""reach": ["0"#, r#""reach": ["+"#),
            WHOLE.replace("version", "vision"),
        ] {
            assert!(Plan::read(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_comes_brings_it_down(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0..300usize) {
            let _ = Plan::read(&bytes);
            let mut damaged = WHOLE.as_bytes().to_vec();
            let at = at % damaged.len();
            damaged.splice(at..at, bytes);
            let _ = Plan::read(&damaged);
        }
    }
}

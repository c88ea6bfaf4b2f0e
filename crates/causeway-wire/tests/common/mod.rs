//! Reads `vectors/`: the same files that the Python tests read.

use std::fs;
use std::path::Path;

use serde::de::DeserializeOwned;

pub fn vectors<T: DeserializeOwned>(file: &str) -> Vec<T> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../vectors").join(file);
    let text = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Words of hex, each with an optional `*count`.
pub fn bytes(words: &str) -> Vec<u8> {
    words.split_whitespace().flat_map(word).collect()
}

fn word(word: &str) -> Vec<u8> {
    let (hex, count) = word.split_once('*').unwrap_or((word, "1"));
    let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("two hex digits");
    let once: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
    once.repeat(count.parse().expect("a count"))
}

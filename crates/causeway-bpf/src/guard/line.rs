//! A line of sorted keys as the program reads it (`bpf/guard.h`): what holds below the first key, from it on, and so on.
//!
//! Keys are as wide as what is left of an address there, and what holds is a byte each, an index of the palette, or, where
//! values are too many for that, whole values.

use super::shared::{KIND_LINE16, KIND_LINE32, KIND_LINE64, KIND_WIDE, Line};

/// "From this key (in the upper bits) on addresses have this value."
pub(super) type Boundary = (u64, u32);

/// Bits of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keys {
    Of15,
    Of31,
    Of64,
}

/// What a line is laid out like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Form {
    pub keys: Keys,
    pub is_wide: bool,
}

impl Keys {
    pub fn bits(self) -> u32 {
        match self {
            Keys::Of15 => 15,
            Keys::Of31 => 31,
            Keys::Of64 => 64,
        }
    }

    fn bytes(self) -> usize {
        match self {
            Keys::Of15 => 2,
            Keys::Of31 => 4,
            Keys::Of64 => 8,
        }
    }

    fn put(self, bytes: &mut [u8; 64], at: usize, key: u64) {
        let place = &mut bytes[at * self.bytes()..][..self.bytes()];
        match self {
            Keys::Of15 => place.copy_from_slice(&(key as u16 | 1 << 15).to_ne_bytes()),
            Keys::Of31 => place.copy_from_slice(&(key as u32 | 1 << 31).to_ne_bytes()),
            Keys::Of64 => place.copy_from_slice(&key.to_ne_bytes()),
        }
    }
}

impl Form {
    pub fn kind(self) -> u32 {
        let keys = match self.keys {
            Keys::Of15 => KIND_LINE16,
            Keys::Of31 => KIND_LINE32,
            Keys::Of64 => KIND_LINE64,
        };
        keys | if self.is_wide { KIND_WIDE } else { 0 }
    }

    /// How many keys a line has.
    pub fn most(self) -> usize {
        match (self.keys, self.is_wide) {
            (Keys::Of15, false) => 20,
            (Keys::Of31, false) => 12,
            (Keys::Of64, false) => 7,
            (Keys::Of15, true) => 8,
            (Keys::Of31, true) => 6,
            (Keys::Of64, true) => 5,
        }
    }

    /// `around` below the first of `inside`. Keys of `width` bits; what a value is in the palette, unless the form is wide.
    pub fn lay(self, around: u32, inside: &[Boundary], width: u32, index: impl Fn(u32) -> u8) -> Line {
        let mut bytes = [0u8; 64];
        let most = self.most();
        assert!(inside.len() <= most);
        let last = inside.last().map_or(around, |(_, value)| *value);
        for at in 0..=most {
            if at < most {
                let key = inside.get(at).map_or(u64::MAX, |(key, _)| key >> (64 - width));
                self.keys.put(&mut bytes, at, key);
            }
            let value = if at == 0 { around } else { inside.get(at - 1).map_or(last, |(_, value)| *value) };
            let values = most * self.keys.bytes();
            match self.is_wide {
                true => bytes[values + at * 4..][..4].copy_from_slice(&value.to_ne_bytes()),
                false => bytes[values + at] = index(value),
            }
        }
        let mut line = Line::default();
        for (word, part) in line.iter_mut().zip(bytes.chunks_exact(4)) {
            *word = u32::from_ne_bytes(part.try_into().expect("four bytes"));
        }
        line
    }
}

/// What the program finds in a line; for tests.
#[cfg(test)]
pub(super) fn find(line: &Line, kind: u32, key: u64, palette: impl Fn(u8) -> u32) -> u32 {
    let form = match kind & !KIND_WIDE {
        KIND_LINE16 => Form { keys: Keys::Of15, is_wide: kind & KIND_WIDE != 0 },
        KIND_LINE32 => Form { keys: Keys::Of31, is_wide: kind & KIND_WIDE != 0 },
        KIND_LINE64 => Form { keys: Keys::Of64, is_wide: kind & KIND_WIDE != 0 },
        _ => panic!("no kind of a line: {kind}"),
    };
    let bytes: Vec<u8> = line.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let at = (0..form.most())
        .take_while(|at| {
            let place = &bytes[at * form.keys.bytes()..][..form.keys.bytes()];
            match form.keys {
                Keys::Of15 => u64::from(u16::from_ne_bytes(place.try_into().unwrap()) & 0x7fff) <= key & 0x7fff,
                Keys::Of31 => u64::from(u32::from_ne_bytes(place.try_into().unwrap()) << 1 >> 1) <= key & 0x7fff_ffff,
                Keys::Of64 => u64::from_ne_bytes(place.try_into().unwrap()) <= key,
            }
        })
        .count();
    let values = form.most() * form.keys.bytes();
    match form.is_wide {
        true => u32::from_ne_bytes(bytes[values + at * 4..][..4].try_into().unwrap()),
        false => palette(bytes[values + at]),
    }
}

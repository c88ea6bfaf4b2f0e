//! Lists and databases that rules name by digest: they travel apart from the snapshot, and stay on disk beside it.
//!
//! What no running firewall names is forgotten after the next change. Knows nothing of rules.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::geo::{self, Geo};
use super::list::{self, Lenience, List};

#[derive(Debug)]
pub enum Blob {
    List(List),
    Geo(Geo),
}

/// What is in a blob.
#[derive(Clone, Debug, Serialize)]
pub struct BlobReport {
    pub digest: String,
    pub bytes: usize,
    /// What it takes in memory.
    pub table_bytes: usize,
    #[serde(flatten)]
    pub facts: Facts,
}

#[derive(Clone, Copy, Debug, Serialize)]
#[serde(untagged)]
pub enum Facts {
    List(list::Facts),
    Geo(geo::Facts),
}

#[derive(Debug, Default)]
pub struct Blobs {
    dir: Option<PathBuf>,
    open: HashMap<String, Arc<Blob>>,
    /// Named by nothing yet: the change that does so follows.
    last_put: Option<String>,
}

const KINDS: [&str; 3] = ["list", "asn", "country"];

impl Blobs {
    pub fn new(state_dir: Option<&std::path::Path>) -> Blobs {
        Blobs { dir: state_dir.map(|dir| dir.join("lists")), open: HashMap::new(), last_put: None }
    }

    /// # Errors
    /// What is wrong with `bytes`, in words.
    pub fn read(kind: &str, bytes: &[u8], lenience: Lenience) -> Result<(Blob, Facts), String> {
        read(kind, bytes, lenience)
    }

    /// Keep what was read from `bytes` under their digest.
    ///
    /// # Errors
    /// What is wrong with the disk, in words.
    pub fn put(&mut self, kind: &str, bytes: &[u8], blob: Blob, facts: Facts) -> Result<BlobReport, String> {
        let digest: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        let table_bytes = match &blob {
            Blob::List(list) => list.bytes(),
            Blob::Geo(geo) => geo.bytes(),
        };
        if let Some(dir) = &self.dir {
            let path = dir.join(format!("{digest}.{kind}"));
            let temporary = dir.join(format!("{digest}.{kind}.tmp"));
            let written = fs::create_dir_all(dir)
                .and_then(|()| fs::write(&temporary, bytes))
                .and_then(|()| fs::File::open(&temporary)?.sync_all())
                .and_then(|()| fs::rename(&temporary, &path));
            written.map_err(|error| format!("keeping it in {} failed: {error}", dir.display()))?;
        }
        self.open.insert(digest.clone(), Arc::new(blob));
        self.last_put = Some(digest.clone());
        Ok(BlobReport { digest, bytes: bytes.len(), table_bytes, facts })
    }

    pub fn has(&self, digest: &str) -> bool {
        self.open.contains_key(digest) || self.path(digest).is_some()
    }

    /// # Errors
    /// It is not here, or not as it was put.
    pub fn open(&mut self, digest: &str) -> Result<Arc<Blob>, String> {
        if let Some(blob) = self.open.get(digest) {
            return Ok(blob.clone());
        }
        let Some((kind, path)) = self.path(digest) else { return Err(format!("there is no list {digest} here")) };
        let bytes = fs::read(&path).map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
        let found: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        if found != digest {
            return Err(format!("{} is damaged: its digest is {found}", path.display()));
        }
        let lenience = Lenience { overlaps: true, private: true }; // checked when it was put
        let blob = Arc::new(read(kind, &bytes, lenience)?.0);
        self.open.insert(digest.to_string(), blob.clone());
        Ok(blob)
    }

    fn path(&self, digest: &str) -> Option<(&'static str, PathBuf)> {
        let dir = self.dir.as_ref()?;
        let is_digest = digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
        let paths = KINDS.into_iter().map(|kind| (kind, dir.join(format!("{digest}.{kind}"))));
        paths.filter(|_| is_digest).find(|(_, path)| path.exists())
    }

    /// Forget, on disk too, what is not `wanted`.
    pub fn retain(&mut self, wanted: &std::collections::HashSet<&str>) {
        let last = self.last_put.as_deref();
        self.open.retain(|digest, _| wanted.contains(digest.as_str()) || last == Some(digest.as_str()));
        let Some(entries) = self.dir.as_ref().and_then(|dir| fs::read_dir(dir).ok()) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let digest = name.to_str().and_then(|name| name.split('.').next()).unwrap_or_default();
            if !wanted.contains(digest) && last != Some(digest) {
                let _ = fs::remove_file(entry.path()); // tried again after the next change
            }
        }
    }
}

fn read(kind: &str, bytes: &[u8], lenience: Lenience) -> Result<(Blob, Facts), String> {
    match kind {
        "list" => list::read(bytes, lenience).map(|(list, facts)| (Blob::List(list), Facts::List(facts))),
        "asn" => geo::read(bytes, geo::Kind::Asn).map(|(geo, facts)| (Blob::Geo(geo), Facts::Geo(facts))),
        "country" => geo::read(bytes, geo::Kind::Country).map(|(geo, facts)| (Blob::Geo(geo), Facts::Geo(facts))),
        _ => Err(format!("{kind:?} is none of list, asn, country")),
    }
}

impl Blob {
    pub fn list(&self) -> Option<&List> {
        match self {
            Blob::List(list) => Some(list),
            Blob::Geo(_) => None,
        }
    }

    pub fn geo(&self) -> Option<&Geo> {
        match self {
            Blob::Geo(geo) => Some(geo),
            Blob::List(_) => None,
        }
    }
}

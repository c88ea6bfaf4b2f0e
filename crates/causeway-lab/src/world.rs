//! The world as the relay is told it, once, at its start: nodes with their namespaces, and links.

use std::collections::{HashMap, HashSet};

use ip_network::IpNetwork;
use serde::Deserialize;

use crate::LabError;
use crate::frame::Mac;
use crate::shape::Shape;

const MOST_BYTES: usize = 64 << 20;
const MOST_NODES: usize = 512; // a /24 of 198.18.0.0/15 for each
const MOST_PREFIXES: usize = 16;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct World {
    pub seed: u64,
    pub nodes: Vec<NodeConfig>,
    pub links: Vec<LinkConfig>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    pub name: String,
    /// A file that stands for its network namespace.
    pub namespace: String,
    pub device: String,
    #[serde(deserialize_with = "mac")]
    pub mac: Mac,
    /// Addresses that are asked for are at the node with the longest of these.
    #[serde(deserialize_with = "prefixes")]
    pub prefixes: Vec<IpNetwork>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkConfig {
    pub between: [String; 2],
    pub there: Shape,
    pub back: Shape,
}

/// Read a world; what it says of a link is within bounds, each name is of one node and each pair has one link.
pub fn read_world(text: &[u8]) -> Result<World, LabError> {
    if text.len() > MOST_BYTES {
        return Err(LabError::World(format!("it has {} bytes, the limit is {MOST_BYTES}", text.len())));
    }
    let world: World = serde_json::from_slice(text).map_err(|error| LabError::World(error.to_string()))?;
    if world.nodes.len() > MOST_NODES {
        return Err(LabError::World(format!("it has {} nodes, the limit is {MOST_NODES}", world.nodes.len())));
    }
    let mut numbers = HashMap::new();
    let mut macs = HashSet::new();
    for (number, node) in world.nodes.iter().enumerate() {
        if numbers.insert(node.name.as_str(), number).is_some() {
            return Err(LabError::World(format!("two nodes are called {:?}", node.name)));
        }
        if !macs.insert(node.mac) {
            return Err(LabError::World(format!("{:?} has the MAC of another node", node.name)));
        }
    }
    let mut pairs = HashSet::new();
    for link in &world.links {
        let [a, b] = &link.between;
        let number =
            |name: &String| numbers.get(name.as_str()).copied().ok_or_else(|| LabError::UnknownNode(name.clone()));
        let (a, b) = (number(a)?, number(b)?);
        if a == b || !pairs.insert((a.min(b), a.max(b))) {
            let [a, b] = &link.between;
            return Err(LabError::World(format!("a link joins {a:?} and {b:?} that are one or joined already")));
        }
        link.there.check()?;
        link.back.check()?;
    }
    Ok(world)
}

fn mac<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Mac, D::Error> {
    let text = String::deserialize(deserializer)?;
    Mac::parse(&text).ok_or_else(|| serde::de::Error::custom(format!("{text:?} is no MAC address of one station")))
}

fn prefixes<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNetwork>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    if texts.len() > MOST_PREFIXES {
        return Err(serde::de::Error::custom(format!("{} prefixes, the limit is {MOST_PREFIXES}", texts.len())));
    }
    let read = |text: String| text.parse().map_err(|_| serde::de::Error::custom(format!("{text:?} is no prefix")));
    texts.into_iter().map(read).collect()
}

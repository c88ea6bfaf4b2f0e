//! Which tag of the kernel's counters has each rule of a plan. Pure.
//!
//! A rule that stays keeps its tag, so its count goes on; across processes too. A tag that was another's begins at what
//! that has counted.

use std::collections::{BTreeMap, BTreeSet};

use causeway_bpf::guard::Hits;
use serde::{Deserialize, Serialize};

use super::policy::AUTOMATIC_TAGS;

/// Of one rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tag {
    pub tag: u16,
    /// What the tag had counted for others: packets, and of established flows.
    pub before: (u64, u64),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tags {
    of: BTreeMap<String, Tag>,
    /// Given last: tags go round, so that one is not given again at once.
    last: u16,
}

impl Tags {
    /// Those of a plan with these rules; `counted`: what a tag has counted so far. Rules beyond the room have none.
    pub fn after<'a>(&self, rules: impl Iterator<Item = &'a str>, counted: impl Fn(u16) -> Hits) -> Tags {
        let wanted: BTreeSet<&str> = rules.collect();
        let kept = self.of.iter().filter(|(id, _)| wanted.contains(id.as_str()));
        let mut next = Tags { of: kept.map(|(id, tag)| (id.clone(), *tag)).collect(), last: self.last };
        let mut is_taken: BTreeSet<u16> = self.of.values().map(|tag| tag.tag).collect();
        for id in wanted {
            if next.of.contains_key(id) {
                continue;
            }
            let (first, last) = (*AUTOMATIC_TAGS.start(), *AUTOMATIC_TAGS.end());
            let from = if AUTOMATIC_TAGS.contains(&next.last) { next.last } else { last };
            let mut round = (from..=last).skip(1).chain(first..=from);
            let Some(tag) = round.find(|tag| !is_taken.contains(tag)) else { continue };
            is_taken.insert(tag);
            let hits = counted(tag);
            next.of.insert(id.to_string(), Tag { tag, before: (hits.packets, hits.established) });
            next.last = tag;
        }
        next
    }

    pub fn get(&self, id: &str) -> Option<u16> {
        self.of.get(id).map(|tag| tag.tag)
    }

    pub fn rule(&self, tag: u16) -> Option<&str> {
        self.of.iter().find(|(_, of)| of.tag == tag).map(|(id, _)| id.as_str())
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tag)> {
        self.of.iter().map(|(id, tag)| (id.as_str(), tag))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing(_: u16) -> Hits {
        Hits::default()
    }

    #[test]
    fn a_rule_that_stays_keeps_its_tag_and_a_new_one_gets_one_that_was_not_in_use() {
        let first = Tags::default().after(["a", "b"].into_iter(), nothing);
        assert_eq!((first.get("a"), first.get("b")), (Some(61_440), Some(61_441)));
        let second = first.after(["b", "c"].into_iter(), |tag| Hits { packets: tag.into(), established: 1 });
        assert_eq!((second.get("b"), second.get("c")), (Some(61_441), Some(61_442)));
        assert_eq!(second.of["c"].before, (61_442, 1));
        assert_eq!((second.rule(61_442), second.rule(61_440)), (Some("c"), None));
    }

    #[test]
    fn tags_go_round_and_what_has_no_room_has_none() {
        let ids: Vec<String> = (0..5000).map(|n| format!("{n:04}")).collect();
        let full = Tags::default().after(ids.iter().map(String::as_str), nothing);
        assert_eq!((full.of.len(), full.get("4095"), full.get("4096")), (4096, Some(65_535), None));
        let none = full.after(std::iter::empty(), nothing);
        assert_eq!(none.after(["x"].into_iter(), nothing).get("x"), Some(61_440));
    }
}

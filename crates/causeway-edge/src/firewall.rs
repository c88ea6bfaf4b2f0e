//! The IP firewall of a zone: which clients its applications refuse. Compiled once per change, borrowed by `Arc`.
//!
//! Pure. Rules come in scopes, the narrowest first; in a scope addresses decide before AS numbers, those before
//! countries, and of addresses the most specific prefix. Knows nothing of connections.

mod allowed;
pub mod blobs;
pub mod flat;
pub mod geo;
pub mod list;
mod ranges;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use crate::clock::unix_ms;
use crate::snapshot::{self, Action, Ports, Target};
use blobs::{Blob, Blobs};
use ranges::Map;

/// What the rules say of a client; the names are those of Cloudflare's `ClientMatchedIpFirewall`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Matched {
    /// The application has no firewall.
    #[default]
    Unknown,
    /// No rule is about this client.
    Allow,
    BlockIp,
    BlockAsn,
    BlockCountry,
    WhitelistIp,
    WhitelistAsn,
    WhitelistCountry,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No rule.
    None,
    Allow,
    Block,
    /// As `Block`, and what is established ends too.
    Cut,
}

/// What kind of target decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    Address,
    Asn,
    Country,
}

/// Which rule decided, and what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    pub verdict: Verdict,
    by: By,
    scope: usize,
    rule: u32,
}

const NO_RULE: Judgement = Judgement { verdict: Verdict::None, by: By::Address, scope: 0, rule: 0 };

impl Verdict {
    pub fn is_refusal(self) -> bool {
        matches!(self, Verdict::Block | Verdict::Cut)
    }
}

impl From<Action> for Verdict {
    fn from(action: Action) -> Verdict {
        match action {
            Action::Allow => Verdict::Allow,
            Action::Block => Verdict::Block,
            Action::Cut => Verdict::Cut,
        }
    }
}

impl From<Judgement> for Matched {
    fn from(judgement: Judgement) -> Matched {
        match (judgement.verdict, judgement.by) {
            (Verdict::None, _) => Matched::Allow,
            (Verdict::Allow, By::Address) => Matched::WhitelistIp,
            (Verdict::Allow, By::Asn) => Matched::WhitelistAsn,
            (Verdict::Allow, By::Country) => Matched::WhitelistCountry,
            (_, By::Address) => Matched::BlockIp,
            (_, By::Asn) => Matched::BlockAsn,
            (_, By::Country) => Matched::BlockCountry,
        }
    }
}

/// How often a rule has decided (or would have), and when last; Unix time. Goes on when the rules around it change.
#[derive(Debug, Default)]
pub struct Hits {
    count: AtomicU64,
    last_ms: AtomicU64,
}

impl Hits {
    pub fn add(&self, more: u64) {
        self.count.fetch_add(more, Ordering::Relaxed);
        self.last_ms.store(unix_ms(), Ordering::Relaxed);
    }
}

/// A rule as a look-up finds it. Compared by prefix length, then by strength: allow beats cut beats block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Found {
    length: u8,
    action: Action,
    rule: u32,
}

#[derive(Debug)]
struct Scope {
    application: Option<u128>,
    ports: Option<Ports>,
    is_dry_run: bool,
    rules: Vec<(String, Arc<Hits>)>,
    direct: Map<Found>,
    lists: Vec<(Arc<Blob>, Action, u32)>,
    asn: HashMap<u32, Found>,
    country: HashMap<u32, Found>,
}

#[derive(Debug)]
pub struct Firewall {
    pub spec: snapshot::Firewall,
    scopes: Vec<Scope>,
    asn: Option<Arc<Blob>>,
    country: Option<Arc<Blob>>,
}

/// What the rules say of one client, for `causeway why-blocked`.
#[derive(Debug, Default, Serialize)]
pub struct Explanation {
    /// `allow`, `block` or `none`.
    pub verdict: &'static str,
    pub rule: Option<String>,
    pub by: Option<By>,
    /// Rules on trial that would have decided.
    pub dry_run: Vec<String>,
    pub asn: Option<u32>,
    pub country: Option<String>,
    /// For how long a limit of the application, or a detection, has banned it.
    pub banned_ms: u64,
    /// What attack was detected from it, if that is why.
    pub detected: Option<&'static str>,
}

impl Firewall {
    /// Counts of rules that `before` had go on.
    ///
    /// # Errors
    /// Which database or list is not here.
    pub fn new(spec: snapshot::Firewall, blobs: &mut Blobs, before: Option<&Firewall>) -> Result<Firewall, String> {
        let mut known: HashMap<&str, &Arc<Hits>> = HashMap::new();
        for scope in before.iter().flat_map(|before| &before.scopes) {
            known.extend(scope.rules.iter().map(|(id, hits)| (id.as_str(), hits)));
        }
        let scopes = spec.scopes.iter().map(|scope| Scope::new(scope, blobs, &known)).collect::<Result<_, String>>()?;
        let mut open = |digest: &Option<String>| digest.as_ref().map(|digest| blobs.open(digest)).transpose();
        let (asn, country) = (open(&spec.asn)?, open(&spec.country)?);
        Ok(Firewall { scopes, asn, country, spec })
    }

    /// Has it nothing to say, or to count, about this application?
    pub fn is_empty_for(&self, application: u128) -> bool {
        self.scopes.iter().all(|scope| !scope.is_for(application) || scope.rules.is_empty())
    }

    /// Does any rule end what is established?
    pub fn cuts(&self) -> bool {
        self.spec.scopes.iter().any(|s| !s.dry_run && s.rules.iter().any(|rule| rule.action == Action::Cut))
    }

    pub fn judge(&self, client: IpAddr, application: u128, port: u16) -> Judgement {
        let enforced = self.scopes.iter().enumerate().filter(|(_, scope)| !scope.is_dry_run);
        for (index, scope) in enforced.filter(|(_, scope)| scope.covers(application, port)) {
            if let Some((by, found)) = self.find(scope, client) {
                return Judgement { verdict: found.action.into(), by, scope: index, rule: found.rule };
            }
        }
        NO_RULE
    }

    /// As `judge`, for a flow that begins: the rules that decide, and those on trial that would, count it.
    pub fn admit(&self, client: IpAddr, application: u128, port: u16) -> Judgement {
        let judgement = self.judge(client, application, port);
        if judgement != NO_RULE {
            self.scopes[judgement.scope].count(judgement.rule);
        }
        for scope in self.scopes.iter().filter(|scope| scope.is_dry_run && scope.covers(application, port)) {
            if let Some((_, found)) = self.find(scope, client) {
                scope.count(found.rule);
            }
        }
        judgement
    }

    /// The id of a rule, and its count.
    pub fn rule(&self, (scope, rule): flat::RuleAt) -> (&str, &Arc<Hits>) {
        let (id, hits) = &self.scopes[scope].rules[rule as usize];
        (id, hits)
    }

    fn find(&self, scope: &Scope, client: IpAddr) -> Option<(By, Found)> {
        if let Some(found) = scope.by_address(client) {
            return Some((By::Address, found));
        }
        let of = |database: &Option<Arc<Blob>>, rules: &HashMap<u32, Found>| {
            if rules.is_empty() {
                return None;
            }
            let key = database.as_ref()?.geo()?.find(client)?;
            rules.get(&key).copied()
        };
        of(&self.asn, &scope.asn)
            .map(|found| (By::Asn, found))
            .or_else(|| of(&self.country, &scope.country).map(|found| (By::Country, found)))
    }

    pub fn explain(&self, client: IpAddr, application: u128, port: u16) -> Explanation {
        let judgement = self.judge(client, application, port);
        let id = |scope: &Scope, rule: u32| scope.rules[rule as usize].0.clone();
        let on_trial = self.scopes.iter().filter(|scope| scope.is_dry_run && scope.covers(application, port));
        let key = |database: &Option<Arc<Blob>>| database.as_ref()?.geo()?.find(client);
        Explanation {
            verdict: match judgement.verdict {
                Verdict::None => "none",
                Verdict::Allow => "allow",
                Verdict::Block | Verdict::Cut => "block",
            },
            rule: (judgement != NO_RULE).then(|| id(&self.scopes[judgement.scope], judgement.rule)),
            by: (judgement != NO_RULE).then_some(judgement.by),
            dry_run: on_trial.filter_map(|s| self.find(s, client).map(|(_, found)| id(s, found.rule))).collect(),
            asn: key(&self.asn),
            country: key(&self.country).map(geo::country_name),
            banned_ms: 0,
            detected: None,
        }
    }

    /// Rules that have decided something: id, how often, when last.
    pub fn hits(&self) -> impl Iterator<Item = (&str, u64, u64)> {
        let all = self.scopes.iter().flat_map(|scope| &scope.rules);
        all.map(|(id, hits)| (id.as_str(), hits.count.load(Ordering::Relaxed), hits.last_ms.load(Ordering::Relaxed)))
            .filter(|(_, count, _)| *count > 0)
    }
}

impl Scope {
    fn new(spec: &snapshot::Scope, blobs: &mut Blobs, known: &HashMap<&str, &Arc<Hits>>) -> Result<Scope, String> {
        let (mut lists, mut asn, mut country) = (Vec::new(), HashMap::new(), HashMap::new());
        let mut rules = Vec::with_capacity(spec.rules.len());
        for (index, rule) in spec.rules.iter().enumerate() {
            let (index, action) = (index as u32, rule.action);
            let stronger = |table: &mut HashMap<u32, Found>, key: u32| {
                let found = Found { length: 0, action, rule: index };
                table.entry(key).and_modify(|it| *it = found.max(*it)).or_insert(found);
            };
            match &rule.target {
                Target::Prefix(_) => {}
                Target::List(digest) => lists.push((blobs.open(digest)?, action, index)),
                Target::Asn(number) => stronger(&mut asn, *number),
                Target::Country(code) => stronger(&mut country, geo::country_key(code)?),
            }
            rules.push((rule.id.clone(), known.get(rule.id.as_str()).map_or_else(Arc::default, |it| (*it).clone())));
        }
        let direct = spec.rules.iter().enumerate().filter_map(|(index, rule)| match rule.target {
            Target::Prefix(prefix) => {
                let found = Found { length: prefix.length(), action: rule.action, rule: index as u32 };
                Some((prefix.first(), prefix.length(), found))
            }
            _ => None,
        });
        let direct = Map::new(direct);
        let application = spec.application.as_ref().map(|id| u128::from_str_radix(id, 16).unwrap_or_default());
        let (ports, is_dry_run) = (spec.ports, spec.dry_run);
        Ok(Scope { application, ports, is_dry_run, rules, direct, lists, asn, country })
    }

    fn is_for(&self, application: u128) -> bool {
        self.application.is_none_or(|id| id == application)
    }

    fn covers(&self, application: u128, port: u16) -> bool {
        self.is_for(application) && self.ports.is_none_or(|ports| (ports.first..=ports.last).contains(&port))
    }

    fn by_address(&self, client: IpAddr) -> Option<Found> {
        let listed = self.lists.iter().filter_map(|(list, action, rule)| {
            let length = list.list()?.find(client)?;
            Some(Found { length, action: *action, rule: *rule })
        });
        self.direct.find(client).into_iter().chain(listed).max()
    }

    fn count(&self, rule: u32) {
        self.rules[rule as usize].1.add(1);
    }
}

#[cfg(test)]
#[path = "firewall_tests.rs"]
mod tests;

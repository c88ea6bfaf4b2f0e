//! A plan of automatic mitigation, put in place of the one before as a whole, and kept for whoever follows.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use causeway_bpf::guard::{CookieConditions, Settings};

use super::kept::{self, Kept};
use super::policy::Automatic;
use super::tags::Tags;
use super::wire::{Hold, Plan, PlanReport, REST};
use super::{Guarding, Kernel, Mode, form, life, syncookies};

/// Of each processor; whoever looks takes an even share of what there is.
const SAMPLES_PER_S: u32 = 1000;

impl Guarding {
    /// Applications that have no engine behind them.
    pub fn know_without_engine(&mut self, applications: BTreeSet<String>) {
        self.without_engine = applications;
    }

    /// Applications whose SYNs are to be answered by cookies: whoever brings one back must find the stack.
    pub fn by_cookies(&self) -> BTreeSet<String> {
        let holds = self.automatic.values().map(|automatic| &automatic.hold);
        let answered = holds.filter(|hold| hold.cookies && self.can_take_cookies(&hold.application));
        answered.map(|hold| hold.application.clone()).collect()
    }

    pub(super) fn can_take_cookies(&self, application: &str) -> bool {
        application != REST && !self.without_engine.contains(application)
    }

    /// Is this to be had at all? A program that is being loaded is waited for.
    pub fn is_able(&mut self) -> bool {
        self.open();
        self.settle(true);
        matches!(self.kernel, Kernel::Has(_))
    }

    /// Make `plan` all that automatic mitigation asks for; in force with the next `follow`.
    pub fn take(&mut self, plan: Plan) {
        let ids = plan.rules.iter().map(|rule| rule.id.as_str());
        let tags = match &self.kernel {
            Kernel::Has(guard) => self.tags.after(ids, |tag| guard.hits(tag).unwrap_or_default()),
            _ => Tags::default(),
        };
        self.compile(plan, tags);
    }

    fn compile(&mut self, plan: Plan, tags: Tags) {
        let mut automatic: HashMap<String, Automatic> = HashMap::new();
        self.refused.clear();
        let mut seen = BTreeSet::new();
        for rule in &plan.rules {
            let made = match (seen.insert(&rule.id), tags.get(&rule.id)) {
                (false, _) => Err("another rule of the plan has this id".to_string()),
                (_, None) => Err("the kernel's counters have room for 4096 rules, these are more".to_string()),
                (_, Some(tag)) => form::kernel_rule(rule, tag),
            };
            match made {
                Ok(made) => automatic.entry(rule.application.clone()).or_default().rules.push((rule.id.clone(), made)),
                Err(reason) => self.refused.push((rule.id.clone(), reason)),
            }
        }
        let mut seen = BTreeSet::new();
        for hold in &plan.holds {
            if !seen.insert(&hold.application) {
                self.refused.push((hold.application.clone(), "the plan holds it twice: the first stands".into()));
                continue;
            }
            automatic.entry(hold.application.clone()).or_default().hold = hold.clone();
        }
        (self.automatic, self.plan, self.tags) = (automatic, plan, tags);
    }

    /// What holds for all listeners. While cookies are wanted the stack has to take them.
    pub(super) fn settings(&mut self, wants_cookies: bool) -> Settings {
        let cookies = match (wants_cookies, self.syncookies) {
            (true, _) => self.insist_on_cookies(),
            (false, Some(before)) => {
                // Clients that have been answered are still taken: the listeners remember for two minutes.
                if syncookies::put_back(before).is_ok() {
                    self.syncookies = None;
                }
                CookieConditions::default()
            }
            _ => CookieConditions::default(),
        };
        let sample_every = if self.is_wanting() { self.plan.sample_every } else { 0 };
        Settings { sample_every, samples_per_second: SAMPLES_PER_S, cookies, ..Settings::default() }
    }

    fn insist_on_cookies(&mut self) -> CookieConditions {
        match syncookies::insist() {
            Ok((conditions, before)) => {
                self.syncookies = self.syncookies.or(before);
                conditions
            }
            Err(reason) => {
                let by_cookies = self.by_cookies().into_iter();
                self.without_room.extend(by_cookies.map(|application| (application, reason.clone())));
                CookieConditions::default()
            }
        }
    }

    /// On disk; answers why not.
    pub fn keep_plan(&self) -> Option<String> {
        let at = self.kept_at.as_ref()?;
        if !self.plan.is_wanting() && self.syncookies.is_none() {
            kept::remove(at);
            return None;
        }
        let kept = Kept::new(self.plan.clone(), self.tags.clone(), self.syncookies);
        kept::write(at, &kept).err().map(|error| format!("{}: {error}", at.display()))
    }

    /// What an earlier process had in force.
    pub(super) fn remember(&mut self) {
        let Some(at) = &self.kept_at else { return };
        match kept::read(at) {
            Ok(None) => {}
            Ok(Some(kept)) => {
                self.syncookies = kept.syncookies;
                self.compile(kept.plan, kept.tags);
            }
            Err(reason) => {
                kept::remove(at);
                self.not_believed = Some(reason);
            }
        }
    }

    pub(super) fn forget(&mut self) {
        if let Some(at) = &self.kept_at {
            life::forget(at);
        }
        self.take(Plan::default());
        self.syncookies = None;
    }

    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    pub fn plan_report(&self) -> PlanReport {
        let mut refused: BTreeMap<String, String> = BTreeMap::new();
        let nobody = |application: &String| {
            let is_there = self.entries.contains_key(application);
            (!is_there).then(|| format!("{application} has no listener here on an address that others can reach"))
        };
        let rules = self.plan.rules.iter().map(|rule| (&rule.id, nobody(&rule.application)));
        let holds = self.plan.holds.iter().map(|hold| (&hold.application, nobody(&hold.application)));
        refused.extend(rules.chain(holds).filter_map(|(id, reason)| Some((id.clone(), reason?))));
        refused.extend(self.refused.iter().chain(&self.without_room).cloned());
        let in_vain = |hold: &&Hold| hold.cookies && !self.can_take_cookies(&hold.application);
        for hold in self.plan.holds.iter().filter(in_vain) {
            let reason = "cookies: only the kernel serves it, which has no connection for whoever brings one back";
            refused.insert(hold.application.clone(), reason.into());
        }
        if let Some(trouble) = &self.trouble {
            refused.extend(everything(&self.plan).map(|id| (id, format!("the kernel refused the change: {trouble}"))));
        }
        PlanReport { is_attached: self.is_attached(), refused }
    }

    /// Nothing of it can be had.
    pub fn refuse(&self, plan: &Plan) -> PlanReport {
        let reason = match self.mode {
            Mode::Off => "the guard is switched off (--guard off)".to_string(),
            _ => format!("this machine cannot: {}", self.missing()),
        };
        let refused = everything(plan).map(|id| (id, reason.clone())).collect();
        PlanReport { is_attached: false, refused }
    }
}

fn everything(plan: &Plan) -> impl Iterator<Item = String> {
    let rules = plan.rules.iter().map(|rule| rule.id.clone());
    rules.chain(plan.holds.iter().map(|hold| hold.application.clone()))
}

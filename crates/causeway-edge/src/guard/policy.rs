//! What is to hold of one application's packets, as one value. Pure.
//!
//! Three ask for something: the operator ([`Fixed`]), we ourselves (an amplifier's answer is nobody's first word), and
//! automatic mitigation ([`Automatic`]). Rules are asked in this order, the operator's first.

use std::ops::RangeInclusive;

use causeway_bpf::guard::{Action, Listener, Mode, Rate, Rule, Wants};

use super::wire;
use crate::snapshot::Ports;

/// Of rules of a plan.
pub const AUTOMATIC_TAGS: RangeInclusive<u16> = 61_440..=65_535;
/// Of rules that stand here.
pub const OWN_TAGS: RangeInclusive<u16> = 61_184..=61_439;
/// Of bans, as many as there can be; the operator's are below them.
pub const BAN_TAGS: RangeInclusive<u16> = 57_088..=61_183;
const MOST_RULES: usize = 128;
const MOST_RATES: usize = 4;
const UDP: u8 = 17;

/// Services that answer strangers with more than they were asked, by the port that they answer from.
const AMPLIFIERS: [(u16, &str); 16] = [
    (17, "qotd"),
    (19, "chargen"),
    (53, "dns"),
    (111, "portmap"),
    (123, "ntp"),
    (137, "netbios"),
    (161, "snmp"),
    (389, "cldap"),
    (427, "slp"),
    (1900, "ssdp"),
    (3283, "ard"),
    (3702, "wsd"),
    (5353, "mdns"),
    (5683, "coap"),
    (10_001, "ubiquiti"),
    (11_211, "memcached"),
];

/// What the operator asks for; the same for as long as the snapshot is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fixed {
    /// Has packets judged although nothing automatic wants that.
    pub is_wanting: bool,
    /// Slots of prefix sets, whose content is in place before they are named here; at most two.
    pub sets: Vec<u16>,
    pub rates: Vec<Rate>,
    pub rules: Vec<Rule>,
    pub wants: Wants,
}

/// What a plan has for an application.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Automatic {
    pub hold: wire::Hold,
    pub rules: Vec<(String, Rule)>,
}

/// What an application is, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// None: it stands for what belongs to no application.
    pub is_tcp: Option<bool>,
    pub ports: Vec<Ports>,
}

/// All that the kernel has of an application but its ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    pub mode: Mode,
    pub wants: Wants,
    pub sets: Vec<u16>,
    pub rates: Vec<Rate>,
    pub rules: Vec<Rule>,
    pub bans: Option<u16>,
}

impl Held {
    /// `rates`: the slots in which its own are.
    pub fn listener(&self, rates: Vec<u16>) -> Listener {
        Listener { mode: self.mode, wants: self.wants, sets: self.sets.clone(), rates, bans: self.bans }
    }
}

/// What cannot be had: the rule, or the application of a hold, and why.
pub type Refused = Vec<(String, String)>;

/// Put together what holds of an application whose packets are judged.
pub fn held(of: &Subject, fixed: &Fixed, automatic: &Automatic) -> (Held, Refused) {
    let hold = &automatic.hold;
    let mut refused = Refused::new();
    let mut rules = fixed.rules.clone();
    rules.extend(against_amplifiers(of));
    for (id, rule) in &automatic.rules {
        if rules.len() < MOST_RULES {
            rules.push(rule.clone());
        } else {
            refused
                .push((id.clone(), format!("the kernel takes {MOST_RULES} rules of an application, these are more")));
        }
    }
    let mut rates = fixed.rates.clone();
    for rate in &hold.rates {
        let rate = Rate {
            of: rate.of.into(),
            length_v4: rate.ipv4,
            length_v6: rate.ipv6,
            per_second: rate.per_s,
            burst: rate.burst,
            spares_returning: rate.spares_returning,
        };
        match rate.check() {
            _ if rates.len() == MOST_RATES => {
                let had = fixed.rates.len();
                let reason =
                    format!("the kernel takes {MOST_RATES} rates of an application, and {had} are the operator's");
                refused.push((hold.application.clone(), reason));
            }
            Err(error) => refused.push((hold.application.clone(), error.to_string())),
            Ok(()) => rates.push(rate),
        }
    }
    let wants = Wants {
        cookies: hold.cookies || fixed.wants.cookies,
        state: hold.state || fixed.wants.state,
        no_fragments: hold.no_fragments || fixed.wants.no_fragments,
        ..fixed.wants
    };
    (Held { mode: Mode::Protect, wants, sets: fixed.sets.clone(), rates, rules, bans: None }, refused)
}

impl From<wire::RateOf> for causeway_bpf::guard::RateOf {
    fn from(of: wire::RateOf) -> causeway_bpf::guard::RateOf {
        match of {
            wire::RateOf::Syns => Self::Syns,
            wire::RateOf::Packets => Self::Packets,
            wire::RateOf::Bytes => Self::Bytes,
        }
    }
}

/// An answer to a question that nobody asked. Who serves such a port itself gets datagrams from there: servers ask each other.
fn against_amplifiers(of: &Subject) -> impl Iterator<Item = Rule> {
    let is_its_own = |port: u16| of.ports.iter().any(|ports| (ports.first..=ports.last).contains(&port));
    let amplifiers = AMPLIFIERS.iter().zip(OWN_TAGS);
    amplifiers.filter(move |((port, _), _)| of.is_tcp == Some(false) && !is_its_own(*port)).map(|((port, _), tag)| {
        Rule { action: Action::Drop, tag, protocol: Some(UDP), source_ports: Some(*port..=*port), ..Rule::default() }
    })
}

/// What a rule of ours is called.
pub fn own_rule(tag: u16) -> Option<String> {
    let at = tag.checked_sub(*OWN_TAGS.start())?;
    AMPLIFIERS.get(usize::from(at)).map(|(_, name)| format!("amplifier-{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn udp(first: u16, last: u16) -> Subject {
        Subject { is_tcp: Some(false), ports: vec![Ports { first, last }] }
    }

    fn held_by(of: &Subject, automatic: &Automatic) -> (Held, Refused) {
        held(of, &Fixed::default(), automatic)
    }

    #[test]
    fn datagrams_of_amplifiers_are_dropped_but_where_such_a_service_is_behind() {
        let ports = |of: &Subject| -> Vec<u16> {
            let rules = held_by(of, &Automatic::default()).0.rules;
            rules.iter().filter_map(|rule| rule.source_ports.clone()).map(|ports| *ports.start()).collect()
        };
        assert_eq!(ports(&udp(7000, 7000)).len(), AMPLIFIERS.len());
        assert!(!ports(&udp(50, 60)).contains(&53) && ports(&udp(50, 60)).contains(&123));
        assert!(ports(&Subject { is_tcp: Some(true), ..udp(7000, 7000) }).is_empty());
        assert!(ports(&Subject::default()).is_empty(), "answers to this machine's own questions are among those");
        assert_eq!(own_rule(61_186), Some("amplifier-dns".into()));
        assert_eq!((own_rule(61_200), own_rule(3)), (None, None));
    }

    fn wire_rate(of: wire::RateOf, per_s: u64) -> wire::Rate {
        wire::Rate { of, ipv4: 24, ipv6: 56, per_s, burst: 20, spares_returning: false }
    }

    #[test]
    fn the_operators_rules_and_rates_come_first_and_what_has_no_room_says_so() {
        let rate = wire_rate(wire::RateOf::Syns, 10);
        let (of, spares_returning) = (rate.of.into(), false);
        let fixed = Fixed {
            rates: vec![Rate { of, length_v4: 32, length_v6: 64, per_second: 1, burst: 1, spares_returning }; 3],
            rules: vec![Rule { tag: 7, ..Rule::default() }; 126],
            ..Fixed::default()
        };
        let rules = (0..3).map(|n| (format!("r{n}"), Rule { tag: 61_440 + n, ..Rule::default() })).collect();
        let hold = wire::Hold { application: "a".into(), state: true, rates: vec![rate; 2], ..wire::Hold::default() };
        let of = Subject { is_tcp: Some(true), ..Subject::default() };
        let (held, refused) = held(&of, &fixed, &Automatic { hold, rules });
        assert_eq!((held.rules[0].tag, held.rules[127].tag, held.rules.len()), (7, 61_441, 128));
        assert_eq!((held.rates.len(), held.wants), (4, Wants { state: true, ..Wants::default() }));
        let refused: Vec<&str> = refused.iter().map(|(id, _)| id.as_str()).collect();
        assert_eq!(refused, ["r2", "a"]);
    }

    #[test]
    fn a_rate_that_lets_nothing_pass_is_refused_and_the_rest_of_the_hold_stands() {
        let rate = wire_rate(wire::RateOf::Bytes, 0);
        let hold =
            wire::Hold { application: "a".into(), no_fragments: true, rates: vec![rate], ..wire::Hold::default() };
        let (held, refused) = held_by(&udp(1, 1), &Automatic { hold, rules: Vec::new() });
        assert!(held.wants.no_fragments && held.rates.is_empty());
        assert!(refused[0].1.contains("nothing would pass"), "{refused:?}");
    }

    #[test]
    fn only_a_rate_of_all_together_can_spare_those_who_come_back() {
        let told = |ipv4, ipv6| {
            let rate = wire::Rate { ipv4, ipv6, spares_returning: true, ..wire_rate(wire::RateOf::Packets, 10) };
            let hold = wire::Hold { application: "a".into(), rates: vec![rate], ..wire::Hold::default() };
            let (held, refused) = held_by(&udp(1, 1), &Automatic { hold, rules: Vec::new() });
            (held.rates.len(), refused.len())
        };
        assert_eq!((told(0, 0), told(24, 0), told(0, 56)), ((1, 0), (0, 1), (0, 1)));
    }
}

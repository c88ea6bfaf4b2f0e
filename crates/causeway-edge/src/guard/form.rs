//! From a rule as a plan says it to a rule as the kernel reads it. Pure.

use std::ops::RangeInclusive;

use causeway_bpf::guard::{Action, MAX_PATTERN, Pattern, Prefix, Rule};

use super::wire;

/// Why a rule cannot be had.
type Why = String;

/// # Errors
/// What is wrong with the rule, with the value.
pub fn kernel_rule(of: &wire::Rule, tag: u16) -> Result<Rule, Why> {
    let fits = &of.fits;
    let rule = Rule {
        action: match of.action {
            wire::Action::Drop => Action::Drop,
            wire::Action::Pass => Action::Pass,
            wire::Action::Watch => Action::Watch,
        },
        tag,
        expires_ns: of.expires_ms.map(|ms| ms.saturating_mul(1_000_000)),
        is_ipv6: fits.is_ipv6,
        protocol: fits.protocol.map(|number| narrow("protocol", number)).transpose()?,
        source: fits.source.as_deref().map(prefix).transpose()?,
        destination: fits.destination.as_deref().map(prefix).transpose()?,
        source_ports: fits.source_ports.map(|range| span("source_ports", range)).transpose()?,
        destination_ports: fits.destination_ports.map(|range| span("destination_ports", range)).transpose()?,
        length: fits.length.map(|range| span("length", range)).transpose()?,
        hops: fits.hops.map(|range| span("hops", range)).transpose()?,
        flags: match fits.flags {
            Some((mask, value)) => Some((narrow("flags", mask)?, narrow("flags", value)?)),
            None => None,
        },
        window: fits.window.map(|range| span("window", range)).transpose()?,
        mss: fits.mss.map(|range| span("mss", range)).transpose()?,
        fingerprint: fits.fingerprint,
        has_zero_id: fits.has_zero_id,
        is_fragment: fits.is_fragment,
        payload: fits.payload.as_ref().map(pattern).transpose()?,
    };
    if rule.protocol == Some(0) {
        return Err("protocol 0 is no protocol of packets: leave it out for any".into());
    }
    rule.check().map_err(|error| error.to_string())?;
    Ok(rule)
}

fn narrow<T: TryFrom<u32>>(what: &str, number: u32) -> Result<T, Why> {
    let bits = size_of::<T>() * 8;
    T::try_from(number).map_err(|_| format!("{what} {number}: a number of {bits} bits is expected"))
}

fn span<T: TryFrom<u32>>(what: &str, (first, last): wire::Range) -> Result<RangeInclusive<T>, Why> {
    if first > last {
        return Err(format!("{what} {first} to {last}: no number is in it"));
    }
    Ok(narrow(what, first)?..=narrow(what, last)?)
}

fn prefix(text: &str) -> Result<Prefix, Why> {
    text.parse().map_err(|error: causeway_bpf::guard::NoPrefix| error.to_string())
}

fn pattern(of: &wire::Payload) -> Result<Pattern, Why> {
    let (bytes, mask) = (hex(&of.bytes)?, hex(&of.mask)?);
    if bytes.is_empty() || bytes.len() > MAX_PATTERN || bytes.len() != mask.len() {
        let (bytes, mask) = (bytes.len(), mask.len());
        return Err(format!("payload of {bytes} bytes with a mask of {mask}: 1 to {MAX_PATTERN}, as many of each"));
    }
    Ok(Pattern { at: narrow("payload at", of.at)?, bytes, mask })
}

fn hex(text: &str) -> Result<Vec<u8>, Why> {
    let digits: Option<Vec<u8>> = text.chars().map(|digit| digit.to_digit(16).map(|digit| digit as u8)).collect();
    match digits {
        Some(digits) if digits.len() % 2 == 0 => Ok(digits.chunks_exact(2).map(|two| two[0] << 4 | two[1]).collect()),
        _ => Err(format!("payload {text:?} is not hexadecimal")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(fits: &str) -> Result<Rule, Why> {
        let text = format!(r#"{{"id":"r","application":"a","action":"drop","match":{fits},"expires_ms":7}}"#);
        kernel_rule(&serde_json::from_str(&text).unwrap(), 9)
    }

    #[test]
    fn all_that_a_rule_says_reaches_the_kernel() {
        let rule = made(
            r#"{"protocol":6,"is_ipv6":false,"source":"198.51.100.0/24","destination":"192.0.2.1","source_ports":[1,2],
                "destination_ports":[3,3],"length":[40,1500],"hops":[1,64],"flags":[63,2],"window":[0,65535],"mss":[0,0],
                "fingerprint":4294967295,"has_zero_id":true,"is_fragment":true,
                "payload":{"at":4,"bytes":"00fF","mask":"ffff"}}"#,
        );
        let wanted = Rule {
            action: Action::Drop,
            tag: 9,
            expires_ns: Some(7_000_000),
            is_ipv6: Some(false),
            protocol: Some(6),
            source: "198.51.100.0/24".parse().ok(),
            destination: "192.0.2.1".parse().ok(),
            source_ports: Some(1..=2),
            destination_ports: Some(3..=3),
            length: Some(40..=1500),
            hops: Some(1..=64),
            flags: Some((63, 2)),
            window: Some(0..=65535),
            mss: Some(0..=0),
            fingerprint: Some(u32::MAX),
            has_zero_id: true,
            is_fragment: true,
            payload: Some(Pattern { at: 4, bytes: vec![0, 255], mask: vec![255, 255] }),
        };
        assert_eq!(rule, Ok(wanted));
        assert_eq!(made("{}"), Ok(Rule { tag: 9, expires_ns: Some(7_000_000), ..Rule::default() }));
    }

    #[test]
    fn a_rule_that_makes_no_sense_says_which_part_and_what_would() {
        for (fits, why) in [
            (r#"{"protocol":256}"#, "protocol 256: a number of 8 bits"),
            (r#"{"protocol":0}"#, "leave it out"),
            (r#"{"source":"198.51.100.1/24"}"#, "198.51.100.0 would be the prefix"),
            (r#"{"source_ports":[2,1]}"#, "source_ports 2 to 1"),
            (r#"{"hops":[1,300]}"#, "hops 300"),
            (r#"{"flags":[2,18]}"#, "beyond their mask"),
            (r#"{"is_ipv6":true,"source":"192.0.2.1"}"#, "two families"),
            (r#"{"payload":{"at":0,"bytes":"0","mask":"ff"}}"#, "not hexadecimal"),
            (r#"{"payload":{"at":0,"bytes":"0é","mask":"ff"}}"#, "not hexadecimal"),
            (r#"{"payload":{"at":0,"bytes":"00ff","mask":"ff"}}"#, "2 bytes with a mask of 1"),
            (r#"{"payload":{"at":70000,"bytes":"00","mask":"ff"}}"#, "payload at 70000"),
        ] {
            let reason = made(fits).unwrap_err();
            assert!(reason.contains(why), "{fits}: {reason}");
        }
    }
}

//! Listeners of the stack take cookies, whoever has sent them, while `net.ipv4.tcp_syncookies` is 2: then every SYN that
//! goes through to them is answered with one. Set while the guard answers SYNs, and put back after.

use std::io;

use causeway_bpf::guard::CookieConditions;

const SETTING: &str = "/proc/sys/net/ipv4/tcp_syncookies";

/// Have cookies taken. Answers the conditions, and what the setting was before if that was another.
///
/// # Errors
/// Why cookies cannot be taken, and what to do.
pub fn insist() -> Result<(CookieConditions, Option<u8>), String> {
    let conditions = CookieConditions::here().map_err(|error| format!("cookies: {error}"))?;
    if conditions.is_taken {
        return Ok((conditions, None));
    }
    let before = std::fs::read_to_string(SETTING).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1);
    std::fs::write(SETTING, "2")
        .map_err(|error| format!("cookies: set net.ipv4.tcp_syncookies=2, which this process cannot ({error})"))?;
    Ok((CookieConditions { is_taken: true, ..conditions }, Some(before)))
}

/// # Errors
/// The kernel's.
pub fn put_back(before: u8) -> io::Result<()> {
    std::fs::write(SETTING, before.to_string())
}

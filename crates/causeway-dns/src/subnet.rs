//! The client's network as a resolver tells it (EDNS Client Subnet, RFC 7871).

use std::net::IpAddr;

use hickory_proto::op::Edns;
use hickory_proto::rr::rdata::opt::{ClientSubnet, EdnsCode, EdnsOption};

#[derive(Debug, PartialEq, Eq)]
pub struct Malformed;

/// # Errors
/// More than one, a scope in a question, or bits beyond its length: to be refused by the standard (7.1.2, 7.2.1).
pub fn subnet(edns: &Edns) -> Result<Option<ClientSubnet>, Malformed> {
    match edns.options().get_all(EdnsCode::Subnet).as_slice() {
        [] => Ok(None),
        [EdnsOption::Subnet(told)] if told.scope_prefix() == 0 && is_within(told.addr(), told.source_prefix()) => {
            Ok(Some(*told))
        }
        _ => Err(Malformed),
    }
}

/// Whether all bits of the address that are beyond the prefix are 0.
fn is_within(address: IpAddr, prefix_bits: u8) -> bool {
    let (bits, width) = match address {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, 32),
        IpAddr::V6(v6) => (v6.to_bits(), 128),
    };
    prefix_bits <= width && bits.checked_shl(u32::from(prefix_bits)).unwrap_or(0) == 0
}

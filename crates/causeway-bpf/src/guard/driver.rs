//! What a driver does with packets that an XDP program answers by `XDP_TX`.

use std::io;

use crate::netlink::{Attributes, Netlink};

const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const GENERIC_FAMILIES: u16 = 16; // GENL_ID_CTRL
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
const GET_DEVICE: u8 = 1; // Documentation/netlink/specs/netdev.yaml
const DEVICE_INTERFACE: u16 = 1;
const DEVICE_XDP_FEATURES: u16 = 3;
const TAKES_FRAMES: u64 = 1 << 2; // NETDEV_XDP_ACT_NDO_XMIT

/// Those of one network namespace.
#[derive(Debug)]
pub(super) struct Drivers {
    route: Netlink,
    /// The netdev family and who is asked for it; none before kernel 6.3.
    generic: Option<(Netlink, u16)>,
}

impl Drivers {
    /// Of the calling thread's network namespace.
    pub fn here() -> io::Result<Drivers> {
        let generic = Netlink::new(libc::NETLINK_GENERIC).ok().and_then(|generic| {
            let id = family(&generic, "netdev")?;
            Some((generic, id))
        });
        Ok(Drivers { route: Netlink::new(libc::NETLINK_ROUTE)?, generic })
    }

    /// Would an answer be lost? Of a veth it is, without a word, unless its other end has a program or GRO (`veth_xdp_xmit`
    /// of drivers/net/veth.c). Where the kernel cannot tell, so it may be.
    pub fn is_mute(&self, interface: u32) -> bool {
        let is_veth = self.kind(interface).is_ok_and(|kind| kind.as_deref() == Some("veth"));
        is_veth && self.features(interface).unwrap_or(0) & TAKES_FRAMES == 0
    }

    fn kind(&self, interface: u32) -> io::Result<Option<String>> {
        let mut head = [0u8; 16]; // struct ifinfomsg
        head[4..8].copy_from_slice(&interface.to_ne_bytes());
        let told = self.route.ask(libc::RTM_GETLINK, 0, &head, &Attributes::default())?;
        let kind = |of: &Attributes| of.all(IFLA_LINKINFO).text(IFLA_INFO_KIND).map(String::from);
        Ok(told.first().and_then(|(_, link)| kind(link)))
    }

    fn features(&self, interface: u32) -> Option<u64> {
        let (generic, family) = self.generic.as_ref()?;
        let asked = Attributes::default().with(DEVICE_INTERFACE, &interface.to_ne_bytes());
        let told = generic.ask(*family, 0, &[GET_DEVICE, 1, 0, 0], &asked).ok()?;
        let (_, device) = told.first()?;
        Some(u64::from_ne_bytes(device.get(DEVICE_XDP_FEATURES)?.try_into().ok()?))
    }
}

fn family(generic: &Netlink, name: &str) -> Option<u16> {
    let asked = Attributes::default().with_text(FAMILY_NAME, name);
    let told = generic.ask(GENERIC_FAMILIES, 0, &[GET_FAMILY, 1, 0, 0], &asked).ok()?;
    let (_, family) = told.first()?;
    Some(u16::from_ne_bytes(family.get(FAMILY_ID)?.try_into().ok()?))
}

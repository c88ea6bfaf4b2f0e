//! From which of this machine's addresses an origin is reached: in turn, and past those whose ports are used up.
//!
//! A source address has as many ports towards one origin as net.ipv4.ip_local_port_range holds; each more doubles it.
//! With none configured the kernel chooses, and that costs no call.

use std::io;
use std::net::{IpAddr, SocketAddr};

use crate::event::Cause;

#[derive(Debug, Default)]
pub struct Sources {
    v4: Vec<IpAddr>,
    v6: Vec<IpAddr>,
}

impl Sources {
    pub fn new(addresses: &[IpAddr]) -> Sources {
        let (v4, v6) = addresses.iter().partition(|address| address.is_ipv4());
        Sources { v4, v6 }
    }

    /// Those that can reach `origin`; none: the kernel chooses.
    pub fn towards(&self, origin: SocketAddr) -> &[IpAddr] {
        if origin.is_ipv4() { &self.v4 } else { &self.v6 }
    }

    /// Connect with `attempt`, from the next address that has a port left. `turn` is the caller's place in the circle.
    ///
    /// # Errors
    /// What `attempt` said: of the first failure that another address cannot cure, or once all have failed.
    pub fn connect<T>(
        &self,
        origin: SocketAddr,
        turn: &mut usize,
        mut attempt: impl FnMut(Option<IpAddr>) -> Result<T, Cause>,
    ) -> Result<T, Cause> {
        let addresses = self.towards(origin);
        if addresses.is_empty() {
            return attempt(None);
        }
        let mut failure = Cause::SourceMissing;
        for _ in addresses {
            *turn = turn.wrapping_add(1);
            match attempt(Some(addresses[*turn % addresses.len()])) {
                Err(Cause::SourceMissing) => {}
                // That ports are used up tells more than that another address is missing.
                Err(Cause::PortsExhausted) => failure = Cause::PortsExhausted,
                other => return other,
            }
        }
        Err(failure)
    }
}

/// Why a source address could not be taken, if that is about the address.
pub fn cause(error: &io::Error) -> Option<Cause> {
    match error.raw_os_error() {
        Some(libc::EADDRNOTAVAIL) => Some(Cause::SourceMissing),
        Some(libc::EADDRINUSE) => Some(Cause::PortsExhausted), // UDP takes its port with the address
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(texts: &[&str]) -> Sources {
        Sources::new(&texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>())
    }

    #[test]
    fn addresses_take_turns_and_each_family_has_its_own() {
        let sources = sources(&["192.0.2.1", "2001:db8::1", "192.0.2.2"]);
        let mut turn = 0;
        let mut next = |origin: &str| {
            let chosen = sources.connect(origin.parse().unwrap(), &mut turn, Ok).unwrap();
            chosen.map(|address| address.to_string())
        };
        let v4 = [next("198.51.100.1:1"), next("198.51.100.1:1"), next("198.51.100.1:1")].map(Option::unwrap);
        assert_eq!(v4, ["192.0.2.2", "192.0.2.1", "192.0.2.2"]);
        assert_eq!(next("[2001:db8::9]:1").as_deref(), Some("2001:db8::1"));
        assert_eq!(Sources::default().connect("198.51.100.1:1".parse().unwrap(), &mut 0, Ok), Ok(None));
    }

    #[test]
    fn the_next_is_tried_only_for_what_it_can_cure() {
        let sources = sources(&["192.0.2.1", "192.0.2.2", "192.0.2.3"]);
        type Answer = Result<(), Cause>;
        let cases: [(&[Answer], Answer, usize); 4] = [
            (&[Err(Cause::PortsExhausted), Err(Cause::SourceMissing), Ok(())], Ok(()), 3),
            (
                &[Err(Cause::PortsExhausted), Err(Cause::SourceMissing), Err(Cause::SourceMissing)],
                Err(Cause::PortsExhausted),
                3,
            ),
            (&[Err(Cause::SourceMissing); 3], Err(Cause::SourceMissing), 3),
            (&[Err(Cause::ConnectUnreachable)], Err(Cause::ConnectUnreachable), 1),
        ];
        for (answers, expected, attempts) in cases {
            let mut made = 0;
            let result = sources.connect("198.51.100.1:1".parse().unwrap(), &mut 0, |_| {
                made += 1;
                answers[made - 1]
            });
            assert_eq!((result, made), (expected, attempts), "{answers:?}");
        }
    }
}

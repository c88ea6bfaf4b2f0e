//! The least program over `BPF_MAP_TYPE_LPM_TRIE`: an IPv4 source that is in the trie is dropped, all else passes. To be
//! measured beside the guard; written in instructions, because bpf/ holds only what an edge loads.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use causeway_bpf::guard::Prefix;

const MAP_CREATE: libc::c_long = 0;
const MAP_UPDATE: libc::c_long = 2;
const PROG_LOAD: libc::c_long = 5;
const OBJ_INFO: libc::c_long = 15;
const LINK_CREATE: libc::c_long = 28;
const ENABLE_STATS: libc::c_long = 32;
const LPM_TRIE: u32 = 11;
const NO_PREALLOC: u32 = 1;
const XDP: u32 = 6;
const ATTACH_XDP: u32 = 37;
const NATIVE: u32 = 4;
const RUN_TIME_NS: usize = 24;
const RUN_COUNT: usize = 25;

fn call<T>(command: libc::c_long, attributes: &mut T) -> io::Result<i32> {
    // SAFETY: attributes of their own size, whose addresses are of values that outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

fn descriptor<T>(command: libc::c_long, attributes: &mut T) -> io::Result<OwnedFd> {
    let fd = call(command, attributes)?;
    // SAFETY: the kernel just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn instruction(code: u8, to: u8, from: u8, offset: i16, number: i32) -> u64 {
    u64::from(code)
        | u64::from(to) << 8
        | u64::from(from) << 12
        | u64::from(offset as u16) << 16
        | u64::from(number as u32) << 32
}

pub struct Trie {
    _map: OwnedFd,
    program: OwnedFd,
}

impl Trie {
    /// # Errors
    /// The kernel's.
    pub fn new(prefixes: &[Prefix]) -> io::Result<Trie> {
        let map = descriptor(MAP_CREATE, &mut [LPM_TRIE, 8, 4, prefixes.len() as u32, NO_PREALLOC])?;
        for prefix in prefixes {
            let IpAddr::V4(address) = prefix.address() else { continue };
            let key = (u32::from(prefix.length()), address.octets());
            let mut bytes = [0u8; 8];
            bytes[..4].copy_from_slice(&key.0.to_ne_bytes());
            bytes[4..].copy_from_slice(&key.1);
            let value = 1u32;
            let places = [std::ptr::from_ref(&bytes) as u64, std::ptr::from_ref(&value) as u64];
            call(MAP_UPDATE, &mut [map.as_raw_fd() as u64, places[0], places[1], 0])?;
        }
        let i = instruction;
        let program = [
            i(0x61, 2, 1, 0, 0),   // r2 = data
            i(0x61, 3, 1, 4, 0),   // r3 = data_end
            i(0xbf, 4, 2, 0, 0),   // an Ethernet and an IPv4 header are there,
            i(0x07, 4, 0, 0, 34),  //
            i(0x2d, 4, 3, 13, 0),  // or it passes
            i(0x69, 5, 2, 12, 0),  // r5 = type of the frame
            i(0x55, 5, 0, 11, 8),  // not IPv4: passes
            i(0x61, 5, 2, 26, 0),  // r5 = source
            i(0x63, 10, 5, -4, 0), // the key
            i(0x62, 10, 0, -8, 32),
            i(0x18, 1, 1, 0, map.as_raw_fd()),
            0,
            i(0xbf, 2, 10, 0, 0),
            i(0x07, 2, 0, 0, -8),
            i(0x85, 0, 0, 0, 1), // look it up
            i(0x15, 0, 0, 2, 0), // not there: passes
            i(0xb7, 0, 0, 0, 1), // XDP_DROP
            i(0x95, 0, 0, 0, 0),
            i(0xb7, 0, 0, 0, 2), // XDP_PASS
            i(0x95, 0, 0, 0, 0),
        ];
        let license = c"GPL";
        let head = u64::from(XDP) | (program.len() as u64) << 32;
        let mut attributes = [head, program.as_ptr() as u64, license.as_ptr() as u64, 0, 0, 0];
        let program = descriptor(PROG_LOAD, &mut attributes)?;
        Ok(Trie { _map: map, program })
    }

    /// Natively. It stays for as long as what this answers.
    ///
    /// # Errors
    /// The kernel's.
    pub fn attach(&self, interface: u32) -> io::Result<OwnedFd> {
        descriptor(LINK_CREATE, &mut [self.program.as_raw_fd() as u32, interface, ATTACH_XDP, NATIVE])
    }

    /// How often it ran while `act` did, and for how many ns in all.
    ///
    /// # Errors
    /// The kernel's.
    pub fn timed(&self, act: impl FnOnce()) -> io::Result<(u64, u64)> {
        let _timing = descriptor(ENABLE_STATS, &mut [0u32; 2])?;
        let before = self.time()?;
        act();
        let after = self.time()?;
        Ok((after.0 - before.0, after.1 - before.1))
    }

    fn time(&self) -> io::Result<(u64, u64)> {
        let mut about = [0u64; 32];
        let head = self.program.as_raw_fd() as u64 | (size_of_val(&about) as u64) << 32;
        let place = std::ptr::from_mut(&mut about) as u64;
        call(OBJ_INFO, &mut [head, place])?;
        Ok((about[RUN_COUNT], about[RUN_TIME_NS]))
    }
}

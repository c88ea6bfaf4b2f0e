//! The program, and BPF_PROG_TEST_RUN with live frames (kernel 5.18).

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use aya::maps::Array;
use aya::programs::{Xdp, XdpMode};
use aya::{Ebpf, Pod};

use crate::frame::Job;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/flood.bpf.o"));
const PROG_TEST_RUN: libc::c_long = 10;
const LIVE_FRAMES: u32 = 1 << 1;
/// The kernel takes nothing else up on the processor meanwhile.
const MOST_BATCH: u64 = 64;
const BATCHES_PER_S: u64 = 16_000;

// SAFETY: plain numbers, no padding, any bit pattern is valid.
unsafe impl Pod for Job {}

/// Mirrors `struct pace` of flood.bpf.c.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Pace {
    packet_ps: u64,
    due: u64,
    part_ps: u64,
}

// SAFETY: as above.
unsafe impl Pod for Pace {}

/// The beginning of `union bpf_attr` for a trial run.
#[repr(C)]
#[derive(Default)]
struct Trial {
    program: u32,
    result: u32,
    data_in_bytes: u32,
    data_out_bytes: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_in_bytes: u32,
    context_out_bytes: u32,
    context_in: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
    batch: u32,
    unused: u32,
}

/// Have the program of that name take all that comes in by an interface, until stdin ends.
pub fn stand(name: &str, interface: u32) -> io::Result<()> {
    let mut object = load()?;
    let xdp: &mut Xdp = find(&mut object, name)?;
    xdp.load().map_err(|error| io::Error::other(format!("{error:?}")))?;
    let _link = xdp.attach_to_if_index(interface, XdpMode::Driver).map_err(io::Error::other)?;
    println!("{{\"ready\":true}}");
    io::stdin().read_line(&mut String::new()).map(drop)
}

fn load() -> io::Result<Ebpf> {
    if OBJECT.is_empty() {
        return Err(io::Error::other("it was built without clang or libbpf-dev: install them and build again"));
    }
    Ebpf::load(OBJECT).map_err(io::Error::other)
}

fn find<'a>(object: &'a mut Ebpf, name: &str) -> io::Result<&'a mut Xdp> {
    let program = object.program_mut(name).ok_or(io::ErrorKind::NotFound)?;
    program.try_into().map_err(|error| io::Error::other(format!("{error}")))
}

pub struct Flood {
    program: Ebpf,
    frame: Vec<u8>,
    batch: u32,
}

impl Flood {
    /// `rate`: packets a second that the kernel spreads evenly over a call, counting the time; 0: as many as it can.
    pub fn new(frame: &[u8], job: &Job, rate: u64) -> io::Result<Flood> {
        let mut program = load()?;
        let mut jobs: Array<_, Job> =
            Array::try_from(program.map_mut("jobs").ok_or(io::ErrorKind::NotFound)?).map_err(io::Error::other)?;
        jobs.set(0, *job, 0).map_err(io::Error::other)?;
        let mut paces: Array<_, Pace> =
            Array::try_from(program.map_mut("paces").ok_or(io::ErrorKind::NotFound)?).map_err(io::Error::other)?;
        let packet_ps = 1_000_000_000_000u64.checked_div(rate).unwrap_or(0);
        paces.set(0, Pace { packet_ps, ..Pace::default() }, 0).map_err(io::Error::other)?;
        let xdp = find(&mut program, "flood")?;
        xdp.load().map_err(|error| io::Error::other(format!("{error:?}")))?;
        let batch = if rate == 0 { MOST_BATCH } else { (rate / BATCHES_PER_S).clamp(1, MOST_BATCH) };
        Ok(Flood { program, frame: frame.to_vec(), batch: batch as u32 })
    }

    pub fn send(&self, packets: u32) -> io::Result<()> {
        let xdp: &Xdp = match self.program.program("flood").map(TryInto::try_into) {
            Some(Ok(xdp)) => xdp,
            _ => return Err(io::ErrorKind::NotFound.into()),
        };
        let program = xdp.fd().map_err(io::Error::other)?.as_fd().as_raw_fd() as u32;
        let mut trial = Trial {
            program,
            data_in_bytes: self.frame.len() as u32,
            data_in: self.frame.as_ptr() as u64,
            repeat: packets,
            flags: LIVE_FRAMES,
            batch: self.batch,
            ..Trial::default()
        };
        loop {
            // SAFETY: pointer and length describe `trial`, whose one address is of a frame that outlives the call.
            let done = unsafe {
                libc::syscall(libc::SYS_bpf, PROG_TEST_RUN, std::ptr::from_mut(&mut trial), size_of::<Trial>())
            };
            let error = io::Error::last_os_error();
            match done {
                0.. => return Ok(()),
                _ if error.kind() == io::ErrorKind::Interrupted => continue,
                _ => return Err(error),
            }
        }
    }
}

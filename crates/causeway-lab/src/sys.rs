//! The kernel: clock, devices in other namespaces, waiting to the microsecond. All of this crate's `unsafe`.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

/// CLOCK_MONOTONIC.
pub fn now_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is ours and the clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Make the device in the namespace; it lives as long as its file. The calling thread is back in its own afterwards.
pub fn open_tap(namespace: &Path, device: &str) -> io::Result<File> {
    let home = File::open("/proc/thread-self/ns/net")?;
    let there = File::open(namespace)?;
    enter(&there)?;
    let opened = make_tap(device);
    enter(&home)?;
    opened
}

fn make_tap(device: &str) -> io::Result<File> {
    let file =
        File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open("/dev/net/tun")?;
    let name = CString::new(device)?;
    let name = name.as_bytes_with_nul();
    // SAFETY: all zeros is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() > request.ifr_name.len() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{device}: a device has 15 characters at most"),
        ));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name) {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the file is open and the request outlives the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) })?;
    Ok(file)
}

fn enter(namespace: &File) -> io::Result<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) }).map(drop)
}

/// Run before ordinary threads; false where that is not permitted. What this process starts does not inherit it.
pub fn become_realtime() -> bool {
    let priority = libc::sched_param { sched_priority: 1 };
    // SAFETY: the parameter outlives the call.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &raw const priority) == 0 }
}

/// Ordinary threads are woken up to 50 us late, to wake several at once.
pub fn wake_in_time() {
    // SAFETY: no memory is passed.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1 as libc::c_ulong, 0, 0, 0) };
}

pub struct Epoll(OwnedFd);

impl Epoll {
    pub fn new() -> io::Result<Epoll> {
        // SAFETY: the descriptor that comes back is ours.
        let file = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: it is open and nobody else's.
        Ok(Epoll(unsafe { OwnedFd::from_raw_fd(file) }))
    }

    pub fn add(&self, file: RawFd, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, file, token, libc::EPOLLIN)
    }

    pub fn remove(&self, file: RawFd) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, file, 0, 0)
    }

    /// Wait for room to write, or else for something to read.
    pub fn turn(&self, file: RawFd, token: u64, is_writing: bool) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, file, token, if is_writing { libc::EPOLLOUT } else { libc::EPOLLIN })
    }

    fn control(&self, operation: i32, file: RawFd, token: u64, events: i32) -> io::Result<()> {
        let mut event = libc::epoll_event { events: events as u32, u64: token };
        // SAFETY: the event outlives the call.
        check(unsafe { libc::epoll_ctl(self.0.as_raw_fd(), operation, file, &raw mut event) }).map(drop)
    }

    /// The tokens of what is ready; none once the time is over.
    pub fn wait(&self, most: Option<Duration>, ready: &mut Vec<u64>) -> io::Result<()> {
        const EVENTS: usize = 64;
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS];
        let time = most.map(|most| libc::timespec {
            tv_sec: most.as_secs() as libc::time_t,
            tv_nsec: libc::c_long::from(most.subsec_nanos() as i32),
        });
        let time_at = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: events and time outlive the call, and the kernel writes at most EVENTS of them.
        let found = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.0.as_raw_fd(),
                events.as_mut_ptr(),
                EVENTS as libc::c_int,
                time_at,
                std::ptr::null::<libc::sigset_t>(),
                0usize,
            )
        };
        ready.clear();
        match check(found as i32) {
            Ok(found) => ready.extend(events[..found as usize].iter().map(|event| event.u64)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

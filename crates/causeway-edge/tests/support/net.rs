//! A network of a test's own: its thread, and all that it starts, see nothing of the machine's and disturb nobody.

use std::process::Command;

use causeway_edge::DispatchMode;

/// Go into a new network namespace with loopback up. False, and a word of why, where that is not permitted.
pub fn alone() -> bool {
    // SAFETY: no pointers; it concerns this thread, which is the test's own.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        eprintln!("SKIPPED: no network namespace of its own (CAP_SYS_ADMIN)");
        return false;
    }
    ip("link set lo up");
    true
}

/// As `alone`, for a test that needs dispatch in the kernel too.
pub fn alone_with_dispatch() -> bool {
    let missing = match causeway_bpf::Dispatch::attach() {
        Ok(_) => return alone(),
        Err(missing) => missing,
    };
    eprintln!("SKIPPED: no kernel dispatch ({missing})");
    false
}

pub fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status();
    assert!(status.is_ok_and(|status| status.success()), "ip {arguments}");
}

/// The ways in which ports are served that this machine lets us test, each in a network of its own.
pub fn in_each_mode(test: impl Fn(DispatchMode) + Send + Sync) {
    for mode in [DispatchMode::Off, DispatchMode::On] {
        std::thread::scope(|scope| {
            let run = scope.spawn(|| {
                let is_ready = if mode == DispatchMode::On { alone_with_dispatch() } else { alone() };
                if is_ready {
                    test(mode);
                }
            });
            run.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        });
    }
}

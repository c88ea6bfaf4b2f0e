//! Does this kernel's verifier accept the programs, as this crate loads them? One line for each: its name, accepted or
//! why not, the instructions that the verifier looked at, and how it was attached. Exits 1 if one is not accepted.
//! `tests/kernels` runs it on other kernels.

use std::process::ExitCode;

use causeway_bpf::Dispatch;
use causeway_bpf::flow::{FlowPath, Options};
use causeway_bpf::guard::{self, Attachment, Guard};

const LO: u32 = 1; // in every network namespace

fn told(attached: std::io::Result<&str>) -> String {
    attached.map_or_else(|error| format!("not attached: {error}"), |how| format!("attached by {how}"))
}

fn main() -> ExitCode {
    // SAFETY: no pointers; what is done to lo stays in a namespace of this process.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        eprintln!("no network namespace of its own: {}", std::io::Error::last_os_error());
        return ExitCode::from(2);
    }
    let dispatch = Dispatch::attach().map(|dispatch| (dispatch.verified(), String::from("attached to the namespace")));
    let flow = FlowPath::open(&Options::default()).map(|path| {
        let attached = path.attach(LO).map(|()| path.hook().name());
        (path.verified(), told(attached))
    });
    let guard = Guard::open(&guard::Options::default()).map(|guard| {
        let attached = guard.attach(LO).map(|attachment| match attachment {
            Attachment::Native => "XDP, native",
            Attachment::Mute => "XDP, in the driver, which loses what it sends",
            Attachment::Generic => "XDP, generic",
        });
        (guard.verified(), told(attached))
    });
    let mut is_all_accepted = true;
    for (name, loaded) in [("dispatch", dispatch), ("flow", flow), ("guard", guard)] {
        match loaded {
            Ok((instructions, attached)) => {
                let looked_at = match instructions {
                    Ok(0) | Err(_) => String::from("?"),
                    Ok(count) => count.to_string(),
                };
                println!("program {name} accepted {looked_at} instructions, {attached}");
            }
            Err(reason) => {
                is_all_accepted = false;
                println!("program {name} REFUSED {reason}");
            }
        }
    }
    if is_all_accepted { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

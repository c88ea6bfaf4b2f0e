//! Send a flood, in a network namespace that a test made, for some seconds, at a rate. The last line is JSON:
//! `{"kind", "sent", "seconds", "rate"}`; packets that the other end had no room for count as sent.
//!
//! `causeway-flood sink --interface NAME` drops what comes in there until stdin ends, to measure against; `pass`
//! lets it through, but for what is sent to sources that do not exist: a veth takes what its peer sends back at once
//! (XDP_TX) only where a program is.
//!
//! It refuses the machine's own network, addresses outside of 198.18.0.0/15, and more than a minute.
mod frame;
mod kernel;
mod options;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use options::Options;

/// What one call sends: so long at the rate asked for, or so many as fast as it goes. The kernel pauses for some 20 ms
/// before each.
const SLICE: Duration = Duration::from_secs(1);
const AT_ONCE: u64 = 100_000;

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1).peekable();
    let done = match words.next_if(|word| word == "sink" || word == "pass") {
        Some(name) => options::interface(words).and_then(|index| {
            kernel::stand(&name, index)
                .map(|()| "{}".to_owned())
                .map_err(|error| format!("{name} cannot be there: {error}"))
        }),
        None => Options::read(words).and_then(|options| run(&options)),
    };
    match done {
        Ok(told) => {
            println!("{told}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("causeway-flood: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<String, String> {
    options.fence()?;
    let (frame, job) = frame::template(options);
    let flood = kernel::Flood::new(&frame, &job, options.rate)
        .map_err(|error| format!("the kernel makes no packets: {error}"))?;
    let (begin, mut sent) = (Instant::now(), 0u64);
    while begin.elapsed() < options.length {
        let left = options.length.saturating_sub(begin.elapsed()).min(SLICE);
        let due = match options.rate {
            0 => AT_ONCE,
            rate => (left.as_secs_f64() * rate as f64).ceil() as u64,
        };
        flood.send(due as u32).map_err(|error| format!("after {sent} packets: {error}"))?;
        sent += due;
    }
    let seconds = begin.elapsed().as_secs_f64();
    let rate = sent as f64 / seconds;
    Ok(format!(r#"{{"kind":"{}","sent":{sent},"seconds":{seconds:.3},"rate":{rate:.0}}}"#, options.kind.name()))
}

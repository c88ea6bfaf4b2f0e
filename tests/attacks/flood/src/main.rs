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

/// So long a run at a low rate is one call. The kernel pauses for some 20 ms before each, so they come in bursts of that.
const SLICE: Duration = Duration::from_millis(2);
/// From this rate on such bursts would be more than the queue of a veth, and the kernel keeps time, in calls of so long.
const EVEN_FROM: u64 = 200_000;
const LONG_SLICE: Duration = Duration::from_secs(1);

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
    let even_rate = if options.rate < EVEN_FROM { 0 } else { options.rate };
    let flood =
        kernel::Flood::new(&frame, &job, even_rate).map_err(|error| format!("the kernel makes no packets: {error}"))?;
    let (begin, mut sent) = (Instant::now(), 0u64);
    while begin.elapsed() < options.length {
        // What is due by now; after a stall not all at once, or a pause would end in a burst.
        let due = match options.rate {
            0 => 100_000,
            rate if even_rate > 0 => {
                let left = options.length.saturating_sub(begin.elapsed()).min(LONG_SLICE);
                (left.as_secs_f64() * rate as f64).ceil() as u64
            }
            rate => {
                let due = (begin.elapsed() + SLICE).as_secs_f64() * rate as f64;
                (due as u64).saturating_sub(sent).min(rate / 20 + 64)
            }
        };
        if due > 0 {
            flood.send(due as u32).map_err(|error| format!("after {sent} packets: {error}"))?;
            sent += due;
        }
        if options.rate > 0 && even_rate == 0 {
            let ahead = Duration::from_secs_f64(sent as f64 / options.rate as f64).saturating_sub(begin.elapsed());
            std::thread::sleep(ahead.min(SLICE));
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    let rate = sent as f64 / seconds;
    Ok(format!(r#"{{"kind":"{}","sent":{sent},"seconds":{seconds:.3},"rate":{rate:.0}}}"#, options.kind.name()))
}

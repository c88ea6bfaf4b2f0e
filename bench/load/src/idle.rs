//! Idle connections: open N, prove each by an echo, say so and hold them, prove each again.
use crate::args::Args;
use crate::clock::Window;
use crate::connect;
use crate::filler::Filler;
use crate::outcome::Outcome;
use crate::round_trip::Talker;
use crate::sys::{Poll, READABLE};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

const SIZE: usize = 16;
const ECHO_AT_ONCE: usize = 64;
const ECHO_LONGEST: Duration = Duration::from_secs(20);
const STDIN: usize = usize::MAX;

pub fn run(args: &mut Args) -> io::Result<()> {
    let to = args.to();
    let connections = args.count("--connections", 5000, 60_000);
    let longest = args.seconds("--seconds", 60.0);
    args.done();

    let filler = Filler::new();
    let mut outcome = Outcome::of("idle");
    let mut talkers = Vec::with_capacity(connections);
    for id in 0..connections {
        match connect::open(to) {
            Ok(stream) => talkers.push(Talker::new(stream, id as u64, SIZE)),
            Err(error) => {
                outcome.failed(format!("connection {id}: {error}"))?;
                break;
            }
        }
    }
    prove(&mut talkers, &filler, &mut outcome)?;
    println!("{{\"held\":{}}}", talkers.len());
    io::stdout().flush()?;
    wait_for_stdin(longest)?;
    prove(&mut talkers, &filler, &mut outcome)?;
    outcome.units = talkers.len() as u64;
    outcome.print(&Window { from_ns: 0, to_ns: 0 })
}

/// One echo on each connection, a few at once so that no queue overflows.
fn prove(talkers: &mut [Talker], filler: &Filler, outcome: &mut Outcome) -> io::Result<()> {
    let mut scratch = [0; SIZE];
    let deadline = Instant::now() + ECHO_LONGEST;
    for group in talkers.chunks_mut(ECHO_AT_ONCE) {
        let mut poll = Poll::new()?;
        for (index, talker) in group.iter_mut().enumerate() {
            poll.add(talker.stream().as_raw_fd(), index, READABLE)?;
            talker.ask(filler, &mut scratch)?;
        }
        let mut waiting = group.len();
        while waiting > 0 {
            if Instant::now() > deadline {
                outcome.stuck += waiting as u64;
                return Ok(());
            }
            for index in 0..poll.wait(Duration::from_millis(100))? {
                match group[poll.event(index).0].take(filler)? {
                    None => continue,
                    Some(is_right) => outcome.wrong += u64::from(!is_right),
                }
                waiting -= 1;
            }
        }
    }
    Ok(())
}

fn wait_for_stdin(longest: Duration) -> io::Result<()> {
    let mut poll = Poll::new()?;
    // A file or /dev/null cannot be polled and is always ready.
    if poll.add(0, STDIN, READABLE).is_ok() {
        poll.wait(longest)?;
    }
    Ok(())
}

//! Load for bench/: one origin and the clients that measure a path to it.
//!
//! One thread and one epoll each, so that an endpoint costs no more than the proxy under test. Every mode is bounded in
//! time and ends by itself; the last line on stdout is its result as JSON. Knows nothing of proxies or namespaces.
mod args;
mod bulk;
mod clock;
mod connect;
mod crowd;
mod filler;
mod idle;
mod keep;
mod origin;
mod origin_stream;
mod origin_udp;
mod outcome;
mod pace;
mod request;
mod round_trip;
mod short;
mod sys;
mod udp;

use args::Args;
use std::process::ExitCode;

const HELP: &str = "causeway-load MODE --to ADDRESS:PORT [options]
  origin  --bind ADDRESS… --max-seconds S     echo 7001, sink 7002, source 7003, UDP echo 7004; ends with stdin
  short   --parallel N --close fin|rst        connect, one byte there and back, close
  rr      --connections N --size B            one message in flight on each connection
  bulk    --streams N --direction up|down [--bytes B]   B: exactly so much on each stream, every byte checked
  udp     --flows N --in-flight N --size B    datagrams there and back, losses counted
  pace    --protocol tcp|udp --rate N --size B --connections N   latency at a fixed rate
  idle    --connections N                     echo, hold until a line on stdin, echo again
  keep    --connection-rate N --longs N --request-rate N [--udp-to ADDRESS:PORT --sessions N --datagram-rate N]
          --deadline S --sources A-B          what a user keeps of all that, second by second
  crowd   --sources A-B --rate N --most N --ports N --act echo|hold|drip|deaf|status|join
          --size B                            clients that attack
all clients: --seconds S (whole run) --warmup S (left out of the rate)";

fn main() -> ExitCode {
    let mut args = Args::from_env();
    let mode = args.mode();
    sys::raise_descriptor_limit();
    let result = match mode.as_str() {
        "origin" => origin::run(&mut args),
        "short" => short::run(&mut args),
        "rr" => round_trip::run(&mut args),
        "bulk" => bulk::run(&mut args),
        "udp" => udp::run(&mut args),
        "pace" => pace::run(&mut args),
        "idle" => idle::run(&mut args),
        "keep" => keep::run(&mut args),
        "crowd" => crowd::run(&mut args),
        _ => {
            eprintln!("{HELP}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("causeway-load {mode}: {error}");
            ExitCode::FAILURE
        }
    }
}

//! The old side: it answers, in turn, and keeps everything until the other one says that it serves.

use std::os::fd::AsRawFd;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use causeway_bpf::Parts;

use super::link::MOST_FDS;
use super::*;
use crate::apply::Running;
use crate::udp::Shown;
use crate::worker::{Step, Worker};

const SNAPSHOT_PART_BYTES: usize = 100_000;
/// So many that a message stays within its bounds whatever their addresses and counts are.
const COUNTED_PER_MESSAGE: usize = 150;
const SESSIONS_PER_MESSAGE: usize = 150;
/// A worker that does not answer in this time is hung, and so is the hand-over.
const WORKER_ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// What the old side gives away.
#[derive(Debug)]
pub struct Holdings<'a> {
    pub running: &'a Running,
    pub snapshot: &'a [u8],
    pub workers: &'a [Worker],
    pub now_ms: u64,
}

impl Holdings<'_> {
    /// Answer until the new side serves; answers how many sessions went. The caller lets go then, or goes on after
    /// an error, at any point: `Step::GoOn` is right whether or not UDP rests.
    pub fn give(&self, link: &Link) -> Result<usize, EdgeError> {
        match listen(link)? {
            Ask::Offer { format: FORMAT } => {}
            Ask::Offer { format } => {
                let why = format!("the new version speaks format {format} of the hand-over, the running one {FORMAT}");
                send(link, &Tell::Refused { why: why.clone() }, &[])?;
                return Err(failed(why));
            }
            other => return Err(out_of_turn(other)),
        }
        let offer = Offer {
            format: FORMAT,
            workers: self.workers.len(),
            now_ms: self.now_ms,
            snapshot_bytes: self.snapshot.len(),
            retired: self.running.retired(),
        };
        send(link, &Tell::Offer(offer), &[])?;
        self.give_estate(link)?;
        expect(link, Ask::Hold)?;
        let shown = self.hold_and_show()?;
        let flows = shown.iter().map(|shown| shown.flows).max().unwrap_or_default();
        send(link, &Tell::Held { flows }, &[])?;
        let sessions: Vec<&(Moved, RawFd)> = shown.iter().flat_map(|shown| &shown.sessions).collect();
        for part in sessions.chunks(SESSIONS_PER_MESSAGE) {
            expect(link, Ask::Next)?;
            let fds: Vec<RawFd> = part.iter().map(|(_, fd)| *fd).collect();
            send(link, &Tell::Sessions { sessions: part.iter().map(|(moved, _)| moved.clone()).collect() }, &fds)?;
        }
        expect(link, Ask::Next)?;
        send(link, &Tell::End, &[])?;
        expect(link, Ask::Ready)?;
        send(link, &Tell::Go, &[])?;
        expect(link, Ask::Serving)?;
        Ok(sessions.len())
    }

    fn give_estate(&self, link: &Link) -> Result<(), EdgeError> {
        for part in self.snapshot.chunks(SNAPSHOT_PART_BYTES) {
            expect(link, Ask::Next)?;
            link.send(SNAPSHOT, part, &[]).map_err(broken)?;
        }
        let totals: Vec<(String, Totals)> = self
            .running
            .own_totals()
            .map(|(id, totals)| (id.to_string(), Totals { connections_open: 0, ..totals }))
            .collect();
        for part in totals.chunks(COUNTED_PER_MESSAGE) {
            expect(link, Ask::Next)?;
            send(link, &Tell::Counted { totals: part.to_vec() }, &[])?;
        }
        let dispatching = &self.running.dispatching;
        let bases: Vec<(Place, Sockets)> = dispatching.bases().map(|(_, place, sockets)| (place, sockets)).collect();
        let is_base = |place: &Place| bases.iter().any(|(base, _)| base == place);
        let bound = self.running.places().into_iter().filter(|place| !is_base(place));
        let bound = bound.filter_map(|place| Some((place, self.running.sockets.get(&place)?.upgrade()?, false)));
        let held: Vec<(Place, Sockets, bool)> =
            bound.chain(bases.iter().map(|(place, sockets)| (*place, sockets.clone(), true))).collect();
        let entries: Vec<(Held, RawFd)> = held
            .iter()
            .flat_map(|(place, sockets, is_base)| {
                let entry = |(worker, fd): (usize, &OwnedFd)| {
                    let Place { protocol, address } = *place;
                    (Held { protocol, address, worker, is_base: *is_base }, fd.as_raw_fd())
                };
                sockets.fds.iter().enumerate().map(entry)
            })
            .collect();
        let mut entries = entries.into_iter().peekable();
        while entries.peek().is_some() {
            let (places, fds): (Vec<Held>, Vec<RawFd>) = entries.by_ref().take(MOST_FDS).unzip();
            expect(link, Ask::Next)?;
            send(link, &Tell::Sockets { places }, &fds)?;
        }
        if let Some(kernel) = dispatching.kernel() {
            let Parts { program, link: at, ports, sockets, verdicts } = kernel.parts();
            expect(link, Ask::Next)?;
            send(link, &Tell::Dispatch, &[program, at, ports, sockets, verdicts].map(AsRawFd::as_raw_fd))?;
        }
        expect(link, Ask::Next)?;
        send(link, &Tell::End, &[])
    }

    fn hold_and_show(&self) -> Result<Vec<Shown>, EdgeError> {
        let pending: Vec<_> = self
            .workers
            .iter()
            .map(|worker| {
                let (answer, shown) = sync_channel(1);
                drop(worker.submit(vec![Step::Hold, Step::ShowSessions(answer)]));
                shown
            })
            .collect();
        pending
            .into_iter()
            .map(|shown| shown.recv_timeout(WORKER_ANSWERS_WITHIN).map_err(|_| failed("a worker hangs")))
            .collect()
    }
}

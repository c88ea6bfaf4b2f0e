//! What became of a flow, as the edge at the end of its path tells it, and the next path where that is nothing.

use std::os::fd::AsRawFd;

use causeway_wire::overlay::{Answer, Outcome, Read};

use crate::clock::unix_ms;
use crate::event::Cause;
use crate::overlay;
use crate::overlay::tls::{Got, Tls};
use crate::relay::{BUFFER_BYTES, Readiness};
use crate::sys;
use crate::tcp::connection::{NEVER, Reset, Tuning};
use crate::tcp::{TcpPlane, counters};
use crate::worker::Desk;

impl TcpPlane {
    /// Read what the last edge says before the origin's first byte. False: the connection has ended.
    #[inline(never)]
    pub(in crate::tcp) fn read_answer(&mut self, desk: &mut Desk, slot: usize) -> bool {
        let connection = &mut self.connections[slot];
        let (Some(tunnel), Some(origin)) = (&mut connection.tunnel, &connection.origin) else { return true };
        let (Some(tls), Some(answer)) = (&mut tunnel.origin, &mut tunnel.answer) else { return true };
        while connection.ready[1].is_readable || tls.has_heard_end() {
            let scratch = &mut self.tools.scratch()[..BUFFER_BYTES / 4];
            let got = match tls.read(origin.as_raw_fd(), &mut connection.ready[1], scratch, answer) {
                Ok(got) => got,
                Err(error) => {
                    self.doubt_next(desk, slot, error.raw_os_error());
                    return self.answered(desk, slot, Cause::PathBroken);
                }
            };
            match Answer::parse(answer) {
                Ok(Read::Whole { consumed, value }) if tunnel.kept.is_some() => {
                    let rest = answer.split_off(consumed);
                    return self.on_kept_answer(desk, slot, value, rest);
                }
                Ok(Read::Whole { value, .. }) if tunnel.keep.is_some() && value.outcome != Outcome::Connected => {
                    connection.origin_address = value.origin.or(connection.origin_address);
                    self.end_saying(desk, slot, overlay::cause(value.outcome), value.outcome);
                    return false;
                }
                Ok(Read::Whole { consumed, value }) => {
                    let cause = overlay::cause(value.outcome);
                    connection.down.bytes += (answer.len() - consumed) as u64;
                    if tunnel.number == 0 || cause != Cause::Opened {
                        connection.origin_address = value.origin;
                        connection.down.hold(answer.split_off(consumed));
                    } else {
                        connection.down.hold(std::mem::take(answer)); // who handed it over reads it
                    }
                    return self.answered(desk, slot, cause);
                }
                Ok(Read::NeedMore) if got != Got::End => {}
                Ok(Read::NeedMore) | Err(_) => return self.answered(desk, slot, Cause::PathBroken),
            }
        }
        true
    }

    /// The next edge has not even acknowledged a flow: is it there?
    pub(in crate::tcp) fn doubt_next(&mut self, desk: &Desk, slot: usize, errno: Option<i32>) {
        let tunnel = self.connections[slot].tunnel.as_ref().filter(|_| errno == Some(libc::ETIMEDOUT));
        let next = tunnel.and_then(|tunnel| tunnel.origin.as_ref()).and_then(Tls::peer);
        next.into_iter().for_each(|name| self.doubt(desk, name));
    }

    /// Nobody has told in time what became of it. False: somebody has, or need not.
    pub(in crate::tcp) fn ends_unanswered(&mut self, desk: &mut Desk, slot: usize) -> bool {
        let Some(tunnel) = &mut self.connections[slot].tunnel else { return false };
        if tunnel.answer_due_ms <= desk.now_ms {
            self.answered(desk, slot, Cause::PathBroken);
            return true;
        }
        let is_late = tunnel.late_ms <= desk.now_ms;
        if is_late {
            tunnel.late_ms = NEVER;
            if let Some(kept) = &mut tunnel.kept {
                kept.is_late = true;
                tunnel.course.leave_late(desk.now_ms);
                self.lose_link(desk, slot, true); // its origin hears it once, by whatever way
                return true;
            }
            tunnel.course.judge(desk.now_ms, true); // it may come yet, but others need not wait as long
            self.arm(desk, slot);
        }
        is_late
    }

    pub(in crate::tcp) fn answered(&mut self, desk: &mut Desk, slot: usize, cause: Cause) -> bool {
        let connection = &mut self.connections[slot];
        let Some(tunnel) = &mut connection.tunnel else { return true };
        tunnel.expect_no_answer();
        if tunnel.is_handed_over() && cause != Cause::Opened {
            self.end_unanswered(desk, slot, cause);
            return false;
        }
        let is_unreached = matches!(cause, Cause::ConnectTimeout | Cause::ConnectUnreachable | Cause::ConnectFailed)
            && tunnel.course.is_steered();
        let begun_ms = tunnel.kept.as_ref().map_or(connection.since_ms, |kept| kept.begun_ms);
        let took_ms = desk.now_ms.saturating_sub(begun_ms);
        match cause {
            Cause::Opened => tunnel.course.answered(desk.now_ms, took_ms),
            // The other edge did not wait for long.
            Cause::ConnectTimeout if tunnel.may_go_elsewhere() => tunnel.course.leave_late(desk.now_ms),
            _ => {
                let is_broken = is_unreached || matches!(cause, Cause::PathBroken | Cause::PathUnknown);
                tunnel.course.judge(desk.now_ms, is_broken);
            }
        }
        if cause == Cause::PathBroken && tunnel.kept.is_some() {
            tunnel.course.leave();
            self.lose_link(desk, slot, false); // the same edge may have it, and may be reached by another way
            return false;
        }
        if cause != Cause::Opened {
            counters(&connection.active, desk).connect_errors_total.add(1);
            let has_reached_nobody = is_unreached || cause == Cause::PathUnknown;
            if !has_reached_nobody || !self.go_again(desk, slot, cause) {
                self.close(desk, slot, cause, Reset::Both);
            }
            return false;
        }
        tunnel.origin.iter_mut().for_each(|tls| drop(tls.take_kept()));
        if let Some(origin) = &connection.origin {
            let _ = sys::set_user_timeout(origin.as_raw_fd(), connection.active.user_timeout());
        }
        connection.connect_time_ms = unix_ms();
        desk.events.write(connection.event(Cause::Opened, took_ms * 1_000_000));
        true
    }

    /// No origin has heard anything of it: say all again on the next path. False: there is none, or it was too much.
    fn go_again(&mut self, desk: &mut Desk, slot: usize, cause: Cause) -> bool {
        let connection = &mut self.connections[slot];
        let has_room = !connection.up.holds_bytes();
        let Some(tunnel) = connection.tunnel.as_mut().filter(|tunnel| has_room && tunnel.course.has_others()) else {
            return false;
        };
        let said = match &mut tunnel.kept {
            Some(kept) => kept.take_back(),
            None => tunnel.origin.as_mut().and_then(Tls::take_kept).map(|mut said| {
                said.drain(..tunnel.header_bytes.min(said.len()));
                said
            }),
        };
        let Some(said) = said else { return false };
        (connection.early, tunnel.kept, connection.ready[0].is_readable) = (said, None, true);
        (tunnel.origin, connection.origin, connection.ready[1]) = (None, None, Readiness::default());
        (connection.tuning, connection.last_failure) = (Tuning::None, Some(cause));
        (connection.half_closed_ms, connection.blocked_ms) = (NEVER, [NEVER; 2]);
        connection.up.begin_again();
        self.connect(desk, slot);
        true
    }

    /// An edge on the way cannot have a flow that is kept: as one that is not, by the same way.
    pub(in crate::tcp) fn go_unkept(&mut self, desk: &mut Desk, slot: usize) {
        if let Some(tunnel) = &mut self.connections[slot].tunnel {
            tunnel.is_unkept = true;
            tunnel.course.retry();
        }
        if !self.go_again(desk, slot, Cause::PathBroken) {
            self.close(desk, slot, Cause::PathBroken, Reset::Both);
        }
    }
}

//! Notices of the kernel, and the relaying that they lead to.

use std::os::fd::AsRawFd;

use super::TcpPlane;
use super::connect::connect_cause;
use super::connection::{Connection, NEVER, Reset, State};
use crate::event::Cause;
use crate::outbox::Sent;
use crate::relay::{Fault, Side};
use crate::sys;
use crate::worker::Desk;

impl TcpPlane {
    pub fn on_client(&mut self, desk: &mut Desk, slot: usize, notice: u32) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        let Some(fd) = connection.client.as_ref().map(AsRawFd::as_raw_fd) else { return };
        connection.ready[0].note(notice);
        if notice & sys::ERR != 0
            && let Some(errno) = sys::take_error(fd)
        {
            return self.on_fault(desk, slot, Side::Client, errno);
        }
        match connection.state {
            State::Header => self.read_header(desk, slot),
            State::Visiting => self.on_visit(desk, slot),
            State::Open => self.run(desk, slot),
            State::Resolving | State::Connecting if notice & sys::HUP != 0 && connection.is_link(Side::Client) => {
                self.lose_link(desk, slot, false);
            }
            State::Resolving | State::Connecting if notice & sys::HUP != 0 => {
                self.close(desk, slot, Cause::ClientGone, Reset::Both);
            }
            State::Resolving | State::Connecting if notice & sys::IN != 0 => connection.client_spoke(),
            State::Resolving | State::Connecting | State::Closed => {}
        }
    }

    pub fn on_origin(&mut self, desk: &mut Desk, slot: usize, notice: u32) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        let Some(fd) = connection.origin.as_ref().map(AsRawFd::as_raw_fd) else { return };
        connection.ready[1].note(notice);
        if notice & sys::ERR != 0
            && let Some(errno) = sys::take_error(fd)
        {
            if connection.state == State::Connecting {
                self.note_failure(desk, slot, connect_cause(errno));
                return self.connect(desk, slot);
            }
            return self.on_fault(desk, slot, Side::Origin, errno);
        }
        match connection.state {
            State::Connecting if notice & (sys::OUT | sys::IN) != 0 => self.on_connected(desk, slot),
            State::Open => self.run(desk, slot),
            _ => {}
        }
    }

    /// A socket has failed. What it sent before is passed on as far as the other side takes it now.
    pub(super) fn on_fault(&mut self, desk: &mut Desk, slot: usize, side: Side, errno: i32) {
        let connection = &mut self.connections[slot];
        let awaits_answer = connection.tunnel.as_ref().is_some_and(|tunnel| tunnel.awaits_answer());
        if awaits_answer && side == Side::Origin && connection.state == State::Open {
            self.doubt_next(desk, slot, Some(errno));
            // What it has said before may be why.
            if !self.read_answer(desk, slot) {
                return;
            }
        }
        let connection = &mut self.connections[slot];
        if connection.is_link(side) {
            return self.lose_link(desk, slot, errno == libc::ETIMEDOUT);
        }
        if connection.state == State::Open
            && let Some(kept) = connection.kept()
        {
            kept.has_failed = true;
            let _ = connection.pump_kept(&mut self.tools, desk.now_ms);
        } else if connection.state == State::Open {
            self.tools.is_short = false; // what it would hold ends with it
            let half = if side == Side::Client { Connection::pump_up } else { Connection::pump_down };
            let _ = half(connection, &mut self.tools, slot);
        }
        let cause = match (connection.state, side) {
            (State::Open, _) => fault_cause(side, errno),
            _ => Cause::ClientGone,
        };
        self.close(desk, slot, cause, Reset::Both);
    }

    pub(super) fn run(&mut self, desk: &mut Desk, slot: usize) {
        let connection = &mut self.connections[slot];
        #[cfg(test)]
        assert_ne!(self.poisoned, Some(connection.client_address.port()), "a test has asked for this");
        if connection.must_pause(desk.now_ms) {
            return self.arm(desk, slot); // what can be read is on note
        }
        self.tools.is_short = desk.strain.is_full();
        if connection.tunnel.as_ref().is_some_and(|tunnel| tunnel.awaits_answer()) && !self.read_answer(desk, slot) {
            return;
        }
        let connection = &mut self.connections[slot];
        if connection.is_kept() {
            return self.run_kept(desk, slot);
        }
        let before = connection.up.bytes + connection.down.bytes;
        let up = match Connection::pump_up(connection, &mut self.tools, slot) {
            Ok(moved) => moved,
            Err(fault) => return self.on_pump_fault(desk, slot, Side::Client, fault),
        };
        let down = match Connection::pump_down(connection, &mut self.tools, slot) {
            Ok(moved) => moved,
            Err(fault) => return self.on_pump_fault(desk, slot, Side::Origin, fault),
        };
        connection.count_bytes(desk);
        if connection.tunnel.is_some() {
            connection.note_first_byte();
        }
        if let Some(permit) = &connection.permit {
            permit.pay(connection.up.bytes + connection.down.bytes - before, desk.now_ms);
        }
        if up.has_progress || down.has_progress {
            connection.since_ms = desk.now_ms;
        }
        if up.has_progress {
            connection.on_written();
        }
        let mut down = down;
        if up.is_done && down.is_done {
            if connection.has_told_ends() {
                return self.close(desk, slot, Cause::Closed, Reset::None);
            }
            down.is_blocked = true; // for what is to be told
        }
        let mut must_arm = connection.pass_end(&up, &down, desk.now_ms);
        if connection.watch_writable(desk, slot, &down).is_err() {
            return self.close(desk, slot, Cause::OutOfResources, Reset::Both);
        }
        for (blocked_ms, moved) in connection.blocked_ms.iter_mut().zip([&up, &down]) {
            match (moved.is_blocked, *blocked_ms == NEVER || moved.has_progress) {
                (true, true) => (*blocked_ms, must_arm) = (desk.now_ms, true),
                (false, _) => *blocked_ms = NEVER,
                (true, false) => {}
            }
        }
        if up.is_unfinished || down.is_unfinished {
            self.unfinished.push(slot);
        }
        if must_arm || connection.armed_ms == NEVER {
            self.arm(desk, slot);
        }
    }

    /// To be called once by the thread that serves, before descriptors are scarce.
    pub fn begin(&mut self) {
        self.tools.outbox.gathers();
    }

    /// Has any stream moved more than a message since the last call?
    pub fn take_streamed(&mut self) -> bool {
        self.tools.take_streamed()
    }

    pub fn has_gathered(&self) -> bool {
        !self.tools.outbox.is_empty()
    }

    pub fn has_gathered_enough(&self) -> bool {
        self.tools.outbox.is_full()
    }

    /// Let what was gathered leave; the fates are for [`TcpPlane::on_sent`].
    pub fn tell(&mut self) -> Vec<Sent> {
        self.tools.tell()
    }

    pub fn told(&mut self, sent: Vec<Sent>) {
        self.tools.told(sent);
    }

    /// `side` is where the message came from.
    pub fn on_sent(&mut self, desk: &mut Desk, slot: usize, side: Side, result: Result<usize, i32>) {
        let Some(connection) = self.connections.get_mut(slot).filter(|c| c.state == State::Open) else { return };
        let [client, origin] = &mut connection.ready;
        let buffer = &self.tools.buffer;
        let more = match side {
            Side::Client => connection.up.on_sent(result, client, origin, buffer),
            Side::Origin => connection.down.on_sent(result, origin, client, buffer),
        };
        match more {
            Ok(false) => {}
            Ok(true) => self.run(desk, slot),
            Err(fault) => self.on_pump_fault(desk, slot, side, fault),
        }
    }

    /// Those that gave way to others in this turn of the loop and have more to move.
    pub fn take_unfinished(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.unfinished)
    }

    pub fn on_turn(&mut self, desk: &mut Desk, slot: usize) {
        if self.connections.get(slot).is_some_and(|c| c.state == State::Open) {
            self.run(desk, slot);
        }
    }

    pub(super) fn on_pump_fault(&mut self, desk: &mut Desk, slot: usize, source: Side, fault: Fault) {
        let target = if source == Side::Client { Side::Origin } else { Side::Client };
        let (side, error) = match fault {
            Fault::Source(error) => (source, error),
            Fault::Target(error) => (target, error),
        };
        self.on_fault(desk, slot, side, error.raw_os_error().unwrap_or(libc::EIO));
    }
}

fn fault_cause(side: Side, errno: i32) -> Cause {
    use Cause::{ClientBroken, ClientReset, ClientTimeout, ClientUnreachable};
    use Cause::{OriginBroken, OriginReset, OriginTimeout, OriginUnreachable};
    match (errno, side) {
        (libc::ECONNRESET | libc::EPIPE, Side::Client) => ClientReset,
        (libc::ECONNRESET | libc::EPIPE, Side::Origin) => OriginReset,
        (libc::ETIMEDOUT, Side::Client) => ClientTimeout,
        (libc::ETIMEDOUT, Side::Origin) => OriginTimeout,
        (libc::EHOSTUNREACH | libc::ENETUNREACH, Side::Client) => ClientUnreachable,
        (libc::EHOSTUNREACH | libc::ENETUNREACH, Side::Origin) => OriginUnreachable,
        (_, Side::Client) => ClientBroken,
        (_, Side::Origin) => OriginBroken,
    }
}

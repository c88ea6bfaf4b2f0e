//! The running round trip times of both legs, by TCP timestamps.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, Instant};

use causeway_bpf::flow::{Answer, Flow, FlowKey, HeaderKind};
use support::packet::{ACK, PSH, SYN, Tcp, ends, tcp};
use support::*;

/// What the kernel calls a second, from one of which to the next a measurement is made: 2^30 ns.
const SECOND: Duration = Duration::from_nanos(1 << 30);
const FAR: Duration = Duration::from_millis(80);

/// Both ends of one connection, made by hand.
struct Talk<'a> {
    world: &'a World,
    client: FlowKey,
    origin: FlowKey,
    next: [u32; 2],
    stamp: u32,
    header: u32,
}

impl<'a> Talk<'a> {
    fn new(world: &'a World, from: &str, to: &str, header: u32) -> Talk<'a> {
        let client = FlowKey { from: at(from, 40_000), to: at(to, 1000), is_tcp: true };
        let (answer, became) = world.path.ask(&tcp(client.from, client.to, &Tcp::new(SYN, 100, 0, b""))).unwrap();
        assert_eq!(answer, Answer::Sent);
        let (source, to) = ends(&became);
        let origin = FlowKey { from: to, to: source, is_tcp: true };
        // The numbers wrap, and stamps too.
        let mut talk = Talk { world, client, origin, next: [101, u32::MAX - 9], stamp: u32::MAX - 2, header };
        talk.say(true, SYN | ACK, b"", 0, 0);
        talk.next[1] = talk.next[1].wrapping_add(1);
        talk.say(false, ACK, b"", 0, 0);
        talk
    }

    fn say(&mut self, by_origin: bool, flags: u8, payload: &[u8], stamp: u32, echo: u32) {
        self.say_acking(by_origin, flags, payload, [stamp, echo], 0);
    }

    fn say_acking(&mut self, by_origin: bool, flags: u8, payload: &[u8], stamps: [u32; 2], less: u32) {
        let side = usize::from(by_origin);
        let key = if by_origin { self.origin } else { self.client };
        // What the origin acknowledges has the header in front of it.
        let ack = self.next[1 - side].wrapping_add(if by_origin && flags & SYN == 0 { self.header } else { 0 });
        let (ack, [stamp, echo]) = (ack.wrapping_sub(less), stamps);
        let options = [&[1, 1, 8, 10][..], &stamp.to_be_bytes(), &echo.to_be_bytes()].concat();
        let segment = Tcp::new(flags, self.next[side], ack, payload).with_options(&options);
        assert_eq!(self.world.path.ask(&tcp(key.from, key.to, &segment)).unwrap().0, Answer::Sent);
        self.next[side] = self.next[side].wrapping_add(payload.len() as u32);
    }

    /// A segment of one side in a second of its own, and the other's acknowledgement `later`, of a copy perhaps.
    fn one_trip(&mut self, by_origin: bool, later: Duration, is_of_a_copy: bool) {
        let began = Instant::now();
        std::thread::sleep(SECOND); // a second must have passed: that is what is tested
        let stamp = self.stamp;
        self.stamp = stamp.wrapping_add(1 + began.elapsed().as_millis() as u32);
        self.say(by_origin, PSH | ACK, b"words", stamp, 1);
        self.say_acking(!by_origin, ACK, b"", [7, stamp], 5); // of what was said before
        std::thread::sleep(later);
        self.say(!by_origin, ACK, b"", 7, if is_of_a_copy { stamp.wrapping_add(1) } else { stamp });
    }

    fn flow(&self) -> Flow {
        self.world.path.flow(&self.client).unwrap().unwrap()
    }
}

#[test]
fn the_mean_of_each_leg_moves_towards_what_it_takes_now_and_copies_do_not_count() {
    let Some(world) = world() else { return };
    world.carry([HeaderKind::ProxyV2, HeaderKind::None]);
    std::thread::scope(|scope| {
        for (from, to, header) in [(CLIENT, EDGE, 28), (CLIENT6, EDGE6, 52)] {
            let world = &world;
            scope.spawn(move || {
                world.edge.enter();
                let mut talk = Talk::new(world, from, to, header);
                let rtts = |talk: &Talk<'_>| {
                    let flow = talk.flow();
                    [flow.client_rtt_us.unwrap_or(0), flow.origin_rtt_us.unwrap_or(0)]
                };
                let moved = |before: [u32; 2], after: [u32; 2], leg: usize| {
                    let far_us = FAR.as_micros() as u32;
                    // The first that is long enough to be measured is taken whole. A busy machine may take longer.
                    let part = if before[leg] == 0 { 1 } else { 8 };
                    let least = before[leg] + (far_us - before[leg].min(far_us)) / part - 40;
                    assert!((least..2 * far_us).contains(&after[leg]), "{before:?} {after:?}");
                    assert_eq!(before[1 - leg], after[1 - leg]);
                };
                let first = rtts(&talk);
                talk.one_trip(false, FAR, false);
                let second = rtts(&talk);
                moved(first, second, 1);
                talk.one_trip(true, FAR, false);
                let third = rtts(&talk);
                moved(second, third, 0);
                talk.one_trip(false, FAR, true);
                talk.one_trip(true, FAR, true);
                assert_eq!(rtts(&talk), third);
                talk.one_trip(false, FAR, false);
                moved(third, rtts(&talk), 1);
            });
        }
    });
}

//! One direction of a link in virtual time.

use causeway_lab::{Change, Direction, Offer, Shape, Step};
use proptest::prelude::*;

const MS: u64 = 1_000_000;
const FRAME: usize = 1_000;

/// Drives a direction; frames carry their number, arrivals are (time, number).
struct Way {
    direction: Direction,
    planned: Vec<(u64, u64, Step)>,
    sent: u64,
    sequence: u64,
    arrived: Vec<(u64, u64)>,
}

impl Way {
    fn new(shape: Shape) -> Way {
        shape.check().expect("a shape that can be");
        Way { direction: Direction::new(shape, 7, 0), planned: Vec::new(), sent: 0, sequence: 0, arrived: Vec::new() }
    }

    fn send(&mut self, at_ns: u64, bytes: usize) -> Offer {
        self.until(at_ns);
        let mut frame = vec![0; bytes];
        frame[..8].copy_from_slice(&self.sent.to_be_bytes());
        self.sent += 1;
        let mut steps = Vec::new();
        let offer = self.direction.offer(at_ns, &frame, &mut steps);
        self.plan(steps);
        offer
    }

    fn send_many(&mut self, count: u64, every_ns: u64, bytes: usize) {
        for number in 0..count {
            self.send(number * every_ns, bytes);
        }
    }

    fn plan(&mut self, steps: Vec<(u64, Step)>) {
        for (at_ns, step) in steps {
            self.sequence += 1;
            self.planned.push((at_ns, self.sequence, step));
        }
        self.planned.sort_by_key(|(at_ns, sequence, _)| (*at_ns, *sequence));
    }

    fn until(&mut self, now_ns: u64) {
        while self.planned.first().is_some_and(|(at_ns, ..)| *at_ns <= now_ns) {
            let (at_ns, _, step) = self.planned.remove(0);
            let mut steps = Vec::new();
            match step {
                Step::Line => self.direction.line(at_ns, &mut steps),
                Step::Arrive(frame) => {
                    let number = u64::from_be_bytes(frame[..8].try_into().expect("eight bytes"));
                    if self.direction.arrive(frame.len() as u64, false) {
                        self.arrived.push((at_ns, number));
                    }
                }
            }
            self.plan(steps);
        }
    }

    fn finish(&mut self) -> &[(u64, u64)] {
        self.until(u64::MAX);
        &self.arrived
    }

    fn change(&mut self, change: Change) {
        self.direction.shape = self.direction.shape.changed(&change).expect("a change that can be");
    }
}

fn numbers(arrived: &[(u64, u64)]) -> Vec<u64> {
    arrived.iter().map(|(_, number)| *number).collect()
}

#[test]
fn a_frame_arrives_after_the_delay_and_not_a_nanosecond_off() {
    let mut way = Way::new(Shape { delay_us: 12_345, ..Shape::default() });
    for number in 0..100 {
        assert_eq!(way.send(number * 777, FRAME), Offer::Taken);
    }
    let expected: Vec<_> = (0..100).map(|number| (number * 777 + 12_345_000, number)).collect();
    assert_eq!(way.finish(), expected);
}

#[test]
fn jitter_stays_within_its_bounds_uses_all_of_them_and_keeps_the_order() {
    let mut way = Way::new(Shape { delay_us: 10_000, jitter_us: 2_000, ..Shape::default() });
    let far_apart = 20 * MS; // no frame waits for the one before
    for number in 0..5_000 {
        way.send(number * far_apart, FRAME);
    }
    let late: Vec<u64> = way.finish().iter().map(|(at, number)| at - number * far_apart).collect();
    assert!(late.iter().all(|late| (8 * MS..=12 * MS).contains(late)));
    assert!(*late.iter().min().unwrap() < 8 * MS + MS / 20 && *late.iter().max().unwrap() > 12 * MS - MS / 20);

    let mut dense = Way::new(Shape { delay_us: 10_000, jitter_us: 9_000, ..Shape::default() });
    for number in 0..5_000 {
        dense.send(number * 10_000, FRAME);
    }
    assert_eq!(numbers(dense.finish()), (0..5_000).collect::<Vec<_>>());
}

#[test]
fn a_rate_spaces_frames_by_the_time_that_they_take_on_the_line() {
    let mut way = Way::new(Shape { rate_bps: 8_000_000, delay_us: 5_000, ..Shape::default() }); // 1000 bytes: 1 ms
    for _ in 0..20 {
        way.send(0, FRAME);
    }
    let expected: Vec<_> = (0..20).map(|number| ((number + 1) * MS + 5 * MS, number)).collect();
    assert_eq!(way.finish(), expected);
    way.send(100 * MS, FRAME); // the line was idle: nothing is saved up, nothing owed
    assert_eq!(way.finish().last(), Some(&(106 * MS, 20)));
}

#[test]
fn a_full_queue_drops_the_last_to_come_and_is_measured_in_bytes() {
    let mut way = Way::new(Shape { rate_bps: 8_000_000, queue_bytes: 5_500, ..Shape::default() });
    let offers: Vec<_> = (0..8).map(|_| way.send(0, FRAME)).collect();
    assert_eq!(offers.iter().filter(|offer| **offer == Offer::Taken).count(), 5);
    assert_eq!(way.send(0, 500), Offer::Taken, "half a kilobyte has room");
    assert_eq!(way.send(1, FRAME), Offer::Dropped);
    assert_eq!(way.send(MS + 1, FRAME), Offer::Taken, "one has left the line");
    assert_eq!(way.direction.counts.queue_full, 4);
    assert_eq!(way.finish().len(), 7);
    assert_eq!(way.direction.held_bytes, 0);
}

#[test]
fn a_faster_line_sends_what_waited_for_the_slower_one_at_its_own_speed() {
    let mut way = Way::new(Shape { rate_bps: 80_000, ..Shape::default() }); // 100 ms a frame
    for _ in 0..10 {
        way.send(0, FRAME);
    }
    way.until(50 * MS);
    way.change(Change { rate_bps: Some(8_000_000), ..Change::default() });
    let expected: Vec<_> = (0..10).map(|number| (100 * MS + number * MS, number)).collect();
    assert_eq!(way.finish(), expected, "only what was on the line goes on as it was");

    let mut way = Way::new(Shape { rate_bps: 80_000, ..Shape::default() });
    way.send_many(10, 0, FRAME);
    way.change(Change { rate_bps: Some(0), ..Change::default() });
    way.send(MS, FRAME);
    assert!(way.finish().iter().all(|(at, _)| *at == 100 * MS), "no limit: all at once, and still in order");
    assert_eq!(numbers(&way.arrived), (0..11).collect::<Vec<_>>());
}

#[test]
fn losses_are_the_share_that_was_asked_and_the_same_each_time() {
    let arrived = |seed: u64| {
        let mut way = Way::new(Shape { loss: 0.03, ..Shape::default() });
        way.direction = Direction::new(way.direction.shape.clone(), seed, 0);
        way.send_many(100_000, 1, 8);
        numbers(way.finish())
    };
    let first = arrived(1);
    let lost = 100_000 - first.len();
    assert!((2_700..=3_300).contains(&lost), "{lost} of 100000 were lost"); // 5.5 standard deviations
    assert_eq!(first, arrived(1));
    assert_ne!(first, arrived(2));
}

#[test]
fn duplicates_come_only_when_asked_for() {
    let mut way = Way::new(Shape { duplicate: 0.1, ..Shape::default() });
    way.send_many(10_000, 1, 8);
    let extra = way.finish().len() - 10_000;
    assert!((800..=1_200).contains(&extra), "{extra}");
    assert_eq!(way.direction.counts.duplicated, extra as u64);
}

#[test]
fn a_reordered_frame_is_held_back_and_the_others_are_not() {
    let shape = Shape { delay_us: 1_000, reorder: 0.1, reorder_us: 5_000, ..Shape::default() };
    let mut way = Way::new(shape);
    way.send_many(1_000, MS, 8);
    let late = way.finish().iter().filter(|(at, number)| at - number * MS == 6 * MS).count();
    let in_time = way.arrived.iter().filter(|(at, number)| at - number * MS == MS).count();
    assert_eq!((late + in_time, late as u64), (1_000, way.direction.counts.reordered));
    assert!((60..=140).contains(&late), "{late}");
    assert!(!way.arrived.is_sorted_by_key(|(_, number)| *number));
}

#[test]
fn a_cut_takes_what_is_under_way_and_healing_brings_nothing_back() {
    let mut way = Way::new(Shape { delay_us: 10_000, ..Shape::default() });
    way.send(0, FRAME);
    way.send(8 * MS, FRAME);
    way.until(11 * MS);
    way.change(Change { is_cut: Some(true), ..Change::default() });
    assert_eq!(way.send(12 * MS, FRAME), Offer::Dropped);
    way.until(30 * MS);
    way.change(Change { is_cut: Some(false), ..Change::default() });
    way.send(31 * MS, FRAME);
    assert_eq!(numbers(way.finish()), [0, 3]);
    assert_eq!(way.direction.counts.cut, 2);
}

#[test]
fn a_shorter_delay_lets_nothing_overtake_what_was_sent_before() {
    let mut way = Way::new(Shape { delay_us: 100_000, ..Shape::default() });
    way.send(0, FRAME);
    way.change(Change { delay_us: Some(1_000), ..Change::default() });
    way.send(10 * MS, FRAME);
    way.send(200 * MS, FRAME);
    assert_eq!(way.finish(), [(100 * MS, 0), (100 * MS, 1), (201 * MS, 2)]);
}

#[test]
fn what_is_larger_than_the_mtu_is_told_or_swallowed() {
    let mut way = Way::new(Shape { mtu: 1_280, ..Shape::default() });
    assert_eq!(way.send(0, 1_280 + 14), Offer::Taken);
    assert_eq!(way.send(0, 1_281 + 14), Offer::TooBig(1_280));
    way.change(Change { is_mtu_silent: Some(true), ..Change::default() });
    assert_eq!(way.send(0, 1_281 + 14), Offer::Dropped);
    assert_eq!(way.direction.counts.too_big, 2);
}

#[test]
fn values_that_no_link_can_have_are_refused_by_name() {
    let cases = [
        (Change { loss: Some(1.5), ..Change::default() }, "loss is 1.5"),
        (Change { loss: Some(-0.1), ..Change::default() }, "loss is -0.1"),
        (Change { reorder: Some(f64::NAN), ..Change::default() }, "reorder is NaN"),
        (Change { delay_us: Some(60_000_001), ..Change::default() }, "delay_us is 60000001"),
        (Change { rate_bps: Some(999), ..Change::default() }, "rate_bps is 999"),
        (Change { queue_bytes: Some(1_513), ..Change::default() }, "queue_bytes is 1513"),
        (Change { queue_bytes: Some(1 << 40), ..Change::default() }, "queue_bytes is 1099511627776"),
        (Change { mtu: Some(575), ..Change::default() }, "mtu is 575"),
    ];
    for (change, told) in cases {
        let refused = Shape::default().changed(&change).expect_err(told).to_string();
        assert!(refused.starts_with(told), "{refused}");
    }
}

#[derive(Clone, Debug)]
enum Act {
    Send { after_us: u64, bytes: usize },
    Change(Change),
}

fn act() -> impl Strategy<Value = Act> {
    let send = (0..2_000u64, 8..1_514usize).prop_map(|(after_us, bytes)| Act::Send { after_us, bytes });
    let rate = prop_oneof![Just(0u64), 10_000..100_000_000u64];
    let change = (
        0..50_000u64,
        0..60_000u64,
        prop_oneof![Just(0.0), 0.0..=1.0f64],
        rate,
        1_514..20_000u64,
        prop_oneof![Just(0u64), 576..1_500u64],
        any::<bool>(),
    )
        .prop_map(|(delay_us, jitter_us, loss, rate_bps, queue_bytes, mtu, is_cut)| {
            Act::Change(Change {
                delay_us: Some(delay_us),
                jitter_us: Some(jitter_us),
                loss: Some(loss),
                rate_bps: Some(rate_bps),
                queue_bytes: Some(queue_bytes),
                mtu: Some(mtu),
                is_cut: Some(is_cut),
                ..Change::default()
            })
        });
    prop_oneof![8 => send, 1 => change]
}

proptest! {
    /// Whatever is asked and changed: no frame from nowhere, none twice, none overtaken, all on the books, nothing kept.
    #[test]
    fn every_frame_arrives_once_in_order_or_is_counted(acts in prop::collection::vec(act(), 1..200)) {
        let mut way = Way::new(Shape::default());
        let (mut now_ns, mut taken) = (0, 0);
        for act in acts {
            match act {
                Act::Send { after_us, bytes } => {
                    now_ns += after_us * 1_000;
                    taken += u64::from(way.send(now_ns, bytes) == Offer::Taken);
                }
                Act::Change(change) => way.change(change),
            }
            let counts = &way.direction.counts;
            let dropped = counts.lost + counts.queue_full + counts.too_big + counts.cut;
            prop_assert_eq!(counts.offered, counts.arrived + dropped + counts.under_way);
            prop_assert!(way.direction.held_bytes <= counts.under_way * 1_514);
        }
        way.finish();
        prop_assert!(numbers(&way.arrived).is_sorted_by(|a, b| a < b));
        prop_assert!(way.arrived.len() as u64 <= taken);
        prop_assert_eq!(way.direction.counts.under_way, 0);
        prop_assert_eq!(way.direction.held_bytes, 0);
    }

    #[test]
    fn duplicates_and_reordering_invent_nothing(acts in prop::collection::vec(act(), 1..100)) {
        let mut way = Way::new(Shape { duplicate: 0.3, reorder: 0.3, ..Shape::default() });
        let mut now_ns = 0;
        for act in acts {
            match act {
                Act::Send { after_us, bytes } => {
                    now_ns += after_us * 1_000;
                    way.send(now_ns, bytes);
                }
                Act::Change(change) => way.change(change),
            }
        }
        way.finish();
        let counts = &way.direction.counts;
        let dropped = counts.lost + counts.queue_full + counts.too_big + counts.cut;
        prop_assert_eq!(counts.offered + counts.duplicated, counts.arrived + dropped);
        let mut seen = numbers(&way.arrived);
        seen.sort_unstable();
        prop_assert!(seen.iter().all(|number| *number < way.sent));
        prop_assert!(seen.windows(3).all(|three| three[0] != three[2]), "one came three times");
        prop_assert_eq!(way.direction.held_bytes, 0);
    }
}

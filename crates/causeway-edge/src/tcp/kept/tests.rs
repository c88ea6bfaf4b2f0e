//! What is kept, for how long, and how much of it.
#![allow(clippy::unwrap_used)]

use super::*;

fn first(registry: &Arc<Registry>) -> Kept {
    let mut kept = Kept::new([7; 16], Name::new(b"fra-1"), registry.clone(), 0);
    kept.is_answered = true;
    kept
}

/// It has said so much, all of it on its way.
fn saying(registry: &Arc<Registry>, len: usize) -> Kept {
    let mut kept = first(registry);
    kept.take(&vec![1; len]);
    kept.written = kept.total;
    kept
}

#[test]
fn what_was_passed_on_is_not_kept_and_makes_room_for_more() {
    let mut kept = saying(&Arc::default(), WINDOW_BYTES);
    assert_eq!(kept.room(), 0);
    kept.hear(Word::Passed(1_000), 0).unwrap();
    assert_eq!((kept.room(), kept.unpassed.len()), (1_000, WINDOW_BYTES - 1_000));
    kept.hear(Word::Passed(900), 0).unwrap();
    assert_eq!(kept.room(), 1_000, "older than what is known");
}

#[test]
fn what_the_other_edge_cannot_have_makes_no_sense() {
    let words = [
        Word::Passed(11),
        Word::Arrived(5), // nobody has asked
    ];
    for word in words {
        assert_eq!(saying(&Arc::default(), 10).hear(word, 0), Err(Nonsense), "{word:?}");
    }
    for arrived in [3, 12] {
        let mut kept = saying(&Arc::default(), 10);
        kept.has_ended = true;
        kept.hear(Word::Passed(4), 0).unwrap();
        kept.lose(0);
        assert_eq!(kept.go_on(arrived, 0), Err(Nonsense), "{arrived}");
    }
}

#[test]
fn it_goes_on_from_what_has_arrived_with_its_end_where_that_has_not() {
    for (arrived, written, has_written_end) in [(4, 4, false), (10, 10, false), (11, 10, true)] {
        let mut kept = saying(&Arc::default(), 10);
        (kept.has_ended, kept.has_written_end) = (true, true);
        kept.hear(Word::Passed(4), 0).unwrap();
        kept.lose(0);
        kept.join(0, 100);
        kept.hear(Word::Arrived(arrived), 0).unwrap();
        assert_eq!((kept.phase, kept.written, kept.has_written_end), (Phase::Open, written, has_written_end));
    }
}

#[test]
fn without_a_connection_it_is_kept_for_thirty_seconds_from_the_first_loss_on() {
    let mut kept = first(&Arc::default());
    kept.lose(1_000);
    assert_eq!(kept.due_ms(), 1_000 + KEEP_MS);
    kept.join(5_000, 7_000);
    kept.lose(7_000);
    assert_eq!(kept.due_ms(), 1_000 + KEEP_MS, "a connection over which nobody has answered is none");
    kept.go_on(0, 8_000).unwrap();
    kept.lose(9_000);
    assert_eq!(kept.due_ms(), 9_000 + KEEP_MS);
}

#[test]
fn an_edge_that_is_silent_is_asked_and_then_given_up() {
    let mut kept = first(&Arc::default());
    kept.note_rtt(100);
    assert!(!kept.must_ask(999, false) && kept.must_ask(1_000, false));
    kept.asked_ms = 1_000;
    assert!(!kept.is_unheard(2_199) && kept.is_unheard(2_200), "a second and two round trips");
    kept.be_patient();
    assert!(!kept.is_unheard(3_199) && kept.is_unheard(3_200));
    kept.note_heard(2_000);
    assert!(!kept.is_unheard(9_000));
}

#[test]
fn an_idle_flow_asks_less_and_less_often_and_at_once_when_it_has_something_to_say() {
    let mut kept = first(&Arc::default());
    let mut now_ms = 0;
    let mut pauses = Vec::new();
    for _ in 0..6 {
        let due_ms = kept.due_ms();
        pauses.push(due_ms - now_ms);
        now_ms = due_ms;
        kept.asked_ms = now_ms;
        kept.hear(Word::Here, now_ms).unwrap();
        kept.note_heard(now_ms);
    }
    assert_eq!(pauses, [1_000, 2_000, 4_000, 8_000, 15_000, 15_000]);
    assert!(!kept.must_ask(now_ms + 1_000, false) && kept.must_ask(now_ms + 1_000, true));
}

#[test]
fn a_flow_that_is_too_much_for_all_together_is_not_kept_any_more_and_the_others_are() {
    let registry = Arc::new(Registry::holding(300_000));
    let mut small = saying(&registry, 100_000);
    assert!(small.settle());
    let mut large = saying(&registry, 400_000);
    assert!(!large.settle(), "it hears of it once");
    assert!(large.settle());
    assert!(!large.is_retained() && small.is_retained());
    assert!(large.room() < WINDOW_BYTES, "and still says no more than a window ahead");
    large.lose(0);
    assert_eq!(large.go_on(400_000, 0), Err(Nonsense), "it cannot go on elsewhere");
    drop((small, large));
    assert_eq!(registry.held_bytes(), 0);
}

//! A small world in virtual time: frames as nodes send them, and the answers of the WAN itself.

use std::net::Ipv6Addr;

use causeway_lab::{Change, Wan, World, read_world};
use proptest::prelude::*;

const MS: u64 = 1_000_000;
const MACS: [[u8; 6]; 3] = [[2, 0xca, 0x5e, 1, 0, 1], [2, 0xca, 0x5e, 1, 0, 2], [2, 0xca, 0x5e, 1, 0, 3]];
const A: usize = 0;
const B: usize = 1;
const C: usize = 2;

/// a - b with 10 ms each way, b - c with 5 there and 7 back; a and c are not joined.
fn text() -> String {
    let nodes: Vec<String> = ["a", "b", "c"]
        .iter()
        .enumerate()
        .map(|(i, name)| {
            let n = i + 1;
            format!(
                r#"{{"name":"{name}","namespace":"/run/netns/{name}","device":"wan0","mac":"02:ca:5e:01:00:0{n}",
                "prefixes":["198.18.{n}.0/24","2001:db8:{n}::/48"]}}"#
            )
        })
        .collect();
    format!(
        r#"{{"seed":1,"nodes":[{}],"links":[
        {{"between":["a","b"],"there":{{"delay_us":10000}},"back":{{"delay_us":10000}}}},
        {{"between":["b","c"],"there":{{"delay_us":5000}},"back":{{"delay_us":7000}}}}]}}"#,
        nodes.join(",")
    )
}

fn world() -> World {
    read_world(text().as_bytes()).expect("a right world")
}

fn wan() -> Wan {
    Wan::new(&world()).expect("a right world")
}

fn packet(from: usize, to: usize, number: u64, bytes: usize) -> Vec<u8> {
    let mut frame = [&MACS[to][..], &MACS[from][..], &[8, 0]].concat();
    frame.extend([0x45, 0]);
    frame.extend((bytes as u16).to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, 17, 0, 0, 198, 18, from as u8 + 1, 1, 198, 18, to as u8 + 1, 1]);
    frame.extend(number.to_be_bytes());
    frame.resize(14 + bytes, 0);
    frame
}

fn packet_v6(from: usize, to: usize, next: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = [&MACS[to][..], &MACS[from][..], &[0x86, 0xdd, 0x60, 0, 0, 0]].concat();
    frame.extend((body.len() as u16).to_be_bytes());
    frame.extend([next, 255]);
    frame.extend(address(from).octets());
    frame.extend(address(to).octets());
    frame.extend(body);
    frame
}

fn address(node: usize) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, node as u16 + 1, 0, 0, 0, 0, 1)
}

fn all(wan: &mut Wan, until_ns: u64) -> Vec<(u64, usize, Vec<u8>)> {
    std::iter::from_fn(|| wan.take(until_ns)).map(|d| (d.due_ns, d.node, d.frame.into_vec())).collect()
}

fn sum_is_right(bytes: &[u8]) -> bool {
    let mut sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |b| u32::from(*b))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum == 0xffff
}

#[test]
fn a_frame_takes_the_link_between_its_two_nodes_and_is_the_same_at_the_other_end() {
    let mut wan = wan();
    let frames = [packet(A, B, 1, 100), packet(B, C, 2, 100), packet(C, B, 3, 1_500)];
    wan.receive(0, A, &frames[0]);
    wan.receive(0, B, &frames[1]);
    wan.receive(0, C, &frames[2]);
    assert_eq!(wan.next_due_ns(), Some(5 * MS));
    assert!(all(&mut wan, 5 * MS - 1).is_empty());
    let expected = [(5 * MS, C, frames[1].clone()), (7 * MS, B, frames[2].clone()), (10 * MS, B, frames[0].clone())];
    assert_eq!(all(&mut wan, 20 * MS), expected);
    assert_eq!(wan.next_due_ns(), None);
}

#[test]
fn a_next_hop_gets_what_is_for_others() {
    let mut wan = wan();
    let mut frame = packet(A, C, 1, 60);
    frame[..6].copy_from_slice(&MACS[B]);
    wan.receive(0, A, &frame);
    assert_eq!(all(&mut wan, MS * 99)[0].1, B);
}

#[test]
fn what_leads_nowhere_goes_nowhere_and_is_counted() {
    let mut wan = wan();
    wan.receive(0, A, &packet(A, C, 1, 60));
    assert_eq!(wan.outside.unlinked, 1, "no link");
    let mut strange = packet(A, B, 1, 60);
    strange[5] = 77;
    wan.receive(0, A, &strange);
    assert_eq!(wan.outside.unlinked, 2, "no node has this MAC");
    for outside in [[10, 0, 0, 1], [8, 8, 8, 8], [198, 17, 255, 255], [198, 20, 0, 0], [127, 0, 0, 1]] {
        let mut escaping = packet(A, B, 1, 60);
        escaping[30..34].copy_from_slice(&outside);
        wan.receive(0, A, &escaping);
    }
    assert_eq!(wan.outside.fenced, 5);
    let mut to_all = packet(A, B, 1, 60);
    to_all[..6].copy_from_slice(&[0xff; 6]);
    wan.receive(0, A, &to_all);
    assert_eq!(wan.outside.local, 1);
    assert!(all(&mut wan, u64::MAX).is_empty());
}

#[test]
fn the_wan_says_where_an_address_is() {
    let mut wan = wan();
    let mut question = [&[0xff; 6][..], &MACS[A][..], &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &MACS[A][..]].concat();
    question.extend([198, 18, 1, 1, 0, 0, 0, 0, 0, 0, 198, 18, 2, 9]);
    wan.receive(3, A, &question);
    let mut expected = [&MACS[A][..], &MACS[B][..], &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2], &MACS[B][..]].concat();
    expected.extend([198, 18, 2, 9]);
    expected.extend(MACS[A]);
    expected.extend([198, 18, 1, 1]);
    assert_eq!(all(&mut wan, 3), [(3, A, expected)]);
    question[38..42].copy_from_slice(&[198, 18, 77, 1]);
    wan.receive(4, A, &question);
    assert!(all(&mut wan, u64::MAX).is_empty(), "an address that nobody has");
}

#[test]
fn the_wan_says_where_an_ipv6_address_is() {
    let mut wan = wan();
    let mut body = vec![135, 0, 0, 0, 0, 0, 0, 0];
    body.extend(address(B).octets());
    let mut question = packet_v6(A, B, 58, &body);
    question[..6].copy_from_slice(&[0x33, 0x33, 0xff, 0, 0, 1]);
    wan.receive(0, A, &question);
    let [(0, A, answer)] = &all(&mut wan, 0)[..] else { panic!("one answer, to a") };
    assert_eq!(answer[..12], [MACS[A], MACS[B]].concat());
    assert_eq!((answer[54], &answer[62..78], &answer[80..86]), (136, &address(B).octets()[..], &MACS[B][..]));
    let pseudo = [&answer[22..54], &[0, 0, 0, 32, 0, 0, 0, 58], &answer[54..]].concat();
    assert!(sum_is_right(&pseudo));
    question[22..38].fill(0);
    wan.receive(0, A, &question);
    assert!(all(&mut wan, 0).is_empty(), "who tries its own address is not told that it is taken");
}

#[test]
fn the_sender_of_what_is_too_big_is_told_the_mtu() {
    let mut wan = wan();
    wan.change("a", "b", &Change { mtu: Some(1_280), ..Change::default() }).unwrap();
    wan.receive(0, A, &packet(A, B, 1, 1_400));
    let [(0, A, told)] = &all(&mut wan, 0)[..] else { panic!("one answer, to a") };
    assert_eq!((&told[34..36], &told[40..42], &told[30..34]), (&[3, 4][..], &[5, 0][..], &[198, 18, 1, 1][..]));
    assert!(sum_is_right(&told[14..34]) && sum_is_right(&told[34..]));
    assert_eq!(told[42..62], packet(A, B, 1, 1_400)[14..34]);

    wan.receive(0, A, &packet_v6(A, B, 17, &[0; 1_300]));
    let [(0, A, told)] = &all(&mut wan, 0)[..] else { panic!("one answer, to a") };
    assert_eq!((told[54], &told[58..62], told.len()), (2, &[0, 0, 5, 0][..], 14 + 1_280));
    let length = (told.len() as u32 - 54).to_be_bytes();
    assert!(sum_is_right(&[&told[22..54], &length, &[0, 0, 0, 58], &told[54..]].concat()));

    let mut may_be_cut_up = packet(A, B, 1, 1_400);
    may_be_cut_up[20] = 0;
    wan.receive(0, A, &may_be_cut_up);
    wan.change("a", "b", &Change { is_mtu_silent: Some(true), ..Change::default() }).unwrap();
    wan.receive(0, A, &packet(A, B, 1, 1_400));
    assert!(all(&mut wan, u64::MAX).is_empty(), "told to nobody");
    assert_eq!(wan.direction("a", "b").unwrap().counts.too_big, 4);
}

#[test]
fn a_node_that_is_down_hears_and_says_nothing() {
    let mut wan = wan();
    wan.receive(0, A, &packet(A, B, 1, 60));
    wan.set_down("b", true).unwrap();
    wan.receive(0, A, &packet(A, B, 2, 60));
    wan.receive(0, C, &packet(C, B, 3, 60));
    wan.receive(0, B, &packet(B, A, 4, 60));
    assert!(all(&mut wan, 50 * MS).is_empty());
    wan.set_down("b", false).unwrap();
    wan.receive(50 * MS, A, &packet(A, B, 5, 60));
    assert_eq!(all(&mut wan, 99 * MS), [(60 * MS, B, packet(A, B, 5, 60))]);
    assert_eq!(wan.direction("a", "b").unwrap().counts.cut, 2);
}

#[test]
fn worlds_that_contradict_themselves_are_refused() {
    let right = text();
    let cases = [
        (right.replace("\"name\":\"c\"", "\"name\":\"b\""), "two nodes are called"),
        (right.replace(":00:03", ":00:02"), "has the MAC of another"),
        (right.replace("02:ca:5e:01:00:03", "03:ca:5e:01:00:03"), "no MAC address of one station"),
        (right.replace("[\"b\",\"c\"]", "[\"b\",\"d\"]"), "no node is called \"d\""),
        (right.replace("[\"b\",\"c\"]", "[\"b\",\"a\"]"), "joined already"),
        (right.replace("[\"b\",\"c\"]", "[\"b\",\"b\"]"), "are one or joined already"),
        (right.replace("198.18.3.0/24", "198.18.3.1/24"), "no prefix"),
        (right.replace("{\"delay_us\":7000}", "{\"loss\":2}"), "loss is 2"),
        (right.replace("\"seed\":1", "\"seed\":1,\"speed\":2"), "unknown field"),
        (right.replace("\"seed\":1,", ""), "missing field"),
    ];
    for (text, told) in cases {
        let refused = read_world(text.as_bytes()).expect_err(told).to_string();
        assert!(refused.contains(told), "{refused} does not say {told}");
    }
    for end in 0..right.len() {
        assert!(read_world(&right.as_bytes()[..end]).is_err(), "{}", &right[..end]);
    }
}

proptest! {
    /// Any bytes from a node: nothing panics, and what gets out of the WAN has come in or is an answer to its sender.
    #[test]
    fn no_frame_from_nowhere(frames in prop::collection::vec(
        (0..3usize, prop_oneof![
            prop::collection::vec(any::<u8>(), 0..120),
            (0..3usize, 40..1_500usize).prop_map(|(to, bytes)| packet(A, to, 9, bytes)),
            // A frame that is right but for a few bytes, or its end.
            (0..3usize, 0..100usize, any::<u8>(), 0..100usize).prop_map(|(to, at, byte, end)| {
                let mut frame = packet_v6(A, to, 58, &[135; 60]);
                frame[at] = byte;
                frame.truncate(frame.len() - end);
                frame
            }),
        ]), 0..60)) {
        let mut wan = wan();
        wan.change("a", "b", &Change { mtu: Some(576), ..Change::default() }).unwrap();
        for (number, (from, frame)) in frames.iter().enumerate() {
            wan.receive(number as u64, *from, frame);
        }
        let sent: Vec<&Vec<u8>> = frames.iter().map(|(_, frame)| frame).collect();
        let out = all(&mut wan, u64::MAX);
        let carried = out.iter().filter(|(_, _, frame)| sent.contains(&frame)).count() as u64;
        let counts = wan.directions().map(|(_, _, d)| (d.counts.arrived, d.counts.too_big));
        let (arrived, too_big) = counts.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        prop_assert!(arrived <= carried);
        prop_assert!(out.len() as u64 <= arrived + too_big + wan.outside.answered);
        prop_assert_eq!(wan.held_bytes(), 0);
    }
}

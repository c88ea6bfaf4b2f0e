//! What may be asked of a running WAN, and what may not: nothing that is refused changes anything.

use causeway_lab::{Change, Command, LINE_BYTES, Late, Wan, answer, read_world};
use proptest::prelude::*;

fn wan() -> Wan {
    let node = |n: u8| {
        format!(
            r#"{{"name":"n{n}","namespace":"x","device":"wan0","mac":"02:00:00:00:00:0{n}","prefixes":["198.18.{n}.0/24"]}}"#
        )
    };
    let text = format!(
        r#"{{"seed":1,"nodes":[{},{},{}],"links":[{{"between":["n1","n2"],"there":{{}},"back":{{"delay_us":5}}}}]}}"#,
        node(1),
        node(2),
        node(3)
    );
    Wan::new(&read_world(text.as_bytes()).expect("a right world")).expect("a right world")
}

fn ask(wan: &mut Wan, line: &[u8]) -> String {
    let mut told = String::from_utf8(answer(wan, line, &Late::default(), true)).expect("text");
    assert_eq!(told.pop(), Some('\n'));
    assert!(!told.contains('\n'), "one line");
    told
}

const RIGHT: [&str; 5] = [
    r#"{"do":"link","from":"n1","to":"n2","is_both_ways":true,"change":{"delay_us":40000,"loss":0.5,"is_cut":false}}"#,
    r#"{"do":"node","name":"n3","is_down":true}"#,
    r#"{"do":"status","is_all":false}"#,
    r#"{"do":"status","is_all":true}"#,
    r#"{"do":"direction","from":"n2","to":"n1"}"#,
];

#[test]
fn a_link_changes_both_ways_or_one() {
    let mut wan = wan();
    let shapes = |wan: &Wan| {
        let delay_us = |a, b| wan.direction(a, b).unwrap().shape.delay_us;
        (delay_us("n1", "n2"), delay_us("n2", "n1"))
    };
    assert_eq!(ask(&mut wan, RIGHT[0].as_bytes()), r#"{"ok":true}"#);
    assert_eq!(shapes(&wan), (40_000, 40_000));
    let one_way = RIGHT[0].replace("true", "false").replace("40000", "7");
    assert_eq!(ask(&mut wan, one_way.as_bytes()), r#"{"ok":true}"#);
    assert_eq!(shapes(&wan), (7, 40_000));
    assert_eq!(wan.direction("n1", "n2").unwrap().shape.loss, 0.5);
}

#[test]
fn status_tells_of_links_that_were_changed_or_of_all() {
    let mut wan = wan();
    assert!(!ask(&mut wan, RIGHT[2].as_bytes()).contains("\"from\""));
    assert_eq!(ask(&mut wan, RIGHT[3].as_bytes()).matches("\"from\"").count(), 2);
    let one = ask(&mut wan, RIGHT[4].as_bytes());
    assert!(one.contains(r#""links":[{"from":"n2","to":"n1","shape":{"delay_us":5,"#), "{one}");
    ask(&mut wan, RIGHT[0].as_bytes());
    ask(&mut wan, RIGHT[1].as_bytes());
    let told = ask(&mut wan, RIGHT[2].as_bytes());
    assert_eq!(told.matches("\"from\"").count(), 2);
    assert!(told.contains(r#""down":["n3"]"#) && told.contains(r#""is_realtime":true"#), "{told}");
}

#[test]
fn what_cannot_be_is_refused_with_a_code() {
    let cases = [
        (RIGHT[0].replace("n2", "n9"), "lab_unknown_node"),
        (RIGHT[0].replace("n2", "n3"), "lab_unknown_link"),
        (RIGHT[0].replace("0.5", "1.5"), "lab_link_value"),
        (RIGHT[0].replace("40000", "-1"), "lab_command"),
        (RIGHT[0].replace("delay_us", "delay_ms"), "lab_command"),
        (RIGHT[0].replace("\"do\":\"link\"", "\"do\":\"explode\""), "lab_command"),
        (RIGHT[4].replace("n1", "n3"), "lab_unknown_link"),
        (RIGHT[1].replace("true", "1"), "lab_command"),
        (RIGHT[1].replace("n3", "n4"), "lab_unknown_node"),
        (format!("{} {}", RIGHT[1], RIGHT[1]), "lab_command"),
        ("[".repeat(60_000), "lab_command"),
        ("x".repeat(LINE_BYTES + 1), "lab_command"),
        (String::new(), "lab_command"),
    ];
    for (line, code) in cases {
        let told = ask(&mut wan(), line.as_bytes());
        assert!(told.starts_with(&format!(r#"{{"ok":false,"code":"{code}","#)), "{line:.80}: {told}");
    }
}

#[test]
fn no_beginning_of_a_command_is_a_command() {
    for line in RIGHT {
        for end in 0..line.len() {
            assert!(Command::read(&line.as_bytes()[..end]).is_err(), "{}", &line[..end]);
        }
        assert!(Command::read(format!("{line}}}").as_bytes()).is_err());
        assert!(Command::read(format!(" {line} \r").as_bytes()).is_ok(), "white space around it is nothing");
    }
}

#[test]
fn a_change_that_one_direction_refuses_changes_neither() {
    let mut wan = wan();
    let line = r#"{"do":"link","from":"n1","to":"n2","is_both_ways":true,"change":{"delay_us":9,"mtu":1}}"#;
    assert!(ask(&mut wan, line.as_bytes()).contains("lab_link_value"));
    assert_eq!(wan.direction("n1", "n2").unwrap().shape.delay_us, 0);
    assert_eq!(wan.direction("n2", "n1").unwrap().shape.delay_us, 5);
}

proptest! {
    #[test]
    fn any_bytes_get_one_line_back(line in prop::collection::vec(any::<u8>(), 0..300)) {
        ask(&mut wan(), &line);
    }

    #[test]
    fn a_command_with_a_wrong_byte_is_obeyed_or_refused_and_never_half(
        which in 0..RIGHT.len(), at in 0..40usize, byte in any::<u8>(),
    ) {
        let mut line = RIGHT[which].as_bytes().to_vec();
        let at = at % line.len();
        line[at] = byte;
        let mut wan = wan();
        let told = ask(&mut wan, &line);
        if told.contains(r#""ok":false"#) {
            let untouched = wan.directions().all(|(_, _, direction)| !direction.is_changed);
            prop_assert!(untouched && wan.down().next().is_none());
        }
    }

    #[test]
    fn a_command_that_is_written_is_read_back(
        delay_us in prop::option::of(0..60_000_000u64), loss in prop::option::of((0..=64u8).prop_map(|n| f64::from(n) / 64.0)), is_cut in any::<Option<bool>>(),
    ) {
        let change = Change { delay_us, loss, is_cut, ..Change::default() };
        let command = Command::Link { from: "n1".into(), to: "n2".into(), is_both_ways: true, change };
        let text = serde_json::to_vec(&command).unwrap();
        prop_assert_eq!(Command::read(&text).unwrap(), command);
    }
}

//! Ways of flows that are said apart from snapshots, and what edges measure for whoever chooses them.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use support::line::Line;
use support::network::{Member, network};
use support::{application, connect, echo, eventually, free_address, origin};

const APPLICATION: u128 = 1;

/// par has the clients, all may connect to the origin.
fn serve(members: &[Member], edge: SocketAddr, origin: SocketAddr) {
    for (number, member) in members.iter().enumerate() {
        let addresses = if number == 0 { json!([edge.ip()]) } else { json!([]) };
        let change = json!({"steered": true, "exit": true, "edge_addresses": addresses});
        member.apply(members, &[application(APPLICATION as u64, "tcp", edge, &[origin], change)]);
    }
}

fn plan(paths: &Value, ttl_ms: u64) -> Value {
    let applications = json!([{"id": format!("{APPLICATION:032x}"), "paths": paths}]);
    json!({"version": 5, "ttl_ms": ttl_ms, "direct_one_in": 0, "legs": [], "reach": [], "applications": applications})
}

fn steer(member: &Member, plan: &Value) {
    member.edge.steer(plan.to_string().as_bytes()).unwrap();
}

/// Flows that each edge has had for others, after one more.
fn relayed(members: &[Member], edge: SocketAddr) -> Vec<u64> {
    let mut client = connect(edge);
    client.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
    relayed_now(members)
}

fn relayed_now(members: &[Member]) -> Vec<u64> {
    let count = |member: &Member| member.report()["overlay"]["relayed"]["connections_total"].as_u64().unwrap();
    members.iter().map(count).collect()
}

fn steering(member: &Member) -> Value {
    member.report()["overlay"]["steering"].clone()
}

#[test]
fn flows_go_as_was_said_last_and_direct_before_and_after() {
    let members = network(&["par", "lon", "fra"]);
    let (edge, origin) = (free_address("127.0.0.1"), origin("127.0.0.1", echo));
    serve(&members, edge, origin);
    assert_eq!(relayed(&members, edge), [0, 0, 0], "nobody has said anything");
    steer(&members[0], &plan(&json!([["lon", "fra"], []]), 60_000));
    assert_eq!(relayed(&members, edge), [0, 1, 1]);
    steer(&members[0], &plan(&json!([["fra"], []]), 60_000));
    assert_eq!(relayed(&members, edge), [0, 1, 2]);
    steer(&members[0], &plan(&json!([["fra"], []]), 200));
    assert_eq!(steering(&members[0])["version"], 5);
    std::thread::sleep(Duration::from_millis(300)); // of the plan's own time
    assert_eq!(relayed(&members, edge), [0, 1, 2], "what was said held for 200 ms");
    assert_eq!(steering(&members[0])["version"], 0);
}

#[test]
fn a_snapshot_changes_nothing_of_what_was_said() {
    let members = network(&["par", "fra"]);
    let (edge, origin) = (free_address("127.0.0.1"), origin("127.0.0.1", echo));
    steer(&members[0], &plan(&json!([["fra"], []]), 60_000)); // of an application that is not there yet
    serve(&members, edge, origin);
    assert_eq!(relayed(&members, edge), [0, 0]);
    steer(&members[0], &plan(&json!([["fra"], []]), 60_000));
    assert_eq!(relayed(&members, edge), [0, 1]);
    serve(&members, edge, origin);
    let change = json!({"steered": true, "exit": true, "idle_timeout_ms": 5000});
    members[0].apply(&members, &[application(APPLICATION as u64, "tcp", edge, &[origin], change)]);
    assert_eq!(relayed(&members, edge), [0, 2], "and the same after its application was changed");
}

#[test]
fn an_origin_that_cannot_be_reached_from_here_is_reached_over_another_edge() {
    let members = network(&["par", "fra"]);
    let (edge, origin, nobody) = (free_address("127.0.0.1"), origin("127.0.0.1", echo), free_address("127.0.0.1"));
    serve(&members, edge, origin);
    let here = json!({"steered": true, "exit": true});
    members[0].apply(&members, &[application(APPLICATION as u64, "tcp", edge, &[nobody], here)]);
    steer(&members[0], &plan(&json!([[], ["fra"]]), 60_000));
    assert_eq!(relayed(&members, edge), [0, 1], "direct is first, and leads nowhere");
}

/// It takes one connection and answers no more: a SYN is lost there.
fn silent() -> (SocketAddr, impl Drop) {
    let silent = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    silent.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    silent.listen(0).unwrap();
    let address = silent.local_addr().unwrap().as_socket().unwrap();
    struct Held(#[allow(dead_code)] socket2::Socket, #[allow(dead_code)] TcpStream);
    impl Drop for Held {
        fn drop(&mut self) {}
    }
    let full = connect(address);
    (address, Held(silent, full))
}

#[test]
fn a_flow_whose_origin_is_not_reached_from_there_says_all_again_on_the_next_path() {
    let members = network(&["par", "lon", "fra"]);
    let (edge, origin, (silent, _held)) = (free_address("127.0.0.1"), origin("127.0.0.1", echo), silent());
    serve(&members, edge, origin);
    let there = json!({"steered": true, "exit": true, "edge_addresses": [], "connect_timeout_ms": 300});
    members[1].apply(&members, &[application(APPLICATION as u64, "tcp", edge, &[silent], there)]);
    for (says, then) in [(&b"all of it"[..], &b""[..]), (b"some", b" and the rest"), (&[7; 9000], b"")] {
        steer(&members[0], &plan(&json!([["lon"], ["fra"], []]), 60_000)); // lon is no longer avoided
        steer(&members[0], &plan(&json!([["lon"], ["fra"]]), 60_000));
        let mut client = connect(edge);
        client.write_all(says).unwrap();
        client.write_all(then).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).unwrap();
        assert_eq!(heard, [says, then].concat());
    }
    let record = members[0].record("closed");
    assert_eq!(record["origin"], json!(origin.to_string()), "{record}");
}

#[test]
fn an_origin_that_does_not_answer_is_not_waited_for_as_long_as_it_may_take_where_there_is_another_way() {
    let members = network(&["par", "lon", "fra"]);
    let (edge, origin) = (free_address("127.0.0.1"), origin("127.0.0.1", echo));
    let (silent, _held) = silent();
    serve(&members, edge, origin);
    for (number, addresses) in [json!([edge.ip()]), json!([])].into_iter().enumerate() {
        let change = json!({"steered": true, "exit": true, "edge_addresses": addresses, "connect_timeout_ms": 60_000});
        members[number].apply(&members, &[application(APPLICATION as u64, "tcp", edge, &[silent], change)]);
    }
    for paths in [json!([["lon"], ["fra"]]), json!([[], ["fra"]])] {
        steer(&members[0], &plan(&paths, 60_000));
        let before = relayed_now(&members)[2];
        assert!(relayed(&members, edge)[2] > before, "{paths}");
    }
    let reach = &steering(&members[0])["reach"][0];
    assert_eq!((reach["connects"].as_u64(), reach["failed"].as_u64()), (Some(1), Some(0)), "as if its SYN was lost");
}

#[test]
fn a_flow_whose_origin_is_not_reached_over_another_edge_goes_direct_with_all_that_it_has_said() {
    let members = network(&["par", "lon"]);
    let (edge, origin, (silent, _held)) = (free_address("127.0.0.1"), origin("127.0.0.1", echo), silent());
    serve(&members, edge, origin);
    let there = json!({"steered": true, "exit": true, "edge_addresses": [], "connect_timeout_ms": 300});
    members[1].apply(&members, &[application(APPLICATION as u64, "tcp", edge, &[silent], there)]);
    steer(&members[0], &plan(&json!([["lon"], []]), 60_000));
    let mut client = connect(edge);
    client.write_all(b"hello").unwrap();
    client.read_exact(&mut [0; 5]).unwrap();
    let began = std::time::Instant::now();
    assert_eq!(relayed(&members, edge), [0, 1], "lon is avoided for a while");
    assert!(began.elapsed() < Duration::from_millis(300));
}

#[test]
fn a_flow_does_not_wait_for_a_connection_to_an_edge_that_takes_long_and_says_nothing_against_it() {
    let members = network(&["par", "fra"]);
    let (edge, origin) = (free_address("127.0.0.1"), origin("127.0.0.1", echo));
    serve(&members, edge, origin);
    let mut said = plan(&json!([["fra"], []]), 60_000);
    said["legs"] = json!(["fra"]);
    steer(&members[0], &said);
    eventually("fra answers", || (steering(&members[0])["legs"].as_array()?.len() == 1).then_some(()));
    let deaf = std::net::TcpListener::bind("127.0.0.1:0").unwrap(); // it never shakes hands
    let here = json!({"steered": true, "exit": true});
    let app = application(APPLICATION as u64, "tcp", edge, &[origin], here);
    let others = [("par", members[0].at), ("fra", deaf.local_addr().unwrap())];
    members[0].apply_among(&others, &[app]);
    let errors = |member: &Member| member.report()["applications"][0]["connect_errors_total"].as_u64().unwrap();
    for _ in 0..3 {
        let mut client = connect(edge); // the first may still find a connection to the edge that was there
        client.write_all(b"hello").unwrap();
        client.read_exact(&mut [0; 5]).unwrap();
    }
    assert_eq!(errors(&members[0]), 0, "no path was found to be broken");
}

/// Stands before an edge, and holds up whoever comes while it is shut.
struct Door {
    address: SocketAddr,
    is_shut: Arc<Mutex<bool>>,
    held: Arc<Mutex<Vec<TcpStream>>>,
    to: SocketAddr,
}

impl Door {
    fn before(to: SocketAddr) -> Door {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (is_shut, held) = (Arc::new(Mutex::new(false)), Arc::new(Mutex::new(Vec::new())));
        let door = Door { address: listener.local_addr().unwrap(), is_shut: is_shut.clone(), held: held.clone(), to };
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                match *is_shut.lock().unwrap() {
                    true => held.lock().unwrap().push(stream),
                    false => lead(stream, to),
                }
            }
        });
        door
    }

    fn shut(&self) {
        *self.is_shut.lock().unwrap() = true;
    }

    fn open(&self) {
        *self.is_shut.lock().unwrap() = false;
        self.held.lock().unwrap().drain(..).for_each(|stream| lead(stream, self.to));
    }
}

fn lead(from: TcpStream, to: SocketAddr) {
    let onward = connect(to);
    for (mut one, mut other) in [(from.try_clone().unwrap(), onward.try_clone().unwrap()), (onward, from)] {
        for end in [&one, &other] {
            end.set_read_timeout(None).unwrap();
        }
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut one, &mut other);
            let _ = other.shutdown(Shutdown::Both);
        });
    }
}

#[test]
fn a_flow_that_has_gone_on_to_another_edge_is_not_taken_by_the_one_that_it_waited_for_before() {
    let members = network(&["par", "lon", "fra"]);
    let (edge, origin) = (free_address("127.0.0.1"), origin("127.0.0.1", echo));
    serve(&members, edge, origin);
    let (lon, fra) = (Door::before(members[1].at), Door::before(members[2].at));
    let app = application(APPLICATION as u64, "tcp", edge, &[origin], json!({"steered": true, "exit": true}));
    members[0].apply_among(&[("par", members[0].at), ("lon", lon.address), ("fra", fra.address)], &[app]);
    let mut said = plan(&json!([["lon"], ["fra"]]), 60_000);
    said["legs"] = json!(["lon", "fra"]);
    steer(&members[0], &said);
    eventually("both answer", || {
        let legs = steering(&members[0])["legs"].clone();
        (legs.as_array()?.iter().filter(|leg| leg["answers"].as_u64() > Some(0)).count() == 2).then_some(())
    });
    assert_eq!(relayed(&members, edge), [0, 1, 0]);
    lon.shut();
    fra.shut();
    let hears = |client: &mut TcpStream, within_ms: u64| {
        client.set_read_timeout(Some(Duration::from_millis(within_ms))).unwrap();
        client.read(&mut [0]).is_ok_and(|n| n == 1)
    };
    let waited = || members[0].counted("flows_waited_total");
    let (mut client, before) = eventually("a flow finds no connection that is ready", || {
        let before = waited();
        let mut client = connect(edge);
        client.write_all(b"x").unwrap();
        (!hears(&mut client, 600)).then_some((client, before))
    });
    eventually("it waits for fra, too", || (waited() >= before + 2).then_some(()));
    let [_, at_lon, at_fra] = relayed_now(&members)[..] else { unreachable!() };
    lon.open();
    assert!(!hears(&mut client, 500), "lon is not on its path any more");
    fra.open();
    assert!(hears(&mut client, 5_000));
    assert_eq!(relayed_now(&members)[1..], [at_lon, at_fra + 1]);
}

#[test]
fn a_flow_that_is_answered_late_goes_on_by_another_way_and_after_three_of_them_others_begin_there() {
    let members = network(&["par", "lon", "fra"]);
    let (edge, origin) = (free_address("127.0.0.1"), origin("127.0.0.1", echo));
    serve(&members, edge, origin);
    let line = Line::to(members[2].at);
    let app = application(APPLICATION as u64, "tcp", edge, &[origin], json!({"steered": true, "exit": true}));
    members[0].apply_among(&[("lon", members[1].at), ("fra", line.at)], &[app]);
    steer(&members[0], &plan(&json!([["fra"], ["lon"]]), 60_000));
    (0..24).for_each(|_| drop(relayed(&members, edge))); // there are connections for those that come now
    std::thread::sleep(Duration::from_millis(2_100)); // only an edge that was there before a flow begins it again
    line.silence();
    let after: Vec<_> = (0..4).map(|_| relayed(&members, edge)).collect();
    assert_eq!(after[..3], [[0, 1, 25], [0, 2, 26], [0, 3, 27]], "over lon to fra");
    assert_eq!(after[3], [0, 4, 27], "to lon alone");
    assert_eq!(members[0].counted("flows_lost_total"), 0);
}

#[test]
fn a_share_of_flows_goes_direct_whatever_is_best() {
    let members = network(&["par", "fra"]);
    let (edge, origin) = (free_address("127.0.0.1"), origin("127.0.0.1", echo));
    serve(&members, edge, origin);
    let mut said = plan(&json!([["fra"], []]), 60_000);
    said["direct_one_in"] = json!(4);
    steer(&members[0], &said);
    let before = relayed(&members, edge)[1];
    let after = (0..8).fold(0, |_, _| relayed(&members, edge)[1]);
    assert_eq!(after - before, 6, "of 8");
}

#[test]
fn how_far_edges_and_origins_are_is_measured_while_somebody_wants_to_know() {
    let members = network(&["par", "fra"]);
    let (edge, origin) = (free_address("127.0.0.1"), origin("127.0.0.1", echo));
    serve(&members, edge, origin);
    let mut said = plan(&json!([[]]), 60_000);
    (said["legs"], said["reach"]) = (json!(["fra"]), json!([format!("{APPLICATION:032x}")]));
    steer(&members[0], &said);
    let told = eventually("both are measured", || {
        let told = steering(&members[0]);
        let is_measured = told["legs"][0]["answers"].as_u64() > Some(0) && told["reach"][0]["connects"] == 1;
        is_measured.then_some(told)
    });
    let leg = &told["legs"][0];
    assert_eq!(
        (leg["edge"].as_str(), leg["is_down"].as_bool(), leg["late"].as_u64()),
        (Some("fra"), Some(false), Some(0))
    );
    assert!((1..100_000).contains(&leg["rtt_us"].as_u64().unwrap()), "{leg}");
    assert!(told["reach"][0]["rtt_us_total"].as_u64().unwrap() < 100_000, "{told}");
    relayed(&members, edge);
    assert_eq!(steering(&members[0])["reach"][0]["connects"], 2, "a flow shows it as well");
    steer(&members[0], &plan(&json!([[]]), 60_000));
    assert_eq!(steering(&members[0])["legs"], json!([]), "nobody wants to know any more");
}

#[test]
fn an_edge_that_is_gone_is_down_and_flows_do_not_wait_for_it() {
    let mut members = network(&["par", "lon", "fra"]);
    let (edge, origin) = (free_address("127.0.0.1"), origin("127.0.0.1", echo));
    serve(&members, edge, origin);
    let mut said = plan(&json!([["lon"], ["fra"], []]), 60_000);
    said["legs"] = json!(["lon", "fra"]);
    steer(&members[0], &said);
    eventually("lon answers", || (steering(&members[0])["legs"].as_array()?.len() == 2).then_some(()));
    assert_eq!(relayed(&members, edge), [0, 1, 0]);
    drop(members.remove(1)); // lon
    eventually("it is down", || {
        let legs = steering(&members[0])["legs"].clone();
        legs.as_array()?.iter().any(|leg| leg["edge"] == "lon" && leg["is_down"] == true).then_some(())
    });
    assert_eq!(relayed(&members, edge), [0, 1]);
}

#[test]
fn what_is_no_plan_is_refused_and_the_one_before_goes_on() {
    let members = network(&["par", "fra"]);
    let (edge, origin) = (free_address("127.0.0.1"), origin("127.0.0.1", echo));
    serve(&members, edge, origin);
    steer(&members[0], &plan(&json!([["fra"], []]), 60_000));
    for wrong in [&b"{"[..], b"{}", plan(&json!([]), 1_000).to_string().as_bytes()] {
        assert!(members[0].edge.steer(wrong).is_err());
    }
    assert_eq!(relayed(&members, edge), [0, 1]);
}

#[test]
fn how_long_clients_wait_for_a_first_byte_is_counted_apart_for_direct_and_over_others() {
    let members = network(&["par", "fra"]);
    let (edge, origin) = (free_address("127.0.0.1"), origin("127.0.0.1", echo));
    serve(&members, edge, origin);
    let mut told = plan(&json!([["fra"], []]), 60_000);
    told["direct_one_in"] = json!(4);
    steer(&members[0], &told);
    (0..16).for_each(|_| drop(relayed(&members, edge)));
    let counted = || {
        let gains = steering(&members[0])["gains"].clone();
        let count = |kind: &str| {
            let counts = gains[0][kind]["counts"].as_array().cloned().unwrap_or_default();
            counts.iter().map(|it| it[1].as_u64().unwrap()).sum::<u64>()
        };
        (count("direct"), count("over"))
    };
    eventually("all sixteen are counted", || (counted().0 + counted().1 == 16).then_some(()));
    let (direct, over) = counted();
    assert!((1..=8).contains(&direct), "{direct} direct, {over} over fra"); // one in four, of each worker's flows
    assert!(steering(&members[0])["gains"][0]["over"]["total_us"].as_u64().unwrap() > 0);
    assert_eq!(steering(&members[1])["gains"], json!([]), "the edge that has the client counts, and nobody else");
}

#[test]
fn nobody_has_waited_where_the_origin_is_the_first_to_speak() {
    let greet = |mut stream: TcpStream| {
        let _ = stream.write_all(b"220 hello\r\n");
        let _ = stream.read(&mut [0; 8]);
    };
    let members = network(&["par", "fra"]);
    let (edge, origin) = (free_address("127.0.0.1"), origin("127.0.0.1", greet));
    serve(&members, edge, origin);
    for paths in [json!([["fra"], []]), json!([[], ["fra"]])] {
        steer(&members[0], &plan(&paths, 60_000));
        let mut client = connect(edge);
        client.read_exact(&mut [0; 11]).unwrap();
        client.write_all(b"bye").unwrap();
        client.read_to_end(&mut Vec::new()).unwrap();
    }
    assert_eq!(steering(&members[0])["gains"], json!([]));
}

#[test]
fn a_record_says_the_way_of_a_flow_and_none_where_there_is_no_choice() {
    let members = network(&["par", "fra"]);
    let (edge, origin) = (free_address("127.0.0.1"), origin("127.0.0.1", echo));
    serve(&members, edge, origin);
    relayed(&members, edge);
    assert_eq!(members[0].record("closed").get("path"), None, "nobody has said anything of ways");
    for (paths, path) in [(json!([["fra"], []]), json!(["fra"])), (json!([[], ["fra"]]), json!([]))] {
        steer(&members[0], &plan(&paths, 60_000));
        relayed(&members, edge);
        assert_eq!(members[0].record("opened")["path"], path);
        assert_eq!(members[0].record("closed")["path"], path);
    }
}

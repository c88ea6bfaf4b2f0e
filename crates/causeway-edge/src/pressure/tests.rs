use super::*;

const SOCKSTAT: &str = "sockets: used 22\nTCP: inuse 90 orphan 0 tw 70 alloc 1 mem 439\nUDP: inuse 30 mem 10\n";
const SOCKSTAT6: &str = "TCP6: inuse 5\nUDP6: inuse 3\n";

fn machine() -> Machine {
    parse("40000\t40199\n", "39990-40009,40150,50000\n", SOCKSTAT, SOCKSTAT6)
}

#[test]
fn the_small_files_are_read() {
    let machine = machine();
    assert_eq!((machine.first_port, machine.last_port, machine.reserved), (40_000, 40_199, 11));
    assert_eq!((machine.ports(), machine.tcp, machine.udp), (189, 165, [30, 3]));
    assert_eq!(parse("32768\t60999\n", "\n", "", "").ports(), 28_232);
    assert_eq!(parse("", "", "", ""), Machine::default(), "nothing to read is no reason to fail");
}

#[test]
fn an_origin_is_told_from_half_of_its_ports_on_and_all_source_addresses_count() {
    let machine = Machine { first_port: 40_000, last_port: 40_199, ..Machine::default() };
    let origin: SocketAddr = "192.0.2.1:22".parse().unwrap();
    let quiet: SocketAddr = "192.0.2.2:22".parse().unwrap();
    let ours: [IpAddr; 3] = ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(|text| text.parse().unwrap());
    let mut sockets = vec![(ours[0], origin); 150];
    sockets.extend(vec![(ours[1], origin); 30]);
    sockets.extend(vec![(ours[2], origin); 9]);
    sockets.extend(vec![(ours[0], quiet); 99]);
    let look = |sources: &[IpAddr], count| tcp(&machine, sockets.clone(), sources, [count, 1]);

    let told = look(&[], 1);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!((told[0].origin, told[0].used, told[0].available, told[0].share), (Some(origin), 189, 200, 0.945));
    let told = look(&ours[..1], 1);
    assert_eq!((told[0].used, told[0].available), (150, 200), "another program's address is not ours");
    assert!(look(&ours[..2], 2).is_empty(), "180 of 400");
}

#[test]
fn udp_ports_are_one_pool() {
    let machine = Machine { first_port: 1, last_port: 100, udp: [85, 10], ..Machine::default() };
    let told = udp(&machine, [1, 1]);
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].protocol, told[0].origin, told[0].used, told[0].available), (Protocol::Udp, None, 85, 100));
    assert!(udp(&machine, [2, 1]).is_empty());
}

#[test]
fn the_kernel_lists_a_connection_with_both_ends_and_by_its_port() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (ours, peer) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
    let is_ours = |(source, towards): &(IpAddr, SocketAddr)| *source == ours.ip() && *towards == peer;
    let listed = |first, last| diag::tcp_sockets((first, last)).unwrap().iter().filter(|s| is_ours(s)).count();
    assert_eq!(listed(ours.port(), ours.port()), 1);
    assert_eq!(listed(1, 65_535), 1);
    assert_eq!(listed(ours.port() - 1, ours.port() - 1), 0);
}

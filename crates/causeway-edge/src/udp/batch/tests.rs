use super::send::run;
use super::*;

#[test]
fn a_run_has_one_size_and_may_end_with_a_smaller_one() {
    let cases: [(&[usize], usize); 9] = [
        (&[], 1),
        (&[0, 0, 0], 1),
        (&[100], 1),
        (&[100, 100, 100], 3),
        (&[100, 100, 50, 100], 3),
        (&[100, 100, 150], 2),
        (&[100, 100, 0], 2),
        (&[1473, 1473], 1),
        (&[1472; 64], 44),
    ];
    for (sizes, expected) in cases {
        assert_eq!(run(sizes), expected, "{sizes:?}");
    }
}

#[test]
fn datagrams_of_all_sizes_pass_through_the_area_unmixed() {
    let (near, far) = pair();
    let mut batch = Batch::new();
    let sent: Vec<Vec<u8>> = (0..MOST).map(|i| vec![i as u8; [0, 1, 200, 1472, 2000][i % 5]]).collect();
    for datagram in &sent {
        far.send(datagram).unwrap();
    }
    let fd = std::os::fd::AsRawFd::as_raw_fd(&near);
    assert_eq!(batch.receive_from_clients(fd).unwrap(), MOST);
    for (index, datagram) in sent.iter().enumerate() {
        assert_eq!(batch.datagram(index), datagram);
        assert_eq!(batch.client(index), far.local_addr().unwrap());
        assert!(!batch.is_truncated(index));
    }
}

#[test]
fn what_the_kernel_hands_over_together_is_told_apart() {
    let (near, far) = pair();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&near);
    super::super::control::receive_together(fd);
    let mut batch = Batch::new();
    let large: Vec<u8> = (0..20_100u32).map(|i| (i / 300) as u8).collect();
    crate::sys::set_option(std::os::fd::AsRawFd::as_raw_fd(&far), libc::SOL_UDP, libc::UDP_SEGMENT, &300i32).unwrap();
    far.send(&large[..18_100]).unwrap(); // 60 of 300 and one of 100: one message here
    far.send(&large[..250]).unwrap();
    assert_eq!(batch.receive_from_clients(fd).unwrap(), 62);
    assert_eq!(batch.used[0], 2, "two messages");
    for (index, piece) in large[..18_100].chunks(300).enumerate() {
        assert_eq!(batch.datagram(index), piece);
        assert_eq!(batch.client(index), far.local_addr().unwrap());
    }
    assert_eq!(batch.datagram(61), &large[..250]);
}

#[test]
fn a_run_is_cut_where_its_datagrams_were() {
    let (near, far) = pair();
    let mut batch = Batch::new();
    let sizes = [200, 200, 200, 200, 60, 0, 7, 900];
    for (i, size) in sizes.iter().enumerate() {
        far.send(&vec![i as u8; *size]).unwrap();
    }
    let fd = std::os::fd::AsRawFd::as_raw_fd(&near);
    assert_eq!(batch.receive_from_origin(fd).unwrap(), sizes.len());
    for may_segment in [true, false] {
        for prefix in [Prefix::None, Prefix::First(b"<head>"), Prefix::Every(b"<head>")] {
            let picks: Vec<Pick> = (0..sizes.len()).map(|i| Pick { session: 0, index: i as u16, skip: 0 }).collect();
            let (mut at, mut segments) = (0, may_segment);
            while at < picks.len() {
                let prefix = if at > 0 && matches!(prefix, Prefix::First(_)) { Prefix::None } else { prefix };
                at += batch.send(fd, &picks[at..], None, prefix, &mut segments).unwrap();
            }
            assert_eq!(segments, may_segment);
            for (i, size) in sizes.iter().enumerate() {
                let mut buffer = [0; 2000];
                let n = far.recv(&mut buffer).unwrap();
                let head: &[u8] = match prefix {
                    Prefix::Every(head) => head,
                    Prefix::First(head) if i == 0 => head,
                    _ => &[],
                };
                assert_eq!(buffer[..n], [head, &vec![i as u8; *size]].concat(), "{prefix:?} {i}");
            }
        }
    }
}

fn pair() -> (std::net::UdpSocket, std::net::UdpSocket) {
    let [a, b] = [0; 2].map(|_| std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
    a.connect(b.local_addr().unwrap()).unwrap();
    b.connect(a.local_addr().unwrap()).unwrap();
    b.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
    (a, b)
}

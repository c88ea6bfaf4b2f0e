use super::*;

const NAMES: [&str; 19] = [
    "kernel",
    "low_ports",
    "icmp_reply",
    "net_admin",
    "cap_bpf",
    "bpf",
    "sk_lookup",
    "fast_path",
    "guard",
    "btf",
    "splice",
    "open_files",
    "ephemeral_ports",
    "ipv6",
    "bind_address_no_port",
    "reuse_port",
    "udp_gso",
    "udp_gro",
    "io_uring",
];

fn check(capabilities: &[Capability]) {
    assert_eq!(capabilities.iter().map(|c| c.name).collect::<Vec<_>>(), NAMES);
    for Capability { name, detail, .. } in capabilities {
        assert!(detail.ends_with('.') && detail.len() < 300 && !detail.contains("  "), "{name}: {detail}");
    }
}

#[test]
fn every_capability_is_answered_in_a_sentence_and_nothing_stays_open() {
    check(&probe());
    let open = || fs::read_dir("/proc/self/fd").unwrap().count();
    let stays_open = || {
        let before = open();
        (0..6).for_each(|_| check(&probe())); // each has the verifier look at every program
        open() >= before + 6
    };
    // Tests beside this one open some, too, but not each time.
    assert!((0..4).any(|_| !stays_open()), "descriptors stay open");
}

#[test]
fn without_privileges_each_missing_one_names_what_to_grant() {
    let probe_without = || {
        // The capabilities of this thread only: version 3, itself, none effective, permitted or inheritable.
        let (header, none) = ([0x2008_0522u32, 0], [0u32; 6]);
        // SAFETY: the structures have the sizes that version 3 of capset(2) has.
        let result = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) };
        assert_eq!(result, 0);
        probe()
    };
    let capabilities = std::thread::spawn(probe_without).join().unwrap();
    check(&capabilities);
    let hints = [
        ("icmp_reply", "CAP_NET_RAW"),
        ("net_admin", "CAP_NET_ADMIN"),
        ("cap_bpf", "CAP_BPF"),
        ("sk_lookup", "CAP_BPF"),
    ];
    for (name, hint) in hints {
        let found = capabilities.iter().find(|c| c.name == name).unwrap();
        assert!(!found.available && found.detail.contains(hint), "{found:?}");
    }
    let low = capabilities.iter().find(|c| c.name == "low_ports").unwrap();
    assert_eq!(low.available, read_number("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap() <= 1, "{low:?}");
}

#[test]
fn releases_ranges_and_reservations_are_read() {
    for (release, expected) in
        [("6.1.0-18-amd64", Some((6, 1))), ("5.9", Some((5, 9))), ("5.15-rc1", Some((5, 15))), ("", None), ("x", None)]
    {
        assert_eq!(version(release), expected, "{release}");
    }
    for (text, expected) in
        [("32768\t60999", Some((32768, 60999))), ("9 1", None), ("", None), ("1", None), ("1 x", None)]
    {
        assert_eq!(port_range(text), expected, "{text}");
    }
    for (reserved, expected) in [("", 100), ("1005", 99), ("1000-1049,1099,9", 49), ("rubbish,1-", 100), ("1-65535", 0)]
    {
        assert_eq!(usable_ports(1000, 1099, reserved), expected, "{reserved}");
    }
}

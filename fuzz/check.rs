//! What must hold for any bytes at all; panics where it does not.
//!
//! Shared by the fuzz targets and by the tests that run their corpus and random bytes on stable. `ppp` is the second
//! opinion; where the two may differ is written down in `agrees_with_ppp_*`, and nowhere else.

use std::net::{IpAddr, SocketAddr};

use causeway_wire::accept::{self, HeaderError, MAX_HEADER, Parsed};
use causeway_wire::frames::{Piece, Reader, Word};
use causeway_wire::minecraft::{self, Greeting, Question};
use causeway_wire::{Endpoints, Transport, proxy_v1, proxy_v2, simple_proxy};

pub fn headers(bytes: &[u8]) {
    let result = accept::parse(bytes);
    answer_comes_once(bytes, result);
    if let Ok(Parsed::Header { consumed, endpoints }) = result {
        assert!(consumed <= bytes.len().min(MAX_HEADER));
        let header = &bytes[..consumed];
        assert_eq!(accept::parse(header), result, "payload changed the answer");
        let tlvs: usize = proxy_v2::tlvs(header).map(|tlv| 3 + tlv.value.len()).sum();
        assert!(tlvs <= consumed);
        if let Some(endpoints) = endpoints {
            survives_each_codec(&endpoints);
        }
    }
    match bytes.first() {
        Some(b'P') => agrees_with_ppp_v1(bytes, result),
        _ => agrees_with_ppp_v2(bytes, result),
    }
}

pub fn simple_proxy(bytes: &[u8]) {
    let Ok((endpoints, payload)) = simple_proxy::decode(bytes) else {
        return;
    };
    assert_eq!(payload, &bytes[simple_proxy::LEN..]);
    let mut out = [0; simple_proxy::LEN];
    simple_proxy::encode(&endpoints, &mut out);
    assert_eq!(out, bytes[..simple_proxy::LEN]);
    survives_each_codec(&endpoints);
}

pub fn minecraft(bytes: &[u8]) {
    let greeting = minecraft::greeting(bytes);
    comes_once(bytes, minecraft::greeting, &Ok(Greeting::NeedMore));
    if let Ok(Greeting::Handshake { consumed, .. }) = greeting {
        assert!(consumed <= bytes.len() && consumed <= minecraft::MAX_HANDSHAKE + 5);
        assert_eq!(minecraft::greeting(&bytes[..consumed]), greeting);
        assert_eq!(minecraft::packet_length(bytes, minecraft::MAX_HANDSHAKE), Ok(Some(consumed)));
    }
    comes_once(bytes, minecraft::question, &Ok(Question::NeedMore));
    match minecraft::question(bytes) {
        Ok(Question::Status { consumed } | Question::Ping { consumed, .. }) => assert!(consumed <= bytes.len()),
        Ok(Question::NeedMore) => assert!(bytes.len() < 32),
        Err(_) => {}
    }
}

pub fn frames(bytes: &[u8]) {
    let whole = read_frames([bytes].into_iter());
    for size in [1, 2, 3, 5, 11] {
        assert_eq!(read_frames(bytes.chunks(size)), whole, "in pieces of {size}");
    }
    let (words, stream, _) = whole;
    assert!(stream.len() + 4 * words.len() <= bytes.len());
}

/// Words, with how much of the stream was before each, the stream, and whether all of it was what an edge says.
fn read_frames<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<(usize, Word)>, Vec<u8>, bool) {
    let (mut reader, mut words, mut stream) = (Reader::default(), Vec::new(), Vec::new());
    for mut piece in pieces {
        loop {
            match reader.next(&mut piece) {
                Ok(Some(Piece::Data(data))) => stream.extend_from_slice(data),
                Ok(Some(Piece::Word(word))) => words.push((stream.len(), word)),
                Ok(None) => break,
                Err(_) => return (words, stream, false),
            }
        }
        assert!(piece.is_empty(), "it reads all that there is");
    }
    (words, stream, true)
}

fn comes_once<T: PartialEq + std::fmt::Debug>(bytes: &[u8], parse: impl Fn(&[u8]) -> T, need_more: &T) {
    let whole = parse(bytes);
    let answers = (0..bytes.len()).filter(|end| *end < 256 || end % 61 == 0).map(|end| parse(&bytes[..end]));
    for answer in answers.skip_while(|answer| answer == need_more) {
        assert_eq!(answer, whole, "an answer changed with more bytes");
    }
}

/// Up to some prefix more is needed, from there on the answer stays the same.
fn answer_comes_once(bytes: &[u8], result: Result<Parsed, HeaderError>) {
    // Every length while it is short; a long one costs its square, so it is sampled.
    let mut is_decided = false;
    for end in (0..bytes.len()).filter(|end| *end < 256 || end % 61 == 0) {
        match accept::parse(&bytes[..end]) {
            Ok(Parsed::NeedMore) => assert!(!is_decided, "an answer was taken back"),
            answer => {
                is_decided = true;
                assert_eq!(answer, result, "an answer changed with more bytes");
            }
        }
    }
    assert!(bytes.len() < MAX_HEADER || result != Ok(Parsed::NeedMore));
}

fn survives_each_codec(endpoints: &Endpoints) {
    let expected = |consumed| Ok(Parsed::Header { consumed, endpoints: Some(*endpoints) });
    let mut out = [0; proxy_v1::MAX_LINE];
    let end = proxy_v1::encode(endpoints, &mut out);
    assert_eq!(accept::parse(&out[..end]), expected(end));
    for transport in [Transport::Stream, Transport::Datagram] {
        let mut out = [0; proxy_v2::MAX_ENCODED];
        let end = proxy_v2::encode(endpoints, transport, &mut out);
        assert_eq!(accept::parse(&out[..end]), expected(end));
    }
    let mut out = [0; simple_proxy::LEN];
    simple_proxy::encode(endpoints, &mut out);
    assert_eq!(simple_proxy::decode(&out), Ok((*endpoints, &[][..])));
}

fn agrees_with_ppp_v1(bytes: &[u8], ours: Result<Parsed, HeaderError>) {
    use ppp::v1::{Addresses, Header};
    // ppp: addresses as they stand, ports with a plus sign, a line that ends in " \n" or in "\n" before its CR;
    // UNKNOWN only with junk that is UTF-8.
    let theirs = Header::try_from(bytes);
    let found = |source: (IpAddr, u16), destination: (IpAddr, u16), text: &str| {
        Ok(Parsed::Header { consumed: text.len(), endpoints: Some(canonical(source, destination)) })
    };
    match &theirs {
        Ok(header) if !header.header.ends_with("\r\n") => assert!(!matches!(ours, Ok(Parsed::Header { .. }))),
        Ok(header) if header.header.contains('+') => {}
        Ok(Header { header, addresses }) => match addresses {
            Addresses::Unknown => assert!(ours.is_ok()),
            Addresses::Tcp4(ip) => assert_eq!(
                ours,
                found(
                    (ip.source_address.into(), ip.source_port),
                    (ip.destination_address.into(), ip.destination_port),
                    header
                )
            ),
            Addresses::Tcp6(ip) => assert_eq!(
                ours,
                found(
                    (ip.source_address.into(), ip.source_port),
                    (ip.destination_address.into(), ip.destination_port),
                    header
                )
            ),
        },
        Err(_) => assert!(!matches!(ours, Ok(Parsed::Header { endpoints: Some(_), .. }))),
    }
}

fn agrees_with_ppp_v2(bytes: &[u8], ours: Result<Parsed, HeaderError>) {
    use ppp::v2::{Addresses, Command, Header, Protocol};
    // ppp: LOCAL needs addresses, any length goes, TLVs are looked at later and checksums never.
    let header = match Header::try_from(bytes) {
        Ok(header) if header.command == Command::Local => return,
        Ok(header) => header,
        Err(_) => {
            let is_local = bytes.get(12) == Some(&0x20);
            return assert!(is_local || !matches!(ours, Ok(Parsed::Header { .. })));
        }
    };
    if header.as_bytes().len() > MAX_HEADER {
        return assert_eq!(ours, Err(HeaderError::V2TooLong));
    }
    let is_skipped = header.addresses == Addresses::Unspecified;
    let theirs = header.tlvs().collect::<Result<Vec<_>, _>>();
    match (&theirs, ours) {
        (_, Err(HeaderError::V2Checksum)) => return,
        (Err(_), _) if !is_skipped => return assert_eq!(ours, Err(HeaderError::V2Tlv)),
        (Ok(tlvs), Err(HeaderError::V2Tlv)) => {
            let mut checksums = tlvs.iter().filter(|tlv| tlv.kind == 3);
            let is_odd = checksums.clone().any(|tlv| tlv.value.len() != 4);
            return assert!(is_odd || checksums.nth(1).is_some());
        }
        _ => {}
    }
    let (source, destination) = match header.addresses {
        Addresses::IPv4(ip) => {
            ((ip.source_address.into(), ip.source_port), (ip.destination_address.into(), ip.destination_port))
        }
        Addresses::IPv6(ip) => {
            ((ip.source_address.into(), ip.source_port), (ip.destination_address.into(), ip.destination_port))
        }
        Addresses::Unix(_) | Addresses::Unspecified => return assert!(ours.is_ok()),
    };
    assert_eq!(
        ours,
        Ok(Parsed::Header {
            consumed: header.as_bytes().len(),
            endpoints: (header.protocol != Protocol::Unspecified).then(|| canonical(source, destination)),
        })
    );
}

fn canonical(source: (IpAddr, u16), destination: (IpAddr, u16)) -> Endpoints {
    Endpoints {
        source: SocketAddr::new(source.0.to_canonical(), source.1),
        destination: SocketAddr::new(destination.0.to_canonical(), destination.1),
    }
}

//! Frames of a flow that can be resumed: whole, in pieces, one after the other, and anything else.
#![allow(clippy::unwrap_used)]

use causeway_wire::frames::{HEAD_BYTES, MAX_WORD, MOST_DATA, Piece, Reader, Word, data_head};
use proptest::prelude::*;

const WORDS: [Word; 7] = [
    Word::Passed(0),
    Word::Passed(u64::MAX),
    Word::Arrived(0x0102_0304_0506_0708),
    Word::End,
    Word::Reset,
    Word::Ask,
    Word::Here,
];

fn word(word: Word) -> Vec<u8> {
    let mut out = [0; MAX_WORD];
    let len = word.encode(&mut out);
    out[..len].to_vec()
}

fn data(bytes: &[u8]) -> Vec<u8> {
    [&data_head(bytes.len())[..], bytes].concat()
}

/// Words as they came, with how much of the stream was before each, and the stream.
type Heard = (Vec<(usize, Word)>, Vec<u8>);

fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Option<Heard> {
    let (mut reader, mut words, mut stream) = (Reader::default(), Vec::new(), Vec::new());
    for mut bytes in pieces {
        while let Some(piece) = reader.next(&mut bytes).ok()? {
            match piece {
                Piece::Data(data) => stream.extend_from_slice(data),
                Piece::Word(word) => words.push((stream.len(), word)),
            }
        }
        assert!(bytes.is_empty(), "it reads all that there is");
    }
    Some((words, stream))
}

#[test]
fn words_and_data_are_read_as_they_were_written_in_pieces_of_every_size() {
    let longest: Vec<u8> = (0..MOST_DATA).map(|at| at as u8).collect();
    let mut all = Vec::new();
    for (number, each) in WORDS.iter().enumerate() {
        all.extend(word(*each));
        all.extend(data(&longest[..1 + number]));
    }
    all.extend(data(&longest));
    let whole = read(std::iter::once(&all[..])).unwrap();
    assert_eq!(whole.0.iter().map(|(_, word)| *word).collect::<Vec<_>>(), WORDS);
    assert_eq!(whole.0.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [0, 1, 3, 6, 10, 15, 21]);
    assert_eq!(whole.1.len(), 28 + MOST_DATA);
    for size in (1..40).chain([MOST_DATA - 1, MOST_DATA + HEAD_BYTES]) {
        assert!(read(all.chunks(size)) == Some(whole.clone()), "pieces of {size}");
    }
    for cut in 0..200 {
        let (words, stream) = read([&all[..cut], &all[cut..]].into_iter()).unwrap();
        assert!((words, stream) == whole, "cut at {cut}");
    }
}

#[test]
fn what_an_edge_does_not_say_is_refused() {
    let cases: [&[u8]; 8] = [
        &[0, 0, 0, 0], // data without any
        &[0, 1, 0, 1], // more than a frame has
        &[1, 0, 0, 7], // an offset of another size
        &[2, 0, 0, 0],
        &[3, 0, 0, 1], // an end with something in it
        &[6, 0, 1, 0],
        &[7, 0, 0, 0], // a kind that there is not
        &[255, 255, 255, 255],
    ];
    for case in cases {
        assert_eq!(read(std::iter::once(case)), None, "{case:?}");
        assert_eq!(read(case.chunks(1)), None, "{case:?} byte by byte");
    }
}

proptest! {
    #[test]
    fn no_bytes_break_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..400), size in 1usize..50) {
        prop_assert_eq!(read(bytes.chunks(size)), read(std::iter::once(&bytes[..])));
    }
}

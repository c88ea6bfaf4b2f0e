//! No codec allocates, so no length field of an attacker can make one.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use causeway_wire::{Endpoints, Transport, accept, proxy_v1, proxy_v2, simple_proxy};
use common::{bytes, vectors};
use serde_json::Value;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator unchanged; counting touches a const thread-local only.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from `System` by way of `alloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(work: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(vec![0_u8; 9]))), 1);
}

#[test]
fn no_vector_makes_the_reader_allocate() {
    for file in ["proxy_v1/accept.json", "proxy_v2/accept.json", "simple_proxy/decode.json"] {
        for case in vectors::<Value>(file) {
            let bytes = bytes(case["hex"].as_str().expect("hex"));
            let count = allocations(|| {
                let _ = accept::parse(&bytes);
                let _ = simple_proxy::decode(&bytes);
                let _ = proxy_v2::tlvs(&bytes).count();
            });
            assert_eq!(count, 0, "{}", case["name"]);
        }
    }
}

#[test]
fn no_length_field_makes_the_reader_allocate() {
    let mut header = [0; 64];
    header[..16].copy_from_slice(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\0");
    let count = allocations(|| {
        for length in 0..=u16::MAX {
            header[14..16].copy_from_slice(&length.to_be_bytes());
            let _ = accept::parse(&header);
            header[29..31].copy_from_slice(&length.to_be_bytes());
            let _ = accept::parse(&header);
            let _ = proxy_v2::tlvs(&header).count();
        }
    });
    assert_eq!(count, 0);
}

#[test]
fn writing_does_not_allocate() {
    let endpoints =
        Endpoints { source: ([192, 0, 2, 1], 1).into(), destination: ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 2).into() };
    let count = allocations(|| {
        let _ = proxy_v1::encode(&endpoints, &mut [0; 107]);
        let _ = proxy_v2::encode(&endpoints, Transport::Datagram, &mut [0; 52]);
        simple_proxy::encode(&endpoints, &mut [0; 38]);
    });
    assert_eq!(count, 0);
}

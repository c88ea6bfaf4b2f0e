//! May this process use BPF? Asked with the two smallest calls that tell: nothing is attached, nothing stays.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_PROG_TYPE_SK_LOOKUP: u32 = 30;
const BPF_SK_LOOKUP: u32 = 36;

#[repr(C)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// `r0 = 1; exit`: SK_PASS, the usual lookup goes on.
static PASS: [Instruction; 2] = [
    Instruction { code: 0xb7, registers: 0, offset: 0, immediate: 1 },
    Instruction { code: 0x95, registers: 0, offset: 0, immediate: 0 },
];

#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_bytes: u32,
    value_bytes: u32,
    max_entries: u32,
    flags: u32,
}

/// The beginning of `union bpf_attr` for a program; the kernel takes what follows as zero.
#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_bytes: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    expected_attach_type: u32,
}

pub fn create_map() -> io::Result<()> {
    let map = MapCreate { map_type: BPF_MAP_TYPE_ARRAY, key_bytes: 4, value_bytes: 8, max_entries: 1, flags: 0 };
    call(BPF_MAP_CREATE, &map)
}

pub fn load_sk_lookup() -> io::Result<()> {
    call(
        BPF_PROG_LOAD,
        &ProgLoad {
            prog_type: BPF_PROG_TYPE_SK_LOOKUP,
            instruction_count: PASS.len() as u32,
            instructions: PASS.as_ptr() as u64,
            license: c"GPL".as_ptr() as u64,
            log_level: 0,
            log_bytes: 0,
            log: 0,
            kernel_version: 0,
            flags: 0,
            name: [0; 16],
            interface: 0,
            expected_attach_type: BPF_SK_LOOKUP,
        },
    )
}

fn call<T>(command: libc::c_long, attributes: &T) -> io::Result<()> {
    // SAFETY: the pointer and length describe `attributes`; the addresses in it are alive during the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both commands answer with a new descriptor, which is closed here.
    drop(unsafe { OwnedFd::from_raw_fd(fd as i32) });
    Ok(())
}

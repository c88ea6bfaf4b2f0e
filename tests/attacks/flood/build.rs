//! Compile flood.bpf.c. Without clang the generator builds all the same, and says when it is run that it cannot.

use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-changed=flood.bpf.c");
    println!("cargo::rerun-if-env-changed=PATH");
    let object = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("flood.bpf.o");
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let done = Command::new("clang")
        .args(["-O2", "-g", "-Wall", "-Werror", "-target", "bpf", "-mcpu=v3", "-c", "flood.bpf.c", "-o"])
        .arg(&object)
        .arg(format!("-I/usr/include/{arch}-linux-gnu"))
        .status();
    if !done.is_ok_and(|status| status.success()) {
        println!("cargo::warning=built without its program: clang or libbpf-dev is missing");
        fs::write(object, []).expect("OUT_DIR can be written");
    }
}

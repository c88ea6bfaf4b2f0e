//! Compile bpf/*.bpf.c with clang into OUT_DIR. Without clang, or with CAUSEWAY_BPF=off, the crate builds without
//! programs and knows why: kernel programs make the edge faster, none is needed.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

const PROGRAMS: [&str; 3] = ["dispatch", "flow", "guard"];

fn main() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bpf");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    println!("cargo::rerun-if-changed={}", sources.display());
    println!("cargo::rerun-if-env-changed=CAUSEWAY_BPF");
    println!("cargo::rerun-if-env-changed=PATH"); // clang may have been installed since
    let missing = match env::var("CAUSEWAY_BPF").as_deref() {
        Ok("off") => Some("CAUSEWAY_BPF=off was set when it was built".to_string()),
        _ => PROGRAMS.iter().find_map(|program| compile(&sources, &out, program).err()),
    };
    if let Some(reason) = &missing {
        println!("cargo::warning=built without kernel programs: {reason}");
        for program in PROGRAMS {
            fs::write(object(&out, program), []).expect("OUT_DIR can be written");
        }
    }
    println!("cargo::rustc-env=CAUSEWAY_BPF_MISSING={}", missing.unwrap_or_default());
}

fn compile(sources: &Path, out: &Path, program: &str) -> Result<(), String> {
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let output = Command::new("clang")
        // v3: atomic operations that answer (kernel 5.12).
        .args(["-O2", "-g", "-Wall", "-Werror", "-target", "bpf", "-mcpu=v3", "-c"])
        .arg(sources.join(format!("{program}.bpf.c")))
        .arg("-o")
        .arg(object(out, program))
        // Debian keeps <asm/types.h> of the machine apart; elsewhere the directory does not exist, which is fine.
        .arg(format!("-I/usr/include/{arch}-linux-gnu"))
        .output();
    match output {
        Err(error) => Err(format!("clang could not be run ({error}): install clang and libbpf-dev")),
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let line = said.lines().find(|line| line.contains("error")).unwrap_or("no reason given").to_string();
            Err(format!("clang could not compile {program}.bpf.c ({line}): is libbpf-dev installed?"))
        }
    }
}

fn object(out: &Path, program: &str) -> PathBuf {
    out.join(format!("{program}.bpf.o"))
}

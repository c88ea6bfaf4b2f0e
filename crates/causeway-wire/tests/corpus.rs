//! The fuzzer's corpus on stable: whatever it once found stays found.

#[path = "../../../fuzz/check.rs"]
mod check;

use std::fs;
use std::path::Path;

fn run(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let files = fs::read_dir(&folder).expect("the corpus is committed");
    let mut count = 0;
    for file in files {
        let path = file.expect("readable").path();
        println!("{}", path.display()); // shown when it fails
        check(&fs::read(&path).expect("readable"));
        count += 1;
    }
    assert!(count > 10, "{}: only {count} files", folder.display());
}

#[test]
fn headers() {
    run("headers", check::headers);
}

#[test]
fn simple_proxy() {
    run("simple_proxy", check::simple_proxy);
}

#[test]
fn minecraft() {
    run("minecraft", check::minecraft);
}

#[test]
fn frames() {
    run("frames", check::frames);
}

//! Every target over its seeds in fuzz/seeds: what a fuzzer has found once stays found.

use std::path::Path;

#[test]
fn seeds_hold() {
    for (target, run) in [
        ("transport", super::transport as fn(&[u8])),
        ("entropy", super::entropy),
        ("block", super::block),
        ("vsock", super::vsock),
        ("balloon", super::balloon),
        ("fs", super::fs),
    ] {
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(target);
        let mut count = 0;
        for entry in std::fs::read_dir(&seeds).unwrap() {
            let path = entry.unwrap().path();
            eprintln!("{}", path.display());
            run(&std::fs::read(path).unwrap());
            count += 1;
        }
        assert!(count > 2, "{target} has {count} seeds");
        run(b"");
    }
}

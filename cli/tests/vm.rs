//! `vm setup` and `vm check`: images made of small files that are what kernels, modules and agents are by their
//! headers. Nothing boots here; `integration/testhost/tests/vm-run` does that.

#![cfg(target_arch = "x86_64")]
// Only functions marked as tests count as tests to clippy; what they share is test code too.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::Write;

const RELEASE: &str = "6.1.0-test";
/// Drivers without which no guest runs.
const BUILT_IN: &str =
    "kernel/virtio_mmio.ko\nkernel/vmw_vsock_virtio_transport.ko\nkernel/virtiofs.ko\n";

/// A directory with a kernel, an agent, and modules: `fuse` as a packed file, the rest built in or absent.
struct Place(PathBuf);

impl Place {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("bulkhead-vm-{test}-{}", std::process::id()));
        let place = Self(path);
        fs::create_dir_all(place.0.join("modules/fs")).unwrap();
        place.write("kernel", &bz_image());
        place.write("agent", &[&elf(2), wire::IDENTITY.as_bytes()].concat());
        place.write("modules/modules.builtin", BUILT_IN.as_bytes());
        place.write("modules/modules.dep", b"fs/fuse.ko.gz:\n");
        let mut packed = GzEncoder::new(Vec::new(), Compression::default());
        packed.write_all(&module(RELEASE)).unwrap();
        place.write("modules/fs/fuse.ko.gz", &packed.finish().unwrap());
        place
    }

    fn write(&self, name: &str, content: &[u8]) {
        fs::write(self.0.join(name), content).unwrap();
    }

    fn vm(&self, words: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_bulkhead"))
            .args(["--vm-image", "image", "vm"])
            .args(words)
            .current_dir(&self.0)
            .output()
            .unwrap()
    }

    fn setup(&self) -> Output {
        self.vm(&["setup", "--kernel", "kernel", "--agent", "agent", "--modules", "modules"])
    }

    /// Setup fails with this reason, and there is no image and nothing half made.
    fn refused(&self, reason: &str) {
        let before = self.names();
        let output = self.setup();
        let errors = String::from_utf8_lossy(&output.stderr).replace("\\\"", "\"");
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(errors.contains(reason), "{reason:?} is not in {errors}");
        assert_eq!(self.names(), before);
    }

    fn names(&self) -> Vec<PathBuf> {
        let mut names: Vec<_> =
            fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        names
    }

    /// What check says of the image: its standing and what it found.
    fn image(&self) -> (String, String) {
        let output = self.vm(&["check", "--format", "json"]);
        let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let starts = if output.status.success() { Some(true) } else { Some(false) };
        assert_eq!(found["starts"].as_bool(), starts);
        let rows = found["vm"].as_array().unwrap();
        let row = rows.iter().find(|row| row["name"] == "guest image").unwrap();
        let word = |key: &str| row[key].as_str().unwrap().to_owned();
        (word("standing"), word("found"))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn bz_image() -> Vec<u8> {
    let mut file = vec![0; 5 * 512];
    file[0x1f1] = 4;
    file[0x202..0x206].copy_from_slice(b"HdrS");
    file[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
    file[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
    file[0x236] = 1;
    file[0x300..0x300 + RELEASE.len()].copy_from_slice(RELEASE.as_bytes());
    file
}

/// The header of an ELF file: of a program (2) or a module (1).
fn elf(kind: u8) -> Vec<u8> {
    let mut file = vec![0; 64];
    file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    file[16] = kind;
    file[18] = 62;
    file[40] = 64;
    file
}

fn module(release: &str) -> Vec<u8> {
    [&elf(1), format!("\0vermagic={release} SMP mod_unload \0").as_bytes()].concat()
}

#[test]
fn an_image_is_made_found_and_replaced() {
    let place = Place::new("made");
    let made = place.setup();
    let errors = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "{errors}");
    assert!(errors.contains("fuse.ko"), "{errors}");
    assert!(
        errors.contains("has no erofs: root file systems in erofs images are refused"),
        "{errors}"
    );
    // Ok but for the drivers that this kernel lacks.
    let (standing, found) = place.image();
    assert_eq!(standing, "limited");
    assert!(found.ends_with("image: Linux 6.1.0-test"), "{found}");
    let initramfs = fs::read(place.0.join("image/initramfs")).unwrap();
    let unpacked = module(RELEASE);
    assert!(initramfs.windows(unpacked.len()).any(|part| part == unpacked));
    assert!(place.setup().status.success());
    assert_eq!(fs::read(place.0.join("image/initramfs")).unwrap(), initramfs);
    assert_eq!(place.names().len(), 4);
}

#[test]
fn a_bad_source_is_named_and_nothing_is_left() {
    type Case = (&'static str, fn(&Place), &'static str);
    let cases: [Case; 9] = [
        (
            "kernel",
            |p| p.write("kernel", b"#!/bin/sh\n"),
            "kernel\": is no kernel: neither a bzImage nor an ELF file",
        ),
        (
            "short",
            |p| p.write("kernel", &bz_image()[..2000]),
            "kernel\": is truncated: 2000 bytes of 2560",
        ),
        ("agent", |p| p.write("agent", &elf(2)), "agent\": is no agent: it does not say so"),
        (
            "arm",
            |p| p.write("agent", b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\xb7\0"),
            "agent\": is for another processor (ELF machine 183)",
        ),
        (
            "version",
            |p| p.write("agent", &[&elf(2), &b"bulkhead-agent: version 9.9.9 99\n"[..]].concat()),
            "agent\": is of another version: it speaks version 99 of the messages",
        ),
        (
            "damaged",
            |p| p.write("modules/fs/fuse.ko.gz", b"\x1f\x8b\x08 half"),
            "fuse.ko.gz\": is corrupt",
        ),
        (
            "other",
            |p| {
                p.write("modules/modules.dep", b"fs/fuse.ko:\n");
                p.write("modules/fs/fuse.ko", &module("5.10.0"));
            },
            "fuse.ko\": is of kernel \"5.10.0\", not of \"6.1.0-test\"",
        ),
        (
            "driver",
            |p| p.write("modules/modules.dep", b""),
            "has no fuse, neither built in nor as a module",
        ),
        (
            "missing",
            |p| fs::remove_file(p.0.join("modules/fs/fuse.ko.gz")).unwrap(),
            "fuse.ko.gz\": open: ENOENT",
        ),
    ];
    for (name, spoil, reason) in cases {
        let place = Place::new(name);
        spoil(&place);
        place.refused(reason);
    }
}

#[test]
fn a_failure_keeps_the_image_that_was_there() {
    let place = Place::new("kept");
    assert!(place.setup().status.success());
    let before = fs::read(place.0.join("image/kernel")).unwrap();
    place.write("kernel", b"");
    place.refused("kernel\": is empty");
    assert_eq!(fs::read(place.0.join("image/kernel")).unwrap(), before);
    assert_eq!(place.image().0, "limited");
}

#[test]
fn a_directory_with_something_else_is_not_replaced() {
    let place = Place::new("else");
    fs::create_dir(place.0.join("image")).unwrap();
    place.write("image/letter", b"dear");
    place.refused("has \"letter\" in it, which is of no image");
    assert_eq!(fs::read(place.0.join("image/letter")).unwrap(), b"dear");
}

#[test]
fn check_finds_what_is_wrong_with_an_image() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new("check");
    let (standing, found) = place.image();
    assert_eq!(standing, "missing");
    assert!(found.ends_with("image\": open: ENOENT (no such file or directory)"), "{found}");
    assert!(place.setup().status.success());
    let kernel = place.0.join("image/kernel");
    let mut content = fs::read(&kernel).unwrap();
    content[100] ^= 1;
    fs::write(&kernel, &content).unwrap();
    assert!(place.image().1.contains("the manifest says"), "{:?}", place.image());
    fs::write(&kernel, &content[..50]).unwrap();
    assert!(
        place.image().1.contains("has 50 bytes, the manifest says 2560"),
        "{:?}",
        place.image()
    );
    assert!(place.setup().status.success());
    let mode = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o666)).unwrap();
    mode(&kernel);
    assert!(place.image().1.contains("others can write it (mode 666)"), "{:?}", place.image());
}

#[test]
fn an_option_of_the_other_half_is_refused() {
    let place = Place::new("options");
    for (words, reason) in [
        (&["setup", "--format", "json"][..], "--format is an option of `vm check`"),
        (&["check", "--kernel", "kernel"], "--kernel is an option of `vm setup`"),
        (&["check", "--format", "yaml"], "invalid format option"),
        (&["boot"], "invalid value"),
    ] {
        let output = place.vm(words);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && errors.contains(reason), "{errors}");
    }
}

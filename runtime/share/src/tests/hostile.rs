//! What a guest does that has taken its kernel over.

use std::fs;
use std::os::unix::fs::symlink;

use nix::errno::Errno;

use crate::message::opcode;
use crate::nodes::ROOT;
use crate::testing::client::{Client, words};

#[test]
fn no_name_leads_out() {
    let mut client = Client::new();
    fs::create_dir(client.directory.at("sub")).unwrap();
    let sub = client.lookup(ROOT, "sub").unwrap().node();
    for name in ["..", ".", "", "/", "/etc", "../..", "sub/..", "sub/x"] {
        for directory in [ROOT, sub] {
            assert_eq!(client.lookup(directory, name), Err(Errno::EINVAL), "{name}");
            let made = client.create(directory, name, libc::O_RDWR, 0o644);
            assert_eq!(made, Err(Errno::EINVAL), "{name}");
            for opcode in [opcode::UNLINK, opcode::RMDIR] {
                let result = client.ask(opcode, directory, words().text(name));
                assert_eq!(result, Err(Errno::EINVAL), "{name}");
            }
            for (from, to) in [(name, "a"), ("sub", name)] {
                let body = words().u64(directory).text(from).text(to);
                assert_eq!(client.ask(opcode::RENAME, ROOT, body), Err(Errno::EINVAL), "{name}");
            }
            let body = words().u64(sub).text(name);
            assert_eq!(client.ask(opcode::LINK, directory, body), Err(Errno::EINVAL), "{name}");
        }
    }
    assert_eq!(client.lookup(ROOT, &"x".repeat(256)), Err(Errno::ENAMETOOLONG));
}

#[test]
fn no_link_is_followed() {
    let mut client = Client::new();
    let outside = client.directory.path().with_extension("outside");
    fs::write(&outside, "secret").unwrap();
    fs::create_dir(client.directory.at("d")).unwrap();
    for (name, target) in [
        ("file", outside.as_path()),
        ("up", "..".as_ref()),
        ("root", "/".as_ref()),
        ("self", "/proc/self/fd".as_ref()),
    ] {
        symlink(target, client.directory.at(name)).unwrap();
        let link = client.lookup(ROOT, name).unwrap();
        assert_eq!(link.attributes().1 & libc::S_IFMT, libc::S_IFLNK);
        let node = link.node();
        for flags in
            [libc::O_RDONLY, libc::O_RDWR, libc::O_RDONLY | libc::O_DIRECTORY, libc::O_PATH]
        {
            assert_eq!(client.open(node, flags), Err(Errno::ENXIO), "{name}");
            let made = client.create(ROOT, name, flags, 0o644);
            assert!(made.is_err(), "{name}: {made:?}");
        }
        assert_eq!(client.ask(opcode::OPENDIR, node, words().u64(0)), Err(Errno::ENOTDIR));
        assert_eq!(client.lookup(node, "etc"), Err(Errno::ENOTDIR));
        assert_eq!(client.create(node, "x", libc::O_RDWR, 0o644), Err(Errno::ENOTDIR));
    }
    // A directory that becomes a link while the guest has its number is still the directory.
    let directory = client.lookup(ROOT, "d").unwrap().node();
    fs::rename(client.directory.at("d"), client.directory.at("moved")).unwrap();
    symlink("/", client.directory.at("d")).unwrap();
    client.create(directory, "x", libc::O_RDWR, 0o644).unwrap();
    assert!(client.directory.at("moved/x").exists());
    assert_eq!(fs::read(&outside).unwrap(), b"secret");
    fs::remove_file(outside).unwrap();
}

#[test]
fn numbers_that_were_not_given_are_nothing() {
    let mut client = Client::new();
    let (node, file) = client.create(ROOT, "file", libc::O_RDWR, 0o644).unwrap();
    for forged in [0, node + 1, u64::MAX, 1 << 63] {
        assert_eq!(client.lookup(forged, "file"), Err(Errno::ESTALE));
        assert_eq!(client.open(forged, libc::O_RDONLY), Err(Errno::ESTALE));
        let body = words().u64(0).u64(0);
        assert_eq!(client.ask(opcode::GETATTR, forged, body), Err(Errno::ESTALE));
        assert_eq!(client.read(node, forged, 0, 10), Err(Errno::EBADF));
        assert_eq!(client.read(forged, file, 0, 10), Err(Errno::EBADF));
        client.tell(opcode::FORGET, forged, words().u64(1));
    }
    // A file is no directory, and the reverse.
    let directory = client.ask(opcode::OPENDIR, ROOT, words().u64(0)).unwrap().u64(0);
    assert_eq!(client.read(ROOT, directory, 0, 10), Err(Errno::EISDIR));
    let body = words().u64(file).u64(0).u32(4096).u32(0).u64(0).u64(0);
    assert_eq!(client.ask(opcode::READDIR, node, body), Err(Errno::ENOTDIR));
    // Forgotten more often than told; the root cannot be forgotten.
    client.ask(opcode::RELEASE, node, words().u64(file).u64(0).u64(0)).unwrap();
    client.tell(opcode::FORGET, node, words().u64(u64::MAX));
    client.tell(opcode::FORGET, ROOT, words().u64(u64::MAX));
    let many = words().u32(u32::MAX).u32(0).u64(node).u64(1);
    client.tell(opcode::BATCH_FORGET, 0, many);
    assert_eq!(client.open(node, libc::O_RDONLY), Err(Errno::ESTALE));
    let again = client.lookup(ROOT, "file").unwrap().node();
    assert!(again > node, "a number is not given twice");
}

#[test]
fn messages_of_every_length_are_answered() {
    let mut client = Client::new();
    fs::write(client.directory.at("file"), "x").unwrap();
    let node = client.lookup(ROOT, "file").unwrap().node();
    for opcode in 1..60 {
        if matches!(opcode, opcode::FORGET | opcode::BATCH_FORGET | opcode::INTERRUPT) {
            continue;
        }
        for length in [0, 1, 4, 8, 16, 24, 39, 40, 41, 88, 200] {
            for (byte, node) in [(0, node), (0xff, node), (b'x', ROOT)] {
                let _ = client.ask(opcode, node, words().bytes(&vec![byte; length]));
            }
        }
        // The guest may have begun anew, or ended.
        client.ask(opcode::INIT, 0, words().u32(7).u32(37).u32(0).u32(0)).unwrap();
        let _ = client.lookup(ROOT, "file");
    }
}

#[test]
fn large_sizes_are_bounded() {
    let mut client = Client::new();
    let (node, file) = client.create(ROOT, "file", libc::O_RDWR, 0o644).unwrap();
    client.write(node, file, 0, 0, &[1; 1000]).unwrap();
    assert_eq!(client.read(node, file, 0, u32::MAX).unwrap().len(), 1000);
    assert_eq!(client.read(node, file, u64::MAX, 10), Err(Errno::EINVAL));
    // More said than sent.
    let body = words().u64(file).u64(0).u32(u32::MAX).u32(0).u64(0).u64(0).bytes(b"x");
    assert_eq!(client.ask(opcode::WRITE, node, body), Err(Errno::EINVAL));
    let body = words().u32(u32::MAX).u32(0).u32(0).u32(0).text("user.x");
    assert_eq!(client.ask(opcode::SETXATTR, node, body), Err(Errno::EINVAL));
    for size in [u32::MAX, 1 << 20] {
        let _ = client.ask(opcode::LISTXATTR, node, words().u32(size).u32(0)).unwrap();
    }
}

#[test]
fn ids_that_are_none_make_nothing() {
    let mut client = Client::new();
    for user in [(u32::MAX, 0), (0, u32::MAX)] {
        client.user = user;
        assert_eq!(client.create(ROOT, "x", libc::O_RDWR, 0o644), Err(Errno::EINVAL));
    }
    assert!(!client.directory.at("x").exists());
}

#[test]
fn at_the_limit_of_open_files_the_guest_is_told() {
    let mut client = Client::with_limit(64 + 20);
    let (node, _) = client.create(ROOT, "file", libc::O_RDWR, 0o644).unwrap();
    let mut open = Vec::new();
    let refused = loop {
        match client.open(node, libc::O_RDONLY) {
            Ok(file) => open.push(file),
            Err(errno) => break errno,
        }
        assert!(open.len() < 100);
    };
    assert_eq!(refused, Errno::ENFILE);
    let file = open.pop().unwrap();
    client.ask(opcode::RELEASE, node, words().u64(file).u64(0).u64(0)).unwrap();
    client.open(node, libc::O_RDONLY).unwrap();
}

#[test]
fn before_the_beginning_and_after_the_end_nothing_is_served() {
    let mut client = Client::silent(1000);
    assert_eq!(client.lookup(ROOT, "x"), Err(Errno::EPROTO));
    for (major, minor) in [(6, 99), (7, 30), (0, 0)] {
        let body = words().u32(major).u32(minor).u32(0).u32(0);
        assert_eq!(client.ask(opcode::INIT, 0, body), Err(Errno::EPROTO));
    }
    client.ask(opcode::INIT, 0, words().u32(7).u32(31).u32(0).u32(0)).unwrap();
    assert_eq!(client.lookup(ROOT, "x"), Err(Errno::ENOENT));
    client.ask(opcode::DESTROY, 0, words()).unwrap();
    assert_eq!(client.lookup(ROOT, "x"), Err(Errno::EPROTO));
}

#[test]
fn what_is_no_message_ends_the_server() {
    for packet in [&b"short"[..], &[0; 40], &[0xff; 100]] {
        let mut client = Client::new();
        client.send(packet);
        let error = client.end().unwrap_err().to_string();
        assert_eq!(error, "serve the socket: it has what is no message");
    }
}

//! What a good guest does.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use nix::errno::Errno;

use crate::message::opcode;
use crate::nodes::ROOT;
use crate::testing::client::{Client, words};

#[test]
fn a_file_is_made_written_and_read() {
    let mut client = Client::new();
    client.user = (1234, 5678);
    let (node, file) = client.create(ROOT, "new", libc::O_RDWR, 0o100_666).unwrap();
    assert_eq!(client.write(node, file, 0, 0, b"content").unwrap(), 7);
    assert_eq!(client.read(node, file, 3, 4096).unwrap(), b"tent");
    let on_host = fs::metadata(client.directory.at("new")).unwrap();
    assert_eq!((on_host.uid(), on_host.gid(), on_host.mode()), (1234, 5678, 0o100_644));
    assert_eq!(fs::read(client.directory.at("new")).unwrap(), b"content");
    let found = client.lookup(ROOT, "new").unwrap();
    assert_eq!(found.node(), node);
    assert_eq!(found.attributes(), (on_host.ino(), 0o100_644, 1, 1234, 5678));
    client.ask(opcode::RELEASE, node, words().u64(file).u64(0).u64(0)).unwrap();
    assert_eq!(client.read(node, file, 0, 10), Err(Errno::EBADF));
    // The largest pieces.
    let file = client.open(node, libc::O_RDWR).unwrap();
    let large: Vec<u8> = (0..128 << 10).map(|byte| byte as u8).collect();
    assert_eq!(client.write(node, file, 5, 0, &large).unwrap(), 128 << 10);
    assert_eq!(client.read(node, file, 5, u32::MAX).unwrap(), large);
}

#[test]
fn names_come_and_go() {
    let mut client = Client::new();
    fs::write(client.directory.at("one"), "1").unwrap();
    let one = client.lookup(ROOT, "one").unwrap().node();
    let linked = client.ask(opcode::LINK, ROOT, words().u64(one).text("two")).unwrap();
    assert_eq!((linked.node(), linked.attributes().2), (one, 2));
    let renamed = |client: &mut Client, flags: u32, from: &str, to: &str| {
        let body = words().u64(ROOT).u32(flags).u32(0).text(from).text(to);
        client.ask(opcode::RENAME2, ROOT, body).map(drop)
    };
    fs::write(client.directory.at("other"), "2").unwrap();
    assert_eq!(renamed(&mut client, 1, "one", "other"), Err(Errno::EEXIST));
    assert_eq!(renamed(&mut client, 2, "one", "other"), Ok(()));
    assert_eq!(fs::read(client.directory.at("one")).unwrap(), b"2");
    assert_eq!(renamed(&mut client, 8, "one", "other"), Err(Errno::EINVAL));
    client.ask(opcode::UNLINK, ROOT, words().text("two")).unwrap();
    assert_eq!(client.lookup(ROOT, "two"), Err(Errno::ENOENT));
    client.ask(opcode::MKDIR, ROOT, words().u32(0o777).u32(0o027).text("sub")).unwrap();
    let mode = fs::metadata(client.directory.at("sub")).unwrap().mode();
    assert_eq!(mode, 0o040_750);
    client.ask(opcode::RMDIR, ROOT, words().text("sub")).unwrap();
    let link = client.ask(opcode::SYMLINK, ROOT, words().text("link").text("/a/b")).unwrap();
    assert_eq!(client.ask(opcode::READLINK, link.node(), words()).unwrap().0, b"/a/b");
    let again = client.ask(opcode::LINK, ROOT, words().u64(link.node()).text("same")).unwrap();
    assert_eq!(again.node(), link.node(), "a link can have another name too");
}

#[test]
fn nodes_of_every_kind_are_made_and_not_opened() {
    let mut client = Client::new();
    for (kind, device, name) in
        [(libc::S_IFIFO, 0, "fifo"), (libc::S_IFSOCK, 0, "socket"), (libc::S_IFCHR, 0, "whiteout")]
    {
        let body = words().u32(kind | 0o644).u32(device).u32(0).u32(0).text(name);
        let made = client.ask(opcode::MKNOD, ROOT, body).unwrap();
        assert_eq!(made.attributes().1, kind | 0o644);
        assert_eq!(made.u32(116), device, "{name}");
        for flags in [libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR | libc::O_TRUNC] {
            assert_eq!(client.open(made.node(), flags), Err(Errno::ENXIO), "{name}");
        }
        assert_eq!(client.create(ROOT, name, libc::O_RDWR, 0o644), Err(Errno::ENXIO), "{name}");
        assert_eq!(client.create(ROOT, name, libc::O_EXCL, 0o644), Err(Errno::EEXIST), "{name}");
        let truncated = setattr(&mut client, made.node(), 8, 0, 0, (0, 0));
        assert_eq!(truncated, Err(Errno::ENXIO));
    }
}

#[test]
fn devices_and_labels_of_the_host_are_not_made() {
    let mut client = Client::new();
    for (kind, device) in [(libc::S_IFCHR, 0x103), (libc::S_IFBLK, 0x800), (libc::S_IFBLK, 0)] {
        let body = words().u32(kind | 0o666).u32(device).u32(0).u32(0).text("device");
        assert_eq!(client.ask(opcode::MKNOD, ROOT, body).err(), Some(Errno::EPERM));
        assert!(!client.directory.at("device").exists());
        assert_eq!(client.lookup(ROOT, "device"), Err(Errno::ENOENT));
    }
    let label = words().u32(1).u32(0).u32(0).u32(0).text("security.selinux").bytes(b"x");
    assert_eq!(client.ask(opcode::SETXATTR, ROOT, label).err(), Some(Errno::EPERM));
    let label = words().text("security.selinux");
    assert_eq!(client.ask(opcode::REMOVEXATTR, ROOT, label).err(), Some(Errno::EPERM));
}

/// With `valid`, size, mode, and owner.
fn setattr(
    client: &mut Client,
    node: u64,
    valid: u32,
    size: u64,
    mode: u32,
    (uid, gid): (u32, u32),
) -> Result<u32, Errno> {
    let times = words().u32(valid).u32(0).u64(0).u64(size).u64(0).u64(1000).u64(2000).u64(0);
    let body = times.u32(1).u32(2).u32(0).u32(mode).u32(0).u32(uid).u32(gid).u32(0);
    client.ask(opcode::SETATTR, node, body).map(|answer| answer.u32(76))
}

#[test]
fn attributes_are_set() {
    let mut client = Client::new();
    let path = client.directory.at("file");
    fs::write(&path, "content").unwrap();
    let node = client.lookup(ROOT, "file").unwrap().node();
    assert_eq!(setattr(&mut client, node, 1 | 2 | 4, 0, 0o6711, (7, 8)), Ok(0o106_711));
    setattr(&mut client, node, 16 | 32, 0, 0, (0, 0)).unwrap();
    let found = fs::metadata(&path).unwrap();
    assert_eq!((found.uid(), found.gid(), found.atime(), found.mtime_nsec()), (7, 8, 1000, 2));
    // Owner alone: set-user-ID goes, as everywhere.
    assert_eq!(setattr(&mut client, node, 2, 0, 0, (9, 0)), Ok(0o100_711));
    setattr(&mut client, node, 8, 3, 0, (0, 0)).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"con");
    // A link's own.
    symlink("file", client.directory.at("link")).unwrap();
    let link = client.lookup(ROOT, "link").unwrap().node();
    setattr(&mut client, link, 2 | 4 | 32, 0, 0, (5, 6)).unwrap();
    let found = fs::symlink_metadata(client.directory.at("link")).unwrap();
    assert_eq!((found.uid(), found.gid(), found.mtime()), (5, 6, 2000));
    assert_eq!(fs::metadata(&path).unwrap().uid(), 9);
}

#[test]
fn writing_clears_set_user_id_if_the_guest_says_so() {
    let mut client = Client::new();
    let path = client.directory.at("program");
    let mode = |bits| {
        fs::set_permissions(&path, fs::Permissions::from_mode(bits)).unwrap();
    };
    fs::write(&path, "x").unwrap();
    let node = client.lookup(ROOT, "program").unwrap().node();
    let file = client.open(node, libc::O_WRONLY).unwrap();
    for (flags, expected) in [(0, 0o106_755), (4, 0o100_755), (0, 0o106_755)] {
        mode(0o6755);
        client.write(node, file, 0, flags, b"y").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode(), expected);
    }
    mode(0o6755);
    setattr(&mut client, node, 8 | 1 << 11, 0, 0, (0, 0)).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode(), 0o100_755);
}

#[test]
fn extended_attributes_and_access_lists() {
    let mut client = Client::new();
    fs::write(client.directory.at("file"), "x").unwrap();
    let node = client.lookup(ROOT, "file").unwrap().node();
    let set = |client: &mut Client, name: &str, value: &[u8]| {
        let body = words().u32(value.len() as u32).u32(0).u32(0).u32(0).text(name).bytes(value);
        client.ask(opcode::SETXATTR, node, body).map(drop)
    };
    let get = |client: &mut Client, name: &str, size| {
        client.ask(opcode::GETXATTR, node, words().u32(size).u32(0).text(name)).map(|a| a.0)
    };
    match set(&mut client, "user.one", b"value") {
        Err(Errno::EOPNOTSUPP) => return, // not on this file system
        result => result.unwrap(),
    }
    assert_eq!(get(&mut client, "user.one", 0).unwrap()[..4], 5_u32.to_ne_bytes());
    assert_eq!(get(&mut client, "user.one", 100).unwrap(), b"value");
    assert_eq!(get(&mut client, "user.one", 2), Err(Errno::ERANGE));
    assert_eq!(get(&mut client, "user.two", u32::MAX), Err(Errno::ENODATA));
    assert_eq!(set(&mut client, "trusted.overlay.opaque", b"y"), Err(Errno::EPERM));
    let list = client.ask(opcode::LISTXATTR, node, words().u32(4096).u32(0)).unwrap();
    assert!(list.0.ends_with(b"user.one\0"), "{list:?}");
    client.ask(opcode::REMOVEXATTR, node, words().text("user.one")).unwrap();
    assert_eq!(get(&mut client, "user.one", 100), Err(Errno::ENODATA));
    // A default list of access below which the umask is nothing: user, group and other may all.
    let entry = |tag: u32, bits: u32| [(tag | bits << 16).to_ne_bytes(), [0xff; 4]].concat();
    let acl = [&2_u32.to_ne_bytes()[..], &entry(1, 7), &entry(4, 7), &entry(0x20, 7)].concat();
    let name = "system.posix_acl_default";
    let body = words().u32(acl.len() as u32).u32(0).u32(0).u32(0).text(name).bytes(&acl);
    if client.ask(opcode::SETXATTR, ROOT, body).is_ok() {
        client.create(ROOT, "shared", libc::O_RDWR, 0o100_666).unwrap();
        let mode = fs::metadata(client.directory.at("shared")).unwrap().mode();
        assert_eq!(mode, 0o100_666);
    }
}

#[test]
fn a_directory_is_listed_whole() {
    let mut client = Client::new();
    for number in 0..500 {
        fs::write(client.directory.at(&format!("file-{number}")), "").unwrap();
    }
    for (open, list, plus) in
        [(opcode::OPENDIR, opcode::READDIR, 0), (opcode::OPENDIR, opcode::READDIRPLUS, 128)]
    {
        let handle = client.ask(open, ROOT, words().u64(0)).unwrap().u64(0);
        let (mut offset, mut names) = (0, Vec::new());
        loop {
            let body = words().u64(handle).u64(offset).u32(4096).u32(0).u64(0).u64(0);
            let answer = client.ask(list, ROOT, body).unwrap();
            if answer.0.is_empty() {
                break;
            }
            assert!(answer.0.len() <= 4096);
            let mut at = 0;
            while at < answer.0.len() {
                let length = answer.u32(at + plus + 16) as usize;
                let name = &answer.0[at + plus + 24..][..length];
                let name = String::from_utf8(name.to_vec()).unwrap();
                assert_eq!(plus > 0 && !name.starts_with('.'), plus > 0 && answer.u64(at) > 0);
                offset = answer.u64(at + plus + 8);
                names.push(name);
                at += plus + (24 + length).next_multiple_of(8);
            }
        }
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 502);
    }
}

#[test]
fn a_file_without_a_name_gets_one() {
    let mut client = Client::new();
    let body = words().u32(libc::O_RDWR as u32).u32(0o100_600).u32(0).u32(0).text("x");
    let made = match client.ask(opcode::TMPFILE, ROOT, body) {
        Err(Errno::EOPNOTSUPP) => return, // not on this file system
        made => made.unwrap(),
    };
    let (node, file) = (made.node(), made.u64(128));
    client.write(node, file, 0, 0, b"late").unwrap();
    client.ask(opcode::GETATTR, node, words().u64(0).u64(0)).unwrap();
    client.ask(opcode::LINK, ROOT, words().u64(node).text("named")).unwrap();
    assert_eq!(fs::read(client.directory.at("named")).unwrap(), b"late");
}

#[test]
fn appending_and_holes() {
    let mut client = Client::new();
    let path = client.directory.at("log");
    let (node, file) = client.create(ROOT, "log", libc::O_WRONLY | libc::O_APPEND, 0o644).unwrap();
    client.write(node, file, 0, 0, b"one ").unwrap();
    fs::write(&path, "one two ").unwrap();
    // The guest believes the end to be where it was.
    let append = libc::O_APPEND as u64;
    let body = words().u64(file).u64(4).u32(5).u32(0).u64(0).u64(append).bytes(b"three");
    client.ask(opcode::WRITE, node, body).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"one two three");
    let seek = words().u64(file).u64(0).u32(libc::SEEK_HOLE as u32).u32(0);
    assert_eq!(client.ask(opcode::LSEEK, node, seek).unwrap().u64(0), 13);
    let grow = words().u64(file).u64(0).u64(100).u32(0).u32(0);
    client.ask(opcode::FALLOCATE, node, grow).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), 100);
}

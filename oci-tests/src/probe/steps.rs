//! Steps that try one thing each and answer what came of it.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use serde_json::{Value, json};

use super::{attack, number, report};
use crate::sys;

/// Does one step.
pub fn step(verb: &str, args: &[&str]) -> Value {
    let path = args.first().copied().unwrap_or_default();
    match verb {
        "report" => report::report(),
        "stat" => io(fs::metadata(path).map(|found| describe(&found))),
        "lstat" => io(fs::symlink_metadata(path).map(|found| describe(&found))),
        "readlink" => io(fs::read_link(path).map(|target| json!(target))),
        "read" => io(read(path)),
        "list" => io(list(path)),
        "links" => report::links(path),
        "write" => io(put(path, &args[1..].join(" "), false)),
        "append" => io(put(path, &args[1..].join(" "), true)),
        "create" => {
            io(File::options().write(true).create_new(true).open(path).map(|_| json!("ok")))
        }
        "open-r" => io(File::open(path).map(|_| json!("ok"))),
        "open-w" => io(File::options().write(true).open(path).map(|_| json!("ok"))),
        "open-rw" => io(File::options().read(true).write(true).open(path).map(|_| json!("ok"))),
        "mkdir" => io(fs::create_dir(path).map(|()| json!("ok"))),
        "unlink" => io(fs::remove_file(path).map(|()| json!("ok"))),
        "chown" => io(std::os::unix::fs::chown(
            path,
            Some(number(args, 1) as u32),
            Some(number(args, 2) as u32),
        )
        .map(|()| json!("ok"))),
        "chmod" => {
            io(fs::set_permissions(path, fs::Permissions::from_mode(number(args, 1) as u32))
                .map(|()| json!("ok")))
        }
        "symlink" => io(std::os::unix::fs::symlink(path, args[1]).map(|()| json!("ok"))),
        "mknod" => io(mknod(path, args)),
        "mount-tmpfs" => {
            nix(mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), None::<&str>))
        }
        "bind" => nix(mount(Some(path), args[1], None::<&str>, MsFlags::MS_BIND, None::<&str>)),
        "remount-rw" => nix(mount(
            None::<&str>,
            path,
            None::<&str>,
            MsFlags::MS_REMOUNT | MsFlags::MS_BIND,
            None::<&str>,
        )),
        "run" => run(path, &args[1..]),
        "syscall" => syscall(args),
        "syscall-in-child" => in_child(args),
        "errno-of" => json!(Errno::from_raw(number(args, 0) as i32).to_string()),
        "sleepers" => sleepers(number(args, 0)),
        "allocate" => allocate(number(args, 0)),
        "uname" => match nix::sys::utsname::uname() {
            Ok(names) => json!(names.machine().to_string_lossy()),
            Err(errno) => json!({ "errno": name(errno as i32) }),
        },
        "sethostname" => nix(nix::unistd::sethostname(path)),
        "stdin" => io(stdin()),
        "stderr" => io(io::stderr().write_all(args.join(" ").as_bytes()).map(|()| json!("ok"))),
        "write-fd" => io(write_fd(args)),
        "notify" => io(notify(&args.join(" "))),
        "status-of" => report::status(&format!("/proc/{path}/status")),
        "wait-for" => wait_for(path),
        "swap" => attack::swap(path, args[1]),
        "look-around" => attack::look_around(),
        "besiege" => attack::besiege(path),
        "watch" => attack::watch(path),
        "peep" => attack::peep(path, args[1]),
        _ => json!({ "errno": format!("probe has no step {verb}") }),
    }
}

fn io(result: io::Result<Value>) -> Value {
    match result {
        Ok(value) => value,
        Err(error) => json!({ "errno": name(error.raw_os_error().unwrap_or(0)) }),
    }
}

fn nix(result: nix::Result<()>) -> Value {
    match result {
        Ok(()) => json!("ok"),
        Err(errno) => json!({ "errno": name(errno as i32) }),
    }
}

fn name(errno: i32) -> String {
    let text = format!("{:?}", Errno::from_raw(errno));
    if text == "UnknownErrno" { format!("E{errno}") } else { text }
}

fn describe(found: &fs::Metadata) -> Value {
    let kind = found.file_type();
    let kind = match () {
        () if kind.is_char_device() => "c",
        () if kind.is_block_device() => "b",
        () if kind.is_fifo() => "p",
        () if kind.is_socket() => "s",
        () if kind.is_symlink() => "l",
        () if kind.is_dir() => "d",
        () => "f",
    };
    json!({
        "type": kind, "mode": found.mode() & 0o7777, "uid": found.uid(), "gid": found.gid(),
        "major": nix::sys::stat::major(found.rdev()), "minor": nix::sys::stat::minor(found.rdev()),
        "size": found.len(), "ino": found.ino(), "dev": found.dev(), "nlink": found.nlink(),
    })
}

fn read(path: &str) -> io::Result<Value> {
    let mut bytes = Vec::new();
    File::open(path)?.take(60_000).read_to_end(&mut bytes)?;
    Ok(json!(String::from_utf8_lossy(&bytes)))
}

fn list(path: &str) -> io::Result<Value> {
    let mut names: Vec<String> = fs::read_dir(path)?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    Ok(json!(names))
}

fn put(path: &str, text: &str, append: bool) -> io::Result<Value> {
    let mut file = if append {
        File::options().append(true).create(true).open(path)?
    } else {
        File::options().write(true).truncate(true).create(true).open(path)?
    };
    file.write_all(text.as_bytes())?;
    Ok(json!("ok"))
}

fn mknod(path: &str, args: &[&str]) -> io::Result<Value> {
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    let kind = match args.get(1).copied() {
        Some("b") => SFlag::S_IFBLK,
        Some("p") => SFlag::S_IFIFO,
        _ => SFlag::S_IFCHR,
    };
    mknod(path, kind, Mode::from_bits_truncate(0o666), makedev(number(args, 2), number(args, 3)))?;
    Ok(json!("ok"))
}

/// Runs a program and answers its exit code or signal and its stdout.
fn run(path: &str, args: &[&str]) -> Value {
    match Command::new(path).args(args).stdin(Stdio::null()).output() {
        Ok(output) => {
            use std::os::unix::process::ExitStatusExt;
            json!({
                "code": output.status.code(), "signal": output.status.signal(),
                "stdout": String::from_utf8_lossy(&output.stdout),
            })
        }
        Err(error) => json!({ "errno": name(error.raw_os_error().unwrap_or(0)) }),
    }
}

fn words(args: &[&str]) -> [u64; 6] {
    std::array::from_fn(|index| number(args, index + 1))
}

fn syscall(args: &[&str]) -> Value {
    let (value, errno) = sys::raw(number(args, 0) as i64, words(args));
    if errno == 0 { json!({ "value": value }) } else { json!({ "errno": name(errno) }) }
}

/// As `syscall`, in a child: a filter that kills takes the child only.
fn in_child(args: &[&str]) -> Value {
    let (number, words) = (number(args, 0) as i64, words(args));
    let status = sys::forked(|| {
        let (_, errno) = sys::raw(number, words);
        errno.min(250)
    });
    match status {
        Ok(status) if libc::WIFSIGNALED(status) => json!({ "signal": libc::WTERMSIG(status) }),
        Ok(status) => json!({ "code": libc::WEXITSTATUS(status) }),
        Err(error) => json!({ "errno": name(error.raw_os_error().unwrap_or(0)) }),
    }
}

/// Forks up to `count` children that sleep for ever; answers how many there are and their pids.
fn sleepers(count: u64) -> Value {
    let mut pids = Vec::new();
    for _ in 0..count {
        match sys::sleeper() {
            Ok(pid) => pids.push(pid),
            Err(error) => {
                return json!({ "count": pids.len(), "errno": name(error.raw_os_error().unwrap_or(0)) });
            }
        }
    }
    json!({ "count": pids.len(), "pids": pids })
}

/// Touches `mebibytes` of memory in a child; answers how the child ended.
fn allocate(mebibytes: u64) -> Value {
    let status = sys::forked(|| {
        let mut block = vec![0u8; (mebibytes << 20) as usize];
        for page in block.chunks_mut(4096) {
            page[0] = 1;
        }
        i32::from(block.iter().step_by(4096).any(|byte| *byte != 1))
    });
    match status {
        Ok(status) if libc::WIFSIGNALED(status) => json!({ "signal": libc::WTERMSIG(status) }),
        Ok(status) => json!({ "code": libc::WEXITSTATUS(status) }),
        Err(error) => json!({ "errno": name(error.raw_os_error().unwrap_or(0)) }),
    }
}

fn stdin() -> io::Result<Value> {
    let mut text = String::new();
    io::stdin().read_to_string(&mut text)?;
    Ok(json!(text))
}

/// Writes to an inherited descriptor by number, through procfs so that it stays safe code.
fn write_fd(args: &[&str]) -> io::Result<Value> {
    let path = format!("/proc/self/fd/{}", args.first().copied().unwrap_or("1"));
    File::options().write(true).open(path)?.write_all(args[1..].join(" ").as_bytes())?;
    Ok(json!("ok"))
}

/// Sends a datagram as sd_notify(3) does.
fn notify(text: &str) -> io::Result<Value> {
    let path = std::env::var("NOTIFY_SOCKET").map_err(io::Error::other)?;
    UnixDatagram::unbound()?.send_to(text.as_bytes(), path)?;
    Ok(json!("ok"))
}

/// Waits until a file exists; the other side has a deadline.
fn wait_for(path: &str) -> Value {
    while fs::metadata(path).is_err() {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    json!("ok")
}

//! config.md, Linux mount options: one test per word of the tables.

use std::fs;

use crate::check::{Test, ensure, has_option, mount_at, test};
use crate::lab::bundle::mount;

/// What a word must leave in the mount's entry of mountinfo.
#[derive(Clone, Copy)]
enum Mark {
    /// A flag of the mount is there.
    Has(&'static str),
    /// A flag of the mount is not there.
    Lacks(&'static str),
    /// An option of the superblock is there.
    Super(&'static str),
    /// An option of the superblock is not there.
    NoSuper(&'static str),
    /// The propagation is this word (`private` is the absence of all).
    Peers(&'static str),
    /// The word is accepted; the kernel shows nothing.
    Accepted,
}

use Mark::{Accepted, Has, Lacks, NoSuper, Peers, Super};

/// Options, what they must do, and their feature row. Words that undo come after what they undo.
const WORDS: [(&[&str], Mark, &str); 66] = [
    (&["defaults"], Accepted, "F68"),
    (&["ro"], Has("ro"), "F68"),
    (&["rw"], Has("rw"), "F68"),
    (&["ro", "rw"], Has("rw"), "F68"),
    (&["nosuid"], Has("nosuid"), "F68"),
    (&["nosuid", "suid"], Lacks("nosuid"), "F68"),
    (&["nodev"], Has("nodev"), "F68"),
    (&["nodev", "dev"], Lacks("nodev"), "F68"),
    (&["noexec"], Has("noexec"), "F68"),
    (&["noexec", "exec"], Lacks("noexec"), "F68"),
    (&["sync"], Super("sync"), "F68"),
    (&["sync", "async"], NoSuper("sync"), "F68"),
    (&["async"], NoSuper("sync"), "F68"),
    (&["dirsync"], Super("dirsync"), "F68"),
    (&["noatime"], Has("noatime"), "F68"),
    (&["noatime", "atime"], Lacks("noatime"), "F68"),
    (&["atime"], Lacks("noatime"), "F68"),
    (&["nodiratime"], Has("nodiratime"), "F68"),
    (&["nodiratime", "diratime"], Lacks("nodiratime"), "F68"),
    (&["diratime"], Lacks("nodiratime"), "F68"),
    (&["relatime"], Has("relatime"), "F68"),
    (&["norelatime"], Accepted, "F68"),
    (&["strictatime"], Lacks("relatime"), "F68"),
    (&["strictatime", "nostrictatime"], Has("relatime"), "F68"),
    (&["nostrictatime"], Accepted, "F68"),
    (&["private"], Peers("private"), "F69"),
    (&["rprivate"], Peers("private"), "F69"),
    (&["shared"], Peers("shared"), "F69"),
    (&["rshared"], Peers("shared"), "F69"),
    (&["slave"], Peers("private"), "F69"),
    (&["rslave"], Peers("private"), "F69"),
    (&["unbindable"], Peers("unbindable"), "F69"),
    (&["runbindable"], Peers("unbindable"), "F69"),
    (&["silent"], Accepted, "F70"),
    (&["loud"], Accepted, "F70"),
    (&["silent", "loud"], Accepted, "F70"),
    (&["iversion"], Accepted, "F71"),
    (&["noiversion"], Accepted, "F71"),
    (&["lazytime"], Super("lazytime"), "F72"),
    (&["lazytime", "nolazytime"], NoSuper("lazytime"), "F72"),
    (&["nolazytime"], NoSuper("lazytime"), "F72"),
    (&["nosymfollow"], Has("nosymfollow"), "F73"),
    (&["nosymfollow", "symfollow"], Lacks("nosymfollow"), "F73"),
    (&["symfollow"], Lacks("nosymfollow"), "F73"),
    (&["rro"], Has("ro"), "F74"),
    (&["rrw"], Has("rw"), "F74"),
    (&["rnosuid"], Has("nosuid"), "F74"),
    (&["rsuid"], Lacks("nosuid"), "F74"),
    (&["rnodev"], Has("nodev"), "F74"),
    (&["rdev"], Lacks("nodev"), "F74"),
    (&["rnoexec"], Has("noexec"), "F74"),
    (&["rexec"], Lacks("noexec"), "F74"),
    (&["rnoatime"], Has("noatime"), "F75"),
    (&["ratime"], Lacks("noatime"), "F75"),
    (&["rnodiratime"], Has("nodiratime"), "F75"),
    (&["rdiratime"], Lacks("nodiratime"), "F75"),
    (&["rrelatime"], Has("relatime"), "F75"),
    (&["rnorelatime"], Accepted, "F75"),
    (&["rstrictatime"], Lacks("relatime"), "F75"),
    (&["rnostrictatime"], Accepted, "F75"),
    (&["rnosymfollow"], Has("nosymfollow"), "F76"),
    (&["rsymfollow"], Lacks("nosymfollow"), "F76"),
    (&["mand"], Accepted, "F77"),
    (&["nomand"], Accepted, "F77"),
    (&["acl"], Accepted, "F80"),
    (&["noacl"], Accepted, "F80"),
];

/// Tests of this chapter: each word on a new tmpfs, and the flags of a mount on a bind as well.
pub fn tests() -> Vec<Test> {
    let mut tests: Vec<Test> =
        WORDS.iter().map(|(words, mark, row)| one(words, *mark, row, false)).collect();
    let per_mount = |mark: &Mark| matches!(mark, Has(_) | Lacks(_) | Peers(_));
    tests.extend(
        WORDS
            .iter()
            .filter(|(_, mark, _)| per_mount(mark))
            .map(|(words, mark, row)| one(words, *mark, row, true)),
    );
    tests.push(test(
        "config#linux-mount-options",
        "F68",
        "remount changes the flags of a mount that is there",
        |lab| {
            let seen = lab.report(|spec| {
                mount(spec, "/data", "tmpfs", "tmpfs", &[]);
                mount(spec, "/data", "tmpfs", "tmpfs", &["remount", "ro", "nosuid"]);
            })?;
            let options = &mount_at(&seen, "/data")?["options"];
            ensure(
                has_option(options, "ro") && has_option(options, "nosuid"),
                format!("options are {options}"),
            )
        },
    ));
    tests
}

fn one(words: &'static [&'static str], mark: Mark, row: &'static str, bind: bool) -> Test {
    let place = if bind { "on a bind mount" } else { "on a new tmpfs" };
    let status = match row {
        "F68" | "F69" | "F70" | "F71" | "F72" => "MUST",
        "F77" | "F80" => "MAY",
        _ => "SHOULD",
    };
    let text = format!("option {} is supported {place} ({status})", words.join(","));
    test("config#linux-mount-options", row, text, move |lab| {
        let source = lab.dir.join("source");
        fs::create_dir(&source)?;
        let seen = lab.report(|spec| {
            if bind {
                let mut options = vec!["bind"];
                options.extend_from_slice(words);
                mount(spec, "/data", "bind", &source.display().to_string(), &options);
            } else {
                mount(spec, "/data", "tmpfs", "tmpfs", words);
            }
        });
        if let (Err(_), "MAY") = (&seen, status) {
            return lab.quality(false, format!("option {} is refused", words.join(",")));
        }
        let seen = seen?;
        let entry = mount_at(&seen, "/data")?;
        let (flags, of_super, peers) =
            (&entry["options"], &entry["super"], entry["peers"].to_string());
        let fact = match mark {
            Accepted => true,
            Has(flag) => has_option(flags, flag),
            Lacks(flag) => !has_option(flags, flag),
            Super(flag) => has_option(of_super, flag),
            NoSuper(flag) => !has_option(of_super, flag),
            Peers("private") => !peers.contains("shared:") && !peers.contains("unbindable"),
            Peers(word) => peers.contains(word),
        };
        ensure(fact, format!("mountinfo has {flags} {peers} - {of_super}"))
    })
}

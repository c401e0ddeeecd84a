//! Mount options: the words of the specification, and what each asks of the kernel.
//!
//! One sorted table covers the options that
//! [config.md](https://github.com/opencontainers/runtime-spec/blob/main/config.md#linux-mount-options)
//! names, and crun's additions. A word that is not in the table is data for the file system.
//! Where two words contradict each other the last one counts, as with mount(8).
//!
//! The words fall in four kinds, and the mount API has a call for each: attributes of the mount
//! (mount_setattr(2)), flags of the file system (fsconfig(2)), propagation, and instructions to the
//! runtime itself.

use std::ffi::{CStr, CString};

use crate::error::{Error, Result};
use crate::sys::mount::{
    Depth, MOUNT_ATTR_ATIME, MOUNT_ATTR_NOATIME, MOUNT_ATTR_NODEV, MOUNT_ATTR_NODIRATIME,
    MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NOSYMFOLLOW, MOUNT_ATTR_RDONLY,
    MOUNT_ATTR_STRICTATIME,
};

/// What a word of the table asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    /// Nothing that a mount could show.
    Nothing,
    Set(Depth, u64),
    Clear(Depth, u64),
    Atime(Depth, Atime),
    /// A flag for fsconfig(2).
    Superblock(&'static CStr),
    /// Counts inode versions: a flag that only mount(2) can set.
    InodeVersion(bool),
    Propagation(Depth, u64),
    Bind(Depth),
    IdMap(Depth),
    Remount,
    CopyUp,
    SourceNoFollow,
    TargetNoFollow,
    CopySymlink,
}

/// A word about access times. They share a field of three values, so `atime` and its like do not
/// clear a bit but leave one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Atime {
    /// Choose this value.
    Is(u64),
    /// Give this value up for the kernel's default.
    Not(u64),
}

use Depth::{Recursive, Top};
use Effect::{
    Atime as A, Bind, Clear, CopySymlink, CopyUp, IdMap, InodeVersion, Nothing, Propagation,
    Remount, Set, SourceNoFollow, Superblock, TargetNoFollow,
};

/// The kernel's default access time mode, the zero of its field.
const RELATIME: u64 = 0;
const PRIVATE: u64 = libc::MS_PRIVATE;
const SHARED: u64 = libc::MS_SHARED;
const SLAVE: u64 = libc::MS_SLAVE;
const UNBINDABLE: u64 = libc::MS_UNBINDABLE;

/// All options, sorted by name.
///
/// `acl` and `noacl` are dropped: most kernels take `MS_POSIXACL` for an unknown flag, and file
/// systems that know the word are on their own defaults. `silent` and `loud` only tell the kernel
/// what to print, and fsconfig(2) returns its messages to us instead of printing them.
const TABLE: &[(&str, Effect)] = &[
    ("acl", Nothing),
    ("async", Superblock(c"async")),
    ("atime", A(Top, Atime::Not(MOUNT_ATTR_NOATIME))),
    ("bind", Bind(Top)),
    ("copy-symlink", CopySymlink),
    ("defaults", Nothing),
    ("dest-nofollow", TargetNoFollow),
    ("dev", Clear(Top, MOUNT_ATTR_NODEV)),
    ("diratime", Clear(Top, MOUNT_ATTR_NODIRATIME)),
    ("dirsync", Superblock(c"dirsync")),
    ("exec", Clear(Top, MOUNT_ATTR_NOEXEC)),
    ("idmap", IdMap(Top)),
    ("iversion", InodeVersion(true)),
    ("lazytime", Superblock(c"lazytime")),
    ("loud", Nothing),
    ("mand", Superblock(c"mand")),
    ("noacl", Nothing),
    ("noatime", A(Top, Atime::Is(MOUNT_ATTR_NOATIME))),
    ("nodev", Set(Top, MOUNT_ATTR_NODEV)),
    ("nodiratime", Set(Top, MOUNT_ATTR_NODIRATIME)),
    ("noexec", Set(Top, MOUNT_ATTR_NOEXEC)),
    ("noiversion", InodeVersion(false)),
    ("nolazytime", Superblock(c"nolazytime")),
    ("nomand", Superblock(c"nomand")),
    ("norelatime", A(Top, Atime::Not(RELATIME))),
    ("nostrictatime", A(Top, Atime::Not(MOUNT_ATTR_STRICTATIME))),
    ("nosuid", Set(Top, MOUNT_ATTR_NOSUID)),
    ("nosymfollow", Set(Top, MOUNT_ATTR_NOSYMFOLLOW)),
    ("private", Propagation(Top, PRIVATE)),
    ("rasync", Superblock(c"async")),
    ("ratime", A(Recursive, Atime::Not(MOUNT_ATTR_NOATIME))),
    ("rbind", Bind(Recursive)),
    ("rdev", Clear(Recursive, MOUNT_ATTR_NODEV)),
    ("rdiratime", Clear(Recursive, MOUNT_ATTR_NODIRATIME)),
    ("rdirsync", Superblock(c"dirsync")),
    ("relatime", A(Top, Atime::Is(RELATIME))),
    ("remount", Remount),
    ("rexec", Clear(Recursive, MOUNT_ATTR_NOEXEC)),
    ("ridmap", IdMap(Recursive)),
    ("rnoatime", A(Recursive, Atime::Is(MOUNT_ATTR_NOATIME))),
    ("rnodev", Set(Recursive, MOUNT_ATTR_NODEV)),
    ("rnodiratime", Set(Recursive, MOUNT_ATTR_NODIRATIME)),
    ("rnoexec", Set(Recursive, MOUNT_ATTR_NOEXEC)),
    ("rnorelatime", A(Recursive, Atime::Not(RELATIME))),
    ("rnostrictatime", A(Recursive, Atime::Not(MOUNT_ATTR_STRICTATIME))),
    ("rnosuid", Set(Recursive, MOUNT_ATTR_NOSUID)),
    ("rnosymfollow", Set(Recursive, MOUNT_ATTR_NOSYMFOLLOW)),
    ("ro", Set(Top, MOUNT_ATTR_RDONLY)),
    ("rprivate", Propagation(Recursive, PRIVATE)),
    ("rrelatime", A(Recursive, Atime::Is(RELATIME))),
    ("rro", Set(Recursive, MOUNT_ATTR_RDONLY)),
    ("rrw", Clear(Recursive, MOUNT_ATTR_RDONLY)),
    ("rshared", Propagation(Recursive, SHARED)),
    ("rslave", Propagation(Recursive, SLAVE)),
    ("rstrictatime", A(Recursive, Atime::Is(MOUNT_ATTR_STRICTATIME))),
    ("rsuid", Clear(Recursive, MOUNT_ATTR_NOSUID)),
    ("rsymfollow", Clear(Recursive, MOUNT_ATTR_NOSYMFOLLOW)),
    ("rsync", Superblock(c"sync")),
    ("runbindable", Propagation(Recursive, UNBINDABLE)),
    ("rw", Clear(Top, MOUNT_ATTR_RDONLY)),
    ("shared", Propagation(Top, SHARED)),
    ("silent", Nothing),
    ("slave", Propagation(Top, SLAVE)),
    ("src-nofollow", SourceNoFollow),
    ("strictatime", A(Top, Atime::Is(MOUNT_ATTR_STRICTATIME))),
    ("suid", Clear(Top, MOUNT_ATTR_NOSUID)),
    ("symfollow", Clear(Top, MOUNT_ATTR_NOSYMFOLLOW)),
    ("sync", Superblock(c"sync")),
    ("tmpcopyup", CopyUp),
    ("unbindable", Propagation(Top, UNBINDABLE)),
];

/// The names of all options that are understood, for `features`.
pub(crate) fn known() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|&(name, _)| name).filter(|name| !name.ends_with("acl"))
}

/// Attributes of a mount to set and to clear.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// Attributes to set.
    pub set: u64,
    /// Attributes to clear, before `set`.
    pub clear: u64,
}

impl Attributes {
    fn set(&mut self, bits: u64) {
        self.set |= bits;
        self.clear &= !bits;
    }

    fn clear(&mut self, bits: u64) {
        self.clear |= bits;
        self.set &= !bits;
    }

    fn forget(&mut self, bits: u64) {
        self.set &= !bits;
        self.clear &= !bits;
    }

    /// Follows a word about access times. A change of the field needs the whole of it cleared.
    fn atime(&mut self, word: Atime) {
        let chosen = (self.clear & MOUNT_ATTR_ATIME != 0).then_some(self.set & MOUNT_ATTR_ATIME);
        let value = match (word, chosen) {
            (Atime::Is(value), _) => value,
            // Nothing to give up: another value was chosen, or the default is given up for itself.
            (Atime::Not(value), Some(other)) if value != other => return,
            (Atime::Not(RELATIME), None) => return,
            (Atime::Not(_), _) => RELATIME,
        };
        self.clear |= MOUNT_ATTR_ATIME;
        self.set = self.set & !MOUNT_ATTR_ATIME | value;
    }

    /// Whether there is nothing to change.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A parameter for the file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parameter {
    /// Its index in the options of the mount.
    pub option: usize,
    /// The name.
    pub key: CString,
    /// What follows the equals sign.
    pub value: Option<CString>,
}

impl Parameter {
    /// As it was asked for: in quotes, and no longer than a line.
    pub(crate) fn quoted(&self) -> String {
        const LONGEST: usize = 100;
        let value = self.value.as_ref().map(|value| [b"=", value.to_bytes()].concat());
        let text = [self.key.to_bytes(), &value.unwrap_or_default()].concat();
        let shown = String::from_utf8_lossy(&text[..text.len().min(LONGEST)]);
        format!("{shown:?}{}", if text.len() > LONGEST { "..." } else { "" })
    }
}

/// The options of one mount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// For the mount itself; applied after `recursive`.
    pub attributes: Attributes,
    /// For the mount and those below it.
    pub recursive: Attributes,
    /// In order.
    pub propagation: Vec<(Depth, u64)>,
    /// Flags of the file system, in order; each takes back its opposite.
    pub superblock: Vec<&'static CStr>,
    /// Data for the file system.
    pub data: Vec<Parameter>,
    /// `bind` or `rbind`.
    pub bind: Option<Depth>,
    /// `idmap` or `ridmap`.
    pub idmap: Option<Depth>,
    /// `remount`.
    pub remount: bool,
    /// `tmpcopyup`.
    pub copy_up: bool,
    /// `iversion`.
    pub inode_version: bool,
    /// `src-nofollow`: a source that is a symbolic link is mounted itself.
    pub source_nofollow: bool,
    /// `dest-nofollow`: a destination that is a symbolic link is mounted on itself.
    pub target_nofollow: bool,
    /// `copy-symlink`: a source that is a symbolic link is made again at the destination.
    pub copy_symlink: bool,
}

impl Options {
    /// Attributes that a new mount shall have.
    pub(crate) fn initial(&self) -> u64 {
        (self.recursive.set & !self.attributes.clear) | self.attributes.set
    }

    /// Whether the mount shall be read-only.
    pub(crate) fn readonly(&self) -> bool {
        self.initial() & MOUNT_ATTR_RDONLY != 0
    }

    /// Whether the parameter `key` is given.
    pub(crate) fn has(&self, key: &CStr) -> bool {
        self.data.iter().any(|parameter| parameter.key.as_c_str() == key)
    }

    fn depth(&mut self, depth: Depth) -> &mut Attributes {
        match depth {
            Top => &mut self.attributes,
            Recursive => &mut self.recursive,
        }
    }

    fn apply(&mut self, effect: Effect) {
        // A later recursive word speaks for the mount itself too.
        if let Set(Recursive, bits) | Clear(Recursive, bits) = effect {
            self.attributes.forget(bits);
        }
        if let A(Recursive, _) = effect {
            self.attributes.forget(MOUNT_ATTR_ATIME);
        }
        match effect {
            Nothing => {}
            Set(depth, bits) => self.depth(depth).set(bits),
            Clear(depth, bits) => self.depth(depth).clear(bits),
            A(depth, word) => self.depth(depth).atime(word),
            Superblock(flag) => self.superblock.push(flag),
            InodeVersion(on) => self.inode_version = on,
            Propagation(depth, flag) => self.propagation.push((depth, flag)),
            Bind(depth) => self.bind = Some(depth),
            IdMap(depth) => self.idmap = Some(depth),
            Remount => self.remount = true,
            CopyUp => self.copy_up = true,
            SourceNoFollow => self.source_nofollow = true,
            TargetNoFollow => self.target_nofollow = true,
            CopySymlink => self.copy_symlink = true,
        }
    }
}

/// Parses the options of the mount whose JSON path is `field`, as `mounts[3]`.
pub(crate) fn parse(field: &str, words: &[String]) -> Result<Options> {
    let mut options = Options::default();
    for (option, word) in words.iter().enumerate() {
        match TABLE.binary_search_by_key(&word.as_str(), |&(name, _)| name) {
            Ok(at) => options.apply(TABLE[at].1),
            Err(_) => {
                for piece in split(word) {
                    let parameter = parameter(option, piece).map_err(|reason| {
                        Error::invalid(format!("{field}.options[{option}]"), reason)
                    })?;
                    options.data.push(parameter);
                }
            }
        }
    }
    Ok(options)
}

fn parameter(option: usize, text: &str) -> Result<Parameter, String> {
    let string = |part: &str| CString::new(part).map_err(|_| "has a NUL byte".to_owned());
    let (key, value) = match text.split_once('=') {
        Some((key, value)) => (key, Some(value)),
        None => (text, None),
    };
    if key.is_empty() {
        return Err(format!("{text:?} has no name before the equals sign"));
    }
    // mount(2) takes quotes around a value with commas, such as an SELinux context; fsconfig(2)
    // takes each value as it is.
    let value = value.map(|v| v.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(v));
    Ok(Parameter { option, key: string(key)?, value: value.map(string).transpose()? })
}

/// Splits data at its commas, as mount(2) does: not within quotes and not behind a backslash.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    let mut escaped = false;
    text.split(move |c| {
        let literal = escaped;
        escaped = c == '\\' && !literal;
        if c == '"' && !literal {
            quoted = !quoted;
        }
        c == ',' && !quoted && !literal
    })
    .filter(|piece| !piece.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(words: &str) -> Options {
        let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
        parse("mounts[0]", &words).unwrap()
    }

    #[test]
    fn table_is_sorted_and_complete() {
        assert!(TABLE.is_sorted_by(|a, b| a.0 < b.0));
        // config.md of runtime-spec 1.3, in its order.
        let specified = "async atime bind defaults dev diratime dirsync exec iversion lazytime loud \
            mand noatime nodev nodiratime noexec noiversion nolazytime nomand norelatime \
            nostrictatime nosuid nosymfollow private ratime rbind rdev rdiratime relatime remount \
            rexec rnoatime rnodev rnodiratime rnoexec rnorelatime rnostrictatime rnosuid \
            rnosymfollow ro rprivate rrelatime rro rrw rshared rslave rstrictatime rsuid rsymfollow \
            runbindable rw shared silent slave strictatime suid symfollow sync tmpcopyup unbindable \
            idmap ridmap";
        for word in specified.split_whitespace() {
            assert!(known().any(|name| name == word), "{word}");
        }
        assert!(!known().any(|name| name == "acl"));
    }

    #[test]
    fn attributes_follow_the_last_word() {
        const RO: u64 = MOUNT_ATTR_RDONLY;
        const NA: u64 = MOUNT_ATTR_NOATIME;
        const ST: u64 = MOUNT_ATTR_STRICTATIME;
        const AT: u64 = MOUNT_ATTR_ATIME;
        // words, (set, clear) of the mount, (set, clear) of all
        type Bits = (u64, u64);
        let table: &[(&str, Bits, Bits)] = &[
            ("", (0, 0), (0, 0)),
            ("ro", (RO, 0), (0, 0)),
            ("rw", (0, RO), (0, 0)),
            ("ro rw", (0, RO), (0, 0)),
            ("rw ro", (RO, 0), (0, 0)),
            ("rro", (0, 0), (RO, 0)),
            ("rro rw", (0, RO), (RO, 0)),
            ("rw rro", (0, 0), (RO, 0)),
            ("rro rrw", (0, 0), (0, RO)),
            ("nosuid nodev noexec", (2 | 4 | 8, 0), (0, 0)),
            ("nosuid suid", (0, 2), (0, 0)),
            ("rnosymfollow", (0, 0), (MOUNT_ATTR_NOSYMFOLLOW, 0)),
            ("noatime", (NA, AT), (0, 0)),
            ("noatime atime", (0, AT), (0, 0)),
            ("atime", (0, AT), (0, 0)),
            ("strictatime atime", (ST, AT), (0, 0)),
            ("noatime relatime", (0, AT), (0, 0)),
            ("relatime noatime", (NA, AT), (0, 0)),
            ("strictatime nostrictatime", (0, AT), (0, 0)),
            ("noatime nostrictatime", (NA, AT), (0, 0)),
            ("norelatime", (0, 0), (0, 0)),
            ("noatime norelatime", (NA, AT), (0, 0)),
            ("noatime rstrictatime", (0, 0), (ST, AT)),
            ("nodiratime diratime", (0, MOUNT_ATTR_NODIRATIME), (0, 0)),
            ("acl noacl defaults silent loud", (0, 0), (0, 0)),
        ];
        for &(words, top, all) in table {
            let got = options(words);
            assert_eq!((got.attributes.set, got.attributes.clear), top, "{words}");
            assert_eq!((got.recursive.set, got.recursive.clear), all, "{words}");
            assert!(got.data.is_empty(), "{words}");
        }
    }

    #[test]
    fn a_new_mount_gets_what_is_set_last() {
        assert_eq!(options("rro").initial(), MOUNT_ATTR_RDONLY);
        assert_eq!(options("rro rw").initial(), 0);
        assert!(options("rw ro").readonly());
    }

    #[test]
    fn other_words() {
        let got = options("rbind rslave private tmpcopyup ridmap remount sync async iversion");
        assert_eq!(got.bind, Some(Recursive));
        assert_eq!(got.idmap, Some(Recursive));
        assert_eq!(got.propagation, [(Recursive, SLAVE), (Top, PRIVATE)]);
        assert_eq!(got.superblock, [c"sync", c"async"]);
        assert!(got.copy_up && got.remount && got.inode_version);
        assert!(!options("iversion noiversion").inode_version);
        let got = options("src-nofollow dest-nofollow copy-symlink");
        assert!(got.source_nofollow && got.target_nofollow && got.copy_symlink);
    }

    #[test]
    fn unknown_words_are_data() {
        let shown = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|&w| w.to_owned()).collect();
            let parsed = parse("mounts[0]", &words).unwrap();
            let show = |p: &Parameter| match &p.value {
                Some(v) => {
                    format!("{}:{}={}", p.option, p.key.to_str().unwrap(), v.to_str().unwrap())
                }
                None => format!("{}:{}", p.option, p.key.to_str().unwrap()),
            };
            parsed.data.iter().map(show).collect::<Vec<_>>().join(" ")
        };
        let table: &[(&[&str], &str)] = &[
            (&["mode=755", "ro", "newinstance"], "0:mode=755 2:newinstance"),
            (&["mode=755,size=64k"], "0:mode=755 0:size=64k"),
            (&["lowerdir=/a:/b=c"], "0:lowerdir=/a:/b=c"),
            (&[r"upperdir=/a\,b,x"], r"0:upperdir=/a\,b 0:x"),
            (&["context=\"u:r:t:s0:c1,c2\",x"], "0:context=u:r:t:s0:c1,c2 0:x"),
            (&["", ","], ""),
            (&["a="], "0:a="),
        ];
        for &(words, expected) in table {
            assert_eq!(shown(words), expected, "{words:?}");
        }
        for bad in ["=x", "a\0b"] {
            let error = parse("mounts[7]", &["ro".to_owned(), bad.to_owned()]).unwrap_err();
            assert_eq!(error.subject(), "mounts[7].options[1]", "{error}");
        }
    }
}

//! Which devices a container may use: OCI rules to cgroup v1 lines or an eBPF program.
//!
//! Nothing is allowed unless a rule says so, whether the configuration has rules or not. A rule list
//! means, for each of read, write and mknod by itself: the last rule that matches the device and
//! names the access decides. Both back ends are compared with a direct evaluation in the tests.
//!
//! Kernel: [v1](https://docs.kernel.org/admin-guide/cgroup-v1/devices.html),
//! [v2](https://docs.kernel.org/admin-guide/cgroup-v2.html#device-controller).

use oci_spec::runtime::{Linux, LinuxDeviceCgroup, LinuxDeviceType};

use crate::error::{Error, Result};
use crate::sys::bpf::Instruction;

/// Access bits as the eBPF context has them.
pub(crate) const MKNOD: u8 = 1;
/// See [`MKNOD`].
pub(crate) const READ: u8 = 2;
/// See [`MKNOD`].
pub(crate) const WRITE: u8 = 4;
const ALL: u8 = MKNOD | READ | WRITE;

/// What every container may use, as runc has it: the default devices of the specification, pseudo
/// terminals and tun.
const DEFAULTS: [(Kind, Option<u32>, Option<u32>, u8); 9] = [
    (Kind::Char, Some(1), Some(3), ALL),    // null
    (Kind::Char, Some(1), Some(5), ALL),    // zero
    (Kind::Char, Some(1), Some(7), ALL),    // full
    (Kind::Char, Some(1), Some(8), ALL),    // random
    (Kind::Char, Some(1), Some(9), ALL),    // urandom
    (Kind::Char, Some(5), Some(0), ALL),    // tty
    (Kind::Char, Some(5), Some(2), ALL),    // ptmx
    (Kind::Char, Some(10), Some(200), ALL), // net/tun
    (Kind::Char, Some(136), None, ALL),     // pts/*
];

/// Block or character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A block device.
    Block,
    /// A character device.
    Char,
}

/// One rule; `None` is every number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub allow: bool,
    pub kind: Kind,
    pub major: Option<u32>,
    pub minor: Option<u32>,
    pub access: u8,
}

impl Rule {
    #[cfg(test)]
    fn matches(&self, kind: Kind, major: u32, minor: u32) -> bool {
        self.kind == kind
            && self.major.is_none_or(|m| m == major)
            && self.minor.is_none_or(|m| m == minor)
    }

    /// Whether every device of `other` is one of this rule's.
    fn covers(&self, other: &Rule) -> bool {
        self.kind == other.kind
            && (self.major.is_none() || self.major == other.major)
            && (self.minor.is_none() || self.minor == other.minor)
    }

    fn overlaps(&self, other: &Rule) -> bool {
        let meet = |a: Option<u32>, b: Option<u32>| a.is_none() || b.is_none() || a == b;
        self.kind == other.kind && meet(self.major, other.major) && meet(self.minor, other.minor)
    }

    fn same_devices(&self, other: &Rule) -> bool {
        self.covers(other) && other.covers(self)
    }

    fn is_total(&self) -> bool {
        self.major.is_none() && self.minor.is_none() && self.access == ALL
    }
}

/// The rules of a container in order; what no rule names is denied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rules(Vec<Rule>);

impl Rules {
    /// Reads `linux.resources.devices` and `linux.devices`.
    ///
    /// The defaults and the nodes of `linux.devices` come after the last rule that denies every
    /// device of a kind: configurations begin with such a rule and still expect /dev/null to work.
    /// Rules behind it are more specific than the defaults and override them.
    ///
    /// Making a node of any device (using it is another matter) is allowed behind all rules, unless
    /// one of them denies it for every device. runc does the same, and v1 cannot do otherwise: it
    /// has no hole in `c *:* m`, and Docker denies `c 10:229 rwm` in every container.
    pub fn new(linux: &Linux) -> Result<Rules> {
        let configured = linux.resources().as_ref().and_then(|r| r.devices().as_ref());
        let mut rules = Vec::new();
        for (i, device) in configured.into_iter().flatten().enumerate() {
            parse(device, &format!("linux.resources.devices[{i}]"), &mut rules)?;
        }
        let after = rules.iter().rposition(|r| !r.allow && r.is_total()).map_or(0, |i| i + 1);
        let mut given = rules.split_off(after);
        let allow = |(kind, major, minor, access)| Rule { allow: true, kind, major, minor, access };
        rules.extend(DEFAULTS.map(allow));
        for (i, node) in linux.devices().iter().flatten().enumerate() {
            let kind = match node.typ() {
                LinuxDeviceType::B => Kind::Block,
                LinuxDeviceType::C | LinuxDeviceType::U => Kind::Char,
                LinuxDeviceType::P | LinuxDeviceType::A => continue,
            };
            let field = format!("linux.devices[{i}]");
            let major = number(Some(node.major()), &field, "major")?;
            let minor = number(Some(node.minor()), &field, "minor")?;
            rules.push(allow((kind, major, minor, ALL)));
        }
        let make = [Kind::Block, Kind::Char].map(|kind| allow((kind, None, None, MKNOD)));
        let denied =
            |make: &Rule| given.iter().any(|r| !r.allow && r.covers(make) && r.access & MKNOD != 0);
        let make: Vec<Rule> = make.into_iter().filter(|make| !denied(make)).collect();
        rules.append(&mut given);
        rules.extend(make);
        Ok(Rules(rules))
    }

    /// Whether every bit of `access` is allowed.
    #[cfg(test)]
    fn allows(&self, kind: Kind, major: u32, minor: u32, access: u8) -> bool {
        [MKNOD, READ, WRITE].into_iter().filter(|bit| access & bit != 0).all(|bit| {
            let last = |r: &&Rule| r.access & bit != 0 && r.matches(kind, major, minor);
            self.0.iter().rev().find(last).is_some_and(|r| r.allow)
        })
    }

    /// The lines for `devices.deny` and `devices.allow`, in order: `(file, line)`.
    ///
    /// The v1 controller knows one default and a list of exceptions to it, and an exception is
    /// removed only by its exact numbers: `deny c 1:3 w` after `allow c *:* rwm` is accepted and
    /// does nothing. So the rules are folded into a default with exceptions first, and what
    /// cannot be expressed is an error rather than a hole.
    pub fn v1_lines(&self) -> Result<Vec<(&'static str, String)>> {
        let mut lines = vec![("devices.deny", "a".to_string())];
        let tables = [self.fold(Kind::Block)?, self.fold(Kind::Char)?];
        let open = tables.iter().all(|t| t.default_allow);
        if open {
            lines = vec![("devices.allow", "a".to_string())];
        }
        for (kind, table) in [Kind::Block, Kind::Char].into_iter().zip(&tables) {
            if table.default_allow && !open {
                if !table.exceptions.is_empty() {
                    return Err(inexpressible());
                }
                let all = Rule { allow: true, kind, major: None, minor: None, access: ALL };
                lines.push(("devices.allow", line(&all)));
                continue;
            }
            let file = if open { "devices.deny" } else { "devices.allow" };
            lines.extend(table.exceptions.iter().map(|rule| (file, line(rule))));
        }
        Ok(lines)
    }

    /// One kind of device as a default and exceptions to it.
    fn fold(&self, kind: Kind) -> Result<Table> {
        let mut table = Table { default_allow: false, exceptions: Vec::new() };
        for rule in self.0.iter().filter(|r| r.kind == kind && r.access != 0) {
            if rule.is_total() {
                table = Table { default_allow: rule.allow, exceptions: Vec::new() };
            } else if rule.allow == table.default_allow {
                table.restore(rule)?;
            } else {
                table.except(*rule);
            }
        }
        Ok(table)
    }

    /// The eBPF program for a cgroup2 directory.
    ///
    /// Rules are tried from the last to the first. Register 3 holds the access bits not yet decided:
    /// a matching allow rule clears its bits, a matching deny rule that names one of them ends the
    /// program, and access is granted when none is left.
    pub fn program(&self) -> Vec<Instruction> {
        let mut code = vec![
            ins(LOAD_WORD, 2, 1, 0, 0), // access_type of struct bpf_cgroup_dev_ctx
            ins(LOAD_WORD, 4, 1, 4, 0), // major
            ins(LOAD_WORD, 5, 1, 8, 0), // minor
            ins(MOVE, 3, 2, 0, 0),
            ins(SHIFT_RIGHT, 3, 0, 0, 16), // access
            ins(AND, 2, 0, 0, 0xffff),     // kind
        ];
        for rule in self.0.iter().rev().filter(|r| r.access != 0) {
            code.extend(block(rule));
        }
        code.extend([
            ins(SET, 0, 0, 0, 0),
            ins(JUMP_UNLESS_EQUAL, 3, 0, 1, 0),
            ins(SET, 0, 0, 0, 1),
            ins(EXIT, 0, 0, 0, 0),
        ]);
        code
    }
}

fn inexpressible() -> Error {
    Error::unsupported(
        "express",
        "linux.resources.devices",
        "cgroup v1 cannot deny a part of what a broader rule allows (or allow a part of what a \
         broader rule denies)",
    )
}

/// A default and the exceptions to it; every exception has the opposite sense.
struct Table {
    default_allow: bool,
    exceptions: Vec<Rule>,
}

impl Table {
    /// Adds an exception. Bits that a broader exception has are repeated, because the kernel wants
    /// one exception that has all bits of a request.
    fn except(&mut self, mut rule: Rule) {
        for e in self.exceptions.iter_mut() {
            if rule.covers(e) && !e.covers(&rule) {
                e.access |= rule.access;
            } else if e.covers(&rule) {
                rule.access |= e.access;
            }
        }
        match self.exceptions.iter_mut().find(|e| e.same_devices(&rule)) {
            Some(e) => e.access |= rule.access,
            None => self.exceptions.push(rule),
        }
    }

    /// Applies a rule of the default's sense: takes its bits from the exceptions it covers.
    fn restore(&mut self, rule: &Rule) -> Result<()> {
        for e in self.exceptions.iter_mut().filter(|e| e.access & rule.access != 0) {
            if rule.covers(e) {
                e.access &= !rule.access;
            } else if rule.overlaps(e) {
                return Err(inexpressible());
            }
        }
        self.exceptions.retain(|e| e.access != 0);
        Ok(())
    }
}

/// `c 1:3 rwm`
fn line(rule: &Rule) -> String {
    let number = |n: Option<u32>| n.map_or("*".to_string(), |n| n.to_string());
    let kind = if rule.kind == Kind::Block { 'b' } else { 'c' };
    let letters: String = [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')]
        .into_iter()
        .filter(|(bit, _)| rule.access & bit != 0)
        .map(|(_, letter)| letter)
        .collect();
    format!("{kind} {}:{} {letters}", number(rule.major), number(rule.minor))
}

fn parse(device: &LinuxDeviceCgroup, field: &str, rules: &mut Vec<Rule>) -> Result<()> {
    let kinds: &[Kind] = match device.typ().unwrap_or_default() {
        LinuxDeviceType::A => &[Kind::Block, Kind::Char],
        LinuxDeviceType::B => &[Kind::Block],
        LinuxDeviceType::C | LinuxDeviceType::U => &[Kind::Char],
        LinuxDeviceType::P => {
            return Err(Error::invalid(format!("{field}.type"), "a FIFO is not a device"));
        }
    };
    let major = number(device.major(), field, "major")?;
    let minor = number(device.minor(), field, "minor")?;
    let mut access = 0;
    for letter in device.access().as_deref().unwrap_or("").chars() {
        access |= match letter {
            'r' => READ,
            'w' => WRITE,
            'm' => MKNOD,
            _ => {
                return Err(Error::invalid(format!("{field}.access"), "is not made of r, w, m"));
            }
        };
    }
    if access == 0 {
        return Err(Error::invalid(format!("{field}.access"), "is empty"));
    }
    let allow = device.allow();
    rules.extend(kinds.iter().map(|&kind| Rule { allow, kind, major, minor, access }));
    Ok(())
}

/// A device number; absent and -1 are every number.
fn number(value: Option<i64>, field: &str, part: &str) -> Result<Option<u32>> {
    match value {
        None | Some(-1) => Ok(None),
        Some(n) => u32::try_from(n).map(Some).map_err(|_| {
            Error::invalid(format!("{field}.{part}"), format!("{n} is no device number"))
        }),
    }
}

// Instruction codes of linux/bpf_common.h and linux/bpf.h: class | operation | source.
const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xbf;
const SET: u8 = 0xb7;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
/// The 32-bit comparison: the 64-bit one would extend the sign of numbers above `i32::MAX`.
const JUMP_UNLESS_EQUAL: u8 = 0x56;
const JUMP_IF_EQUAL: u8 = 0x16;
const EXIT: u8 = 0x95;

fn ins(code: u8, dst: u8, src: u8, offset: i16, immediate: i32) -> Instruction {
    let registers = if cfg!(target_endian = "little") { src << 4 | dst } else { dst << 4 | src };
    Instruction { code, registers, offset, immediate }
}

/// The instructions of one rule; a device that does not match jumps behind them.
fn block(rule: &Rule) -> Vec<Instruction> {
    let access = i32::from(rule.access);
    let body = if rule.allow {
        vec![
            ins(AND, 3, 0, 0, i32::from(ALL & !rule.access)),
            ins(JUMP_UNLESS_EQUAL, 3, 0, 2, 0),
            ins(SET, 0, 0, 0, 1),
            ins(EXIT, 0, 0, 0, 0),
        ]
    } else {
        vec![
            ins(MOVE, 6, 3, 0, 0),
            ins(AND, 6, 0, 0, access),
            ins(JUMP_IF_EQUAL, 6, 0, 2, 0),
            ins(SET, 0, 0, 0, 0),
            ins(EXIT, 0, 0, 0, 0),
        ]
    };
    let kind = if rule.kind == Kind::Block { 1 } else { 2 };
    let mut tests = vec![(2, kind)];
    tests.extend(rule.major.map(|major| (4, major as i32)));
    tests.extend(rule.minor.map(|minor| (5, minor as i32)));
    let length = tests.len() + body.len();
    let mut code: Vec<Instruction> = tests
        .into_iter()
        .enumerate()
        .map(|(i, (register, value))| {
            ins(JUMP_UNLESS_EQUAL, register, 0, (length - i - 1) as i16, value)
        })
        .collect();
    code.extend(body);
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    fn linux(devices: &str, nodes: &str) -> Linux {
        let text = format!(r#"{{"resources":{{"devices":{devices}}},"devices":{nodes}}}"#);
        serde_json::from_str(&text).unwrap()
    }

    fn rules(devices: &str) -> Rules {
        Rules::new(&linux(devices, "[]")).unwrap()
    }

    /// Runs a program as the kernel would.
    fn run(code: &[Instruction], kind: Kind, major: u32, minor: u32, access: u8) -> bool {
        let kind = if kind == Kind::Block { 1 } else { 2 };
        let context = [u32::from(access) << 16 | kind, major, minor];
        let mut r = [0u64; 11];
        let mut at = 0usize;
        loop {
            let i = code[at];
            let (dst, src) = (usize::from(i.registers & 15), usize::from(i.registers >> 4));
            at += 1;
            match i.code {
                LOAD_WORD => r[dst] = u64::from(context[i.offset as usize / 4]),
                MOVE => r[dst] = r[src],
                SET => r[dst] = i.immediate as u64,
                AND => r[dst] &= i.immediate as i64 as u64,
                SHIFT_RIGHT => r[dst] >>= i.immediate,
                JUMP_UNLESS_EQUAL if r[dst] as u32 != i.immediate as u32 => at += i.offset as usize,
                JUMP_IF_EQUAL if r[dst] as u32 == i.immediate as u32 => at += i.offset as usize,
                JUMP_UNLESS_EQUAL | JUMP_IF_EQUAL => {}
                EXIT => return r[0] != 0,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    /// What security/device_cgroup.c decides after the lines were written.
    fn v1(lines: &[(&str, String)], kind: Kind, major: u32, minor: u32, access: u8) -> bool {
        let mut open = true;
        let mut exceptions: Vec<Rule> = Vec::new();
        for (file, text) in lines {
            let allow = *file == "devices.allow";
            if text == "a" {
                (open, exceptions) = (allow, Vec::new());
                continue;
            }
            let mut words = text.split([' ', ':']);
            let kind = if words.next() == Some("b") { Kind::Block } else { Kind::Char };
            let mut number = || words.next().unwrap().parse().ok();
            let (major, minor) = (number(), number());
            let bit = |(letter, bit)| {
                if text.ends_with(letter) || text.rsplit(' ').next().unwrap().contains(letter) {
                    bit
                } else {
                    0
                }
            };
            let access = [('r', READ), ('w', WRITE), ('m', MKNOD)].map(bit).iter().sum();
            assert_ne!(allow, open, "{text} would only remove an exception");
            exceptions.push(Rule { allow, kind, major, minor, access });
        }
        let mut hit = exceptions.iter().filter(|e| e.matches(kind, major, minor));
        if open {
            !hit.any(|e| e.access & access != 0)
        } else {
            hit.any(|e| access & !e.access == 0)
        }
    }

    const DENY_ALL: &str = r#"[{"allow":false,"access":"rwm"}]"#;

    #[test]
    fn default_lines() {
        let expected = [
            "deny a",
            "allow b *:* m",
            "allow c 1:3 rwm",
            "allow c 1:5 rwm",
            "allow c 1:7 rwm",
            "allow c 1:8 rwm",
            "allow c 1:9 rwm",
            "allow c 5:0 rwm",
            "allow c 5:2 rwm",
            "allow c 10:200 rwm",
            "allow c 136:* rwm",
            "allow c *:* m",
        ];
        for config in ["[]", DENY_ALL] {
            let lines = rules(config).v1_lines().unwrap();
            let shown: Vec<String> =
                lines.iter().map(|(f, l)| format!("{} {l}", &f["devices.".len()..])).collect();
            assert_eq!(shown, expected, "{config}");
        }
    }

    #[test]
    fn order() {
        let allowed = |config: &str, major, minor, access| {
            rules(config).allows(Kind::Char, major, minor, access)
        };
        assert!(allowed(DENY_ALL, 1, 3, READ | WRITE));
        assert!(!allowed(DENY_ALL, 1, 1, READ));
        assert!(allowed(DENY_ALL, 1, 1, MKNOD));
        let tun = r#"[{"allow":false,"type":"c","major":10,"minor":200,"access":"rwm"}]"#;
        assert!(!allowed(tun, 10, 200, READ));
        let both = r#"[{"allow":true,"access":"rwm"},{"allow":false,"access":"rwm"}]"#;
        assert!(!allowed(both, 1, 1, READ));
        let privileged = r#"[{"allow":false,"access":"rwm"},{"allow":true,"access":"rwm"}]"#;
        assert!(allowed(privileged, 1, 1, ALL));
        assert_eq!(rules(privileged).v1_lines().unwrap(), [("devices.allow", "a".to_string())]);
        let partial = r#"[{"allow":true,"type":"c","major":4,"access":"rw"},{"allow":false,"type":"c","major":4,"minor":1,"access":"w"}]"#;
        assert!(!allowed(partial, 4, 1, READ | WRITE) && allowed(partial, 4, 1, READ));
        assert!(rules(partial).v1_lines().is_err());
    }

    /// What dockerd and BuildKit send for every container.
    #[test]
    fn docker_denies_fuse() {
        const DOCKER: &str = r#"[{"allow":false,"access":"rwm"},
            {"allow":true,"type":"c","major":1,"minor":3,"access":"rwm"},
            {"allow":false,"type":"c","major":10,"minor":229,"access":"rwm"}]"#;
        let docker = rules(DOCKER);
        assert!(!docker.allows(Kind::Char, 10, 229, READ));
        assert!(!docker.allows(Kind::Char, 10, 229, WRITE));
        let lines = docker.v1_lines().unwrap();
        assert!(!v1(&lines, Kind::Char, 10, 229, READ) && !v1(&lines, Kind::Char, 10, 229, WRITE));
        assert!(v1(&lines, Kind::Char, 1, 3, ALL) && v1(&lines, Kind::Char, 10, 229, MKNOD));
    }

    #[test]
    fn making_nodes_is_denied_only_for_all() {
        let none = rules(r#"[{"allow":false,"type":"c","access":"m"}]"#);
        assert!(!none.allows(Kind::Char, 10, 229, MKNOD) && none.allows(Kind::Block, 8, 0, MKNOD));
        assert!(none.allows(Kind::Char, 1, 3, READ | WRITE));
    }

    #[test]
    fn nodes_are_allowed() {
        let node = r#"[{"path":"/dev/fuse","type":"c","major":10,"minor":229}]"#;
        let rules = Rules::new(&linux(DENY_ALL, node)).unwrap();
        assert!(rules.allows(Kind::Char, 10, 229, ALL));
    }

    #[test]
    fn refused() {
        for bad in [
            r#"[{"allow":true,"access":""}]"#,
            r#"[{"allow":true}]"#,
            r#"[{"allow":true,"access":"x"}]"#,
            r#"[{"allow":true,"type":"p","access":"r"}]"#,
            r#"[{"allow":true,"major":-2,"access":"r"}]"#,
            r#"[{"allow":true,"minor":4294967296,"access":"r"}]"#,
        ] {
            assert!(Rules::new(&linux(bad, "[]")).is_err(), "{bad}");
        }
    }

    /// xorshift: the same rules in every run.
    fn random(state: &mut u64, below: u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state % below
    }

    #[test]
    fn both_back_ends_agree_with_the_rules() {
        let mut seed = 0x9e37_79b9_7f4a_7c15;
        let numbers = [None, Some(0), Some(1), Some(u32::MAX)];
        let mut expressed = 0;
        for _ in 0..4000 {
            let count = random(&mut seed, 7);
            let list = (0..count).map(|_| Rule {
                allow: random(&mut seed, 2) == 0,
                kind: if random(&mut seed, 3) == 0 { Kind::Block } else { Kind::Char },
                major: numbers[random(&mut seed, 4) as usize],
                minor: numbers[random(&mut seed, 4) as usize],
                access: random(&mut seed, 8) as u8,
            });
            let rules = Rules(list.collect());
            let (program, lines) = (rules.program(), rules.v1_lines());
            expressed += usize::from(lines.is_ok());
            for kind in [Kind::Block, Kind::Char] {
                for (major, minor) in [(0, 0), (0, 1), (1, 0), (1, 1), (u32::MAX, 2), (3, 3)] {
                    for access in 1..8 {
                        let right = rules.allows(kind, major, minor, access);
                        assert_eq!(run(&program, kind, major, minor, access), right, "{rules:?}");
                        if let Ok(lines) = &lines {
                            let v1 = v1(lines, kind, major, minor, access);
                            // Bits from two exceptions that only overlap do not add up in v1.
                            assert!(!v1 || right, "{rules:?} {lines:?}");
                            assert!(v1 == right || access.count_ones() > 1, "{rules:?} {lines:?}");
                        }
                    }
                }
            }
        }
        assert!(expressed > 1000);
    }
}

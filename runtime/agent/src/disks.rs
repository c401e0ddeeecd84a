//! Disks of the machine: their names and numbers here, which the host cannot know.

use std::path::{Path, PathBuf};

use runtime::{Call, Context, Error, ErrorKind, Result, quote};
use serde_json::Value;
use wire::Disk;

/// Major and minor number of a device.
type Number = (i64, i64);

/// Lists of `linux.resources.blockIO` whose entries name devices.
const BLOCK_IO: [&str; 5] = [
    "weightDevice",
    "throttleReadBpsDevice",
    "throttleWriteBpsDevice",
    "throttleReadIOPSDevice",
    "throttleWriteIOPSDevice",
];

/// The kernel's name of a virtio disk: `vda` to `vdz`, `vdaa` and so on.
pub fn name(disk: u32) -> String {
    let mut letters = Vec::new();
    let mut rest = disk;
    loop {
        letters.push(b'a' + (rest % 26) as u8);
        match rest / 26 {
            0 => break,
            more => rest = more - 1,
        }
    }
    letters.extend(b"dv");
    letters.iter().rev().map(|&letter| char::from(letter)).collect()
}

/// The device file of a disk.
pub fn file(disk: u32) -> PathBuf {
    Path::new("/dev").join(name(disk))
}

/// Whether a disk cannot be written to.
///
/// # Errors
/// There is no such disk.
pub fn is_read_only(disk: u32) -> Result<bool> {
    Ok(attribute(disk, "ro")? != "0")
}

fn attribute(disk: u32, file: &str) -> Result<String> {
    let path = Path::new("/sys/block").join(name(disk)).join(file);
    let text = std::fs::read_to_string(&path).call("read");
    Ok(text.context("read", quote(&path))?.trim().to_owned())
}

fn number(disk: u32) -> Result<Number> {
    let text = attribute(disk, "dev")?;
    parse(&text).ok_or_else(|| {
        let reason = format!("{text:?} is no device number");
        Error::new(ErrorKind::System, "read the number of", name(disk), reason)
    })
}

fn parse(text: &str) -> Option<Number> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Gives the container's devices that are disks the numbers that those have here, and with them the rules and
/// limits that are about these devices.
///
/// # Errors
/// There is no such disk, or no such device in the configuration.
pub fn renumber(config: &mut Value, disks: &[Disk]) -> Result<()> {
    let mut map = Vec::new();
    for disk in disks {
        map.push((disk.device, number(disk.disk)?));
    }
    replace(config, &map)
}

/// As [`renumber`], with numbers that are known: of the device with that index.
fn replace(config: &mut Value, disks: &[(u32, Number)]) -> Result<()> {
    let mut changes = Vec::new();
    for &(index, new) in disks {
        let field = format!("linux.devices[{index}]");
        let device = config
            .pointer_mut(&format!("/linux/devices/{index}"))
            .filter(|device| device.is_object())
            .ok_or_else(|| Error::invalid(field, "is not in the configuration"))?;
        changes.extend(numbers(device).map(|old| (old, new)));
        set(device, new);
    }
    if let Some(Value::Array(rules)) = config.pointer_mut("/linux/resources/devices") {
        *rules =
            std::mem::take(rules).into_iter().flat_map(|rule| changed(rule, &changes)).collect();
    }
    for list in BLOCK_IO {
        let entries = config.pointer_mut(&format!("/linux/resources/blockIO/{list}"));
        for entry in entries.and_then(Value::as_array_mut).into_iter().flatten() {
            let old = numbers(entry);
            if let Some((_, new)) = changes.iter().find(|(from, _)| Some(*from) == old) {
                set(entry, *new);
            }
        }
    }
    Ok(())
}

/// The rule for numbers of here. One about all minor numbers of a major one stays, and is said of the disks too.
fn changed(rule: Value, changes: &[(Number, Number)]) -> Vec<Value> {
    let part = |name: &str| rule.get(name).and_then(Value::as_i64).filter(|number| *number >= 0);
    let is_block = rule.get("type").and_then(Value::as_str) == Some("b");
    let (Some(major), true) = (part("major"), is_block) else { return vec![rule] };
    let about = changes.iter().filter(|((from, _), _)| *from == major);
    match part("minor") {
        Some(minor) => {
            let mut rule = rule.clone();
            if let Some((_, new)) = about.clone().find(|((_, from), _)| *from == minor) {
                set(&mut rule, *new);
            }
            vec![rule]
        }
        None => {
            let copies = about.map(|(_, new)| {
                let mut copy = rule.clone();
                set(&mut copy, *new);
                copy
            });
            std::iter::once(rule.clone()).chain(copies).collect()
        }
    }
}

fn numbers(entry: &Value) -> Option<Number> {
    Some((entry.get("major")?.as_i64()?, entry.get("minor")?.as_i64()?))
}

fn set(entry: &mut Value, (major, minor): Number) {
    entry["major"] = major.into();
    entry["minor"] = minor.into();
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names() {
        let names = [0, 1, 25, 26, 27, 51, 52, 701, 702].map(name);
        assert_eq!(names, ["vda", "vdb", "vdz", "vdaa", "vdab", "vdaz", "vdba", "vdzz", "vdaaa"]);
        assert_eq!(parse("254:16"), Some((254, 16)));
        assert_eq!(parse("254"), None);
        assert!(is_read_only(u32::MAX).unwrap_err().to_string().contains("ENOENT"));
    }

    #[test]
    fn devices_rules_and_limits_get_the_numbers_of_here() {
        let mut config = json!({ "linux": {
            "devices": [
                { "path": "/dev/fuse", "type": "c", "major": 10, "minor": 229 },
                { "path": "/dev/a", "type": "b", "major": 8, "minor": 16 },
                { "path": "/dev/b", "type": "b", "major": 254, "minor": 0 },
            ],
            "resources": {
                "devices": [
                    { "allow": false },
                    { "allow": true, "type": "c", "major": 8, "minor": 16 },
                    { "allow": true, "type": "b", "major": 8, "minor": 16, "access": "r" },
                    { "allow": true, "type": "b", "major": 254, "minor": 0 },
                    { "allow": true, "type": "b", "major": 8, "access": "m" },
                    { "allow": true, "type": "b", "major": 9, "minor": 16 },
                ],
                "blockIO": { "throttleReadBpsDevice": [
                    { "major": 8, "minor": 16, "rate": 1 }, { "major": 8, "minor": 0, "rate": 2 },
                ] },
            },
        } });
        replace(&mut config, &[(1, (254, 0)), (2, (254, 16))]).unwrap();
        let resources = &config["linux"]["resources"];
        assert_eq!(config["linux"]["devices"][1]["minor"], 0);
        assert_eq!(
            resources["devices"],
            json!([
                { "allow": false },
                { "allow": true, "type": "c", "major": 8, "minor": 16 },
                { "allow": true, "type": "b", "major": 254, "minor": 0, "access": "r" },
                { "allow": true, "type": "b", "major": 254, "minor": 16 },
                { "allow": true, "type": "b", "major": 8, "access": "m" },
                { "allow": true, "type": "b", "major": 254, "minor": 0, "access": "m" },
                { "allow": true, "type": "b", "major": 9, "minor": 16 },
            ])
        );
        let limits = &resources["blockIO"]["throttleReadBpsDevice"];
        assert_eq!(limits[0], json!({ "major": 254, "minor": 0, "rate": 1 }));
        assert_eq!(limits[1]["major"], 8);
        let error = replace(&mut config, &[(3, (254, 0))]).unwrap_err();
        assert!(error.to_string().contains("linux.devices[3]"), "{error}");
    }
}

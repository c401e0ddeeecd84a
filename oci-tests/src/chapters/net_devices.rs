//! config-linux.md, network devices: what moves into the container's network namespace, and how.

use std::fs;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::check::{Res, Test, ensure, eq, fail, has, same, skip, test};
use crate::lab::Lab;
use crate::lab::bundle::{namespace, push, user_namespace};
use crate::lab::call::Output;

const SECTION: &str = "config-linux#network-devices";
/// Of the test's own devices.
const MTU: &str = "1380";

/// Tests of this chapter.
pub fn tests() -> Vec<Test> {
    let mut tests = moves();
    tests.extend(refusals());
    tests
}

/// Runs `ip` in the test's network namespace, or in that of a process.
fn ip(of: Option<i32>, words: &str) -> Res<String> {
    let mut command = match of {
        None => Command::new("ip"),
        Some(pid) => {
            let mut command = Command::new("nsenter");
            command.arg(format!("--net=/proc/{pid}/ns/net")).arg("ip");
            command
        }
    };
    let output = match command.args(words.split_whitespace()).output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return skip("this machine has no ip or nsenter");
        }
        output => output?,
    };
    if !output.status.success() {
        return fail(format!("ip {words}: {}", String::from_utf8_lossy(&output.stderr)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Makes a device that can be moved: one end of a pair, or a tap where the kernel has no pairs.
fn device(name: &str) -> Res {
    if ip(None, &format!("link add {name} type veth peer name {name}p")).is_err()
        && ip(None, &format!("tuntap add {name} mode tap")).is_err()
    {
        return skip("this kernel has neither veth nor tap devices");
    }
    ip(None, &format!("link set {name} mtu {MTU}")).map(drop)
}

/// The devices of a namespace, as `ip` tells of them.
fn devices(of: Option<i32>) -> Res<Vec<Value>> {
    let text = ip(of, "-json address show")?;
    serde_json::from_str(&text).or_else(|error| fail(format!("ip printed {text} ({error})")))
}

fn named(of: Option<i32>, name: &str) -> Res<Option<Value>> {
    Ok(devices(of)?.into_iter().find(|device| device["ifname"] == name))
}

fn inside(pid: i32, name: &str) -> Res<Value> {
    match named(Some(pid), name)? {
        Some(device) => Ok(device),
        None => fail(format!("the container has no {name}, but {:?}", devices(Some(pid))?)),
    }
}

/// The addresses of global scope.
fn addresses(device: &Value) -> Vec<String> {
    let all = device["addr_info"].as_array().into_iter().flatten();
    let global = all.filter(|address| address["scope"] == "global");
    let mut texts: Vec<String> = global
        .map(|a| format!("{}/{}", a["local"].as_str().unwrap_or_default(), a["prefixlen"]))
        .collect();
    texts.sort();
    texts
}

fn is_up(device: &Value) -> bool {
    device["flags"].as_array().is_some_and(|flags| flags.contains(&json!("UP")))
}

/// Asks for devices, in a new network namespace.
fn ask(spec: &mut Value, devices: Value) {
    spec["ociVersion"] = json!("1.3.0");
    namespace(spec, "network");
    spec["linux"]["netDevices"] = devices;
}

fn moves() -> Vec<Test> {
    vec![
        test(
            SECTION,
            "F28",
            "a device moves by its name and is up, with hardware address and MTU",
            |lab| {
                device("one")?;
                let Some(before) = named(None, "one")? else { return fail("no device was made") };
                let container = lab.create(&["pause"], |spec| ask(spec, json!({ "one": {} })))?;
                eq("outside", &named(None, "one")?, &None)?;
                let after = inside(container.pid(), "one")?;
                ensure(is_up(&after), format!("it is not up: {after}"))?;
                same("address", &after["address"], before["address"].clone())?;
                same("mtu", &after["mtu"], before["mtu"].clone())?;
                container.end()?;
                // A virtual device ends with its namespace.
                eq("outside, after the end", &named(None, "one")?, &None)
            },
        ),
        test(SECTION, "F28", "permanent addresses of global scope move, and no others", |lab| {
            device("one")?;
            for address in [
                "192.0.2.7/24 broadcast 192.0.2.255 label one:x",
                "192.0.2.8/24",
                "2001:db8::7/64 nodad",
                "192.0.2.9 peer 203.0.113.9/32",
                "169.254.3.3/16 scope link",
                "198.51.100.1/24 valid_lft 4000 preferred_lft 3000",
            ] {
                ip(None, &format!("address add {address} dev one"))?;
            }
            ip(None, "link set one up")?;
            let container = lab.create(&["pause"], |spec| ask(spec, json!({ "one": {} })))?;
            let after = inside(container.pid(), "one")?;
            let wanted = ["192.0.2.7/24", "192.0.2.8/24", "192.0.2.9/32", "2001:db8::7/64"]
                .map(str::to_owned);
            eq("addresses", &addresses(&after), &wanted.to_vec())?;
            let all = after["addr_info"].as_array().cloned().unwrap_or_default();
            let attribute = |local: &str, name: &str| {
                all.iter()
                    .find(|a| a["local"] == local)
                    .map(|a| a[name].clone())
                    .unwrap_or_default()
            };
            same("broadcast", &attribute("192.0.2.7", "broadcast"), json!("192.0.2.255"))?;
            same("other end", &attribute("192.0.2.9", "address"), json!("203.0.113.9"))?;
            ensure(
                !all.iter().any(|a| a["local"] == "169.254.3.3"),
                "the address of link scope moved too",
            )?;
            container.end()
        }),
        test(SECTION, "F28", "a device gets the name that the configuration gives it", |lab| {
            device("one")?;
            ip(None, "address add 192.0.2.7/24 dev one")?;
            let container = lab.create(&["pause"], |spec| {
                ask(spec, json!({ "one": { "name": "container_eth0" } }));
                // What comes after the move finds the new name.
                spec["linux"]["sysctl"] = json!({ "net.ipv4.conf.container_eth0.forwarding": "1" });
            })?;
            let after = inside(container.pid(), "container_eth0")?;
            eq("addresses", &addresses(&after), &vec!["192.0.2.7/24".to_owned()])?;
            eq("old name", &named(Some(container.pid()), "one")?, &None)?;
            container.end()
        }),
        test(SECTION, "F28", "with a template the kernel finds free names", |lab| {
            device("one")?;
            device("two")?;
            ip(None, "address add 192.0.2.7/24 dev two")?;
            let container = lab.create(&["pause"], |spec| {
                ask(spec, json!({ "one": { "name": "eth%d" }, "two": { "name": "eth%d" } }))
            })?;
            let names: Vec<Value> =
                devices(Some(container.pid()))?.iter().map(|d| d["ifname"].clone()).collect();
            for name in ["eth0", "eth1"] {
                ensure(names.contains(&json!(name)), format!("the container has {names:?}"))?;
                ensure(is_up(&inside(container.pid(), name)?), format!("{name} is not up"))?;
            }
            let second = inside(container.pid(), "eth1")?;
            eq("addresses of the second", &addresses(&second), &vec!["192.0.2.7/24".to_owned()])?;
            container.end()
        }),
        test(SECTION, "F28", "a device moves into a container with a user namespace", |lab| {
            device("one")?;
            ip(None, "address add 2001:db8::7/64 nodad dev one")?;
            let container = lab.create(&["pause"], |spec| {
                ask(spec, json!({ "one": { "name": "eth0" } }));
                user_namespace(spec);
            })?;
            let after = inside(container.pid(), "eth0")?;
            ensure(is_up(&after), format!("it is not up: {after}"))?;
            eq("addresses", &addresses(&after), &vec!["2001:db8::7/64".to_owned()])?;
            container.end()
        }),
        test(
            SECTION,
            "F28",
            "a device moves into a namespace that is joined, and stays there",
            |lab| {
                device("one")?;
                let holder = Holder::new()?;
                let container =
                    lab.create(&["pause"], |spec| holder.ask(spec, json!({ "one": {} })))?;
                inside(container.pid(), "one")?;
                container.end()?;
                inside(holder.0.id() as i32, "one").map(drop)
            },
        ),
        test(SECTION, "F28", "the program and its hooks find the device", |lab| {
            device("one")?;
            let mut bundle = lab.bundle(&["read /proc/net/dev"], |spec| {
                ask(spec, json!({ "one": { "name": "eth0" } }))
            })?;
            let log = bundle.dir.join("log");
            let line = format!("cat /proc/net/dev > {}", log.display());
            bundle.spec["hooks"] = json!({ "createContainer": [
                { "path": "/bin/sh", "args": ["sh", "-c", line], "env": ["PATH=/usr/bin:/bin"] }] });
            bundle.save()?;
            let seen = lab.seen(&bundle)?;
            has("program", seen["read /proc/net/dev"].as_str().unwrap_or_default(), "eth0:")?;
            has("hook", &fs::read_to_string(&log)?, "eth0:")
        }),
    ]
}

/// A process that keeps a network namespace.
struct Holder(Child);

impl Holder {
    fn new() -> Res<Self> {
        let mut child =
            Command::new("unshare").args(["--net", "sleep", "300"]).stdin(Stdio::null()).spawn()?;
        let link = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net"));
        for _ in 0..1000 {
            if link(&child.id().to_string())? != link("self")? {
                return Ok(Self(child));
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        child.kill()?;
        fail("unshare made no namespace")
    }

    fn ask(&self, spec: &mut Value, devices: Value) {
        spec["ociVersion"] = json!("1.3.0");
        let path = format!("/proc/{}/ns/net", self.0.id());
        push(&mut spec["linux"]["namespaces"], json!({ "type": "network", "path": path }));
        spec["linux"]["netDevices"] = devices;
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What an error says, without the log format's escapes.
fn told(output: &Output) -> String {
    output.err.replace("\\\"", "\"")
}

/// `create` must fail, name the field and what is wrong, and leave the test's devices as they were.
fn refused(lab: &Lab, devices: Value, words: &[&str]) -> Res {
    let before = self::devices(None)?;
    let output = lab.refused(|spec| ask(spec, devices))?;
    for word in words {
        lab.quality(told(&output).contains(word), format!("no {word} in: {}", output.brief()))?;
    }
    let text = |list: &[Value]| -> Vec<String> {
        list.iter().map(|d| format!("{} {:?} {}", d["ifname"], addresses(d), is_up(d))).collect()
    };
    eq("devices", &text(&self::devices(None)?), &text(&before))
}

fn refusals() -> Vec<Test> {
    vec![
        test(SECTION, "F28", "a device that is not there is an error by its name", |lab| {
            refused(lab, json!({ "absent": {} }), &["linux.netDevices[\"absent\"]", "ENODEV"])
        }),
        test(SECTION, "F28", "a name that the container has already is an error", |lab| {
            device("one")?;
            refused(
                lab,
                json!({ "one": { "name": "lo" } }),
                &["linux.netDevices[\"one\"]", "\"lo\""],
            )
        }),
        test(SECTION, "F28", "a device that cannot be moved is an error", |lab| {
            refused(
                lab,
                json!({ "lo": { "name": "lo1" } }),
                &["linux.netDevices[\"lo\"]", "EINVAL"],
            )
        }),
        test(
            SECTION,
            "F28",
            "the devices before one that fails are back, with addresses and state",
            |lab| {
                device("one")?;
                device("two")?;
                ip(None, "address add 192.0.2.7/24 dev one")?;
                ip(None, "address add 2001:db8::7/64 nodad dev one")?;
                ip(None, "link set one up")?;
                let asked =
                    json!({ "one": { "name": "eth0" }, "two": { "name": "eth0%d" }, "zero": {} });
                refused(lab, asked, &["linux.netDevices[\"zero\"]"])
            },
        ),
        test(SECTION, "F28", "a device is back when a later step of create fails", |lab| {
            device("one")?;
            ip(None, "address add 192.0.2.7/24 dev one")?;
            ip(None, "link set one up")?;
            let before = named(None, "one")?.unwrap_or_default();
            let output = lab.refused(|spec| {
                ask(spec, json!({ "one": { "name": "eth0" } }));
                spec["hooks"] = json!({ "createRuntime": [{ "path": "/bin/false" }] });
            })?;
            lab.quality(output.err.contains("createRuntime"), output.brief())?;
            let Some(after) = named(None, "one")? else { return fail("the device is gone") };
            eq("addresses", &addresses(&after), &addresses(&before))?;
            ensure(is_up(&after), "it is down")
        }),
        test(SECTION, "F28", "a name in use in a joined namespace is an error", |lab| {
            device("one")?;
            let holder = Holder::new()?;
            device("two")?;
            ip(None, &format!("link set two netns {}", holder.0.id()))?;
            // Asked outside of `refused`: the holder is a process of this test.
            let bundle = lab.bundle(&["report"], |spec| {
                holder.ask(spec, json!({ "one": { "name": "two" } }))
            })?;
            let output = lab.call(&["create", "--bundle", bundle.path(), &bundle.id]).output()?;
            ensure(output.code != Some(0), "create succeeded")?;
            lab.quality(
                told(&output).contains("linux.netDevices[\"one\"]")
                    && told(&output).contains("\"two\""),
                output.brief(),
            )?;
            ensure(named(None, "one")?.is_some(), "the device is gone")
        }),
        test(SECTION, "F28", "devices without a network namespace are an error", |lab| {
            device("one")?;
            let output = lab.refused(|spec| {
                spec["ociVersion"] = json!("1.3.0");
                spec["linux"]["netDevices"] = json!({ "one": {} });
            })?;
            lab.quality(output.err.contains("linux.netDevices"), output.brief())
        }),
        test(
            SECTION,
            "F28",
            "devices for the runtime's own network namespace are an error",
            |lab| {
                device("one")?;
                let output = lab.refused(|spec| {
                    spec["ociVersion"] = json!("1.3.0");
                    let own = json!({ "type": "network", "path": "/proc/self/ns/net" });
                    push(&mut spec["linux"]["namespaces"], own);
                    spec["linux"]["netDevices"] = json!({ "one": { "name": "other" } });
                })?;
                lab.quality(told(&output).contains("linux.netDevices[\"one\"]"), output.brief())?;
                ensure(named(None, "one")?.is_some(), "the device was renamed")
            },
        ),
        test(SECTION, "F28", "names that the kernel cannot give are an error", |lab| {
            device("one")?;
            for name in ["a/b", "a b", "longer-than-15-bytes", "a%s", "%d%d", ".."] {
                refused(
                    lab,
                    json!({ "one": { "name": name } }),
                    &["linux.netDevices[\"one\"].name"],
                )?;
            }
            Ok(())
        }),
    ]
}

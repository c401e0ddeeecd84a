//! What asks for more than busybox: a whole Debian, whose image integration/debian/build makes.
//!
//! The same scenarios for every client: each says how it runs that image.

use oci_tests::check::{Res, ensure, eq, has, skip};

use crate::scenario::{Scenario, scenario};
use crate::stage::{Cmd, Stage};
use crate::terminal::Terminal;

/// The image's name.
pub const DEBIAN: &str = "localhost/debian:latest";

/// A client, as far as it runs commands in this image.
pub trait Client {
    /// The option for a terminal.
    const TERMINAL: &'static [&'static str];
    /// The options under which a setuid program has its way.
    const FREE: &'static [&'static str];
    /// And those under which it has not.
    const HELD: &'static [&'static str];

    /// `run` with these options up to the command; loads the image when it is not there.
    fn run<'s>(stage: &'s Stage, options: &[&str]) -> Res<Cmd<'s>>;
}

/// The scenarios of a client.
pub fn scenarios<C: Client>() -> Vec<Scenario> {
    let all = [
        scenario("Debian: apt-get installs a package and purges it", "F144 F153", packages::<C>),
        scenario("Debian: users and groups by name, su", "F153", users::<C>),
        scenario("Debian: a setuid program, and no new privileges", "F144", setuid::<C>),
        scenario("Debian: bash's job control", "F152", jobs::<C>),
    ];
    // Whoever is first loads the image.
    all.map(|scenario| scenario.within(120)).into()
}

/// Those of clients with options for a user and an init.
pub fn with_options<C: Client>() -> Vec<Scenario> {
    let mut all = scenarios::<C>();
    all.push(scenario("Debian: --user by name, with its groups", "F153", user::<C>).within(120));
    all.push(scenario("Debian: --init, without systemd", "F154", init::<C>).within(120));
    all
}

/// The image's archive.
pub fn archive(stage: &Stage) -> Res<String> {
    let file = stage.images.join("debian.tar");
    if !file.exists() {
        return skip("there is no image of Debian, which scripts/integration makes");
    }
    Ok(file.display().to_string())
}

fn bash<C: Client>(stage: &Stage, options: &[&str], line: &str) -> Res<String> {
    C::run(stage, options)?.args(&["bash", "-c", line]).must()
}

/// Makes a package whose scripts make a user and hand it files; installs it and purges it.
pub const PACKAGE: &str = r#"set -e
apt-get --version | head -n 1
dpkg --audit
umask 022
mkdir -p /tmp/demo/DEBIAN /tmp/demo/usr/bin /tmp/demo/var/lib/demo
cd /tmp/demo
printf '%s\n' 'Package: demo' 'Version: 1' 'Architecture: all' 'Maintainer: Tests <tests@localhost>' \
    'Description: of the tests' >DEBIAN/control
printf '%s\n' '#!/bin/sh' 'set -e' 'adduser --quiet --system --group --home /var/lib/demo --no-create-home demo' \
    'chown demo:demo /var/lib/demo /usr/bin/demo' 'chmod 6755 /usr/bin/demo' >DEBIAN/postinst
printf '%s\n' '#!/bin/sh' 'set -e' 'if [ "$1" = purge ]; then deluser --quiet demo; fi' >DEBIAN/postrm
chmod 755 DEBIAN/post*
cp /usr/bin/id usr/bin/demo
dpkg-deb --build --root-owner-group /tmp/demo /tmp/demo.deb >/dev/null
apt-get install -qq --yes /tmp/demo.deb
stat -c '%n %U:%G %a' /usr/bin/demo /var/lib/demo
dpkg --status demo | grep Status
dpkg --verify demo
apt-get purge -qq --yes demo
! getent passwd demo && ! test -e /usr/bin/demo && echo purged"#;

fn packages<C: Client>(stage: &Stage) -> Res {
    check_package(&bash::<C>(stage, &[], PACKAGE)?)
}

/// Looks at what the line above has printed.
pub fn check_package(seen: &str) -> Res {
    for words in [
        "apt 2.",
        "Setting up demo (1)",
        "/usr/bin/demo demo:demo 6755\n/var/lib/demo demo:demo 755\n",
        "Status: install ok installed",
    ] {
        has("output", seen, words)?;
    }
    ensure(seen.ends_with("\npurged"), format!("not purged: {seen}"))
}

/// Users and groups by their names in the image.
fn users<C: Client>(stage: &Stage) -> Res {
    let line = "su --login tester --command 'id -un; id -Gn; pwd; echo $HOME $SHELL'; \
                runuser -u tester -- id -u; setpriv --reuid=tester --regid=more --init-groups id -gn";
    let seen = bash::<C>(stage, &[], line)?;
    let wanted = "tester\ntester audio more\n/home/tester\n/home/tester /bin/bash\n1000\nmore";
    eq("su, runuser, setpriv", &seen.as_str(), &wanted)
}

/// A user of the container's configuration.
fn user<C: Client>(stage: &Stage) -> Res {
    let line = "id -un; id -Gn; id -gn; touch /home/tester/file && stat -c %U /home/tester/file";
    let seen = bash::<C>(stage, &["--user", "tester"], line)?;
    eq("a user by name", &seen.as_str(), &"tester\ntester audio more\ntester\ntester")?;
    let seen = bash::<C>(stage, &["--user", "1000:2000"], "id -u; id -gn")?;
    eq("a user and a group by number", &seen.as_str(), &"1000\nmore")
}

/// A setuid program, with the options that let it and those that do not.
fn setuid<C: Client>(stage: &Stage) -> Res {
    let line =
        "runuser --user tester -- passwd --status tester 2>&1; grep NoNewPrivs /proc/self/status";
    let seen = bash::<C>(stage, C::FREE, line)?;
    has("of the password file", &seen, "tester L ")?;
    has("flag", &seen, "NoNewPrivs:\t0")?;
    let seen = bash::<C>(stage, C::HELD, line)?;
    ensure(!seen.contains("tester L "), format!("passwd could read the password file: {seen}"))?;
    has("flag", &seen, "NoNewPrivs:\t1")
}

/// The end of bash's prompt for root.
const PROMPT: &str = "# ";

/// bash on a terminal: a job stops when it reads in the background, comes to the front, takes ^Z and ^C.
fn jobs<C: Client>(stage: &Stage) -> Res {
    let (mut ours, theirs) = Terminal::open((101, 37))?;
    let cmd = C::run(stage, C::TERMINAL)?.args(&["bash", "--norc"]);
    let running = cmd.on_terminal(theirs).spawn()?;
    // What is typed before there is a prompt may be lost: bash sets the terminal anew.
    ours.until(stage, PROMPT)?;
    ours.write("cat &\n")?;
    ours.all(stage, &["[1]", PROMPT])?;
    ours.write("until jobs -s | grep cat; do :; done\n")?;
    ours.all(stage, &["Stopped", PROMPT])?;
    for (word, key, words) in [("one", "\x1a", "Stopped"), ("two", "\x03", "^C")] {
        ours.write("fg\n")?;
        ours.all(stage, &["fg", "cat"])?;
        ours.write(&format!("{word}\n"))?;
        ours.all(stage, &[word, word])?;
        ours.write(key)?;
        ours.all(stage, &[words, PROMPT])?;
    }
    ours.write("echo code $?\n")?;
    ours.all(stage, &["code 130", PROMPT])?;
    ours.write("exit 3\n")?;
    eq("exit code", &running.wait(stage)?.code, &Some(3))
}

/// An init of the client's as the first process: it collects orphans, and its exit code is the command's.
fn init<C: Client>(stage: &Stage) -> Res {
    let line = "read name </proc/1/comm; echo $name; (setsid sleep 0.3 &); \
                until grep -qs sleep /proc/[0-9]*/comm; do :; done; \
                while grep -qs sleep /proc/[0-9]*/comm; do :; done; exit 7";
    let output = C::run(stage, &["--init"])?.args(&["bash", "-c", line]).output()?;
    ensure(output.out.trim() != "bash", "bash is the first process")?;
    eq(&output.brief(), &output.code, &Some(7))
}

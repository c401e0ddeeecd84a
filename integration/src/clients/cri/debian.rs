//! A pod's container of a whole distribution.

use oci_tests::check::{Res, ensure, eq, has};

use super::{Pod, await_image, exec_ok};
use crate::clients::debian::{self, DEBIAN};
use crate::scenario::{Scenario, scenario};
use crate::stage::Stage;
use crate::wire::Message;

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("Debian: a user by name, a setuid program", "F144 F153", by_name).within(120),
        scenario("Debian: apt-get installs a package and purges it", "F144 F153", packages)
            .within(120),
    ]
}

/// A container of Debian that sleeps, with this security context.
fn sleeping(stage: &Stage, pod: &Pod<'_>, context: Message) -> Res<String> {
    let archive = debian::archive(stage)?;
    if !stage.cmd(&["ctr", "images", "list", "-q"]).must()?.contains(DEBIAN) {
        stage.cmd(&["ctr", "images", "import", &archive]).must()?;
        await_image(stage, DEBIAN)?;
    }
    pod.run(&["sleep", "1000"], |config| {
        let image = Message::new().text(1, DEBIAN);
        config.message(2, image).message(15, Message::new().message(2, context))
    })
}

fn by_name(stage: &Stage) -> Res {
    let pod = Pod::start(stage)?;
    let line = "passwd --status tester 2>&1";
    let tester = || Message::new().text(6, "tester").number(8, 3000);
    let id = sleeping(stage, &pod, tester())?;
    let seen = exec_ok(stage, &id, "id -un; id -gn; id -G")?;
    eq("user, group, groups", &seen.as_str(), &"tester\ntester\n1000 29 2000 3000")?;
    has("of the password file", &exec_ok(stage, &id, line)?, "tester L ")?;
    let id = sleeping(stage, &pod, tester().number(11, 1))?;
    let seen = exec_ok(stage, &id, line)?;
    ensure(!seen.contains("tester L "), format!("passwd could read the password file: {seen}"))
}

fn packages(stage: &Stage) -> Res {
    let pod = Pod::start(stage)?;
    let id = sleeping(stage, &pod, Message::new())?;
    debian::check_package(&exec_ok(stage, &id, debian::PACKAGE)?)
}

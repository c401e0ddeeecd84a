//! Podman, as root and as an ordinary user.

mod configuration;
mod life;
mod mistakes;
mod pods;
mod rootless;

use oci_tests::check::Res;

use super::debian::{self, DEBIAN};
use super::engine::{
    call as podman, exec, inspect, knob, name, run, run_image, running, sh, sh_ok, shared,
    sleeping, until,
};
use crate::images::PAUSE;
use crate::scenario::Client;
use crate::stage::{Cmd, Stage};

/// Podman as root.
pub const CLIENT: Client = Client {
    name: "podman",
    programs: &["podman", "conmon"],
    scenarios: || {
        let mut all = life::scenarios();
        all.extend(configuration::scenarios());
        all.extend(pods::scenarios());
        all.extend(mistakes::scenarios());
        all.extend(debian::with_options::<Podman>());
        all
    },
    open: |stage| {
        configure(stage)?;
        load(stage)
    },
    emptied: |_| ["bulkhead", "runc", "crun"].map(|name| format!("/run/{name}")).into(),
};

pub use rootless::CLIENT as ROOTLESS;

/// Writes Podman's configuration and puts it into the environment.
fn configure(stage: &Stage) -> Res {
    let path = |name: &str| stage.path(&format!("podman/{name}"));
    std::fs::create_dir_all(path(""))?;
    let name = runtime_name(stage);
    // Podman decides by the runtime's name what it can do: this is what users of bulkhead write too.
    let engine = format!(
        "[containers]\ninit_path = \"/usr/bin/catatonit\"\n\
         [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n\
         infra_image = \"{PAUSE}\"\ntmp_dir = \"{}\"\nruntime = \"{name}\"\n\
         runtime_supports_json = [\"bulkhead\", \"crun\", \"runc\"]\n\
         runtime_supports_nocgroup = [\"bulkhead\", \"crun\"]\n\
         [engine.runtimes]\n{name} = [\"{}\"]\n\
         [network]\nnetwork_backend = \"cni\"\n",
        path("tmp"),
        stage.runtime.display(),
    );
    std::fs::write(path("containers.conf"), engine)?;
    let storage = format!(
        "[storage]\ndriver = \"overlay\"\ngraphroot = \"{}\"\nrunroot = \"{}\"\n",
        path("root"),
        path("run")
    );
    std::fs::write(path("storage.conf"), storage)?;
    stage.set_env("CONTAINERS_CONF", path("containers.conf"));
    stage.set_env("CONTAINERS_STORAGE_CONF", path("storage.conf"));
    Ok(())
}

/// The name under which Podman knows the runtime: its file's.
fn runtime_name(stage: &Stage) -> String {
    let name = stage.runtime.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

fn load(stage: &Stage) -> Res {
    for name in ["box.tar", "pause.tar"] {
        let archive = stage.images.join(name).display().to_string();
        podman(stage, &["load", "--quiet", "--input", &archive]).must()?;
    }
    Ok(())
}

/// Podman with an image of Debian.
struct Podman;

impl debian::Client for Podman {
    const TERMINAL: &'static [&'static str] = &["--tty", "--interactive"];
    const FREE: &'static [&'static str] = &[];
    const HELD: &'static [&'static str] = &["--security-opt", "no-new-privileges"];

    fn run<'s>(stage: &'s Stage, options: &[&str]) -> Res<Cmd<'s>> {
        let archive = debian::archive(stage)?;
        if podman(stage, &["image", "exists", DEBIAN]).output()?.code != Some(0) {
            podman(stage, &["load", "--quiet", "--input", &archive]).must()?;
        }
        let name = name(stage);
        let all = [&["--rm", "--name", &name], options].concat();
        Ok(run_image(stage, &all, DEBIAN))
    }
}

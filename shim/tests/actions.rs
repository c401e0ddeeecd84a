//! The actions as containerd calls them: the real program, its output, and what it leaves.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use containerd_shim_protos::api::DeleteResponse;
use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult, Extension};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message, MessageField};
use containerd_shim_protos::shim::oci::Options;
use containerd_shim_protos::types::introspection::RuntimeInfo;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

/// A directory with bundles, and an end for every process in one of them.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("bulkhead-actions-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path.canonicalize().unwrap())
    }

    fn bundle(&self, id: &str, config: &str) -> PathBuf {
        let bundle = self.0.join(id);
        fs::create_dir_all(bundle.join("rootfs")).unwrap();
        fs::write(bundle.join("config.json"), config).unwrap();
        bundle
    }

    fn daemons(&self) -> Vec<i32> {
        let inside = |entry: fs::DirEntry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let place = fs::read_link(entry.path().join("cwd")).ok()?;
            place.starts_with(&self.0).then_some(pid)
        };
        fs::read_dir("/proc").unwrap().filter_map(|entry| inside(entry.ok()?)).collect()
    }

    /// SIGKILL, as the kernel's OOM killer gives it.
    fn kill_daemons(&self) {
        for pid in self.daemons() {
            let pid = Pid::from_raw(pid);
            let _ = kill(pid, Signal::SIGKILL);
            // Not our child, unless this process is a subreaper or the first of its namespace.
            let _ = waitpid(pid, None);
            while fs::read_link(format!("/proc/{pid}/cwd")).is_ok() {
                std::thread::yield_now();
            }
        }
    }

    fn sockets(&self) -> usize {
        fs::read_dir(self.0.join("s")).map_or(0, Iterator::count)
    }

    /// Runs an action, with one pipe's end for both streams closed only when nobody holds it.
    fn run(&self, bundle: &Path, action: &[&str], input: &[u8]) -> Output {
        self.run_with(bundle, action, input, &[])
    }

    /// The same with more environment.
    fn run_with(
        &self,
        bundle: &Path,
        action: &[&str],
        input: &[u8],
        variables: &[(&str, &str)],
    ) -> Output {
        let id = bundle.file_name().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_containerd-shim-bulkhead-v2"))
            .args([
                "-namespace",
                "ns",
                "-address",
                "/run/c.sock",
                "-publish-binary",
                "/bin/c",
                "-id",
            ])
            .arg(id)
            .args(action)
            .current_dir(bundle)
            .env("MAX_SHIM_VERSION", "2")
            .env("TTRPC_ADDRESS", self.0.join("no-events"))
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It may end without reading.
        let _ = child.stdin.take().unwrap().write_all(input);
        child.wait_with_output().unwrap()
    }

    fn params(&self, id: &str, options: Options) -> Vec<u8> {
        let any = Any {
            type_url: "containerd.runc.v1.Options".into(),
            value: options.write_to_bytes().unwrap(),
            ..Any::default()
        };
        let extension = Extension { value: MessageField::some(any), ..Extension::default() };
        let params = BootstrapParams {
            instance_id: id.into(),
            namespace: "ns".into(),
            socket_dir: Some(self.0.join("s").display().to_string()),
            extensions: vec![extension],
            ..BootstrapParams::default()
        };
        params.write_to_bytes().unwrap()
    }

    fn options(&self) -> Options {
        let root = self.0.join("state").display().to_string();
        Options { root, ..Options::default() }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.kill_daemons();
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn succeeded(output: Output) -> Vec<u8> {
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && complaint.is_empty(), "{}: {complaint}", output.status);
    output.stdout
}

fn path_of(address: &str) -> &Path {
    Path::new(address.strip_prefix("unix://").unwrap())
}

#[test]
fn a_pod_of_two_by_the_bootstrap_protocol() {
    let place = Place::new();
    let pod = r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"pod"}}"#;
    let start = |bundle: &Path, id: &str| {
        let output = place.run(bundle, &["start"], &place.params(id, place.options()));
        BootstrapResult::parse_from_bytes(&succeeded(output)).unwrap()
    };
    let first = place.bundle("pod", pod);
    let result = start(&first, "pod");
    assert_eq!((result.version, result.protocol.as_str()), (3, "ttrpc"));
    let daemons = place.daemons();
    assert!(!daemons.is_empty());
    let second = place.bundle("c2", pod);
    assert_eq!(start(&second, "c2").address, result.address);
    assert!(daemons.iter().all(|daemon| place.daemons().contains(daemon)));
    for bundle in [&first, &second] {
        assert_eq!(fs::read_to_string(bundle.join("address")).unwrap(), result.address);
        assert!(bundle.join("options.json").exists());
    }
    // Alone is another shim.
    let alone = start(&place.bundle("c3", "{}"), "c3");
    assert_ne!(alone.address, result.address);
    UnixStream::connect(path_of(&alone.address)).unwrap();
    assert_eq!(place.sockets(), 2);
}

#[test]
fn the_daemon_is_detached() {
    let place = Place::new();
    let bundle = place.bundle("c1", "{}");
    let socket = place.0.join("socket");
    // The bare address, for daemons before 2.3.
    let answer = place.run(&bundle, &["-socket", socket.to_str().unwrap(), "start"], b"");
    assert_eq!(succeeded(answer), format!("unix://{}", socket.display()).into_bytes());
    let metadata = fs::metadata(&socket).unwrap();
    assert!(metadata.file_type().is_socket() && metadata.mode() & 0o777 == 0o600);
    let daemon = *place.daemons().first().unwrap();
    let read = |name: &str| fs::read_to_string(format!("/proc/{daemon}/{name}")).unwrap();
    let own_score = fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    let own_score: i32 = own_score.trim().parse().unwrap();
    assert_eq!(read("oom_score_adj").trim(), (own_score + 1).min(1000).to_string());
    assert_eq!(read("comm").trim(), "containerd-shim");
    // pid (comm) state ppid pgrp session
    let stat = read("stat");
    let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let own_session = nix::unistd::getsid(None).unwrap().to_string();
    assert_ne!(fields[3], own_session);
    for stream in 0..3 {
        let link = fs::read_link(format!("/proc/{daemon}/fd/{stream}")).unwrap();
        assert_eq!(link, Path::new("/dev/null"));
    }
}

#[test]
fn delete_after_the_shim_was_killed() {
    let place = Place::new();
    let bundle = place.bundle("c1", "{}");
    let start = || place.run(&bundle, &["start"], &place.params("c1", place.options()));
    succeeded(start());
    let delete = || {
        let output = place.run(&bundle, &["-bundle", bundle.to_str().unwrap(), "delete"], b"");
        DeleteResponse::parse_from_bytes(&succeeded(output)).unwrap()
    };
    // Somebody still answers: another container of the pod.
    assert_eq!((delete().exit_status, place.sockets()), (137, 1));
    place.kill_daemons();
    // A new one takes over what is left, and the last one leaves nothing.
    succeeded(start());
    place.kill_daemons();
    let response = delete();
    assert_eq!((response.exit_status, place.sockets()), (137, 0));
    assert!(response.exited_at.seconds > 0);
}

#[test]
fn a_failed_start_leaves_nothing() {
    let place = Place::new();
    let bundle = place.bundle("c1", "{}");
    let options = Options { shim_cgroup: "/bulkhead-no-such-cgroup".into(), ..place.options() };
    let output = place.run(&bundle, &["start"], &place.params("c1", options));
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && output.stdout.is_empty());
    assert!(complaint.contains("/bulkhead-no-such-cgroup"), "{complaint}");
    assert_eq!((place.sockets(), place.daemons().len()), (0, 0));
    for (input, config, text) in [
        (&b"\x0a\x09x.Options"[..], "{}", "options of this type are not known"),
        (b"", "[", "read \""),
    ] {
        let bundle = place.bundle("c2", config);
        let output = place.run(&bundle, &["start"], input);
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && complaint.contains(text), "{complaint}");
    }
    let output = place.run(&bundle, &["-frob", "start"], b"");
    assert!(String::from_utf8_lossy(&output.stderr).contains("-frob: flag is not known"));
    assert!(place.daemons().is_empty());
}

/// A cgroup of the test's own, in one hierarchy that the host has.
struct Group {
    place: PathBuf,
    name: String,
}

impl Group {
    fn new() -> Self {
        let name = format!("/bulkhead-actions-{}", std::process::id());
        let top = Path::new("/sys/fs/cgroup");
        let unified = top.join("cgroup.controllers").exists();
        let hierarchy = if unified { top.to_owned() } else { top.join("pids") };
        let place = hierarchy.join(&name[1..]);
        fs::create_dir(&place).unwrap();
        Self { place, name }
    }

    fn processes(&self) -> Vec<i32> {
        let text = fs::read_to_string(self.place.join("cgroup.procs")).unwrap();
        text.lines().map(|pid| pid.parse().unwrap()).collect()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Whoever was killed may not have left yet.
        for _ in 0..1000 {
            if fs::remove_dir(&self.place).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

#[test]
fn the_daemon_and_its_spawner_join_the_cgroup_of_the_options() {
    let group = Group::new();
    let place = Place::new();
    let bundle = place.bundle("c1", "{}");
    let options = Options { shim_cgroup: group.name.clone(), ..place.options() };
    succeeded(place.run(&bundle, &["start"], &place.params("c1", options)));
    let limit = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while place.daemons().len() < 2 {
        assert!(std::time::Instant::now() < limit, "there is no spawner");
        std::thread::yield_now();
    }
    let (mut daemons, mut members) = (place.daemons(), group.processes());
    daemons.sort_unstable();
    members.sort_unstable();
    assert_eq!(members, daemons);
    place.kill_daemons();
}

#[test]
fn the_daemon_and_its_spawner_share_cores_with_nobody_else() {
    let place = Place::new();
    let bundle = place.bundle("c1", "{}");
    let start = || {
        let params = place.params("c1", place.options());
        place.run_with(&bundle, &["start"], &params, &[("SCHED_CORE", "1")])
    };
    let own = runtime::cores_shared_by(std::process::id() as i32);
    let simultaneous = fs::read_to_string("/sys/devices/system/cpu/smt/active");
    if own.is_err() || simultaneous.is_ok_and(|active| active.trim() != "1") {
        // Not to be had on this host: containerd's client is told, and no shim runs without it.
        let output = start();
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{complaint}");
        let wanted = "start daemon: schedule by core process group: prctl(PR_SCHED_CORE): E";
        assert!(complaint.contains(wanted), "{complaint}");
        assert_eq!((place.daemons().len(), place.sockets()), (0, 0));
        return;
    }
    succeeded(start());
    let limit = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while place.daemons().len() < 2 {
        assert!(std::time::Instant::now() < limit, "there is no spawner");
        std::thread::yield_now();
    }
    // What the spawner forks, containers among it, has its parent's.
    let shared = place.daemons().into_iter().map(runtime::cores_shared_by);
    let shared: Vec<u64> = shared.map(Result::unwrap).collect();
    assert!(shared[0] != 0 && shared.iter().all(|of| *of == shared[0]), "{shared:?}");
    assert_ne!(shared[0], own.unwrap());
}

#[test]
fn what_it_says_of_itself() {
    let place = Place::new();
    let output = succeeded(place.run(&place.0, &["-info"], b""));
    let info = RuntimeInfo::parse_from_bytes(&output).unwrap();
    assert!(info.features.type_url.ends_with("/features/Features"));
    let version = String::from_utf8(succeeded(place.run(&place.0, &["-v"], b""))).unwrap();
    assert!(version.starts_with("containerd-shim-bulkhead-v2:\n"), "{version}");
}

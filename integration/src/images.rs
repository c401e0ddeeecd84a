//! The images of the tests, made without a network: busybox and a few files.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

/// The image that tests run; it ends by itself.
pub const BOX: &str = "localhost/box:latest";

/// The image that holds a pod's namespaces; it sleeps.
pub const PAUSE: &str = "localhost/pause:latest";

/// Builds box.tar and pause.tar, archives that every client can load, in the new directory `dir`.
pub fn build(dir: &Path) -> io::Result<()> {
    fs::create_dir(dir)?;
    let root = dir.join("rootfs");
    root_directory(&root)?;
    let layout = dir.join("layout").display().to_string();
    let tag = format!("{layout}:box");
    let bundle = dir.join("bundle");
    run("umoci", &["init", "--layout", &layout])?;
    run("umoci", &["new", "--image", &tag])?;
    run("umoci", &["unpack", "--image", &tag, &bundle.display().to_string()])?;
    fs::remove_dir(bundle.join("rootfs"))?;
    fs::rename(&root, bundle.join("rootfs"))?;
    run("umoci", &["repack", "--image", &tag, &bundle.display().to_string()])?;
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    run("umoci", &["config", "--image", &tag, "--config.env", path, "--config.cmd", "sh"])?;
    run(
        "umoci",
        &[
            "config",
            "--image",
            &tag,
            "--tag",
            "pause",
            "--clear=config.cmd",
            "--config.cmd",
            "/bin/sh",
            "--config.cmd",
            "-c",
            "--config.cmd",
            PAUSE_LINE,
        ],
    )?;
    for (name, image) in [("box", BOX), ("pause", PAUSE)] {
        let archive =
            format!("docker-archive:{}:{image}", dir.join(format!("{name}.tar")).display());
        run("skopeo", &["--insecure-policy", "copy", &format!("oci:{layout}:{name}"), &archive])?;
    }
    // Containers with a root file system of their own use this one, as the busybox that it is.
    fs::rename(bundle.join("rootfs"), root)
}

/// What holds a pod: it sleeps until it is told to end, and collects orphans.
const PAUSE_LINE: &str = "trap exit TERM INT; while :; do sleep 1000 & wait $!; done";

fn root_directory(root: &Path) -> io::Result<()> {
    for name in ["bin", "dev", "etc", "proc", "sys", "tmp", "root", "data", "mnt", "run"] {
        fs::create_dir_all(root.join(name))?;
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    fs::copy("/bin/busybox", root.join("bin/busybox"))?;
    let applets = Command::new("/bin/busybox").arg("--list").output()?;
    for applet in String::from_utf8_lossy(&applets.stdout).lines().filter(|name| *name != "busybox")
    {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    let files = [
        ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\ntester:x:1000:1000::/tmp:/bin/sh\n", 0o644),
        ("etc/group", "root:x:0:\ntester:x:1000:\nmore:x:2000:tester\n", 0o644),
        ("etc/plain", "not a program\n", 0o644),
        ("data/file", "of the image\n", 0o644),
        ("bin/broken", "#!/no/interpreter\n", 0o755),
    ];
    for (name, text, mode) in files {
        fs::write(root.join(name), text)?;
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode))?;
    }
    chown(root.join("data/file"), Some(1000), Some(1000))
}

fn run(program: &str, words: &[&str]) -> io::Result<()> {
    let output = Command::new(program).args(words).stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{program} {}: {}", words.join(" "), text.trim())))
}

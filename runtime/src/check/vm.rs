//! What a container behind a virtual machine needs of this host, and what does not work without it.
//!
//! The devices are asked and the files are read; no machine is made.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::host::Facility;
use crate::error::{Cause, quote};
use crate::guest_image::GuestImage;
use crate::isolation::MachineFiles;
use crate::sys;

/// The version of KVM's interface that the monitor speaks; the only one since Linux 2.6.22.
const KVM_VERSION: i64 = 12;
/// What the monitor needs of KVM: `KVM_CAP_*` of `linux/kvm.h`. The timer and the interrupt controllers are KVM's, and
/// a device's registers and interrupts are descriptors.
const CAPABILITIES: [(i32, &str); 5] = [
    (0, "KVM_CAP_IRQCHIP"),
    (3, "KVM_CAP_USER_MEMORY"),
    (32, "KVM_CAP_IRQFD"),
    (33, "KVM_CAP_PIT2"),
    (36, "KVM_CAP_IOEVENTFD"),
];
/// Memory of a machine whose container has no limit, and the least in which a guest boots, in MiB.
const USUAL_MEMORY: u64 = 512;
const LEAST_MEMORY: u64 = 96;

/// Looks at everything that the wall of a virtual machine needs. Checksums of the guest image are compared.
pub fn check_vm(files: &MachineFiles) -> Vec<Facility> {
    vec![
        kvm().needed(),
        program("monitor", &files.monitor).needed(),
        program("share server", &files.share_server).needed(),
        guest_image(&files.image).needed(),
        memory(),
    ]
}

/// The device and what it can do.
pub(super) fn kvm() -> Facility {
    const NAME: &str = "KVM";
    let missing = |found: String| {
        let advice = "containers behind a virtual machine do not start: a processor with virtualisation, the module \
                      kvm_intel or kvm_amd, and access to /dev/kvm (its group, kvm) are needed";
        Facility::missing(NAME, found, advice)
    };
    let device = match File::options().read(true).write(true).open("/dev/kvm") {
        Ok(device) => device,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return missing("no /dev/kvm".to_owned());
        }
        Err(error) => return missing(format!("/dev/kvm: {error}")),
    };
    match sys::kvm::version(device.as_fd()) {
        Ok(KVM_VERSION) => {}
        Ok(version) => return missing(format!("version {version}, not {KVM_VERSION}")),
        Err(failure) => return missing(failure.to_string()),
    }
    for (number, name) in CAPABILITIES {
        match sys::kvm::extension(device.as_fd(), number) {
            Ok(1..) => {}
            Ok(_) => return missing(format!("without {name}")),
            Err(failure) => return missing(failure.to_string()),
        }
    }
    Facility::ok(NAME, format!("version {KVM_VERSION}"))
}

fn program(name: &'static str, path: &Path) -> Facility {
    const ADVICE: &str = "it comes with Bulkhead, beside the program or in /usr/libexec/bulkhead";
    match fs::metadata(path) {
        Ok(file) if file.is_file() && file.permissions().mode() & 0o111 != 0 => {
            Facility::ok(name, path.display().to_string())
        }
        Ok(_) => Facility::missing(name, format!("{} is no program", quote(path)), ADVICE),
        Err(error) => Facility::missing(name, format!("{}: {error}", quote(path)), ADVICE),
    }
}

fn guest_image(directory: &Path) -> Facility {
    const NAME: &str = "guest image";
    let opened = GuestImage::open(directory).and_then(|mut image| {
        image.verify()?;
        Ok(image.manifest)
    });
    let manifest = match opened {
        Ok(manifest) => manifest,
        Err(error) => {
            let reason = match error.cause() {
                Cause::Call(failure) => failure.to_string(),
                Cause::Reason(reason) => reason.clone(),
            };
            let found = format!("{}: {reason}", error.subject());
            return Facility::missing(NAME, found, "`bulkhead vm setup` makes it");
        }
    };
    let found = format!("{}: Linux {}", directory.display(), manifest.release);
    match manifest.drivers.absent.join(", ") {
        absent if absent.is_empty() => Facility::ok(NAME, found),
        absent => {
            let advice = format!(
                "the guest's kernel has no {absent}: see the warnings of `bulkhead vm setup`"
            );
            Facility::limited(NAME, found, advice)
        }
    }
}

fn memory() -> Facility {
    const NAME: &str = "memory";
    let Some(available) = fs::read_to_string("/proc/meminfo").ok().as_deref().and_then(available)
    else {
        return Facility::limited(NAME, "no MemAvailable", "/proc/meminfo cannot be read");
    };
    let found = format!("{available} MiB available");
    if available < LEAST_MEMORY {
        let advice = format!("no guest boots in less than {LEAST_MEMORY} MiB");
        Facility::missing(NAME, found, advice).needed()
    } else if available < USUAL_MEMORY {
        let advice =
            format!("a container without a limit gets a machine of {USUAL_MEMORY} MiB: set limits");
        Facility::limited(NAME, found, advice)
    } else {
        Facility::ok(NAME, found)
    }
}

/// What proc_meminfo(5) says can be had without swapping, in MiB.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Standing;

    #[test]
    fn available_memory_is_read() {
        assert_eq!(available("MemTotal:  9 kB\nMemAvailable:    4096 kB\n"), Some(4));
        assert_eq!(available("MemTotal:  9 kB\n"), None);
        assert!(matches!(memory().standing, Standing::Ok | Standing::Limited));
    }

    #[test]
    fn what_is_missing_is_named() {
        let facilities = check_vm(&MachineFiles {
            image: "/no/image".into(),
            monitor: "/no/monitor".into(),
            share_server: "/etc/passwd".into(),
        });
        let row = |name: &str| facilities.iter().find(|f| f.name == name).unwrap();
        let image = row("guest image");
        assert_eq!(image.standing, Standing::Missing);
        assert_eq!(image.found, "\"/no/image\": open: ENOENT (no such file or directory)");
        assert_eq!(image.advice, "`bulkhead vm setup` makes it");
        let monitor = row("monitor");
        assert!(monitor.found.starts_with("\"/no/monitor\": No such file"), "{monitor:?}");
        assert_eq!(row("share server").found, "\"/etc/passwd\" is no program");
        assert_eq!(program("x", Path::new("/bin/sh")).standing, Standing::Ok);
    }
}

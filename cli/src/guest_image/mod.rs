//! Makes a guest image, which `runtime::GuestImage` opens.
//!
//! Everything is read and checked first, into memory; only then is anything written, and that is one step for who
//! looks from outside.

mod agent;
mod directory;
mod drivers;
mod elf;
mod initramfs;
mod kernel;
mod module;
mod source;

use std::path::{Path, PathBuf};

use runtime::{
    Error, GuestAgent, GuestFile, GuestImage, GuestKernel, GuestManifest, Result, guest_layout,
    quote,
};
use sha2::{Digest, Sha256};

use self::drivers::{DRIVERS, Drivers};
pub use self::kernel::newest;
use self::source::read;

/// What an image is made from.
#[derive(Debug)]
pub struct Sources {
    /// The kernel.
    pub kernel: PathBuf,
    /// The directory of its modules; when it is not named, see [`modules_of`].
    pub modules: Option<PathBuf>,
    /// The program that becomes `/init`.
    pub agent: PathBuf,
}

/// Longest kernel and longest agent that are read.
const LONGEST: u64 = 512 << 20;

/// Makes the image in `directory`, in place of one that is there. `tell` gets what is being done, a line at a time;
/// `warn` gets what the guest will lack.
///
/// # Errors
/// A source that cannot be read or is not what it should be; a driver that is nowhere and without which no guest
/// runs; a directory that cannot be written, or has something else than an image in it. Then what was there before is
/// as it was, and nothing else is there.
pub fn make(
    sources: &Sources,
    directory: &Path,
    tell: &mut dyn FnMut(&str),
    warn: &mut dyn FnMut(&str),
) -> Result<()> {
    let kernel = read("read kernel", &sources.kernel, LONGEST)?;
    let recognised = kernel::recognise(&kernel)
        .map_err(|reason| Error::unsupported("read kernel", quote(&sources.kernel), reason))?;
    let release = &recognised.release;
    tell(&format!("kernel {release} from {}", quote(&sources.kernel)));

    let agent = read("read agent", &sources.agent, LONGEST)?;
    let version = agent::version(&agent)
        .map_err(|reason| Error::unsupported("read agent", quote(&sources.agent), reason))?;
    tell(&format!("agent {} from {}", version.own, quote(&sources.agent)));

    let modules = modules_of(sources, release);
    let drivers = Drivers::find(&modules, release)?;
    for driver in DRIVERS.iter().filter(|driver| drivers.absent.contains(&driver.name)) {
        warn(&format!("kernel {release} has no {}: {}", driver.name, driver.purpose));
    }
    let loaded = drivers
        .files
        .iter()
        .map(|file| module::load(&modules.join(file), release))
        .collect::<Result<Vec<_>>>()?;
    let names: Vec<String> = loaded.iter().map(|module| module.name.clone()).collect();
    tell(&match names.len() {
        0 => "every driver is in the kernel".to_owned(),
        _ => format!("modules from {}: {}", quote(&modules), names.join(" ")),
    });

    let archive = initramfs::archive(&agent, &loaded)?;
    let manifest = GuestManifest {
        format_version: GuestManifest::FORMAT,
        release: release.clone(),
        kernel: GuestKernel {
            origin: sources.kernel.to_string_lossy().into_owned(),
            format: recognised.format,
            file: described(&kernel),
        },
        initramfs: described(&archive),
        agent: GuestAgent {
            origin: sources.agent.to_string_lossy().into_owned(),
            version: version.own,
            messages: version.messages,
        },
        drivers: drivers.manifest(names),
    };
    let mut json = serde_json::to_vec_pretty(&manifest).map_err(|error| {
        Error::unsupported("write guest image", quote(directory), error.to_string())
    })?;
    json.push(b'\n');
    let files = [
        (GuestImage::KERNEL, &*kernel),
        (GuestImage::INITRAMFS, &*archive),
        (GuestImage::MANIFEST, &*json),
    ];
    let size: usize = files.iter().map(|(_, content)| content.len()).sum();
    tell(&format!("writing {:.1} MiB to {}", size as f64 / f64::from(1 << 20), quote(directory)));
    directory::replace(directory, &files)
}

/// The directory that is named; else the kernel's own, when the kernel's build has left the list of its built-in
/// modules there; else where distributions have it.
fn modules_of(sources: &Sources, release: &str) -> PathBuf {
    if let Some(named) = &sources.modules {
        return named.clone();
    }
    match sources.kernel.parent() {
        Some(own) if own.join(drivers::BUILT_IN).exists() && is_trusted(own) => own.to_owned(),
        _ => Path::new("/lib/modules").join(release),
    }
}

/// Whether nobody but root and the caller puts anything there. Whoever names a kernel in `/tmp` does not name its
/// neighbours.
fn is_trusted(directory: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(directory).is_ok_and(|found| {
        let others = found.mode() & 0o022 != 0;
        !others && (found.uid() == 0 || found.uid() == nix::unistd::geteuid().as_raw())
    })
}

fn described(content: &[u8]) -> GuestFile {
    GuestFile {
        size: content.len() as u64,
        sha256: Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

/// Where a module lies in the initramfs.
fn place(name: &str) -> String {
    format!("{}/{name}", guest_layout::MODULES)
}

//! What the global options decide: state root, log, cgroup driver.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use runtime::{Call, Container, Context, GuestImage, Rootless, Then, Wall, quote};

use crate::environment::Environment;
use crate::isolation;
use crate::log::{Level, Log};
use crate::program::Failure;

/// State root of root.
const ROOT: &str = "/run/bulkhead";

/// Options before the command.
#[derive(Debug, clap::Args)]
pub struct Global {
    /// Log debug messages
    #[arg(long)]
    debug: bool,
    /// Append the log to this file instead of writing it to standard error
    #[arg(long, value_name = "path")]
    log: Option<PathBuf>,
    /// Format of the log: text or json
    #[arg(long, value_name = "format")]
    log_format: Option<String>,
    /// Directory of container state [default: /run/bulkhead, or bulkhead in $XDG_RUNTIME_DIR]
    #[arg(long, value_name = "dir")]
    root: Option<PathBuf>,
    /// Have systemd make the cgroup, as a scope; cgroupsPath is slice:prefix:name
    #[arg(long)]
    systemd_cgroup: bool,
    /// Who makes the cgroup: cgroupfs (bulkhead itself), systemd, or disabled for none; then nothing can be
    /// limited, paused or counted, and without a pid namespace only the first process is killed
    #[arg(long, value_name = "manager", value_parser = ["cgroupfs", "systemd", "disabled"])]
    cgroup_manager: Option<String>,
    /// Tolerate missing cgroup permissions: true, false or auto
    #[arg(long, value_name = "mode")]
    rootless: Option<String>,
    /// The wall around new containers: namespaces or vm [default: what the configuration asks for, or namespaces]
    #[arg(long, value_name = "wall")]
    isolation: Option<String>,
    /// Directory of the virtual machines' image, made by `vm setup` [default: /var/lib/bulkhead/vm]
    #[arg(long, value_name = "dir")]
    vm_image: Option<PathBuf>,
    /// The program criu, for checkpoint and restore [default: the one in $PATH]
    #[arg(long, value_name = "path")]
    criu: Option<PathBuf>,
    /// Print the version
    #[arg(long, short = 'v')]
    version: bool,
}

/// The global options, resolved.
#[derive(Debug)]
pub struct Session {
    /// State root, absolute.
    pub root: PathBuf,
    /// Whether `--root` was given.
    pub explicit_root: bool,
    /// `--systemd-cgroup`, or `--cgroup-manager systemd`.
    pub systemd_cgroup: bool,
    /// `--cgroup-manager disabled`.
    pub no_cgroup: bool,
    /// `--rootless`.
    pub rootless: Rootless,
    /// `--isolation`.
    pub wall: Option<Wall>,
    /// `--vm-image`, absolute.
    pub image: PathBuf,
    /// `--criu`.
    pub criu: Option<PathBuf>,
    /// `--log`, `--log-format`, `--debug`.
    pub log: Log,
    /// Level of the library's warnings.
    pub warnings: Level,
}

impl Global {
    /// Opens the log.
    pub fn open_log(&self) -> Result<Log, Failure> {
        Log::open(self.log.as_deref(), self.log_format.as_deref(), self.debug)
    }

    /// Resolves what is not the log. On failure the log is handed back, for the error.
    pub fn session(self, log: Log, environment: &Environment) -> Result<Session, (Failure, Log)> {
        let manager = self.cgroup_manager.as_deref();
        match self.resolve(environment) {
            Ok((root, rootless, wall, image)) => Ok(Session {
                root,
                wall,
                image,
                explicit_root: self.root.is_some(),
                systemd_cgroup: self.systemd_cgroup || manager == Some("systemd"),
                no_cgroup: manager == Some("disabled"),
                rootless,
                criu: self.criu,
                log,
                warnings: Level::Warning,
            }),
            Err(failure) => Err((failure, log)),
        }
    }

    fn resolve(
        &self,
        environment: &Environment,
    ) -> Result<(PathBuf, Rootless, Option<Wall>, PathBuf), Failure> {
        let rootless = match self.rootless.as_deref() {
            None | Some("auto") => Rootless::Auto,
            Some("true" | "1") => Rootless::Yes,
            Some("false" | "0") => Rootless::No,
            Some(other) => {
                let message =
                    format!("invalid value {other:?} for --rootless: is not true, false or auto");
                return Err(Failure::message(message));
            }
        };
        match self.cgroup_manager.as_deref() {
            Some(manager @ ("cgroupfs" | "disabled")) if self.systemd_cgroup => {
                let message = format!("--systemd-cgroup contradicts --cgroup-manager {manager}");
                return Err(Failure::message(message));
            }
            _ => {}
        }
        let wall = isolation::wall(self.isolation.as_deref())?;
        let image = self.vm_image.as_deref().unwrap_or(Path::new(GuestImage::DIRECTORY));
        Ok((self.root(environment)?, rootless, wall, absolute(image)?))
    }

    fn root(&self, environment: &Environment) -> Result<PathBuf, Failure> {
        if let Some(root) = &self.root {
            let root = absolute(root)?;
            // Every directory of the host would look like a container.
            if fs::canonicalize(&root).is_ok_and(|real| real == Path::new("/")) {
                return Err(Failure::message("--root must not be the root directory"));
            }
            return Ok(root);
        }
        match environment.runtime_directory() {
            Some(directory) => {
                let root = absolute(&directory.join("bulkhead"))?;
                make_sticky(&root)?;
                Ok(root)
            }
            None => Ok(PathBuf::from(ROOT)),
        }
    }
}

/// The XDG base directory specification lets cleaners remove what is old and lacks the sticky bit.
fn make_sticky(root: &Path) -> Result<(), Failure> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(root)
        .call("mkdir")
        .context("create", quote(root))?;
    fs::set_permissions(root, fs::Permissions::from_mode(0o1700))
        .call("chmod")
        .context("protect", quote(root))?;
    Ok(())
}

/// A path relative to the caller's directory.
pub fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    Ok(std::path::absolute(path).call("getcwd").context("resolve", quote(path))?)
}

impl Session {
    /// The same options for a container that nobody else sees: its own state root, and no word about
    /// what this host does not let it have.
    pub fn private(&self, root: PathBuf) -> Session {
        Session {
            root,
            explicit_root: true,
            criu: None,
            image: self.image.clone(),
            log: self.log.clone(),
            warnings: Level::Debug,
            ..*self
        }
    }

    /// Gives up what relaying does not need. A kernel that cannot is no reason to end a container.
    pub fn confine(&self, container: &Container, then: Then) {
        if let Err(error) = container.confine_caller(then) {
            self.log.warning(&error.to_string());
        }
    }

    /// Opens a container.
    pub fn container(&self, id: &str) -> Result<Container, Failure> {
        Ok(Container::load(&self.root, id)?)
    }

    /// Runs an operation of the library and logs the warnings that it leaves.
    ///
    /// Beside an error they are for debugging only: conmon reads our standard error once and Podman
    /// the first object in the log, and both would show the first warning for the reason.
    pub fn warned<T>(
        &self,
        operation: impl FnOnce(&mut Vec<String>) -> runtime::Result<T>,
    ) -> Result<T, Failure> {
        let mut warnings = Vec::new();
        let result = operation(&mut warnings);
        let level = if result.is_ok() { self.warnings } else { Level::Debug };
        for warning in warnings {
            self.log.write(level, &warning);
        }
        Ok(result?)
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    fn global(root: Option<&str>, rootless: Option<&str>) -> Global {
        Global {
            debug: false,
            log: None,
            log_format: None,
            root: root.map(PathBuf::from),
            systemd_cgroup: false,
            cgroup_manager: None,
            rootless: rootless.map(str::to_owned),
            isolation: None,
            vm_image: None,
            criu: None,
            version: false,
        }
    }

    #[test]
    fn roots() {
        let none = Environment::default();
        assert_eq!(global(None, None).root(&none).unwrap(), Path::new(ROOT));
        assert_eq!(global(Some("/a/b"), None).root(&none).unwrap(), Path::new("/a/b"));
        assert!(global(Some("c"), None).root(&none).unwrap().is_absolute());
        for root in ["/", "//", "/proc/.."] {
            assert!(global(Some(root), None).root(&none).is_err(), "{root}");
        }
    }

    #[test]
    fn the_xdg_root_is_private_and_sticky() {
        let base = std::env::temp_dir().join(format!("bulkhead-xdg-{}", std::process::id()));
        fs::create_dir(&base).unwrap();
        let environment = Environment {
            xdg_runtime_dir: Some(OsString::from(&base)),
            privileged: false,
            ..Environment::default()
        };
        let root = global(None, None).root(&environment).unwrap();
        assert_eq!(root, base.join("bulkhead"));
        assert_eq!(fs::metadata(&root).unwrap().permissions().mode() & 0o7777, 0o1700);
        fs::remove_dir_all(&base).unwrap();
    }

    #[test]
    fn rootless_modes() {
        let none = Environment::default();
        for (word, mode) in [
            (None, Rootless::Auto),
            (Some("auto"), Rootless::Auto),
            (Some("true"), Rootless::Yes),
            (Some("false"), Rootless::No),
        ] {
            assert_eq!(global(None, word).resolve(&none).unwrap().1, mode);
        }
        assert!(global(None, Some("maybe")).resolve(&none).is_err());
    }
}

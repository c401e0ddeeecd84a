use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use runtime::{Standing, check_vm};
use serde_json::json;

use super::check::facility_rows;
use crate::guest_image::{self, Sources};
use crate::isolation::{machine_files, program};
use crate::output;
use crate::program::{Failure, NAME};
use crate::session::{Session, absolute};
use crate::table::{self, Format};

/// Where distributions put kernels.
const BOOT: &str = "/boot";

/// Make the guest image that containers behind a virtual machine boot, or say whether this host can run them
#[derive(Debug, Args)]
#[command(
    after_help = "setup copies a kernel, and puts the agent and those modules into an initramfs that the kernel \
                  lacks. What was there before stays until the new image is whole.\n\nThe exit status of check is 0 \
                  when a container would start, 1 when not."
)]
pub struct Vm {
    /// What to do
    #[arg(value_name = "what")]
    what: What,
    /// setup: the kernel, a bzImage or an ELF file with a PVH entry [default: the newest /boot/vmlinuz-*]
    #[arg(long, value_name = "path")]
    kernel: Option<PathBuf>,
    /// setup: the directory of the kernel's modules [default: that of the kernel if it has a modules.builtin, else
    /// /lib/modules/RELEASE]
    #[arg(long, value_name = "dir")]
    modules: Option<PathBuf>,
    /// setup: the guest's first program [default: bulkhead-agent beside this program or in /usr/libexec/bulkhead]
    #[arg(long, value_name = "path")]
    agent: Option<PathBuf>,
    /// check: table or json [default: table]
    #[arg(value_name = "format", long, short)]
    format: Option<String>,
}

/// The two halves of the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// Make the guest image
    Setup,
    /// Say whether this host can run containers behind a virtual machine
    Check,
}

impl super::Command for Vm {
    const NAME: &'static str = "vm";

    fn run(self, session: &Session) -> Result<u8, Failure> {
        match self.what {
            What::Setup => {
                if self.format.is_some() {
                    return Err(Failure::message("--format is an option of `vm check`"));
                }
                self.setup(session)
            }
            What::Check => {
                for (option, given) in [
                    ("kernel", self.kernel.is_some()),
                    ("modules", self.modules.is_some()),
                    ("agent", self.agent.is_some()),
                ] {
                    if given {
                        let text = format!("--{option} is an option of `vm setup`");
                        return Err(Failure::message(text));
                    }
                }
                check(&session.image, Format::parse(self.format.as_deref().unwrap_or("table"))?)
            }
        }
    }
}

impl Vm {
    fn setup(self, session: &Session) -> Result<u8, Failure> {
        let kernel = match self.kernel {
            Some(path) => absolute(&path)?,
            None => guest_image::newest(Path::new(BOOT))?,
        };
        let agent = self.agent.unwrap_or_else(|| program("bulkhead-agent"));
        let modules = self.modules.as_deref().map(absolute).transpose()?;
        let sources = Sources { kernel, modules, agent: absolute(&agent)? };
        let mut tell = |line: &str| {
            // Who closes standard error wants no progress.
            let _ = writeln!(std::io::stderr(), "{NAME}: {line}");
        };
        let mut warn = |line: &str| session.log.warning(line);
        guest_image::make(&sources, &session.image, &mut tell, &mut warn)?;
        Ok(0)
    }
}

fn check(image: &Path, format: Format) -> Result<u8, Failure> {
    let facilities = check_vm(&machine_files(image));
    let starts = !facilities.iter().any(|f| f.needed && f.standing == Standing::Missing);
    output::write(&match format {
        Format::Table => table::render(&facility_rows(&facilities)),
        Format::Json => output::json(&json!({ "starts": starts, "vm": facilities }))? + "\n",
    })?;
    Ok(u8::from(!starts))
}

use std::path::PathBuf;

use clap::Args;

use crate::program::Failure;
use crate::session::Session;

/// Write the manual pages, for packagers
#[derive(Debug, Args)]
#[command(hide = true)]
pub struct Man {
    /// Directory for `bulkhead.8` and a page for each command
    #[arg(value_name = "dir")]
    directory: PathBuf,
}

impl super::Command for Man {
    const NAME: &'static str = "man";

    fn run(self, _: &Session) -> Result<u8, Failure> {
        write(super::tree(), &self.directory)
            .map_err(|error| Failure::from_io("write manual pages to", &self.directory, &error))?;
        Ok(0)
    }
}

fn write(tree: clap::Command, directory: &std::path::Path) -> std::io::Result<()> {
    let mut tree = tree.disable_help_subcommand(true);
    tree.build();
    std::fs::create_dir_all(directory)?;
    for command in std::iter::once(&tree).chain(tree.get_subcommands().filter(|c| !c.is_hide_set()))
    {
        let name = command.get_bin_name().unwrap_or_else(|| command.get_name()).replace(' ', "-");
        let mut page = Vec::new();
        clap_mangen::Man::new(command.clone())
            .title(&name)
            .section("8")
            .source(concat!("bulkhead ", env!("CARGO_PKG_VERSION")))
            .manual("Bulkhead")
            .render(&mut page)?;
        std::fs::write(directory.join(format!("{name}.8")), page)?;
    }
    Ok(())
}

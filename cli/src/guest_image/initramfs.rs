//! The initramfs: a newc cpio archive, not compressed. Its layout is in `runtime::guest_layout`.
//! `Documentation/driver-api/early-userspace/buffer-format.rst`

use std::io::{self, Write};

use cpio::newc::{self, Builder, ModeFileType};
use runtime::{Error, Result, guest_layout};

use super::module::Module;
use super::place;

/// The archive. The same parts give the same bytes.
pub fn archive(agent: &[u8], modules: &[Module]) -> Result<Vec<u8>> {
    write(agent, modules)
        .map_err(|error| Error::unsupported("make initramfs", "", error.to_string()))
}

fn write(agent: &[u8], modules: &[Module]) -> io::Result<Vec<u8>> {
    let mut archive = Archive { bytes: Vec::new(), entries: 0 };
    archive.add(guest_layout::INIT, ModeFileType::Regular, 0o755, agent)?;
    if !modules.is_empty() {
        archive.add(guest_layout::MODULES, ModeFileType::Directory, 0o755, b"")?;
        for module in modules {
            archive.add(&place(&module.name), ModeFileType::Regular, 0o644, &module.content)?;
        }
        let order: String = modules.iter().map(|module| format!("{}\n", module.name)).collect();
        archive.add(&place(guest_layout::ORDER), ModeFileType::Regular, 0o644, order.as_bytes())?;
    }
    newc::trailer(archive.bytes)
}

struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Adds an entry of root's.
    fn add(&mut self, name: &str, kind: ModeFileType, mode: u32, content: &[u8]) -> io::Result<()> {
        self.entries += 1;
        let size = u32::try_from(content.len())
            .map_err(|_| io::Error::other(format!("{name} is too long for an archive")))?;
        let builder =
            Builder::new(name).ino(self.entries).nlink(1).mode(mode).set_mode_file_type(kind);
        let mut writer = builder.write(&mut self.bytes, size);
        writer.write_all(content)?;
        writer.finish()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    /// Reads an archive back: name, mode, content.
    fn entries(archive: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut list = Vec::new();
        let mut rest = archive;
        loop {
            let mut reader = newc::Reader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                return list;
            }
            let (name, mode) = (reader.entry().name().to_owned(), reader.entry().mode());
            let mut content = Vec::new();
            reader.read_to_end(&mut content).unwrap();
            list.push((name, mode, content));
            rest = reader.finish().unwrap();
        }
    }

    #[test]
    fn the_layout_is_as_the_agent_expects_it() {
        let module = |name: &str| Module { name: name.to_owned(), content: b"odd".to_vec() };
        let bytes = archive(b"agent", &[module("a.ko"), module("b-c.ko")]).unwrap();
        let found = entries(&bytes);
        let names: Vec<_> = found.iter().map(|(name, mode, _)| (name.as_str(), *mode)).collect();
        assert_eq!(
            names,
            [
                ("init", 0o100_755),
                ("modules", 0o40_755),
                ("modules/a.ko", 0o100_644),
                ("modules/b-c.ko", 0o100_644),
                ("modules/order", 0o100_644),
            ]
        );
        assert_eq!(found[0].2, b"agent");
        assert_eq!(found[4].2, b"a.ko\nb-c.ko\n");
        assert_eq!(bytes.len() % 4, 0);
    }

    #[test]
    fn without_modules_it_is_the_agent_alone() {
        assert_eq!(entries(&archive(b"agent", &[]).unwrap()).len(), 1);
    }
}

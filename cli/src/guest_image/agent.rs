//! The agent, the guest's first program.

use super::elf::{Elf, find_all};

/// What an agent says of itself.
#[derive(Debug, PartialEq, Eq)]
pub struct AgentVersion {
    pub own: String,
    pub messages: u32,
}

/// The version of an agent, or why it is none of ours. The program is not run.
pub fn version(file: &[u8]) -> Result<AgentVersion, String> {
    const NO_AGENT: &str = "is no agent: it does not say so";
    const PT_INTERP: u32 = 3;
    let elf = Elf::read(file)?;
    if elf.segments()?.iter().any(|segment| segment.kind == PT_INTERP) {
        return Err("is not static: the guest has no libraries".to_owned());
    }
    let mark = wire::IDENTITY_MARK.as_bytes();
    let version = find_all(file, mark).find_map(|at| {
        let line = file[at + mark.len()..].split(|byte| *byte == b'\n').next()?;
        let (own, messages) =
            std::str::from_utf8(line.get(..line.len().min(64))?).ok()?.split_once(' ')?;
        Some(AgentVersion { own: own.to_owned(), messages: messages.parse().ok()? })
    });
    let version = version.ok_or(NO_AGENT)?;
    if version.messages != wire::VERSION {
        return Err(format!(
            "is of another version: it speaks version {} of the messages, this program {}",
            version.messages,
            wire::VERSION
        ));
    }
    Ok(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF file without segments that says this.
    fn program(text: &str) -> Vec<u8> {
        let mut file = vec![0; 64];
        file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        (file[16], file[18]) = (2, 62);
        file.extend(text.as_bytes());
        file
    }

    #[test]
    fn an_agent_is_known_by_its_words() {
        let mark = wire::IDENTITY_MARK;
        let agent = program(&format!("{mark}{{}}\n odd {}", wire::IDENTITY));
        let own = env!("CARGO_PKG_VERSION").to_owned();
        assert_eq!(version(&agent), Ok(AgentVersion { own, messages: wire::VERSION }));
        let other = version(&program(&format!("{mark}7.0.0 4000\n"))).unwrap_err();
        assert!(other.starts_with("is of another version: it speaks version 4000"), "{other}");
        for (file, reason) in [
            (program(""), "is no agent: it does not say so"),
            (program(mark), "is no agent: it does not say so"),
            (b"#!/bin/sh".to_vec(), "is no ELF file"),
        ] {
            assert_eq!(version(&file), Err(reason.to_owned()));
        }
        let shell = std::fs::read("/bin/sh").unwrap();
        assert_eq!(version(&shell), Err("is not static: the guest has no libraries".to_owned()));
    }
}

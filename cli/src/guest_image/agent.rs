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

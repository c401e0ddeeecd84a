//! The command line that containerd gives a shim.
//!
//! The flags are Go's: one dash or two, `-flag value` or `-flag=value`, a boolean flag without a value
//! or with `=true`, and everything from the first word on that is no flag is left alone: that word is
//! the action. containerd 1.6 to 2.3 passes `-namespace -address -publish-binary -id`, `-bundle` (to
//! `delete` only, before 2.3), `-debug`, and `start` or `delete`; or `-info`; or `-v`, `-version`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use runtime::{Error, ErrorKind, Result};

/// Flags that have a value.
const WITH_VALUE: [&str; 8] = [
    "address",
    "bundle",
    "debug-socket",
    "id",
    "log-level",
    "namespace",
    "publish-binary",
    "socket",
];

/// What the shim was started for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Action {
    /// No action word: nothing that this shim does.
    #[default]
    None,
    /// Make or find the shim of a container, and print its address.
    Start,
    /// Clean up after a shim that died.
    Delete,
    /// `-info`: print what this runtime can do.
    Info,
    /// `-v`: print the version.
    Version,
}

/// The parsed command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    /// See [`Action`].
    pub action: Action,
    /// containerd's namespace; empty only when `action` needs none.
    pub namespace: String,
    /// The container's id; empty only when `action` needs none.
    pub id: String,
    /// The daemon's gRPC address.
    pub address: String,
    /// The daemon's program.
    pub publish_binary: String,
    /// The bundle, where it is not the working directory.
    pub bundle: Option<PathBuf>,
    /// Where to serve, instead of a place derived from the group.
    pub socket: Option<PathBuf>,
    /// Log debugging messages too.
    pub debug: bool,
}

impl Arguments {
    /// Parses what follows the program's name.
    ///
    /// # Errors
    /// `Invalid`, naming the flag or the word that cannot be accepted.
    pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Self> {
        let mut words = words.into_iter();
        let mut parsed = Self::default();
        let mut asked = None;
        while let Some(word) = words.next() {
            let bytes = word.as_encoded_bytes();
            let dashes = bytes.iter().take(2).take_while(|&&byte| byte == b'-').count();
            if dashes == 0 || bytes.len() == 1 {
                parsed.action = action(&text(word, "action")?)?;
                break;
            }
            if bytes == b"--" {
                if let Some(word) = words.next() {
                    parsed.action = action(&text(word, "action")?)?;
                }
                break;
            }
            let flag = text(word, "flag")?;
            let (name, value) = match flag[dashes..].split_once('=') {
                Some((name, value)) => (name, Some(OsString::from(value))),
                None => (&flag[dashes..], None),
            };
            if let Some(action) = parsed.take(name, value, &mut words)? {
                asked = Some(action);
            }
        }
        parsed.action = asked.unwrap_or(parsed.action);
        parsed.check()?;
        Ok(parsed)
    }

    /// One flag: the action when it asks for one.
    fn take(
        &mut self,
        name: &str,
        value: Option<OsString>,
        rest: &mut impl Iterator<Item = OsString>,
    ) -> Result<Option<Action>> {
        let asked = match name {
            "v" | "version" => Some(Action::Version),
            "info" => Some(Action::Info),
            "debug" => None,
            _ => {
                self.take_with_value(name, value, rest)?;
                return Ok(None);
            }
        };
        let set = match value {
            None => true,
            Some(value) => boolean(name, &text(value, name)?)?,
        };
        if asked.is_none() {
            self.debug = set;
        }
        Ok(asked.filter(|_| set))
    }

    fn take_with_value(
        &mut self,
        name: &str,
        value: Option<OsString>,
        rest: &mut impl Iterator<Item = OsString>,
    ) -> Result<()> {
        if !WITH_VALUE.contains(&name) {
            return Err(invalid(format!("-{name}"), "flag is not known"));
        }
        let value = value
            .or_else(|| rest.next())
            .ok_or_else(|| invalid(format!("-{name}"), "flag needs a value"))?;
        match name {
            "bundle" => self.bundle = path(value),
            "socket" => self.socket = path(value),
            "debug-socket" => {}
            "namespace" => self.namespace = text(value, name)?,
            "id" => self.id = text(value, name)?,
            "address" => self.address = text(value, name)?,
            "publish-binary" => self.publish_binary = text(value, name)?,
            _ => self.debug |= matches!(text(value, name)?.as_str(), "debug" | "trace"),
        }
        Ok(())
    }

    /// Namespace and id become parts of paths.
    fn check(&self) -> Result<()> {
        if !matches!(self.action, Action::Start | Action::Delete) {
            return Ok(());
        }
        for (name, value) in [("-namespace", &self.namespace), ("-id", &self.id)] {
            if value.is_empty() {
                return Err(invalid(name, "is needed and not given"));
            }
            if value == "." || value == ".." || value.contains(['/', '\0']) {
                return Err(invalid(format!("{name} {value:?}"), "is not a name"));
            }
        }
        Ok(())
    }
}

fn path(value: OsString) -> Option<PathBuf> {
    (!value.is_empty()).then(|| PathBuf::from(value))
}

fn action(word: &str) -> Result<Action> {
    match word {
        "start" => Ok(Action::Start),
        "delete" => Ok(Action::Delete),
        _ => Err(invalid(format!("action {word:?}"), "is not known")),
    }
}

/// As Go's `strconv.ParseBool`.
fn boolean(name: &str, value: &str) -> Result<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(invalid(format!("-{name}"), format!("is not a boolean: {value:?}"))),
    }
}

fn text(word: OsString, what: &str) -> Result<String> {
    String::from_utf8(word.into_vec()).map_err(|_| invalid(what, "is not UTF-8"))
}

fn invalid(subject: impl Into<String>, reason: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, "read command line:", subject, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments> {
        Arguments::parse(line.split_whitespace().map(|word| {
            // An empty value, as containerd passes for an address that it does not have.
            OsString::from(if word == "''" { "" } else { word })
        }))
    }

    #[test]
    fn what_containerd_passes() {
        // 1.6 to 2.2, then 2.3.
        let expected = Arguments {
            action: Action::Start,
            namespace: "k8s.io".into(),
            id: "c1".into(),
            address: "/run/containerd/containerd.sock".into(),
            publish_binary: "/usr/bin/containerd".into(),
            ..Arguments::default()
        };
        let old = "-namespace k8s.io -address /run/containerd/containerd.sock -publish-binary /usr/bin/containerd -id c1 start";
        assert_eq!(parse(old).unwrap(), expected);
        let new = old.replace("start", "-bundle /b -debug start");
        let bundle = Some("/b".into());
        assert_eq!(parse(&new).unwrap(), Arguments { bundle, debug: true, ..expected });
        let delete =
            parse("-namespace n -address '' -publish-binary x -id i -bundle /b delete").unwrap();
        assert_eq!((delete.action, delete.address.as_str()), (Action::Delete, ""));
    }

    #[test]
    fn go_flags() {
        for (line, action, debug) in [
            ("--namespace=n --id=i --debug=true start", Action::Start, true),
            ("-namespace=n -id i -debug=0 start -debug", Action::Start, false),
            ("-namespace n -id i -- delete", Action::Delete, false),
            ("-namespace n -id i -log-level debug start", Action::Start, true),
            ("-info", Action::Info, false),
            ("-info=false", Action::None, false),
            ("-v", Action::Version, false),
            ("--version", Action::Version, false),
            ("", Action::None, false),
        ] {
            let parsed = parse(line).unwrap();
            assert_eq!((parsed.action, parsed.debug), (action, debug), "{line}");
        }
    }

    #[test]
    fn the_manual_page_has_them() {
        let page = include_str!("../containerd-shim-bulkhead-v2.8").replace("\\-", "-");
        for flag in WITH_VALUE.iter().chain(&["debug", "info", "v", "version"]) {
            let named = |line: &str| {
                line.starts_with(".B")
                    && line.split([' ', ',', '\\']).any(|word| word.strip_prefix('-') == Some(flag))
            };
            assert!(page.lines().any(named), "-{flag}");
        }
    }

    #[test]
    fn what_is_refused() {
        for (line, text) in [
            ("-frob x start", "-frob: flag is not known"),
            ("-id", "-id: flag needs a value"),
            ("-debug=maybe start", "-debug: is not a boolean: \"maybe\""),
            ("-namespace n -id i stop", "action \"stop\": is not known"),
            ("-id i start", "-namespace: is needed and not given"),
            ("-namespace n start", "-id: is needed and not given"),
            ("-namespace ../x -id i start", "-namespace \"../x\": is not a name"),
            ("-namespace n -id .. delete", "-id \"..\": is not a name"),
        ] {
            let error = parse(line).unwrap_err().to_string();
            assert_eq!(error, format!("read command line: {text}"));
        }
    }
}

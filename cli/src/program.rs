//! From the words of the command line to an exit code.

use std::ffi::OsString;
use std::path::Path;

use clap::error::{ContextKind, ContextValue};
use clap::{Args, FromArgMatches};

use crate::argv::{self, Order};
use crate::commands::{self, Entry};
use crate::environment::Environment;
use crate::log::Log;
use crate::session::{Global, Session};
use crate::{hints, output};

/// The program's name in its own texts.
pub const NAME: &str = "bulkhead";
/// Version of the runtime specification that the configuration types cover.
pub const SPEC: &str = "1.3.0";
/// Exit code of runc for a command that does not exist.
const UNKNOWN_COMMAND: u8 = 3;

/// Why a command failed.
#[derive(Debug)]
pub enum Failure {
    /// The command line is wrong; the text goes behind `Incorrect Usage`.
    Usage(String),
    /// The library failed.
    Runtime(Box<runtime::Error>),
    /// Anything else.
    Message(String),
}

impl Failure {
    /// A failure with a text of our own.
    pub fn message(text: impl Into<String>) -> Self {
        Self::Message(text.into())
    }

    /// A failure of `operation` on a path, in the library's words.
    pub fn from_io(operation: &str, path: &Path, error: &std::io::Error) -> Self {
        match error.raw_os_error() {
            Some(errno) => {
                let errno = nix::errno::Errno::from_raw(errno);
                let failure = runtime::Failure { call: "open", errno };
                runtime::Error::system(operation, runtime::quote(path), failure).into()
            }
            None => Self::message(format!("{operation} {}: {error}", runtime::quote(path))),
        }
    }

    /// A value that JSON cannot hold.
    pub fn from_json(error: serde_json::Error) -> Self {
        Self::message(format!("write JSON: {error}"))
    }

    /// The one line that is logged.
    pub fn text(&self) -> String {
        match self {
            Self::Usage(text) | Self::Message(text) => text.clone(),
            Self::Runtime(error) => match hints::for_error(error) {
                Some(hint) => format!("{error}; {hint}"),
                None => error.to_string(),
            },
        }
    }
}

impl From<runtime::Error> for Failure {
    fn from(error: runtime::Error) -> Self {
        Self::Runtime(Box::new(error))
    }
}

/// Runs the program: `words` is the command line without the program's name.
pub fn run(words: Vec<OsString>) -> u8 {
    let (log, failure, code) = match start(&words) {
        Ok(code) => return code,
        Err(failed) => *failed,
    };
    log.error(&failure.text());
    code
}

type Failed = Box<(Log, Failure, u8)>;

fn start(words: &[OsString]) -> Result<u8, Failed> {
    let early = |failure| Box::new((Log::default(), failure, 1));
    let command = global_command();
    let normal = argv::normalise(&argv::flags(&command), Order::FlagsFirst, words)
        .map_err(|message| early(usage(command.clone(), &format!(". {message}"), message)))?;
    if normal.help || (normal.arguments.is_empty() && !normal.is_set("version")) {
        return output::write(&commands::overview()).map(|()| 0).map_err(early);
    }
    if normal.is_set("version") {
        return output::write(&version()).map(|()| 0).map_err(early);
    }
    let (name, rest) = normal.arguments.split_first().expect("an empty list is answered above");
    if name == "help" || name == "h" {
        return help(rest.first()).map_err(early);
    }
    runtime::survive_file_size_limit().map_err(|error| early(error.into()))?;
    let entry = name.to_str().and_then(commands::find);
    // Before anything is opened: this may execute the program again from a copy.
    let guarded = match entry {
        Some(entry) if entry.guarded => runtime::protect_own_binary(),
        _ => Ok(()),
    };
    let flags_only = argv::Normal { flags: normal.flags.clone(), ..argv::Normal::default() };
    let global = command
        .try_get_matches_from(flags_only.words(NAME))
        .and_then(|matches| Global::from_arg_matches(&matches))
        .map_err(|error| early(Failure::message(reason(&error))))?;
    let log = global.open_log().map_err(early)?;
    if let Err(error) = guarded {
        return Err(Box::new((log, error.into(), 1)));
    }
    let session = match global.session(log, &Environment::read()) {
        Ok(session) => session,
        Err((failure, log)) => return Err(Box::new((log, failure, 1))),
    };
    let Some(entry) = entry else {
        return Err(Box::new((session.log, unknown(name), UNKNOWN_COMMAND)));
    };
    session.log.debug(&format!("{} {} with state in {:?}", NAME, entry.name, session.root));
    execute(entry, rest, &session).map_err(|failure| {
        let code = if matches!(failure, Failure::Usage(_)) { 1 } else { entry.failure };
        Box::new((session.log, failure, code))
    })
}

/// `help`, and `help COMMAND`.
fn help(topic: Option<&OsString>) -> Result<u8, Failure> {
    let text = match topic {
        None => commands::overview(),
        Some(name) => match name.to_str().and_then(commands::find) {
            Some(entry) => (entry.build)().render_help().to_string(),
            None => return Err(unknown(name)),
        },
    };
    output::write(&text).map(|()| 0)
}

fn unknown(name: &OsString) -> Failure {
    Failure::message(format!("No help topic for '{}'", name.to_string_lossy()))
}

/// Parses the words of one command and runs it. Only this command's clap tree is built.
fn execute(entry: &Entry, words: &[OsString], session: &Session) -> Result<u8, Failure> {
    let command = (entry.build)();
    let normal = argv::normalise(&argv::flags(&command), entry.order, words)
        .map_err(|message| usage(command.clone(), &format!(": {message}"), message))?;
    if normal.help {
        let mut command = command;
        return output::write(&command.render_help().to_string()).map(|()| 0);
    }
    if let Some(complaint) = entry.arity.complaint(normal.arguments.len()) {
        return Err(usage(command, ".", format!("{NAME}: \"{}\" {complaint}", entry.name)));
    }
    let matches =
        command.clone().try_get_matches_from(normal.words(entry.name)).map_err(|error| {
            let message = reason(&error);
            usage(command, &format!(": {message}"), message)
        })?;
    (entry.run)(&matches, session)
}

/// Prints what runc prints for a wrong command line, and makes the failure.
fn usage(mut command: clap::Command, complaint: &str, message: String) -> Failure {
    let text = format!("Incorrect Usage{complaint}\n\n{}", command.render_help());
    match output::write(&text) {
        Ok(()) => Failure::Usage(message),
        Err(failure) => failure,
    }
}

/// clap's complaint in the words of Go's `flag` package.
fn reason(error: &clap::Error) -> String {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => texts.first().cloned(),
        _ => None,
    };
    let argument = text(ContextKind::InvalidArg);
    match (argument, text(ContextKind::InvalidValue)) {
        (Some(argument), Some(value)) => {
            let name = argument.split([' ', '=']).next().unwrap_or_default();
            let name = name
                .strip_prefix("--")
                .map_or_else(|| format!("argument {name}"), |name| format!("flag -{name}"));
            let because = std::error::Error::source(error)
                .map_or("parse error".to_owned(), |e| e.to_string());
            format!("invalid value {value:?} for {name}: {because}")
        }
        _ => error.kind().as_str().unwrap_or("arguments do not fit").to_owned(),
    }
}

/// The command without its subcommands: what stands before the command's name.
pub fn global_command() -> clap::Command {
    Global::augment_args(clap::Command::new(NAME))
        .about("Run OCI containers")
        .args_override_self(true)
        .override_usage("bulkhead [global options] command [command options] [arguments...]")
}

/// go-runc wants three lines, `X version Y` first (old releases split it there; new ones look for
/// the name `runc` and take no other for an error); moby takes the name from before `version`.
fn version() -> String {
    format!(
        "{NAME} version {}\ncommit: {}\nspec: {SPEC}\n",
        env!("CARGO_PKG_VERSION"),
        option_env!("BULKHEAD_COMMIT").unwrap_or("unknown")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_lines_of_version() {
        let text = version();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0].split("version ").count(), 2);
        assert!(lines[1].starts_with("commit: ") && lines[2] == "spec: 1.3.0");
    }
}

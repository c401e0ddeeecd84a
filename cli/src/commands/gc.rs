use std::fs;
use std::time::Duration;

use clap::Args;
use runtime::{Call, Context, Remains, Verdict, quote, remains};
use serde_json::{Value, json};

use crate::program::Failure;
use crate::session::Session;
use crate::table::{Format, printable};
use crate::{duration, output, table};

/// List what dead containers and killed commands have left; with --force remove it
#[derive(Debug, Args)]
#[command(
    after_help = "No process is ever killed: what still holds one is kept and listed. Containers that have \
                  stopped are their manager's to delete, and left alone without --stopped."
)]
pub struct Gc {
    /// Remove what is listed as `remove`
    #[arg(long, short)]
    force: bool,
    /// Also containers that have stopped
    #[arg(long)]
    stopped: bool,
    /// Of those only what was created this long ago or longer, such as 24h
    #[arg(long, value_name = "duration", value_parser = duration::parse)]
    older_than: Option<Duration>,
    /// table or json
    #[arg(value_name = "format", long, default_value = "table")]
    format: String,
}

impl super::Command for Gc {
    const NAME: &'static str = "gc";
    const ARITY: super::Arity = super::Arity::Exactly(0);

    fn run(self, session: &Session) -> Result<u8, Failure> {
        let format = Format::parse(&self.format)?;
        if self.older_than.is_some() && !self.stopped {
            return Err(Failure::message("--older-than needs --stopped"));
        }
        if session.explicit_root {
            // As for `list`: a named root that is missing is a typo.
            fs::metadata(&session.root).call("stat").context("read", quote(&session.root))?;
        }
        runtime::keep_child_statuses()?;
        let stopped = self.stopped.then(|| self.older_than.unwrap_or_default());
        let mut code = 0;
        let mut rows = Vec::new();
        for item in remains(&session.root, stopped)? {
            let done = match self.force {
                true => remove(&item, stopped, session).inspect_err(|failure| {
                    session.log.error(&format!("{}: {}", item.id, failure.text()));
                    code = 1;
                }),
                false => Ok(item.verdict.into()),
            };
            rows.push((done.unwrap_or(Action::Failed), item));
        }
        output::write(&match format {
            Format::Table => text(&rows),
            Format::Json => {
                let list: Result<Vec<Value>, Failure> = rows.iter().map(document).collect();
                output::json(&list?)? + "\n"
            }
        })?;
        Ok(code)
    }
}

/// What was done, or would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Remove,
    Removed,
    Kept,
    Failed,
}

impl From<Verdict> for Action {
    fn from(verdict: Verdict) -> Self {
        if verdict == Verdict::Remove { Self::Remove } else { Self::Kept }
    }
}

fn remove(item: &Remains, stopped: Option<Duration>, session: &Session) -> Result<Action, Failure> {
    let removed = session.warned(|warnings| item.remove(&session.root, stopped, warnings))?;
    Ok(if removed { Action::Removed } else { Action::Kept })
}

fn word(action: Action) -> &'static str {
    match action {
        Action::Remove => "remove",
        Action::Removed => "removed",
        Action::Kept => "keep",
        Action::Failed => "failed",
    }
}

fn text(rows: &[(Action, Remains)]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let header = ["ID", "ACTION", "STATE", "CGROUPS", "REASON"].map(str::to_owned);
    let cells = rows.iter().map(|(action, item)| {
        [
            printable(&item.id),
            word(*action).to_owned(),
            item.state
                .as_ref()
                .map_or("none".to_owned(), |path| printable(&path.to_string_lossy())),
            item.cgroups.len().to_string(),
            printable(&item.reason),
        ]
    });
    table::render(&[header].into_iter().chain(cells).collect::<Vec<_>>())
}

fn document((action, item): &(Action, Remains)) -> Result<Value, Failure> {
    let mut document = json!({ "action": word(*action) });
    let item = serde_json::to_value(item).map_err(Failure::from_json)?;
    for (name, value) in
        item.as_object().into_iter().flatten().filter(|(name, _)| *name != "verdict")
    {
        document[name] = value.clone();
    }
    Ok(document)
}

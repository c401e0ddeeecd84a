//! The commands: one file each, and the table that finds them.

mod check;
mod checkpoint;
mod completion;
mod container;
mod create;
mod delete;
mod events;
mod exec;
mod features;
mod gc;
mod kill;
mod list;
mod man;
mod pause;
mod ps;
mod restore;
mod resume;
mod run;
mod spec;
mod start;
mod state;
mod r#try;
mod update;
mod vm;

use clap::{ArgMatches, Args};

use crate::argv::Order;
use crate::program::{self, Failure};
use crate::session::Session;

/// How many arguments a command takes.
#[derive(Clone, Copy, Debug)]
pub enum Arity {
    /// This many.
    Exactly(usize),
    /// From one number to the other.
    Between(usize, usize),
    /// This many or more.
    AtLeast(usize),
}

impl Arity {
    /// What runc says when `count` does not fit.
    pub fn complaint(self, count: usize) -> Option<String> {
        match self {
            Self::Exactly(n) if count != n => Some(format!("requires exactly {n} argument(s)")),
            Self::AtLeast(n) | Self::Between(n, _) if count < n => {
                Some(format!("requires a minimum of {n} argument(s)"))
            }
            Self::Between(_, n) if count > n => {
                Some(format!("requires a maximum of {n} argument(s)"))
            }
            _ => None,
        }
    }
}

/// A command: its flags are the type, its doc comment is the help.
pub trait Command: Args + Sized {
    /// Its word.
    const NAME: &'static str;
    /// How many arguments it takes.
    const ARITY: Arity = Arity::Exactly(1);
    /// Whether flags may stand behind arguments.
    const ORDER: Order = Order::Anywhere;
    /// Exit code of a failure.
    const FAILURE: u8 = 1;
    /// Whether it starts processes that could reach our own binary through `/proc` (CVE-2019-5736).
    const GUARDED: bool = false;

    /// Runs it and returns the exit code.
    fn run(self, session: &Session) -> Result<u8, Failure>;
}

/// A [`Command`] as a value.
#[derive(Debug)]
pub struct Entry {
    pub name: &'static str,
    pub arity: Arity,
    pub order: Order,
    pub failure: u8,
    pub guarded: bool,
    pub build: fn() -> clap::Command,
    pub run: fn(&ArgMatches, &Session) -> Result<u8, Failure>,
}

const fn entry<C: Command>() -> Entry {
    Entry {
        name: C::NAME,
        arity: C::ARITY,
        order: C::ORDER,
        failure: C::FAILURE,
        guarded: C::GUARDED,
        build: || {
            let name = format!("{} {}", program::NAME, C::NAME);
            // As with Go's flags the last of two counts; lists grow all the same.
            let command = clap::Command::new(C::NAME).bin_name(name).args_override_self(true);
            C::augment_args(command)
        },
        run: |matches, session| {
            let command = C::from_arg_matches(matches)
                .map_err(|error| Failure::message(error.kind().to_string()))?;
            command.run(session)
        },
    }
}

/// Every command, sorted by name.
static ENTRIES: [Entry; 23] = [
    entry::<check::Check>(),
    entry::<checkpoint::Checkpoint>(),
    entry::<completion::Completion>(),
    entry::<create::Create>(),
    entry::<delete::Delete>(),
    entry::<events::Events>(),
    entry::<exec::Exec>(),
    entry::<features::Features>(),
    entry::<gc::Gc>(),
    entry::<kill::Kill>(),
    entry::<list::List>(),
    entry::<man::Man>(),
    entry::<pause::Pause>(),
    entry::<ps::Ps>(),
    entry::<restore::Restore>(),
    entry::<resume::Resume>(),
    entry::<run::Run>(),
    entry::<spec::Spec>(),
    entry::<start::Start>(),
    entry::<state::State>(),
    entry::<r#try::Try>(),
    entry::<update::Update>(),
    entry::<vm::Vm>(),
];

/// The command of that name.
pub fn find(name: &str) -> Option<&'static Entry> {
    ENTRIES.iter().find(|entry| entry.name == name)
}

/// The whole command line as clap's tree: for help, completions and manual pages.
pub fn tree() -> clap::Command {
    ENTRIES.iter().fold(program::global_command(), |tree, entry| tree.subcommand((entry.build)()))
}

/// The text of `bulkhead --help`.
pub fn overview() -> String {
    tree().disable_help_subcommand(true).render_help().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_sound() {
        tree().debug_assert();
        assert!(ENTRIES.is_sorted_by_key(|entry| entry.name));
    }

    #[test]
    fn flags_are_found_by_the_normaliser() {
        for entry in &ENTRIES {
            for argument in (entry.build)().get_arguments() {
                let flag = argument.get_long().is_some();
                assert!(flag || argument.get_short().is_none(), "{}: {argument}", entry.name);
            }
        }
    }

    #[test]
    fn complaints() {
        assert_eq!(Arity::Between(1, 2).complaint(2), None);
        for (arity, count, words) in [
            (Arity::Exactly(1), 0, "requires exactly 1 argument(s)"),
            (Arity::AtLeast(1), 0, "requires a minimum of 1 argument(s)"),
            (Arity::Between(1, 2), 3, "requires a maximum of 2 argument(s)"),
        ] {
            assert_eq!(arity.complaint(count).as_deref(), Some(words));
        }
    }
}

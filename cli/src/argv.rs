//! The command line as Go's `flag` package reads it, turned into what clap reads.
//!
//! Callers of runc rely on Go's rules: one dash or two before any name, `--switch=true`, values that
//! begin with a dash, and (from urfave/cli) flags behind the arguments. The result has one form,
//! `--name=value`, and a `--` before the arguments, so clap has nothing left to guess. An empty value
//! means an unset flag, as it does for runc.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use clap::{ArgAction, Command};

/// Whether flags may stand behind arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Flags are flags wherever they stand before a `--`.
    Anywhere,
    /// The first argument ends the flags: what follows belongs to somebody else.
    FlagsFirst,
}

/// A flag's names and whether it takes a value.
#[derive(Debug)]
pub struct Flag {
    long: String,
    short: Option<char>,
    switch: bool,
}

/// The flags of a clap command, with the help flags that every command has.
pub fn flags(command: &Command) -> Vec<Flag> {
    let help = Flag { long: "help".into(), short: Some('h'), switch: true };
    command
        .get_arguments()
        .filter_map(|argument| {
            Some(Flag {
                long: argument.get_long()?.to_owned(),
                short: argument.get_short(),
                switch: matches!(argument.get_action(), ArgAction::SetTrue),
            })
        })
        .chain([help])
        .collect()
}

/// A command line in one form.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Normal {
    /// `--name` or `--name=value`.
    pub flags: Vec<OsString>,
    /// Everything else, in order.
    pub arguments: Vec<OsString>,
    /// `--help` was among the flags.
    pub help: bool,
}

impl Normal {
    /// Whether a switch is set.
    pub fn is_set(&self, switch: &str) -> bool {
        self.flags.iter().any(|f| f.as_bytes().strip_prefix(b"--") == Some(switch.as_bytes()))
    }

    /// The words for clap, beginning with the program's name.
    pub fn words(&self, name: &str) -> Vec<OsString> {
        [OsString::from(name)]
            .into_iter()
            .chain(self.flags.iter().cloned())
            .chain([OsString::from("--")])
            .chain(self.arguments.iter().cloned())
            .collect()
    }
}

/// Normalises `words`.
///
/// # Errors
/// What Go's `flag` package says: callers look for `flag needs an argument`.
pub fn normalise(flags: &[Flag], order: Order, words: &[OsString]) -> Result<Normal, String> {
    let mut normal = Normal::default();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let Some(body) = dashed(word) else {
            normal.arguments.push(word.clone());
            if order == Order::FlagsFirst {
                break;
            }
            continue;
        };
        if body.is_empty() {
            break;
        }
        let (name, attached) = match body.iter().position(|&b| b == b'=') {
            Some(at) => (&body[..at], Some(&body[at + 1..])),
            None => (body, None),
        };
        let given = String::from_utf8_lossy(name);
        let Some(flag) = flags.iter().find(|f| f.is_named(name)) else {
            return Err(format!("flag provided but not defined: -{given}"));
        };
        if flag.switch {
            let on = match attached {
                None => true,
                Some(value) => boolean(value).ok_or_else(|| {
                    let value = String::from_utf8_lossy(value);
                    format!("invalid boolean value {value:?} for -{given}: parse error")
                })?,
            };
            normal.switch(&flag.long, on);
        } else {
            let value = match attached {
                Some(value) => value,
                None => words
                    .next()
                    .map(|word| word.as_bytes())
                    .ok_or_else(|| format!("flag needs an argument: -{given}"))?,
            };
            if !value.is_empty() {
                let word = [b"--", flag.long.as_bytes(), b"=", value].concat();
                normal.flags.push(OsString::from_vec(word));
            }
        }
    }
    normal.arguments.extend(words.cloned());
    Ok(normal)
}

impl Normal {
    /// The last of several settings counts.
    fn switch(&mut self, long: &str, on: bool) {
        if long == "help" {
            self.help = on;
            return;
        }
        let word = OsString::from(format!("--{long}"));
        self.flags.retain(|flag| *flag != word);
        if on {
            self.flags.push(word);
        }
    }
}

impl Flag {
    fn is_named(&self, name: &[u8]) -> bool {
        let mut buffer = [0; 4];
        name == self.long.as_bytes()
            || self.short.is_some_and(|short| name == short.encode_utf8(&mut buffer).as_bytes())
    }
}

/// What follows the dashes of a flag, empty for `--`; `None` for an argument, `-` included.
fn dashed(word: &OsStr) -> Option<&[u8]> {
    match word.as_bytes() {
        [b'-', b'-', rest @ ..] => Some(rest),
        [b'-', rest @ ..] if !rest.is_empty() => Some(rest),
        _ => None,
    }
}

/// The words that Go's `strconv.ParseBool` takes.
fn boolean(word: &[u8]) -> Option<bool> {
    match word {
        b"1" | b"t" | b"T" | b"true" | b"TRUE" | b"True" => Some(true),
        b"0" | b"f" | b"F" | b"false" | b"FALSE" | b"False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Vec<Flag> {
        let flag = |long: &str, short, switch| Flag { long: long.into(), short, switch };
        vec![
            flag("bundle", Some('b'), false),
            flag("no-pivot", None, true),
            flag("tty", Some('t'), true),
            flag("env", Some('e'), false),
            flag("help", Some('h'), true),
        ]
    }

    fn run(order: Order, line: &str) -> Result<(String, String), String> {
        let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        normalise(&table(), order, &words).map(|n| {
            let join = |list: &[OsString]| {
                list.iter().map(|w| w.to_str().unwrap()).collect::<Vec<_>>().join(" ")
            };
            (join(&n.flags), join(&n.arguments))
        })
    }

    #[test]
    fn forms_of_flags() {
        for (line, flags, arguments) in [
            ("id --bundle D", "--bundle=D", "id"),
            ("--bundle D id", "--bundle=D", "id"),
            ("-bundle D id", "--bundle=D", "id"),
            ("-b D id", "--bundle=D", "id"),
            ("-b=D id", "--bundle=D", "id"),
            ("--b D id", "--bundle=D", "id"),
            ("--bundle=D=E id", "--bundle=D=E", "id"),
            ("--bundle -x id", "--bundle=-x", "id"),
            ("--bundle -- id", "--bundle=--", "id"),
            ("--bundle= id", "", "id"),
            ("-no-pivot id", "--no-pivot", "id"),
            ("--no-pivot=true id", "--no-pivot", "id"),
            ("--no-pivot=0 id", "", "id"),
            ("--no-pivot --no-pivot=false id", "", "id"),
            ("-e A=1 -e B=2 id", "--env=A=1 --env=B=2", "id"),
            ("-- --bundle D", "", "--bundle D"),
            ("id -- --bundle D", "", "id --bundle D"),
            ("- id", "", "- id"),
        ] {
            let expected = Ok((flags.to_owned(), arguments.to_owned()));
            assert_eq!(run(Order::Anywhere, line), expected, "{line}");
        }
    }

    #[test]
    fn the_command_of_exec_keeps_its_flags() {
        for (line, flags, arguments) in [
            ("-t id ls -b", "--tty", "id ls -b"),
            ("-t id -- ls", "--tty", "id -- ls"),
            ("-t -- id ls -t", "--tty", "id ls -t"),
        ] {
            let expected = Ok((flags.to_owned(), arguments.to_owned()));
            assert_eq!(run(Order::FlagsFirst, line), expected, "{line}");
        }
    }

    #[test]
    fn refusals_are_in_the_words_of_go() {
        for (line, message) in [
            ("--foo id", "flag provided but not defined: -foo"),
            ("-foo=1 id", "flag provided but not defined: -foo"),
            ("id -9", "flag provided but not defined: -9"),
            ("id --bundle", "flag needs an argument: -bundle"),
            ("id -b", "flag needs an argument: -b"),
            ("-t=foo id", "invalid boolean value \"foo\" for -t: parse error"),
            ("---bundle D", "flag provided but not defined: --bundle"),
        ] {
            assert_eq!(run(Order::Anywhere, line), Err(message.to_owned()), "{line}");
        }
    }

    #[test]
    fn help_is_seen_beside_anything() {
        let words = ["x".into(), "--help".into()];
        assert!(normalise(&table(), Order::Anywhere, &words).unwrap().help);
        assert!(!normalise(&table(), Order::FlagsFirst, &words).unwrap().help);
    }

    #[test]
    fn bytes_that_are_no_text_pass() {
        let words = [OsString::from_vec(b"--bundle=\xff".to_vec())];
        let normal = normalise(&table(), Order::Anywhere, &words).unwrap();
        assert_eq!(normal.flags[0].as_bytes(), b"--bundle=\xff");
    }
}

//! A terminal of our own, to put clients on.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::pty::openpty;
use oci_tests::check::{Res, cut, fail};
use oci_tests::process::readable;
use oci_tests::sys;

use crate::stage::Stage;

/// Our end of a terminal.
pub struct Terminal {
    ours: File,
    seen: String,
}

impl Terminal {
    /// A terminal of this many columns and rows, and the other end of it.
    pub fn open(size: (u16, u16)) -> Res<(Self, OwnedFd)> {
        let pair = openpty(None, None)?;
        sys::set_window_size(pair.master.as_fd(), size)?;
        Ok((Self { ours: File::from(pair.master), seen: String::new() }, pair.slave))
    }

    /// Types.
    pub fn write(&mut self, text: &str) -> Res {
        Ok(self.ours.write_all(text.as_bytes())?)
    }

    /// Changes the size; whoever is on the terminal gets SIGWINCH.
    pub fn resize(&self, size: (u16, u16)) -> Res {
        Ok(sys::set_window_size(self.ours.as_fd(), size)?)
    }

    /// Changes the size until the words have been printed: clients look at it once when they start and
    /// listen for changes a little later.
    pub fn resize_until(&mut self, stage: &Stage, (columns, rows): (u16, u16), words: &str) -> Res {
        while !stage.remaining().is_zero() {
            self.resize((columns + 1, rows))?;
            self.resize((columns, rows))?;
            while readable(&self.ours, Duration::from_millis(500))? {
                if self.read(words)? {
                    return Ok(());
                }
            }
        }
        fail(format!("the terminal never showed {words:?}"))
    }

    /// Waits until all of them have been printed, in this order.
    pub fn all(&mut self, stage: &Stage, words: &[&str]) -> Res {
        words.iter().try_for_each(|words| self.until(stage, words))
    }

    /// Waits until the words have been printed.
    pub fn until(&mut self, stage: &Stage, words: &str) -> Res {
        while !self.take(words) {
            if !readable(&self.ours, stage.remaining())? {
                return fail(format!("the terminal never showed {words:?}: {:?}", cut(&self.seen)));
            }
            if self.read(words)? {
                break;
            }
        }
        Ok(())
    }

    /// Reads what is there; whether the words have been printed.
    fn read(&mut self, words: &str) -> Res<bool> {
        let mut block = [0u8; 4096];
        match self.ours.read(&mut block) {
            Ok(count) if count > 0 => {
                self.seen.push_str(&String::from_utf8_lossy(&block[..count]));
                Ok(self.take(words))
            }
            _ => fail(format!("the terminal was closed before {words:?}: {:?}", cut(&self.seen))),
        }
    }

    /// Forgets what was printed up to the end of the words, if they were.
    fn take(&mut self, words: &str) -> bool {
        let found = self.seen.find(words);
        if let Some(place) = found {
            self.seen.drain(..place + words.len());
        }
        found.is_some()
    }
}

//! What is done with what is wrong in a configuration: the first fault ends `create`, and `check`
//! collects them all. The rules themselves are the same code.

use crate::error::{Error, Result};

/// Faults of a configuration, or the wish to hear of no more than one.
#[derive(Debug)]
pub(crate) enum Faults {
    /// The first one is returned as the error.
    First,
    /// Each is added to the list, and what does not depend on it goes on.
    All(Vec<Error>),
}

impl Faults {
    /// Takes note of a rule's result.
    pub(crate) fn note(&mut self, rule: Result<()>) -> Result<()> {
        self.keep(rule).map(drop)
    }

    /// The value of a step, or `None` when it failed and its error was added to the list.
    pub(crate) fn keep<T>(&mut self, step: Result<T>) -> Result<Option<T>> {
        match (self, step) {
            (_, Ok(value)) => Ok(Some(value)),
            (Self::First, Err(error)) => Err(error),
            (Self::All(list), Err(error)) => {
                // Two rules of two modules may say the same of one field.
                if !list.contains(&error) {
                    list.push(error);
                }
                Ok(None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_an_error_and_all_are_a_list() {
        let fault = |field: &str| Err::<(), _>(Error::invalid(field, "is odd"));
        assert!(Faults::First.note(fault("a")).is_err());
        let mut all = Faults::All(Vec::new());
        all.note(fault("a")).unwrap();
        all.note(fault("a")).unwrap();
        assert_eq!(all.keep(fault("b")), Ok(None));
        assert_eq!(all.keep(Ok(5)), Ok(Some(5)));
        assert!(matches!(all, Faults::All(list) if list.len() == 2));
    }
}

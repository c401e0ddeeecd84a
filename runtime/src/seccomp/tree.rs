//! Dispatch by system call number: a binary search over ranges of numbers that share an outcome.
//!
//! Profiles allow some 300 of 450 numbers, and neighbours mostly together, so that few ranges are
//! left: the distribution's profile needs 30 to 60 for each architecture instead of one comparison
//! for each call. The tree is split where the *calls* on both sides are equally many, not the ranges:
//! the wide range of old and frequent calls is found after two or three comparisons.

use super::profile::{Action, Outcome, Outcomes};
use super::tables::{Abi, X32_BIT, apart};

/// Numbers from `start` to the next segment's start share an outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) start: u32,
    pub(super) outcome: Outcome,
}

/// The segments of every number from `first` to `last`.
///
/// The result starts at `first`, is ascending, and no two neighbours have the same outcome.
pub(super) fn segments(outcomes: Outcomes, abi: Abi, first: u32, last: u32) -> Vec<Segment> {
    // Where the outcome of an unnamed number may change.
    let mut edges = vec![first];
    edges.extend(outcomes.newest.map(|newest| newest + 1));
    edges.extend([apart(abi).start, apart(abi).end]);
    edges.extend(outcomes.calls.iter().map(|call| call.0 + 1));
    let mut starts: Vec<(u32, Outcome)> = edges
        .into_iter()
        .filter(|edge| outcomes.calls.binary_search_by_key(edge, |call| call.0).is_err())
        .map(|edge| (edge, outcomes.unnamed(edge, abi).into()))
        .collect();
    starts.extend(outcomes.calls);
    starts.sort_by_key(|start| start.0);
    let mut segments: Vec<Segment> = Vec::new();
    for (start, outcome) in starts.into_iter().filter(|start| (first..=last).contains(&start.0)) {
        push(&mut segments, start, outcome);
    }
    segments
}

/// Appends a segment unless it continues the one before.
pub(super) fn push(segments: &mut Vec<Segment>, start: u32, outcome: Outcome) {
    if segments.last().is_none_or(|last| last.outcome != outcome) {
        segments.push(Segment { start, outcome });
    }
}

/// A search tree over segments.
#[derive(Debug)]
pub(super) enum Tree<'a> {
    Leaf(&'a Outcome),
    /// Numbers from `at` on are on the right.
    Split {
        at: u32,
        left: Box<Tree<'a>>,
        right: Box<Tree<'a>>,
    },
}

impl<'a> Tree<'a> {
    /// The tree over `segments`, of which there is at least one.
    pub(super) fn over(segments: &'a [Segment]) -> Self {
        Self::up_to(u32::MAX, segments)
    }

    fn up_to(end: u32, segments: &'a [Segment]) -> Self {
        if let [only] = segments {
            return Tree::Leaf(&only.outcome);
        }
        let (left, right) = segments.split_at(middle(segments, end));
        let at = right[0].start;
        Tree::Split {
            at,
            left: Box::new(Self::up_to(at, left)),
            right: Box::new(Self::up_to(end, right)),
        }
    }

    /// How many comparisons the deepest number takes.
    #[cfg(test)]
    pub(super) fn depth(&self) -> usize {
        match self {
            Tree::Leaf(_) => 0,
            Tree::Split { left, right, .. } => 1 + left.depth().max(right.depth()),
        }
    }
}

/// Numbers from here on are not given out, or belong to x32, which nobody runs.
const FREQUENT_END: u32 = 512;

/// Where to split: as many calls on the left as on the right.
fn middle(segments: &[Segment], end: u32) -> usize {
    let calls = |i: usize| {
        let clamp = |number: u32| number.min(FREQUENT_END);
        let end = segments.get(i + 1).map_or(end, |next| next.start);
        (clamp(end) - clamp(segments[i].start)).max(1)
    };
    let total: u32 = (0..segments.len()).map(calls).sum();
    let mut before = 0;
    (1..segments.len())
        .min_by_key(|i| {
            before += calls(i - 1);
            before.abs_diff(total - before)
        })
        .expect("there are two segments or more")
}

/// The segments of one audit architecture, over all 32-bit numbers.
pub(super) fn whole(outcomes: impl Fn(Abi) -> Outcomes, abis: &[Abi]) -> Vec<Segment> {
    let abi = abis[0];
    if abi != Abi::X86_64 {
        return segments(outcomes(abi), abi, 0, u32::MAX);
    }
    let native = outcomes(abi);
    // A tracer skips a call by making its number -1, which the filter then sees. It is no x32 call.
    let skipped = native.unnamed(u32::MAX, abi);
    let mut all = segments(native, abi, 0, X32_BIT - 1);
    if abis.contains(&Abi::X32) {
        for segment in segments(outcomes(Abi::X32), Abi::X32, X32_BIT, u32::MAX) {
            push(&mut all, segment.start, segment.outcome);
        }
    } else {
        push(&mut all, X32_BIT, Action::KILL_PROCESS.into());
        push(&mut all, u32::MAX, skipped.into());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcomes(allowed: &[u32], newest: Option<u32>) -> Outcomes {
        Outcomes {
            calls: allowed.iter().map(|n| (*n, Action::NOTIFY.into())).collect(),
            default: Action::KILL_PROCESS,
            newest,
            newer: Action::ENOSYS,
        }
    }

    /// Starts with a letter each: n(amed), d(efault), e(nosys).
    fn text(segments: &[Segment]) -> String {
        let letter = |outcome: &Outcome| match outcome.otherwise {
            Action::NOTIFY => 'n',
            Action::KILL_PROCESS => 'd',
            _ => 'e',
        };
        let text: Vec<_> =
            segments.iter().map(|s| format!("{}{}", s.start, letter(&s.outcome))).collect();
        text.join(" ")
    }

    #[test]
    fn ranges_merge() {
        let cases: &[(&[u32], Option<u32>, &str)] = &[
            (&[], None, "0d"),
            (&[], Some(5), "0d 6e"),
            (&[0, 1, 2], Some(2), "0n 3e"),
            (&[0, 1, 2], Some(4), "0n 3d 5e"),
            (&[1, 3, 4], Some(4), "0d 1n 2d 3n 5e"),
            (&[7], None, "0d 7n 8d"),
        ];
        for (allowed, newest, expected) in cases {
            let found = segments(outcomes(allowed, *newest), Abi::Aarch64, 0, u32::MAX);
            assert_eq!(text(&found), *expected);
        }
    }

    #[test]
    fn x32_variants_do_not_age() {
        let bit = X32_BIT;
        let found = segments(outcomes(&[bit | 3], Some(bit | 3)), Abi::X32, bit, u32::MAX);
        let expected = format!("{}d {}n {}e {}d {}e", bit, bit | 3, bit | 4, bit | 512, bit | 548);
        assert_eq!(text(&found), expected);
    }

    #[test]
    fn x32_is_fatal_unless_listed() {
        let found = whole(|_| outcomes(&[0], Some(0)), &[Abi::X86_64]);
        let expected = format!("0n 1e {X32_BIT}d {}e", u32::MAX);
        assert_eq!(text(&found), expected);
    }

    #[test]
    fn depth_is_logarithmic() {
        let allowed: Vec<u32> = (0..400).step_by(2).collect();
        let found = segments(outcomes(&allowed, Some(450)), Abi::Aarch64, 0, u32::MAX);
        assert_eq!(found.len(), 401);
        assert!(Tree::over(&found).depth() <= 10);
    }
}

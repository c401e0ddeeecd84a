//! Puts architectures, trees, conditions and actions together into one classic BPF program.
//!
//! BPF jumps forward only, and a conditional jump at most 255 instructions. The program is therefore
//! built from its end: whatever is jumped to exists already, its distance is known exactly, and a
//! target out of reach gets a stepping stone right after the jump. Code positions count from the end
//! for the same reason.
//!
//! Since 5.11 the kernel runs the program once for each number at installation, without arguments, and
//! from then on does not run it at all for numbers that it always allows (kernel/seccomp.c,
//! `seccomp_is_const_allow`). It gives up at any instruction but loads of number and architecture,
//! constant jumps, AND and RET, so only blocks of conditions may contain others.

use seccompiler::{
    BpfProgram, SeccompCmpArgLen, SeccompCondition, SeccompRule, sock_filter as Block,
};

use super::profile::{Action, Condition, Outcome, Profile};
use super::tree::{self, Tree};
use crate::error::{Error, Result};
use crate::sys::seccomp::Instruction;

/// `BPF_MAXINSNS` of linux/bpf_common.h.
const PROGRAM_MAX: usize = 4096;

/// The distance that a conditional jump covers, less the stepping stone of its other branch.
const REACH: usize = u8::MAX as usize - 1;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const JUMP_EQ: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const JUMP_GE: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// The program of a profile.
pub(super) fn link(profile: &Profile) -> Result<Vec<Instruction>> {
    // x86_64 and x32 are told apart by the number, all others by the audit constant.
    let groups = profile.abis.chunk_by(|a, b| a.audit() == b.audit());
    let mut code = Code::default();
    let mut entries = Vec::new();
    for abis in groups.rev() {
        let segments = tree::whole(|abi| profile.rules.outcomes(abi), abis);
        code.arguments = if abis[0].has_32_bit_arguments() {
            SeccompCmpArgLen::Dword
        } else {
            SeccompCmpArgLen::Qword
        };
        code.shared.clear();
        let tree = code.tree(&Tree::over(&segments));
        code.fall_to(tree);
        entries.push((abis[0].audit(), code.push(LOAD, NUMBER)));
    }
    // A call by a convention that the profile does not list would be compared with numbers that
    // mean something else, which is how filters were bypassed before they looked at the
    // architecture. The whole process dies: with one thread less it might go on in a broken state.
    let mut next = code.action(Action::KILL_PROCESS);
    for (audit, entry) in entries {
        next = code.branch(JUMP_EQ, audit, entry, next);
    }
    code.push(LOAD, ARCH);
    code.finish()
}

/// A position in the program, counted from its end.
type Position = usize;

/// A program, last instruction first.
struct Code {
    reversed: Vec<Instruction>,
    /// Where each action was returned last.
    actions: Vec<(Action, Position)>,
    /// Conditional outcomes that this architecture's code already contains.
    shared: Vec<(Outcome, Position)>,
    arguments: SeccompCmpArgLen,
}

impl Default for Code {
    fn default() -> Self {
        Self {
            reversed: Vec::with_capacity(512),
            actions: Vec::new(),
            shared: Vec::new(),
            arguments: SeccompCmpArgLen::Qword,
        }
    }
}

impl Code {
    /// How many instructions the next one would have to skip to reach `target`.
    fn distance(&self, target: Position) -> usize {
        self.reversed.len() - 1 - target
    }

    fn push(&mut self, code: u16, k: u32) -> Position {
        self.push_jump(code, k, 0, 0)
    }

    fn push_jump(&mut self, code: u16, k: u32, jt: u8, jf: u8) -> Position {
        self.reversed.push(Instruction { code, jt, jf, k });
        self.reversed.len() - 1
    }

    /// `target`, or a stepping stone to it where it is out of reach.
    fn near(&mut self, target: Position) -> Position {
        let distance = self.distance(target);
        if distance < REACH {
            return target;
        }
        let Instruction { code, k, .. } = self.reversed[target];
        if code == RETURN {
            return self.push(code, k);
        }
        self.push(JUMP, u32::try_from(distance).expect("programs are short"))
    }

    /// Makes `target` what the instruction pushed next goes on with. A tree of one leaf may be an action
    /// that stands in another architecture's code: without this, that code would decide.
    fn fall_to(&mut self, target: Position) {
        let distance = self.distance(target);
        if distance == 0 {
            return;
        }
        match self.reversed[target] {
            Instruction { code: RETURN, k, .. } => self.push(RETURN, k),
            _ => self.push(JUMP, u32::try_from(distance).expect("programs are short")),
        };
    }

    /// A jump to `yes` if the comparison holds, else to `no`.
    fn branch(&mut self, code: u16, k: u32, yes: Position, no: Position) -> Position {
        let yes = self.near(yes);
        let no = self.near(no);
        let offset = |target| u8::try_from(self.distance(target)).expect("both targets are near");
        self.push_jump(code, k, offset(yes), offset(no))
    }

    /// An instruction that returns `action` and is near.
    fn action(&mut self, action: Action) -> Position {
        match self.actions.iter().find(|known| known.0 == action) {
            Some(known) if self.distance(known.1) < REACH => known.1,
            _ => self.fresh_action(action),
        }
    }

    fn fresh_action(&mut self, action: Action) -> Position {
        let position = self.push(RETURN, action.value());
        match self.actions.iter_mut().find(|known| known.0 == action) {
            Some(known) => known.1 = position,
            None => self.actions.push((action, position)),
        }
        position
    }

    fn tree(&mut self, tree: &Tree<'_>) -> Position {
        match tree {
            Tree::Leaf(outcome) => self.outcome(outcome),
            Tree::Split { at, left, right } => {
                // Inner nodes first: a leaf made last is mostly an action that is still near.
                let right_node = matches!(**right, Tree::Split { .. }).then(|| self.tree(right));
                let left_node = matches!(**left, Tree::Split { .. }).then(|| self.tree(left));
                let right = right_node.unwrap_or_else(|| self.tree(right));
                let left = left_node.unwrap_or_else(|| self.tree(left));
                self.branch(JUMP_GE, *at, right, left)
            }
        }
    }

    fn outcome(&mut self, outcome: &Outcome) -> Position {
        if outcome.tests.is_empty() {
            return self.action(outcome.otherwise);
        }
        if let Some(known) = self.shared.iter().find(|known| known.0 == *outcome) {
            return known.1;
        }
        // A block falls through when its conditions hold and skips one instruction when not.
        self.fresh_action(outcome.otherwise);
        for (conditions, action) in outcome.tests.iter().rev() {
            self.fresh_action(*action);
            for instruction in block(conditions, &self.arguments).iter().rev() {
                let Block { code, jt, jf, k } = *instruction;
                self.push_jump(code, k, jt, jf);
            }
        }
        let position = self.reversed.len() - 1;
        self.shared.push((outcome.clone(), position));
        position
    }

    fn finish(mut self) -> Result<Vec<Instruction>> {
        if self.reversed.len() > PROGRAM_MAX {
            return Err(Error::invalid(
                "linux.seccomp.syscalls",
                format!(
                    "needs a program of {} instructions, the kernel takes {PROGRAM_MAX}",
                    self.reversed.len()
                ),
            ));
        }
        self.reversed.reverse();
        Ok(self.reversed)
    }
}

/// The code of a conjunction of comparisons.
///
/// On 32-bit architectures only the lower halves are compared. The kernel uses no more of them, but the
/// upper half of what the filter sees is the caller's: 64-bit code that calls through `int $0x80`
/// chooses it, and could make any comparison fail.
fn block(conditions: &[Condition], arguments: &SeccompCmpArgLen) -> BpfProgram {
    let conditions = conditions
        .iter()
        .map(|Condition { index, op, value }| {
            SeccompCondition::new(*index, arguments.clone(), op.clone(), *value)
                .expect("the profile's indices are below 6")
        })
        .collect();
    let rule = SeccompRule::new(conditions).expect("a test has conditions");
    let mut block = BpfProgram::from(rule);
    // It opens with a jump over a jump that nothing in it goes back to.
    if let [first, second, ..] = &block[..]
        && (first.code, first.k) == (JUMP, 1)
        && second.code == JUMP
    {
        block.drain(..2);
    }
    block
}

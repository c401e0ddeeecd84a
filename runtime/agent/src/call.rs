//! Calls: one question, answered by a process of its own, for it may take its time.

use std::path::Path;

use runtime::{Container, Result};
use wire::{Answer, Call};

use crate::connection::Connection;
use crate::{STATE, processes};

/// Answers `call`, and ends.
pub fn run(call: Call, connection: &Connection) -> ! {
    let answer = answer(call).unwrap_or_else(|error| Answer::Failed((&error).into()));
    // A host that is gone needs no answer.
    let _ = connection.send(&answer);
    runtime::leave(0)
}

fn answer(call: Call) -> Result<Answer> {
    let load = |id: &str| Container::load(Path::new(STATE), id);
    let mut warnings = Vec::new();
    match call {
        Call::Ping => {}
        Call::Signal { container, signal, all: false } => load(&container)?.kill(signal)?,
        Call::Signal { container, signal, all: true } => load(&container)?.kill_all(signal)?,
        Call::Stats { container } => {
            return Ok(Answer::Stats(load(&container)?.stats()?.to_whole()));
        }
        Call::Processes { container } => {
            let pids = load(&container)?.processes()?;
            return processes::rows(&pids).map(Answer::Processes);
        }
        Call::Update { container, resources } => {
            let text = serde_json::to_vec(&resources).expect("a JSON value is JSON");
            let resources = runtime::load_resources(&text, &mut warnings)?;
            load(&container)?.update(&resources, &mut warnings)?;
        }
    }
    Ok(Answer::Done { warnings })
}

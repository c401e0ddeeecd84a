//! A guest that has taken over a thread of the monitor, on the real /dev/kvm, with the filters of the real monitor.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};

use crate::ending::Ending;
use crate::filter::Filters;
use crate::machine::Machine;
use crate::misbehave::{CALLS, MISBEHAVE_PORT};
use crate::testing::guest::{Step, config, elf, kvm, run, write};

const NAME: &str = "tests::misbehave::a_thread_that_a_guest_has_taken_over_gets_nothing";
/// The exit status of a monitor whose thread has come back from the call.
const CAME_BACK: i32 = 9;

/// The test program runs itself as the monitor that is ended by the filter.
#[test]
fn a_thread_that_a_guest_has_taken_over_gets_nothing() {
    let Some(kvm) = kvm("a_thread_that_a_guest_has_taken_over_gets_nothing") else { return };
    if let Ok(choice) = std::env::var("VMM_MISBEHAVE") {
        let [filtered, port, index] = choice.split(' ').collect::<Vec<_>>()[..] else { panic!() };
        let mut machine = Machine::new(config(kvm, &elf(true))).unwrap();
        if filtered == "no" {
            machine.filters = Filters::none();
        }
        let port = MISBEHAVE_PORT + port.parse::<u16>().unwrap();
        write(&machine, &[Step::Out(port, index.parse().unwrap()), Step::Wait(0x5000, 1)]);
        match run(&mut machine) {
            Ending::Failed(error) if error.to_string().contains("came back with") => {
                std::process::exit(CAME_BACK)
            }
            other => panic!("{other:?}"),
        }
    }
    for (port, thread) in [(0, "processor"), (1, "event loop")] {
        for (index, call) in CALLS.iter().enumerate() {
            let status = monitor("yes", port, index);
            let expected = if index == 0 { None } else { Some(libc::SIGSYS) };
            assert_eq!(status.signal(), expected, "{thread}: {call}: {status}");
            // Without the filter it is not the kernel that stops it.
            let status = monitor("no", port, index);
            let expected = if *call == "execve" { 0 } else { CAME_BACK };
            assert_eq!(status.code(), Some(expected), "{thread} without filter: {call}: {status}");
        }
    }
}

fn monitor(filtered: &str, port: u16, index: usize) -> ExitStatus {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", NAME, "--test-threads=1"])
        .env("VMM_MISBEHAVE", format!("{filtered} {port} {index}"))
        .output()
        .unwrap()
        .status
}

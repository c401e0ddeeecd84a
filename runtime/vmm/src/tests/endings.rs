//! Every way in which a guest ends.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, pthread_sigmask};
use nix::unistd::Pid;

use crate::ending::{Ending, end_when_told};
use crate::layout::{PANIC_PORT, POWER_PORT, SERIAL_PORT};
use crate::machine::Machine;
use crate::ports::RESET_VALUE;
use crate::testing::guest::{OFF, RESET, Step, config, elf, kvm, run_steps, write};
use vm_memory::{Bytes, GuestAddress};

#[test]
fn a_guest_ends_as_it_says() {
    let Some(kvm) = kvm("a_guest_ends_as_it_says") else { return };
    for (step, expected) in [
        (OFF, Ending::PowerOff),
        (RESET, Ending::Reset),
        (Step::Out(POWER_PORT + 2, RESET_VALUE), Ending::Reset),
        (Step::Out(PANIC_PORT, 1), Ending::Panic),
        (Step::Fault, Ending::TripleFault),
    ] {
        let steps = [Step::Out(SERIAL_PORT, b'!'), step, OFF];
        let (machine, ending) = run_steps(kvm.try_clone().unwrap(), &steps);
        assert_eq!(ending, expected);
        assert_eq!(machine.last_lines(1), ["!"]);
    }
}

#[test]
fn what_nobody_answers_reads_as_ones_and_harms_nobody() {
    let Some(kvm) = kvm("what_nobody_answers_reads_as_ones") else { return };
    const TO: u64 = 0x5000;
    let steps = [
        Step::In(0x1234, TO),
        Step::Out(0x1234, 1),
        Step::Read(0xd0ff_f000, TO + 4),
        Step::Write(0xd0ff_f000, 1),
        // Registers that are there, in ways that no driver uses.
        Step::Out(POWER_PORT, 0xff),
        Step::Out(POWER_PORT + 2, 0),
        Step::Out(PANIC_PORT, 0xfe),
        OFF,
    ];
    let (machine, ending) = run_steps(kvm, &steps);
    assert_eq!(ending, Ending::PowerOff);
    let found: [u8; 8] = machine.memory.read_obj(GuestAddress(TO)).unwrap();
    assert_eq!(found, [0xff, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
}

/// The test program runs itself as the monitor of a guest that never ends.
#[test]
fn a_monitor_that_is_told_to_end_does_so_at_once() {
    let Some(kvm) = kvm("a_monitor_that_is_told_to_end_does_so_at_once") else { return };
    if std::env::var_os("VMM_ENDLESS").is_some() {
        pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&SigSet::all()), None).unwrap();
        end_when_told().unwrap();
        let mut config = config(kvm, &elf(true));
        config.console = Some(crate::testing::file(b""));
        let log = config.console.as_ref().unwrap().try_clone().unwrap();
        let mut machine = Machine::new(config).unwrap();
        write(&machine, &[Step::Out(SERIAL_PORT, b'!'), Step::Wait(0x5000, 1)]);
        std::thread::spawn(move || {
            while log.metadata().unwrap().len() == 0 {
                std::thread::yield_now();
            }
            println!("the guest runs");
        });
        panic!("{:?}", machine.run());
    }
    let ends = |mut child: Child, what: &str| {
        let mut output = std::io::BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains("the guest runs") {
            line.clear();
            assert_ne!(std::io::BufRead::read_line(&mut output, &mut line).unwrap(), 0, "{what}");
        }
        let begin = Instant::now();
        kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
        while child.try_wait().unwrap().is_none() {
            if begin.elapsed() > Duration::from_secs(10) {
                child.kill().unwrap();
                panic!("{what}: it did not end");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(child.wait().unwrap().code(), Some(143), "{what}");
    };
    let spawn = || {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "tests::endings::a_monitor_that_is_told_to_end_does_so_at_once"])
            .args(["--test-threads=1", "--nocapture"])
            .env("VMM_ENDLESS", "1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    };
    ends(spawn(), "a process");
    std::thread::scope(|scope| {
        scope.spawn(|| match unshare(CloneFlags::CLONE_NEWPID) {
            Ok(()) => ends(spawn(), "the first process of a pid namespace"),
            Err(errno) => eprintln!("skipped the pid namespace: unshare: {errno}"),
        });
    });
}

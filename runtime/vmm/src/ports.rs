//! The few devices that have ports: the serial console, and what ends the machine.

use std::io;
use std::sync::{Arc, Mutex};

use vm_superio::serial::NoEvents;
use vm_superio::{I8042Device, Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

use crate::bus::{Bus, Registers};
use crate::console::Console;
use crate::ending::{End, Ending};
use crate::layout::{KEYBOARD_PORT, PANIC_PORT, POWER_PORT, SERIAL_PORT};

/// An interrupt of the machine.
pub(crate) struct Interrupt(pub(crate) EventFd);

impl Trigger for Interrupt {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// Puts all of them on `bus`.
pub(crate) fn insert(bus: &mut Bus, console: Console, serial: Interrupt, end: &End) {
    bus.insert(SERIAL_PORT.into(), 8, Arc::new(Port(Mutex::new(Serial::new(serial, console)))));
    bus.insert(
        KEYBOARD_PORT.into(),
        5,
        Arc::new(Keyboard(Mutex::new(I8042Device::new(Reset(end.clone()))))),
    );
    bus.insert(PANIC_PORT.into(), 1, Arc::new(Panic(end.clone())));
    bus.insert(POWER_PORT.into(), 3, Arc::new(Power(end.clone())));
}

/// A 16550 whose output is the console. It has no input.
struct Port(Mutex<Serial<Interrupt, NoEvents, Console>>);

impl Registers for Port {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if let [byte] = data {
            *byte = self.0.lock().expect("no holder panics").read(offset as u8);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let [byte] = data {
            // Fails if the interrupt cannot be told: the guest polls, too.
            let _ = self.0.lock().expect("no holder panics").write(offset as u8, *byte);
        }
    }
}

/// A keyboard controller without a keyboard. Kernels know how to reset the machine by it.
struct Keyboard(Mutex<I8042Device<Reset>>);

struct Reset(End);

impl Trigger for Reset {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.say(Ending::Reset);
        Ok(())
    }
}

impl Registers for Keyboard {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if let [byte] = data {
            *byte = self.0.lock().expect("no holder panics").read(offset as u8);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let [byte] = data {
            let _ = self.0.lock().expect("no holder panics").write(offset as u8, *byte);
        }
    }
}

/// The pvpanic device (QEMU's `docs/specs/pvpanic.rst`): the guest's kernel says that it panics, when its message
/// has been printed.
struct Panic(End);

const PANICKED: u8 = 1;

impl Registers for Panic {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(PANICKED);
    }

    fn write(&self, _offset: u64, data: &[u8]) {
        if data.first().is_some_and(|events| events & PANICKED != 0) {
            self.0.say(Ending::Panic);
        }
    }
}

/// ACPI's sleep and reset registers (ACPI 6.5, 4.8.3.7 and 4.8.3.6).
struct Power(End);

/// The sleep type of S5 that `acpi.rs` declares, with the bit that enters it.
const SLEEP_S5: u8 = (5 << 2) | (1 << 5);
/// The value that `acpi.rs` declares for the reset register.
pub(crate) const RESET_VALUE: u8 = 1;

impl Registers for Power {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        match (offset, data) {
            (0, [SLEEP_S5]) => self.0.say(Ending::PowerOff),
            (2, [RESET_VALUE]) => self.0.say(Ending::Reset),
            _ => {}
        }
    }
}

//! A processor: how it begins, and the loop that runs it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use kvm_bindings::{
    CpuId, Msrs, kvm_fpu, kvm_lapic_state, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs,
};
use kvm_ioctls::{Cap, Kvm, VcpuExit, VcpuFd, VmFd};
use nix::errno::Errno;
use nix::sys::pthread::{Pthread, pthread_kill, pthread_self};
use nix::sys::signal::{
    SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, pthread_sigmask, sigaction,
};
use seccompiler::BpfProgram;
use vm_memory::{Address, GuestMemoryMmap};

use crate::boot::{self, Entry};
use crate::bus::Bus;
use crate::cpuid::{self, Processor};
use crate::ending::{End, Ending};
use crate::error::{Error, Result};
use crate::filter;
use crate::layout::{BOOT_GDT, BOOT_PARAMS, BOOT_STACK, PAGE_TABLES, PVH_START_INFO};

/// What interrupts `KVM_RUN`. Its handler does nothing.
const KICK: Signal = Signal::SIGUSR1;

/// The devices that a processor reaches.
pub(crate) struct Buses {
    pub(crate) ports: Bus,
    pub(crate) memory: Bus,
}

/// A processor that does not run yet.
pub(crate) struct Vcpu {
    fd: VcpuFd,
    index: u8,
}

impl Vcpu {
    /// Makes processor `index` of `count`, as it is after a reset.
    pub(crate) fn new(
        kvm: &Kvm,
        vm: &VmFd,
        supported: &CpuId,
        index: u8,
        count: u8,
    ) -> Result<Self> {
        let operation = || format!("create processor {index}");
        let fd = vm
            .create_vcpu(index.into())
            .map_err(|error| Error::kvm(operation(), "KVM_CREATE_VCPU", error))?;
        let deadline_timer = kvm.check_extension(Cap::TscDeadlineTimer);
        let cpuid = cpuid::filter(supported, Processor { index, count, deadline_timer });
        fd.set_cpuid2(&cpuid).map_err(|error| Error::kvm(operation(), "KVM_SET_CPUID2", error))?;
        let vcpu = Self { fd, index };
        vcpu.set_msrs().and_then(|()| vcpu.set_fpu()).and_then(|()| vcpu.set_local_interrupts())?;
        Ok(vcpu)
    }

    fn error(&self, call: &str, error: kvm_ioctls::Error) -> Error {
        Error::kvm(format!("set up processor {}", self.index), call, error)
    }

    /// Memory is cached as a whole: the machine has no firmware that would say so.
    fn set_msrs(&self) -> Result<()> {
        const MTRR_DEFAULT_TYPE: u32 = 0x2ff;
        const ENABLED_WRITE_BACK: u64 = 1 << 11 | 6;
        let entry = kvm_msr_entry {
            index: MTRR_DEFAULT_TYPE,
            data: ENABLED_WRITE_BACK,
            ..Default::default()
        };
        let msrs = Msrs::from_entries(&[entry]).expect("one entry fits");
        self.fd.set_msrs(&msrs).map_err(|error| self.error("KVM_SET_MSRS", error))?;
        Ok(())
    }

    /// The state that the ABI has at the beginning of a program.
    fn set_fpu(&self) -> Result<()> {
        let fpu = kvm_fpu { fcw: 0x37f, mxcsr: 0x1f80, ..Default::default() };
        self.fd.set_fpu(&fpu).map_err(|error| self.error("KVM_SET_FPU", error))
    }

    /// The local controller's pins: the old interrupt controller, and the non-maskable interrupt.
    fn set_local_interrupts(&self) -> Result<()> {
        const LVT_LINT0: usize = 0x350;
        const LVT_LINT1: usize = 0x360;
        const EXTERNAL: u32 = 0x700;
        const NON_MASKABLE: u32 = 0x400;
        let mut lapic: kvm_lapic_state =
            self.fd.get_lapic().map_err(|error| self.error("KVM_GET_LAPIC", error))?;
        for (at, mode) in [(LVT_LINT0, EXTERNAL), (LVT_LINT1, NON_MASKABLE)] {
            for (register, byte) in lapic.regs[at..at + 4].iter_mut().zip(mode.to_le_bytes()) {
                *register = byte as _;
            }
        }
        self.fd.set_lapic(&lapic).map_err(|error| self.error("KVM_SET_LAPIC", error))
    }

    /// Makes the first processor begin at `entry`. The others wait for it to wake them.
    pub(crate) fn enter(&self, memory: &GuestMemoryMmap, entry: Entry) -> Result<()> {
        let mut sregs = self.fd.get_sregs().map_err(|error| self.error("KVM_GET_SREGS", error))?;
        let regs = match entry {
            Entry::Pvh(address) => {
                protected_mode(&mut sregs);
                kvm_regs { rip: address.raw_value(), rbx: PVH_START_INFO, ..Default::default() }
            }
            Entry::Long(address) => {
                long_mode(&mut sregs, memory)?;
                kvm_regs {
                    rip: address.raw_value(),
                    rsi: BOOT_PARAMS,
                    rsp: BOOT_STACK,
                    rbp: BOOT_STACK,
                    ..Default::default()
                }
            }
        };
        self.fd.set_sregs(&sregs).map_err(|error| self.error("KVM_SET_SREGS", error))?;
        let regs = kvm_regs { rflags: 2, ..regs }; // the bit that is always set
        self.fd.set_regs(&regs).map_err(|error| self.error("KVM_SET_REGS", error))
    }

    /// Runs it in a thread of its own, until the machine ends.
    pub(crate) fn start(self, buses: Arc<Buses>, end: End, filter: BpfProgram) -> Result<Running> {
        let operation = format!("start processor {}", self.index);
        let io = |error| Error::io(operation.clone(), "clone", &error);
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, (tell, told)) = (stop.clone(), std::sync::mpsc::channel());
        let thread = thread::Builder::new()
            .name(format!("vcpu{}", self.index))
            .spawn(move || {
                let _ = tell.send(pthread_self());
                match filter::install(&filter) {
                    Ok(()) => self.run(&buses, &end, &stopped),
                    Err(error) => end.say(Ending::Failed(error)),
                }
            })
            .map_err(io)?;
        let id = told.recv().expect("a thread begins with telling its id");
        Ok(Running { thread: Some(thread), id, stop })
    }

    fn run(mut self, buses: &Buses, end: &End, stop: &AtomicBool) {
        while !stop.load(Ordering::Acquire) {
            let reason = match self.fd.run() {
                Ok(exit) => serve(exit, buses),
                Err(error) => match Errno::from_raw(error.errno()) {
                    Errno::EINTR | Errno::EAGAIN => None,
                    _ => Some(Ending::Failed(Error::kvm(
                        format!("run processor {}", self.index),
                        "KVM_RUN",
                        error,
                    ))),
                },
            };
            if let Some(reason) = reason {
                end.say(reason);
                return;
            }
        }
    }
}

/// Does what the guest asked for; an ending if there is nothing to go on with.
fn serve(exit: VcpuExit<'_>, buses: &Buses) -> Option<Ending> {
    let failed = |text: String| Some(Ending::Failed(Error::new("run processor", text)));
    match exit {
        VcpuExit::IoIn(port, data) => buses.ports.read(port.into(), data),
        VcpuExit::IoOut(port, data) => buses.ports.write(port.into(), data),
        VcpuExit::MmioRead(address, data) => buses.memory.read(address, data),
        VcpuExit::MmioWrite(address, data) => buses.memory.write(address, data),
        VcpuExit::Intr => {}
        VcpuExit::Shutdown => return Some(Ending::TripleFault),
        VcpuExit::FailEntry(reason, cpu) => {
            return failed(format!("processor {cpu} does not enter the guest: {reason:#x}"));
        }
        VcpuExit::InternalError => {
            return failed("KVM cannot emulate what the guest executed".into());
        }
        other => return failed(format!("unexpected exit of KVM: {other:?}")),
    }
    None
}

/// A processor's thread. Dropping it stops the thread.
pub(crate) struct Running {
    thread: Option<JoinHandle<()>>,
    id: Pthread,
    stop: Arc<AtomicBool>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let Some(thread) = self.thread.take() else { return };
        // A signal that comes between the look at `stop` and KVM_RUN interrupts nothing, so it is repeated.
        while !thread.is_finished() {
            let _ = pthread_kill(self.id, KICK);
            thread::sleep(Duration::from_millis(1));
        }
        let _ = thread.join();
    }
}

/// Lets `KICK` interrupt system calls and do nothing else.
#[allow(unsafe_code)]
pub(crate) fn prepare_kicks() -> Result<()> {
    extern "C" fn nothing(_signal: libc::c_int) {}
    let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing at all.
    unsafe { sigaction(KICK, &action) }
        .map_err(|errno| Error::io("prepare to stop processors", "sigaction", &errno.into()))?;
    pthread_sigmask(SigmaskHow::SIG_UNBLOCK, Some(&SigSet::from(KICK)), None)
        .map_err(|errno| Error::io("prepare to stop processors", "sigprocmask", &errno.into()))
}

const CODE: u8 = 0xb;
const DATA: u8 = 0x3;
const PROTECTED: u64 = 1;
const PAGING: u64 = 1 << 31;

fn protected_mode(sregs: &mut kvm_sregs) {
    set_segments(sregs, segment(1, CODE, Size::Bits32), segment(2, DATA, Size::Bits32));
    sregs.tr = task();
    sregs.cr0 = PROTECTED;
    sregs.cr4 = 0;
}

fn long_mode(sregs: &mut kvm_sregs, memory: &GuestMemoryMmap) -> Result<()> {
    const ADDRESS_EXTENSION: u64 = 1 << 5;
    const LONG_ENABLED_ACTIVE: u64 = 1 << 8 | 1 << 10;
    let (code, data) = (segment(2, CODE, Size::Bits64), segment(3, DATA, Size::Bits32));
    for (index, entry) in [0, 0, descriptor(&code), descriptor(&data)].into_iter().enumerate() {
        boot::write(memory, BOOT_GDT + index as u64 * 8, entry)?;
    }
    set_segments(sregs, code, data);
    sregs.gdt.base = BOOT_GDT;
    sregs.gdt.limit = 4 * 8 - 1;
    sregs.tr = task();
    sregs.cr3 = PAGE_TABLES;
    sregs.cr4 = ADDRESS_EXTENSION;
    sregs.cr0 = PROTECTED | PAGING;
    sregs.efer = LONG_ENABLED_ACTIVE;
    Ok(())
}

enum Size {
    Bits32,
    Bits64,
}

/// A flat segment: all addresses, ring 0.
fn segment(index: u16, kind: u8, size: Size) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector: index * 8,
        type_: kind,
        present: 1,
        s: 1,
        db: matches!(size, Size::Bits32).into(),
        l: matches!(size, Size::Bits64).into(),
        g: 1,
        ..Default::default()
    }
}

/// A task segment: processors want one, nothing uses it.
fn task() -> kvm_segment {
    kvm_segment { limit: 0x67, type_: 0xb, present: 1, ..Default::default() }
}

fn set_segments(sregs: &mut kvm_sregs, code: kvm_segment, data: kvm_segment) {
    sregs.cs = code;
    for register in [&mut sregs.ds, &mut sregs.es, &mut sregs.fs, &mut sregs.gs, &mut sregs.ss] {
        *register = data;
    }
}

/// The segment as an entry of a descriptor table (Intel SDM volume 3, 3.4.5).
fn descriptor(segment: &kvm_segment) -> u64 {
    let limit = u64::from(segment.limit >> if segment.g == 1 { 12 } else { 0 });
    let access =
        u64::from(segment.type_) | u64::from(segment.s) << 4 | u64::from(segment.present) << 7;
    let flags = u64::from(segment.l) << 1 | u64::from(segment.db) << 2 | u64::from(segment.g) << 3;
    (limit & 0xffff) | access << 40 | (limit >> 16 & 0xf) << 48 | flags << 52
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_those_of_the_manual() {
        assert_eq!(descriptor(&segment(2, CODE, Size::Bits64)), 0x00af_9b00_0000_ffff);
        assert_eq!(descriptor(&segment(3, DATA, Size::Bits32)), 0x00cf_9300_0000_ffff);
    }
}

//! The whole: made from a description, run until its end.

use std::io;
use std::os::fd::IntoRawFd;
use std::sync::{Arc, Mutex};

use event_manager::{EventManager, EventOps, Events, MutEventSubscriber, SubscriberOps};
use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, KVM_PIT_SPEAKER_DUMMY, kvm_pit_config};
use kvm_ioctls::{Cap, IoEventAddress, Kvm, VmFd};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::acpi::{self, Slot};
use crate::boot::{self, Files};
use crate::bus::Bus;
use crate::config::Config;
use crate::console::{Console, Tail};
use crate::devices;
use crate::ending::{End, Ending};
use crate::error::{Error, Result};
use crate::filter::{self, Filters};
use crate::layout::{
    ACPI_TABLES, GSI_END, KVM_IDENTITY_MAP, KVM_TSS, SERIAL_GSI, VIRTIO, VIRTIO_GSI, VIRTIO_SIZE,
};
use crate::memory::{self, Log};
use crate::ports::{self, Interrupt};
use crate::vcpu::{self, Buses, Vcpu};
use crate::virtio::{Device, Loop, NOTIFY, Transport};

/// The most processors of a machine.
const PROCESSORS: u8 = 32;

type Subscriber = Arc<Mutex<dyn MutEventSubscriber + Send>>;

/// A machine that has not begun to run.
pub struct Machine {
    vcpus: Vec<Vcpu>,
    buses: Arc<Buses>,
    events: EventManager<Subscriber>,
    pub(crate) end: End,
    tail: Tail,
    pub(crate) filters: Filters,
    // The last to go: processors and devices use both.
    vm: VmFd,
    pub(crate) memory: GuestMemoryMmap,
}

impl Machine {
    /// Makes the machine and puts the kernel into it.
    ///
    /// # Errors
    ///
    /// KVM or the files cannot be used; the error says which.
    pub fn new(mut config: Config) -> Result<Self> {
        if !(1..=PROCESSORS).contains(&config.processors) {
            return Err(Error::new(
                "make the machine",
                format_args!("{} processors; it can have 1 to {PROCESSORS}", config.processors),
            ));
        }
        vcpu::prepare_kicks()?;
        let kvm = open(config.kvm)?;
        let vm = create_vm(&kvm)?;
        let memory = memory::create(config.memory)?;
        memory::attach(&vm, &memory, Log::Off)?;

        let files = Files {
            kernel: &mut config.kernel,
            initramfs: config.initramfs.as_mut(),
            command_line: &config.command_line,
        };
        let entry = boot::load(&memory, files)?;

        let (end, tail) = (End::new().map_err(event_error)?, Tail::default());
        let mut events = EventManager::new()
            .map_err(|error| Error::new("make the event loop", format_args!("{error:?}")))?;
        let mut subscribe = |part: Subscriber| events.add_subscriber(part);
        subscribe(Arc::new(Mutex::new(EndWatch(end.clone()))));
        let mut buses = Buses { ports: Bus::default(), memory: Bus::default() };
        let serial = Interrupt(interrupt(&vm, SERIAL_GSI)?);
        ports::insert(&mut buses.ports, Console::new(config.console, tail.clone())?, serial, &end);

        #[cfg(feature = "misbehave")]
        subscribe(Arc::new(Mutex::new(
            crate::misbehave::Misbehaviour::insert(&mut buses.ports, &end).map_err(event_error)?,
        )));

        let devices =
            devices::from(config.disks, config.shares, config.vsock, config.balloon, &end)?;
        let mut slots = Vec::new();
        for (index, device) in devices.into_iter().enumerate() {
            let slot = slot(index)?;
            let transport = attach(&vm, &memory, slot, device)?;
            buses.memory.insert(slot.address, VIRTIO_SIZE, transport.clone());
            subscribe(Arc::new(Mutex::new(Loop(transport))));
            slots.push(slot);
        }
        memory
            .write_slice(&acpi::tables(config.processors, &slots)?, GuestAddress(ACPI_TABLES))
            .map_err(|error| Error::new("write ACPI tables", error))?;

        let vcpus = create_vcpus(&kvm, &vm, config.processors)?;
        vcpus[0].enter(&memory, entry)?;
        Ok(Self {
            filters: Filters::new()?,
            vcpus,
            buses: Arc::new(buses),
            events,
            end,
            tail,
            vm,
            memory,
        })
    }

    /// Runs it to its end, and stops every thread of it.
    ///
    /// The calling thread is confined to what the event loop needs, for good: it can close what it has and exit.
    pub fn run(&mut self) -> Ending {
        let mut running = Vec::new();
        for vcpu in self.vcpus.drain(..) {
            match vcpu.start(self.buses.clone(), self.end.clone(), self.filters.processor.clone()) {
                Ok(thread) => running.push(thread),
                Err(error) => self.end.say(Ending::Failed(error)),
            }
        }
        if let Err(error) = filter::install(&self.filters.event_loop) {
            self.end.say(Ending::Failed(error));
        }
        loop {
            if let Some(reason) = self.end.reason() {
                return reason;
            }
            if let Err(error) = self.events.run() {
                self.end
                    .say(Ending::Failed(Error::new("wait for events", format_args!("{error:?}"))));
            }
        }
    }

    /// Lets KVM remember which pages the guest's processors write.
    ///
    /// # Errors
    ///
    /// KVM cannot; the memory is as it was.
    pub fn log_writes(&self) -> Result<()> {
        memory::attach(&self.vm, &self.memory, Log::On)
    }

    /// The pages that processors have written since [`Self::log_writes`] or the last call of this, by their addresses in
    /// the guest, in order. What devices have written is not among them.
    ///
    /// # Errors
    ///
    /// Nothing is remembered (`ENOENT`).
    pub fn written(&self) -> Result<Vec<u64>> {
        memory::written(&self.vm, &self.memory)
    }

    /// The last lines of the guest's console, at most `count`, of printable characters and bounded length.
    pub fn last_lines(&self, count: usize) -> Vec<String> {
        self.tail.lines(count)
    }
}

/// Wakes the event loop when a processor ends the machine.
struct EndWatch(End);

impl MutEventSubscriber for EndWatch {
    fn process(&mut self, _events: Events, _ops: &mut EventOps<'_>) {}

    fn init(&mut self, ops: &mut EventOps<'_>) {
        ops.add(Events::new(self.0.event(), EventSet::IN)).expect("a new event can be waited for");
    }
}

fn event_error(error: io::Error) -> Error {
    Error::io("make an event", "eventfd2", &error)
}

#[allow(unsafe_code)]
fn open(file: std::fs::File) -> Result<Kvm> {
    // SAFETY: the descriptor is open and handed over. That it is KVM's is checked by the next call.
    let kvm = unsafe { <Kvm as std::os::fd::FromRawFd>::from_raw_fd(file.into_raw_fd()) };
    match kvm.get_api_version() {
        12 => Ok(kvm),
        -1 => Err(Error::new("use /dev/kvm", "the descriptor is not KVM's")),
        version => {
            Err(Error::new("use /dev/kvm", format_args!("version {version} of its API, not 12")))
        }
    }
}

fn create_vm(kvm: &Kvm) -> Result<VmFd> {
    for (capability, name) in [
        (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
        (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
        (Cap::Irqfd, "KVM_CAP_IRQFD"),
        (Cap::Pit2, "KVM_CAP_PIT2"),
        (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    ] {
        if !kvm.check_extension(capability) {
            return Err(Error::new("use /dev/kvm", format_args!("it lacks {name}")));
        }
    }
    let call = |call: &'static str| move |error| Error::kvm("create virtual machine", call, error);
    let vm = kvm.create_vm().map_err(call("KVM_CREATE_VM"))?;
    vm.set_identity_map_address(KVM_IDENTITY_MAP).map_err(call("KVM_SET_IDENTITY_MAP_ADDR"))?;
    vm.set_tss_address(KVM_TSS).map_err(call("KVM_SET_TSS_ADDR"))?;
    vm.create_irq_chip().map_err(call("KVM_CREATE_IRQCHIP"))?;
    // A kernel without the deadline timer measures its timers against this one.
    let timer = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
    vm.create_pit2(timer).map_err(call("KVM_CREATE_PIT2"))?;
    Ok(vm)
}

fn create_vcpus(kvm: &Kvm, vm: &VmFd, count: u8) -> Result<Vec<Vcpu>> {
    let supported = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(|error| Error::kvm("create processors", "KVM_GET_SUPPORTED_CPUID", error))?;
    (0..count).map(|index| Vcpu::new(kvm, vm, &supported, index, count)).collect()
}

/// The place of virtio device `index`.
fn slot(index: usize) -> Result<Slot> {
    let gsi = VIRTIO_GSI + index as u32;
    if gsi >= GSI_END {
        let most = GSI_END - VIRTIO_GSI;
        return Err(Error::new("make devices", format_args!("a machine has at most {most}")));
    }
    Ok(Slot { address: VIRTIO + index as u64 * VIRTIO_SIZE, gsi })
}

/// An event that is this interrupt of the machine.
fn interrupt(vm: &VmFd, gsi: u32) -> Result<EventFd> {
    let event = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).map_err(event_error)?;
    vm.register_irqfd(&event, gsi)
        .map_err(|error| Error::kvm(format!("connect interrupt {gsi}"), "KVM_IRQFD", error))?;
    Ok(event)
}

/// Gives a device registers, an interrupt, and an event for each queue that the guest's writes ring.
fn attach(
    vm: &VmFd,
    memory: &GuestMemoryMmap,
    slot: Slot,
    device: Box<dyn Device>,
) -> Result<Arc<Transport>> {
    let transport =
        Transport::new(device, memory.clone(), interrupt(vm, slot.gsi)?).map_err(event_error)?;
    for (queue, bell) in transport.bells().iter().enumerate() {
        let address = IoEventAddress::Mmio(slot.address + NOTIFY);
        vm.register_ioevent(bell, &address, queue as u32)
            .map_err(|error| Error::kvm("connect a queue", "KVM_IOEVENTFD", error))?;
    }
    Ok(Arc::new(transport))
}

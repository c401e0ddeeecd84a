//! Both boot protocols, and files that are no kernels.

use crate::ending::Ending;
use crate::machine::Machine;
use crate::testing::file;
use crate::testing::guest::{OFF, Step, bzimage, config, elf, kvm, run, write};

#[test]
fn an_elf_kernel_is_entered_by_pvh_with_command_line_and_initramfs() {
    let Some(kvm) = kvm("an_elf_kernel_is_entered_by_pvh") else { return };
    let mut config = config(kvm, &elf(true));
    config.command_line = "console=ttyS0 quiet".into();
    config.initramfs = Some(file(b"\ninitramfs\0"));
    let mut machine = Machine::new(config).unwrap();
    write(&machine, &[Step::PrintCommandLine, Step::PrintInitramfs, OFF]);
    assert_eq!(run(&mut machine), Ending::PowerOff);
    assert_eq!(machine.last_lines(9), ["console=ttyS0 quiet", "initramfs"]);
}

#[test]
fn a_bzimage_is_entered_in_64_bit_mode() {
    let Some(kvm) = kvm("a_bzimage_is_entered_in_64_bit_mode") else { return };
    let mut config = config(kvm, &bzimage());
    config.command_line = "root=/dev/vda".into();
    config.initramfs = Some(file(b"\nfiles\0"));
    let mut machine = Machine::new(config).unwrap();
    assert_eq!(run(&mut machine), Ending::PowerOff);
    assert_eq!(machine.last_lines(9), ["root=/dev/vda", "files"]);
}

#[test]
fn what_cannot_be_booted_is_refused_by_name() {
    let Some(kvm) = kvm("what_cannot_be_booted_is_refused_by_name") else { return };
    let kvm = || kvm.try_clone().unwrap();
    let error = |config| Machine::new(config).err().expect("it was refused").to_string();

    assert_eq!(error(config(kvm(), b"")), "load kernel: it is no ELF file and no bzImage");
    assert_eq!(
        error(config(kvm(), &[b'x'; 4096])),
        "load kernel: it is no ELF file and no bzImage"
    );
    assert_eq!(
        error(config(kvm(), &elf(false))),
        "load kernel: the ELF file has no PVH entry (CONFIG_PVH)"
    );
    let mut cut = elf(true);
    cut.truncate(cut.len() - 1);
    assert!(error(config(kvm(), &cut)).starts_with("load kernel: "));
    let mut old = bzimage();
    old[0x236] = 0;
    assert_eq!(error(config(kvm(), &old)), "load kernel: the bzImage has no 64-bit entry");
    let mut large = bzimage();
    large[0x263] = 1; // 16 MiB
    assert_eq!(
        error(config(kvm(), &large)),
        "load kernel: it unpacks itself up to 0x1200000: the machine needs more memory"
    );

    let mut long = config(kvm(), &elf(true));
    long.command_line = "x".repeat(2048);
    assert!(error(long).starts_with("write kernel command line: "));
    let mut heavy = config(kvm(), &elf(true));
    heavy.initramfs = Some(file(&vec![0; 8 << 20]));
    let message = error(heavy);
    assert!(message.starts_with("load initramfs: its 8388608 bytes do not fit"), "{message}");
    let mut none = config(kvm(), &elf(true));
    none.processors = 0;
    assert_eq!(error(none), "make the machine: 0 processors; it can have 1 to 32");
    let mut other = config(kvm(), &elf(true));
    other.kvm = file(b"");
    assert_eq!(error(other), "use /dev/kvm: the descriptor is not KVM's");
}

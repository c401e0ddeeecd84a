//! Addresses -> devices, for ports and for memory alike.
//!
//! An access that meets no device reads as ones and is lost when written, as on a real bus.

use std::collections::BTreeMap;
use std::sync::Arc;

/// A device with registers. Processors access it at the same time; it locks what it must.
pub(crate) trait Registers: Send + Sync {
    /// Fills `data` from the registers at `offset`.
    fn read(&self, offset: u64, data: &mut [u8]);
    /// Writes `data` to the registers at `offset`.
    fn write(&self, offset: u64, data: &[u8]);
}

/// The devices of one address space.
#[derive(Default)]
pub(crate) struct Bus {
    /// First address -> length, device.
    devices: BTreeMap<u64, (u64, Arc<dyn Registers>)>,
}

impl Bus {
    /// Puts a device at `address`. Ranges are the monitor's own constants and do not overlap.
    pub(crate) fn insert(&mut self, address: u64, length: u64, device: Arc<dyn Registers>) {
        self.devices.insert(address, (length, device));
    }

    pub(crate) fn read(&self, address: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let Some((offset, device)) = self.find(address, data.len()) {
            device.read(offset, data);
        }
    }

    pub(crate) fn write(&self, address: u64, data: &[u8]) {
        if let Some((offset, device)) = self.find(address, data.len()) {
            device.write(offset, data);
        }
    }

    fn find(&self, address: u64, length: usize) -> Option<(u64, &dyn Registers)> {
        let (first, (size, device)) = self.devices.range(..=address).next_back()?;
        let offset = address - first;
        (offset.checked_add(length as u64)? <= *size).then_some((offset, &**device))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Written(Mutex<Vec<(u64, Vec<u8>)>>);

    impl Registers for Written {
        fn read(&self, offset: u64, data: &mut [u8]) {
            data.fill(offset as u8);
        }
        fn write(&self, offset: u64, data: &[u8]) {
            self.0.lock().unwrap().push((offset, data.to_vec()));
        }
    }

    #[test]
    fn an_access_belongs_to_the_device_that_has_all_of_it() {
        let (mut bus, device) = (Bus::default(), Arc::new(Written::default()));
        bus.insert(0x100, 0x10, device.clone());
        for (address, length, expected) in [
            (0xff, 1, 0xff),
            (0x100, 4, 0),
            (0x10c, 4, 0xc),
            (0x10d, 4, 0xff),
            (0x110, 1, 0xff),
            (u64::MAX, 8, 0xff),
        ] {
            let mut data = vec![0x55; length];
            bus.read(address, &mut data);
            assert_eq!(data, vec![expected; length], "{address:#x}");
            bus.write(address, &data);
        }
        assert_eq!(*device.0.lock().unwrap(), [(0, vec![0; 4]), (0xc, vec![0xc; 4])]);
    }
}

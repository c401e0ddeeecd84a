//! The input, as a driver's actions.

use crate::testing::driver::{DATA, Driver, MEMORY, Part, SIZE};

/// What is left of the input.
pub(super) struct Input<'a>(pub(super) &'a [u8]);

impl Input<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        self.take().map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    /// That many bytes, or those that there are.
    pub(super) fn bytes(&mut self, count: usize) -> Vec<u8> {
        let (first, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        first.to_vec()
    }

    /// An address: of data, of the first pages where the rings are, at the end of memory, or any.
    fn address(&mut self) -> Option<u64> {
        Some(match self.byte()? % 8 {
            0 => self.u64()?,
            1 => MEMORY - u64::from(self.byte()?),
            2 | 3 => 0x1_0000 + u64::from(self.u16()?) * 4,
            _ => DATA + u64::from(self.u16()?) * 8,
        })
    }

    /// A length: any, or a small one.
    fn length(&mut self) -> Option<u32> {
        Some(match self.byte()? {
            0xff => self.u32()?,
            0xfe => self.u16()?.into(),
            small => small.into(),
        })
    }
}

/// Registers that a driver writes, of which those of the queues come more often.
const REGISTERS: [u64; 16] = [
    0x14, 0x20, 0x24, 0x30, 0x38, 0x44, 0x50, 0x64, 0x70, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4, 0x100,
];

/// The driver that does what the input says.
pub(super) struct Guest<'a>(pub(super) &'a mut Driver);

/// What only this kind of device has.
pub(super) type Own<'a> = &'a mut dyn FnMut(&mut Driver, &mut Input<'_>) -> Option<()>;

impl Guest<'_> {
    /// Does all of it, and lets the device come to rest.
    pub(super) fn follow(&mut self, input: &mut Input<'_>, own: Own<'_>) {
        while self.act(input, own).is_some() {}
        self.0.turn();
    }

    /// One action; none if the input is at its end.
    fn act(&mut self, input: &mut Input<'_>, own: Own<'_>) -> Option<()> {
        let driver = &mut *self.0;
        let queues = driver.queues();
        match input.byte()? % 16 {
            0 => driver.set(REGISTERS[usize::from(input.byte()? % 16)], input.u32()?),
            1 => driver.set(REGISTERS[usize::from(input.byte()? % 16)], input.byte()?.into()),
            2 => {
                let (offset, width) = (input.u16()?, input.byte()? % 9);
                driver.access(offset.into(), &mut vec![0; width.into()]);
            }
            3 => {
                let (at, count) = (input.address()?, input.byte()? % 64);
                driver.try_put(at, &input.bytes(count.into()));
            }
            4 | 5 => {
                let queue = usize::from(input.byte()?) % queues;
                let (number, flags, next) = (input.byte()?, input.byte()?, input.byte()?);
                let part =
                    Part { address: input.address()?, length: input.length()?, writable: false };
                driver.descriptor(queue, number.into(), part, (flags & 7).into(), next.into());
            }
            6 => {
                let queue = usize::from(input.byte()?) % queues;
                driver.make_available(queue, input.byte()?.into());
            }
            7 => {
                let queue = usize::from(input.byte()?) % queues;
                driver.set_available(queue, input.u16()?);
            }
            8 => driver.turn(),
            9 => driver.set_up(),
            10 | 11 => {
                let queue = usize::from(input.byte()?) % queues;
                let count = input.byte()? % SIZE as u8;
                let mut parts = Vec::new();
                for _ in 0..count {
                    let (address, length) = (input.address()?, input.length()?);
                    parts.push(Part { address, length, writable: input.byte()? & 1 != 0 });
                }
                driver.offer(queue, &parts);
            }
            _ => own(driver, input)?,
        }
        Some(())
    }
}

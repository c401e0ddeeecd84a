//! Figures with what callers of `events --stats` do not get, for the way from a guest to its host.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{MemoryUse, RdmaDevice, Stats};
use crate::error::{Error, ErrorKind, Result};

/// [`Stats`], and what it leaves out of the `data` object.
#[derive(Serialize, Deserialize)]
struct Whole {
    data: Stats,
    bursts: u64,
    burst_time: u64,
    swap_only: MemoryUse,
    events: BTreeMap<String, u64>,
    huge_limits: BTreeMap<String, u64>,
    rdma: Vec<RdmaDevice>,
    unified: bool,
}

impl Stats {
    /// All figures as one JSON value. The `data` object of `events --stats` leaves some out.
    pub fn to_whole(&self) -> Value {
        let whole = Whole {
            data: self.clone(),
            bursts: self.cpu.throttling.bursts,
            burst_time: self.cpu.throttling.burst_time,
            swap_only: self.memory.swap_only.clone(),
            events: self.memory.events.clone(),
            huge_limits: self
                .hugetlb
                .iter()
                .map(|(size, pages)| (size.clone(), pages.limit))
                .collect(),
            rdma: self.rdma.clone(),
            unified: self.unified,
        };
        serde_json::to_value(whole).expect("every map of figures has string keys")
    }

    /// What [`Stats::to_whole`] was made of.
    ///
    /// # Errors
    /// It is something else.
    pub fn from_whole(value: Value) -> Result<Self> {
        let whole: Whole = serde_json::from_value(value).map_err(|error| {
            Error::new(ErrorKind::System, "read", "the figures of a container", error.to_string())
        })?;
        let mut stats = whole.data;
        stats.cpu.throttling.bursts = whole.bursts;
        stats.cpu.throttling.burst_time = whole.burst_time;
        stats.memory.swap_only = whole.swap_only;
        stats.memory.events = whole.events;
        for (size, limit) in whole.huge_limits {
            if let Some(pages) = stats.hugetlb.get_mut(&size) {
                pages.limit = limit;
            }
        }
        stats.rdma = whole.rdma;
        stats.unified = whole.unified;
        Ok(stats)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{BlockIoEntry, HugePages, Pressure, RdmaUse};
    use super::*;

    #[test]
    fn nothing_is_lost_on_the_way() {
        let mut stats = Stats { unified: true, ..Stats::default() };
        stats.cpu.usage.total = u64::MAX;
        stats.cpu.usage.percpu = vec![1, 2];
        stats.cpu.throttling.periods = 3;
        stats.cpu.throttling.bursts = 4;
        stats.cpu.throttling.burst_time = 5;
        stats.cpu.psi = Some(Pressure::default());
        stats.memory.swap_only.limit = 6;
        stats.memory.kernel_tcp.usage = 7;
        stats.memory.events.insert("oom_kill".to_owned(), 8);
        stats.memory.raw.insert("anon".to_owned(), 9);
        stats.pids.limit = 10;
        let entry = BlockIoEntry { major: 254, op: "Read".to_owned(), ..BlockIoEntry::default() };
        stats.blkio.io_queued_recursive = vec![entry.clone()];
        stats.blkio.io_service_bytes_recursive = vec![entry];
        stats
            .hugetlb
            .insert("2MB".to_owned(), HugePages { usage: 1, limit: 11, ..HugePages::default() });
        let current = RdmaUse { handles: 1, objects: u32::MAX };
        stats.rdma = vec![RdmaDevice { name: "m".to_owned(), current, limit: current }];
        for stats in [stats, Stats::default()] {
            let text = serde_json::to_string(&stats.to_whole()).unwrap();
            assert_eq!(Stats::from_whole(serde_json::from_str(&text).unwrap()).unwrap(), stats);
        }
        assert!(Stats::from_whole(Value::Null).is_err());
    }
}

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use oci_spec::runtime::LinuxIntelRdt;
use runtime::load_resources;
use serde_json::{Map, Value};

use crate::program::Failure;
use crate::session::Session;
use crate::size;

/// Change resource limits of a container
#[derive(Debug, Default, Args)]
pub struct Update {
    /// JSON file of limits, or - for standard input; the other flags then count for nothing
    #[arg(long, short, value_name = "path")]
    resources: Option<PathBuf>,
    /// Weight of block I/O, 10 to 1000
    #[arg(long, value_name = "n")]
    blkio_weight: Option<u16>,
    /// Period of the CPU quota in microseconds, 0 for the default
    #[arg(long, value_name = "n")]
    cpu_period: Option<u64>,
    /// CPU time per period in microseconds
    #[arg(long, value_name = "n", allow_hyphen_values = true)]
    cpu_quota: Option<i64>,
    /// CPU time in microseconds that may be saved up for a burst
    #[arg(long, value_name = "n")]
    cpu_burst: Option<u64>,
    /// CPU share relative to other containers
    #[arg(long, value_name = "n")]
    cpu_share: Option<u64>,
    /// Period of real-time CPU time in microseconds
    #[arg(long, value_name = "n")]
    cpu_rt_period: Option<u64>,
    /// Real-time CPU time per period in microseconds
    #[arg(long, value_name = "n", allow_hyphen_values = true)]
    cpu_rt_runtime: Option<i64>,
    /// CPUs to use
    #[arg(long, value_name = "list")]
    cpuset_cpus: Option<String>,
    /// Memory nodes to use
    #[arg(long, value_name = "list")]
    cpuset_mems: Option<String>,
    /// 1 to run only when the CPU is idle
    #[arg(long, value_name = "n", allow_hyphen_values = true)]
    cpu_idle: Option<i64>,
    /// Memory limit; -1 for none, units k, m, g, t, p
    #[arg(long, value_name = "size", value_parser = size::parse, allow_hyphen_values = true)]
    memory: Option<i64>,
    /// Soft memory limit
    #[arg(long, value_name = "size", value_parser = size::parse, allow_hyphen_values = true)]
    memory_reservation: Option<i64>,
    /// Limit of memory and swap together
    #[arg(long, value_name = "size", value_parser = size::parse, allow_hyphen_values = true)]
    memory_swap: Option<i64>,
    /// Number of processes
    #[arg(long, value_name = "n", allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    /// Intel RDT schema of the L3 cache, such as L3:0=7f0
    #[arg(long, value_name = "schema")]
    l3_cache_schema: Option<String>,
    /// Intel RDT schema of memory bandwidth, such as MB:0=20
    #[arg(long, value_name = "schema")]
    mem_bw_schema: Option<String>,
    /// Accepted for old callers; kernels have no such limit
    #[arg(long, hide = true)]
    kernel_memory: Option<String>,
    /// Accepted for old callers; kernels have no such limit
    #[arg(long, hide = true)]
    kernel_memory_tcp: Option<String>,
    /// The container's name
    #[arg(value_name = "container-id")]
    id: String,
}

impl super::Command for Update {
    const NAME: &'static str = "update";

    fn run(self, session: &Session) -> Result<u8, Failure> {
        let container = session.container(&self.id)?;
        let json = match &self.resources {
            Some(path) => read(path)?,
            None => self.document(session).to_string().into_bytes(),
        };
        let resources = session.warned(|warnings| load_resources(&json, warnings))?;
        session.warned(|warnings| container.update(&resources, warnings))?;
        if let Some(schemas) = self.schemas() {
            container.update_rdt(&schemas)?;
        }
        Ok(0)
    }
}

impl Update {
    /// The flags as the document that `--resources` would read: one way to the limits, not two.
    fn document(&self, session: &Session) -> Value {
        let ignored = [
            ("kernel-memory", &self.kernel_memory),
            ("kernel-memory-tcp", &self.kernel_memory_tcp),
        ];
        for (name, _) in ignored.iter().filter(|(_, value)| value.is_some()) {
            session.log.warning(&format!("--{name} has no effect"));
        }
        self.fields()
    }

    /// The schemas of the flags.
    fn schemas(&self) -> Option<LinuxIntelRdt> {
        if self.l3_cache_schema.is_none() && self.mem_bw_schema.is_none() {
            return None;
        }
        let mut schemas = LinuxIntelRdt::default();
        schemas.set_l3_cache_schema(self.l3_cache_schema.clone());
        schemas.set_mem_bw_schema(self.mem_bw_schema.clone());
        Some(schemas)
    }

    fn fields(&self) -> Value {
        let fields = [
            ("blockIO", "weight", self.blkio_weight.map(Value::from)),
            ("cpu", "period", self.cpu_period.map(Value::from)),
            ("cpu", "quota", self.cpu_quota.map(Value::from)),
            ("cpu", "burst", self.cpu_burst.map(Value::from)),
            ("cpu", "shares", self.cpu_share.map(Value::from)),
            ("cpu", "realtimePeriod", self.cpu_rt_period.map(Value::from)),
            ("cpu", "realtimeRuntime", self.cpu_rt_runtime.map(Value::from)),
            ("cpu", "cpus", self.cpuset_cpus.clone().map(Value::from)),
            ("cpu", "mems", self.cpuset_mems.clone().map(Value::from)),
            ("cpu", "idle", self.cpu_idle.map(Value::from)),
            ("memory", "limit", self.memory.map(Value::from)),
            ("memory", "reservation", self.memory_reservation.map(Value::from)),
            ("memory", "swap", self.memory_swap.map(Value::from)),
            ("pids", "limit", self.pids_limit.map(Value::from)),
        ];
        let mut document = Map::new();
        for (section, field, value) in fields {
            if let Some(value) = value {
                document.entry(section).or_insert_with(|| Value::Object(Map::new()))[field] = value;
            }
        }
        Value::Object(document)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut json = Vec::new();
    let result = if path == Path::new("-") {
        std::io::stdin().lock().read_to_end(&mut json)
    } else {
        std::fs::File::open(path).and_then(|mut file| file.read_to_end(&mut json))
    };
    result.map_err(|error| Failure::from_io("read resources", path, &error))?;
    Ok(json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_make_a_document() {
        let update = Update {
            cpu_quota: Some(-1),
            cpuset_cpus: Some("0-1".into()),
            memory: Some(512 << 20),
            pids_limit: Some(0),
            ..Update::default()
        };
        assert_eq!(
            update.fields().to_string(),
            r#"{"cpu":{"cpus":"0-1","quota":-1},"memory":{"limit":536870912},"pids":{"limit":0}}"#
        );
        assert_eq!(Update::default().fields().to_string(), "{}");
    }
}

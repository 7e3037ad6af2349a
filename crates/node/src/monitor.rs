//! What a node tells of itself beside its counters: readiness per component and the figures of its process (OPS-20, 21).

use parking_lot::RwLock;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;
use std::sync::Arc;
use trellis_rpc::{ComponentHealth, MonitorView};

/// Bytes in a page of memory, as Linux on our targets has it.
const PAGE_BYTES: i64 = 4_096;

/// Something that sets its gauges when they are read.
pub type Refresh = Box<dyn Fn() + Send + Sync>;

/// Health of the components of one node.
#[derive(Default)]
pub struct Health {
    components: RwLock<BTreeMap<&'static str, (bool, String)>>,
    refresh: RwLock<Vec<Refresh>>,
    more: RwLock<Vec<fn() -> String>>,
}

impl Health {
    /// A node with its process figures registered.
    pub fn new(registry: &mut Registry) -> Arc<Self> {
        let health = Arc::new(Self::default());
        let registry = crate::role::named(registry);
        let memory = Gauge::<i64>::default();
        let descriptors = Gauge::<i64>::default();
        registry.register("process_resident_memory_bytes", "Resident memory of this process, in bytes", memory.clone());
        registry.register("process_open_descriptors", "Open file descriptors of this process", descriptors.clone());
        health.on_refresh(Box::new(move || {
            memory.set(resident_bytes().unwrap_or_default());
            let open = std::fs::read_dir("/proc/self/fd").map(Iterator::count).unwrap_or_default();
            descriptors.set(i64::try_from(open).unwrap_or(i64::MAX));
        }));
        health
    }

    /// Sets one component's state.
    pub fn set(&self, name: &'static str, ready: bool, detail: impl Into<String>) {
        self.components.write().insert(name, (ready, detail.into()));
    }

    /// Adds figures that are read rather than counted.
    pub fn on_refresh(&self, refresh: Refresh) {
        self.refresh.write().push(refresh);
    }

    /// Adds the text of another library's registry.
    pub fn also_show(&self, text: fn() -> String) {
        self.more.write().push(text);
    }
}

fn resident_bytes() -> Option<i64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    statm.split_whitespace().nth(1)?.parse::<i64>().ok()?.checked_mul(PAGE_BYTES)
}

impl MonitorView for Health {
    fn refresh(&self) {
        for refresh in self.refresh.read().iter() {
            refresh();
        }
    }

    fn more_metrics(&self) -> String {
        self.more.read().iter().map(|text| text()).collect()
    }

    fn health(&self) -> Vec<ComponentHealth> {
        let shown = |(name, (ready, detail)): (&&'static str, &(bool, String))| ComponentHealth {
            name,
            ready: *ready,
            detail: detail.clone(),
        };
        self.components.read().iter().map(shown).collect()
    }
}

//! The binary: CLI, config, wiring, telemetry. The only place where the planes meet.
fn main() {}

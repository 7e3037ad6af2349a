//! Who holds a port, as far as the system shows it (OPS-11).

use std::fs;

/// TCP states in /proc that hold a port: listening.
const LISTENING: &str = "0A";

/// The process that listens on a TCP port of this machine, as `process 123 (name)`.
pub fn of_tcp_port(port: u16) -> Option<String> {
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .find_map(|table| inode_in(&fs::read_to_string(table).ok()?, port))?;
    let target = format!("socket:[{inode}]");
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(descriptors) = fs::read_dir(entry.path().join("fd")) else { continue };
        let holds = descriptors
            .flatten()
            .any(|fd| fs::read_link(fd.path()).is_ok_and(|link| link.as_os_str() == target.as_str()));
        if holds {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            return Some(format!("process {pid} ({})", name.trim()));
        }
    }
    None
}

fn inode_in(table: &str, port: u16) -> Option<u64> {
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let local = fields.get(1)?.rsplit_once(':')?.1;
        let same = u16::from_str_radix(local, 16).ok()? == port;
        if same && fields.get(3) == Some(&LISTENING) { fields.get(9)?.parse().ok() } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    // row: OPS-11
    #[test]
    fn the_holder_of_a_port_is_named() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let holder = of_tcp_port(listener.local_addr().expect("address").port()).expect("a holder");
        assert!(holder.contains(&std::process::id().to_string()), "{holder}");
    }
}

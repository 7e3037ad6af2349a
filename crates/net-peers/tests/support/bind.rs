//! A real DNS server for one test: BIND on loopback with one zone, `seed.test`.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// BIND answers within this time or the test fails.
const READY: Duration = Duration::from_secs(60);
/// A question for the SOA record of `seed.test`, as it goes over UDP.
const QUESTION: &[u8] = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04seed\x04test\x00\x00\x06\x00\x01";

pub struct Bind {
    child: Child,
    folder: PathBuf,
    port: u16,
}

impl Bind {
    /// Serves the zone `seed.test` with these lines after its SOA and NS records.
    pub fn start(lines: &str) -> Self {
        let binary = ["/usr/sbin/named", "/usr/bin/named", "/usr/local/sbin/named"]
            .into_iter()
            .find(|path| Path::new(path).exists());
        let binary = binary.expect("named is missing: `.ci/run setup` installs it (Debian package bind9)");
        let port = free_port();
        let folder = std::env::temp_dir().join(format!("trellis-bind-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let zone = format!(
            "$TTL 60\n@ IN SOA ns.seed.test. none.seed.test. 1 60 60 60 60\n@ IN NS ns\nns IN A 127.0.0.1\n{lines}"
        );
        std::fs::write(folder.join("zone"), zone).unwrap();
        let conf = format!(
            "options {{ directory \"{0}\"; pid-file none; session-keyfile none; recursion no; allow-query {{ any; }}; dnssec-validation no; \
             listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; }};\n\
             controls {{ }};\n\
             zone \"seed.test\" {{ type primary; file \"{0}/zone\"; }};\n",
            folder.display()
        );
        std::fs::write(folder.join("named.conf"), conf).unwrap();
        let log = std::fs::File::create(folder.join("log")).unwrap();
        let child = Command::new(binary)
            .arg("-g")
            .arg("-c")
            .arg(folder.join("named.conf"))
            .args(["-n", "1"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("named starts");
        let mut bind = Self { child, folder, port };
        bind.wait();
        bind
    }

    /// How the server is named to a node, for one way (`udp` or `tcp`).
    pub fn server(&self, way: &str) -> String {
        format!("{way}://127.0.0.1:{}", self.port)
    }

    fn wait(&mut self) {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let started = Instant::now();
        loop {
            let _ = socket.send_to(QUESTION, (Ipv4Addr::LOCALHOST, self.port));
            let mut answer = [0; 512];
            // The answer's code has to be "no error", not "refused" while the zone is still being read.
            if socket.recv(&mut answer).is_ok() && answer[3] & 0x0f == 0 {
                return;
            }
            let log = || std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            assert!(self.child.try_wait().unwrap().is_none(), "named ended:\n{}", log());
            assert!(started.elapsed() < READY, "named does not answer:\n{}", log());
        }
    }
}

impl Drop for Bind {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A port that is free for UDP and TCP.
fn free_port() -> u16 {
    loop {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = udp.local_addr().unwrap().port();
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

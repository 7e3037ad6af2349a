//! A real DNS server for one test: BIND on loopback with one zone, `seed.test`.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// BIND answers within this time or the test fails.
const READY: Duration = Duration::from_secs(60);
/// A question for the SOA record of `seed.test`, as it goes over UDP.
const QUESTION: &[u8] = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04seed\x04test\x00\x00\x06\x00\x01";

/// The key for updates, as `tsig-keygen` prints it.
const UPDATE_KEY: &str =
    "key \"seeder\" {\n\talgorithm hmac-sha256;\n\tsecret \"dGhpcyBpcyBhIHNlY3JldCBvZiBhIHRlc3QgYWxvbmU=\";\n};\n";

/// What a server offers beside plain answers.
#[derive(Clone, Copy, Default)]
pub struct Extras {
    /// The zone is signed.
    pub dnssec: bool,
    /// TLS and HTTPS, with a certificate for `ns.seed.test` of an authority of its own.
    pub encrypted: bool,
    /// The zone takes updates with the key in [`Bind::update_key`].
    pub updates: bool,
}

pub struct Bind {
    child: Child,
    folder: PathBuf,
    port: u16,
    tls_port: u16,
    https_port: u16,
}

impl Bind {
    /// Serves the zone `seed.test` with these lines after its SOA and NS records.
    pub fn start(lines: &str) -> Self {
        Self::start_with(lines, Extras::default())
    }

    /// The same with more.
    pub fn start_with(lines: &str, extras: Extras) -> Self {
        let binary = ["/usr/sbin/named", "/usr/bin/named", "/usr/local/sbin/named"]
            .into_iter()
            .find(|path| Path::new(path).exists());
        let binary = binary.expect("named is missing: `.ci/run setup` installs it (Debian package bind9)");
        let [port, tls_port, https_port] = std::array::from_fn(|_| free_port());
        let folder = std::env::temp_dir().join(format!("trellis-bind-{}-{port}", std::process::id()));
        std::fs::create_dir_all(folder.join("keys")).unwrap();
        let zone = format!(
            "$TTL 60\n@ IN SOA ns.seed.test. none.seed.test. 1 60 60 60 60\n@ IN NS ns\nns IN A 127.0.0.1\n{lines}"
        );
        std::fs::write(folder.join("zone"), zone).unwrap();
        let bind = |child| Self { child, folder: folder.clone(), port, tls_port, https_port };
        std::fs::write(folder.join("update.key"), UPDATE_KEY).unwrap();
        let mut listeners = String::new();
        let mut head = String::new();
        if extras.encrypted {
            certificates(&folder);
            let files = folder.display();
            head = format!(
                "tls own {{ cert-file \"{files}/cert.pem\"; key-file \"{files}/key.pem\"; }};\n\
                 http own {{ endpoints {{ \"/dns-query\"; }}; }};\n"
            );
            listeners = format!(
                "listen-on port {tls_port} tls own {{ 127.0.0.1; }}; listen-on port {https_port} tls own http own {{ 127.0.0.1; }};"
            );
        }
        let signed = if extras.dnssec { "dnssec-policy default; inline-signing yes;" } else { "" };
        let updates = if extras.updates { "allow-update { key seeder; };" } else { "" };
        let conf = format!(
            "{head}{UPDATE_KEY}options {{ directory \"{0}\"; pid-file none; session-keyfile none; recursion no; allow-query {{ any; }}; dnssec-validation no; \
             key-directory \"{0}/keys\"; managed-keys-directory \"{0}\"; \
             listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; {listeners} }};\n\
             controls {{ }};\n\
             zone \"seed.test\" {{ type primary; file \"{0}/zone\"; {signed} {updates} }};\n",
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
        let mut bind = bind(child);
        bind.wait();
        bind
    }

    /// Where the server is, for updates.
    #[allow(dead_code)]
    pub fn socket(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// How an encrypted server is named to a node.
    #[allow(dead_code)]
    pub fn encrypted_server(&self, way: &str) -> String {
        match way {
            "tls" => format!("tls://127.0.0.1:{}#ns.seed.test", self.tls_port),
            _ => format!("https://127.0.0.1:{}/dns-query#ns.seed.test", self.https_port),
        }
    }

    /// The authority of the server's certificate.
    #[allow(dead_code)]
    pub fn authorities(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// The key for updates.
    #[allow(dead_code)]
    pub fn update_key(&self) -> PathBuf {
        self.folder.join("update.key")
    }

    /// The public keys of the signed zone, as a file of trust anchors; waits until the zone is signed.
    #[allow(dead_code)]
    pub fn trust_anchor(&self) -> PathBuf {
        let started = Instant::now();
        loop {
            let keys = std::fs::read_dir(self.folder.join("keys")).unwrap().flatten().map(|entry| entry.path());
            let public: Vec<PathBuf> = keys.filter(|path| path.extension().is_some_and(|kind| kind == "key")).collect();
            let log = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            if let (Some(path), true) = (
                public.first(),
                log.contains("zone seed.test/IN (signed): sending notifies")
                    || log.contains("zone seed.test/IN (signed): loaded serial"),
            ) {
                let text = std::fs::read_to_string(path).unwrap();
                let anchor: Vec<&str> =
                    text.lines().filter(|line| line.contains("DNSKEY") && !line.starts_with(';')).collect();
                let file = self.folder.join("anchor");
                std::fs::write(&file, anchor.join("\n") + "\n").unwrap();
                return file;
            }
            assert!(started.elapsed() < READY, "the zone is not signed:\n{log}");
            std::thread::sleep(Duration::from_millis(100));
        }
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

/// An authority and a certificate for `ns.seed.test`.
fn certificates(folder: &Path) {
    let new = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "3650"];
    let openssl = |more: &[&str]| {
        let made = Command::new("openssl").current_dir(folder).args(new).args(more).output().expect("openssl");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    };
    openssl(&["-subj", "/CN=Test CA", "-keyout", "ca.key", "-out", "ca.pem"]);
    openssl(&[
        "-subj",
        "/CN=ns.seed.test",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-addext",
        "basicConstraints=critical,CA:FALSE",
        "-addext",
        "subjectAltName=DNS:ns.seed.test",
        "-keyout",
        "key.pem",
        "-out",
        "cert.pem",
    ]);
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

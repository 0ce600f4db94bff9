//! The real binary, started for one test and ended with it.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::client::{Client, request};
use super::config::ADMIN_KEY;
use super::{DEADLINE, wait_for};

/// Ports below the range from which the kernel takes those of outgoing connections, so that no
/// client of another test can sit on one.
const PORTS: std::ops::Range<u32> = 15_000..32_000;

/// A running gateway.
pub struct Gateway {
    /// Where it listens on 127.0.0.1.
    pub port: u16,
    child: Child,
    stderr: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
    folder: PathBuf,
}

impl Gateway {
    /// Starts the binary with this configuration and waits until it answers `GET /healthz`.
    #[track_caller]
    pub fn start(config: &str) -> Gateway {
        Gateway::start_with(config, &[])
    }

    /// Same, with variables in its environment.
    #[track_caller]
    pub fn start_with(config: &str, environment: &[(&str, &str)]) -> Gateway {
        for _ in 0..20 {
            let mut gateway = Gateway::spawn(config, environment);
            match gateway.wait_healthy() {
                Ok(()) => return gateway,
                // Somebody took the port between our look and its bind.
                Err(why) if why.contains("in use") => continue,
                Err(why) => panic!("the gateway did not start:\n{why}"),
            }
        }
        panic!("found no free port for the gateway");
    }

    /// Starts the binary and waits for nothing.
    pub fn spawn(config: &str, environment: &[(&str, &str)]) -> Gateway {
        let port = free_port();
        let folder = fresh_folder();
        let path = folder.join("config.toml");
        fs::write(&path, fill_in(config, port, &folder)).expect("the folder was just made");
        let mut command = Command::new(env!("CARGO_BIN_EXE_gproxy"));
        command.arg("--config").arg(&path).stdin(Stdio::null());
        Gateway::run(command.envs(environment.iter().copied()), port, folder)
    }

    /// Starts the binary where the system allows so many descriptors, and waits for nothing.
    pub fn spawn_with_descriptors(config: &str, count: u32) -> Gateway {
        let port = free_port();
        let folder = fresh_folder();
        let path = folder.join("config.toml");
        fs::write(&path, fill_in(config, port, &folder)).expect("the folder was just made");
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -n {count}; exec \"$@\""), "sh"]);
        command.args([env!("CARGO_BIN_EXE_gproxy"), "--config"]).arg(&path).stdin(Stdio::null());
        Gateway::run(&mut command, port, folder)
    }

    /// Starts another process on the same data, which asks this one for its socket.
    pub fn successor(&self, environment: &[(&str, &str)]) -> Gateway {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gproxy"));
        command.arg("--takeover").arg("--config").arg(self.folder.join("config.toml"));
        command.stdin(Stdio::null()).envs(environment.iter().copied());
        Gateway::run(&mut command, self.port, self.folder.clone())
    }

    /// Starts the binary on a socket that somebody else opened, as a service manager does.
    pub fn passed(config: &str, socket: TcpListener) -> Gateway {
        let port = socket.local_addr().expect("it is bound").port();
        let folder = fresh_folder();
        let path = folder.join("config.toml");
        fs::write(&path, fill_in(config, port, &folder)).expect("the folder was just made");
        let script = "exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"";
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh", env!("CARGO_BIN_EXE_gproxy"), "--config"]).arg(&path);
        command.stdin(Stdio::from(std::os::fd::OwnedFd::from(socket)));
        Gateway::run(&mut command, port, folder)
    }

    fn run(command: &mut Command, port: u16, folder: PathBuf) -> Gateway {
        command.current_dir(&folder).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("cargo built the binary for this test");
        let stderr = Arc::new(Mutex::new(Vec::new()));
        let pipe = child.stderr.take().expect("it was asked for above");
        let reader = std::thread::spawn({
            let stderr = Arc::clone(&stderr);
            move || collect(pipe, &stderr)
        });
        Gateway { port, child, stderr, reader: Some(reader), folder }
    }

    fn wait_healthy(&mut self) -> Result<(), String> {
        let begun = Instant::now();
        while begun.elapsed() < DEADLINE {
            if let Ok(Some(status)) = self.child.try_wait() {
                self.join_reader();
                return Err(format!("exit: {status}\n{}", self.stderr().join("\n")));
            }
            if self.is_healthy() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Err(format!("no answer to GET /healthz\n{}", self.stderr().join("\n")))
    }

    fn is_healthy(&self) -> bool {
        let Ok(mut client) = Client::try_connect(self.port) else { return false };
        client.send(&request("GET", "/healthz", &[], b""));
        client.reply().is_ok_and(|reply| reply.status == 200)
    }

    /// A new connection to it.
    #[track_caller]
    pub fn connect(&self) -> Client {
        Client::try_connect(self.port).expect("a running gateway accepts connections")
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The most memory that it has had at once.
    pub fn resident_peak_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()));
        let status = status.expect("the gateway is alive");
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a peak");
        let number = line.split_whitespace().nth(1).expect("a number");
        number.parse().expect("a number")
    }

    /// Folder that holds the configuration and the data.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Puts another text into the configuration file; `Signal::HUP` makes it count.
    pub fn rewrite_config(&self, config: &str) {
        let path = self.folder.join("config.toml");
        fs::write(path, fill_in(config, self.port, &self.folder)).expect("the folder is ours");
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("the child is not reaped before wait_exit");
    }

    /// Asks it to end, as a service manager does.
    pub fn sigterm(&self) {
        self.signal(Signal::TERM);
    }

    /// Asks it to end and waits until it has.
    #[track_caller]
    pub fn stop(mut self) -> ExitStatus {
        self.sigterm();
        self.wait_exit()
    }

    /// Waits until the process has ended.
    #[track_caller]
    pub fn wait_exit(&mut self) -> ExitStatus {
        let status = wait_for("the gateway's exit", || self.child.try_wait().ok().flatten());
        self.join_reader();
        status
    }

    /// True while the process lives.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Everything it has written to standard error so far.
    pub fn stderr(&self) -> Vec<String> {
        self.stderr.lock().expect("no holder of this lock panics").clone()
    }

    /// Waits for a line of standard error that contains `part`.
    #[track_caller]
    pub fn wait_for_line(&self, part: &str) -> String {
        wait_for(&format!("a log line with {part:?}"), || {
            self.stderr().into_iter().find(|line| line.contains(part))
        })
    }

    /// Gauges and counters of `GET /metrics` by name (with labels, where there are some).
    #[track_caller]
    pub fn metrics(&self) -> HashMap<String, f64> {
        let mut client = self.connect();
        let key = format!("Bearer {ADMIN_KEY}");
        let headers = [("authorization", key.as_str()), ("connection", "close")];
        client.send(&request("GET", "/metrics", &headers, b""));
        let reply = client.reply().expect("metrics are always served");
        assert_eq!(reply.status, 200, "GET /metrics: {}", reply.text());
        reply
            .text()
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.rsplit_once(' '))
            .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
            .collect()
    }

    /// One gauge; a name that is not there is a mistake of the test or of the program.
    #[track_caller]
    pub fn gauge(&self, name: &str) -> f64 {
        let metrics = self.metrics();
        *metrics.get(name).unwrap_or_else(|| panic!("no metric {name} in {metrics:?}"))
    }

    fn join_reader(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("collecting lines does not panic");
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // Killing what has ended already is no error worth a word.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let lines = self.stderr();
            let last = &lines[lines.len().saturating_sub(20)..];
            eprintln!("the gateway's last words:\n{}", last.join("\n"));
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn collect(pipe: impl Read, stderr: &Mutex<Vec<String>>) {
    for line in BufReader::new(pipe).lines().map_while(Result::ok) {
        stderr.lock().expect("no holder of this lock panics").push(line);
    }
}

fn fill_in(config: &str, port: u16, folder: &Path) -> String {
    config.replacen("port = 0", &format!("port = {port}"), 1).replacen(
        "DATA_DIR",
        &folder.join("data").display().to_string(),
        1,
    )
}

fn fresh_folder() -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("gateway-{}-{count}", std::process::id());
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("cargo made the folder above");
    folder
}

/// A port on which nobody listens now. Each call gives another one, and different processes begin
/// at different places.
pub fn free_port() -> u16 {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let span = PORTS.end - PORTS.start;
    loop {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let offset = std::process::id().wrapping_mul(61).wrapping_add(count) % span;
        let port = (PORTS.start + offset) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

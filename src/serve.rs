//! The running gateway: start, reload, drain, stop. On the main thread, with OS signals.

use std::cell::RefCell;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ring::rand::SecureRandom;
use rustix::process::{Signal, getpid, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

use crate::api::{self, BootError, Booted, Interface, Source};
use crate::config::made::Made;
use crate::config::{self, ConfigError, Loaded, Named, Overrides, Settings};
use crate::console;
use crate::exchange::{Books, Clock, Core};
use crate::io::handover::Accepted;
use crate::io::listener::{self, Listener};
use crate::io::upstream::Caller;
use crate::io::{handover, resolver, spool, tls, worker};
use crate::ledger::Ledger;
use crate::limits;
use crate::logging;
use crate::metrics::Gauge;
use crate::route::listing::List;
use crate::route::memory::{Extras, Memory};
use crate::route::snapshot::Snapshot;
use crate::secret::Secret;

/// How often a drain looks whether everything has ended.
const DRAIN_POLL: Duration = Duration::from_millis(20);

/// How long whoever has connected or begun to ask may take for it when the process stops.
const BEGIN_MAX: Duration = Duration::from_secs(2);

/// How long cut requests may take to end: the longest slice of a wait, and some.
const CUT_MAX: Duration = Duration::from_secs(5);

/// How long the list of an upstream may take, all pages.
const PULL_MAX: Duration = Duration::from_secs(120);

/// How long the books may take to be closed.
const LEDGER_CLOSE: Duration = Duration::from_secs(10);

/// The configuration's file and what wins over it.
pub struct FileSource {
    /// Path of the file.
    pub file: String,
    /// Values of flags.
    pub overrides: Overrides,
    /// Reads the files that it names.
    pub files: fn(&str) -> io::Result<String>,
    /// What is to be said of the flags themselves.
    pub warnings: Vec<String>,
}

impl Source for FileSource {
    fn read(&self) -> Result<Secret, ConfigError> {
        std::fs::read_to_string(&self.file)
            .map(Secret::new)
            .map_err(|error| ConfigError::unreadable(&self.file, &error))
    }

    fn load(&self, text: &str, made: &Made, named: &mut Named) -> Result<Loaded, Vec<ConfigError>> {
        let environment = |name: &str| std::env::var(name).ok();
        let named = RefCell::new(named);
        let files = |path: &str| {
            let known = named.borrow().get(path).map(|text| text.expose().to_owned());
            if let Some(text) = known {
                return Ok(text);
            }
            let text = (self.files)(path)?;
            named.borrow_mut().insert(path.to_owned(), Secret::new(text.as_str()));
            Ok(text)
        };
        config::load_both(text, &self.file, made, &self.overrides, &environment, &files)
    }

    fn overridden(&self) -> Vec<(&'static str, &'static str)> {
        let flags = &self.overrides;
        let rows = [
            ("global.host", &flags.host, "--host", "GPROXY_HOST"),
            ("global.port", &flags.port, "--port", "GPROXY_PORT"),
            ("global.workers", &flags.workers, "--workers", "GPROXY_WORKERS"),
            ("global.data_dir", &flags.data_dir, "--data-dir", "GPROXY_DATA_DIR"),
            ("global.proxy", &flags.proxy, "--proxy", "GPROXY_PROXY"),
        ];
        let is_set = |variable: &str| std::env::var(variable).is_ok_and(|text| !text.is_empty());
        let by = |(name, flag, option, variable): (_, &Option<String>, _, _)| match flag {
            Some(_) => Some((name, option)),
            None => is_set(variable).then_some((name, variable)),
        };
        rows.into_iter().filter_map(by).collect()
    }

    fn check(&self, loaded: &Loaded) -> Result<(), String> {
        read_certificates(&loaded.snapshot).map(drop).map_err(|error| error.to_string())
    }

    fn apply(&self, loaded: &Loaded) -> Result<(), String> {
        load_certificates(&loaded.snapshot).map_err(|error| error.to_string())?;
        resolver::load();
        Ok(())
    }
}

struct RealClock;

impl Clock for RealClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn unix_ms(&self) -> i64 {
        // A clock before 1970 is not set at all.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        since.as_millis() as i64
    }
}

/// Why the gateway could not start, or stopped.
#[derive(Debug)]
pub enum ServeError {
    /// The address cannot be listened on.
    Listen(std::net::SocketAddr, io::Error),
    /// The extra CA file, or those of `[tls]`.
    Tls(tls::TlsError),
    /// The database cannot be opened, or does not go with the file.
    Boot(BootError),
    /// The system refused a thread, a signal handler or randomness.
    System(io::Error),
    /// It stopped, and rows of the books are lost.
    Unwritten,
}

impl std::fmt::Display for ServeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ServeError::Listen(address, error) => {
                write!(f, "cannot listen on {address}: {error}")
            }
            ServeError::Tls(error) => error.fmt(f),
            ServeError::Boot(error) => error.fmt(f),
            ServeError::System(error) => write!(f, "cannot start: {error}"),
            ServeError::Unwritten => {
                f.write_str("stopped although usage rows could not be written: they are lost")
            }
        }
    }
}

impl From<io::Error> for ServeError {
    fn from(error: io::Error) -> ServeError {
        ServeError::System(error)
    }
}

/// Serves until a signal says stop. `Ok`: everything that was open has ended or ran out of time.
pub fn run(
    loaded: Loaded,
    mut source: FileSource,
    master: Option<&Secret>,
    takeover: bool,
) -> Result<(), ServeError> {
    let passed = passed_by_manager();
    let settings = loaded.settings.clone();
    logging::start(settings.log_level);
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM, SIGXFSZ])?;
    load_certificates(&loaded.snapshot).map_err(ServeError::Tls)?;
    resolver::load();
    console::assets();
    let workers = match settings.workers {
        0 => std::thread::available_parallelism()?.get().min(limits::WORKERS_MAX),
        count => count,
    };
    worker::configure(workers);
    let seed = random_seed()?;
    let folder = PathBuf::from(&settings.data_dir);
    let estate = if takeover { handover::take(&folder)? } else { None };
    let (socket, lock, old) = match estate.map(handover::Estate::into_parts) {
        Some((socket, lock, old)) => (socket.or(passed), Some(lock.into()), Some(old)),
        None => (passed, None, None),
    };
    let listens_on = socket.as_ref().and_then(|socket| listener::address_of(socket).ok());
    source.overrides.bound = Some(listens_on.map_or(settings.host, |address| address.ip()));
    let booted =
        api::boot(loaded, &source, master, RealClock.unix_ms(), lock).map_err(ServeError::Boot)?;
    let warnings = source.warnings.iter().chain(&booted.warnings);
    warnings.for_each(|warning| log::warn!(target: "gproxy", "{warning}"));
    announce(&booted.made)?;
    let Booted { snapshot, accounts, base, statuses, key_uses, .. } = booted;
    let ledger = base.ledger.clone();
    // Whether anything is written there may change with every reload.
    let books = Arc::new(Books { ledger: Some(ledger.clone()), accounts });
    let core = Core::new(snapshot, Box::new(RealClock), seed);
    let core = Arc::new(core.with_books(books.clone()));
    core.restore(statuses, key_uses);
    spool::lie_in(&folder);
    let interface = Interface::new(core.clone(), books, base, folder.clone(), Box::new(source));
    let interface = Arc::new(interface);
    core.administer(interface.clone());
    logging::count_drops_in(core.metrics.clone());
    ledger.count_drops_in(core.metrics.clone());
    let listener = listen(&core, &settings, workers, socket)?;
    if let Some(Err(error)) = old.map(relieve) {
        // Who has come since we listen is served, and has his row.
        drain(&core, &listener, &mut signals);
        ledger.close(LEDGER_CLOSE);
        return Err(error.into());
    }
    wait_for_next(&folder, &core, &listener, &ledger, &interface);
    for signal in signals.forever() {
        match signal {
            SIGHUP => {
                // What came of it stands in the log.
                let _ = interface.reload("");
            }
            // A file that may not grow is a disk that is full: the write says so, and we live on.
            SIGXFSZ => {}
            _ => break,
        }
    }
    drain(&core, &listener, &mut signals);
    let is_written = ledger.close(LEDGER_CLOSE);
    logging::flush();
    if is_written { Ok(()) } else { Err(ServeError::Unwritten) }
}

fn random_seed() -> io::Result<u64> {
    let mut seed = [0; 8];
    let filled = ring::rand::SystemRandom::new().fill(&mut seed);
    filled.map_err(|_| io::Error::other("the system has no randomness"))?;
    Ok(u64::from_be_bytes(seed))
}

/// The socket that a service manager opened for us, if it did.
fn passed_by_manager() -> Option<OwnedFd> {
    let number = |name| std::env::var(name).ok()?.parse::<u32>().ok();
    let is_ours = number("LISTEN_PID") == Some(std::process::id());
    (is_ours && number("LISTEN_FDS") >= Some(1)).then(worker::passed_by_manager)
}

/// Begins to serve, on a socket that was passed or on one of our own.
fn listen(
    core: &Arc<Core>,
    settings: &Settings,
    workers: usize,
    passed: Option<OwnedFd>,
) -> Result<Arc<Listener>, ServeError> {
    let address = std::net::SocketAddr::new(settings.host, settings.port);
    let is_passed = passed.is_some();
    let socket = match passed {
        Some(socket) => listener::adopt(socket),
        None => listener::bind(settings.host, settings.port),
    };
    let listener = socket.and_then(|socket| Listener::on(core.clone(), socket, workers));
    let listener = Arc::new(listener.map_err(|error| ServeError::Listen(address, error))?);
    let accepting = listener.clone();
    std::thread::Builder::new().name("listener".into()).spawn(move || accepting.run())?;
    let at = listener.address();
    if is_passed && settings.port != 0 && at != address {
        log::warn!(target: "gproxy", "the socket that was passed is of {at}, not of {address}");
    }
    let scheme = if tls::callers::terms().is_some() { "https" } else { "http" };
    log::info!(target: "gproxy", "listening on {scheme}://{at} with {workers} workers");
    let snapshot = core.snapshot();
    let extras = Extras {
        tls: scheme == "https",
        hedges: snapshot.providers.iter().any(|provider| provider.hedge.is_some()),
        drains: snapshot.providers.iter().any(|provider| provider.drain.is_some()),
    };
    let mut limits = snapshot.limits;
    let room = listener.room();
    if limits.connections_max > room {
        log::warn!(
            target: "gproxy",
            "the system's limit of descriptors leaves room for {room} connections, not for the {} \
             of limits.connections_max; raise it (ulimit -Hn, LimitNOFILE)",
            limits.connections_max
        );
        limits.connections_max = room;
    }
    let memory = Memory::at_most(&limits, extras);
    log::info!(target: "gproxy", "limits allow memory of at most {memory}");
    Ok(listener)
}

/// Tells the process from which we take over that we serve; an error: it goes on, and we must not.
fn relieve(old: UnixStream) -> io::Result<()> {
    match handover::Estate::accept(old) {
        Accepted::Told => {
            log::info!(target: "gproxy", "took over from the process that served until now");
        }
        Accepted::Ended(error) => log::warn!(
            target: "gproxy",
            "the process that served until now has ended before it was told to: {error}"
        ),
        Accepted::TooLate => {
            let why = "the process that served until now has waited too long and goes on";
            return Err(io::Error::other(why));
        }
    }
    Ok(())
}

/// Lets another process take over: then this one is told to stop, unless it stops already. Not
/// before we have relieved the last one, which waits in the same place.
fn wait_for_next(
    folder: &Path,
    core: &Arc<Core>,
    listener: &Arc<Listener>,
    ledger: &Ledger,
    interface: &Arc<Interface>,
) {
    let begin = || {
        let (core, listener, interface) = (core.clone(), listener.clone(), interface.clone());
        let stand_still = move |still| interface.stand_still(still);
        let lock = ledger.lock().ok_or(io::ErrorKind::NotFound)?.try_clone()?.into();
        let offered = handover::offer(folder)?;
        let thread = std::thread::Builder::new().name("handover".into());
        thread.spawn(move || {
            match handover::give(&offered, &|| listener.share(), &lock, &stand_still) {
                Ok(()) => {
                    log::info!(target: "gproxy", "another process has taken over");
                    // A second signal would cut what is open.
                    if !core.is_draining() {
                        let _ = kill_process(getpid(), Signal::TERM);
                    }
                }
                Err(error) => log::warn!(target: "gproxy", "no hand-over: {error}"),
            }
        })
    };
    if let Err(error) = begin() {
        log::warn!(target: "gproxy", "no other process can take over from this one: {error}");
    }
}

/// Fetches the list of models of a provider's upstream, in a process that does nothing else.
pub fn pull(loaded: Loaded, provider: usize) -> Result<(Arc<Snapshot>, List), String> {
    let system = |error: io::Error| ServeError::System(error).to_string();
    tls::load(loaded.snapshot.extra_ca_file.as_deref()).map_err(|error| error.to_string())?;
    resolver::load();
    worker::configure(1);
    let core = Core::new(loaded.snapshot, Box::new(RealClock), 0);
    let snapshot = core.snapshot();
    let mut up = Caller::alone(core.metrics.clone()).map_err(system)?;
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    let spawned = worker::spawn_on(0, move || {
        // Nobody is left to be told once the wait below is over.
        let _ = sender.try_send(core.pull(provider, &mut up));
    });
    spawned.map_err(system)?;
    match receiver.recv_timeout(PULL_MAX) {
        Ok(Ok(list)) => Ok((snapshot, list.into())),
        Ok(Err(failure)) => Err(failure.to_string()),
        Err(_) => Err("the upstream's list took too long".to_owned()),
    }
}

/// The certificates that the configuration names: those of callers' TLS, and the roots.
type Certificates = (Option<tls::callers::Current>, tls::Roots);

fn read_certificates(snapshot: &Snapshot) -> Result<Certificates, tls::TlsError> {
    let of_callers = snapshot.tls.as_ref().map(tls::callers::prepare).transpose()?;
    Ok((of_callers, tls::prepare(snapshot.extra_ca_file.as_deref())?))
}

/// Puts them in place; after a mistake all stay as they were.
fn load_certificates(snapshot: &Snapshot) -> Result<(), tls::TlsError> {
    let (of_callers, roots) = read_certificates(snapshot)?;
    tls::put(roots);
    tls::callers::put(of_callers);
    Ok(())
}

/// Tells whoever started us of the administrator that was made: on standard output, not in the
/// log, since logs are kept.
fn announce(made: &Option<(String, Secret)>) -> io::Result<()> {
    let Some((name, key)) = made else { return Ok(()) };
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "No administrator is declared, so the user {name:?} was made with this key, which is shown \
         once:\n{}",
        key.expose()
    )
}

/// Stops accepting and waits for what is open, within the limit; a second signal cuts at once.
fn drain(core: &Core, listener: &Arc<Listener>, signals: &mut Signals) {
    let limit = Duration::from_millis(core.snapshot().drain_ms);
    let until = Instant::now() + limit;
    let open = || core.metrics.level(Gauge::RequestsInFlight);
    log::info!(target: "gproxy", "stopping: {} open requests have {limit:?} to end", open());
    core.drain();
    let begin_until = until.min(Instant::now() + BEGIN_MAX);
    if !limit.is_zero() {
        listener.accept_rest();
    }
    listener.stop();
    let mut hurried = false;
    let mut is_hurried = || {
        hurried |= signals.pending().any(|signal| signal != SIGHUP && signal != SIGXFSZ);
        hurried
    };
    wait_for_none(&|| core.awaited() as i64, begin_until, &mut is_hurried);
    listener.close();
    let rest = wait_for_none(&open, until, &mut is_hurried);
    // What is left ends itself: with its dialect's error where it still can, and with its row.
    core.cut();
    worker::cut();
    let left = wait_for_none(&open, Instant::now() + CUT_MAX, &mut || false);
    if rest > 0 {
        log::warn!(target: "gproxy", "{rest} requests were cut, {left} of them without an end");
    }
    core.write_uses();
    log::info!(target: "gproxy", "stopped");
}

/// Waits until none is left; how many are, when time runs out or `is_hurried` says so.
fn wait_for_none(
    count: &dyn Fn() -> i64,
    until: Instant,
    is_hurried: &mut dyn FnMut() -> bool,
) -> i64 {
    loop {
        let left = count();
        if left == 0 || Instant::now() >= until || is_hurried() {
            return left;
        }
        std::thread::sleep(DRAIN_POLL);
    }
}

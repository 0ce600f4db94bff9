//! The program `gproxy`: arguments, configuration, exit codes.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use gproxy::api::BootError;
use gproxy::command::arguments::{self, Arguments, Command};
use gproxy::command::{self, Terminal};
use gproxy::config::Loaded;
use gproxy::io::tls;
use gproxy::serve::{self, FileSource, ServeError};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The gateway could not start, or a command could not write its answer.
const EXIT_FAILED: u8 = 1;

fn main() -> ExitCode {
    match run() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            // Nobody is left to be told when standard error is closed too.
            let _ = writeln!(io::stderr(), "gproxy: {error}");
            ExitCode::from(EXIT_FAILED)
        }
    }
}

fn run() -> io::Result<u8> {
    let words = arguments::as_text(std::env::args_os().skip(1));
    let arguments = match words.and_then(|words| arguments::parse(&words)) {
        Ok(arguments) => arguments,
        Err(error) => {
            writeln!(io::stderr(), "gproxy: {error}")?;
            return Ok(command::EXIT_MISTAKE);
        }
    };
    let environment = |name: &str| std::env::var(name).ok();
    let loaded = match prepare(&arguments, &environment)? {
        Prepared::Done(code) => return Ok(code),
        Prepared::Serve(loaded) => loaded,
    };
    if let Command::Pull { provider } = &arguments.command {
        return pull(*loaded, provider);
    }
    let file = arguments.config_file(&environment);
    let master = match command::master_key(&arguments, &environment) {
        Ok(master) => master,
        Err(why) => {
            writeln!(io::stderr(), "gproxy: {why}")?;
            return Ok(EXIT_FAILED);
        }
    };
    let overrides = arguments.overrides.clone();
    let (files, warnings) = (command::read_file, arguments.warnings.clone());
    let source = FileSource { file, overrides, files, warnings };
    if let Err(error) = serve::run(*loaded, source, master.as_ref(), arguments.takeover) {
        gproxy::logging::flush();
        writeln!(io::stderr(), "gproxy: {error}")?;
        return Ok(match error {
            ServeError::Tls(_) | ServeError::Boot(BootError::Config(_)) => command::EXIT_MISTAKE,
            _ => EXIT_FAILED,
        });
    }
    Ok(command::EXIT_WELL)
}

/// Prints what the provider's upstream lists and the configuration lacks.
fn pull(loaded: Loaded, name: &str) -> io::Result<u8> {
    let Some(at) = loaded.snapshot.provider_named(name) else {
        writeln!(io::stderr(), "gproxy: there is no enabled provider of that name")?;
        return Ok(command::EXIT_MISTAKE);
    };
    match serve::pull(loaded, at) {
        Ok((snapshot, list)) => {
            let provider = &snapshot.providers[at];
            command::models::write(provider, &list, &mut io::stdout().lock())?;
            Ok(command::EXIT_WELL)
        }
        Err(why) => {
            writeln!(io::stderr(), "gproxy: {name}: {why}")?;
            Ok(EXIT_FAILED)
        }
    }
}

enum Prepared {
    Done(u8),
    Serve(Box<Loaded>),
}

/// Runs a command, or loads the configuration to serve. Standard error is free again afterwards:
/// the log's thread writes to it.
fn prepare(
    arguments: &Arguments,
    environment: &dyn Fn(&str) -> Option<String>,
) -> io::Result<Prepared> {
    let stdin = io::stdin();
    let mut terminal = Terminal {
        interactive: stdin.is_terminal(),
        input: &mut stdin.lock(),
        out: &mut io::stdout().lock(),
        error: &mut io::stderr().lock(),
        environment,
        read_certificates: &|snapshot| {
            tls::mistakes(snapshot.extra_ca_file.as_deref(), snapshot.tls.as_ref())
        },
    };
    if let Some(code) = command::run(arguments, &mut terminal)? {
        return Ok(Prepared::Done(code));
    }
    let loaded = match arguments.command {
        Command::Serve => command::load_to_serve(arguments, &mut terminal)?,
        _ => command::load(arguments, &mut terminal)?,
    };
    Ok(match loaded {
        Some(loaded) => Prepared::Serve(Box::new(loaded)),
        None => Prepared::Done(command::EXIT_MISTAKE),
    })
}

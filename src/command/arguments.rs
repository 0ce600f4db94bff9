//! The command line: words to a command and its options.
//!
//! A pure function. An unknown word is an error with a hint, never ignored; flags of v1 that mean
//! nothing now are warned of. No message quotes a value, which may be a key.

use std::ffi::OsString;
use std::fmt;

use crate::config::Overrides;
use crate::ledger::export::Selection;
use crate::secret::Secret;

/// What `--help` prints.
pub const HELP: &str = "\
GPROXY, a gateway for LLM APIs

usage: gproxy [COMMAND] [OPTIONS]

commands:
  serve         answer requests; the default
  check         say what the configuration means, and everything that is wrong with it
  explain       say what would happen to a request, and call nobody
  usage export  print the rows of the books: CSV, or JSON lines with --json
  backup FILE   copy the books to FILE, while the gateway runs or not
  prices        print what each model of the file costs, and which row says so
  prices diff   print where that is not what the sheet of list prices says
  audit         say whether the books add up, and which row does not
  reset-admin   make and print a new key for the administrator, while the gateway is stopped
  models pull PROVIDER
                ask its upstream which models it has, print those that are not declared, as TOML
  hash-key      read a key from standard input, print what may stand for it in the configuration

options, each before its variable, which is before the file:
  -c, --config FILE     the configuration [GPROXY_CONFIG; config.toml]
      --host ADDRESS    listen there [GPROXY_HOST; 127.0.0.1]
      --port PORT       [GPROXY_PORT; 8787]
      --data-dir DIR    [GPROXY_DATA_DIR; ./data]
      --proxy URL       call providers through it [GPROXY_PROXY]
      --workers COUNT   threads; 0 = one for each core [GPROXY_WORKERS; 0]
      --master-key-file FILE
                        seals the secrets of the database [its text: GPROXY_MASTER_KEY]
      --log-level LEVEL off, error, warn, info, debug or trace [GPROXY_LOG; info]
      --takeover        serve in the place of the process with the same data, which then drains
  -h, --help
  -V, --version

options of usage export, a day (2026-11-25) or a time (2026-11-25T08:30:00Z), UTC:
      --from TIME       rows of requests that were admitted then or later
      --to TIME         rows of requests that were admitted before
      --user NAME       rows of this user alone

options of explain:
      --path PATH       as a client would send it, with its query
      --key KEY         the caller's key, or env:NAME to read it from a variable
      --method METHOD   [POST]
      --body FILE       the request's body; - is standard input
      --json            print JSON

exit codes: 0 well, 1 explain: it would be refused, audit: the books do not add up, prices diff:
there are differences, or the gateway cannot start, 2 a mistake in the words or the configuration
";

/// A command line without mistakes.
pub struct Arguments {
    /// What to do.
    pub command: Command,
    /// The configuration's file, when named.
    pub config: Option<String>,
    /// Settings that win over the file.
    pub overrides: Overrides,
    /// Where the master key stands, when named.
    pub master_key_file: Option<String>,
    /// Take the socket over from the process that serves the same data folder.
    pub takeover: bool,
    /// Words that have no effect.
    pub warnings: Vec<String>,
}

/// What to do.
pub enum Command {
    /// Answer requests.
    Serve,
    /// Say what the configuration means.
    Check,
    /// Say what would happen to a request.
    Explain(Question),
    /// Print rows of the books.
    Usage {
        /// As JSON lines.
        json: bool,
        /// Which.
        selection: Selection,
    },
    /// Copy the books to this file.
    Backup(String),
    /// Say whether the books add up.
    Audit,
    /// Say what models cost.
    Prices {
        /// As JSON lines.
        json: bool,
        /// Only where it is not what the sheet says.
        diff: bool,
    },
    /// Print the models of an upstream that are not declared.
    Pull {
        /// Whose upstream.
        provider: String,
    },
    /// Print a key's digest.
    HashKey,
    /// Make a new key for the administrator.
    ResetAdmin,
    /// Print the version.
    Version,
    /// Print [`HELP`].
    Help,
}

/// A request to explain.
pub struct Question {
    /// Print JSON.
    pub json: bool,
    /// The request's method.
    pub method: String,
    /// The request's target.
    pub path: String,
    /// The caller's key, or the `env:NAME` of it.
    pub key: Option<Secret>,
    /// File of the body; `-` is standard input.
    pub body: Option<String>,
}

/// Why the words make no command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArgumentError(String);

impl fmt::Display for ArgumentError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}; `gproxy --help` lists what there is", self.0)
    }
}

const COMMANDS: &[&str] = &[
    "serve",
    "check",
    "explain",
    "usage",
    "audit",
    "prices",
    "backup",
    "models",
    "hash-key",
    "reset-admin",
];

/// Flags with a value, and the one command that has them; empty: all have.
const FLAGS: &[(&str, &str)] = &[
    ("--config", ""),
    ("--host", ""),
    ("--port", ""),
    ("--data-dir", ""),
    ("--proxy", ""),
    ("--workers", ""),
    ("--log-level", ""),
    ("--master-key-file", ""),
    ("--path", "explain"),
    ("--key", "explain"),
    ("--method", "explain"),
    ("--body", "explain"),
    ("--from", "usage"),
    ("--to", "usage"),
    ("--user", "usage"),
];

/// Flags of v1 that mean nothing now. Each had a value.
const RETIRED: &[(&str, &str)] = &[
    ("--admin-user", "declare the user in the configuration, with is_admin = true"),
    ("--admin-password", "declare the user in the configuration, with is_admin = true"),
    ("--admin-api-key", "declare the user's key in the configuration, as \"env:NAME\""),
    ("--dsn", "the database is a file in the data directory"),
    ("--database-secret-key", "give a master key with --master-key-file or GPROXY_MASTER_KEY"),
    ("--spoof-emulation", "requests go up as what they are"),
];

/// The words after the program's name, as text.
pub fn as_text(words: impl Iterator<Item = OsString>) -> Result<Vec<String>, ArgumentError> {
    let word = |(at, word): (usize, OsString)| {
        word.into_string().or_else(|_| error(format!("word {} is not UTF-8", at + 1)))
    };
    words.enumerate().map(word).collect()
}

/// Reads the words after the program's name.
pub fn parse(words: &[String]) -> Result<Arguments, ArgumentError> {
    let mut command: Option<&str> = None;
    let mut values: Vec<(&'static str, String)> = Vec::new();
    let (mut json, mut help, mut version, mut takeover) = (false, false, false, false);
    let mut warnings = Vec::new();
    let mut operands: Vec<&str> = Vec::new();
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        let (flag, attached) = match word.split_once('=') {
            Some((flag, value)) if flag.starts_with("--") => (flag, Some(value.to_owned())),
            _ => (word.as_str(), None),
        };
        match flag {
            "-h" | "--help" if attached.is_none() => help = true,
            "help" if command.is_none() => help = true,
            "-V" | "--version" if attached.is_none() => version = true,
            "--json" if attached.is_none() => json = true,
            "--takeover" if attached.is_none() => takeover = true,
            _ if !flag.starts_with('-') => match command {
                None => command = Some(known_command(flag)?),
                Some("models" | "usage" | "backup" | "prices") => operands.push(flag),
                Some(first) => {
                    return error(format!("one command is enough: `{first}` has no such word"));
                }
            },
            _ => {
                let (name, retired) = known_flag(flag)?;
                let value = attached.or_else(|| rest.next().cloned());
                let Some(value) = value else { return error(format!("`{name}` needs a value")) };
                if let Some(why) = retired {
                    warnings.push(format!("{name}: this flag of v1 is ignored: {why}"));
                } else if values.iter().any(|(other, _)| *other == name) {
                    return error(format!("`{name}` is given twice"));
                } else {
                    values.push((name, value));
                }
            }
        }
    }
    let command = match command {
        _ if help => Command::Help,
        _ if version => Command::Version,
        other => command_of(other.unwrap_or("serve"), &mut values, &operands, json)?,
    };
    if takeover && !matches!(command, Command::Serve | Command::Help | Command::Version) {
        return error("`--takeover` belongs to `serve`".to_owned());
    }
    let mut take = |name| take(&mut values, name);
    let config = take("--config");
    let overrides = Overrides {
        host: take("--host"),
        port: take("--port"),
        data_dir: take("--data-dir"),
        proxy: take("--proxy"),
        workers: take("--workers"),
        log_level: take("--log-level"),
        bound: None,
    };
    let master_key_file = take("--master-key-file");
    Ok(Arguments { command, config, overrides, master_key_file, takeover, warnings })
}

fn command_of(
    word: &str,
    values: &mut Vec<(&'static str, String)>,
    operands: &[&str],
    json: bool,
) -> Result<Command, ArgumentError> {
    refuse_foreign(values, word, json)?;
    Ok(match word {
        "explain" => Command::Explain(question(values, json)?),
        "check" => Command::Check,
        "usage" => match operands {
            [] | ["export"] => Command::Usage { json, selection: selection(values)? },
            _ => return error("one command is enough: `usage` has no such word".to_owned()),
        },
        "backup" => match operands {
            [file] => Command::Backup((*file).to_owned()),
            [] => return error("`backup` needs the file to write".to_owned()),
            _ => return error("one command is enough: `backup` has one file".to_owned()),
        },
        "models" => pull(operands)?,
        "audit" => Command::Audit,
        "prices" => match operands {
            [] | ["diff"] => Command::Prices { json, diff: !operands.is_empty() },
            _ => return error("`prices` is followed by nothing, or by `diff`".to_owned()),
        },
        "hash-key" => Command::HashKey,
        "reset-admin" => Command::ResetAdmin,
        _ => Command::Serve,
    })
}

impl Arguments {
    /// The configuration's file: as named, else the variable's, else `config.toml`.
    pub fn config_file(&self, environment: &dyn Fn(&str) -> Option<String>) -> String {
        let variable = || environment("GPROXY_CONFIG").filter(|file| !file.is_empty());
        self.config.clone().or_else(variable).unwrap_or_else(|| "config.toml".to_owned())
    }
}

fn error<T>(why: String) -> Result<T, ArgumentError> {
    Err(ArgumentError(why))
}

fn known_command(word: &str) -> Result<&'static str, ArgumentError> {
    match COMMANDS.iter().find(|command| **command == word) {
        Some(command) => Ok(command),
        None => error(unknown("command", word, COMMANDS.iter().copied())),
    }
}

/// The flag's full name, and why it is ignored if it is.
fn known_flag(flag: &str) -> Result<(&'static str, Option<&'static str>), ArgumentError> {
    let flag = if flag == "-c" { "--config" } else { flag };
    if let Some((name, why)) = RETIRED.iter().find(|(name, _)| *name == flag) {
        return Ok((name, Some(why)));
    }
    let switches = ["--help", "--version", "--json"];
    if switches.contains(&flag) {
        return error(format!("`{flag}` has no value"));
    }
    let names = || FLAGS.iter().map(|(name, _)| *name);
    match names().find(|name| *name == flag) {
        Some(name) => Ok((name, None)),
        None => error(unknown("option", flag, names().chain(switches))),
    }
}

/// Names the word only when it is near to one that we know: it could be a key otherwise.
fn unknown<'n>(kind: &str, word: &str, known: impl Iterator<Item = &'n str>) -> String {
    match crate::config::nearest(word, known) {
        Some(name) => format!("unknown {kind}; did you mean `{name}`?"),
        None => format!("unknown {kind}"),
    }
}

fn take(values: &mut Vec<(&'static str, String)>, name: &str) -> Option<String> {
    let index = values.iter().position(|(other, _)| *other == name)?;
    Some(values.swap_remove(index).1)
}

fn pull(operands: &[&str]) -> Result<Command, ArgumentError> {
    match operands {
        ["pull", provider] => Ok(Command::Pull { provider: (*provider).to_owned() }),
        _ => error("`models` is followed by `pull` and a provider's name".to_owned()),
    }
}

fn question(
    values: &mut Vec<(&'static str, String)>,
    json: bool,
) -> Result<Question, ArgumentError> {
    let Some(path) = take(values, "--path") else {
        return error("`explain` needs `--path`, such as /v1/chat/completions".to_owned());
    };
    Ok(Question {
        json,
        method: take(values, "--method").unwrap_or_else(|| "POST".to_owned()),
        path,
        key: take(values, "--key").map(Secret::new),
        body: take(values, "--body"),
    })
}

fn selection(values: &mut Vec<(&'static str, String)>) -> Result<Selection, ArgumentError> {
    let mut time = |name: &str| match take(values, name) {
        None => Ok(None),
        Some(text) => match unix_ms(&text) {
            Some(ms) => Ok(Some(ms)),
            None => error(format!(
                "`{name}` needs a day such as 2026-11-25, or a time such as \
                2026-11-25T08:30:00Z"
            )),
        },
    };
    let (from_ms, to_ms) = (time("--from")?, time("--to")?);
    Ok(Selection { from_ms, to_ms, user: take(values, "--user") })
}

/// Milliseconds since 1970 of a UTC day, or of a time to the second.
fn unix_ms(text: &str) -> Option<i64> {
    let (day, time) = match text.split_once(['T', ' ']) {
        Some((day, time)) => (day, time.strip_suffix('Z').unwrap_or(time)),
        None => (text, "00:00:00"),
    };
    let numbers = |text: &str, sign: char, lengths: [usize; 3]| -> Option<[i64; 3]> {
        let mut parts = text.split(sign);
        let mut numbers = [0; 3];
        for (number, length) in numbers.iter_mut().zip(lengths) {
            let part = parts.next()?;
            let is_number = part.len() == length && part.bytes().all(|byte| byte.is_ascii_digit());
            *number = part.parse().ok().filter(|_| is_number)?;
        }
        parts.next().is_none().then_some(numbers)
    };
    let [year, month, day] = numbers(day, '-', [4, 2, 2])?;
    let [hour, minute, second] = numbers(time, ':', [2, 2, 2])?;
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let lengths = [31, 28 + i64::from(is_leap), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let length = usize::try_from(month - 1).ok().and_then(|at| lengths.get(at))?;
    if !(1..=*length).contains(&day) || hour > 23 || minute > 59 || second > 59 || year < 1 {
        return None;
    }
    let before = year - 1;
    let days = 365 * before + before / 4 - before / 100 + before / 400 - 719_162;
    let days = days + lengths.iter().take(month as usize - 1).sum::<i64>() + day - 1;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000)
}

/// An option that does nothing with a command is a mistake there.
fn refuse_foreign(
    values: &[(&'static str, String)],
    command: &str,
    json: bool,
) -> Result<(), ArgumentError> {
    let owner = |name: &str| FLAGS.iter().find(|(flag, _)| *flag == name).map_or("", |flag| flag.1);
    let found = values.iter().map(|(name, _)| (*name, owner(name)));
    let mut foreign = found.filter(|(_, owner)| !owner.is_empty() && *owner != command);
    if let Some((name, owner)) = foreign.next() {
        return error(format!("`{name}` is an option of `{owner}`"));
    }
    match json && !matches!(command, "explain" | "usage" | "prices") {
        true => error("`--json` is an option of `explain`, `usage` and `prices`".to_owned()),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[track_caller]
    fn parsed(line: &str) -> Arguments {
        parse(&words(line)).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    fn name(command: &Command) -> &'static str {
        match command {
            Command::Serve => "serve",
            Command::Check => "check",
            Command::Explain(_) => "explain",
            Command::Usage { .. } => "usage",
            Command::Audit => "audit",
            Command::Prices { .. } => "prices",
            Command::Backup(_) => "backup",
            Command::HashKey => "hash-key",
            Command::Pull { .. } => "models pull",
            Command::ResetAdmin => "reset-admin",
            Command::Version => "version",
            Command::Help => "help",
        }
    }

    #[test]
    fn a_word_that_is_no_text_is_a_mistake_and_is_not_quoted() {
        use std::os::unix::ffi::OsStringExt;
        let words =
            |last: &[u8]| [b"check".to_vec(), last.to_vec()].into_iter().map(OsString::from_vec);
        assert_eq!(as_text(words(b"--json")).expect("text"), ["check", "--json"]);
        let why = as_text(words(b"caf\xe9")).expect_err("no text").to_string();
        assert!(why.starts_with("word 2 is not UTF-8;"), "{why}");
    }

    #[test]
    fn every_command_is_known() {
        let rows = [
            ("", "serve"),
            ("serve", "serve"),
            ("check", "check"),
            ("check --config a.toml", "check"),
            ("--config a.toml check", "check"),
            ("explain --path /v1", "explain"),
            ("hash-key", "hash-key"),
            ("reset-admin", "reset-admin"),
            ("usage --json", "usage"),
            ("models pull openai-main --config a.toml", "models pull"),
            ("usage export --from 2026-11-25 --user alice", "usage"),
            ("backup copy.db", "backup"),
            ("audit", "audit"),
            ("--version", "version"),
            ("-V", "version"),
            ("--help", "help"),
            ("serve -h", "help"),
            ("help", "help"),
            ("explain --help", "help"),
        ];
        for (line, expected) in rows {
            assert_eq!(name(&parsed(line).command), expected, "{line}");
        }
    }

    #[test]
    fn flags_take_their_value_either_way() {
        for line in [
            "-c f --host ::1 --port 1 --data-dir d --proxy http://p:1 --workers 2 --log-level warn",
            "--host=::1 --port=1 --data-dir=d --proxy=http://p:1 --workers=2 \
             --log-level=warn --config=f",
        ] {
            let all = parsed(line);
            let text = |text: &str| Some(text.to_owned());
            let expected = Overrides {
                host: text("::1"),
                port: text("1"),
                data_dir: text("d"),
                proxy: text("http://p:1"),
                workers: text("2"),
                log_level: text("warn"),
                bound: None,
            };
            assert!(all.overrides == expected, "{line}");
            assert_eq!(all.config.as_deref(), Some("f"));
        }
    }

    #[test]
    fn a_question_has_its_parts() {
        let all =
            parsed("explain --json --path /v1/messages?beta=true --key k --body - --method GET");
        let Command::Explain(question) = all.command else { panic!("it is a question") };
        assert!(question.json);
        assert_eq!(question.path, "/v1/messages?beta=true");
        assert_eq!(question.key.as_ref().map(Secret::expose), Some("k"));
        assert_eq!((question.method.as_str(), question.body.as_deref()), ("GET", Some("-")));
    }

    #[test]
    fn times_are_utc() {
        let day = 86_400_000;
        let rows = [
            ("1970-01-01", Some(0)),
            ("2000-02-29", Some(11_016 * day)),
            ("2000-03-01T00:00:01Z", Some(11_017 * day + 1_000)),
            ("2026-11-25 23:59:59", Some(20_783 * day - 1_000)),
            ("1969-12-31", Some(-day)),
            ("2100-02-29", None),
            ("2026-13-01", None),
            ("2026-00-01", None),
            ("2026-11-31", None),
            ("2026-11-1", None),
            ("2026-11-25T24:00:00Z", None),
            ("2026-11-25T1", None),
            ("", None),
        ];
        for (text, expected) in rows {
            assert_eq!(unix_ms(text), expected, "{text}");
        }
    }

    #[test]
    fn forbids_what_is_unknown_twice_or_without_value() {
        let rows = [
            ("chekc", "did you mean `check`?"),
            ("sk-something-secret", "unknown command;"),
            ("check check", "one command is enough"),
            ("--prt 1", "did you mean `--port`?"),
            ("--port", "`--port` needs a value"),
            ("--port 1 --port 2", "`--port` is given twice"),
            ("--config a -c b", "`--config` is given twice"),
            ("--json", "`--json` is an option of `explain`"),
            ("check --key k", "`--key` is an option of `explain`"),
            ("check --from 2026-11-25", "`--from` is an option of `usage`"),
            ("usage --from yesterday", "`--from` needs a day"),
            ("usage backup", "one command is enough"),
            ("backup", "`backup` needs the file"),
            ("backup a b", "one command is enough"),
            ("explain", "`explain` needs `--path`"),
            ("--help=yes", "`--help` has no value"),
            ("-x", "unknown option"),
            ("-", "unknown option"),
        ];
        for (line, part) in rows {
            let error = parse(&words(line)).err().map(|error| error.to_string());
            let error = error.unwrap_or_else(|| panic!("accepted: {line}"));
            assert!(error.contains(part), "{line}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn flags_of_v1_are_warned_of_with_their_value() {
        let all =
            parsed("--dsn sqlite://x check --admin-password=hunter2 --spoof-emulation chrome");
        assert_eq!(name(&all.command), "check");
        assert_eq!(all.warnings.len(), 3);
        assert!(all.warnings.iter().all(|warning| !warning.contains("hunter2")));
    }

    #[test]
    fn the_file_is_named_by_flag_variable_or_default() {
        let variable = |name: &str| (name == "GPROXY_CONFIG").then(|| "v.toml".to_owned());
        assert_eq!(parsed("-c f.toml").config_file(&variable), "f.toml");
        assert_eq!(parsed("").config_file(&variable), "v.toml");
        assert_eq!(parsed("").config_file(&|_| None), "config.toml");
    }

    #[test]
    fn help_names_every_command_and_flag() {
        for word in COMMANDS.iter().chain(FLAGS.iter().map(|(name, _)| name)) {
            assert!(HELP.contains(word), "{word}");
        }
    }
}

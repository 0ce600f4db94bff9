//! The start: the database beside the file, and an administrator where there is none.

use std::fmt;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::Source;
use super::seal::{self, Sealer, is_sealed};
use super::store::{Kept, SECRETS, State, put};
use crate::config::made::Made;
use crate::config::{ConfigError, Loaded, Named, Settings, declared};
use crate::ledger::accounts::Accounts;
use crate::ledger::entities::{Change, Edit, Record};
use crate::ledger::{self, Ledger, LedgerError, Synchronous};
use crate::route::health::Circuit;
use crate::route::snapshot::{Retention, Snapshot};
use crate::secret::{Digest, KeyId, Secret};

const CLOSE: Duration = Duration::from_secs(10);

/// What the start found.
pub struct Booted {
    /// The tables of the file and the database.
    pub snapshot: Snapshot,
    /// What was spent and called before.
    pub accounts: Accounts,
    /// What is probably not meant so.
    pub warnings: Vec<String>,
    /// An administrator that was made, and his key: nobody else will see it.
    pub made: Option<(String, Secret)>,
    /// What the interface stands on.
    pub base: Base,
    /// What was known of credentials.
    pub statuses: Vec<(String, Circuit)>,
    /// When keys were last used, in milliseconds since 1970.
    pub key_uses: Vec<(KeyId, i64)>,
}

/// What the interface stands on.
pub struct Base {
    /// The database, open.
    pub ledger: Arc<Ledger>,
    pub(super) state: State,
    pub(super) settings: Settings,
    pub(super) sealer: Option<Sealer>,
}

/// Why there is no start.
#[derive(Debug)]
pub enum BootError {
    /// The database cannot be opened.
    Ledger(LedgerError),
    /// The file and the database do not go together.
    Config(Vec<ConfigError>),
    /// Something else, in a sentence.
    Other(String),
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BootError::Ledger(error) => error.fmt(f),
            BootError::Config(errors) => {
                let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
                f.write_str(&texts.join("\n"))
            }
            BootError::Other(why) => f.write_str(why),
        }
    }
}

impl From<LedgerError> for BootError {
    fn from(error: LedgerError) -> BootError {
        BootError::Ledger(error)
    }
}

/// Opens the database and reads the file and its rows together. `loaded`: the file alone, whose
/// warnings are not told: the rows may make up for what it lacks. `lock`: of the process that hands
/// over.
pub fn boot(
    loaded: Loaded,
    source: &dyn Source,
    master: Option<&Secret>,
    now_ms: i64,
    lock: Option<File>,
) -> Result<Booted, BootError> {
    let settings = loaded.settings.clone();
    let (ledger, accounts, mut state, (statuses, key_uses)) = open(&loaded, now_ms, lock)?;
    state.text = source.read().map_err(|error| BootError::Config(vec![error]))?;
    let sealer = sealer(master)?;
    let mut warnings = Vec::new();
    seal_all(&ledger, &mut state, sealer.as_ref(), now_ms, &mut warnings)?;
    let load = |state: &mut State| {
        let made: Made = state.made(sealer.as_ref()).map_err(|fault| {
            BootError::Other(format!("{}; give it in GPROXY_MASTER_KEY", fault.message))
        })?;
        source.load(state.text.expose(), &made, &mut state.named).map_err(BootError::Config)
    };
    let mut both = load(&mut state)?;
    let mut made = None;
    if !both.snapshot.users.iter().any(|user| user.enabled && user.is_admin) {
        made = Some(make_admin(&ledger, &both.snapshot, &mut state.kept, now_ms)?);
        both = load(&mut state)?;
    }
    let unseen = state.unseen(&both);
    if let Some(change) = unseen.change(now_ms) {
        ledger.change(change).map_err(|why| BootError::Other(why.to_string()))?;
        state.see(unseen, &accounts);
    }
    // Not before: what the database says of it was not known when it was opened.
    ledger.retain(both.snapshot.retention);
    state.declared = both.declared;
    state.idle = both.forbidden.len();
    warnings.extend(both.warnings);
    let (ledger, snapshot) = (Arc::new(ledger), both.snapshot);
    let base = Base { ledger, state, settings, sealer };
    Ok(Booted { snapshot, accounts, warnings, made, base, statuses, key_uses })
}

/// The books, the accounts, what was made at run time, and what was known of credentials and keys.
type Opened = (Ledger, Accounts, State, (Vec<(String, Circuit)>, Vec<(KeyId, i64)>));

fn open(loaded: &Loaded, now_ms: i64, lock: Option<File>) -> Result<Opened, BootError> {
    let users = loaded.snapshot.users.iter();
    let users: Vec<(&str, i64)> = users.map(|user| (user.name.as_str(), user.cost_used)).collect();
    let folder = Path::new(&loaded.settings.data_dir);
    let synchronous =
        if loaded.settings.synchronous_full { Synchronous::Full } else { Synchronous::Normal };
    let opened = Ledger::open(folder, &users, now_ms, synchronous, Retention::NONE, lock)?;
    let (ledger, mut opening) = opened;
    let kept = std::mem::take(&mut opening.entities);
    let kept = kept.iter().map(Kept::read).collect::<Option<Vec<_>>>();
    let kept = kept.ok_or_else(|| BootError::Other("a row of the database is no object".into()))?;
    let top_ups = opening.top_ups.clone();
    let seen = std::mem::take(&mut opening.seen).into_iter().collect();
    let state = State {
        text: Secret::new(""),
        named: Named::new(),
        declared: Vec::new(),
        kept,
        idle: 0,
        top_ups,
        seen,
    };
    let (statuses, uses) = (&mut opening.statuses, &mut opening.key_uses);
    let known = (std::mem::take(statuses), std::mem::take(uses));
    Ok((ledger, Accounts::new(opening), state, known))
}

fn sealer(master: Option<&Secret>) -> Result<Option<Sealer>, BootError> {
    let Some(master) = master else { return Ok(None) };
    let short = || BootError::Other("the master key must have at least 32 characters".into());
    Sealer::new(master.expose()).map(Some).ok_or_else(short)
}

/// Seals what came before the master key, or says what stands there in clear.
fn seal_all(
    ledger: &Ledger,
    state: &mut State,
    sealer: Option<&Sealer>,
    now_ms: i64,
    warnings: &mut Vec<String>,
) -> Result<(), BootError> {
    let mut edits = Vec::new();
    for row in state.kept.iter_mut().filter(|row| row.section == "credentials") {
        let kept = |name: &&str| row.value.get(*name)?.as_str().filter(|text| !is_sealed(text));
        let clear = SECRETS.iter().find_map(|name| Some((*name, Secret::new(kept(name)?))));
        let Some((name, secret)) = clear else { continue };
        let Some(sealer) = sealer else {
            warnings.push(format!(
                "gproxy.db: the credential {} stands there in clear; give a master key to seal it",
                row.id
            ));
            continue;
        };
        let sealed = sealer.seal(secret.expose(), &row.id).ok_or_else(no_randomness)?;
        row.value.insert(name.into(), sealed.into());
        edits.push(put(row.section, &row.id, &row.value));
    }
    if edits.is_empty() {
        return Ok(());
    }
    write(ledger, edits, "change", "credentials", "all", now_ms)
}

fn no_randomness() -> BootError {
    BootError::Other("the system has no randomness".into())
}

fn write(
    ledger: &Ledger,
    edits: Vec<Edit>,
    action: &'static str,
    section: &'static str,
    entity: &str,
    now_ms: i64,
) -> Result<(), BootError> {
    let record = Record::new(now_ms, "", action, (section, entity));
    let records = vec![record];
    ledger.change(Change { edits, records }).map_err(|why| BootError::Other(why.to_string()))
}

/// A row as it is kept, and the edit that keeps it.
fn row(
    section: &'static str,
    id: String,
    value: Value,
    now_ms: i64,
) -> Result<(Kept, Edit), BootError> {
    let Value::Object(value) = value else { return Err(BootError::Other("no object".into())) };
    let edit = put(section, &id, &value);
    Ok((Kept { section, id, value, made_ms: now_ms, changed_ms: now_ms }, edit))
}

/// A new key of a user, as a row, and in clear.
fn key_of(user: &str, now_ms: i64) -> Result<((Kept, Edit), Secret), BootError> {
    let key = seal::new_key().map(Secret::new).ok_or_else(no_randomness)?;
    let digest = Digest::of(key.expose().as_bytes()).to_text();
    let id = digest.chars().skip("sha256:".len()).take(16).collect();
    let hint = declared::hint(key.expose());
    let value = json!({
        "user_name": user, "api_key": digest, "hint": hint, "label": "first key"
    });
    Ok((row("user_keys", id, value, now_ms)?, key))
}

/// Makes an administrator who may call everything.
fn make_admin(
    ledger: &Ledger,
    snapshot: &Snapshot,
    kept: &mut Vec<Kept>,
    now_ms: i64,
) -> Result<(String, Secret), BootError> {
    let is_made = |name: &str| kept.iter().any(|row| row.section == "users" && row.id == name);
    let is_taken =
        |name: &String| is_made(name) || snapshot.users.iter().any(|user| user.name == *name);
    let mut names = (1..).map(|number| match number {
        1 => "admin".to_owned(),
        _ => format!("admin-{number}"),
    });
    let name = names.find(|name| !is_taken(name)).unwrap_or_default();
    let user = json!({ "name": name, "is_admin": true });
    let permission = json!({ "user_name": name, "model_pattern": "*" });
    let id = format!("{}::*", name.replace('%', "%25").replace(':', "%3A"));
    let (key, secret) = key_of(&name, now_ms)?;
    let rows = [
        row("users", name.clone(), user, now_ms)?,
        row("permissions", id, permission, now_ms)?,
        key,
    ];
    let (rows, edits): (Vec<Kept>, Vec<Edit>) = rows.into_iter().unzip();
    write(ledger, edits, "create", "users", &name, now_ms)?;
    kept.extend(rows);
    Ok((name, secret))
}

/// Gives a locked-out operator a new key: of the administrator of the file or of the database, or
/// of one that is made. `loaded`: the file alone.
pub fn reset_admin(loaded: &Loaded, now_ms: i64) -> Result<(String, Secret), BootError> {
    let books = ledger::path(Path::new(&loaded.settings.data_dir));
    let found = books.try_exists();
    if !matches!(found, Ok(true)) {
        let path = std::path::absolute(&books).unwrap_or(books);
        let path = path.display();
        return Err(BootError::Other(match found {
            // Another user's folder, say.
            Err(error) => format!("cannot look for {path}: {error}"),
            Ok(_) => format!(
                "there is no {path}: give the --config and --data-dir of the gateway, in its \
                 folder; one that has never run makes an administrator when it starts"
            ),
        }));
    }
    let (ledger, _, mut state, _) = open(loaded, now_ms, None)?;
    let mut declared = loaded.snapshot.users.iter();
    let declared = declared.find(|user| user.enabled && user.is_admin);
    let is_admin = |row: &&mut Kept| {
        row.section == "users" && row.value.get("is_admin") == Some(&Value::Bool(true))
    };
    let made = state.kept.iter_mut().find(is_admin);
    let found = match (declared, made) {
        (Some(user), _) => Some((user.name.clone(), None)),
        (None, Some(row)) => {
            row.value.insert("enabled".into(), true.into());
            Some((row.id.clone(), Some(put(row.section, &row.id, &row.value))))
        }
        (None, None) => None,
    };
    let result = match found {
        Some((name, edit)) => {
            let ((_, key), secret) = key_of(&name, now_ms)?;
            let edits = edit.into_iter().chain([key]).collect();
            write(&ledger, edits, "reset", "users", &name, now_ms)?;
            (name, secret)
        }
        None => make_admin(&ledger, &loaded.snapshot, &mut state.kept, now_ms)?,
    };
    match ledger.close(CLOSE) {
        true => Ok(result),
        false => Err(BootError::Other("the database could not be written".into())),
    }
}

//! The administration interface: `/admin/api` for administrators, `/user/api` for everybody's own.
//!
//! Handlers are functions from a request, the tables and the store to an answer, and run on OS
//! threads of the office. Every path needs an administrator unless its route says otherwise, the
//! unknown ones too. A change is checked by the configuration's own rules, written in one
//! transaction with its audit row, and then counts from the next request on.

mod answer;
mod audit;
mod boot;
mod difference;
mod entities;
mod explain;
mod health;
mod kind;
mod logs;
mod openapi;
mod own;
mod prices;
mod recordings;
mod refusals;
mod reload;
mod route;
mod seal;
mod session;
mod settings;
mod standing;
mod store;
mod story;
mod usage;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use serde_json::{Map, Value};

use self::answer::{Answer, Fault};
pub use self::boot::{Base, BootError, Booted, boot, reset_admin};
use self::route::{Access, Area, Found, Route};
pub use self::seal::Sealer;
use self::session::{Session, Sessions};
use self::store::State;
use crate::admin::Page;
use crate::config::made::Made;
use crate::config::{ConfigError, Loaded, Named, Settings};
use crate::exchange::{Api, ApiRequest, Books, Core, Desk};
use crate::ledger::Ledger;
use crate::ledger::audit::Auditor;
use crate::route::snapshot::{self, Snapshot, User};
use crate::secret::Secret;

/// Where the file comes from, and what has to happen when its settings change.
pub trait Source: Send + Sync {
    /// The file's text, as it is now.
    fn read(&self) -> Result<Secret, ConfigError>;
    /// The tables of a text and the rows beside it. Files that the text names are read where
    /// `named` has them not, and stand there afterwards.
    fn load(&self, text: &str, made: &Made, named: &mut Named) -> Result<Loaded, Vec<ConfigError>>;
    /// Names of the settings of the process that something else than the file decides, and what
    /// that is: a flag or a variable.
    fn overridden(&self) -> Vec<(&'static str, &'static str)>;
    /// Reads what hangs on the tables but is none of them: whether it is sound.
    fn check(&self, loaded: &Loaded) -> Result<(), String>;
    /// Puts that in place.
    fn apply(&self, loaded: &Loaded) -> Result<(), String>;
}

/// The interface of one process.
pub struct Interface {
    core: Arc<Core>,
    books: Arc<Books>,
    ledger: Arc<Ledger>,
    folder: PathBuf,
    settings: Settings,
    source: Box<dyn Source>,
    sealer: Option<Sealer>,
    state: Mutex<State>,
    // Another process reads the rows, to go on with them: a change now would be lost to it.
    stands_still: AtomicBool,
    sessions: Sessions,
    auditor: Auditor,
    routes: Vec<Route>,
    started_ms: i64,
}

/// Who calls.
pub(crate) struct Caller {
    /// An index into the snapshot of the request.
    user: usize,
    /// His key: the one that was sent, or that opened the session.
    key: Option<usize>,
    session: Option<Session>,
}

/// A request that found its route.
pub(crate) struct Call<'a> {
    api: &'a Interface,
    request: &'a ApiRequest,
    caller: Option<Caller>,
    area: Area,
    /// What stands in the path's braces.
    id: String,
    query: Map<String, Value>,
    body: Map<String, Value>,
}

impl Interface {
    /// The interface over what [`boot`] found.
    pub fn new(
        core: Arc<Core>,
        books: Arc<Books>,
        base: Base,
        folder: PathBuf,
        source: Box<dyn Source>,
    ) -> Interface {
        let started_ms = core.unix_ms();
        let Base { ledger, state, settings, sealer } = base;
        let (state, sessions, routes) = (Mutex::new(state), Sessions::default(), route::all());
        let auditor = Auditor::default();
        Interface {
            core,
            books,
            ledger,
            folder,
            settings,
            source,
            sealer,
            state,
            stands_still: AtomicBool::new(false),
            sessions,
            auditor,
            routes,
            started_ms,
        }
    }

    /// Changes are refused from now on, or taken again. One that is under way is waited for.
    pub fn stand_still(&self, still: bool) {
        let _state = self.state.lock();
        self.stands_still.store(still, Ordering::Release);
    }

    fn dispatch(&self, request: &ApiRequest) -> Result<Answer, Fault> {
        let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
        let found = route::find(&self.routes, &request.method, path);
        let caller = self.caller(request);
        let area = route::area_of(path);
        let is_open = matches!(&found, Found::Route(route, _) if route.access == Access::Open);
        if !is_open {
            self.check(request, area, caller.as_ref())?;
        }
        let (route, id) = match found {
            Found::Route(route, id) => (route, id),
            Found::Nothing => return Err(Fault::not_found()),
            Found::Methods(methods) => {
                let fields = vec![("allow", methods.clone())];
                let message = format!("this path takes {methods}");
                return Err(Fault { fields, ..Fault::new(405, message) });
            }
        };
        let query = route.query(query)?;
        let body = route.body(request)?;
        (route.run)(route, &Call { api: self, request, caller, area, id, query, body })
    }

    /// Whether the caller may be here at all.
    fn check(
        &self,
        request: &ApiRequest,
        area: Area,
        caller: Option<&Caller>,
    ) -> Result<(), Fault> {
        let Some(caller) = caller else {
            let fields = vec![("www-authenticate", "Bearer realm=\"gproxy\"".to_owned())];
            let message = "log in, or send a key as `Authorization: Bearer`";
            return Err(Fault { fields, ..Fault::new(401, message) });
        };
        if area == Area::Admin && !request.snapshot.users[caller.user].is_admin {
            return Err(Fault::new(403, "this needs an administrator"));
        }
        let is_read = matches!(request.method.as_str(), "GET" | "HEAD");
        match &caller.session {
            Some(session) if !is_read => {
                let told = request.field("x-gproxy-csrf").unwrap_or_default();
                let digest = |text: &str| crate::secret::Digest::of(text.as_bytes());
                if digest(told) != digest(&session.csrf) {
                    let message = "a write with a cookie needs the session's `x-gproxy-csrf`";
                    return Err(Fault::new(403, message));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn caller(&self, request: &ApiRequest) -> Option<Caller> {
        // A wrong key is wrong, whatever cookie comes with it.
        if request.has_key() {
            let snapshot::Caller { user, key } = request.key?;
            return Some(Caller { user, key: Some(key), session: None });
        }
        let now_ms = self.core.unix_ms();
        let session = self.sessions.of(request, now_ms)?;
        let user = user_named(&request.snapshot, &session.user)?;
        let from = session::address(request);
        if !session.stands(&request.snapshot, user, from, now_ms) {
            return None;
        }
        let key = session.key(&request.snapshot.users[user]);
        Some(Caller { user, key, session: Some(session) })
    }
}

/// The enabled user of that name.
fn user_named(snapshot: &Snapshot, name: &str) -> Option<usize> {
    snapshot.users.iter().position(|user| user.enabled && user.name == name)
}

impl Call<'_> {
    fn user(&self) -> Result<&User, Fault> {
        let caller = self.caller.as_ref().ok_or_else(|| Fault::new(401, "log in"))?;
        Ok(&self.request.snapshot.users[caller.user])
    }

    /// Who does it, for the audit.
    fn who(&self) -> String {
        self.user().map_or_else(|_| String::new(), |user| user.name.clone())
    }

    /// A text of the query or the body.
    fn text<'m>(map: &'m Map<String, Value>, name: &str) -> Option<&'m str> {
        map.get(name).and_then(Value::as_str)
    }
}

impl Api for Interface {
    fn desk(&self, method: &str, path: &str) -> Desk {
        match path.rsplit('/').next() {
            Some("session") if method == "POST" => Desk::Passwords,
            Some("test" | "pull") if method == "POST" => Desk::Answers,
            _ => Desk::Api,
        }
    }

    fn answer(&self, mut request: ApiRequest) -> Page {
        let (from, now_ms) = (session::address(&request), self.core.unix_ms());
        let lets_in = |now: &_, caller| session::lets_in(now, caller, from, now_ms);
        request.renew(self.core.snapshot(), lets_in);
        match self.dispatch(&request) {
            Ok(answer) => answer.into(),
            Err(fault) => fault.into(),
        }
    }

    fn refused(&self, status: u16, message: &str) -> Page {
        Fault::new(status, message).into()
    }
}

//! Which request is answered by what: one table, from which the document for clients is made too.

use serde_json::{Map, Value, json};

use super::answer::{Answer, Fault};
use super::kind::{KINDS, Kind};
use super::{
    Call, audit, entities, explain, health, logs, openapi, own, prices, recordings, refusals,
    reload, settings, standing, story, usage,
};
use crate::exchange::ApiRequest;

/// Who may call.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Anybody.
    Open,
    /// Whom the area lets in.
    Area,
}

/// The two halves of the interface.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Area {
    /// `/admin/api`: administrators, everything.
    Admin,
    /// `/user/api`: everybody, his own.
    User,
}

/// What answers a call.
pub(super) type Run = fn(&Route, &Call<'_>) -> Result<Answer, Fault>;

/// One method of one path.
pub(super) struct Route {
    pub(super) method: &'static str,
    /// With `{id}` where a name stands.
    pub(super) path: String,
    pub(super) access: Access,
    pub(super) name: String,
    pub(super) says: String,
    pub(super) kind: Option<&'static Kind>,
    pub(super) query: Vec<Param>,
    /// Schema of the body; `None`: it has none.
    pub(super) body: Option<Value>,
    /// Status and schema of the answer.
    pub(super) answer: (u16, Value),
    pub(super) run: Run,
}

/// A parameter of a query.
pub(super) struct Param {
    pub(super) name: &'static str,
    pub(super) schema: Value,
    pub(super) says: &'static str,
    pub(super) is_required: bool,
}

/// What was found for a request.
pub(super) enum Found<'r> {
    Route(&'r Route, String),
    /// The path is there, with these methods.
    Methods(String),
    Nothing,
}

/// Everything that is served.
pub(super) fn all() -> Vec<Route> {
    let mut all = Vec::new();
    for kind in &KINDS {
        all.extend(entities::routes(kind));
    }
    all.extend(standing::routes());
    all.extend(health::routes());
    all.extend(own::routes());
    all.extend(usage::routes());
    all.extend(explain::routes());
    all.extend(audit::routes());
    all.extend(settings::routes());
    all.extend(prices::routes());
    all.extend(recordings::routes());
    all.extend(refusals::routes());
    all.extend(reload::routes());
    all.extend(logs::routes());
    all.extend(story::routes());
    all.push(Route::new(
        "GET",
        "/admin/api/openapi.json",
        "openapi",
        "This document.",
        openapi::show,
    ));
    all
}

impl Route {
    pub(super) fn new(method: &'static str, path: &str, name: &str, says: &str, run: Run) -> Route {
        Route {
            method,
            path: path.to_owned(),
            access: Access::Area,
            name: name.to_owned(),
            says: says.to_owned(),
            kind: None,
            query: Vec::new(),
            body: None,
            answer: (200, json!({ "type": "object" })),
            run,
        }
    }

    pub(super) fn answers(self, status: u16, schema: Value) -> Route {
        Route { answer: (status, schema), ..self }
    }

    pub(super) fn takes(self, body: Value) -> Route {
        Route { body: Some(body), ..self }
    }

    pub(super) fn asks(self, query: Vec<Param>) -> Route {
        Route { query, ..self }
    }

    pub(super) fn open(self) -> Route {
        Route { access: Access::Open, ..self }
    }

    /// The query, every parameter known and of its type.
    pub(super) fn query(&self, query: &str) -> Result<Map<String, Value>, Fault> {
        let mut found = Map::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decode(name, true), decode(value, true));
            let (Some(name), Some(value)) = (name, value) else {
                return Err(Fault::new(400, "the query is not well encoded"));
            };
            let Some(param) = self.query.iter().find(|param| param.name == name) else {
                return Err(Fault::invalid(&name, "there is no such parameter"));
            };
            let value = param.read(&value)?;
            if found.insert(name.clone(), value).is_some() {
                return Err(Fault::invalid(&name, "is given twice"));
            }
        }
        for param in self.query.iter().filter(|param| param.is_required) {
            if !found.contains_key(param.name) {
                return Err(Fault::invalid(param.name, "this parameter is missing"));
            }
        }
        Ok(found)
    }

    /// The body, if there should be one.
    pub(super) fn body(&self, request: &ApiRequest) -> Result<Map<String, Value>, Fault> {
        let Some(schema) = &self.body else {
            return match request.body.is_empty() {
                true => Ok(Map::new()),
                false => Err(Fault::new(400, "this call takes no body")),
            };
        };
        let told = request.field("content-type").unwrap_or_default();
        let told = told.split(';').next().unwrap_or_default().trim();
        if !told.eq_ignore_ascii_case("application/json") {
            return Err(Fault::new(415, "the body must be JSON, told as application/json"));
        }
        let body: Value = serde_json::from_slice(&request.body)
            .map_err(|error| Fault::new(400, format!("the body is not sound JSON: {error}")))?;
        let Value::Object(body) = openapi::whole(body) else {
            return Err(Fault::new(400, "the body must be a JSON object"));
        };
        let known = &schema["properties"];
        for (name, value) in &body {
            let Some(schema) = known.get(name) else {
                return Err(Fault::invalid(name, "there is no such field"));
            };
            openapi::fits(schema, value).map_err(|why| Fault::invalid(name, why))?;
        }
        for name in schema["required"].as_array().into_iter().flatten() {
            let name = name.as_str().unwrap_or_default();
            if !body.contains_key(name) {
                return Err(Fault::invalid(name, "this field is missing"));
            }
        }
        Ok(body)
    }
}

impl Param {
    fn new(name: &'static str, schema: Value, says: &'static str) -> Param {
        Param { name, schema, says, is_required: false }
    }

    pub(super) fn required(mut self) -> Param {
        self.schema["minLength"] = json!(1);
        Param { is_required: true, ..self }
    }

    pub(super) fn text(name: &'static str, says: &'static str) -> Param {
        Param::new(name, json!({ "type": "string", "maxLength": 512 }), says)
    }

    pub(super) fn spelled(name: &'static str, pattern: String, says: &'static str) -> Param {
        Param::new(name, json!({ "type": "string", "pattern": pattern }), says)
    }

    pub(super) fn flag(name: &'static str, says: &'static str) -> Param {
        Param::new(name, json!({ "type": "boolean" }), says)
    }

    pub(super) fn count(name: &'static str, least: i64, most: i64, says: &'static str) -> Param {
        let schema = json!({ "type": "integer", "minimum": least, "maximum": most });
        Param::new(name, schema, says)
    }

    fn read(&self, text: &str) -> Result<Value, Fault> {
        let value = match self.schema["type"].as_str() {
            Some("boolean") => text.parse::<bool>().map(Value::from).ok(),
            Some("integer") => text.parse::<i64>().map(Value::from).ok(),
            _ => Some(Value::from(text)),
        };
        let value = value.ok_or_else(|| Fault::invalid(self.name, "is of another type"))?;
        openapi::fits(&self.schema, &value).map_err(|why| Fault::invalid(self.name, why))?;
        Ok(value)
    }
}

/// Which half a path belongs to. What is not the users' needs an administrator.
pub(super) fn area_of(path: &str) -> Area {
    if path.starts_with("/user/api") { Area::User } else { Area::Admin }
}

/// The route of a request.
pub(super) fn find<'r>(routes: &'r [Route], method: &str, path: &str) -> Found<'r> {
    let mut methods: Vec<&str> = Vec::new();
    for route in routes {
        let Some(id) = matches(&route.path, path) else { continue };
        // Who may GET may look at the head.
        if route.method == method || (method == "HEAD" && route.method == "GET") {
            return Found::Route(route, id);
        }
        methods.push(route.method);
    }
    if methods.is_empty() { Found::Nothing } else { Found::Methods(methods.join(", ")) }
}

/// The name in a path that has the route's form. A literal segment has one spelling only.
fn matches(form: &str, path: &str) -> Option<String> {
    let (mut form, mut path) = (form.split('/'), path.split('/'));
    let mut id = String::new();
    loop {
        match (form.next(), path.next()) {
            (None, None) => return Some(id),
            (Some("{id}"), Some(segment)) => {
                id = decode(segment, false)?;
                if id.is_empty() || id.contains('\0') || matches!(id.as_str(), "." | "..") {
                    return None;
                }
            }
            (Some(literal), Some(segment)) if literal == segment => {}
            _ => return None,
        }
    }
}

/// Text without its percent signs; `None`: it is broken.
fn decode(text: &str, plus_is_space: bool) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                out.push((digit()? * 16 + digit()?) as u8);
            }
            b'+' if plus_is_space => out.push(b' '),
            _ => out.push(byte),
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_spelling_but_for_the_name_in_it() {
        let rows = [
            ("/admin/api/users/{id}", "/admin/api/users/a%2Fb%20c", Some("a/b c")),
            ("/admin/api/users/{id}", "/admin/api/users/", None),
            ("/admin/api/users/{id}", "/admin/api/users/..", None),
            ("/admin/api/users/{id}", "/admin/api/users/%2e%2e", None),
            ("/admin/api/users/{id}", "/admin/api/users/a%00", None),
            ("/admin/api/users/{id}", "/admin/api/users/a%zz", None),
            ("/admin/api/users/{id}", "/admin/api/users/%ff", None),
            ("/admin/api/users/{id}", "/admin/api//users/a", None),
            ("/admin/api/users/{id}", "/admin/api/users/a/", None),
            ("/admin/api/users", "/admin/api/users", Some("")),
            ("/admin/api/users", "/admin/api/%75sers", None),
            (
                "/admin/api/quotas/{id}/top_ups",
                "/admin/api/quotas/a:total/top_ups",
                Some("a:total"),
            ),
        ];
        for (form, path, expected) in rows {
            assert_eq!(matches(form, path).as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn no_two_routes_share_a_method_and_a_path_and_only_sessions_are_open() {
        let routes = all();
        for (at, route) in routes.iter().enumerate() {
            let same = |other: &&Route| other.method == route.method && other.path == route.path;
            assert_eq!(routes.iter().position(|other| same(&other)), Some(at), "{}", route.path);
            let names = routes.iter().filter(|other| other.name == route.name).count();
            assert_eq!(names, 1, "{}", route.name);
            let is_login = route.method == "POST" && route.path.ends_with("/api/session");
            assert_eq!(route.access == Access::Open, is_login, "{}", route.path);
        }
    }

    #[test]
    fn there_is_no_deletion_of_many() {
        let deletions = all();
        let deletions = deletions.iter().filter(|route| route.method == "DELETE");
        for route in deletions.filter(|route| !route.path.ends_with("/session")) {
            assert!(route.path.contains("{id}") || route.path == "/user/api/sessions");
        }
    }
}

//! What the interface answers: JSON, or a fault with a code, a message and the field it is about.

use serde_json::{Map, Value, json};

use crate::admin::Page;
use crate::config::ConfigError;

/// An answer that is no fault.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Value,
    pub(super) fields: Vec<(&'static str, String)>,
}

impl Answer {
    pub(super) fn ok(body: Value) -> Answer {
        Answer { status: 200, body, fields: Vec::new() }
    }

    pub(super) fn made(body: Value) -> Answer {
        Answer { status: 201, body, fields: Vec::new() }
    }

    pub(super) fn nothing() -> Answer {
        Answer { status: 204, body: Value::Null, fields: Vec::new() }
    }
}

/// Why there is no such answer.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) status: u16,
    pub(super) code: &'static str,
    pub(super) message: String,
    pub(super) field: Option<String>,
    pub(super) fields: Vec<(&'static str, String)>,
}

/// Every status of a fault and its code.
pub(super) const CODES: [(u16, &str); 11] = [
    (400, "invalid"),
    (401, "unauthorized"),
    (403, "forbidden"),
    (404, "not_found"),
    (405, "method_not_allowed"),
    (409, "conflict"),
    (413, "too_large"),
    (415, "not_json"),
    (429, "rate_limited"),
    (502, "upstream"),
    (503, "unavailable"),
];

impl Fault {
    pub(super) fn new(status: u16, message: impl Into<String>) -> Fault {
        let code = CODES.into_iter().find(|(known, _)| *known == status);
        let code = code.map_or("internal", |(_, code)| code);
        Fault { status, code, message: message.into(), field: None, fields: Vec::new() }
    }

    pub(super) fn invalid(field: &str, message: impl Into<String>) -> Fault {
        Fault { field: Some(field.to_owned()), ..Fault::new(400, message) }
    }

    pub(super) fn not_found() -> Fault {
        Fault::new(404, "there is no such thing")
    }

    /// A mistake that the configuration's own rules found in the row `own`, or elsewhere because
    /// of it.
    pub(super) fn of_config(errors: &[ConfigError], own: Option<usize>) -> Fault {
        let mine = errors.iter().find(|error| own.is_some() && error.row == own);
        match (mine, errors.first()) {
            (Some(error), _) if error.key.is_empty() => Fault::new(400, error.why.clone()),
            // It is sound and does not go with the rest.
            (Some(error), _)
                if error.why.contains(" is declared ") || error.why.starts_with("there is no ") =>
            {
                Fault { field: Some(error.key.clone()), ..Fault::new(409, error.why.clone()) }
            }
            (Some(error), _) => Fault::invalid(field_of(error), error.why.clone()),
            (None, Some(error)) => Fault::new(409, error.to_string()),
            (None, None) => Fault::new(409, "the configuration would not be sound"),
        }
    }

    /// The row `own` has an address that it may not have.
    pub(super) fn of_fence(fenced: &[ConfigError], own: Option<usize>) -> Option<Fault> {
        let mine = fenced.iter().find(|error| own.is_some() && error.row == own)?;
        let field = Some(field_of(mine).to_owned());
        Some(Fault { code: "fenced", field, ..Fault::new(409, mine.why.clone()) })
    }
}

/// The field within its own row. A credential stands in its provider's.
fn field_of(error: &ConfigError) -> &str {
    let key = error.key.strip_prefix("credentials[").and_then(|key| key.split_once("]."));
    key.map_or(&error.key, |(_, key)| key)
}

fn page(status: u16, body: Vec<u8>, fields: Vec<(&'static str, String)>) -> Page {
    let mut all = vec![
        ("cache-control", "no-store".to_owned()),
        ("x-content-type-options", "nosniff".to_owned()),
        ("content-security-policy", "default-src 'none'; frame-ancestors 'none'".to_owned()),
    ];
    all.extend(fields);
    let content_type = "application/json";
    Page { name: "api", status, content_type, body, fields: all }
}

impl From<Answer> for Page {
    fn from(answer: Answer) -> Page {
        let body = match answer.body {
            Value::Null => Vec::new(),
            body => (body.to_string() + "\n").into_bytes(),
        };
        page(answer.status, body, answer.fields)
    }
}

impl From<Fault> for Page {
    fn from(fault: Fault) -> Page {
        let mut error = Map::new();
        error.insert("code".into(), fault.code.into());
        error.insert("message".into(), fault.message.into());
        if let Some(field) = fault.field {
            error.insert("field".into(), field.into());
        }
        let body = (json!({ "error": error }).to_string() + "\n").into_bytes();
        page(fault.status, body, fault.fields)
    }
}

//! The document for clients: OpenAPI 3.1, made from the table that also routes.

use serde_json::{Map, Value, json};

use super::Call;
use super::answer::{Answer, CODES, Fault};
use super::route::{Access, Route};

pub(super) fn show(_: &Route, call: &Call<'_>) -> Result<Answer, Fault> {
    Ok(Answer::ok(document(&call.api.routes)))
}

/// The document of these routes.
pub(super) fn document(routes: &[Route]) -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for route in routes {
        let path = paths.entry(route.path.clone()).or_insert_with(|| json!({}));
        path[route.method.to_ascii_lowercase()] = operation(route);
    }
    let fault = json!({
        "type": "object", "required": ["error"],
        "properties": { "error": {
            "type": "object", "required": ["code", "message"],
            "properties": {
                "code": { "type": "string" },
                "message": { "type": "string" },
                "field": { "type": "string", "description": "The field that it is about." }
            }
        } }
    });
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "gproxy",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Administration of a gateway for LLM APIs."
        },
        "paths": paths,
        "components": {
            "schemas": { "Error": fault },
            "securitySchemes": {
                "key": { "type": "http", "scheme": "bearer" },
                "session": { "type": "apiKey", "in": "cookie", "name": "gproxy_session" }
            }
        },
        "security": [{ "key": [] }, { "session": [] }]
    })
}

fn operation(route: &Route) -> Value {
    let mut parameters = Vec::new();
    if route.path.contains("{id}") {
        parameters.push(json!({
            "name": "id", "in": "path", "required": true,
            "schema": { "type": "string", "minLength": 1 }
        }));
    }
    for param in &route.query {
        parameters.push(json!({
            "name": param.name, "in": "query", "schema": param.schema, "description": param.says,
            "required": param.is_required
        }));
    }
    let (status, schema) = &route.answer;
    let mut responses = Map::new();
    let mut good = json!({ "description": "Well." });
    if !schema.is_null() {
        good["content"] = json!({ "application/json": { "schema": schema } });
    }
    responses.insert(status.to_string(), good);
    for (status, code) in CODES {
        responses.insert(
            status.to_string(),
            json!({
                "description": code,
                "content": { "application/json": {
                    "schema": { "$ref": "#/components/schemas/Error" }
                } }
            }),
        );
    }
    let tag = route.path.split('/').nth(3).unwrap_or_default();
    let mut operation = json!({
        "operationId": route.name,
        "summary": route.says,
        "tags": [tag],
        "parameters": parameters,
        "responses": responses
    });
    if let Some(body) = &route.body {
        operation["requestBody"] = json!({
            "required": true, "content": { "application/json": { "schema": body } }
        });
    }
    if route.access == Access::Open {
        operation["security"] = json!([]);
    }
    operation
}

/// The value with its whole numbers written as such: to a schema, 1.0 is an integer.
pub(super) fn whole(value: Value) -> Value {
    match value {
        Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
            Some(float) if float.fract() == 0.0 && float.abs() < 1e15 => json!(float as i64),
            _ => Value::Number(number),
        },
        Value::Array(items) => items.into_iter().map(whole).collect(),
        Value::Object(fields) => {
            Value::Object(fields.into_iter().map(|(name, value)| (name, whole(value))).collect())
        }
        value => value,
    }
}

/// Text without control characters and without anything that looks like something else.
pub(super) const PRINTABLE: &str = "^[ -~]+$";
/// The same without spaces.
pub(super) const GRAPHIC: &str = "^[!-~]+$";

/// Whether a value is what a schema of ours says, as far as schemas of ours go; or why not.
pub(super) fn fits(schema: &Value, value: &Value) -> Result<(), String> {
    if let Some(choices) = schema["anyOf"].as_array() {
        let mut results = choices.iter().map(|choice| fits(choice, value));
        let first = results.next().unwrap_or(Ok(()));
        if first.is_err() && !results.any(|result| result.is_ok()) {
            return first;
        }
    }
    let is_type = match schema["type"].as_str() {
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("null") => value.is_null(),
        _ => true,
    };
    if !is_type {
        return Err(format!("must be of type {}", schema["type"].as_str().unwrap_or_default()));
    }
    match value {
        Value::String(text) => fits_text(schema, text),
        Value::Number(number) => {
            let number = number.as_i64().map_or(i128::MAX, i128::from);
            let bound = |name: &str| schema[name].as_i64().map(i128::from);
            match (bound("minimum"), bound("maximum")) {
                (Some(least), Some(most)) if number < least || number > most => {
                    Err(format!("must be from {least} to {most}"))
                }
                _ => Ok(()),
            }
        }
        Value::Array(items) => {
            if schema["maxItems"].as_u64().is_some_and(|most| items.len() as u64 > most) {
                return Err(format!("must have at most {} items", schema["maxItems"]));
            }
            items.iter().try_for_each(|item| fits(&schema["items"], item))
        }
        Value::Object(fields) => fits_object(schema, fields),
        Value::Null | Value::Bool(_) => Ok(()),
    }
}

fn fits_object(schema: &Value, fields: &Map<String, Value>) -> Result<(), String> {
    let closed = schema["additionalProperties"] == Value::Bool(false);
    for (name, value) in fields {
        match schema["properties"].get(name) {
            Some(schema) => fits(schema, value)?,
            None if closed => return Err(format!("has no field {name:?}")),
            None => {}
        }
    }
    for name in schema["required"].as_array().into_iter().flatten() {
        if !name.as_str().is_some_and(|name| fields.contains_key(name)) {
            return Err(format!("needs the field {name}"));
        }
    }
    Ok(())
}

fn fits_text(schema: &Value, text: &str) -> Result<(), String> {
    let length = text.chars().count() as u64;
    if schema["minLength"].as_u64().is_some_and(|least| length < least) {
        return Err(format!("must have at least {} characters", schema["minLength"]));
    }
    if schema["maxLength"].as_u64().is_some_and(|most| length > most) {
        return Err(format!("must have at most {} characters", schema["maxLength"]));
    }
    if let Some(names) = schema["enum"].as_array()
        && !names.iter().any(|name| name == text)
    {
        return Err(format!("must be one of {}", schema["enum"]));
    }
    let forbidden = schema["not"]["enum"].as_array();
    if forbidden.is_some_and(|names| names.iter().any(|name| name == text)) {
        return Err(format!("must be none of {}", schema["not"]["enum"]));
    }
    // Other patterns say what the configuration's rules say, which are asked later.
    let fits = match schema["pattern"].as_str() {
        Some(PRINTABLE) => text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()),
        Some(GRAPHIC) => text.bytes().all(|byte| byte.is_ascii_graphic()),
        _ => true,
    };
    if fits { Ok(()) } else { Err("must be of printable ASCII characters".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::super::route;
    use super::*;

    #[test]
    fn the_document_has_every_route_and_refers_to_nothing_that_is_not_there() {
        let routes = route::all();
        let document = document(&routes);
        assert_eq!(document["openapi"], "3.1.0");
        for route in &routes {
            let method = route.method.to_ascii_lowercase();
            let operation = &document["paths"][&route.path][method];
            assert_eq!(operation["operationId"], route.name.as_str());
            let places = route.path.matches("{id}").count();
            assert!(places <= 1, "{}", route.path);
        }
        let operations = document["paths"].as_object().expect("paths").values();
        let count: usize = operations.map(|path| path.as_object().expect("a path").len()).sum();
        assert_eq!(count, routes.len());
        let text = document.to_string();
        let refs = text.matches("\"$ref\":").count();
        assert_eq!(refs, text.matches("\"$ref\":\"#/components/schemas/Error\"").count());
    }

    #[test]
    fn a_number_without_a_fraction_is_whole() {
        let told = json!({ "a": 1.0, "b": [2.5, 3], "c": { "d": -4.0 }, "e": 1e300 });
        assert_eq!(whole(told), json!({ "a": 1, "b": [2.5, 3], "c": { "d": -4 }, "e": 1e300 }));
    }

    #[test]
    fn forbids_and_allows_what_a_schema_says() {
        let schema = json!({
            "type": "object", "additionalProperties": false, "required": ["a"],
            "properties": {
                "a": { "type": "string", "minLength": 1, "maxLength": 3 },
                "b": { "type": "integer", "minimum": 1, "maximum": 9 },
                "c": { "anyOf": [{ "type": "boolean" }, { "type": "null" }] },
                "d": { "type": "array", "maxItems": 1, "items": { "type": "string" } },
                "e": { "type": "string", "enum": ["x", "y"] },
                "f": { "type": "string", "pattern": GRAPHIC, "not": { "enum": [".", ".."] } },
                "g": { "type": "object", "anyOf": [{ "required": ["x"] }, { "required": ["y"] }],
                    "properties": { "x": { "type": "integer" } } }
            }
        });
        for good in [
            json!({ "a": "abc" }),
            json!({ "a": "äöü", "b": 9, "c": null, "d": ["x"], "e": "y" }),
            json!({ "a": "a", "c": true, "f": "..." }),
            json!({ "a": "a", "g": { "x": 1 } }),
            json!({ "a": "a", "g": { "y": null } }),
        ] {
            assert_eq!(fits(&schema, &good), Ok(()), "{good}");
        }
        for bad in [
            json!([]),
            json!({}),
            json!({ "a": "" }),
            json!({ "a": "abcd" }),
            json!({ "a": 1 }),
            json!({ "a": "a", "b": 0 }),
            json!({ "a": "a", "b": 10 }),
            json!({ "a": "a", "b": u64::MAX }),
            json!({ "a": "a", "b": 1.5 }),
            json!({ "a": "a", "c": "true" }),
            json!({ "a": "a", "d": ["x", "y"] }),
            json!({ "a": "a", "d": [1] }),
            json!({ "a": "a", "e": "z" }),
            json!({ "a": "a", "f": "two words" }),
            json!({ "a": "a", "f": "ü" }),
            json!({ "a": "a", "f": ".." }),
            json!({ "a": "a", "g": 1 }),
            json!({ "a": "a", "g": {} }),
            json!({ "a": "a", "g": { "x": "1" } }),
            json!({ "a": "a", "h": 1 }),
        ] {
            assert!(fits(&schema, &bad).is_err(), "{bad}");
        }
    }
}

//! What can be made and changed: the sections of the configuration, and their fields as the
//! interface describes them.
//!
//! What a field may hold is decided by the configuration's own reader; the table here says which
//! fields name a row, which are secret, and what the document for clients tells.

use serde_json::{Map, Value, json};

use super::openapi::{GRAPHIC, PRINTABLE};
use crate::limits;
use crate::route::channel::CHANNELS;

/// An amount in USD, up to nine million.
pub(super) const MONEY: &str = "^([0-8]?[0-9]{1,6}(\\.[0-9]{1,12})?|9000000(\\.0{1,12})?)$";

/// A time in UTC, to the second.
const INSTANT: &str = "^(19[7-9][0-9]|[2-9][0-9]{3})-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])\
    T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]Z$";

/// A pattern over model names, without what is special in patterns elsewhere.
const PATTERN: &str = "^[\"#%-'*+.-Z_-z~-]+$";

/// A section that the interface serves.
pub(super) struct Kind {
    /// Its name in the configuration and in paths.
    pub(super) section: &'static str,
    /// Name of one of it, for people and schemas.
    pub(super) one: &'static str,
    /// The fields whose values name a row, in order.
    pub(super) names: &'static [&'static str],
    pub(super) fields: &'static [Field],
}

/// A field of a section's rows.
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) shape: Shape,
    pub(super) is: Is,
    pub(super) says: &'static str,
}

/// How a field may be used.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Is {
    /// Has to be there, and never changes.
    Name,
    /// Never changes.
    Fixed,
    Required,
    Optional,
    /// Is taken and never shown.
    Secret,
    /// Is shown and never taken.
    Shown,
}

/// What values look like.
#[derive(Clone, Copy)]
pub(super) enum Shape {
    /// A provider's name.
    Slug,
    /// A user's name, of a user that is made.
    Name,
    /// A user's name.
    User,
    Model,
    Pattern,
    /// The kind of an upstream.
    Channel,
    Text(usize),
    Flag,
    /// A time in UTC.
    Instant,
    /// Ranges of addresses.
    Networks,
    Count(u64, u64),
    Money,
    Choice(&'static [&'static str]),
    Password,
    Credential,
    Credentials,
    /// A service account's file.
    Account,
    Object,
    Tiers,
    /// Who may serve an alias.
    Targets,
}

const fn field(name: &'static str, shape: Shape, is: Is, says: &'static str) -> Field {
    Field { name, shape, is, says }
}

const TRILLION: u64 = 1_000_000_000_000;
const ENABLED: Field = field("enabled", Shape::Flag, Is::Optional, "Off: as if it did not exist.");
const USER: Field = field("user_name", Shape::User, Is::Name, "Whose it is.");
const PROVIDER: Field = field("provider_name", Shape::Slug, Is::Name, "The provider.");
const CALL: Shape = Shape::Money;
/// Of a credential.
const CEILING: Shape = Shape::Count(1, TRILLION);
const INSTANT_MS: Shape = Shape::Count(0, i64::MAX as u64);

/// All of them.
pub(super) const KINDS: [Kind; 10] = [
    Kind {
        section: "users",
        one: "user",
        names: &["name"],
        fields: &[
            field("name", Shape::Name, Is::Name, "Names the user everywhere."),
            field("is_admin", Shape::Flag, Is::Optional, "May use this interface."),
            ENABLED,
            field("password", Shape::Password, Is::Secret, "Opens a session."),
            field("has_password", Shape::Flag, Is::Shown, "A password was set."),
        ],
    },
    Kind {
        section: "user_keys",
        one: "user key",
        names: &["api_key"],
        fields: &[
            USER,
            field("label", Shape::Text(64), Is::Optional, "For people."),
            ENABLED,
            field("expires_at", Shape::Instant, Is::Optional, "From then on it is refused."),
            field("networks", Shape::Networks, Is::Optional, "From there alone; all: empty."),
            field("in_flight", Shape::Count(0, TRILLION), Is::Optional, "Requests side by side."),
            field("in_flight_now", Shape::Count(0, TRILLION), Is::Shown, "Under that limit now."),
            field("last_used_at", INSTANT_MS, Is::Shown, "Milliseconds since 1970; absent: never."),
            field("hint", Shape::Text(64), Is::Shown, "The key's last characters."),
        ],
    },
    Kind {
        section: "providers",
        one: "provider",
        names: &["name"],
        fields: &[
            field("name", Shape::Slug, Is::Name, "Prefix of its models and scope in paths."),
            field("channel", Shape::Channel, Is::Required, "The kind of upstream."),
            field("label", Shape::Text(256), Is::Optional, "For people."),
            ENABLED,
            field("settings", Shape::Object, Is::Optional, "As in the configuration."),
            field("credentials", Shape::Credentials, Is::Secret, "Its first credentials."),
            field("urls", Shape::Object, Is::Shown, "Where each dialect is served."),
        ],
    },
    Kind {
        section: "credentials",
        one: "credential",
        names: &[],
        fields: &[
            field("provider_name", Shape::Slug, Is::Name, "A provider made here."),
            field("api_key", Shape::Credential, Is::Secret, "Sent to the provider."),
            field("service_account", Shape::Account, Is::Secret, "In its place, for vertex."),
            field("weight", Shape::Count(1, 1_000_000), Is::Optional, "Share of the requests."),
            field("rpm", CEILING, Is::Optional, "Requests in a minute at most."),
            field("tpm", CEILING, Is::Optional, "Tokens in a minute at most."),
            field("in_flight", CEILING, Is::Optional, "Requests side by side at most."),
            field("hint", Shape::Text(256), Is::Shown, "Its last characters, or its variable."),
        ],
    },
    Kind {
        section: "models",
        one: "model",
        names: &["provider_name", "model_id"],
        fields: &[
            PROVIDER,
            field("model_id", Shape::Model, Is::Name, "As the upstream knows it, or a pattern."),
            field("display_name", Shape::Text(256), Is::Optional, "In lists."),
            ENABLED,
            field(
                "max_input_tokens",
                Shape::Count(1, 1_000_000_000),
                Is::Optional,
                "Longest prompt.",
            ),
            field(
                "max_output_tokens",
                Shape::Count(1, 1_000_000_000),
                Is::Optional,
                "Longest answer.",
            ),
            field("timeouts", Shape::Object, Is::Optional, "In place of the provider's."),
            field("price_each_call", CALL, Is::Optional, "USD."),
            field("price_tiers", Shape::Tiers, Is::Optional, "USD per million tokens."),
            field("flex_price_each_call", CALL, Is::Optional, "The same, served as flex."),
            field("flex_price_tiers", Shape::Tiers, Is::Optional, "The same, served as flex."),
            field("scale_price_each_call", CALL, Is::Optional, "The same, served as scale."),
            field("scale_price_tiers", Shape::Tiers, Is::Optional, "The same, served as scale."),
            field("priority_price_each_call", CALL, Is::Optional, "The same, served as priority."),
            field("priority_price_tiers", Shape::Tiers, Is::Optional, "The same, served so."),
            field("price_each_tool_call", CALL, Is::Optional, "USD for a tool of the vendor's."),
            field("price_input_audio_tokens", CALL, Is::Optional, "USD per million."),
            field("price_output_audio_tokens", CALL, Is::Optional, "USD per million."),
            field("price_each_image", CALL, Is::Optional, "USD for an image that is made."),
            field("price_input_image_tokens", CALL, Is::Optional, "USD per million."),
            field("price_output_image_tokens", CALL, Is::Optional, "USD per million."),
        ],
    },
    Kind {
        section: "model_aliases",
        one: "alias",
        names: &["alias"],
        fields: &[
            field("alias", Shape::Model, Is::Name, "The public name."),
            field("provider_name", Shape::Slug, Is::Optional, "Who serves it, if one does."),
            field("model_id", Shape::Model, Is::Optional, "The model there."),
            field("targets", Shape::Targets, Is::Optional, "Those that serve it, in their place."),
            ENABLED,
        ],
    },
    Kind {
        section: "permissions",
        one: "permission",
        names: &["user_name", "provider_name", "model_pattern"],
        fields: &[
            USER,
            field("provider_name", Shape::Slug, Is::Fixed, "At this provider only."),
            field("model_pattern", Shape::Pattern, Is::Name, "Models that may be called."),
        ],
    },
    Kind {
        section: "file_permissions",
        one: "file permission",
        names: &["user_name", "provider_name"],
        fields: &[USER, PROVIDER],
    },
    Kind {
        section: "rate_limits",
        one: "rate limit",
        names: &["user_name", "model_pattern"],
        fields: &[
            USER,
            field("model_pattern", Shape::Pattern, Is::Name, "Models that it counts."),
            field("rpm", Shape::Count(0, TRILLION), Is::Optional, "Requests in a minute."),
            field("rpd", Shape::Count(0, TRILLION), Is::Optional, "Requests in 24 hours."),
            field("total_tokens", Shape::Count(0, TRILLION), Is::Optional, "Tokens in window_s."),
            field("window_s", Shape::Count(1, 2_678_400), Is::Optional, "Of total_tokens; 60."),
            field("in_flight", Shape::Count(0, TRILLION), Is::Optional, "Requests side by side."),
            field("fill", Shape::Object, Is::Shown, "How full each counter is now."),
        ],
    },
    Kind {
        section: "quotas",
        one: "quota",
        names: &["user_name", "window"],
        fields: &[
            USER,
            field("window", Shape::Choice(WINDOWS), Is::Fixed, "Over which time; total."),
            field("quota", Shape::Money, Is::Required, "USD; 0 lets nothing pass."),
            field("cost_used", Shape::Money, Is::Fixed, "USD spent elsewhere before; counts once."),
            field("used", Shape::Money, Is::Shown, "USD spent in the window."),
            field("reserved", Shape::Money, Is::Shown, "USD held for requests under way."),
            field("topped_up", Shape::Text(32), Is::Shown, "USD added to the quota."),
            field("ceiling", Shape::Text(32), Is::Shown, "USD: the quota and what was added."),
        ],
    },
];

const WINDOWS: &[&str] = &["total", "day", "week", "month"];

/// The kind of a section.
pub(super) fn named(section: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.section == section)
}

impl Kind {
    /// The name of a row. A part that could be taken for two is spelled with `%`.
    pub(super) fn id(&self, value: &Map<String, Value>) -> String {
        if self.section == "user_keys" {
            let digest = value.get("api_key").and_then(Value::as_str).unwrap_or_default();
            return digest.strip_prefix("sha256:").unwrap_or_default().chars().take(16).collect();
        }
        let part = |name: &&str| {
            let text = value.get(*name).and_then(Value::as_str).unwrap_or_default();
            match *name {
                "window" if text.is_empty() => "total".to_owned(),
                _ if self.names.len() == 1 => text.to_owned(),
                _ => text.replace('%', "%25").replace(':', "%3A"),
            }
        };
        self.names.iter().map(part).collect::<Vec<_>>().join(":")
    }

    pub(super) fn field(&self, name: &str) -> Option<&'static Field> {
        self.fields.iter().find(|field| field.name == name)
    }

    /// The schema of what is sent to make one, or to change one.
    pub(super) fn asked(&self, is_change: bool) -> Value {
        let mut properties = Map::new();
        let mut required = Vec::new();
        for field in self.fields {
            let settled = matches!(field.is, Is::Name | Is::Fixed);
            if field.is == Is::Shown
                || (is_change && (settled || matches!(field.shape, Shape::Credentials)))
            {
                continue;
            }
            let must = matches!(field.is, Is::Name | Is::Required);
            if must && !is_change {
                required.push(field.name);
            }
            // One of them is there and can be replaced, but not be taken away.
            let must = must || (self.section == "credentials" && field.is == Is::Secret);
            let mut schema = field.schema();
            if self.names == [field.name] {
                // No path has such a segment, so nobody could come back to it.
                schema["not"] = json!({ "enum": [".", ".."] });
            }
            if is_change && !must {
                schema = json!({ "anyOf": [schema, { "type": "null" }] });
            }
            properties.insert(field.name.to_owned(), schema);
        }
        let mut schema = json!({
            "type": "object", "properties": properties, "additionalProperties": false
        });
        if !required.is_empty() {
            schema["required"] = json!(required);
        }
        if self.section == "credentials" && !is_change {
            schema["anyOf"] = one_of_both();
        }
        schema
    }

    /// The schema of one that was just made or changed.
    pub(super) fn written(&self) -> Value {
        let mut schema = self.shown();
        schema["properties"]["warnings"] = json!({
            "type": "array", "items": { "type": "string" },
            "description": "What is probably not meant so; absent: nothing."
        });
        schema
    }

    /// The schema of one as it is shown.
    pub(super) fn shown(&self) -> Value {
        let mut properties = Map::new();
        for field in self.fields.iter().filter(|field| field.is != Is::Secret) {
            properties.insert(field.name.to_owned(), field.schema());
        }
        properties.insert("id".into(), json!({ "type": "string" }));
        properties.insert("declared".into(), json!({
            "type": "boolean", "description": "It stands in the configuration's file, read-only."
        }));
        properties.insert("line".into(), json!({ "type": "integer", "description": "There." }));
        for name in ["made_at", "changed_at"] {
            let says = "Milliseconds since 1970, UTC.";
            properties.insert(name.into(), json!({ "type": "integer", "description": says }));
        }
        json!({ "type": "object", "properties": properties, "required": ["id", "declared"] })
    }
}

impl Field {
    fn schema(&self) -> Value {
        let mut schema = self.shape.schema();
        schema["description"] = json!(self.says);
        schema
    }
}

impl Shape {
    fn schema(self) -> Value {
        match self {
            Shape::Slug => json!({
                "type": "string", "pattern": "^[a-z0-9][a-z0-9._-]{0,63}$"
            }),
            Shape::User => json!({ "type": "string", "minLength": 1, "maxLength": 128 }),
            Shape::Name => json!({
                "type": "string", "minLength": 1, "maxLength": 128, "pattern": PRINTABLE
            }),
            Shape::Model => json!({
                "type": "string", "minLength": 1, "maxLength": 256, "pattern": GRAPHIC
            }),
            Shape::Pattern => json!({
                "type": "string", "minLength": 1, "maxLength": 256, "pattern": PATTERN
            }),
            Shape::Channel => {
                let names: Vec<&str> = CHANNELS.iter().map(|channel| channel.name).collect();
                json!({ "type": "string", "enum": names })
            }
            Shape::Text(most) => json!({ "type": "string", "maxLength": most }),
            Shape::Flag => json!({ "type": "boolean" }),
            Shape::Instant => json!({
                "type": "string", "pattern": INSTANT, "examples": ["2027-01-31T00:00:00Z"]
            }),
            Shape::Networks => json!({ "type": "array", "maxItems": 64, "items": {
                "type": "string", "maxLength": 43, "pattern": network(), "examples": ["10.0.0.0/8"]
            } }),
            Shape::Count(least, most) => {
                json!({ "type": "integer", "minimum": least, "maximum": most })
            }
            Shape::Money => json!({
                "type": "string", "pattern": MONEY, "examples": ["1.50"]
            }),
            Shape::Choice(names) => json!({ "type": "string", "enum": names }),
            Shape::Password => json!({ "type": "string", "minLength": 8, "maxLength": 1024 }),
            Shape::Credential => json!({
                "type": "string", "pattern": "^[!-~]{1,4096}$"
            }),
            Shape::Credentials => json!({
                "type": "array", "maxItems": 64, "items": credential()
            }),
            Shape::Account => account(),
            Shape::Object => json!({ "type": "object" }),
            Shape::Targets => json!({ "type": "array", "maxItems": limits::TARGETS_MAX, "items": {
                "type": "object", "required": ["provider_name", "model_id"],
                "additionalProperties": false,
                "properties": {
                    "provider_name": Shape::Slug.schema(),
                    "model_id": Shape::Model.schema(),
                    "weight": Shape::Count(1, 1_000_000).schema(),
                    "tier": Shape::Count(1, 1_000).schema()
                }
            } }),
            Shape::Tiers => json!({ "type": "array", "maxItems": 32, "items": {
                "type": "object"
            } }),
        }
    }
}

/// A credential that is made with its provider.
fn credential() -> Value {
    let mut schema = named("credentials").map_or(Value::Null, |kind| kind.asked(false));
    if let Some(fields) = schema["properties"].as_object_mut() {
        fields.remove("provider_name");
    }
    schema["required"] = json!([]);
    schema
}

/// What a credential is made of.
fn one_of_both() -> Value {
    json!([{ "required": ["api_key"] }, { "required": ["service_account"] }])
}

/// What Google gives for a service account; it has further members.
fn account() -> Value {
    let text = json!({ "type": "string", "minLength": 1 });
    json!({
        "type": "object",
        "required": ["client_email", "private_key"],
        "properties": {
            "type": { "type": "string", "enum": ["service_account"] },
            "client_email": text, "private_key": text, "private_key_id": text,
            "project_id": text, "token_uri": text
        }
    })
}

/// An address of either family, alone or with the bits that count.
fn network() -> String {
    let octet = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
    let four = format!("({octet}\\.){{3}}{octet}(/(3[0-2]|[12]?[0-9]))?");
    let group = "[0-9a-fA-F]{1,4}";
    let six = format!(
        "(({group}:){{7}}{group}|({group}:){{1,7}}:|({group}:){{1,4}}(:{group}){{1,3}}|\
         :(:{group}){{1,7}}|::)"
    );
    format!("^({four}|{six}(/(12[0-8]|1[01][0-9]|[1-9]?[0-9]))?)$")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_named_by_its_fields_and_no_two_share_a_name() {
        let id = |section, value: Value| {
            let Value::Object(value) = value else { panic!("an object") };
            named(section).expect(section).id(&value)
        };
        assert_eq!(id("users", json!({ "name": "a:b" })), "a:b");
        assert_eq!(id("quotas", json!({ "user_name": "alice", "quota": "1" })), "alice:total");
        let rule = |user, provider, pattern| {
            let value = json!({
                "user_name": user, "provider_name": provider, "model_pattern": pattern
            });
            id("permissions", value)
        };
        assert_eq!(rule("alice", "openai-main", "gpt-*"), "alice:openai-main:gpt-*");
        assert_ne!(rule("a:b", "", "c"), rule("a", "b", "c"));
        assert_ne!(rule("a%3Ab", "", "c"), rule("a:b", "", "c"));
        let key = json!({ "api_key": format!("sha256:{}", "0123456789abcdef".repeat(4)) });
        assert_eq!(id("user_keys", key), "0123456789abcdef");
    }
}

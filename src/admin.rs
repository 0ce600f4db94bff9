//! Our own pages: health, readiness, version, metrics, the console's files, lists of models, and
//! what browsers ask before they call.

use std::net::IpAddr;
use std::sync::Arc;

use crate::console;
use crate::dialect::Family;
use crate::dialect::headers;
use crate::dialect::models;
use crate::dialect::path::{self, PathError};
use crate::dialect::refusal::Refusal;
use crate::metrics::Metrics;
use crate::route::listing::{self, Live};
use crate::route::plan::RouteError;
use crate::route::snapshot::{Caller, KeyError, Snapshot};
use crate::wire::head::Head;

/// An answer that needs no upstream.
pub struct Page {
    /// Name for the log.
    pub name: &'static str,
    /// HTTP status.
    pub status: u16,
    /// Media type of the body.
    pub content_type: &'static str,
    /// The body.
    pub body: Vec<u8>,
    /// Further header fields.
    pub fields: Vec<(&'static str, String)>,
}

const METHODS: &str = "GET, POST, PUT, PATCH, DELETE, HEAD, OPTIONS";
const PREFLIGHT_S: &str = "600";

/// Who asks for a page, for those that are not everybody's.
pub struct Reader<'a> {
    /// The other end of the connection, as far as can be told.
    pub peer: &'a dyn Fn() -> Option<IpAddr>,
    /// Whose key the request carries, or why it does not count.
    pub caller: &'a dyn Fn() -> Result<Caller, KeyError>,
}

/// The page for this request, if it is for one of ours.
pub fn page(
    metrics: &Metrics,
    unready: Option<&str>,
    snapshot: &Snapshot,
    head: &Head,
    reader: &Reader<'_>,
) -> Option<Result<Page, Refusal>> {
    if head.method() == "OPTIONS" {
        return preflight(snapshot, head).map(Ok);
    }
    let path = path::split(head.target()).0;
    let path = path.trim_end_matches('/');
    let is_read = matches!(head.method(), "GET" | "HEAD");
    let page = match path {
        "" => text("root", "gproxy is running; see /console\n".into()),
        "/healthz" => text("healthz", "ok\n".into()),
        "/readyz" => match unready {
            Some(why) => Page { status: 503, ..text("readyz", why.into()) },
            None => text("readyz", "ok\n".into()),
        },
        "/version" => text("version", concat!(env!("CARGO_PKG_VERSION"), "\n").into()),
        "/metrics" if is_read => match may_measure(snapshot, head, reader) {
            Ok(()) => numbers(metrics, snapshot),
            Err(refused) => return Some(Err(refused)),
        },
        "/metrics" => text("metrics", String::new()),
        // Claude Code asks for its base URL before its first call.
        _ if head.method() == "HEAD" && is_base(snapshot, path) => text("base", String::new()),
        _ => match console::find(path) {
            Some(Some(asset)) => file(asset, head),
            Some(None) => Page { status: 404, ..text("console", "there is no such file\n".into()) },
            None => return None,
        },
    };
    Some(if is_read { Ok(page) } else { Err(PathError::MethodNotAllowed("GET, HEAD").into()) })
}

fn text(name: &'static str, body: String) -> Page {
    let content_type = "text/plain; charset=utf-8";
    Page { name, status: 200, content_type, body: body.into_bytes(), fields: Vec::new() }
}

fn numbers(metrics: &Metrics, snapshot: &Snapshot) -> Page {
    let providers = snapshot.providers.iter();
    let providers: Vec<_> =
        providers.map(|provider| (provider.name.as_str(), &*provider.tally)).collect();
    let content_type = "text/plain; version=0.0.4; charset=utf-8";
    Page { content_type, ..text("metrics", metrics.text(&providers)) }
}

/// A file of the console, unless the browser has it.
fn file(asset: &console::Asset, head: &Head) -> Page {
    let told = |name| head.headers.get(name).unwrap_or_default();
    let mut fields = vec![
        ("etag", asset.tag.clone()),
        ("cache-control", "no-cache".to_owned()),
        ("vary", "accept-encoding".to_owned()),
        ("content-security-policy", console::POLICY.to_owned()),
        ("x-content-type-options", "nosniff".to_owned()),
        ("referrer-policy", "no-referrer".to_owned()),
        ("cross-origin-opener-policy", "same-origin".to_owned()),
    ];
    let content_type = asset.content_type;
    let page = |status, body: &[u8], fields| Page {
        name: "console",
        status,
        content_type,
        body: body.to_vec(),
        fields,
    };
    if asset.is_known(told("if-none-match")) {
        page(304, b"", fields)
    } else if console::takes_gzip(told("accept-encoding")) {
        fields.push(("content-encoding", "gzip".to_owned()));
        page(200, &asset.packed, fields)
    } else {
        page(200, asset.plain, fields)
    }
}

/// The list of models that the user may call, or one of them, if the request asks for it.
pub fn models(
    snapshot: &Snapshot,
    live: &dyn Fn() -> Arc<Live>,
    user: usize,
    family: Family,
    head: &Head,
) -> Option<Result<Page, Refusal>> {
    let is_provider = |name: &str| snapshot.provider_named(name).is_some();
    let listing = match models::parse(head.method(), head.target(), family, &is_provider)? {
        Ok(listing) => listing,
        Err(error) => return Some(Err(error.into())),
    };
    let scope = listing.scope.as_deref().and_then(|name| snapshot.provider_named(name));
    let live = live();
    let (name, body) = match &listing.id {
        None => {
            let page = listing.page(&listing::entries(snapshot, &live, user, scope));
            ("models.list", page.map_err(Refusal::from))
        }
        Some(id) => {
            let entry = listing::find(snapshot, &live, user, scope, id);
            let missing = || Refusal::from(RouteError::NoSuchModel).about_model(id);
            ("models.get", entry.map(|entry| listing.one(&entry)).ok_or_else(missing))
        }
    };
    let page = |body| Page {
        name,
        status: 200,
        content_type: "application/json",
        body,
        fields: Vec::new(),
    };
    Some(body.map(page))
}

/// An administrator may, and who comes from this machine without a key and through no proxy, or
/// anybody where the configuration says so.
fn may_measure(snapshot: &Snapshot, head: &Head, reader: &Reader<'_>) -> Result<(), Refusal> {
    const FORWARDED: [&str; 4] = ["x-forwarded-for", "forwarded", "via", "x-real-ip"];
    let has_key =
        headers::credential_of(&head.headers).is_some() || path::query_key(head.target()).is_some();
    let is_direct = || !FORWARDED.into_iter().any(|name| head.headers.has(name));
    let is_here = || (reader.peer)().is_some_and(|peer| peer.is_loopback());
    let may = match has_key {
        true => snapshot.users[(reader.caller)()?.user].is_admin,
        false => snapshot.metrics_open || (is_direct() && is_here()),
    };
    if may { Ok(()) } else { Err(Refusal::unauthorized()) }
}

/// A path at which a base URL may end: a provider's scope, a version, or both.
fn is_base(snapshot: &Snapshot, path: &str) -> bool {
    let mut segments = path.split('/').filter(|segment| !segment.is_empty()).peekable();
    segments.next_if(|name| snapshot.provider_named(name).is_some());
    segments.next_if(|segment| path::VERSIONS.contains(segment));
    segments.next().is_none()
}

/// The `Origin` of this request when browsers there may read our answers.
pub fn allowed_origin(snapshot: &Snapshot, head: &Head) -> Option<Vec<u8>> {
    let origin = head.headers.get("origin")?;
    let is_allowed = |allowed: &String| allowed == "*" || allowed.as_bytes() == origin;
    snapshot.cors_origins.iter().any(is_allowed).then(|| origin.to_vec())
}

/// The answer to `OPTIONS`, for browsers that may call, and for `OPTIONS *`.
fn preflight(snapshot: &Snapshot, head: &Head) -> Option<Page> {
    let mut page = Page { status: 204, ..text("options", String::new()) };
    if head.target() == "*" {
        page.fields.push(("allow", METHODS.into()));
        return Some(page);
    }
    allowed_origin(snapshot, head)?;
    let asked = head.headers.get("access-control-request-headers").unwrap_or(b"*");
    page.fields.push(("access-control-allow-methods", METHODS.into()));
    let asked = String::from_utf8_lossy(asked).into_owned();
    page.fields.push(("access-control-allow-headers", asked));
    page.fields.push(("access-control-max-age", PREFLIGHT_S.into()));
    Some(page)
}

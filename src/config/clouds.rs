//! Settings of clouds: Vertex's accounts, project and location, Azure's version.

use std::sync::Arc;

use serde_json::Value;
use zeroize::Zeroizing;

use super::address::{Use, parse_url};
use super::error::{At, Place, Report};
use super::global::url;
use super::reader::Table;
use super::sources::Sources;
use crate::dialect::Dialect;
use crate::route::account::{Account, AccountError};
use crate::route::channel::{self, Channel, Destination, cloud};
use crate::route::fence::Fence;
use crate::route::snapshot::Provider;

/// What a provider's settings say about a cloud.
#[derive(Default)]
pub(super) struct Cloud<'t> {
    api_version: Option<&'t str>,
    project: Option<&'t str>,
    location: Option<&'t str>,
    token_uri: Option<String>,
    /// Where its tokens may come from.
    pub(super) fence: Fence,
}

impl<'t> Cloud<'t> {
    pub(super) fn read(
        settings: &mut Table<'t>,
        report: &mut Report<'_>,
        channel: &Channel,
        fence: Fence,
    ) -> Cloud<'t> {
        let mut cloud = Cloud { fence, ..Cloud::default() };
        if channel.name == channel::AZURE {
            let example = "a version such as \"2024-10-21\" or \"preview\"";
            cloud.api_version = word(settings, report, "api_version", example);
        }
        if channel.name == channel::VERTEX {
            cloud.project = word(settings, report, "project", "the id of a project of Google's");
            let example = "a location such as \"us-central1\" or \"global\"";
            cloud.location = word(settings, report, "location", example);
            let written = settings.text(report, "token_uri");
            if let Some(At { value, place }) = written {
                cloud.token_uri = url(report, value, &place, Use::Upstream);
                cloud.hold(report, cloud.token_uri.as_deref(), &place);
            }
        }
        cloud
    }

    /// Fills in where the dialects of a cloud are served. `settings`: where these settings stand.
    pub(super) fn place(
        &self,
        report: &mut Report<'_>,
        provider: &mut Provider,
        base_given: bool,
        settings: &Place,
    ) {
        let name = provider.channel.name;
        let location = self.location.unwrap_or("global");
        if name == channel::VERTEX && !base_given {
            provider.base_url = cloud::vertex_host(location);
        }
        let mut accounts = provider.credentials.iter().filter_map(|one| one.account.as_deref());
        let project = self.project.or_else(|| accounts.next()?.project_id.as_deref());
        if name == channel::VERTEX && project.is_none() && !provider.credentials.is_empty() {
            let place = Place { line: settings.line, key: format!("{}.project", settings.key) };
            report.error(&place, "this key is missing, and the account names no project");
        }
        let at = |dialect: Dialect| -> Option<Destination> {
            match name {
                channel::AZURE => Some(cloud::azure(&provider.base_url, self.api_version)),
                channel::VERTEX => {
                    Some(cloud::vertex(&provider.base_url, project?, location, dialect))
                }
                _ => None,
            }
        };
        let surfaces = provider.channel.surfaces.iter();
        let found: Vec<_> =
            surfaces.map(|surface| (surface.dialect, at(surface.dialect))).collect();
        for (dialect, place) in found.into_iter().filter(|(_, place)| place.is_some()) {
            provider.destinations[dialect as usize] = place;
        }
    }

    /// The account of a credential: a table, JSON, the path of a file, or a variable that holds
    /// either of the last two.
    pub(super) fn account(
        &self,
        table: &mut Table<'_>,
        report: &mut Report<'_>,
        sources: &Sources<'_>,
        enabled: bool,
    ) -> Option<Arc<Account>> {
        const KEY: &str = "service_account";
        let place = table.place_of(report, KEY);
        let account = if let Some(members) = table.members(KEY) {
            self.open(&|name| members.get(name).cloned())
        } else {
            let At { value, .. } = table.required(report, KEY)?;
            if !enabled && value.starts_with("env:") {
                return None;
            }
            let text = Zeroizing::new(sources.document(report, value, &place)?);
            // Some editors write a mark in front.
            let text = text.trim_start_matches('\u{feff}');
            let Ok(Value::Object(json)) = serde_json::from_str::<Value>(text) else {
                report.error(&place, "is no JSON object: not the file of a service account");
                return None;
            };
            self.open(&|name| json.get(name)?.as_str().map(str::to_owned))
        };
        match account {
            Ok(account) => {
                // That of the settings was judged there.
                let own = Some(account.token_uri.as_str()).filter(|_| self.token_uri.is_none());
                self.hold(report, own, &place);
                Some(Arc::new(account))
            }
            Err(why) => {
                report.error(&place, why);
                None
            }
        }
    }

    fn hold(&self, report: &mut Report<'_>, token_uri: Option<&str>, place: &Place) {
        if token_uri.is_some_and(|uri| !self.fence.lets_url(uri)) {
            report.fence(place, self.fence.reason());
        }
    }

    fn open(&self, member: &dyn Fn(&str) -> Option<String>) -> Result<Account, String> {
        if let (None, Some(uri)) = (&self.token_uri, member("token_uri")) {
            parse_url(&uri, Use::Upstream).map_err(|why| format!("its token_uri {why}"))?;
        }
        Account::read(member, self.token_uri.as_deref()).map_err(|error| match error {
            AccountError::Type => "is not of the type service_account".to_owned(),
            AccountError::Missing(name) => format!("has no usable {name}"),
            AccountError::Key => {
                "its private_key is no RSA key in PKCS#8 (\"BEGIN PRIVATE KEY\")".to_owned()
            }
        })
    }
}

/// A text that can stand in an address.
fn word<'t>(
    settings: &mut Table<'t>,
    report: &mut Report<'_>,
    key: &'static str,
    example: &str,
) -> Option<&'t str> {
    let At { value, place } = settings.text(report, key)?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let fits = (1..=64).contains(&value.len())
        && value.bytes().all(is_plain)
        && value.starts_with(|first: char| first.is_ascii_alphanumeric());
    if !fits {
        report.error(&place, format!("must be {example}"));
    }
    fits.then_some(value)
}

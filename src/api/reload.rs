//! Reading the file again: what it says otherwise is told, in the log too, before it counts.

use serde_json::{Value, json};

use super::answer::{Answer, Fault};
use super::difference::{self, Difference};
use super::route::{Param, Route};
use super::{Call, Interface, entities};
use crate::config::{ConfigError, Named};
use crate::ledger::entities::Record;

/// What came of reading the file again.
pub struct Reloaded {
    /// What is probably not meant so.
    warnings: Vec<String>,
    /// Changed settings that have no effect before a restart.
    needs_restart: Vec<&'static str>,
    difference: Difference,
    providers: usize,
    users: usize,
}

pub(super) fn routes() -> Vec<Route> {
    let texts = json!({ "type": "array", "items": { "type": "string" } });
    let restart = json!({
        "type": "array", "items": { "type": "string" },
        "description": "Settings that changed and have no effect before a restart."
    });
    let reloaded = json!({
        "type": "object",
        "properties": {
            "dry_run": { "type": "boolean" },
            "providers": { "type": "integer" }, "users": { "type": "integer" },
            "warnings": texts, "needs_restart": restart,
            "changes": Difference::schema(),
            "changes_count": {
                "type": "integer", "description": "All of them; the first ones are told."
            }
        },
        "required": [
            "dry_run", "providers", "users", "warnings", "needs_restart", "changes",
            "changes_count"
        ]
    });
    let says = "Reads the file again, and tells what it says otherwise than before.";
    let route = Route::new("POST", "/admin/api/reload", "reload", says, reload);
    let dry_run = Param::flag("dry_run", "Tells what would change, and changes nothing.");
    vec![route.asks(vec![dry_run]).answers(200, reloaded)]
}

fn reload(_: &Route, call: &Call<'_>) -> Result<Answer, Fault> {
    let is_dry = call.query.get("dry_run").and_then(Value::as_bool).unwrap_or(false);
    let reloaded = match is_dry {
        true => call.api.try_reload(),
        false => {
            log::info!(target: "gproxy", "{:?} has the file read again", call.who());
            call.api.reload(&call.who())
        }
    };
    let reloaded = reloaded.map_err(|mistakes| Fault::new(409, mistakes.join("\n")))?;
    let Reloaded { warnings, needs_restart, difference, providers, users } = reloaded;
    Ok(Answer::ok(json!({
        "dry_run": is_dry, "providers": providers, "users": users, "warnings": warnings,
        "needs_restart": needs_restart, "changes": difference.json(),
        "changes_count": difference.count
    })))
}

impl Interface {
    /// Reads the file again and puts it in place, or says why not; in the log too. `made_by` is who
    /// wanted it; empty: a signal.
    pub fn reload(&self, made_by: &str) -> Result<Reloaded, Vec<String>> {
        let result = self.read_again(true);
        match &result {
            Ok(reloaded) => {
                let warnings = reloaded.warnings.iter();
                warnings.for_each(|warning| log::warn!(target: "gproxy", "{warning}"));
                for line in reloaded.difference.lines() {
                    log::info!(target: "gproxy", "reload: {line}");
                }
                let Reloaded { providers, users, difference, .. } = reloaded;
                let count = difference.count;
                log::info!(
                    target: "gproxy",
                    "reloaded: {providers} providers, {users} users, {count} changes in the file"
                );
                self.core.renew_lists();
                let after = Some(json!({ "changes_count": count }).to_string());
                let now_ms = self.core.unix_ms();
                let record = Record::new(now_ms, made_by, "reload", ("settings", "file"));
                entities::note(self, Record { after, ..record });
            }
            Err(mistakes) => {
                mistakes.iter().for_each(|error| log::error!(target: "gproxy", "{error}"));
                log::error!(target: "gproxy", "reload refused: the running configuration stays");
            }
        }
        result
    }

    /// Reads the file again and says what would come of it.
    fn try_reload(&self) -> Result<Reloaded, Vec<String>> {
        self.read_again(false)
    }

    fn read_again(&self, is_meant: bool) -> Result<Reloaded, Vec<String>> {
        let texts = |errors: Vec<ConfigError>| -> Vec<String> {
            errors.iter().map(ToString::to_string).collect()
        };
        let mut state = self.state.lock();
        let text = self.source.read().map_err(|error| texts(vec![error]))?;
        let made = state.made(self.sealer.as_ref()).map_err(|fault| vec![fault.message])?;
        let mut named = Named::new();
        let loaded = self.source.load(text.expose(), &made, &mut named).map_err(texts)?;
        entities::has_admin(&loaded.snapshot).map_err(|fault| vec![fault.message])?;
        let needs_restart = self.settings.needs_restart(&loaded.settings);
        let mut warnings = loaded.warnings.clone();
        let restart = needs_restart.iter().map(|name| format!("a changed {name} needs a restart"));
        warnings.extend(restart);
        let reloaded = Reloaded {
            warnings,
            needs_restart,
            difference: difference::between(&state.declared, &loaded.declared),
            providers: loaded.snapshot.providers.len(),
            users: loaded.snapshot.users.len(),
        };
        // Before anything is written: a file that is refused leaves nothing behind.
        self.source.check(&loaded).map_err(|why| vec![why])?;
        if !is_meant {
            return Ok(reloaded);
        }
        let unseen = state.unseen(&loaded);
        if let Some(change) = unseen.change(self.core.unix_ms()) {
            let unwritten = |why| vec![format!("gproxy.db: new users cannot be written: {why}")];
            self.ledger.change(change).map_err(unwritten)?;
            state.see(unseen, &self.books.accounts);
        }
        self.source.apply(&loaded).map_err(|why| vec![why])?;
        (state.text, state.named) = (text, named);
        state.declared = loaded.declared;
        state.idle = loaded.forbidden.len();
        self.core.swap(loaded.snapshot);
        self.core.pool.revive(&self.core.snapshot());
        Ok(reloaded)
    }
}

//! `gproxy explain`: what would happen to a request, gate by gate, calling nobody; printed.

use std::io::{self, Read, Write};

use super::arguments::{Arguments, Question};
use super::{EXIT_MISTAKE, EXIT_WELL, Terminal, load};
use crate::decision::{self, Decision};
use crate::dialect::path;
use crate::route::snapshot::Snapshot;
use crate::secret::Secret;

/// The request would be refused.
const EXIT_REFUSED: u8 = 1;

/// Reads what the question names, decides, prints.
pub(super) fn run(
    question: &Question,
    arguments: &Arguments,
    terminal: &mut Terminal<'_>,
) -> io::Result<u8> {
    let Some(loaded) = load(arguments, terminal)? else { return Ok(EXIT_MISTAKE) };
    let body = match read_body(question, &loaded.snapshot, terminal) {
        Ok(body) => body,
        Err(error) => {
            writeln!(terminal.error, "--body: cannot be read: {error}")?;
            return Ok(EXIT_MISTAKE);
        }
    };
    let key = match read_key(question, terminal.environment) {
        Ok(key) => key,
        Err(variable) => {
            writeln!(terminal.error, "--key: the environment variable {variable} is not set")?;
            return Ok(EXIT_MISTAKE);
        }
    };
    let decision = decide(&loaded.snapshot, question, key.as_ref(), body);
    if question.json {
        write_json(&decision, terminal.out)?;
    } else {
        write_text(&decision, terminal.out)?;
    }
    Ok(if decision.refusal.is_some() { EXIT_REFUSED } else { EXIT_WELL })
}

/// `None`: no body was named. Longer than a request may be is read no further.
fn read_body(
    question: &Question,
    snapshot: &Snapshot,
    terminal: &mut Terminal<'_>,
) -> io::Result<Option<Vec<u8>>> {
    let Some(file) = &question.body else { return Ok(None) };
    let most = snapshot.limits.body_bytes_max.saturating_add(1);
    let mut body = Vec::new();
    if file == "-" {
        terminal.input.take(most).read_to_end(&mut body)?;
    } else {
        std::fs::File::open(file)?.take(most).read_to_end(&mut body)?;
    }
    Ok(Some(body))
}

/// The key as typed, of a variable, or in the query; or the name of a variable that is not set.
fn read_key(
    question: &Question,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<Secret>, String> {
    let Some(written) = &question.key else { return Ok(path::query_key(&question.path)) };
    match written.expose().strip_prefix("env:") {
        Some(variable) => match environment(variable) {
            Some(key) => Ok(Some(Secret::new(key.trim()))),
            None => Err(variable.to_owned()),
        },
        None => Ok(Some(written.clone())),
    }
}

fn decide(
    snapshot: &Snapshot,
    question: &Question,
    key: Option<&Secret>,
    body: Option<Vec<u8>>,
) -> Decision {
    let caller = key.and_then(|key| snapshot.authenticate(key.expose().as_bytes()));
    let (method, path) = (question.method.as_str(), question.path.as_str());
    let (user, key) = caller.map(|caller| (caller.user, caller.key)).unzip();
    let question = decision::Question {
        method,
        path,
        user,
        key,
        standing: None,
        body: body.unwrap_or_default(),
        model: None,
    };
    decision::decide(snapshot, question)
}

fn write_text(decision: &Decision, out: &mut dyn Write) -> io::Result<()> {
    for (name, says) in &decision.steps {
        match name.len() {
            ..12 => writeln!(out, "{name:<12}{says}")?,
            _ => writeln!(out, "{name}: {says}")?,
        }
    }
    match &decision.refusal {
        Some(refusal) => writeln!(out, "{:<12}{}: {}", "refused", refusal.status, refusal.message),
        None => writeln!(out, "{:<12}it would be served", "verdict"),
    }
}

fn write_json(decision: &Decision, out: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, &decision.to_json())?;
    writeln!(out)
}

#[cfg(test)]
mod tests;

//! `gproxy models pull`: what an upstream lists and the configuration does not declare, as TOML.

use std::io::{self, Write};

use crate::dialect::listed::Listed;
use crate::route::snapshot::Provider;
use crate::wire::json::escape;

/// Writes a `[[models]]` block for each model that is not declared.
pub fn write(provider: &Provider, list: &[Listed], out: &mut dyn Write) -> io::Result<()> {
    for listed in list.iter().filter(|listed| !provider.models.contains_key(&listed.id)) {
        writeln!(out, "[[models]]\nprovider_name = \"{}\"", provider.name)?;
        writeln!(out, "model_id = {}", text(&listed.id))?;
        if let Some(name) = listed.display_name.as_ref().filter(|name| **name != listed.id) {
            writeln!(out, "display_name = {}", text(name))?;
        }
        let limits = [
            ("max_input_tokens", listed.max_input_tokens),
            ("max_output_tokens", listed.max_output_tokens),
        ];
        for (key, limit) in limits {
            if let Some(limit) = limit {
                writeln!(out, "{key} = {limit}")?;
            }
        }
        writeln!(out)?;
    }
    Ok(())
}

/// A string as TOML and JSON both write it.
fn text(text: &str) -> String {
    let mut literal = Vec::new();
    escape(text, &mut literal);
    String::from_utf8_lossy(&literal).into_owned()
}

//! `gproxy prices`: what each model of the file costs and which row says so; `gproxy prices diff`:
//! where that is not what the sheet of list prices says.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use serde_json::{Map, Value, json};

use crate::money;
use crate::route::price::{PriceRow, PriceSource, Tier};
use crate::route::sheet::{Sheet, sheet};
use crate::route::snapshot::{Provider, Snapshot};

/// A name that can be asked for, and what serves it.
struct Asked<'s> {
    provider: &'s Provider,
    /// The alias; `None`: the model is asked for by its own name.
    alias: Option<&'s str>,
    model: &'s str,
}

impl Asked<'_> {
    fn priced(&self) -> Option<(PriceSource<'_>, &PriceRow)> {
        let asked = self.alias.unwrap_or(self.model);
        self.provider.priced(asked, self.model).map(|(from, row)| (from, &**row))
    }

    fn name(&self) -> String {
        let model = format!("{}/{}", self.provider.name, self.model);
        match self.alias {
            Some(alias) => format!("{alias} = {model}"),
            None => model,
        }
    }
}

/// Every declared model and alias, by provider and name.
fn all(snapshot: &Snapshot) -> Vec<Asked<'_>> {
    let mut all = Vec::new();
    for (at, provider) in snapshot.providers.iter().enumerate() {
        let models = provider.models.keys().map(|model| (None, model.as_str()));
        let aliases = snapshot.aliases().into_iter().flat_map(|(alias, row)| {
            let here = row.all().filter(|(provider, _)| *provider == at);
            here.map(move |(_, model)| (Some(alias), model))
        });
        let mut names: BTreeSet<(Option<&str>, &str)> = models.collect();
        names.extend(aliases);
        all.extend(names.into_iter().map(|(alias, model)| Asked { provider, alias, model }));
    }
    all
}

/// Prices by their names, with the mode in front and the bound that they hold above behind.
fn entries(row: &PriceRow) -> BTreeMap<String, i64> {
    let mut entries = BTreeMap::new();
    for (mode, prefix) in row.modes.iter().zip(["", "flex_", "scale_", "priority_"]) {
        let mut add = |name: &str, above: u64, price: Option<i64>| {
            let Some(price) = price else { return };
            let step = if above > 0 { format!(" above {above}") } else { String::new() };
            entries.insert(format!("{prefix}{name}{step}"), price);
        };
        add("price_each_call", 0, mode.each_call);
        let mut above = 0;
        for tier in &mode.tiers {
            for (name, price) in row.of_tier(tier) {
                add(name, above, price);
            }
            above = tier.input_tokens_up_to;
        }
        if mode.tiers.is_empty() && prefix.is_empty() {
            row.of_tier(&Tier::default()).for_each(|(name, price)| {
                add(name, 0, price);
            });
        }
    }
    entries
}

fn object(entries: &BTreeMap<String, i64>) -> Map<String, Value> {
    entries.iter().map(|(name, price)| (name.clone(), json!(money::text(*price)))).collect()
}

fn shown(entries: &BTreeMap<String, i64>) -> String {
    let shown = entries.iter().map(|(name, price)| format!("{name} = {}", money::text(*price)));
    shown.collect::<Vec<_>>().join(", ")
}

fn about(sheet: &Sheet, out: &mut dyn Write) -> io::Result<()> {
    let Sheet { taken_on, source, .. } = sheet;
    writeln!(out, "list prices of {taken_on}, {} models, from {source}", sheet.models_count())
}

/// Writes what each model costs, and where that stands.
pub fn write(snapshot: &Snapshot, as_json: bool, out: &mut dyn Write) -> io::Result<()> {
    if !as_json {
        about(sheet(), out)?;
        match snapshot.billing.list_prices {
            true => writeln!(out, "they count where no row of the file does but `default`\n")?,
            false => writeln!(out, "they are off: `list_prices = true` in [global] switches on\n")?,
        }
    }
    for asked in all(snapshot) {
        let priced = asked.priced();
        let from = priced.map_or("none", |(from, _)| from.name());
        let prices = priced.map(|(_, row)| entries(row)).unwrap_or_default();
        if as_json {
            let line = json!({
                "provider_name": asked.provider.name, "model_id": asked.model,
                "alias": asked.alias, "from": from, "prices": object(&prices),
            });
            writeln!(out, "{line}")?;
            continue;
        }
        match priced {
            Some((PriceSource::Pattern(pattern), _)) => {
                writeln!(out, "{}: pattern {pattern}: {}", asked.name(), shown(&prices))?;
            }
            Some(_) => writeln!(out, "{}: {from}: {}", asked.name(), shown(&prices))?,
            None => writeln!(out, "{}: no price, so it costs nothing", asked.name())?,
        }
    }
    Ok(())
}

/// Writes where the file's prices differ from the list's. True: they do somewhere.
pub fn write_diff(snapshot: &Snapshot, as_json: bool, out: &mut dyn Write) -> io::Result<bool> {
    if !as_json {
        about(sheet(), out)?;
    }
    let mut differ = false;
    for asked in all(snapshot) {
        let priced = asked.priced();
        // An alias without a price of its own costs what its model does.
        if asked.alias.is_some() && priced.is_none_or(|(from, _)| from != PriceSource::Alias) {
            continue;
        }
        let list = sheet().list(asked.provider.channel.name);
        let Some(listed) = list.and_then(|list| list.price(asked.model)) else {
            if !as_json {
                writeln!(out, "{}: not on the list", asked.name())?;
            }
            continue;
        };
        let ours = priced.map(|(_, row)| entries(row)).unwrap_or_default();
        let listed = entries(listed);
        let names: BTreeSet<&String> = ours.keys().chain(listed.keys()).collect();
        let mut differing = names.into_iter().filter(|name| ours.get(*name) != listed.get(*name));
        let Some(first) = differing.next() else { continue };
        differ = true;
        if !as_json {
            writeln!(out, "{}", asked.name())?;
        }
        for name in std::iter::once(first).chain(differing) {
            let price = |of: &BTreeMap<String, i64>| of.get(name).map(|price| money::text(*price));
            let (ours, listed) = (price(&ours), price(&listed));
            if as_json {
                let line = json!({
                    "provider_name": asked.provider.name, "model_id": asked.model,
                    "alias": asked.alias, "price": name, "file": ours, "list": listed,
                });
                writeln!(out, "{line}")?;
                continue;
            }
            let none = || "none".to_owned();
            let (ours, listed) = (ours.unwrap_or_else(none), listed.unwrap_or_else(none));
            writeln!(out, "  {name}: {ours} in the file, {listed} on the list")?;
        }
    }
    Ok(differ)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    const FILE: &str = "[[providers]]\nname = 'o'\nchannel = 'openai'\n\
        credentials = [{ api_key = 'k' }]\n\
        [[models]]\nprovider_name = 'o'\nmodel_id = 'gpt-4.1-mini'\n\
        price_tiers = [{ price_input_tokens = '0.5', price_output_tokens = '1.6' }]\n\
        [[models]]\nprovider_name = 'o'\nmodel_id = 'gpt-4.1'\n\
        [[models]]\nprovider_name = 'o'\nmodel_id = 'own'\n\
        [[models]]\nprovider_name = 'o'\nmodel_id = 'ow*'\nprice_each_image = 1\n\
        [[models]]\nprovider_name = 'o'\nmodel_id = 'default'\nprice_each_call = 2\n\
        [[model_aliases]]\nalias = 'cheap'\nprovider_name = 'o'\nmodel_id = 'gpt-4.1'\n\
        [[model_aliases]]\nalias = 'dear'\nprovider_name = 'o'\nmodel_id = 'other'\n";

    fn told(global: &str, write: impl Fn(&Snapshot, &mut dyn Write) -> io::Result<()>) -> String {
        let loaded = config::load(&format!("{global}{FILE}"), "c.toml", &|_| None);
        let loaded = loaded.unwrap_or_else(|errors| panic!("{errors:#?}"));
        let mut out = Vec::new();
        write(&loaded.snapshot, &mut out).expect("memory can be written to");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn each_model_is_told_with_its_price_and_the_row_that_says_so() {
        let all = |global| told(global, |snapshot, out| write(snapshot, false, out));
        let off = all("");
        let lines: Vec<&str> = off.lines().skip(3).collect();
        assert_eq!(
            lines,
            [
                "o/gpt-4.1: default: price_each_call = 2",
                "o/gpt-4.1-mini: model: price_input_tokens = 0.5, price_output_tokens = 1.6",
                "o/own: pattern ow*: price_each_image = 1",
                "cheap = o/gpt-4.1: default: price_each_call = 2",
                "dear = o/other: default: price_each_call = 2",
            ]
        );
        assert!(off.contains("they are off") && off.starts_with("list prices of 20"), "{off}");
        let on = all("[global]\nlist_prices = true\n");
        assert!(on.contains("\no/gpt-4.1: list: "), "{on}");
        assert!(on.contains("cheap = o/gpt-4.1: list: "), "{on}");
        assert!(on.contains("o/gpt-4.1-mini: model: ") && on.contains("o/own: pattern"), "{on}");
        assert!(on.contains("dear = o/other: default: "), "{on}");
        let json = told("", |snapshot, out| write(snapshot, true, out));
        let line: Value = serde_json::from_str(json.lines().nth(1).unwrap_or("")).expect("JSON");
        assert_eq!(
            line["prices"],
            json!({ "price_input_tokens": "0.5", "price_output_tokens": "1.6" })
        );
        assert_eq!((&line["from"], &line["alias"]), (&json!("model"), &Value::Null));
    }

    #[test]
    fn a_difference_from_the_list_is_told_by_its_name() {
        let diff = |as_json| {
            told("[global]\nlist_prices = true\n", |snapshot, out| {
                assert!(write_diff(snapshot, as_json, out)?, "there are some");
                Ok(())
            })
        };
        let text = diff(false);
        assert!(text.contains("o/gpt-4.1-mini\n"), "{text}");
        assert!(text.contains("price_input_tokens: 0.5 in the file, 0.4 on the list"), "{text}");
        assert!(text.contains("price_cache_read_input_tokens: none in the file, 0.1 on"), "{text}");
        assert!(!text.contains("  price_output_tokens: 1.6"), "what is the same is not told");
        assert!(text.contains("o/own: not on the list"), "{text}");
        assert!(!text.contains("o/gpt-4.1\n") && !text.contains("cheap"), "{text}");
        let json = diff(true);
        assert!(json.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{json}");
        assert!(json.contains(r#""file":"0.5","list":"0.4""#), "{json}");
    }
}

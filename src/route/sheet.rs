//! The sheet of public list prices: data that ships with the program, with its date and its source.
//!
//! It is read when it is first asked for. Whoever switches it on has a price for what he did not
//! price himself; it stands behind every row of his own but `default`.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};

use serde_json::{Map, Value};

use super::price::{Mode, PriceRow, Tier};
use crate::money;

const TEXT: &str = include_str!("list_prices.json");

/// List prices of every vendor that the sheet knows.
pub struct Sheet {
    /// The day of the figures, as `2026-11-22`.
    pub taken_on: String,
    /// Where they come from.
    pub source: String,
    /// By channel.
    channels: HashMap<String, List>,
}

/// List prices of one vendor, by the model's id.
#[derive(Default)]
pub struct List(HashMap<String, Arc<PriceRow>>);

impl List {
    /// What the model costs by the list. A fine-tuned model is listed by what it was made from.
    pub fn price(&self, model_id: &str) -> Option<&Arc<PriceRow>> {
        self.0.get(model_id).or_else(|| {
            let tuned = model_id.strip_prefix("ft:")?;
            let (base, _) = tuned.split_once(':')?;
            self.0.get(&model_id[..base.len() + "ft:".len()])
        })
    }
}

/// The sheet.
pub fn sheet() -> &'static Sheet {
    static SHEET: OnceLock<Sheet> = OnceLock::new();
    SHEET.get_or_init(|| read(TEXT).expect("a test reads the text that is compiled in"))
}

impl Sheet {
    /// The list of a channel's vendor; `None`: it has none.
    pub fn list(&self, channel: &str) -> Option<&List> {
        // Express mode is another way to the same models.
        let channel = if channel == "vertexexpress" { "vertex" } else { channel };
        self.channels.get(channel)
    }

    /// Models listed.
    pub fn models_count(&self) -> usize {
        self.channels.values().map(|list| list.0.len()).sum()
    }
}

fn read(text: &str) -> Option<Sheet> {
    let root: Value = serde_json::from_str(text).ok()?;
    let word = |value: &Value, name: &str| Some(value.get(name)?.as_str()?.to_owned());
    let mut channels: HashMap<String, List> = HashMap::new();
    for model in root.get("models")?.as_array()? {
        let (channel, id) = (word(model, "channel")?, word(model, "model_id")?);
        let listed = channels.entry(channel).or_default().0.insert(id, Arc::new(row(model)?));
        if listed.is_some() {
            return None;
        }
    }
    Some(Sheet { taken_on: word(&root, "taken_on")?, source: word(&root, "source")?, channels })
}

fn row(model: &Value) -> Option<PriceRow> {
    let usual = model.get("default")?.as_object()?;
    let mut tiers = Vec::new();
    // By their bounds: up to the first one the usual prices hold.
    let mut steps = BTreeMap::new();
    if let Some(above) = model.get("above_input_tokens") {
        for (bound, prices) in above.as_object()? {
            steps.insert(bound.parse::<u64>().ok()?, prices.as_object()?);
        }
    }
    let mut prices: &Map<String, Value> = usual;
    for (bound, above) in &steps {
        tiers.push(tier(*bound, prices, usual)?);
        prices = above;
    }
    tiers.push(tier(0, prices, usual)?);
    let mut row = PriceRow::default();
    row.modes[0].tiers = tiers;
    for (at, name) in [(1, "flex"), (2, "scale"), (3, "priority")] {
        if let Some(prices) = model.get(name) {
            let tiers = vec![tier(0, prices.as_object()?, usual)?];
            row.modes[at] = Mode { each_call: None, tiers };
        }
    }
    Some(row)
}

/// Prices up to a bound; what is not named costs as usual.
fn tier(bound: u64, prices: &Map<String, Value>, usual: &Map<String, Value>) -> Option<Tier> {
    let mut tier = Tier { input_tokens_up_to: bound, ..Tier::default() };
    for (name, price) in usual.iter().chain(prices) {
        let place = match name.as_str() {
            "price_input_tokens" => &mut tier.input,
            "price_output_tokens" => &mut tier.output,
            "price_cache_read_input_tokens" => &mut tier.cache_read,
            "price_cache_creation_input_tokens_5min" => &mut tier.cache_write_5min,
            "price_cache_creation_input_tokens_1h" => &mut tier.cache_write_1h,
            "price_input_audio_tokens" => &mut tier.input_audio,
            "price_output_audio_tokens" => &mut tier.output_audio,
            "price_input_image_tokens" => &mut tier.input_image,
            "price_output_image_tokens" => &mut tier.output_image,
            "price_each_image" => &mut tier.each_image,
            "price_each_tool_call" => &mut tier.each_tool_call,
            _ => return None,
        };
        *place = Some(money::parse(price.as_str()?, money::DOLLARS_MAX).ok()?);
    }
    Some(tier)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::usage::{ServiceTier, Usage};
    use crate::money::DOLLAR;
    use crate::route::channel::CHANNELS;

    #[test]
    fn the_sheet_that_ships_is_read_whole() {
        let sheet = read(TEXT).expect("every price has a name and every model one row");
        assert!(sheet.models_count() > 200, "{}", sheet.models_count());
        assert!(sheet.source.contains("litellm"), "it says where it comes from");
        assert_eq!(sheet.taken_on.len(), "2026-11-22".len());
        for channel in sheet.channels.keys() {
            assert!(CHANNELS.iter().any(|known| known.name == channel), "{channel}");
        }
        let rows = sheet.channels.values().flat_map(|list| list.0.values());
        for tier in rows.flat_map(|row| &row.modes).flat_map(|mode| &mode.tiers) {
            let prices = [tier.input, tier.output, tier.cache_read, tier.cache_write_1h];
            assert!(prices.into_iter().flatten().all(|price| price <= 1_000 * DOLLAR), "{tier:?}");
            assert!(tier.input > Some(0) || tier.output > Some(0), "unknown is not free");
        }
    }

    #[test]
    fn a_step_replaces_what_it_names_and_a_fine_tuned_model_is_found() {
        let text = r#"{"taken_on": "d", "source": "s", "models": [{"channel": "openai",
            "model_id": "ft:m", "default": {"price_input_tokens": "1", "price_output_tokens": "4"},
            "flex": {"price_input_tokens": "0.5"},
            "above_input_tokens": {"200": {"price_input_tokens": "2"}}}]}"#;
        let sheet = read(text).expect("sound");
        let list = sheet.list("openai").expect("listed");
        let row = list.price("ft:m:acme::id").expect("its base is");
        let at = |input_tokens, served| {
            let usage = Usage { input_tokens, ..Usage::default() };
            row.applied(&usage, served).cost(&Usage { output_tokens: 1_000_000, ..usage })
        };
        assert_eq!(at(200, ServiceTier::Default), 4 * DOLLAR + 200 * 1_000_000);
        assert_eq!(at(201, ServiceTier::Default), 4 * DOLLAR + 201 * 2_000_000);
        assert_eq!(at(201, ServiceTier::Flex), 4 * DOLLAR + 201 * 500_000);
        assert!(list.price("m").is_none() && list.price("ft:n:a").is_none());
        assert!(sheet.list("custom").is_none());
        for broken in ["price_input_token", "price_each_call"] {
            assert!(read(&text.replacen("price_input_tokens", broken, 1)).is_none(), "{broken}");
        }
    }
}

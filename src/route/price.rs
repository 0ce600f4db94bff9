//! What a call costs: price rows, and the arithmetic of a bill.
//!
//! All amounts are picodollars. A price of tokens is per million; a counter's cost is rounded half
//! up once, so a bill depends on its counts and its row alone and can be worked out again.

#[cfg(test)]
mod tests;

use serde_json::{Map, Value, json};

use crate::dialect::usage::{ServiceTier, Usage};
use crate::money;

const MILLION: i128 = 1_000_000;
/// No call costs more, whatever an upstream says that it used: the sums of a year still fit.
const COST_MAX: i64 = 10_000 * money::DOLLAR;

/// Prices of one model, in every mode of service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PriceRow {
    /// By [`ServiceTier`]: default, flex, scale, priority.
    pub modes: [Mode; 4],
    /// A tool of the vendor's, each time that it ran.
    pub each_tool_call: Option<i64>,
    /// Audio in the prompt; without it, audio costs what text costs.
    pub input_audio: Option<i64>,
    /// Audio that was generated; likewise.
    pub output_audio: Option<i64>,
    /// An image that was made, by a call that makes nothing else.
    pub each_image: Option<i64>,
    /// Images in the prompt; without it, their tokens cost what text costs.
    pub input_image: Option<i64>,
    /// Images that were generated; likewise.
    pub output_image: Option<i64>,
}

/// Prices in one mode of service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mode {
    /// A request, on top of its tokens.
    pub each_call: Option<i64>,
    /// Prices by the size of the prompt, the last one without a bound or for all that is larger.
    pub tiers: Vec<Tier>,
}

/// Prices per million tokens, up to a size of the prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tier {
    /// Cached tokens count too; 0 is no bound.
    pub input_tokens_up_to: u64,
    /// Uncached prompt.
    pub input: Option<i64>,
    /// Generated.
    pub output: Option<i64>,
    /// Read from a cache.
    pub cache_read: Option<i64>,
    /// Written to a cache for five minutes, an unsplit total too.
    pub cache_write_5min: Option<i64>,
    /// Written to a cache for an hour.
    pub cache_write_1h: Option<i64>,
    /// Audio in the prompt, in place of the row's.
    pub input_audio: Option<i64>,
    /// Audio that was generated, likewise.
    pub output_audio: Option<i64>,
    /// A tool's run, likewise.
    pub each_tool_call: Option<i64>,
    /// An image, likewise.
    pub each_image: Option<i64>,
    /// Images in the prompt, likewise.
    pub input_image: Option<i64>,
    /// Images that were generated, likewise.
    pub output_image: Option<i64>,
}

impl Tier {
    /// With a price for all of a prompt: what a cache does costs what any token costs, where
    /// nothing else is said.
    fn filled(self) -> Tier {
        let cache_write_5min = self.cache_write_5min.or(self.input);
        Tier {
            cache_read: self.cache_read.or(self.input),
            cache_write_5min,
            cache_write_1h: self.cache_write_1h.or(cache_write_5min),
            ..self
        }
    }
}

/// Where a price stands, the first that has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PriceSource<'p> {
    /// In the row of the name that was asked for.
    Alias,
    /// In the row of the model that serves.
    Model,
    /// In the row of this pattern.
    Pattern(&'p str),
    /// In the sheet of list prices.
    List,
    /// In the row `default`.
    Default,
}

impl PriceSource<'_> {
    /// Name of the source.
    pub fn name(self) -> &'static str {
        match self {
            PriceSource::Alias => "alias",
            PriceSource::Model => "model",
            PriceSource::Pattern(_) => "pattern",
            PriceSource::List => "list",
            PriceSource::Default => "default",
        }
    }
}

/// The prices that one call was billed by: all that its cost depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Applied {
    each_call: Option<i64>,
    tier: Tier,
    each_tool_call: Option<i64>,
    input_audio: Option<i64>,
    output_audio: Option<i64>,
    each_image: Option<i64>,
    input_image: Option<i64>,
    output_image: Option<i64>,
}

impl PriceRow {
    /// Whether anything in it costs anything, or is said to cost nothing.
    pub fn is_empty(&self) -> bool {
        *self == PriceRow::default()
    }

    /// Everything that is priced by the token or the thing within a tier, by the names of the
    /// configuration.
    pub fn of_tier(
        &self,
        tier: &Tier,
    ) -> impl Iterator<Item = (&'static str, Option<i64>)> + use<> {
        self.with_tier(*tier, None).fields().into_iter()
    }

    fn with_tier(&self, tier: Tier, each_call: Option<i64>) -> Applied {
        Applied {
            each_call,
            tier,
            each_tool_call: tier.each_tool_call.or(self.each_tool_call),
            input_audio: tier.input_audio.or(self.input_audio),
            output_audio: tier.output_audio.or(self.output_audio),
            each_image: tier.each_image.or(self.each_image),
            input_image: tier.input_image.or(self.input_image),
            output_image: tier.output_image.or(self.output_image),
        }
    }

    /// The prices for a call that used this and was served so.
    pub fn applied(&self, usage: &Usage, served: ServiceTier) -> Applied {
        let [default, ..] = &self.modes;
        let mode = &self.modes[served as usize];
        let each_call = mode.each_call.or(default.each_call);
        let tiers = if mode.tiers.is_empty() { &default.tiers } else { &mode.tiers };
        let size = usage
            .input_tokens
            .saturating_add(usage.cache_read_input_tokens)
            .saturating_add(usage.cache_creation_input_tokens_5min)
            .saturating_add(usage.cache_creation_input_tokens_1h);
        let fits = |tier: &&Tier| tier.input_tokens_up_to == 0 || size <= tier.input_tokens_up_to;
        let tier = tiers.iter().find(fits).or(tiers.last()).copied().unwrap_or_default();
        self.with_tier(tier.filled(), each_call)
    }
}

/// So many at so much for a million, rounded half up.
fn per_million(count: u64, price: Option<i64>) -> i128 {
    let price = price.unwrap_or(0);
    // What almost every count comes to fits into half the width, where a division costs little.
    let narrow = || u64::try_from(price).ok()?.checked_mul(count)?.checked_add(MILLION as u64 / 2);
    match narrow() {
        Some(narrow) => i128::from(narrow / MILLION as u64),
        None => (i128::from(count) * i128::from(price) + MILLION / 2) / MILLION,
    }
}

impl Applied {
    /// The bill. A price that is not there adds nothing.
    pub fn cost(&self, usage: &Usage) -> i64 {
        let audio_in = usage.input_audio_tokens.min(usage.input_tokens);
        let audio_out = usage.output_audio_tokens.min(usage.output_tokens);
        let image_in = usage.input_image_tokens.min(usage.input_tokens - audio_in);
        let image_out = usage.output_image_tokens.min(usage.output_tokens - audio_out);
        let tier = &self.tier;
        let tokens = [
            (usage.input_tokens - audio_in - image_in, tier.input),
            (audio_in, self.input_audio.or(tier.input)),
            (usage.output_tokens - audio_out - image_out, tier.output),
            (audio_out, self.output_audio.or(tier.output)),
            (image_in, self.input_image.or(tier.input)),
            (image_out, self.output_image.or(tier.output)),
            (usage.cache_read_input_tokens, tier.cache_read),
            (usage.cache_creation_input_tokens_5min, tier.cache_write_5min),
            (usage.cache_creation_input_tokens_1h, tier.cache_write_1h),
        ];
        let of_tokens = tokens.into_iter().map(|(count, price)| per_million(count, price));
        let each =
            |count: u64, price: Option<i64>| i128::from(count) * i128::from(price.unwrap_or(0));
        let of_things = each(usage.tool_calls, self.each_tool_call)
            + each(usage.images, self.each_image)
            + each(1, self.each_call);
        let total = of_tokens.sum::<i128>() + of_things;
        i64::try_from(total).map_or(COST_MAX, |total| total.min(COST_MAX))
    }

    /// The bill at its dearest, of a call whose prompt may be written to a cache, for an hour too
    /// where `hour_cache` says so, and whose answer may be sound or an image.
    pub fn at_most(mut self, usage: &Usage, hour_cache: bool) -> i64 {
        let tier = &mut self.tier;
        let hour = if hour_cache { tier.cache_write_1h } else { None };
        tier.input = tier.input.max(tier.cache_write_5min).max(hour);
        tier.output = tier.output.max(self.output_audio).max(self.output_image);
        self.cost(usage)
    }

    /// The prices as JSON, under the names of the configuration.
    pub fn to_json(&self) -> String {
        let mut map = Map::new();
        for (name, price) in self.fields() {
            if let Some(price) = price {
                map.insert(name.to_owned(), json!(money::text(price)));
            }
        }
        Value::Object(map).to_string()
    }

    /// Reads what [`Applied::to_json`] wrote.
    pub fn from_json(text: &str) -> Option<Applied> {
        let map: Map<String, Value> = serde_json::from_str(text).ok()?;
        let price = |name: &str| match map.get(name) {
            Some(value) => money::parse(value.as_str()?, money::DOLLARS_MAX).ok().map(Some),
            None => Some(None),
        };
        Some(Applied {
            each_call: price("price_each_call")?,
            tier: Tier {
                input_tokens_up_to: 0,
                input: price("price_input_tokens")?,
                output: price("price_output_tokens")?,
                cache_read: price("price_cache_read_input_tokens")?,
                cache_write_5min: price("price_cache_creation_input_tokens_5min")?,
                cache_write_1h: price("price_cache_creation_input_tokens_1h")?,
                ..Tier::default()
            },
            each_tool_call: price("price_each_tool_call")?,
            input_audio: price("price_input_audio_tokens")?,
            output_audio: price("price_output_audio_tokens")?,
            each_image: price("price_each_image")?,
            input_image: price("price_input_image_tokens")?,
            output_image: price("price_output_image_tokens")?,
        })
    }

    fn fields(&self) -> [(&'static str, Option<i64>); 12] {
        [
            ("price_each_call", self.each_call),
            ("price_input_tokens", self.tier.input),
            ("price_output_tokens", self.tier.output),
            ("price_cache_read_input_tokens", self.tier.cache_read),
            ("price_cache_creation_input_tokens_5min", self.tier.cache_write_5min),
            ("price_cache_creation_input_tokens_1h", self.tier.cache_write_1h),
            ("price_each_tool_call", self.each_tool_call),
            ("price_input_audio_tokens", self.input_audio),
            ("price_output_audio_tokens", self.output_audio),
            ("price_each_image", self.each_image),
            ("price_input_image_tokens", self.input_image),
            ("price_output_image_tokens", self.output_image),
        ]
    }
}

//! What an upstream says that a call used, read from the bytes that pass.
//!
//! The counters are disjoint, whatever the vendor's are: OpenAI and Gemini count cached tokens
//! within the prompt, Anthropic beside it. Whatever a stream says last counts; nothing is ever
//! summed over events. Facts: the types of the official clients.

mod node;
mod tap;
#[cfg(test)]
mod tests;

use super::Dialect;
pub use node::Node;
pub use tap::Tap;
pub(super) use tap::text_bytes;

/// Counts of one call. Disjoint, except where a line says "of which".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Prompt tokens that no cache served: text, and all that is not named below.
    pub input_tokens: u64,
    /// Prompt tokens read from the vendor's cache.
    pub cache_read_input_tokens: u64,
    /// Prompt tokens written to a cache for five minutes. A total without a split counts here.
    pub cache_creation_input_tokens_5min: u64,
    /// Prompt tokens written to a cache for an hour.
    pub cache_creation_input_tokens_1h: u64,
    /// Generated tokens, reasoning included.
    pub output_tokens: u64,
    /// Of which of `output_tokens`: reasoning.
    pub reasoning_tokens: u64,
    /// Of which of `input_tokens`: audio.
    pub input_audio_tokens: u64,
    /// Of which of `output_tokens`: audio.
    pub output_audio_tokens: u64,
    /// Tools of the vendor's that it ran and bills by the call.
    pub tool_calls: u64,
    /// Images that it made, where it is asked for nothing else.
    pub images: u64,
    /// Of which of `input_tokens`: images.
    pub input_image_tokens: u64,
    /// Of which of `output_tokens`: images.
    pub output_image_tokens: u64,
}

impl Usage {
    /// All tokens, in and out.
    pub fn tokens(&self) -> u64 {
        let tokens = [
            self.input_tokens,
            self.cache_read_input_tokens,
            self.cache_creation_input_tokens_5min,
            self.cache_creation_input_tokens_1h,
            self.output_tokens,
        ];
        tokens.into_iter().fold(0, u64::saturating_add)
    }

    /// Puts each count together with that of another.
    fn combine(&mut self, other: &Usage, with: fn(u64, u64) -> u64) {
        for (own, more) in [
            (&mut self.input_tokens, other.input_tokens),
            (&mut self.cache_read_input_tokens, other.cache_read_input_tokens),
            (&mut self.cache_creation_input_tokens_5min, other.cache_creation_input_tokens_5min),
            (&mut self.cache_creation_input_tokens_1h, other.cache_creation_input_tokens_1h),
            (&mut self.output_tokens, other.output_tokens),
            (&mut self.reasoning_tokens, other.reasoning_tokens),
            (&mut self.input_audio_tokens, other.input_audio_tokens),
            (&mut self.output_audio_tokens, other.output_audio_tokens),
            (&mut self.tool_calls, other.tool_calls),
            (&mut self.images, other.images),
            (&mut self.input_image_tokens, other.input_image_tokens),
            (&mut self.output_image_tokens, other.output_image_tokens),
        ] {
            *own = with(*own, more);
        }
    }
}

/// How a vendor served a call, by its own word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServiceTier {
    /// As usual.
    #[default]
    Default,
    /// Cheaper and slower.
    Flex,
    /// Bought ahead.
    Scale,
    /// Dearer and faster.
    Priority,
}

impl ServiceTier {
    /// The name in rows.
    pub fn name(self) -> &'static str {
        match self {
            ServiceTier::Default => "default",
            ServiceTier::Flex => "flex",
            ServiceTier::Scale => "scale",
            ServiceTier::Priority => "priority",
        }
    }

    fn named(name: &str) -> ServiceTier {
        match name {
            "flex" => ServiceTier::Flex,
            "scale" => ServiceTier::Scale,
            "priority" | "fast" => ServiceTier::Priority,
            _ => ServiceTier::Default,
        }
    }
}

/// Where the figures of a call come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsageSource {
    /// The upstream's final word.
    Upstream,
    /// The upstream's word before the stream broke off.
    Partial,
    /// A guess of ours stands in it.
    Estimated,
    /// The endpoint tells none.
    None,
}

impl UsageSource {
    /// The name in rows.
    pub fn name(self) -> &'static str {
        match self {
            UsageSource::Upstream => "upstream",
            UsageSource::Partial => "partial",
            UsageSource::Estimated => "estimated",
            UsageSource::None => "none",
        }
    }
}

/// What was told so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// The counts.
    pub usage: Usage,
    /// The tier that was served.
    pub tier: ServiceTier,
    /// Something was told.
    pub any: bool,
    /// What was told holds the output's count.
    pub output: bool,
    /// The part of Anthropic's that stood beside its totals.
    beside: Usage,
}

/// Types of Anthropic's `iterations` that its totals do not hold: `message` they do.
const BESIDE: [&str; 2] = ["compaction", "advisor_message"];

/// What making a conversation shorter, or asking an adviser, took besides the message.
fn beside(iterations: &Node<'_>) -> Usage {
    let mut sum = Usage::default();
    let is_beside = |one: &&Node<'_>| {
        one.get("type").and_then(Node::as_str).is_some_and(|name| BESIDE.contains(&name))
    };
    for one in iterations.values().filter(is_beside) {
        let mut own = Told::default();
        own.message(one);
        // Tools and thoughts are told in the totals.
        let own = Usage { tool_calls: 0, reasoning_tokens: 0, ..own.usage };
        sum.combine(&own, u64::saturating_add);
    }
    sum
}

/// A count; what is none counts as zero, and so does what no call can use: an upstream that counts
/// below zero has told nothing.
fn count(value: &Node<'_>) -> u64 {
    match value {
        Node::Count(count) if *count <= COUNT_MAX => *count,
        _ => 0,
    }
}

/// More tokens than any call can use; sums of a few of them cannot overflow.
const COUNT_MAX: u64 = 1 << 28;

impl Told {
    /// Adds what another answer of the same session used.
    pub fn plus(&mut self, other: &Told) {
        self.usage.combine(&other.usage, u64::saturating_add);
        if other.any {
            self.tier = other.tier;
        }
        self.any |= other.any;
        self.output |= other.output;
    }

    /// Takes in a usage object as it stands in a reply of the dialect.
    pub fn add(&mut self, dialect: Dialect, value: &Node<'_>) {
        if !value.is_object() {
            return;
        }
        if dialect == Dialect::Gemini {
            self.gemini_tier(value);
        }
        if !is_telling(dialect, value) {
            return;
        }
        self.any = true;
        match dialect {
            Dialect::OpenaiChat | Dialect::OpenaiResponses | Dialect::OpenaiEmbeddings => {
                self.openai(value);
            }
            Dialect::Anthropic => self.anthropic(value),
            Dialect::Gemini => self.gemini(value),
        }
    }

    /// The tier by its name.
    pub fn served(&mut self, name: &str) {
        self.tier = ServiceTier::named(name);
    }

    /// Details are parts of the totals. Chat, Responses and Realtime have names of their own for
    /// the same.
    fn openai(&mut self, value: &Node<'_>) {
        let fields = |names: &'static [&str]| names.iter().filter_map(|name| value.get(name));
        let first = |names| fields(names).find(|found| !matches!(found, Node::Null));
        let either = |names| first(names).map_or(0, count);
        let of_input =
            first(&["prompt_tokens_details", "input_tokens_details", "input_token_details"]);
        let of_output =
            first(&["completion_tokens_details", "output_tokens_details", "output_token_details"]);
        let detail = |details: Option<&Node<'_>>, name: &str| {
            details.and_then(|details| details.get(name)).map_or(0, count)
        };
        let all_in = either(&["prompt_tokens", "input_tokens"]);
        let cached = detail(of_input, "cached_tokens");
        let cached = cached.max(value.get("prompt_cache_hit_tokens").map_or(0, count)).min(all_in);
        let written = detail(of_input, "cache_write_tokens").min(all_in - cached);
        let rest = all_in - cached - written;
        // Realtime says how much of what was cached is audio, and images.
        let cached_parts = of_input.and_then(|details| details.get("cached_tokens_details"));
        let uncached = |name| detail(of_input, name).saturating_sub(detail(cached_parts, name));
        let (audio_in, image_in) = (uncached("audio_tokens").min(rest), uncached("image_tokens"));
        let thoughts = detail(of_output, "reasoning_tokens");
        let mut all_out = either(&["completion_tokens", "output_tokens"]);
        // xAI counts its thoughts beside what they led to; only the total of all tells.
        let total = value.get("total_tokens").map_or(0, count);
        if thoughts > 0 && total == all_in + all_out + thoughts {
            all_out += thoughts;
        }
        let audio_out = detail(of_output, "audio_tokens").min(all_out);
        self.usage = Usage {
            input_tokens: rest,
            cache_read_input_tokens: cached,
            cache_creation_input_tokens_5min: written,
            cache_creation_input_tokens_1h: 0,
            output_tokens: all_out,
            reasoning_tokens: thoughts.min(all_out),
            input_audio_tokens: audio_in,
            output_audio_tokens: audio_out,
            tool_calls: self.usage.tool_calls,
            images: self.usage.images,
            input_image_tokens: image_in.min(rest - audio_in),
            output_image_tokens: detail(of_output, "image_tokens").min(all_out - audio_out),
        };
        self.output = true;
    }

    fn anthropic(&mut self, value: &Node<'_>) {
        self.usage.combine(&self.beside, u64::saturating_sub);
        self.message(value);
        if let Some(iterations) = value.get("iterations") {
            self.beside = beside(iterations);
        }
        self.usage.combine(&self.beside, u64::saturating_add);
        // The one may have been told before the other.
        self.usage.reasoning_tokens = self.usage.reasoning_tokens.min(self.usage.output_tokens);
    }

    /// Each field that is there replaces the one before: the counts of a stream are cumulative.
    fn message(&mut self, value: &Node<'_>) {
        let usage = &mut self.usage;
        let field =
            |name: &str| value.get(name).filter(|found| !matches!(found, Node::Null)).map(count);
        let put = |to: &mut u64, name: &str| *to = field(name).unwrap_or(*to);
        put(&mut usage.input_tokens, "input_tokens");
        put(&mut usage.cache_read_input_tokens, "cache_read_input_tokens");
        put(&mut usage.output_tokens, "output_tokens");
        if let Some(split) = value.get("cache_creation").filter(|split| split.is_object()) {
            let part = |name: &str| split.get(name).map_or(0, count);
            usage.cache_creation_input_tokens_5min = part("ephemeral_5m_input_tokens");
            usage.cache_creation_input_tokens_1h = part("ephemeral_1h_input_tokens");
        }
        // The total is never added to its parts; what they lack of it was written for five minutes.
        if let Some(total) = field("cache_creation_input_tokens") {
            let hour = usage.cache_creation_input_tokens_1h.min(total);
            usage.cache_creation_input_tokens_1h = hour;
            usage.cache_creation_input_tokens_5min = total - hour;
        }
        let details = value.get("output_tokens_details");
        if let Some(thinking) = details.and_then(|details| details.get("thinking_tokens")) {
            usage.reasoning_tokens = count(thinking);
        }
        // Of its tools only searches are billed by the call.
        if let Some(tools) = value.get("server_tool_use").filter(|tools| tools.is_object()) {
            usage.tool_calls = tools.get("web_search_requests").map_or(0, count);
        }
        for name in ["service_tier", "speed"] {
            if let Some(name) = value.get(name).and_then(Node::as_str)
                && name != "standard"
            {
                self.tier = ServiceTier::named(name);
            }
        }
    }

    /// AI Studio names the tier, Vertex the kind of traffic.
    fn gemini_tier(&mut self, value: &Node<'_>) {
        let named = |name: &str| value.get(name).and_then(Node::as_str);
        if let Some(name) = named("serviceTier").or(named("trafficType")) {
            let name = name.to_ascii_lowercase();
            let name = name.trim_start_matches("service_tier_").trim_start_matches("on_demand_");
            let name = if name == "provisioned_throughput" { "scale" } else { name };
            self.tier = ServiceTier::named(name);
        }
    }

    /// Thoughts stand beside the candidates, cached tokens within the prompt.
    fn gemini(&mut self, value: &Node<'_>) {
        let before = self.usage;
        let field = |name: &str| value.get(name).map_or(0, count);
        let of = |modality: &str, name: &str| {
            let parts = value.get(name).into_iter().flat_map(Node::values);
            let fits =
                |part: &&Node<'_>| part.get("modality").and_then(Node::as_str) == Some(modality);
            let counts = parts.filter(fits).filter_map(|part| part.get("tokenCount"));
            counts.map(count).fold(0, u64::saturating_add)
        };
        // What was cached is broken down too.
        let uncached = |modality| {
            let cached = of(modality, "cacheTokensDetails");
            of(modality, "promptTokensDetails").saturating_sub(cached)
        };
        let generated = |modality| {
            of(modality, "candidatesTokensDetails").max(of(modality, "responseTokensDetails"))
        };
        let prompt = field("promptTokenCount");
        let cached = field("cachedContentTokenCount").min(prompt);
        let rest = prompt - cached + field("toolUsePromptTokenCount");
        let thoughts = field("thoughtsTokenCount");
        // Live has another name for what it generates.
        let output = field("candidatesTokenCount").max(field("responseTokenCount")) + thoughts;
        let audio_in = uncached("AUDIO").min(rest);
        let audio_out = generated("AUDIO").min(output);
        self.usage = Usage {
            input_tokens: rest,
            cache_read_input_tokens: cached,
            output_tokens: output,
            reasoning_tokens: thoughts,
            input_audio_tokens: audio_in,
            output_audio_tokens: audio_out,
            input_image_tokens: uncached("IMAGE").min(rest - audio_in),
            output_image_tokens: generated("IMAGE").min(output - audio_out),
            images: self.usage.images,
            tool_calls: self.usage.tool_calls,
            ..Usage::default()
        };
        // What an event leaves out stays as an earlier one told it.
        if !has_count(value, &GEMINI_INPUT) {
            self.usage.input_tokens = before.input_tokens;
            self.usage.cache_read_input_tokens = before.cache_read_input_tokens;
            self.usage.input_audio_tokens = before.input_audio_tokens;
            self.usage.input_image_tokens = before.input_image_tokens;
        }
        if !has_count(value, &GEMINI_OUTPUT) {
            self.usage.output_tokens = before.output_tokens;
            self.usage.reasoning_tokens = before.reasoning_tokens;
            self.usage.output_audio_tokens = before.output_audio_tokens;
            self.usage.output_image_tokens = before.output_image_tokens;
        }
        self.output = true;
    }
}

const GEMINI_INPUT: [&str; 2] = ["promptTokenCount", "toolUsePromptTokenCount"];
const GEMINI_OUTPUT: [&str; 3] =
    ["candidatesTokenCount", "responseTokenCount", "thoughtsTokenCount"];

fn has_count(value: &Node<'_>, names: &[&str]) -> bool {
    names.iter().any(|name| value.get(name).is_some_and(|found| !matches!(found, Node::Null)))
}

/// It tells something: Vertex sends the object empty, or with the kind of traffic alone, in all
/// events but the last, and some servers fill theirs with `null`.
fn is_telling(dialect: Dialect, value: &Node<'_>) -> bool {
    match dialect {
        Dialect::Gemini => has_count(value, &GEMINI_INPUT) || has_count(value, &GEMINI_OUTPUT),
        _ => value.values().any(|field| !matches!(field, Node::Null)),
    }
}

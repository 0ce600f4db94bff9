use super::*;
use crate::dialect::endpoint::ENDPOINTS;

fn endpoint(name: &str) -> &'static Endpoint {
    ENDPOINTS.iter().find(|endpoint| endpoint.name == name).expect("endpoint exists")
}

#[track_caller]
fn check(channel: &str, base_url: &str, call: &str, expected: &str) {
    let channel = Channel::named(channel).expect("channel exists");
    check_spoken(channel, channel.dialects(), base_url, call, expected);
}

#[track_caller]
fn check_spoken(channel: &Channel, spoken: Dialects, base: &str, call: &str, expected: &str) {
    let endpoint = endpoint(call);
    let base = if base.is_empty() { channel.base_url.unwrap_or_default() } else { base };
    let url = join(base, channel, endpoint.dialect, spoken)
        .map(|place| place.url(endpoint, "v1beta", "m", Collection::Models, "", false));
    assert_eq!(url.as_deref().unwrap_or("not spoken"), expected, "{} at {base}", channel.name);
}

#[test]
fn every_channel_has_the_addresses_of_its_vendor() {
    let chat = "chat.completions";
    let rows = [
        ("openai", chat, "https://api.openai.com/v1/chat/completions"),
        ("openai", "responses", "https://api.openai.com/v1/responses"),
        ("openai", "embeddings", "https://api.openai.com/v1/embeddings"),
        ("openai", "completions", "https://api.openai.com/v1/completions"),
        ("openai", "messages", "not spoken"),
        ("anthropic", chat, "https://api.anthropic.com/v1/chat/completions"),
        ("anthropic", "messages", "https://api.anthropic.com/v1/messages"),
        (
            "anthropic",
            "messages.count_tokens",
            "https://api.anthropic.com/v1/messages/count_tokens",
        ),
        (
            "aistudio",
            chat,
            "https://generativelanguage.googleapis.com/v1beta/openai/chat/completions",
        ),
        (
            "aistudio",
            "generateContent",
            "https://generativelanguage.googleapis.com/v1beta/models/m:generateContent",
        ),
        (
            "vertexexpress",
            "generateContent",
            "https://aiplatform.googleapis.com/v1beta1/publishers/google/models/m:generateContent",
        ),
        ("vertexexpress", chat, "not spoken"),
        ("deepseek", chat, "https://api.deepseek.com/chat/completions"),
        ("deepseek", "messages", "https://api.deepseek.com/anthropic/v1/messages"),
        ("groq", chat, "https://api.groq.com/openai/v1/chat/completions"),
        ("groq", "responses", "https://api.groq.com/openai/v1/responses"),
        ("openrouter", chat, "https://openrouter.ai/api/v1/chat/completions"),
        ("openrouter", "messages", "https://openrouter.ai/api/v1/messages"),
        ("nvidia", chat, "https://integrate.api.nvidia.com/v1/chat/completions"),
        ("nvidia", "embeddings", "https://integrate.api.nvidia.com/v1/embeddings"),
    ];
    for (channel, call, expected) in rows {
        check(channel, "", call, expected);
    }
}

#[test]
fn the_version_is_never_doubled() {
    let chat = "chat.completions";
    let rows = [
        ("openai", "https://host", chat, "https://host/v1/chat/completions"),
        ("openai", "https://host/", chat, "https://host/v1/chat/completions"),
        ("openai", "https://host/v1", chat, "https://host/v1/chat/completions"),
        ("openai", "https://host/v1/", chat, "https://host/v1/chat/completions"),
        ("openai", "https://host/openai/v1", chat, "https://host/openai/v1/chat/completions"),
        ("openai", "https://host/api/v1/", chat, "https://host/api/v1/chat/completions"),
        ("custom", "https://host/api/paas/v4", chat, "https://host/api/paas/v4/chat/completions"),
        (
            "custom",
            "https://host/v1beta/openai/",
            chat,
            "https://host/v1beta/openai/chat/completions",
        ),
        (
            "custom",
            "https://host/v1/a/b/openai",
            chat,
            "https://host/v1/a/b/openai/chat/completions",
        ),
        ("custom", "https://v1/openai", chat, "https://v1/openai/v1/chat/completions"),
        ("custom", "https://host/v1", "messages", "https://host/v1/messages"),
        ("custom", "https://host/anthropic", "messages", "https://host/anthropic/v1/messages"),
        (
            "custom",
            "https://host/v1/a/anthropic",
            "messages",
            "https://host/v1/a/anthropic/v1/messages",
        ),
        ("anthropic", "https://host/v1", "messages", "https://host/v1/messages"),
        ("groq", "https://api.groq.com", chat, "https://api.groq.com/openai/v1/chat/completions"),
        (
            "groq",
            "https://api.groq.com/openai/v1",
            chat,
            "https://api.groq.com/openai/v1/chat/completions",
        ),
        (
            "openrouter",
            "https://openrouter.ai/v1",
            chat,
            "https://openrouter.ai/api/v1/chat/completions",
        ),
        (
            "openrouter",
            "https://openrouter.ai/api",
            chat,
            "https://openrouter.ai/api/v1/chat/completions",
        ),
    ];
    for (channel, base, call, expected) in rows {
        check(channel, base, call, expected);
    }
}

#[test]
fn a_second_dialect_keeps_its_place_whatever_was_typed() {
    let chat = "chat.completions";
    let rows = [
        ("deepseek", "https://host/v1", chat, "https://host/v1/chat/completions"),
        ("deepseek", "https://host/v1", "messages", "https://host/anthropic/v1/messages"),
        ("deepseek", "https://host/anthropic", chat, "https://host/chat/completions"),
        ("deepseek", "https://host/anthropic", "messages", "https://host/anthropic/v1/messages"),
        (
            "deepseek",
            "https://host/anthropic/v1/",
            "messages",
            "https://host/anthropic/v1/messages",
        ),
        ("aistudio", "https://host/v1beta/", chat, "https://host/v1beta/openai/chat/completions"),
        (
            "aistudio",
            "https://host/v1beta/openai/",
            chat,
            "https://host/v1beta/openai/chat/completions",
        ),
        (
            "aistudio",
            "https://host/v1beta/openai",
            "generateContent",
            "https://host/v1beta/models/m:generateContent",
        ),
    ];
    for (channel, base, call, expected) in rows {
        check(channel, base, call, expected);
    }
}

#[test]
fn a_version_typed_for_one_family_does_not_bind_another() {
    let custom = Channel::named(CUSTOM).expect("channel exists");
    let all = custom.dialects();
    let gemini: Dialects = [Dialect::Gemini].into_iter().collect();
    let openai: Dialects = [Dialect::OpenaiChat].into_iter().collect();
    let call = "generateContent";
    let rows = [
        (all, "https://host", call, "https://host/v1beta/models/m:generateContent"),
        (all, "https://host/v1", call, "https://host/v1beta/models/m:generateContent"),
        (all, "https://host/v1beta", call, "https://host/v1beta/models/m:generateContent"),
        (all, "https://host/v1beta", "messages", "https://host/v1/messages"),
        (gemini, "https://host/v1", call, "https://host/v1/models/m:generateContent"),
        (gemini, "https://host/v1beta1", call, "https://host/v1beta1/models/m:generateContent"),
        (gemini, "https://host", "chat.completions", "not spoken"),
        (openai, "https://host", call, "not spoken"),
    ];
    for (spoken, base, call, expected) in rows {
        check_spoken(custom, spoken, base, call, expected);
    }
}

#[test]
fn google_hosts_get_their_own_spelling_of_the_preview_version() {
    let call = endpoint("streamGenerateContent");
    let rows = [
        ("aistudio", "v1beta1", "https://h/v1beta/models/m:streamGenerateContent?alt=sse"),
        ("aistudio", "v1", "https://h/v1/models/m:streamGenerateContent?alt=sse"),
        (
            "vertexexpress",
            "v1beta",
            "https://h/v1beta1/publishers/google/models/m:streamGenerateContent?alt=sse",
        ),
        (
            "vertexexpress",
            "v1",
            "https://h/v1/publishers/google/models/m:streamGenerateContent?alt=sse",
        ),
        ("custom", "v1beta1", "https://h/v1beta/models/m:streamGenerateContent?alt=sse"),
    ];
    for (channel, version, expected) in rows {
        let channel = Channel::named(channel).expect("channel exists");
        let place = join("https://h", channel, Dialect::Gemini, channel.dialects())
            .expect("Gemini is spoken");
        assert_eq!(place.url(call, version, "m", Collection::Models, "alt=sse", false), expected);
    }
}

#[test]
fn a_model_id_in_a_path_is_encoded_where_it_must_be() {
    let call = endpoint("countTokens");
    let channel = Channel::named("aistudio").expect("channel exists");
    let place =
        join("https://h", channel, Dialect::Gemini, channel.dialects()).expect("Gemini is spoken");
    let rows = [
        ("a/b:free@1", "https://h/v1beta/models/a/b:free@1:countTokens"),
        ("a b?c#d%e", "https://h/v1beta/models/a%20b%3Fc%23d%25e:countTokens"),
        ("模", "https://h/v1beta/models/%E6%A8%A1:countTokens"),
    ];
    for (model, expected) in rows {
        assert_eq!(place.url(call, "v1beta", model, Collection::Models, "", false), expected);
    }
    let tuned = place.url(call, "v1beta", "mine", Collection::TunedModels, "", false);
    assert_eq!(tuned, "https://h/v1beta/tunedModels/mine:countTokens");
}

#[test]
fn versions_are_told_from_names() {
    for segment in ["v1", "v4", "v1beta", "v1beta1", "v1alpha", "v2beta3"] {
        assert!(is_version(segment), "{segment}");
    }
    for segment in ["v", "vertex", "v1x", "1", "openai", "", "version", "v1beta1x", "vbeta"] {
        assert!(!is_version(segment), "{segment}");
    }
}

#[test]
fn sets_of_dialects_print_their_names_in_order() {
    let set: Dialects = [Dialect::Gemini, Dialect::OpenaiChat].into_iter().collect();
    assert_eq!(set.to_string(), "openai_chat, gemini");
    assert!(set.contains(Dialect::Gemini) && !set.contains(Dialect::Anthropic));
}

#[test]
fn channels_have_distinct_names_and_one_surface_for_each_dialect() {
    for (index, channel) in CHANNELS.iter().enumerate() {
        assert!(CHANNELS[..index].iter().all(|other| other.name != channel.name));
        assert_eq!(channel.dialects().iter().count(), channel.surfaces.len(), "{}", channel.name);
    }
}

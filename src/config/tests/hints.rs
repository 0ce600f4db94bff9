//! What is warned of, and where a mistake says that its key belongs.

use super::*;

const CUSTOM: &str = "[[providers]]\nname = 'q'\nchannel = 'custom'\n\
    settings = { base_url = 'http://h' }\n";

/// The warnings about a section that refers to the provider `p` on echo, the provider `q` on
/// custom, and the user `u`.
#[track_caller]
fn warnings_of(section: &str) -> Vec<String> {
    let quiet = "[[users.keys]]\napi_key = 'k'\n[[permissions]]\nuser_name = 'u'\n\
                 model_pattern = '*'\n";
    loaded(&format!("{CUSTOM}{ECHO}{quiet}{section}")).warnings
}

#[track_caller]
fn check_warned(section: &str, expected: &[&str]) {
    let warnings = warnings_of(section);
    assert_eq!(warnings.len(), expected.len(), "{section}: {warnings:?}");
    for (warning, part) in warnings.iter().zip(expected) {
        assert!(warning.contains(part), "{section}: {warning}");
    }
}

#[test]
fn a_row_of_a_pattern_or_of_all_others_only_gives_prices() {
    let row = |model: &str, more: &str| {
        format!("[[models]]\nprovider_name = 'p'\nmodel_id = '{model}'\n{more}")
    };
    for model in ["gpt-4*", "default"] {
        for (key, value) in [
            ("enabled", "false"),
            ("display_name", "'x'"),
            ("max_input_tokens", "1"),
            ("max_output_tokens", "1"),
        ] {
            let row = row(model, &format!("price_each_call = 1\n{key} = {value}"));
            check_after(&row, 5, &format!("models[0].{key}"), "only gives prices");
        }
        loaded(&format!("{ECHO}{}", row(model, "price_each_call = 1\nenabled = true")));
    }
    check_after(&row("gpt-4*", ""), 3, "models[0].model_id", "this row has none");
    let bad = row("gpt-4*", "price_each_call = 'free'");
    check_after(&bad, 4, "models[0].price_each_call", "an amount in USD");
    // Some upstreams have a model of that name.
    loaded(&format!("{ECHO}{}", row("default", "display_name = 'x'")));
}

#[test]
fn a_tier_without_a_price_that_another_has_is_warned_of() {
    let row = |tiers: &str| {
        format!("[[models]]\nprovider_name = 'p'\nmodel_id = 'm'\nflex_price_tiers = [{tiers}]")
    };
    let both = "{ input_tokens_up_to = 5, price_input_tokens = 1, price_output_tokens = 2 }";
    let rows: [(&str, &[&str]); 3] = [
        (
            "{ price_cache_read_input_tokens = 1 }",
            &[
                "models[0].flex_price_tiers[1]: has no price_input_tokens",
                "models[0].flex_price_tiers[1]: has no price_output_tokens",
            ],
        ),
        ("{ price_input_tokens = 0 }", &["has no price_output_tokens, which another tier has"]),
        ("{ price_input_tokens = 1, price_output_tokens = 0 }", &[]),
    ];
    for (last, expected) in rows {
        check_warned(&row(&format!("{both}, {last}")), expected);
    }
    check_warned(&row("{ price_output_tokens = 1 }"), &[]);
}

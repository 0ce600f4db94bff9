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

#[test]
fn a_quota_over_calls_that_cost_nothing_is_warned_of() {
    let quota = "[[quotas]]\nuser_name = 'u'\nquota = 1\nwindow = 'day'\n\
                 [[quotas]]\nuser_name = 'u'\nquota = 9\n";
    let expected = "quotas[0].quota: the user \"u\" has a quota, but nothing that \"q\" serves has \
                    a price: its calls cost nothing";
    check_warned(quota, &[expected]);
    for model in ["m", "m*", "default"] {
        let price = "[[models]]\nprovider_name = 'q'\nprice_each_call = 1";
        check_warned(&format!("{quota}{price}\nmodel_id = '{model}'"), &[]);
    }
    let none = "[[models]]\nprovider_name = 'q'\nmodel_id = 'm'\n";
    check_warned(&format!("{quota}{none}"), &[expected]);
}

#[test]
fn such_quotas_are_warned_of_where_calls_are_permitted_and_not_endlessly() {
    let user = "[[users]]\nname = 'u'\n[[quotas]]\nuser_name = 'u'\nquota = 1\n\
                [[permissions]]\nuser_name = 'u'\nmodel_pattern = '*'\n";
    let free = |text: &str| {
        let warnings = loaded(text).warnings;
        warnings.into_iter().filter(|one| one.contains("quota")).collect::<Vec<_>>()
    };
    assert_eq!(free(&format!("{CUSTOM}{user}")).len(), 1);
    let echo = "[[providers]]\nname = 'p'\nchannel = 'echo'\n";
    assert_eq!(free(&format!("{CUSTOM}{echo}{user}provider_name = 'p'")).len(), 0);
    assert_eq!(free(&format!("{CUSTOM}enabled = false\n{user}")).len(), 0);
    let many: String = (0..25).map(|at| CUSTOM.replace("'q'", &format!("'q{at}'"))).collect();
    let warnings = free(&format!("{many}{user}"));
    assert_eq!(warnings.len(), 21);
    assert_eq!(warnings[20], "5 more pairs of a user with a quota and a provider without prices");
    let listed = "[global]\nlist_prices = true\n[[providers]]\nname = 'p'\nchannel = 'openai'\n\
                  credentials = [{ api_key = 'k' }]\n";
    assert_eq!(free(&format!("{listed}{user}")).len(), 0);
}

#[test]
fn an_alias_that_leads_nowhere_is_warned_of() {
    let off = "[[providers]]\nname = 'off'\nchannel = 'echo'\nenabled = false\n\
               [[models]]\nprovider_name = 'p'\nmodel_id = 'm'\nenabled = false\n";
    let alias = |provider: &str, model: &str, more: &str| {
        format!(
            "{off}[[model_aliases]]\nalias = 'a'\nprovider_name = '{provider}'\n\
             model_id = '{model}'\n{more}"
        )
    };
    let nowhere = "model_aliases[0].provider_name: the provider \"off\" is disabled";
    check_warned(&alias("off", "m", ""), &[nowhere]);
    check_warned(&alias("p", "m", ""), &["model_aliases[0].model_id: the model \"m\" is disabled"]);
    check_warned(&alias("p", "n", ""), &[]);
    check_warned(&alias("off", "m", "enabled = false"), &[]);
    let targets = "[[model_aliases]]\nalias = 'a'\ntargets = [\
        { provider_name = 'p', model_id = 'n' }, { provider_name = 'off', model_id = 'm' }]";
    let nowhere = "model_aliases[0].targets[1].provider_name: the provider \"off\" is disabled";
    check_warned(&format!("{off}{targets}"), &[nowhere]);
}

#[test]
fn a_short_key_of_an_administrator_is_warned_of_where_others_reach_it() {
    let text = |host: &str, admin: bool, key: &str| {
        format!(
            "[global]\nhost = '{host}'\n[[users]]\nname = 'u'\nis_admin = {admin}\n\
             [[users.keys]]\napi_key = '{key}'"
        )
    };
    let warned = |text: String| loaded(&text).warnings.join("\n").contains("can be guessed");
    let hashed = Digest::of(b"sk-short").to_text();
    assert!(warned(text("0.0.0.0", true, "sk-15-characters")[..].replace("sk-15-", "sk-")));
    assert!(!warned(text("0.0.0.0", true, "sk-16-characters")));
    assert!(!warned(text("0.0.0.0", true, &hashed)));
    assert!(!warned(text("0.0.0.0", false, "sk-short")));
    assert!(!warned(text("127.0.0.1", true, "sk-short")));
}

#[test]
fn a_key_in_the_wrong_table_says_where_it_belongs() {
    let model = "[[models]]\nprovider_name = 'p'\nmodel_id = 'm'\nprice_input_tokens = 1";
    check_after(model, 4, "models[0].price_input_tokens", "it stands in price_tiers");
    let custom = "[[providers]]\nname = 'p'\nchannel = 'custom'\nbase_url = 'http://h'";
    check(custom, 4, "providers[0].base_url", "it stands in [providers.settings]");
    let openai = "[[providers]]\nname = 'p'\nchannel = 'openai'\n";
    let in_credentials = "it stands in credentials: credentials = [{ api_key =";
    check(&format!("{openai}api_key = 'k'"), 4, "providers[0].api_key", in_credentials);
    let settings = format!("{openai}[providers.settings]\n");
    let above = "above [providers.settings]";
    let nested = format!("{settings}credentials = [{{ api_key = 'k' }}]");
    check(&nested, 5, "providers[0].settings.credentials", above);
    check(&format!("{settings}api_key = 'k'"), 5, "providers[0].settings.api_key", above);
    check_custom("in_flight = 3", "in_flight", "it stands in credentials, above");
    check_custom("weight = 3", "weight", "it stands in credentials, above");
    check("[[users]]\nname = 'u'\napi_key = 'k'", 3, "users[0].api_key", "[[users.keys]]");
}

/// What is said of a key in a table that does not know it; `None`: it does.
fn said(table: &str, key: &str) -> Option<String> {
    let text = table.replace("KEY", key);
    let errors = load(&text, "c.toml", &environment).err().unwrap_or_default();
    errors.into_iter().map(|error| error.why).find(|why| why.starts_with("unknown key"))
}

/// Words in quotes in the sources that read tables: every key is among them.
fn words() -> std::collections::BTreeSet<&'static str> {
    let sources = [
        include_str!("../providers.rs"),
        include_str!("../clouds.rs"),
        include_str!("../users.rs"),
        include_str!("../global.rs"),
    ];
    let is_key = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let words = sources.into_iter().flat_map(|source| source.split('"'));
    words.filter(|word| !word.is_empty() && word.bytes().all(is_key)).collect()
}

/// So the lists of keys here are those of the readers.
#[test]
fn every_key_of_a_table_is_told_where_it_belongs_when_it_stands_beside_it() {
    let provider = |channel: &str, more: &str| {
        format!("[[providers]]\nname = 'p'\nchannel = '{channel}'\n{more}")
    };
    let on = |channels: &[&str], more: &str| -> Vec<String> {
        channels.iter().map(|channel| provider(channel, more)).collect()
    };
    let model = |more: &str| format!("[[models]]\nprovider_name = 'p'\nmodel_id = 'm'\n{more}");
    let settings = on(&["custom", "echo", "vertex", "azure"], "[providers.settings]\nKEY = 0");
    let credentials = on(&["custom", "vertex"], "credentials = [{ KEY = 0 }]");
    let providers = on(&["custom"], "KEY = 0\n[providers.settings]");
    let keys = vec!["[[users]]\nname = 'u'\n[[users.keys]]\nKEY = 0".to_owned()];
    let tiers = vec![model("price_tiers = [{ KEY = 0 }]")];
    let user = "[[users]]\nname = 'u'\nKEY = 0".to_owned();
    let above = "it stands in [[providers]], above";
    let in_credentials = ("it stands in credentials", &credentials);
    for (table, others) in [
        (&providers[0], vec![("it stands in [providers.settings]", &settings), in_credentials]),
        (&settings[0], vec![(above, &providers), in_credentials]),
        (&user, vec![("it stands in [[users.keys]]", &keys)]),
        (&model("KEY = 0"), vec![("it stands in price_tiers", &tiers)]),
    ] {
        let mut told = 0;
        // Settings stand in no settings.
        for key in words().into_iter().filter(|key| *key != "settings") {
            let Some(why) = said(table, key) else { continue };
            let knows = |tables: &[String]| tables.iter().any(|table| said(table, key).is_none());
            match others.iter().find(|(_, tables)| knows(tables)) {
                Some((place, _)) => assert!(why.contains(place), "{key} in {table}: {why}"),
                None => assert!(!why.contains("it stands in"), "{key} in {table}: {why}"),
            }
            told += usize::from(why.contains("it stands in"));
        }
        assert!(told > 4, "{told} in {table}");
    }
}

#[test]
fn a_table_in_the_place_of_an_array_is_one_mistake_and_told_by_its_whole_path() {
    let openai = "[[providers]]\nname = 'p'\nchannel = 'openai'\n";
    let text = format!("{openai}[providers.credentials]\napi_key = 'k'");
    let expected = "must be an array; write [[providers.credentials]], or credentials = [{ ... }]";
    check(&text, 4, "providers[0].credentials", expected);
    check(&format!("{openai}credentials = 'k'"), 4, "providers[0].credentials", "an array");
    let keys = "[users.keys]\napi_key = 'k'";
    check_after(keys, 1, "users[0].keys", "write [[users.keys]], or keys = [{ ... }]");
    let tiers = "[[models]]\nprovider_name = 'p'\nmodel_id = 'm*'\n[models.price_tiers]\n";
    check_after(tiers, 4, "models[0].price_tiers", "write [[models.price_tiers]], or");
    let none = format!("{openai}credentials = []");
    check(&none, 4, "providers[0].credentials", "the channel openai needs one");
}

#[test]
fn what_a_user_may_have_once_names_the_user_when_it_is_there_twice() {
    let quota = "[[quotas]]\nuser_name = 'u'\nquota = 1\n";
    let expected = "total quota of the user \"u\" is declared on line 7 too";
    check_after(&quota.repeat(2), 5, "quotas[1].user_name", expected);
    let limit = "[[rate_limits]]\nuser_name = 'u'\nmodel_pattern = 'a*'\nrpm = 1\n";
    let expected = "limit of the user \"u\" for \"a*\" is declared on line 8 too";
    check_after(&limit.repeat(2), 7, "rate_limits[1].model_pattern", expected);
}

#[test]
fn text_without_quotes_is_told_to_need_them_and_is_not_quoted() {
    for value in ["127.0.0.1", "localhost", "1.2.3.4:80", "http://a:1", "sk-secret # x"] {
        let text = format!("[global]\nhost = {value}\n");
        check(&text, 2, "", "text needs quotes: host = \"...\"");
        let errors = load(&text, "c.toml", &environment).err().unwrap_or_default();
        assert!(!errors[0].why.contains(value), "{}", errors[0]);
    }
    for value in ["True", "yes", "OFF"] {
        let text = format!("[global]\nreceipts = {value}\n");
        check(&text, 2, "", "must be receipts = true or receipts = false");
    }
    check("[global]\nport = 08787\n", 2, "", "leading zero");
    check("[global]\nhost = 'a\n", 2, "", "invalid literal string");
    check("[global]\nhost: 'a'\n", 2, "", "key with no value");
}

#[test]
fn a_key_that_is_there_twice_is_named_with_its_first_place() {
    let keys = "[[users]]\nname = 'u'\nkeys = [{ api_key = 'k' }]\n[[users.keys]]\napi_key = 'l'\n";
    let twice = "duplicate key: \"keys\", which stands on line 3 too: write either";
    check(keys, 4, "", twice);
    let tables = "[global]\nport = 1\n[limits]\n[global]\n";
    check(tables, 4, "", "duplicate key: \"global\", which stands on line 1 too");
    let names = "[[users]]\nname = 'u'\n[[users]]\nname = 'u'\nname = 'v'\n";
    check(names, 5, "", "duplicate key: \"name\", which stands on line 4 too");
    check("a = { b = 1, b = 2 }\n", 1, "", "duplicate key: \"b\"");
}

mod hints;
mod made;

use super::*;

const NO_FILES: fn(&str) -> std::io::Result<String> =
    |_| Err(std::io::ErrorKind::Unsupported.into());
use crate::dialect::Dialect;
use crate::route::plan;
use crate::route::snapshot::Caller;
use crate::secret::Digest;

fn environment(name: &str) -> Option<String> {
    match name {
        "SET" => Some("secret-in-variable\n".to_owned()),
        "EMPTY" => Some(String::new()),
        "SPACED" => Some("two words".to_owned()),
        _ => None,
    }
}

#[track_caller]
fn loaded(text: &str) -> Loaded {
    load(text, "c.toml", &environment).unwrap_or_else(|errors| panic!("{errors:#?}"))
}

/// One mistake: its line, its key, and a part of the message.
#[track_caller]
fn check(text: &str, line: usize, key: &str, part: &str) {
    let Err(errors) = load(text, "c.toml", &environment) else { panic!("accepted: {text}") };
    let found = errors.iter().find(|error| error.line == line && error.key == key);
    let Some(error) = found else { panic!("no error at {line}: {key} in {errors:#?}") };
    assert!(error.why.contains(part), "{error}");
    assert_eq!(errors.len(), 1, "one mistake, one error: {errors:#?}");
}

/// A mistake in the settings or keys of a provider that is fine otherwise.
#[track_caller]
fn check_custom(line: &str, key: &str, part: &str) {
    let text = format!(
        "[[providers]]\nname = 'p'\nchannel = 'custom'\n[providers.settings]\n{line}\n{}",
        if line.contains("base_url") { "" } else { "base_url = 'http://h'" }
    );
    check(&text, 5, &format!("providers[0].settings.{key}"), part);
}

const ECHO: &str = "[[providers]]\nname = 'p'\nchannel = 'echo'\n[[users]]\nname = 'u'\n";

/// A mistake in a section that refers to provider `p` and user `u`, at a line of the section.
#[track_caller]
fn check_after(section: &str, line: usize, key: &str, part: &str) {
    check(&format!("{ECHO}{section}"), 5 + line, key, part);
}

#[test]
fn errors_print_file_line_key_and_reason() {
    let Err(errors) = load("[global]\nprot = 1\n", "dir/c.toml", &environment) else {
        panic!("accepted");
    };
    assert_eq!(
        errors[0].to_string(),
        "dir/c.toml:2: global.prot: unknown key; did you mean \"port\"?"
    );
}

#[test]
fn every_mistake_is_found_in_one_run() {
    let text = "[global]\nhost = 'nowhere'\nprot = 1\n[[providers]]\nname = 'V1'\n[nonsense]\n";
    let Err(errors) = load(text, "c.toml", &environment) else { panic!("accepted") };
    let lines: Vec<_> = errors.iter().map(|error| (error.line, error.key.as_str())).collect();
    let expected = [
        (2, "global.host"),
        (3, "global.prot"),
        (4, "providers[0].channel"),
        (5, "providers[0].name"),
        (6, "nonsense"),
    ];
    assert_eq!(lines, expected);
}

#[test]
fn forbids_text_that_is_no_toml() {
    check("[global\n", 1, "", "");
    check("[global]\nport = \n", 2, "", "");
    check("a = 1\na = 2\n", 2, "", "duplicate key");
}

#[test]
fn forbids_unknown_keys_in_every_section() {
    check("[globl]\n", 1, "globl", "did you mean \"global\"");
    check("[limits]\nbody_max = 1\n", 2, "limits.body_max", "body_bytes_max");
    check("[timeouts]\nconect_ms = 1\n", 2, "timeouts.conect_ms", "\"connect_ms\"");
    check_custom("base = 'http://h'\n", "base", "known are");
    check_custom("timeouts = { drain_ms = 1 }", "timeouts.drain_ms", "unknown key");
    check_custom("delay_ms = 1", "delay_ms", "unknown key");
    check_after("[[models]]\nprovider_name = 'p'\nmodel_id = 'm'\nx = 1", 4, "models[0].x", "");
    check_after(
        "[[model_aliases]]\nalias = 'a'\nprovider_name = 'p'\nmodel_id = 'm'\nmodle_id = 'm'",
        5,
        "model_aliases[0].modle_id",
        "\"model_id\"",
    );
    check_after("[[users.keys]]\napi_key = 'k'\nkey = 1", 3, "users[0].keys[0].key", "");
    check_after(
        "[[permissions]]\nuser_name = 'u'\nmodel_pattern = '*'\nmodel = '*'",
        4,
        "permissions[0].model",
        "",
    );
    check("\"a\\nb\" = 1", 1, "a\\nb", "unknown key");
}

#[test]
fn forbids_values_of_the_wrong_kind_without_quoting_them() {
    check("[global]\nport = '8787'", 2, "global.port", "must be a whole number, not text");
    check("[global]\nhost = 1", 2, "global.host", "must be text in quotes, not a number");
    check("[global]\nenable_usage = 'yes'", 2, "global.enable_usage", "true or false");
    check("global = 1", 1, "global", "must be a table");
    check("[providers]\nname = 'p'", 1, "providers", "write [[providers]], or");
    check("providers = [1]", 1, "providers[0]", "must be a table");
    let text = "[[providers]]\nname = 'p'\nchannel = 'echo'\ncredentials = ['sk-secret']";
    check(text, 4, "providers[0].credentials[0]", "must be a table, not text");
    assert!(!format!("{:?}", load(text, "c.toml", &environment).err()).contains("sk-secret"));
}

#[test]
fn forbids_numbers_out_of_range() {
    check("[global]\nport = 65536", 2, "global.port", "from 0 to 65535");
    check("[global]\nport = -1", 2, "global.port", "from 0 to 65535");
    check("[global]\nworkers = 5000", 2, "global.workers", "from 0 to 64");
    check("[limits]\nhead_bytes_max = 10", 2, "limits.head_bytes_max", "from 1024");
    check(
        "[limits]\nheld_bytes_max = 1048576\nbody_bytes_max = 2097152\nevent_bytes_max = 4096",
        3,
        "limits.body_bytes_max",
        "at most held_bytes_max",
    );
    check("[timeouts]\nconnect_ms = 0", 2, "timeouts.connect_ms", "from 1");
    check("[timeouts]\ndrain_ms = 1e3", 2, "timeouts.drain_ms", "whole number");
}

#[test]
fn allows_numbers_however_they_are_written() {
    let all = loaded("[global]\nport = 0x2253\nworkers = +2\n[limits]\nbody_bytes_max = 1_048_576");
    assert_eq!((all.settings.port, all.settings.workers), (8787, 2));
    assert_eq!(all.snapshot.limits.body_bytes_max, 1_048_576);
}

#[test]
fn forbids_provider_names_that_cannot_stand_in_a_path() {
    for name in ["", "Main", "a/b", "-a", ".a", "a b", "é", &"a".repeat(65)] {
        let text = format!("[[providers]]\nname = '{name}'\nchannel = 'echo'");
        check(&text, 2, "providers[0].name", "a-z");
    }
    for name in ["v1", "v1beta", "admin", "console", "healthz", "chat", "models"] {
        let text = format!("[[providers]]\nname = '{name}'\nchannel = 'echo'");
        check(&text, 2, "providers[0].name", "reserved");
    }
}

#[test]
fn allows_every_other_provider_name() {
    for name in ["a", "0", "openai-main", "v2", "my.host_1", "chatty", &"a".repeat(64)] {
        loaded(&format!("[[providers]]\nname = '{name}'\nchannel = 'echo'"));
    }
}

#[test]
fn forbids_names_keys_and_aliases_given_twice() {
    let provider = "[[providers]]\nname = 'p'\nchannel = 'echo'\n";
    check(&provider.repeat(2), 5, "providers[1].name", "declared on line 2 too");
    check_after("[[users]]\nname = 'u'", 2, "users[1].name", "declared on line 5 too");
    let alias = "[[model_aliases]]\nalias = 'a'\nprovider_name = 'p'\nmodel_id = 'm'\n";
    check_after(&alias.repeat(2), 6, "model_aliases[1].alias", "declared on line 7 too");
    let model = "[[models]]\nprovider_name = 'p'\nmodel_id = 'm'\n";
    check_after(&model.repeat(2), 6, "models[1].model_id", "declared on line 8 too");
    let keys =
        "[[users.keys]]\napi_key = 'same'\n[[users.keys]]\napi_key = 'same'\nenabled = false";
    check_after(keys, 4, "users[0].keys[1].api_key", "the same key stands on line 7 too");
    let hashed = Digest::of(b"same").to_text();
    let keys = format!("[[users.keys]]\napi_key = 'same'\n[[users.keys]]\napi_key = '{hashed}'");
    check_after(&keys, 4, "users[0].keys[1].api_key", "the same key stands on line 7 too");
    let quota = "[[quotas]]\nuser_name = 'u'\nquota = 1\n";
    check_after(&quota.repeat(2), 5, "quotas[1].user_name", "declared on line 7 too");
}

#[test]
fn allows_the_same_model_at_two_providers_and_quotas_of_two_windows() {
    loaded(
        "[[providers]]\nname = 'p'\nchannel = 'echo'\n[[providers]]\nname = 'q'\nchannel = 'echo'\n\
         [[models]]\nprovider_name = 'p'\nmodel_id = 'm'\n\
         [[models]]\nprovider_name = 'q'\nmodel_id = 'm'\n[[users]]\nname = 'u'\n\
         [[quotas]]\nuser_name = 'u'\nquota = 1\nwindow = 'day'\n\
         [[quotas]]\nuser_name = 'u'\nquota = 9\n",
    );
}

#[test]
fn forbids_references_to_what_is_not_declared() {
    let model = "[[models]]\nprovider_name = 'q'\nmodel_id = 'm'";
    check_after(model, 2, "models[0].provider_name", "no provider \"q\"; known are: p");
    let alias = "[[model_aliases]]\nalias = 'a'\nprovider_name = 'other'\nmodel_id = 'm'";
    check_after(alias, 3, "model_aliases[0].provider_name", "no provider \"other\"; known are: p");
    let row = "[[permissions]]\nuser_name = 'v'\nmodel_pattern = '*'";
    check_after(row, 2, "permissions[0].user_name", "no user \"v\"");
    let row = "[[permissions]]\nuser_name = 'u'\nprovider_name = 'q'\nmodel_pattern = '*'";
    check_after(row, 3, "permissions[0].provider_name", "no provider \"q\"");
    let row = "[[file_permissions]]\nuser_name = 'u'\nprovider_name = 'q'";
    check_after(row, 3, "file_permissions[0].provider_name", "no provider \"q\"");
    let row = "[[rate_limits]]\nuser_name = 'v'\nmodel_pattern = '*'\nrpm = 1";
    check_after(row, 2, "rate_limits[0].user_name", "no user \"v\"");
    check_after(
        "[[quotas]]\nuser_name = 'v'\nquota = 1",
        2,
        "quotas[0].user_name",
        "no user \"v\"",
    );
}

#[test]
fn forbids_missing_keys() {
    check("[[providers]]\nchannel = 'echo'", 1, "providers[0].name", "missing");
    check("[[providers]]\nname = 'p'", 1, "providers[0].channel", "missing");
    check("[[users]]", 1, "users[0].name", "missing");
    check_after("[[users.keys]]\nlabel = 'x'", 1, "users[0].keys[0].api_key", "missing");
    check_after("[[permissions]]\nuser_name = 'u'", 1, "permissions[0].model_pattern", "missing");
    check_after("[[quotas]]\nuser_name = 'u'", 1, "quotas[0].quota", "missing");
    let custom = "[[providers]]\nname = 'p'\nchannel = 'custom'";
    check(custom, 1, "providers[0].settings.base_url", "the channel custom");
    let azure = "[[providers]]\nname = 'p'\nchannel = 'azure'\ncredentials = [{ api_key = 'k' }]";
    check(azure, 1, "providers[0].settings.base_url", "the channel azure");
    let dated =
        format!("{azure}\n[providers.settings]\nbase_url = 'http://h'\napi_version = 'a&b'");
    check(&dated, 7, "providers[0].settings.api_version", "must be a version");
    let vertex = "[[providers]]\nname = 'p'\nchannel = 'vertex'";
    check(vertex, 1, "providers[0].credentials", "service_account");
    for (written, why) in [
        ("{ service_account = 'no-such-file.json' }", "the file cannot be read"),
        ("{ service_account = 'env:NAME-' }", "a variable that is set"),
        ("{ service_account = '{\"type\":\"authorized_user\"}' }", "not of the type"),
        ("{ service_account = '{\"type\"' }", "no JSON object"),
        ("{ service_account = { client_email = 'a@b' } }", "no usable private_key"),
        ("{ service_account = { client_email = 'a@b', private_key = 'x' } }", "PKCS#8"),
    ] {
        let text = format!("{vertex}\ncredentials = [{written}]");
        check(&text, 4, "providers[0].credentials[0].service_account", why);
    }
    let files = |_: &str| Ok("\u{feff}{\"type\":\"authorized_user\"}".to_owned());
    let text = format!("{vertex}\ncredentials = [{{ service_account = 'account.json' }}]");
    let loaded = load_with(&text, "c.toml", &Overrides::default(), &environment, &files);
    let Err(errors) = loaded else { panic!("accepted") };
    assert!(errors[0].why.contains("not of the type"), "a mark in front is passed over");
    let row = "[[rate_limits]]\nuser_name = 'u'\nmodel_pattern = '*'";
    check_after(row, 1, "rate_limits[0]", "limits nothing");
}

#[test]
fn forbids_bad_patterns_names_and_words() {
    let row = "[[permissions]]\nuser_name = 'u'\nmodel_pattern = 'gpt-[34]'";
    check_after(row, 3, "permissions[0].model_pattern", "`[` has no meaning here");
    let row = "[[rate_limits]]\nuser_name = 'u'\nmodel_pattern = 'a|b'\nrpm = 1";
    check_after(row, 3, "rate_limits[0].model_pattern", "a row of its own for each pattern");
    let row = "[[models]]\nprovider_name = 'p'\nmodel_id = 'gpt-[45]*'\nprice_each_call = 1";
    check_after(row, 3, "models[0].model_id", "`[` has no meaning here");
    let row = "[[permissions]]\nuser_name = 'u'\nmodel_pattern = ''";
    check_after(row, 3, "permissions[0].model_pattern", "empty");
    let model = "[[models]]\nprovider_name = 'p'\nmodel_id = ''";
    check_after(model, 3, "models[0].model_id", "1 to 256 bytes");
    let alias = "[[model_aliases]]\nalias = 'a/../b'\nprovider_name = 'p'\nmodel_id = 'm'";
    check_after(alias, 2, "model_aliases[0].alias", "dot segments");
    check("[[users]]\nname = ''", 2, "users[0].name", "1 to 128 bytes");
    check("[[users]]\nname = '..'", 2, "users[0].name", "no address");
    check("[[providers]]\nname = 'p'\nchannel = 'opnai'", 3, "providers[0].channel", "\"openai\"");
    check_custom("models = 'all'", "models", "known are: both, static, upstream");
    check_custom("on_abort = 'drian'", "on_abort", "did you mean \"drain\"");
    check_custom("dialects = ['openai']", "dialects[0]", "no dialect \"openai\"");
    check_custom("dialects = []", "dialects", "at least one");
    let row = "[[quotas]]\nuser_name = 'u'\nquota = 1\nwindow = 'hour'";
    check_after(row, 4, "quotas[0].window", "known are");
}

#[test]
fn forbids_bad_addresses() {
    check_custom("base_url = 'host/v1'", "base_url", "begin with http");
    check_custom("base_url = 'https://u:p@h'", "base_url", "user name or password");
    check_custom("base_url = 'https://h/?a=b'", "base_url", "query");
    check_custom("base_url = \"https://h/\\r\\n\"", "base_url", "control characters");
    check_custom("base_url = 'https://h/v1/chat/completions'", "base_url", "must end before");
    check_custom("proxy = 'socks5://h:1'", "proxy", "begin with http");
    check_custom("proxy = 'http://u:p@h:1'", "proxy", "user name");
    check("[global]\nproxy = 'h:3128'", 2, "global.proxy", "begin with http");
    check("[global]\nhost = 'example.com'", 2, "global.host", "IP address");
    check("[global]\ncors_origins = ['x']", 2, "global.cors_origins[0]", "begin with http");
    check("[global]\ntrusted_proxies = ['x']", 2, "global.trusted_proxies[0]", "network");
    check("[global]\ndata_dir = ''", 2, "global.data_dir", "folder");
    let echo =
        "[[providers]]\nname = 'p'\nchannel = 'echo'\n[providers.settings]\nbase_url = 'http://h'";
    check(echo, 5, "providers[0].settings.base_url", "answers by itself");
    let openai = "[[providers]]\nname = 'p'\nchannel = 'openai'\n\
                  credentials = [{ api_key = 'k' }]\n[providers.settings]\ndialects = ['gemini']";
    check(openai, 6, "providers[0].settings.dialects", "openai speaks openai_chat");
}

#[test]
fn forbids_headers_that_are_not_the_callers_to_choose() {
    for name in ["Authorization", "Host", "x-gproxy-provider", "", "a b", "Transfer-Encoding"] {
        check_custom(&format!("forward_headers = ['{name}']"), "forward_headers[0]", "header");
    }
    let text = "[[providers]]\nname = 'p'\nchannel = 'custom'\n\
                settings = { base_url = 'http://h', forward_headers = ['OpenAI-Organization'] }";
    assert_eq!(loaded(text).snapshot.providers[0].forward_headers, ["openai-organization"]);
}

#[test]
fn forbids_secrets_that_are_none() {
    let rows = [
        ("${OPENAI_API_KEY}", "write \"env:NAME\""),
        ("Bearer ${X}", "write \"env:NAME\""),
        ("$OPENAI_API_KEY", "write \"env:NAME\""),
        ("env:UNSET", "the environment variable UNSET is not set"),
        ("env:EMPTY", "the environment variable EMPTY is not set"),
        ("env:SPACED", "the value of the environment variable SPACED"),
        ("env:", "name of an environment variable"),
        ("env:A-B", "name of an environment variable"),
        ("", "printable"),
        ("two words", "printable"),
        ("schlüssel", "printable"),
    ];
    for (secret, part) in rows {
        let text = format!(
            "[[providers]]\nname = 'p'\nchannel = 'openai'\n\
             [[providers.credentials]]\napi_key = '{secret}'"
        );
        check(&text, 5, "providers[0].credentials[0].api_key", part);
        let text = format!("[[users.keys]]\napi_key = '{secret}'");
        check_after(&text, 2, "users[0].keys[0].api_key", part);
    }
    check_after("[[users.keys]]\napi_key = 'sha256:12'", 2, "users[0].keys[0].api_key", "64 hex");
}

#[test]
fn no_message_quotes_a_secret() {
    for secret in ["hunter2 hunter2", "${hunter2}", "sha256:hunter2"] {
        let text = format!(
            "{ECHO}password = '{secret}'\n[[users.keys]]\napi_key = '{secret}'\n\
             [[providers]]\nname = 'q'\nchannel = 'openai'\n\
             credentials = [{{ api_key = '{secret}', hunter = 1 }}]\n\
             [providers.settings]\nbase_url = 'http://hunter2:hunter2@h'"
        );
        let Err(errors) = load(&text, "c.toml", &environment) else { panic!("accepted") };
        assert!(errors.len() >= 3, "{errors:#?}");
        for error in errors {
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }
}

#[test]
fn allows_secrets_as_written_from_a_variable_or_hashed() {
    let hashed = Digest::of(b"third-key").to_text();
    let all = loaded(&format!(
        "{ECHO}[[users.keys]]\napi_key = 'first-key'\n[[users.keys]]\napi_key = 'env:SET'\n\
         [[users.keys]]\napi_key = '{hashed}'"
    ));
    for (at, key) in ["first-key", "secret-in-variable", "third-key"].into_iter().enumerate() {
        let caller = all.snapshot.authenticate(key.as_bytes());
        assert_eq!(caller, Some(Caller { user: 0, key: at }), "{key}");
    }
    assert_eq!(all.snapshot.authenticate(hashed.as_bytes()), None);
    let shown: Vec<_> = all.snapshot.users[0].keys.iter().map(|key| key.shown.as_str()).collect();
    assert_eq!(shown, ["...", "...able", &format!("{}...", &hashed[..15])]);
}

#[test]
fn forbids_a_channel_without_the_credential_that_it_needs() {
    let openai = "[[providers]]\nname = 'p'\nchannel = 'openai'";
    check(openai, 1, "providers[0].credentials", "the channel openai needs one");
    let weight = format!("{openai}\ncredentials = [{{ api_key = 'k', weight = 0 }}]");
    check(&weight, 4, "providers[0].credentials[0].weight", "from 1");
    let all = loaded(&format!("{openai}\ncredentials = [{{ api_key = 'k', weight = 3 }}]"));
    let credential = &all.snapshot.providers[0].credentials[0];
    assert_eq!((credential.api_key.expose(), credential.weight), ("k", 3));
}

#[test]
fn allows_channels_without_a_credential_where_none_is_needed() {
    loaded("[[providers]]\nname = 'p'\nchannel = 'echo'");
    loaded("[[providers]]\nname = 'p'\nchannel = 'custom'\nsettings = { base_url = 'http://h' }");
    loaded("[[providers]]\nname = 'p'\nchannel = 'openai'\nenabled = false");
    let unset = "credentials = [{ api_key = 'env:UNSET' }]";
    loaded(&format!("[[providers]]\nname = 'p'\nchannel = 'openai'\nenabled = false\n{unset}"));
}

#[test]
fn forbids_amounts_that_are_none() {
    let quota = |text: &str| format!("[[quotas]]\nuser_name = 'u'\nquota = {text}");
    check_after(&quota("'-1'"), 3, "quotas[0].quota", "not negative");
    check_after(&quota("9000001"), 3, "quotas[0].quota", "at most 9000000 USD");
    check_after(&quota("'0.0000000000001'"), 3, "quotas[0].quota", "at most 12 decimals");
    check_after(&quota("true"), 3, "quotas[0].quota", "an amount in USD");
    let price = "[[models]]\nprovider_name = 'p'\nmodel_id = 'm'\nprice_each_call = 'free'";
    check_after(price, 4, "models[0].price_each_call", "an amount in USD");
    let tiers = "[[models]]\nprovider_name = 'p'\nmodel_id = 'm'\n\
                 price_tiers = [{ input_tokens_up_to = 0 }, { input_tokens_up_to = 5 }]";
    check_after(tiers, 4, "models[0].price_tiers[1].input_tokens_up_to", "ascending");
}

#[test]
fn forbids_usage_off_while_there_are_quotas() {
    let text = "[global]\nenable_usage = false\n[[users]]\nname = 'u'\n\
                [[quotas]]\nuser_name = 'u'\nquota = 1";
    check(text, 2, "global.enable_usage", "must be true while there are quotas");
    loaded("[global]\nenable_usage = false");
}

#[test]
fn forbids_a_window_without_its_counter() {
    let row = "[[rate_limits]]\nuser_name = 'u'\nmodel_pattern = '*'\nrpm = 1\nwindow_s = 60";
    check_after(row, 5, "rate_limits[0].window_s", "total_tokens");
}

/// The other half of the shipped key: see `allows_the_well_known_key_on_loopback`.
#[test]
fn forbids_what_everybody_knows_on_an_address_that_others_reach() {
    let hashed = Digest::of(b"sk-admin-1").to_text();
    for key in ["sk-admin-1", hashed.as_str()] {
        let text = format!(
            "[global]\nhost = '0.0.0.0'\n[[users]]\nname = 'u'\n[[users.keys]]\napi_key = '{key}'"
        );
        check(&text, 6, "users[0].keys[0].api_key", "0.0.0.0 can be reached from other machines");
    }
    let text = "[global]\nhost = '::'\n[[users]]\nname = 'u'\npassword = 'admin'";
    check(text, 5, "users[0].password", "everybody tries first");
    let text = "[[users]]\nname = 'u'\npassword = 'admin'";
    let flags = Overrides { host: Some("192.168.0.1".to_owned()), ..Overrides::default() };
    assert!(
        load_with(text, "c.toml", &flags, &environment, &NO_FILES).is_err(),
        "the flag's host counts"
    );
    let bound = |address: &str| Overrides { bound: address.parse().ok(), ..Overrides::default() };
    let load = |flags: &Overrides| load_with(text, "c.toml", flags, &environment, &NO_FILES);
    let mistakes = load(&bound("0.0.0.0")).err().expect("the socket's address counts");
    assert!(mistakes[0].to_string().contains("the socket of 0.0.0.0"), "{}", mistakes[0]);
    assert!(load(&bound("::1")).is_ok());
}

#[test]
fn allows_the_well_known_key_on_loopback() {
    let user = "[[users]]\nname = 'u'\npassword = 'admin'\n[[users.keys]]\napi_key = 'sk-admin-1'";
    for host in ["127.0.0.1", "::1", "localhost"] {
        loaded(&format!("[global]\nhost = '{host}'\n{user}"));
    }
    let text =
        format!("[global]\nhost = '0.0.0.0'\n{user}\nenabled = false").replace("admin'", "x'");
    loaded(&text);
}

#[test]
fn flags_win_over_variables_and_variables_over_the_file() {
    let text = "[global]\nhost = '127.0.0.3'\nport = 3\nworkers = 3\ndata_dir = 'c'\n\
                proxy = 'http://c:3'\n[[providers]]\nname = 'p'\nchannel = 'echo'";
    let variables = |name: &str| {
        let value = match name {
            "GPROXY_HOST" => "127.0.0.2",
            "GPROXY_PORT" => "2",
            "GPROXY_WORKERS" => "2",
            "GPROXY_DATA_DIR" => "b",
            "GPROXY_PROXY" => "http://b:2",
            "GPROXY_LOG" => "warn",
            _ => return None,
        };
        Some(value.to_owned())
    };
    let text_of = |text: &str| Some(text.to_owned());
    let flags = Overrides {
        host: text_of("127.0.0.1"),
        port: text_of("1"),
        workers: text_of("1"),
        data_dir: text_of("a"),
        proxy: text_of("http://a:1"),
        log_level: text_of("debug"),
        bound: None,
    };
    let none = Overrides::default();
    let cases = [
        (&flags, true, 1, "a", LevelFilter::Debug),
        (&none, true, 2, "b", LevelFilter::Warn),
        (&none, false, 3, "c", LevelFilter::Info),
    ];
    for (flags, given, number, letter, level) in cases {
        let variables = |name: &str| variables(name).filter(|_| given);
        let all = load_with(text, "c.toml", flags, &variables, &NO_FILES)
            .unwrap_or_else(|e| panic!("{e:?}"));
        let Settings { host, port, workers, data_dir, log_level, .. } = all.settings;
        assert_eq!(host.to_string(), format!("127.0.0.{number}"));
        assert_eq!((usize::from(port), workers, data_dir.as_str()), (number, number, letter));
        assert_eq!(log_level, level);
        let proxy = format!("http://{letter}:{number}");
        assert_eq!(all.snapshot.providers[0].proxy.as_deref(), Some(proxy.as_str()));
    }
}

#[test]
fn a_wrong_flag_is_named_as_such() {
    for (flag, name) in [
        (Overrides { port: Some("x".into()), ..Overrides::default() }, "--port: "),
        (Overrides { host: Some("x".into()), ..Overrides::default() }, "--host: "),
        (Overrides { workers: Some("-1".into()), ..Overrides::default() }, "--workers: "),
        (Overrides { proxy: Some("x".into()), ..Overrides::default() }, "--proxy: "),
        (Overrides { log_level: Some("loud".into()), ..Overrides::default() }, "--log-level: "),
    ] {
        let Err(errors) = load_with("", "c.toml", &flag, &environment, &NO_FILES) else {
            panic!("{name}")
        };
        assert!(errors[0].to_string().starts_with(name), "{}", errors[0]);
    }
}

#[test]
fn what_has_no_effect_is_warned_of() {
    let rows = [
        ("[global]\ndsn = 'x'", "global.dsn"),
        ("[global]\nspoof_emulation = 'x'", "global.spoof_emulation"),
        ("[global]\nupdate_channel = 'x'", "global.update_channel"),
        ("[global]\nenable_upstream_log_body = true", "global.enable_upstream_log_body"),
        (
            "[[permissions]]\nuser_name = 'u'\nmodel_pattern = 'p/*'",
            "permissions[0].model_pattern: patterns are tested on the model's name without",
        ),
        (
            "[[rate_limits]]\nuser_name = 'u'\nmodel_pattern = 'p/a*'\nrpm = 1",
            "\"p/\" seldom matches; write \"a*\" instead, which counts calls at every provider",
        ),
        (
            "[[models]]\nprovider_name = 'p'\nmodel_id = 'gpt-4|gpt-5'",
            "models[0].model_id: no model is called so: `|` has no meaning here",
        ),
    ];
    for (text, part) in rows {
        let all = loaded(&format!("{ECHO}{text}"));
        assert!(all.warnings.iter().any(|w| w.contains(part)), "{text}: {:?}", all.warnings);
    }
    let foreign = "[[permissions]]\nuser_name = 'u'\nprovider_name = 'p'\nmodel_pattern = 'q/*'";
    assert!(!loaded(&format!("{ECHO}{foreign}")).warnings.iter().any(|w| w.contains("patterns")));
}

#[test]
fn a_configuration_that_serves_nobody_is_warned_of() {
    let all = loaded("");
    assert_eq!(all.warnings.len(), 2, "{:?}", all.warnings);
    assert!(loaded(ECHO).warnings.iter().any(|w| w.contains("no key is enabled")));
    assert!(loaded(ECHO).warnings.iter().any(|w| w.contains("has no permission")));
}

#[test]
fn an_unknown_provider_in_a_permission_never_means_every_provider() {
    let text =
        format!("{ECHO}[[permissions]]\nuser_name = 'u'\nprovider_name = ''\nmodel_pattern = '*'");
    assert!(load(&text, "c.toml", &environment).is_err());
}

#[test]
fn timeouts_are_inherited_and_overridden() {
    let all = loaded(
        "[timeouts]\nconnect_ms = 1\ntls_ms = 2\ntotal_ms = 9\ndrain_ms = 7\n\
         [[providers]]\nname = 'p'\nchannel = 'echo'\n\
         [providers.settings]\ntimeouts = { tls_ms = 3, total_ms = 0 }",
    );
    let timeouts = all.snapshot.providers[0].timeouts;
    assert_eq!((timeouts.connect_ms, timeouts.tls_ms, timeouts.total_ms), (1, 3, 0));
    assert_eq!((timeouts.resolve_ms, timeouts.first_byte_ms), (5_000, 600_000));
    assert_eq!(all.snapshot.drain_ms, 7);
}

#[test]
fn a_model_has_the_timeouts_of_its_provider_but_for_its_own() {
    let model = "[[models]]\nprovider_name = 'p'\nmodel_id = 'm'\ntimeouts = ";
    let all = loaded(&format!(
        "[[providers]]\nname = 'p'\nchannel = 'echo'\n\
         [providers.settings]\ntimeouts = {{ tls_ms = 3, total_ms = 4 }}\n\
         [[models]]\nprovider_name = 'p'\nmodel_id = 'n'\n\
         {model}{{ first_byte_ms = 5, total_ms = 0 }}",
    ));
    let provider = &all.snapshot.providers[0];
    assert_eq!(provider.models["n"].timeouts, None);
    let own = provider.models["m"].timeouts.expect("timeouts of its own");
    assert_eq!((own.tls_ms, own.first_byte_ms, own.total_ms), (3, 5, 0));
    assert_eq!(own.connect_ms, provider.timeouts.connect_ms);
    check_after(&format!("{model}{{ drain_ms = 1 }}"), 4, "models[0].timeouts.drain_ms", "unknown");
    let pattern = format!("{model}{{ tls_ms = 1 }}\nprice_each_call = 1").replace("'m'", "'m*'");
    check_after(&pattern, 4, "models[0].timeouts", "has no effect here");
}

#[test]
fn a_provider_goes_through_the_global_proxy_unless_it_says_otherwise() {
    let all = loaded(
        "[global]\nproxy = 'http://a:1'\n[[providers]]\nname = 'p'\nchannel = 'echo'\n\
         [[providers]]\nname = 'q'\nchannel = 'echo'\nsettings = { proxy = 'direct' }\n\
         [[providers]]\nname = 'r'\nchannel = 'echo'\nsettings = { proxy = 'http://b:2' }",
    );
    let proxies: Vec<_> =
        all.snapshot.providers.iter().map(|provider| provider.proxy.as_deref()).collect();
    assert_eq!(proxies, [Some("http://a:1"), None, Some("http://b:2")]);
}

#[test]
fn a_restart_is_asked_for_what_needs_one() {
    let old = loaded("").settings;
    let new = Settings { port: 1, log_level: LevelFilter::Off, ..old.clone() };
    assert_eq!(old.needs_restart(&new), ["port"]);
    assert!(old.needs_restart(&old).is_empty());
}

/// Every key of the reference, as it is written there.
#[test]
fn every_documented_key_is_read() {
    let all = loaded(include_str!("tests/every_key.toml"));
    let provider = &all.snapshot.providers[0];
    assert_eq!(provider.dialects().iter().count(), Dialect::ALL.len());
    assert_eq!(provider.credentials[0].api_key.expose(), "secret-in-variable");
    assert_eq!(provider.timeouts.first_byte_ms, 1);
}

#[test]
fn the_shipped_file_serves_what_the_first_requests_ask_for() {
    let shipped = include_str!("../../config.toml");
    let all = load(shipped, "config.toml", &|_| None).unwrap_or_else(|e| panic!("{e:#?}"));
    assert_eq!(all.warnings, Vec::<String>::new());
    assert_eq!((all.settings.host.to_string().as_str(), all.settings.port), ("127.0.0.1", 8787));
    let snapshot = all.snapshot;
    let caller = snapshot.authenticate(b"sk-admin-1").expect("the key is known");
    assert!(snapshot.users[caller.user].is_admin);
    let rows = [
        ("openai-main/gpt-4.1-mini", Dialect::OpenaiChat),
        ("chat-default", Dialect::OpenaiResponses),
        ("anthropic-main/claude-3-5-sonnet-latest", Dialect::Anthropic),
        ("vertex-main/gemini-1.5-flash", Dialect::Gemini),
    ];
    for (asked, dialect) in rows {
        let target = plan::resolve(&snapshot, None, asked).expect("somebody serves it");
        let provider = &snapshot.providers[target.provider];
        assert!(provider.is_echo());
        assert!(provider.models.contains_key(target.model_served), "{asked} is declared");
        assert!(plan::admit(&snapshot, caller.user, &target, dialect).is_ok(), "{asked}");
    }
    let flags = Overrides { host: Some("0.0.0.0".into()), ..Overrides::default() };
    let Err(errors) = load_with(shipped, "config.toml", &flags, &|_| None, &NO_FILES) else {
        panic!("the shipped key must not be reachable");
    };
    assert_eq!(errors[0].key, "users[0].keys[0].api_key");
}

/// The vendors' blocks beside the providers are right too, once their marks are taken off.
#[test]
fn the_shipped_file_works_with_the_vendors_put_in() {
    let shipped = include_str!("../../config.toml");
    let text: Vec<String> = shipped
        .lines()
        .filter(|line| *line != "channel = \"echo\"")
        .map(|line| match line.strip_prefix("# ") {
            Some(setting) if setting.contains(" = ") || setting.starts_with('[') => setting.into(),
            _ => line.to_owned(),
        })
        .collect();
    let keys = |name: &str| name.ends_with("_API_KEY").then(|| "a-key".to_owned());
    let all = load(&text.join("\n"), "config.toml", &keys).unwrap_or_else(|e| panic!("{e:#?}"));
    let channels: Vec<_> =
        all.snapshot.providers.iter().map(|provider| provider.channel.name).collect();
    assert_eq!(channels, ["openai", "anthropic", "vertexexpress", "custom"]);
}

use super::*;
use serde_json::{Value, json};

fn is_provider(name: &str) -> bool {
    matches!(name, "openai-main" | "router")
}

fn listing(target: &str, family: Family) -> Listing<'_> {
    parse("GET", target, family, &is_provider).expect("a list").expect("a sound path")
}

fn entries(count: usize) -> Vec<Entry<'static>> {
    let entry = |at| Entry {
        id: Cow::Owned(format!("p/m{at}")),
        owner: "p",
        display_name: None,
        max_input_tokens: None,
        max_output_tokens: None,
    };
    (0..count).map(entry).collect()
}

#[track_caller]
fn page(target: &str, family: Family, entries: &[Entry<'_>]) -> Value {
    let body = listing(target, family).page(entries).expect("a page");
    serde_json::from_slice(&body).expect("JSON")
}

#[test]
fn paths_of_lists_and_models_are_told_from_others() {
    // Target; scope, id (`-`: a list), or `none`.
    let rows = [
        ("/v1/models", "", "-"),
        ("/v1/models/", "", "-"),
        ("/models?limit=3", "", "-"),
        ("//v1//v1//models", "", "-"),
        ("/openai-main/v1/models", "openai-main", "-"),
        ("/openai-main/models", "openai-main", "-"),
        ("/v1beta/models?pageSize=2", "", "-"),
        ("/v1beta1/publishers/google/models", "", "-"),
        ("/v1beta1/publishers/google/models/gemini-1.5-flash", "", "gemini-1.5-flash"),
        ("/v1beta1/publishers/router/models/gemini-1.5-flash", "", "router/gemini-1.5-flash"),
        ("/v1/models/gpt-4.1-mini", "", "gpt-4.1-mini"),
        ("/v1/models/openai-main%2Fgpt-4.1-mini", "", "openai-main/gpt-4.1-mini"),
        ("/v1/models/openai-main/gpt-4.1-mini", "", "openai-main/gpt-4.1-mini"),
        ("/v1/models/router/meta-llama/llama-3:free", "", "router/meta-llama/llama-3:free"),
        ("/v1/models/ft:gpt-4o:org::id", "", "ft:gpt-4o:org::id"),
        ("/router/v1/models/claude@20240620", "router", "claude@20240620"),
        ("/v1beta/models/models/gemini", "", "gemini"),
        ("/v1/models/%E6%A8%A1%E5%9E%8B", "", "模型"),
        ("/v1/chat/completions", "", "none"),
        ("/v1", "", "none"),
        ("/unknown/v1/models", "", "none"),
        ("/healthz", "", "none"),
    ];
    for (target, scope, id) in rows {
        let found = parse("GET", target, Family::Openai, &is_provider);
        let Some(found) = found else {
            assert_eq!(id, "none", "{target}");
            continue;
        };
        let found = found.unwrap_or_else(|error| panic!("{target}: {error:?}"));
        assert_eq!(found.scope.as_deref().unwrap_or_default(), scope, "{target}");
        assert_eq!(found.id.as_deref().unwrap_or("-"), id, "{target}");
    }
    assert!(parse("POST", "/v1/models", Family::Openai, &is_provider).is_none());
}

#[test]
fn forbids_paths_that_two_readers_would_read_differently() {
    let rows = [
        ("/v1/models/..%2Fadmin", PathError::DotSegment),
        ("/v1/models/a/../b", PathError::DotSegment),
        ("/v1/models/a%5Cb", PathError::Character),
        ("/v1/models/a%00", PathError::Character),
        ("/v1/models/%zz", PathError::Percent),
        ("/v1/models/%ff", PathError::NotUtf8),
        ("/v1/models/a%2F", PathError::ModelEmpty),
    ];
    for (target, expected) in rows {
        let found = parse("GET", target, Family::Openai, &is_provider).expect("our path");
        assert_eq!(found.expect_err("broken"), expected, "{target}");
    }
    let long = format!("/v1/models/{}", "m".repeat(crate::limits::MODEL_BYTES_MAX + 1));
    let found = parse("GET", &long, Family::Openai, &is_provider).expect("our path");
    assert_eq!(found.expect_err("too long"), PathError::ModelTooLong);
}

#[test]
fn an_openai_list_is_one_page() {
    let list = page("/v1/models?limit=1", Family::Openai, &entries(2));
    let model = |id| json!({"id": id, "object": "model", "created": CREATED_S, "owned_by": "p"});
    assert_eq!(list, json!({"object": "list", "data": [model("p/m0"), model("p/m1")]}));
}

#[test]
fn an_anthropic_list_is_paged_both_ways_without_an_endless_last_page() {
    // Query; expected ids, whether more follow.
    let rows: [(&str, &[&str], bool); 9] = [
        ("limit=2", &["p/m0", "p/m1"], true),
        ("limit=2&after_id=p%2Fm1", &["p/m2", "p/m3"], true),
        ("limit=2&after_id=p%2Fm3", &["p/m4"], false),
        ("after_id=p/m4", &[], false),
        ("limit=5", &["p/m0", "p/m1", "p/m2", "p/m3", "p/m4"], false),
        ("limit=2&before_id=p/m4", &["p/m2", "p/m3"], true),
        ("limit=2&before_id=p/m2", &["p/m0", "p/m1"], false),
        ("limit=2&before_id=p/m1", &["p/m0"], false),
        ("", &["p/m0", "p/m1", "p/m2", "p/m3", "p/m4"], false),
    ];
    for (query, ids, has_more) in rows {
        let list = page(&format!("/v1/models?{query}"), Family::Anthropic, &entries(5));
        let found: Vec<_> = list["data"].as_array().expect("data").iter().collect();
        let found: Vec<_> = found.iter().map(|model| model["id"].as_str().expect("id")).collect();
        assert_eq!(found, ids, "{query}");
        assert_eq!(list["has_more"], json!(has_more), "{query}");
        assert_eq!(list["first_id"], json!(ids.first()), "{query}");
        assert_eq!(list["last_id"], json!(ids.last()), "{query}");
    }
    assert_eq!(page("/v1/models", Family::Anthropic, &entries(30))["data"][19]["id"], "p/m19");
}

#[test]
fn a_gemini_list_goes_on_at_its_token() {
    let (mut token, mut ids) = (String::new(), Vec::new());
    for _ in 0..3 {
        let target = format!("/v1beta/models?pageSize=2&pageToken={token}");
        let list = page(&target, Family::Gemini, &entries(5));
        for model in list["models"].as_array().expect("models") {
            ids.push(model["name"].as_str().expect("name").to_owned());
        }
        token = list["nextPageToken"].as_str().unwrap_or_default().to_owned();
    }
    assert_eq!(ids, ["models/p/m0", "models/p/m1", "models/p/m2", "models/p/m3", "models/p/m4"]);
    assert_eq!(token, "");
    let list = page("/v1beta1/publishers/google/models", Family::Gemini, &entries(1));
    assert_eq!(list["publisherModels"][0]["name"], "publishers/google/models/p/m0");
}

#[test]
fn what_is_known_of_a_model_stands_where_its_family_has_a_place() {
    let entry = Entry {
        id: Cow::Borrowed("a\"b"),
        owner: "p",
        display_name: Some("A & B"),
        max_input_tokens: Some(9),
        max_output_tokens: Some(7),
    };
    let one = |target, family| {
        let body = listing(target, family).one(&entry);
        serde_json::from_slice::<Value>(&body).expect("JSON")
    };
    assert_eq!(one("/v1/models/x", Family::Openai)["id"], "a\"b");
    let anthropic = json!({"type": "model", "id": "a\"b", "display_name": "A & B",
        "created_at": CREATED_AT, "max_input_tokens": 9, "max_tokens": 7});
    assert_eq!(one("/v1/models/x", Family::Anthropic), anthropic);
    let gemini = one("/v1beta/models/x", Family::Gemini);
    assert_eq!((&gemini["inputTokenLimit"], &gemini["outputTokenLimit"]), (&json!(9), &json!(7)));
    assert_eq!(gemini["displayName"], "A & B");
}

#[test]
fn forbids_pages_that_are_none() {
    let rows = [
        ("/v1/models?limit=0", ListError::PageSize),
        ("/v1/models?limit=1001", ListError::PageSize),
        ("/v1/models?limit=x", ListError::PageSize),
        ("/v1/models?after_id=unknown", ListError::Cursor),
        ("/v1/models?after_id=p/m0&before_id=p/m1", ListError::TwoCursors),
    ];
    for (target, expected) in rows {
        let found = listing(target, Family::Anthropic).page(&entries(2));
        assert_eq!(found.expect_err("no page"), expected, "{target}");
    }
    let found = listing("/v1beta/models?pageToken=x", Family::Gemini).page(&entries(2));
    assert_eq!(found.expect_err("no page"), ListError::Cursor);
    assert!(listing("/v1beta/models?pageSize=0", Family::Gemini).page(&entries(2)).is_ok());
}

use super::*;

#[test]
fn looks_stand_in_the_order_of_the_codes() {
    for (index, code) in Code::ALL.into_iter().enumerate() {
        assert_eq!(code as usize, index, "{code:?}");
        assert!(LOOKS[index].code == code, "{code:?}");
    }
}

#[test]
fn every_status_has_a_reason_and_every_name_is_one_of_a_kind() {
    for code in Code::ALL {
        assert!(!header::reason(code.status()).is_empty(), "{code:?}");
        let same = Code::ALL.into_iter().filter(|other| other.name() == code.name());
        assert_eq!(same.count(), 1, "{code:?}");
    }
}

#[test]
fn only_the_upstreams_own_failures_are_the_upstreams_fault() {
    for code in Code::ALL {
        let refusal = Refusal::new(code, "");
        let expected = match code.status() {
            502 | 504 => Fault::Upstream,
            500 | 503 => Fault::Gateway,
            _ => Fault::Downstream,
        };
        assert_eq!(refusal.fault, expected, "{code:?}");
    }
}

#[test]
fn fields_say_when_and_whether_to_come_back() {
    let fields = |refusal: Refusal| {
        let mut out = Vec::new();
        refusal.fields(&mut out);
        String::from_utf8_lossy(&out).into_owned()
    };
    let common = "content-type: application/json\r\nx-gproxy-source: gateway\r\n";
    assert_eq!(fields(Refusal::unauthorized()), common);
    assert_eq!(
        fields(Refusal::rate_limited("*", "rpm", 9, 60)),
        format!("{common}retry-after: 60\r\n")
    );
    let late = format!("{common}retry-after: 40000\r\nx-should-retry: false\r\n");
    assert_eq!(fields(Refusal::rate_limited("*", "rpd", 9, 40_000)), late);
    let never = format!("{common}x-should-retry: false\r\n");
    assert_eq!(fields(Refusal::never_allowed("*", "rpm", 0)), never);
    let refusal = Refusal {
        allow: Some("POST"),
        should_retry: Some(true),
        ..Refusal::new(Code::MethodNotAllowed, "m")
    };
    assert_eq!(fields(refusal), format!("{common}x-should-retry: true\r\nallow: POST\r\n"));
}

#[test]
fn what_a_message_quotes_is_escaped() {
    let refusal = Refusal::new(Code::BadRequest, "m").about_model("\"},{\"\n\\\u{2028}");
    for family in [Family::Openai, Family::Anthropic, Family::Gemini] {
        let body = refusal.body(family, "");
        assert!(!body.contains(&b'\n'));
        let json: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(json["error"]["message"], "m (model: `\"},{\"\n\\\u{2028}`)");
    }
}

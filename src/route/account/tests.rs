use super::*;
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};

const PRIVATE: &str = include_str!("../../../tests/support/account/private.pem");
const PUBLIC: &[u8] = include_bytes!("../../../tests/support/account/public.der");

fn members(name: &str) -> Option<String> {
    let text = match name {
        "type" => "service_account",
        "client_email" => "robot@project-1.iam.gserviceaccount.com",
        "private_key" => PRIVATE,
        "private_key_id" => "key-1",
        "project_id" => "project-1",
        "token_uri" => "https://token.example/t",
        _ => return None,
    };
    Some(text.to_owned())
}

fn from_base64url(text: &str) -> Vec<u8> {
    let standard = text.replace('-', "+").replace('_', "/");
    let text = format!("-----BEGIN PRIVATE KEY-----{standard}-----END PRIVATE KEY-----");
    pem(&text).expect("base64").to_vec()
}

#[test]
fn a_claim_is_signed_and_says_who_asks_whom_for_what() {
    let account = Account::read(&members, Some("https://private.example"));
    let Ok(account) = account else { panic!("it is one") };
    assert_eq!(account.token_uri, "https://private.example");
    let body = account.claim(1_700_000_000).expect("randomness");
    let (grant, claim) = body.expose().split_once("&assertion=").expect("an assertion");
    assert_eq!(grant, "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer");
    let (signed, signature) = claim.rsplit_once('.').expect("a signature");
    let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, PUBLIC);
    key.verify(signed.as_bytes(), &from_base64url(signature)).expect("the signature is right");
    let (header, claims) = signed.split_once('.').expect("two parts");
    let text = |part| String::from_utf8(from_base64url(part)).expect("UTF-8");
    assert_eq!(text(header), r#"{"alg":"RS256","typ":"JWT","kid":"key-1"}"#);
    assert_eq!(
        text(claims),
        "{\"iss\":\"robot@project-1.iam.gserviceaccount.com\",\
         \"scope\":\"https://www.googleapis.com/auth/cloud-platform\",\
         \"aud\":\"https://token.example/t\",\"iat\":1699999970,\"exp\":1700003570}"
    );
}

#[test]
fn forbids_what_is_no_service_account() {
    let rows = [
        ("type", Some("authorized_user"), AccountError::Type),
        ("client_email", None, AccountError::Missing("client_email")),
        ("client_email", Some("a\nb"), AccountError::Missing("client_email")),
        ("private_key", None, AccountError::Missing("private_key")),
        ("private_key", Some("-----BEGIN PRIVATE KEY-----"), AccountError::Key),
        ("private_key", Some("-----BEGIN PRIVATE KEY-----\n!\n"), AccountError::Key),
        (
            "private_key",
            Some("-----BEGIN PRIVATE KEY-----\nMAAw\n-----END PRIVATE KEY-----"),
            AccountError::Key,
        ),
        (
            "private_key",
            Some("-----BEGIN RSA PRIVATE KEY-----\nMAAw\n-----END RSA PRIVATE KEY-----"),
            AccountError::Key,
        ),
    ];
    for (name, value, expected) in rows {
        let member = |asked: &str| match asked == name {
            true => value.map(str::to_owned),
            false => members(asked),
        };
        assert_eq!(Account::read(&member, None).err(), Some(expected), "{name}: {value:?}");
    }
}

#[test]
fn a_token_is_read_or_refused_whatever_the_endpoint_says() {
    let long = format!(r#"{{"access_token":"{}","expires_in":9}}"#, "a".repeat(9_000));
    let deep = format!(r#"{{"a":{}1{}}}"#, "[".repeat(500), "]".repeat(500));
    let rows = [
        (r#"{"access_token":"t.1","expires_in":3599,"token_type":"Bearer"}"#, Some(("t.1", 3_599))),
        (r#"{"expires_in":"3599","access_token":"t\u002d"}"#, Some(("t-", 3_599))),
        (r#"{"access_token":"t","expires_in":1e99}"#, Some(("t", 86_400))),
        (r#"{"access_token":"t","expires_in":12.7}"#, Some(("t", 12))),
        (r#"{"access_token":"t","expires_in":0}"#, None),
        (r#"{"access_token":"t","expires_in":-5}"#, None),
        (r#"{"access_token":"t","expires_in":"NaN"}"#, None),
        (r#"{"access_token":"t"}"#, None),
        (r#"{"access_token":"","expires_in":9}"#, None),
        (r#"{"access_token":"a b","expires_in":9}"#, None),
        (r#"{"access_token":"a\r\nx: y","expires_in":9}"#, None),
        (r#"{"access_token":{"a":"t"},"expires_in":9}"#, None),
        (r#"{"access_token":"t","expires_in":9"#, None),
        ("<html>", None),
        ("", None),
        (long.as_str(), None),
        (deep.as_str(), None),
    ];
    for (body, expected) in rows {
        let found = token(body.as_bytes());
        let found = found.as_ref().map(|(text, life)| (text.expose(), *life));
        assert_eq!(found, expected, "{body:.60}");
    }
}

#[test]
fn a_refusal_is_told_in_a_plain_word_or_not_at_all() {
    let rows = [
        (r#"{"error":"invalid_grant","error_description":"x"}"#, "invalid_grant"),
        (r#"{"error":"a\nb"}"#, "without a word"),
        (r#"{"error":{"code":1}}"#, "without a word"),
        ("", "without a word"),
    ];
    for (body, expected) in rows {
        assert_eq!(refusal_word(body.as_bytes()), expected);
    }
}

use super::*;
use crate::testing::splits;

const FORM: &str = "--xYz\r\nContent-Disposition: form-data; name=\"file\"; filename=\"model\"\r\n\
    Content-Type: audio/wav\r\n\r\n--xY\r\nname=\"model\"\r\n--xy\r\n\r\r\n--x\r\n--xYz\r\n\
    content-disposition: form-data; name=\"model\"\r\n\r\nwhisper-1\r\n--xYz\r\n\
    Content-Disposition: form-data; name=prompt\r\n\r\n\r\n--xYz--\r\nmodel";

fn scan(form: &str) -> Result<Option<String>, FormError> {
    let mut scanner = Scanner::new(b"xYz");
    scanner.feed(form.as_bytes())?;
    let model = scanner.model();
    Ok(model.map(|range| form[range.start as usize..range.end as usize].to_owned()))
}

#[test]
fn the_model_is_found_behind_files_that_look_like_it() {
    assert_eq!(scan(FORM), Ok(Some("whisper-1".to_owned())));
}

#[test]
fn the_result_does_not_depend_on_how_a_form_is_cut() {
    let whole = scan(FORM);
    splits::each_split(FORM.as_bytes(), |pieces| {
        let mut scanner = Scanner::new(b"xYz");
        pieces.iter().for_each(|piece| scanner.feed(piece).expect("a sound form"));
        assert!(scanner.is_done());
        let found = scanner.model().expect("a model");
        let found = &FORM[found.start as usize..found.end as usize];
        assert_eq!(Ok(Some(found.to_owned())), whole);
    });
}

#[test]
fn parts_without_a_model_pass() {
    for form in [
        "--xYz--\r\n",
        "--xYz\r\n\r\nno head\r\n--xYz--",
        "--xYz\r\nContent-Disposition: form-data; name=\"models\"\r\n\r\nm\r\n--xYz--",
        "preamble\r\n--xYz  \r\nContent-Disposition: form-data; name=a\r\n\r\n\r\n--xYz--",
    ] {
        assert_eq!(scan(form), Ok(None), "{form}");
    }
    let empty = "--xYz\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n\r\n--xYz--";
    assert_eq!(scan(empty), Ok(Some(String::new())));
}

#[test]
fn forbids_a_model_that_servers_could_read_differently() {
    let part = |name: &str| format!("--xYz\r\nContent-Disposition: form-data; {name}\r\n\r\nm\r\n");
    let rows = [
        (part("name=\"model\"") + &part("name=model"), FormError::ModelTwice),
        (part("name=\"Model\""), FormError::ModelTwice),
        (part("name=\"mo\\del\""), FormError::ModelTwice),
        (part("name*=UTF-8''model"), FormError::PartHead),
        (part("name=a; name=model"), FormError::PartHead),
        (part("name=a;\r\n name=model"), FormError::PartHead),
        (format!("--xYz\r\n{}", "a".repeat(PART_HEAD_BYTES_MAX + 1)), FormError::PartHead),
        ("--xYzz\r\n".to_owned(), FormError::PartHead),
    ];
    for (form, expected) in rows {
        assert_eq!(scan(&(form.clone() + "--xYz--")), Err(expected), "{form}");
    }
}

#[test]
fn boundaries_are_read_with_and_without_quotes() {
    let rows: [(&str, Result<&str, FormError>); 9] = [
        ("multipart/form-data; boundary=abc", Ok("abc")),
        ("Multipart/Form-Data;charset=utf-8; Boundary=\"a b;c\"", Ok("a b;c")),
        ("multipart/form-data; boundary=----formdata-undici-0123", Ok("----formdata-undici-0123")),
        ("multipart/form-data", Err(FormError::Boundary)),
        ("multipart/form-data; boundary=", Err(FormError::Boundary)),
        ("multipart/form-data; boundary=a; boundary=b", Err(FormError::Boundary)),
        ("multipart/form-data; boundary=\"a\\\"b\"", Err(FormError::Boundary)),
        ("multipart/mixed; boundary=a", Err(FormError::Boundary)),
        ("application/json", Err(FormError::Boundary)),
    ];
    for (text, expected) in rows {
        assert_eq!(boundary(text.as_bytes()), expected.map(str::as_bytes), "{text}");
    }
}

use super::*;
use crate::testing::prng::Prng;
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
        "\r\n--xYz \t\r\nContent-Disposition: form-data; name=a\r\n\r\n\r\n--xYz-- \r\n",
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
        (part("name=model\r\nContent-Transfer-Encoding: base64"), FormError::PartHead),
        (part("name=a;\r\n name=model"), FormError::PartHead),
        ("--xYz\r\nno colon\r\n\r\n".to_owned(), FormError::PartHead),
    ];
    for (form, expected) in rows {
        refuses(&(form + "--xYz--"), expected);
    }
    let long = format!("--xYz\r\n{}", "a".repeat(PART_HEAD_BYTES_MAX + 1));
    assert_eq!(scan(&long), Err(FormError::PartHead));
}

/// However the form is cut.
fn refuses(form: &str, expected: FormError) {
    splits::each_split(form.as_bytes(), |pieces| {
        let mut scanner = Scanner::new(b"xYz");
        let fed = pieces.iter().try_for_each(|piece| scanner.feed(piece));
        assert_eq!(fed, Err(expected), "{form:?}");
    });
}

/// Werkzeug ends a line with LF or CR too, Go does once the first line ends so, Django looks for a
/// boundary anywhere: they would read `forbidden`.
#[test]
fn forbids_a_boundary_that_servers_could_read_differently() {
    let part = |model| format!("Content-Disposition: form-data; name=\"model\"\r\n\r\n{model}");
    let (first, second) = (part("forbidden"), part("allowed"));
    let file = "--xYz\r\nContent-Disposition: form-data; name=f; filename=f\r\n\r\ndata";
    let rest = format!("\r\n--xYz\r\n{second}\r\n--xYz--\r\n");
    for before in ["junk\n", "junk\r", "junk\r\n", "\n", "\r", " ", "-", "\r\n\r\n", "\n\r\n"] {
        refuses(&format!("{before}--xYz\r\n{first}{rest}"), FormError::Delimiter);
    }
    for before in ["\n", "\r", "", "x", "-", "\r\n-", "\n\r", "\r\n\n", "\r\nx"] {
        let form = format!("{file}{before}--xYz\r\n{first}{rest}");
        refuses(&form, FormError::Delimiter);
    }
    for behind in ["\n", "\r", "\r\r\n", " \n", "\x0b\r\n", "z\r\n", "-\r\n", " --\r\n", "\r \n"] {
        for before in ["", &format!("{file}\r\n")] {
            refuses(&format!("{before}--xYz{behind}{first}{rest}"), FormError::Delimiter);
        }
    }
    for end in ["--x\r\n", "--\n", "--\r", "---\r\n", "-- x\r\n", "--\r\n"] {
        refuses(&format!("--xYz{end}--xYz\r\n{first}{rest}"), FormError::Delimiter);
    }
    // One that stands where the head's own end does, and one within a head.
    refuses(&format!("--xYz\r\nx: y\r\n\r\n--xYz\r\n{first}{rest}"), FormError::Delimiter);
    refuses(&format!("--xYz\r\nx: y\r\n--xYz\r\n{first}{rest}"), FormError::Delimiter);
    refuses(&format!("--xYz\r\nx: --xYz\r\n{first}{rest}"), FormError::Delimiter);
    for cut in ["\n\n", "\r\r", "\n", "\r"] {
        let head = format!("--xYz\r\nx: y{cut}{first}");
        refuses(&format!("{head}{rest}"), FormError::PartHead);
    }
}

/// Looks at all of the form at once, which ends with an empty line.
fn naive(form: &str) -> Result<Option<String>, FormError> {
    let body = form.strip_prefix("\r\n").unwrap_or(form);
    let mut model = None;
    let mut closed = false;
    let mut pieces = body.split("--xYz");
    if pieces.next() != Some("") {
        return Err(FormError::Delimiter);
    }
    let mut pieces = pieces.peekable();
    while let Some(piece) = pieces.next() {
        let is_last = pieces.peek().is_none();
        if closed {
            return Err(FormError::Delimiter);
        }
        let line = |text: &str| text.trim_start_matches([' ', '\t']).starts_with("\r\n");
        if let Some(behind) = piece.strip_prefix("--") {
            if !line(behind) {
                return Err(FormError::Delimiter);
            }
            closed = true;
            continue;
        }
        if !line(piece) {
            return Err(FormError::Delimiter);
        }
        let piece = piece.trim_start_matches([' ', '\t']);
        let Some(head) = piece.find("\r\n\r\n") else { return Err(FormError::PartHead) };
        let data = &piece[head + 4..];
        if !is_last && !data.ends_with("\r\n") {
            return Err(FormError::Delimiter);
        }
        let is_model = piece[..head].contains("name=model");
        let value = data.strip_suffix("\r\n").unwrap_or(data).to_owned();
        if is_model && !is_last && model.replace(value).is_some() {
            return Err(FormError::ModelTwice);
        }
    }
    Ok(model)
}

#[test]
fn the_scanner_reads_what_a_naive_reader_does() {
    const WORDS: [&str; 9] = ["--xYz", "\r\n", "\n", "\r", "-", "--", " ", "x", "--x"];
    const HEAD: &str = "\r\nContent-Disposition: form-data; name=";
    let mut prng = Prng::new(7);
    let mut sound = 0;
    for _ in 0..5_000 {
        let mut form = String::new();
        for part in 0..prng.below(4) {
            let name = ["model", "file"][prng.below(2)];
            form.push_str(&format!("--xYz{HEAD}{name}\r\n\r\n{part}"));
            for _ in 0..prng.below(3) {
                form.push_str(WORDS[prng.below(WORDS.len())]);
            }
            form.push_str("\r\n");
        }
        form.push_str("--xYz--");
        for _ in 0..prng.below(3) {
            form.push_str(WORDS[prng.below(WORDS.len())]);
        }
        form.push_str("\r\n\r\n");
        let expected = naive(&form);
        sound += usize::from(expected.is_ok());
        let mut scanner = Scanner::new(b"xYz");
        let pieces = splits::at_random(form.as_bytes(), &mut prng);
        let fed = pieces.iter().try_for_each(|piece| scanner.feed(piece));
        let found = scanner.model().map(|range| range.start as usize..range.end as usize);
        let found = fed.map(|()| found.map(|range| form[range].to_owned()));
        // Which of two errors comes first is not the point.
        assert_eq!(found.is_ok(), expected.is_ok(), "{form:?}: {found:?}, {expected:?}");
        assert!(found.is_err() || found == expected, "{form:?}: {found:?}, {expected:?}");
    }
    assert!(sound > 500, "{sound}");
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

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
        assert_eq!(scanner.finish(), Ok(()));
        let found = scanner.model().expect("a model");
        let found = &FORM[found.start as usize..found.end as usize];
        assert_eq!(Ok(Some(found.to_owned())), whole);
    });
}

#[test]
fn parts_without_a_model_pass() {
    for form in [
        "--xYz--\r\n",
        "--xYz\r\nContent-Disposition: form-data; name=\"models\"\r\n\r\nm\r\n--xYz--",
        "\r\n--xYz\r\nContent-Disposition: form-data; name=a\r\n\r\n\r\n--xYz--\r\nx",
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
        (part("name=\"mo\\del\""), FormError::PartHead),
        (part("name*=UTF-8''model"), FormError::PartHead),
        (part("name=a; name=model"), FormError::PartHead),
        (part("name=model\r\nContent-Transfer-Encoding: base64"), FormError::ModelField),
        (part("name=a;\r\n name=model"), FormError::PartHead),
        ("--xYz\r\nno colon\r\n\r\n".to_owned(), FormError::PartHead),
        ("--xYz\r\n\r\nno head\r\n".to_owned(), FormError::PartHead),
        ("--xYz\r\nContent-Type: a\r\n\r\nm\r\n".to_owned(), FormError::PartHead),
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
    for behind in [
        "\n", "\r", "\r\r\n", " \n", " \r\n", "\t\r\n", "\x0b\r\n", "z\r\n", "-\r\n", " --\r\n",
        "\r \n",
    ] {
        for before in ["", &format!("{file}\r\n")] {
            refuses(&format!("{before}--xYz{behind}{first}{rest}"), FormError::Delimiter);
        }
    }
    for end in ["--x\r\n", "--\n", "--\r", "---\r\n", "-- x\r\n", "-- \r\n", "--\r\n"] {
        refuses(&format!("--xYz{end}--xYz\r\n{first}{rest}"), FormError::Delimiter);
    }
    // One that stands where the head's own end does, and one within a head.
    let field = "content-disposition: form-data; name=x";
    refuses(&format!("--xYz\r\n{field}\r\n\r\n--xYz\r\n{first}{rest}"), FormError::Delimiter);
    refuses(&format!("--xYz\r\n{field}\r\n--xYz\r\n{first}{rest}"), FormError::Delimiter);
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
        let line = |text: &str| text.starts_with("\r\n");
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
    let seventy = "multipart/form-data; boundary=".to_owned() + &"b".repeat(70);
    let rows: [(&str, Result<&str, FormError>); 27] = [
        ("multipart/form-data; boundary=abc", Ok("abc")),
        ("Multipart/Form-Data;charset=utf-8; Boundary=\"a b=c\"", Ok("a b=c")),
        ("multipart/form-data; boundary=----formdata-undici-0123", Ok("----formdata-undici-0123")),
        ("multipart/form-data; boundary=dart-http-boundary-+_'.Z", Ok("dart-http-boundary-+_'.Z")),
        ("multipart/form-data; boundary=a;", Ok("a")),
        (&seventy, Ok(&seventy[30..])),
        (&(seventy.clone() + "b"), Err(FormError::Boundary)),
        ("multipart/form-data", Err(FormError::Boundary)),
        ("multipart/form-data; boundary", Err(FormError::Boundary)),
        ("multipart/form-data; boundary=", Err(FormError::Boundary)),
        ("multipart/form-data; boundary=\"\"", Err(FormError::Boundary)),
        ("multipart/form-data; boundary=\"a", Err(FormError::Boundary)),
        ("multipart/form-data; boundary=\"a\"b", Err(FormError::Boundary)),
        ("multipart/form-data; boundary=\"a \"", Err(FormError::Boundary)),
        ("multipart/form-data; boundary=\"a;b\"", Err(FormError::Boundary)),
        ("multipart/form-data; boundary=a/b", Err(FormError::Boundary)),
        ("multipart/form-data; boundary=a b", Err(FormError::Boundary)),
        ("multipart/form-data; boundary = a", Err(FormError::Boundary)),
        ("multipart/form-data boundary=a", Err(FormError::Boundary)),
        ("multipart/form-data; boundary=a, multipart/form-data", Err(FormError::Boundary)),
        ("multipart/form-data; boundary=a; boundary=b", Err(FormError::Boundary)),
        ("multipart/form-data; boundary=a; boundary*=b", Err(FormError::Boundary)),
        ("multipart/form-data; x=\"; boundary=b\"; boundary=a", Err(FormError::Boundary)),
        ("multipart/form-data; x-boundary=b; boundary=a", Err(FormError::Boundary)),
        ("multipart/form-data; boundary=\"a\\\"b\"", Err(FormError::Boundary)),
        ("multipart/mixed; boundary=a", Err(FormError::Boundary)),
        ("application/json", Err(FormError::Boundary)),
    ];
    for (text, expected) in rows {
        let found = boundary([text.as_bytes()].into_iter());
        assert_eq!(found, expected.map(str::as_bytes), "{text}");
    }
    let twice = [&b"multipart/form-data; boundary=a"[..]; 2];
    assert_eq!(boundary(twice.into_iter()), Err(FormError::Boundary));
    assert_eq!(boundary([].into_iter()), Err(FormError::Boundary));
}

/// One part with these lines in its head, before the model.
fn with(lines: &str) -> String {
    format!(
        "--xYz\r\n{lines}\r\n\r\nsome\r\n--xYz\r\nContent-Disposition: form-data; name=\"model\"\
         \r\n\r\nm\r\n--xYz--\r\n"
    )
}

/// As curl, browsers, httpx, Go and .NET write them.
#[test]
fn allows_the_names_of_files_that_all_read_alike() {
    for rest in [
        "name=\"file\"; filename=\"a.wav\"\r\nContent-Type: audio/wav",
        "name=\"file\"; filename=\"a b; c=d.wav\"",
        "name=\"file\"; filename=\"a\\\"b\\\".wav\"",
        "name=\"file\"; filename=\"a%22b.wav\"",
        "name=\"file\"; filename=\"C:\\music\\a.wav\"",
        "name=\"file\"; filename=\"a\\\\b.wav\"",
        "name=\"file\"; filename=\"a\\\\\"",
        "name=\"file\"; filename=\"ein St\u{fc}ck.wav\"",
        "name=file; filename=a.wav; filename*=utf-8''a%20b.wav",
        "filename=\"model\"; name=\"file\"",
        "name=\"image[]\"; filename=\"\"",
        "name=\"timestamp_granularities[]\"\r\ncontent-transfer-encoding: base64",
        "name=\"chunking_strategy[type]\"\r\nContent-Length: 4",
        "name=\"models\";",
        // OkHttp's, where it is given the type of the whole form.
        "name=\"file\"; filename=\"a.wav\"\r\nContent-Type: multipart/form-data",
        "name=\"language\"\r\nContent-Type: multipart/form-data; charset=utf-8",
    ] {
        let form = with(&format!("Content-Disposition: form-data; {rest}"));
        assert_eq!(scan(&form), Ok(Some("m".to_owned())), "{rest}");
    }
    let other = with("Content-Disposition: file; name=\"file\"; filename=\"a.wav\"");
    assert_eq!(scan(&other), Ok(Some("m".to_owned())));
}

/// Some take a backslash for itself, some split at semicolons within quotes, some keep the first
/// of two, and some decode names.
#[test]
fn forbids_heads_that_servers_could_read_differently() {
    use FormError::{FileName, ModelTwice, PartHead};
    for (rest, expected) in [
        ("form-data; name=\"file\"; filename=\"a\\\"; name=\"model\"; x=\"", FileName),
        ("form-data; name=\"file\"; filename=\"a\\\"; name=model; x=\\\"\"", FileName),
        ("form-data; name=\"file\"; filename=\"a\\\\\"; name=\"model\"", FileName),
        ("form-data; name=\"file\"; filename=\"a\\\"b\"; filename*=utf-8''a", FileName),
        ("form-data; filename=\"a\\\"b\"; name=\"file\"", FileName),
        ("form-data; name=\"file\"; x=\"a\\\"b\"", FileName),
        ("form-data; name=\"file\"; filename=\"a; name=model\"", FileName),
        ("form-data; filename=\"a; Name=model; b\"; name=\"file\"", FileName),
        ("form-data; name=\"file\"; name*=utf-8''model", PartHead),
        ("form-data; name=\"file\"; name*0=model", PartHead),
        ("form-data; name=\"file\"; name=\"file\"", PartHead),
        ("form-data; name=\"file\"; filename=a; filename=b", PartHead),
        ("form-data; name=\"a\"model", PartHead),
        ("form-data; name=\"a\" name=\"model\"", PartHead),
        ("form-data; name=a b", PartHead),
        ("form-data; name = \"model\"", PartHead),
        ("form-data; name=\"model", PartHead),
        ("form-data; name=", PartHead),
        ("form-data; name=\"\"", PartHead),
        ("form-data; name", PartHead),
        ("form-data", PartHead),
        ("form-data, name=a", PartHead),
        ("attachment; name=\"model\"", PartHead),
        ("attachment; name=\"Model\"", ModelTwice),
        ("attachment", PartHead),
        ("; name=\"a\"", PartHead),
        ("form-data; name=\"=?utf-8?B?bW9kZWw=?=\"", PartHead),
        ("form-data; name=\"mode%6c\"", PartHead),
        ("form-data; name=\"model; a=b\"", PartHead),
        ("form-data; name=\"a\\b\"", PartHead),
        ("form-data; name=\"_charset_\"", PartHead),
        ("form-data; name=\"model\0\"", PartHead),
        ("form-data; name=\"model[]\"", ModelTwice),
        ("form-data; name=\" model \"", ModelTwice),
        ("form-data; name='model'", ModelTwice),
        ("form-data; name=a\r\nContent-Disposition: form-data; name=model", PartHead),
        ("form-data; name=a\r\ncontent-disposition : form-data; name=model", PartHead),
        ("form-data; name=a\r\nContent-Type: Multipart/mixed; boundary=y", PartHead),
        ("form-data; name=a\r\nContent-Length: 3", PartHead),
        ("form-data; name=a\r\nContent-Length: 100", PartHead),
        ("form-data; name=a\r\nContent-Length: +4", PartHead),
    ] {
        refuses(&with(&format!("Content-Disposition: {rest}")), expected);
    }
}

#[test]
fn the_model_is_plain_text() {
    let of = |rest: &str, value: &str| {
        let head = format!("--xYz\r\nContent-Disposition: form-data; name=\"model\"{rest}");
        format!("{head}\r\n\r\n{value}\r\n--xYz--\r\n")
    };
    for rest in [
        "",
        "\r\nContent-Type: text/plain",
        "\r\nContent-Type: text/plain; charset=UTF-8\r\nContent-Length: 1",
        "\r\nContent-Type: multipart/form-data\r\nContent-Length: 1",
        "\r\nContent-Type: text/plain; charset=ISO-8859-1\r\nContent-Transfer-Encoding: 8bit",
    ] {
        assert_eq!(scan(&of(rest, "m")), Ok(Some("m".to_owned())), "{rest}");
    }
    for rest in [
        "; filename=\"a\"",
        "; filename*=utf-8''a",
        "\r\nContent-Type: application/json",
        "\r\nContent-Type: application/octet-stream",
        "\r\nContent-Type: text/plain; charset=utf-7",
        "\r\nContent-Type: text/plain; charset=utf-8; charset=utf-8",
        "\r\nContent-Encoding: gzip",
        "\r\nContent-Transfer-Encoding: quoted-printable",
    ] {
        refuses(&of(rest, "m"), FormError::ModelField);
    }
    assert_eq!(scan(&of("", "m\u{fc}")), Ok(Some("m\u{fc}".to_owned())));
    let latin = "\r\nContent-Type: text/plain; charset=iso-8859-1";
    refuses(&of(latin, "m\u{fc}"), FormError::ModelField);
}

/// Some take what came for a field.
#[test]
fn forbids_a_form_that_does_not_end() {
    let field = "--xYz\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nm";
    refuses(&format!("{field}\r\n{field}"), FormError::ModelTwice);
    for form in [field, &format!("{field}\r\n--xYz"), "", "--xYz-", "--xYz--\r", "\r\n"] {
        let mut scanner = Scanner::new(b"xYz");
        assert_eq!(scanner.feed(form.as_bytes()), Ok(()), "{form:?}");
        assert_eq!(scanner.finish(), Err(FormError::Unclosed), "{form:?}");
    }
}

#[test]
fn a_new_name_stands_in_the_place_of_the_old_one() {
    let of = |lines: &str, value: &str| {
        let head = format!("--xYz\r\nContent-Disposition: form-data; name=\"model\"{lines}");
        format!("{head}\r\n\r\n{value}\r\n--xYz--\r\n")
    };
    let renamed = |form: &str, name: &str| {
        let mut scanner = Scanner::new(b"xYz");
        assert_eq!(scanner.feed(form.as_bytes()), Ok(()), "{form:?}");
        let change = scanner.renamed(name)?;
        Ok(change.map(|(place, text)| {
            let mut form = form.as_bytes().to_vec();
            form.splice(place.start as usize..place.end as usize, text);
            String::from_utf8(form).unwrap()
        }))
    };
    assert_eq!(renamed("--xYz--", "new"), Ok(None));
    assert_eq!(renamed(&of("", "m"), "n\u{fc}"), Ok(Some(of("", "n\u{fc}"))));
    assert_eq!(renamed(&of("", ""), "new"), Ok(Some(of("", "new"))));
    // As OkHttp writes it.
    let (one, ten) = ("\r\nContent-Length: 1\r\nX: y", "\r\nContent-Length: 10\r\nX: y");
    assert_eq!(renamed(&of(one, "m"), "ten-letter"), Ok(Some(of(ten, "ten-letter"))));
    let latin = of("\r\nContent-Type: text/plain; charset=iso-8859-1", "m");
    assert_eq!(renamed(&latin, "n\u{fc}"), Err(FormError::ModelField));
    // Who chose the boundary may choose what a reader of lines makes of the name.
    assert_eq!(renamed(&of("", "m"), "models--xYz"), Err(FormError::Delimiter));
    assert_eq!(renamed(&of("", "m"), "models-xYz"), Ok(Some(of("", "models-xYz"))));
}

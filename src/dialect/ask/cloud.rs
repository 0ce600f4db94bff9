//! Messages as a cloud takes them: the model stands in the address, a version in the body.

use super::{Edit, each_event, splice};
use crate::wire::json::{Event, JsonError, Step, Watch, escape};
use std::ops::Range;

/// The version that Vertex wants in the body of every call of Claude's.
const VERSION: &[u8] = b"\"anthropic_version\":\"vertex-2023-10-16\"";

/// Takes the model out of a body that was scanned before, or puts `served` there, and the version
/// in, unless the caller gave one.
pub fn rewrite_for_vertex(body: &mut Vec<u8>, served: Option<&str>) -> Result<(), JsonError> {
    const MODEL: usize = 0;
    let paths: [&[Step]; 2] = [&[Step::Key("model")], &[Step::Key("anthropic_version")]];
    // From the comma or bracket in front to the end of the value; where the value begins.
    let (mut member, mut value, mut has_version): (Range<usize>, usize, bool) = (0..0, 0, false);
    each_event(Watch::of(&paths), body, |event| match event {
        Event::Begins { path: MODEL, at, after, .. } => {
            (member.start, value) = (after as usize, at as usize);
        }
        Event::Ends { path: MODEL, end } => member.end = end as usize,
        Event::Begins { .. } => has_version = true,
        Event::Ends { .. } | Event::Repeats { .. } | Event::Misspelt { .. } => {}
    })?;
    if member.is_empty() {
        return Ok(());
    }
    let mut with = Vec::new();
    let span = match served {
        Some(served) => {
            escape(served, &mut with);
            if !has_version {
                with.push(b',');
            }
            value..member.end
        }
        None if !has_version => member.start + 1..member.end,
        // The member goes with the comma in front, or else behind.
        None if body[member.start] == b',' => member,
        None => {
            let rest = body[member.end..].iter().position(|byte| *byte == b',');
            member.start + 1..member.end + rest.map_or(0, |comma| comma + 1)
        }
    };
    if !has_version {
        with.extend_from_slice(VERSION);
    }
    splice(body, &[Edit { span, with: &with }]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_goes_and_the_version_comes() {
        let version = "\"anthropic_version\":\"vertex-2023-10-16\"";
        let rows = [
            (r#"{"model":"m","x":1}"#, format!("{{{version},\"x\":1}}")),
            (r#"{ "x" : 1, "mod\u0065l" : "m" }"#, format!("{{ \"x\" : 1,{version} }}")),
            (r#"{"model":"m"}"#, format!("{{{version}}}")),
            (
                r#"{"model":"m" , "anthropic_version":"a"}"#,
                r#"{ "anthropic_version":"a"}"#.to_owned(),
            ),
            (
                r#"{"anthropic_version":"a", "model":"m","y":{"model":"n"}}"#,
                r#"{"anthropic_version":"a","y":{"model":"n"}}"#.to_owned(),
            ),
        ];
        for (body, expected) in rows {
            let mut bytes = body.as_bytes().to_vec();
            rewrite_for_vertex(&mut bytes, None).expect("it is JSON");
            assert_eq!(String::from_utf8_lossy(&bytes), expected, "{body}");
        }
    }

    #[test]
    fn a_call_that_keeps_its_model_gets_the_version_beside_it() {
        let rows = [
            (
                r#"{"model":"a/b","x":1}"#,
                r#"{"model":"b","anthropic_version":"vertex-2023-10-16","x":1}"#,
            ),
            (
                r#"{"model":"a/b","anthropic_version":"v"}"#,
                r#"{"model":"b","anthropic_version":"v"}"#,
            ),
        ];
        for (body, expected) in rows {
            let mut bytes = body.as_bytes().to_vec();
            rewrite_for_vertex(&mut bytes, Some("b")).expect("it is JSON");
            assert_eq!(String::from_utf8_lossy(&bytes), expected, "{body}");
        }
    }
}

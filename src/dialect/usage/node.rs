//! A usage object as a small tree that borrows its texts: what a general one would copy for each
//! reply costs more than all else that is done with it.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// A JSON value, as far as counts and words matter.
#[derive(Debug)]
pub enum Node<'a> {
    /// `null`.
    Null,
    /// A count; what is less than zero or no number counts as zero.
    Count(u64),
    /// A word.
    Text(Cow<'a, str>),
    /// Several values.
    List(Vec<Node<'a>>),
    /// Named values, in their order.
    Object(Vec<(Cow<'a, str>, Node<'a>)>),
    /// `true` or `false`.
    Flag,
}

impl Node<'_> {
    /// What stands under a name; the last one, if there are several.
    pub(super) fn get(&self, name: &str) -> Option<&Self> {
        let Node::Object(fields) = self else { return None };
        fields.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    pub(super) fn as_str(&self) -> Option<&str> {
        if let Node::Text(text) = self { Some(text) } else { None }
    }

    pub(super) fn is_object(&self) -> bool {
        matches!(self, Node::Object(_))
    }

    /// The values of an object or a list.
    pub(super) fn values(&self) -> impl Iterator<Item = &Self> {
        let (fields, list) = match self {
            Node::Object(fields) => (&fields[..], &[][..]),
            Node::List(list) => (&[][..], &list[..]),
            _ => (&[][..], &[][..]),
        };
        fields.iter().map(|(_, value)| value).chain(list)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Node<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Node<'a>, D::Error> {
        from.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Node<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Node<'de>, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Node<'de>, E> {
        Ok(Node::Flag)
    }

    fn visit_u64<E>(self, count: u64) -> Result<Node<'de>, E> {
        Ok(Node::Count(count))
    }

    fn visit_i64<E>(self, count: i64) -> Result<Node<'de>, E> {
        Ok(Node::Count(u64::try_from(count).unwrap_or(0)))
    }

    // Some servers write 12.0. A cast saturates, and takes NaN and less than zero for 0.
    fn visit_f64<E>(self, count: f64) -> Result<Node<'de>, E> {
        Ok(Node::Count(count as u64))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Node<'de>, E> {
        Ok(Node::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Node<'de>, E> {
        Ok(Node::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Node<'de>, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = from.next_element()? {
            list.push(value);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Node<'de>, A::Error> {
        let mut fields = Vec::new();
        while let Some(Name(name)) = from.next_key()? {
            fields.push((name, from.next_value()?));
        }
        Ok(Node::Object(fields))
    }
}

struct Name<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Name<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Name<'a>, D::Error> {
        match from.deserialize_str(Reader)? {
            Node::Text(name) => Ok(Name(name)),
            _ => Ok(Name(Cow::Borrowed(""))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_words_and_names_are_read_whatever_stands_beside_them() {
        let text = r#"{"a": 1, "b": {"c": -3, "d": 2.9, "e": 1e99, "f": null, "g": true},
            "h": ["x", {"\u0069": "\u0079"}], "a": 4}"#;
        let root: Node<'_> = serde_json::from_str(text).expect("it is JSON");
        let count = |path: &[&str]| match path.iter().try_fold(&root, |at, name| at.get(name))? {
            Node::Count(count) => Some(*count),
            _ => None,
        };
        assert_eq!(count(&["a"]), Some(4));
        assert_eq!(count(&["b", "c"]), Some(0));
        assert_eq!(count(&["b", "d"]), Some(2));
        assert_eq!(count(&["b", "e"]), Some(u64::MAX));
        assert_eq!(count(&["b", "f"]), None);
        assert_eq!(count(&["b", "g"]), None);
        let list: Vec<_> = root.get("h").expect("a list").values().collect();
        assert_eq!(list[0].as_str(), Some("x"));
        assert_eq!(list[1].get("i").and_then(Node::as_str), Some("y"));
        assert!(serde_json::from_str::<Node<'_>>("{\"a\": }").is_err());
    }
}

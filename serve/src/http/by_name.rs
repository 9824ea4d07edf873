//! Objects of JSON bodies. A derived reader also takes a list of the fields' values in their order, which no document
//! of ours promises and which would break with the next field.

use std::fmt::{Formatter, Result as Written};
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Something that is read from an object alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ByName<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for ByName<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Object(PhantomData))
    }
}

struct Object<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Object<T> {
    type Value = ByName<T>;

    fn expecting(&self, formatter: &mut Formatter) -> Written {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ByName<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(ByName)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Pair {
        a: u8,
        b: u8,
    }

    #[test]
    fn an_object_is_read_and_a_list_is_not() {
        let read = |text: &str| serde_json::from_str::<ByName<Pair>>(text).map(|pair| pair.0);
        assert_eq!(read("{\"b\": 2, \"a\": 1}").unwrap(), Pair { a: 1, b: 2 });
        assert!(read("[1, 2]").unwrap_err().to_string().contains("expected an object"));
    }
}

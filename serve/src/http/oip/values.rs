//! The values of a tensor as JSON has them: flat or nested, numbers or strings. Nothing is known here of datatypes:
//! `data` may stand before `datatype`.

use std::fmt::{Formatter, Result as Written};

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, SeqAccess, Visitor};

/// Values in row-major order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Values {
    pub numbers: Vec<f32>,
    pub strings: Vec<String>,
    /// Length of every level of brackets; one level where the values stand flat.
    pub nesting: Vec<usize>,
}

impl Values {
    pub fn len(&self) -> usize {
        self.numbers.len() + self.strings.len()
    }

    /// Notes that a list of `level` has ended; all lists of one level are as long.
    fn end<E: Error>(&mut self, level: usize, found: usize) -> Result<(), E> {
        match self.nesting.get(level) {
            Some(&expected) if expected != found && expected != OPEN => {
                let list = format!("lists of one length on level {level} of `data`, as {expected}");
                Err(E::custom(format_args!("expected {list}, found {found}")))
            }
            Some(_) => {
                self.nesting[level] = found;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Notes that a list of `level` begins.
    fn begin<E: Error>(&mut self, level: usize) -> Result<(), E> {
        if level < self.nesting.len() {
            return Ok(());
        }
        if self.len() > 0 || self.nesting.iter().any(|&length| length != OPEN) {
            return Err(E::custom("expected values on one level of `data` alone, found a list beside them"));
        }
        self.nesting.push(OPEN);
        Ok(())
    }

    /// A value may only stand in the innermost lists.
    fn check_leaf<E: Error>(&self, level: usize) -> Result<(), E> {
        if level == self.nesting.len() {
            Ok(())
        } else {
            Err(E::custom("expected values on one level of `data` alone, found one beside a list"))
        }
    }
}

/// The length of a list that has not ended yet.
const OPEN: usize = usize::MAX;

impl<'de> Deserialize<'de> for Values {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut values = Self::default();
        deserializer.deserialize_seq(Level { level: 0, values: &mut values })?;
        Ok(values)
    }
}

/// Reads what stands on a level: values, or lists of the next.
struct Level<'a> {
    level: usize,
    values: &'a mut Values,
}

impl<'de> DeserializeSeed<'de> for Level<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        // The depth of brackets is bounded by the parser.
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Level<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut Formatter) -> Written {
        formatter.write_str(if self.level == 0 {
            "a list of numbers or strings"
        } else {
            "a number, a string or a list of them"
        })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Self { level, values } = self;
        values.begin(level)?;
        let mut length = 0;
        while list.next_element_seed(Level { level: level + 1, values })?.is_some() {
            length += 1;
        }
        values.end(level, length)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.values.check_leaf(self.level)?;
        if !self.values.strings.is_empty() {
            return Err(E::custom("expected strings alone in `data`, found a number"));
        }
        self.values.numbers.push(value as f32);
        Ok(())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.visit_f64(value as f64)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.visit_f64(value as f64)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        self.values.check_leaf(self.level)?;
        if !self.values.numbers.is_empty() {
            return Err(E::custom("expected numbers alone in `data`, found a string"));
        }
        self.values.strings.push(value.into());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Values, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn flat_and_nested_values_are_the_same_but_for_their_nesting() {
        let flat = read("[1, 2.5, -3, 4]").unwrap();
        let nested = read("[[1, 2.5], [-3, 4]]").unwrap();
        assert_eq!(flat.numbers, [1.0, 2.5, -3.0, 4.0]);
        assert_eq!((flat.numbers, flat.nesting), (nested.numbers, vec![4]));
        assert_eq!(nested.nesting, [2, 2]);
        assert_eq!(read("[[[\"a\"], [\"b\"]]]").unwrap().nesting, [1, 2, 1]);
        assert_eq!(read("[]").unwrap().nesting, [0]);
        assert_eq!(read("[[], []]").unwrap().nesting, [2, 0]);
    }

    #[test]
    fn ragged_mixed_and_foreign_values_are_named() {
        for (text, expected) in [
            ("[[1, 2], [3]]", "one length"),
            ("[1, [2]]", "a list beside"),
            ("[[1], 2]", "beside a list"),
            ("[[], [[1]]]", "a list beside"),
            ("[[[1]], [2]]", "beside a list"),
            ("[1, \"a\"]", "found a string"),
            ("[\"a\", 1]", "found a number"),
            ("[true]", "boolean"),
            ("[null]", "null"),
            ("[{}]", "map"),
            ("3", "list of numbers"),
            ("\"abc\"", "list of numbers"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
        assert!(read(&"[".repeat(100_000)).unwrap_err().contains("recursion"));
    }
}

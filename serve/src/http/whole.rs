//! Whole numbers of JSON bodies. JSON knows numbers alone: `3.0` is as whole as `3`, and some clients write it so.

use serde::de::Error;
use serde::{Deserialize, Deserializer};
use serde_json::Number;

/// A whole number, at least 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Whole(pub usize);

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = Number::deserialize(deserializer)?;
        let whole = number.as_u64().or_else(|| number.as_f64().and_then(exact));
        let fits = whole.and_then(|whole| usize::try_from(whole).ok());
        fits.map(Self)
            .ok_or_else(|| D::Error::custom(format_args!("expected a whole number, found {number}")))
    }
}

/// A float that is whole, where floats tell neighbors apart.
fn exact(number: f64) -> Option<u64> {
    const EXACT: f64 = (1_u64 << 53) as f64;
    ((0.0..=EXACT).contains(&number) && number.fract() == 0.0).then_some(number as u64)
}

/// A whole number that may be missing or `null`.
pub(super) fn optional<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    Ok(Option::<Whole>::deserialize(deserializer)?.map(|whole| whole.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_are_taken_however_they_are_written() {
        for (text, expected) in [("0", 0), ("3", 3), ("3.0", 3), ("3e2", 300), ("-0.0", 0)] {
            assert_eq!(serde_json::from_str::<Whole>(text).unwrap(), Whole(expected));
        }
        assert_eq!(serde_json::from_str::<Whole>(&u64::MAX.to_string()).unwrap().0 as u64, u64::MAX);
        for text in ["-1", "0.5", "1e300", "18446744073709551616", "\"3\"", "null", "true"] {
            assert!(serde_json::from_str::<Whole>(text).is_err(), "{text}");
        }
    }
}

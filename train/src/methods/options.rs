//! A method's options: `key=value` from the command line or `[options]` of a configuration, checked against what the
//! method declares.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::str::FromStr;

use crate::error::{Result, TrainError};

/// An option that a method declares.
#[derive(Clone, Copy, Debug)]
pub struct OptionSpec {
    /// Name.
    pub key: &'static str,
    /// Value when not given.
    pub default: &'static str,
    /// What it does, with its unit.
    pub help: &'static str,
}

/// Every option of one method with its value.
#[derive(Clone, Debug)]
pub struct Options {
    method: String,
    values: BTreeMap<&'static str, String>,
}

impl Options {
    /// Fills the declared options from `given`, the rest with defaults.
    ///
    /// # Errors
    /// [`TrainError::Unknown`] for a key that is not declared.
    pub fn parse(
        method: &str,
        specs: &'static [OptionSpec],
        given: &BTreeMap<String, String>,
    ) -> Result<Self> {
        let known = || specs.iter().map(|spec| spec.key);
        if let Some(key) = given.keys().find(|key| known().all(|known| known != key.as_str())) {
            return Err(TrainError::Unknown {
                kind: format!("option of method `{method}`"),
                name: key.clone(),
                suggestion: models::nearest::suggestion(key, known()),
                known: known().collect::<Vec<_>>().join(", "),
            });
        }
        let value = |spec: &OptionSpec| given.get(spec.key).cloned().unwrap_or_else(|| spec.default.into());
        let values = specs.iter().map(|spec| (spec.key, value(spec))).collect();
        Ok(Self { method: method.into(), values })
    }

    /// Every option with its value, for the resolved configuration.
    pub fn resolved(&self) -> BTreeMap<String, String> {
        self.values.iter().map(|(key, value)| (key.to_string(), value.clone())).collect()
    }

    /// A number within a range.
    ///
    /// # Errors
    /// [`TrainError::Setting`] if it is none or lies outside.
    pub fn number(&self, key: &'static str, range: RangeInclusive<f64>) -> Result<f64> {
        let expected = format!("a number from {} to {}", range.start(), range.end());
        self.typed(key, &expected, |value: &f64| range.contains(value))
    }

    /// A whole number, at least `least`.
    ///
    /// # Errors
    /// [`TrainError::Setting`].
    pub fn count(&self, key: &'static str, least: usize) -> Result<usize> {
        self.typed(key, &format!("a whole number, at least {least}"), |value: &usize| *value >= least)
    }

    /// One of `choices`, by its index.
    ///
    /// # Errors
    /// [`TrainError::Setting`].
    pub fn choice(&self, key: &'static str, choices: &[&str]) -> Result<usize> {
        let found = self.text(key);
        let wrong = || TrainError::setting(self.place(key), choices.join(" or "), found);
        choices.iter().position(|choice| *choice == found).ok_or_else(wrong)
    }

    fn typed<T: FromStr>(&self, key: &'static str, expected: &str, fits: impl Fn(&T) -> bool) -> Result<T> {
        let found = self.text(key);
        let wrong = || TrainError::setting(self.place(key), expected, found);
        found.parse().ok().filter(fits).ok_or_else(wrong)
    }

    fn text(&self, key: &'static str) -> &str {
        // A key that the method reads but does not declare is a slip that the registry's test finds: it parses as nothing.
        self.values.get(key).map_or("", String::as_str)
    }

    fn place(&self, key: &str) -> String {
        format!("option `{key}` of method `{}`", self.method)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPECS: &[OptionSpec] = &[
        OptionSpec { key: "tau", default: "0.95", help: "" },
        OptionSpec { key: "mu", default: "7", help: "" },
        OptionSpec { key: "distance", default: "mse", help: "" },
    ];

    fn options(given: &[(&str, &str)]) -> Result<Options> {
        let given = given.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        Options::parse("fixmatch", SPECS, &given)
    }

    #[test]
    fn given_values_replace_defaults() {
        let options = options(&[("tau", "0.8")]).unwrap();
        assert_eq!(options.number("tau", 0.0..=1.0).unwrap(), 0.8);
        assert_eq!(options.count("mu", 1).unwrap(), 7);
        assert_eq!(options.choice("distance", &["kl", "mse"]).unwrap(), 1);
    }

    #[test]
    fn errors_name_method_option_and_value() {
        let message = |result: Result<()>| result.unwrap_err().to_string();
        let error = message(options(&[("distanse", "kl")]).map(|_| ()));
        assert!(error.contains("did you mean `distance`?") && error.contains("fixmatch"), "{error}");
        let tau = |value| options(&[("tau", value)]).unwrap().number("tau", 0.0..=1.0).map(|_| ());
        assert!(
            message(tau("1.5"))
                .contains("`tau` of method `fixmatch`: expected a number from 0 to 1, found `1.5`")
        );
        assert!(tau("NaN").is_err() && tau("x").is_err());
        assert!(options(&[("mu", "0")]).unwrap().count("mu", 1).is_err());
        assert!(options(&[("distance", "l1")]).unwrap().choice("distance", &["mse", "kl"]).is_err());
    }
}

//! Whether weights fit a graph, and what is wrong where they do not. Never mends anything: see [`crate::init`].

use std::collections::BTreeMap;
use std::fmt;

use crate::{Graph, Weights};

/// An array of another shape than its graph asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reshaped {
    /// The array.
    pub name: String,
    /// Shape that the graph asks for.
    pub expected: Vec<usize>,
    /// Shape that was found.
    pub found: Vec<usize>,
}

impl fmt::Display for Reshaped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: expected {:?}, found {:?}", self.name, self.expected, self.found)
    }
}

/// Weights that do not fit a graph.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Misfit {
    /// Names that the graph has and the weights lack.
    pub missing: Vec<String>,
    /// Names that the weights have and the graph lacks.
    pub extra: Vec<String>,
    /// Arrays in both, of different shapes.
    pub different: Vec<Reshaped>,
}

impl Misfit {
    /// Whether there is nothing wrong after all.
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.extra.is_empty() && self.different.is_empty()
    }
}

impl std::error::Error for Misfit {}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "weights do not fit the network")?;
        list(f, "missing", &self.missing)?;
        list(f, "extra", &self.extra)?;
        list(f, "different", &self.different)
    }
}

/// Names that a message spells out before it counts the rest.
const LISTED: usize = 12;

fn list(f: &mut fmt::Formatter<'_>, title: &str, items: &[impl fmt::Display]) -> fmt::Result {
    if items.is_empty() {
        return Ok(());
    }
    let shown: Vec<String> = items.iter().take(LISTED).map(ToString::to_string).collect();
    write!(f, "; {title} ({}): {}", items.len(), shown.join(", "))?;
    match items.len().saturating_sub(LISTED) {
        0 => Ok(()),
        rest => write!(f, " and {rest} more"),
    }
}

/// Compares names and shapes.
///
/// # Errors
/// [`Misfit`] with everything that is missing, extra or of another shape.
pub fn check(graph: &Graph, weights: &Weights) -> Result<(), Misfit> {
    let misfit = compare(graph, weights);
    if misfit.is_empty() { Ok(()) } else { Err(misfit) }
}

pub(crate) fn compare(graph: &Graph, weights: &Weights) -> Misfit {
    let expected: BTreeMap<String, Vec<usize>> =
        graph.parameters().into_iter().map(|p| (p.name, p.shape)).collect();
    let mut misfit = Misfit::default();
    for (name, shape) in &expected {
        match weights.get(name) {
            None => misfit.missing.push(name.clone()),
            Some(array) if array.shape != *shape => misfit.different.push(Reshaped {
                name: name.clone(),
                expected: shape.clone(),
                found: array.shape.clone(),
            }),
            Some(_) => {}
        }
    }
    misfit.extra = weights.keys().filter(|name| !expected.contains_key(*name)).cloned().collect();
    misfit
}

/// The arrays of `weights` that `graph` asks for: a network saved without the heads that training appended.
///
/// # Errors
/// [`Misfit`] if one is missing or of another shape.
pub fn select(graph: &Graph, weights: &Weights) -> Result<Weights, Misfit> {
    let misfit = Misfit { extra: Vec::new(), ..compare(graph, weights) };
    if !misfit.is_empty() {
        return Err(misfit);
    }
    let wanted = graph.parameters().into_iter();
    Ok(wanted.filter_map(|p| weights.get(&p.name).map(|array| (p.name, array.clone()))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Array, Task, formula, zoo};

    #[test]
    fn everything_wrong_is_listed_at_once() {
        let graph = zoo::build("small-cnn-2", &Task::new(10, 3, 32)).unwrap();
        let mut weights = formula::weights(&graph, 1.0);
        check(&graph, &weights).unwrap();
        weights.remove("conv1.bias");
        weights.insert("conv9.bias".into(), Array::full([3], 0.0));
        weights.insert("fc.bias".into(), Array::full([11], 0.0));
        let message = check(&graph, &weights).unwrap_err().to_string();
        for part in ["missing (1): conv1.bias", "extra (1): conv9.bias", "fc.bias: expected [10], found [11]"]
        {
            assert!(message.contains(part), "{message}");
        }
        assert!(select(&graph, &weights).is_err());
    }

    #[test]
    fn a_long_list_is_cut_with_a_count() {
        let graph = zoo::build("resnet18", &Task::new(10, 3, 32)).unwrap();
        let message = check(&graph, &Weights::new()).unwrap_err().to_string();
        assert!(message.contains("missing (102): bn1.bias") && message.ends_with("and 90 more"), "{message}");
    }

    #[test]
    fn heads_of_training_are_left_behind() {
        let graph = zoo::build("small-cnn-2", &Task::new(10, 3, 32)).unwrap();
        let wanted = formula::weights(&graph, 1.0);
        let mut weights = wanted.clone();
        weights.insert("projection.weight".into(), Array::full([3], 0.0));
        assert_eq!(select(&graph, &weights).unwrap(), wanted);
    }
}

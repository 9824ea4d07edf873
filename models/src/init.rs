//! Starting from somebody else's weights: a state dict under torchvision's or timm's names becomes this network's.
//!
//! Values are kept as they are. timm's MobileNetV3 and its larger EfficientNets were trained with a batch norm of
//! another eps (1e-5) than torchvision's (1e-3); the graph keeps its own, as with torchvision's weights.
//! A file is never read here: the map comes from [`crate::file::load_foreign`] or from train's pickle reader.

use std::collections::HashMap;
use std::fmt;

use crate::fit::{self, Misfit};
use crate::{Architecture, Array, Graph, Op, Weights};

/// Whose names a state dict has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// torchvision's, which are ours.
    Torchvision,
    /// timm's.
    Timm,
}

/// A classifier that was not taken over, since it tells other classes apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplacedHead {
    /// The layer.
    pub layer: String,
    /// Classes of the state dict.
    pub found: usize,
    /// Classes of this network.
    pub expected: usize,
}

/// What was taken over and what was not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Whose names the state dict had.
    pub naming: Naming,
    /// Arrays taken over.
    pub loaded: usize,
    /// The classifier, if it stays fresh.
    pub replaced: Option<ReplacedHead>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let naming = match self.naming {
            Naming::Torchvision => "torchvision's names",
            Naming::Timm => "timm's names, batch norm at this network's eps",
        };
        write!(f, "{} arrays loaded ({naming})", self.loaded)?;
        let Some(ReplacedHead { layer, found, expected }) = &self.replaced else { return Ok(()) };
        write!(f, "; head `{layer}` starts fresh: {found} classes in the file, {expected} here")
    }
}

/// Maps `foreign` onto `graph`, which `architecture` built. Where the number of classes differs the classifier keeps
/// its values of `fresh`, the network's own start.
///
/// # Errors
/// [`Misfit`], under our names, listing what is missing, extra and different.
pub fn adapt(
    architecture: &Architecture,
    graph: &Graph,
    foreign: Weights,
    fresh: &Weights,
) -> Result<(Weights, Report), Misfit> {
    let foreign = foreign.into_iter().filter(|(name, _)| !name.ends_with("num_batches_tracked")).collect();
    let (naming, mut weights) = renamed(architecture, graph, foreign);
    let replaced = replace_head(graph, &mut weights, fresh);
    fit::check(graph, &weights)?;
    let kept = replaced.as_ref().map_or(0, |head| in_layer(graph, &head.layer).len());
    Ok((weights, Report { naming, loaded: graph.parameters().len() - kept, replaced }))
}

/// The same weights under timm's names and shapes, if timm has the network under names of its own.
pub fn to_timm(architecture: &Architecture, graph: &Graph, weights: &Weights) -> Option<Weights> {
    let table = table(architecture, graph)?;
    let rename = |row: Row| {
        let array = weights.get(&row.ours)?;
        Some((row.theirs, Array { shape: row.their_shape, data: array.data.clone() }))
    };
    table.into_iter().map(rename).collect()
}

/// One array under both names.
struct Row {
    ours: String,
    theirs: String,
    our_shape: Vec<usize>,
    their_shape: Vec<usize>,
}

fn table(architecture: &Architecture, graph: &Graph) -> Option<Vec<Row>> {
    let modules = (architecture.entry().timm?)(graph);
    let modules: HashMap<String, String> = modules.into_iter().collect();
    let row = |parameter: crate::Parameter| {
        let node = graph.node(parameter.node);
        let theirs = modules.get(&node.name)?;
        let suffix = &parameter.name[node.name.len()..];
        let mut their_shape = parameter.shape.clone();
        if theirs == "conv_head" && parameter.shape.len() == 2 {
            their_shape.extend([1, 1]); // timm keeps this linear layer as a 1x1 convolution
        }
        let theirs = format!("{theirs}{suffix}");
        Some(Row { ours: parameter.name, theirs, our_shape: parameter.shape, their_shape })
    };
    graph.parameters().into_iter().map(row).collect()
}

fn renamed(architecture: &Architecture, graph: &Graph, mut foreign: Weights) -> (Naming, Weights) {
    let is_timm = foreign.contains_key("conv_stem.weight");
    let Some(table) = is_timm.then(|| table(architecture, graph)).flatten() else {
        return (Naming::Torchvision, foreign);
    };
    let mut weights = Weights::new();
    for row in table {
        let Some(mut array) = foreign.remove(&row.theirs) else { continue };
        if array.shape == row.their_shape {
            array.shape = row.our_shape;
        }
        weights.insert(row.ours, array);
    }
    weights.extend(foreign); // what is left is reported as extra, under the name it came with
    (Naming::Timm, weights)
}

/// Puts the fresh classifier in place of one that differs in its number of classes alone.
fn replace_head(graph: &Graph, weights: &mut Weights, fresh: &Weights) -> Option<ReplacedHead> {
    let head = graph.node(graph.output("logits").ok()?);
    let Op::Linear(linear) = &head.op else { return None };
    let layer = head.name.clone();
    let found = weights.get(&format!("{layer}.weight"))?.shape.clone();
    let names = in_layer(graph, &layer);
    let differs_in_classes_alone = names.iter().all(|name| match (weights.get(name), fresh.get(name)) {
        (Some(theirs), Some(ours)) => {
            theirs.shape.first() == found.first() && theirs.shape.get(1..) == ours.shape.get(1..)
        }
        _ => false,
    });
    if !differs_in_classes_alone || found.first() == Some(&linear.out_features) {
        return None;
    }
    for name in names {
        weights.insert(name.clone(), fresh.get(&name)?.clone());
    }
    Some(ReplacedHead { layer, found: *found.first()?, expected: linear.out_features })
}

fn in_layer(graph: &Graph, layer: &str) -> Vec<String> {
    let Some(id) = graph.find(layer) else { return Vec::new() };
    graph.parameters().into_iter().filter(|p| p.node == id).map(|p| p.name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Task, formula};

    fn network(name: &str, classes: usize) -> (Architecture, Graph, Weights) {
        let architecture = Architecture::find(name).unwrap();
        let graph = architecture.build(&Task::new(classes, 3, 64)).unwrap();
        let weights = formula::weights(&graph, 1.0);
        (architecture, graph, weights)
    }

    /// The same names, all values zero.
    fn fresh(weights: &Weights) -> Weights {
        weights.iter().map(|(name, array)| (name.clone(), Array::full(array.shape.clone(), 0.0))).collect()
    }

    #[test]
    fn torchvisions_names_are_taken_as_they_are() {
        let (architecture, graph, weights) = network("resnet18", 10);
        let mut foreign = weights.clone();
        foreign.insert("bn1.num_batches_tracked".into(), Array::full([], 1.0));
        let (adapted, report) = adapt(&architecture, &graph, foreign, &fresh(&weights)).unwrap();
        assert_eq!(adapted, weights);
        assert_eq!(report.to_string(), "102 arrays loaded (torchvision's names)");
    }

    #[test]
    fn timms_names_there_and_back_change_no_bit() {
        for name in ["mobilenet-v3-small", "mobilenet-v3-large", "efficientnet-b0", "efficientnet-b3"] {
            let (architecture, graph, weights) = network(name, 10);
            let timm = to_timm(&architecture, &graph, &weights).unwrap();
            assert!(timm.contains_key("conv_stem.weight") && timm.len() == weights.len(), "{name}");
            let (adapted, report) = adapt(&architecture, &graph, timm, &fresh(&weights)).unwrap();
            assert_eq!(adapted, weights, "{name}");
            assert_eq!((report.naming, report.replaced), (Naming::Timm, None));
        }
        let (architecture, graph, weights) = network("resnet18", 10);
        assert!(to_timm(&architecture, &graph, &weights).is_none(), "timm names ResNets as torchvision does");
    }

    #[test]
    fn another_class_count_keeps_the_fresh_head_and_says_so() {
        for (name, layer) in
            [("resnet18", "fc"), ("mobilenet-v3-large", "classifier.3"), ("small-cnn-2", "fc")]
        {
            let (_, _, foreign) = network(name, 1000);
            let (architecture, graph, weights) = network(name, 10);
            let (adapted, report) = adapt(&architecture, &graph, foreign.clone(), &fresh(&weights)).unwrap();
            assert_eq!(adapted[&format!("{layer}.weight")], fresh(&weights)[&format!("{layer}.weight")]);
            assert_eq!(report.loaded, weights.len() - 2);
            let message = report.to_string();
            assert!(
                message.contains(&format!("head `{layer}`")) && message.contains("1000 classes in"),
                "{message}"
            );
            assert!(
                adapted.iter().filter(|(n, _)| !n.starts_with(layer)).all(|(n, array)| array == &foreign[n])
            );
        }
    }

    #[test]
    fn a_timm_head_of_other_classes_is_replaced_too() {
        let (architecture, large, weights) = network("efficientnet-b0", 1000);
        let timm = to_timm(&architecture, &large, &weights).unwrap();
        let (architecture, graph, weights) = network("efficientnet-b0", 10);
        let (_, report) = adapt(&architecture, &graph, timm, &fresh(&weights)).unwrap();
        let head = ReplacedHead { layer: "classifier.1".into(), found: 1000, expected: 10 };
        assert_eq!(report.replaced, Some(head));
    }

    #[test]
    fn what_does_not_fit_is_listed() {
        let (_, _, foreign) = network("resnet34", 10);
        let (architecture, graph, weights) = network("resnet18", 10);
        let misfit = adapt(&architecture, &graph, foreign, &fresh(&weights)).unwrap_err();
        assert!(misfit.missing.is_empty() && misfit.extra.contains(&"layer1.2.bn1.bias".to_string()));
        let (_, _, foreign) = network("resnet50", 10);
        let misfit = adapt(&architecture, &graph, foreign, &fresh(&weights)).unwrap_err();
        let fc = misfit.different.iter().find(|array| array.name == "fc.weight").unwrap();
        assert_eq!((&fc.expected, &fc.found), (&vec![10, 512], &vec![10, 2048]));
        let (_, _, mut foreign) = network("resnet18", 1000);
        foreign.insert("fc.weight".into(), Array::full([1000, 500], 0.0));
        assert!(adapt(&architecture, &graph, foreign, &fresh(&weights)).is_err(), "no head of other inputs");
    }
}

//! Laws over the whole registry, and the parameter counts that torchvision publishes.

use std::collections::HashSet;

use super::*;
use crate::{Op, Role, Shape, Stem};

/// Every name that a test of all architectures builds.
fn buildable() -> Vec<&'static str> {
    let fixed = REGISTRY.iter().filter(|entry| !entry.is_pattern()).map(|entry| entry.name);
    fixed.chain(EXAMPLES.iter().copied()).collect()
}

fn trainable(graph: &Graph) -> usize {
    graph.parameters().iter().filter(|p| p.role.trainable()).map(|p| p.elements()).sum()
}

#[test]
fn every_architecture_builds_at_every_size_with_both_stems() {
    for name in buildable() {
        for size in [32, 48, 96, 224] {
            for stem in [Stem::Imagenet, Stem::Small] {
                for channels in [1, 3] {
                    let graph = build(name, &Task::new(7, channels, size).with_stem(stem)).unwrap();
                    assert_laws(name, &graph, 7);
                }
            }
        }
    }
}

fn assert_laws(name: &str, graph: &Graph, classes: usize) {
    assert!(matches!(graph.nodes()[1].op, Op::Normalize { .. }), "{name}: normalization comes first");
    let shape = |output: &str| graph.node(graph.output(output).unwrap()).shape;
    assert_eq!(shape("logits"), Shape::Flat(classes), "{name}");
    assert!(matches!(shape("features"), Shape::Flat(_)), "{name}: features are a vector");
    for (id, node) in graph.iter() {
        assert!(
            node.inputs.iter().all(|input| input.index() < id.index()),
            "{name}: {} reads a later node",
            node.name
        );
    }
    let read: HashSet<_> = graph.nodes().iter().flat_map(|node| &node.inputs).collect();
    let unread: Vec<_> =
        graph.iter().filter(|(id, _)| !read.contains(id)).map(|(_, node)| &node.name).collect();
    let logits = &graph.node(graph.output("logits").unwrap()).name;
    assert_eq!(unread, [logits], "{name}: only the logits are read by nobody");
    let parameters = graph.parameters();
    let unique: HashSet<_> = parameters.iter().map(|p| &p.name).collect();
    assert_eq!(unique.len(), parameters.len(), "{name}: parameter names are unique");
}

#[test]
fn features_are_what_the_last_linear_layer_reads_before_dropout() {
    for name in buildable() {
        let graph = build(name, &Task::new(10, 3, 64)).unwrap();
        let logits = graph.node(graph.output("logits").unwrap());
        let mut read = logits.inputs[0];
        if let Op::Dropout(_) = graph.node(read).op {
            read = graph.node(read).inputs[0];
        }
        assert_eq!(read, graph.output("features").unwrap(), "{name}");
    }
}

#[test]
fn parameter_counts_are_the_published_ones() {
    let published = [
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("resnet152", 60_192_808),
        ("mobilenet-v3-small", 2_542_856),
        ("mobilenet-v3-large", 5_483_032),
        ("efficientnet-b0", 5_288_548),
        ("efficientnet-b1", 7_794_184),
        ("efficientnet-b5", 30_389_784),
    ];
    for (name, count) in published {
        assert_eq!(trainable(&build(name, &Task::new(1000, 3, 224)).unwrap()), count, "{name}");
        let small = Task::new(1000, 3, 64).with_stem(Stem::Small);
        assert_eq!(trainable(&build(name, &small).unwrap()), count, "{name}: the stem changes no weight");
    }
}

#[test]
fn wide_resnet_counts_are_worked_by_hand() {
    // WRN-28-2 without convolution biases has 1,467,610 parameters (the PyTorch ports); FixMatch's own has biases:
    // one value per output channel of the stem, 24 convolutions and 3 shortcuts.
    let biases = 16 + 8 * (32 + 64 + 128) + (32 + 64 + 128);
    assert_eq!(trainable(&build("wrn-28-2", &Task::new(10, 3, 32)).unwrap()), 1_467_610 + biases);
}

#[test]
fn small_cnns_have_the_papers_layers() {
    let graph = build("small-cnn-3", &Task::new(7, 1, 48)).unwrap();
    assert_eq!(graph.node(graph.output("features").unwrap()).shape, Shape::Flat(128));
    assert_eq!(
        graph.node(graph.find("pool3").unwrap()).shape,
        Shape::Map { channels: 128, height: 6, width: 6 }
    );
    let task = Task { features: Some(1024), ..Task::new(7, 1, 48) };
    let graph = build("small-cnn-3", &task).unwrap();
    assert_eq!(graph.node(graph.output("features").unwrap()).shape, Shape::Flat(1024));
    let graph = build("small-cnn-2", &Task::new(10, 3, 32)).unwrap();
    assert_eq!(graph.node(graph.output("features").unwrap()).shape, Shape::Flat(1024));
}

#[test]
fn the_first_wide_block_alone_activates_its_shortcut() {
    let graph = build("wrn-28-2", &Task::new(10, 3, 32)).unwrap();
    let reads = |node: &str| &graph.node(graph.node(graph.find(node).unwrap()).inputs[0]).name;
    assert_eq!(reads("group1.0.shortcut"), "group1.0.relu1");
    assert_eq!(reads("group2.0.shortcut"), "group1.3.add");
    assert!(graph.find("group1.1.shortcut").is_none());
}

#[test]
fn stochastic_depth_grows_to_the_end() {
    let graph = build("efficientnet-b0", &Task::new(10, 3, 64)).unwrap();
    let probability = |node: &crate::Node| match node.op {
        Op::StochasticDepth(p) => Some(p),
        _ => None,
    };
    let drops: Vec<f32> = graph.nodes().iter().filter_map(probability).collect();
    assert_eq!(drops.first(), Some(&0.025), "block 2 of 16");
    assert!(drops.windows(2).all(|pair| pair[0] < pair[1]));
}

#[test]
fn names_and_aliases_are_taken_once_and_found() {
    let mut taken = HashSet::new();
    for name in REGISTRY.iter().flat_map(|entry| [&[entry.name], entry.aliases].concat()) {
        assert!(taken.insert(name), "`{name}` is registered twice");
    }
    for (alias, name) in [
        ("effnet", "efficientnet-b0"),
        ("mobilenet", "mobilenet-v3-large"),
        ("resnet", "resnet18"),
        ("small-cnn", "small-cnn-3"),
        ("wrn-28-2", "wrn-28-2"),
    ] {
        assert_eq!(Architecture::find(alias).unwrap().name(), name);
    }
}

#[test]
fn an_unknown_name_gets_its_nearest_neighbor() {
    for (wrong, right) in
        [("resnet81", "resnet18"), ("mobilnet-v3-large", "mobilenet-v3-large"), ("wrn-28-z", "wrn-28-2")]
    {
        let message = Architecture::find(wrong).unwrap_err().to_string();
        assert!(message.contains(&format!("did you mean `{right}`")), "{message}");
    }
    let message = Architecture::find("banana").unwrap_err().to_string();
    assert!(!message.contains("did you mean") && message.contains("wrn-D-K"), "{message}");
    for wrong in [
        "wrn-27-2",
        "wrn-28-0",
        "wrn-4-2",
        "wrn-99999999999999999994-2",
        "wrn-028-2",
        "wrn-28-2-1",
        "wrn-D-K",
    ] {
        assert!(Architecture::find(wrong).is_err(), "{wrong}");
    }
    assert!(Architecture::find("wrn-45-2").unwrap_err().to_string().contains("6n + 4"));
}

#[test]
fn a_picture_too_small_is_an_error_that_names_the_node() {
    let message = build("small-cnn-3", &Task::new(10, 3, 7)).unwrap_err().to_string();
    assert!(
        message.contains("small-cnn-3") && message.contains("pool3") && message.contains("3 x 7 x 7"),
        "{message}"
    );
}

#[test]
fn biases_and_batch_norm_do_not_decay() {
    let graph = build("mobilenet-v3-small", &Task::new(10, 3, 64)).unwrap();
    for parameter in graph.parameters() {
        assert_eq!(parameter.role.decays(), parameter.role == Role::Weight, "{}", parameter.name);
    }
}

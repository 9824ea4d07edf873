//! Names, order and shapes of everything the zoo stores, against torchvision's and timm's own state dicts
//! (`fixtures/keys.json`, made by `fixtures/keys.py`).

use models::{Architecture, Graph, Task, Weights, file, formula, init};
use serde::Deserialize;

#[derive(Deserialize)]
struct Keys {
    network: String,
    library: String,
    count: usize,
    sha256: String,
    keys: Option<Vec<String>>,
}

fn keys_of(library: &str) -> Vec<Keys> {
    let all: Vec<Keys> =
        serde_json::from_str(include_str!("fixtures/keys.json")).expect("keys.json is what keys.py writes");
    let found: Vec<Keys> = all.into_iter().filter(|keys| keys.library == library).collect();
    assert_eq!(found.len(), 14);
    found
}

fn build(name: &str) -> (Architecture, Graph) {
    let architecture = Architecture::find(name).expect("registered");
    let graph = architecture.build(&Task::new(1000, 3, 64)).expect("64 px are enough");
    (architecture, graph)
}

fn line(name: &str, shape: &[usize]) -> String {
    let shape: Vec<String> = shape.iter().map(ToString::to_string).collect();
    format!("{name} {}", shape.join("x"))
}

fn assert_same(keys: &Keys, lines: &[String]) {
    if let Some(expected) = &keys.keys {
        for (ours, theirs) in lines.iter().zip(expected) {
            assert_eq!(ours, theirs, "{} of {}", keys.network, keys.library);
        }
    }
    assert_eq!(lines.len(), keys.count, "{} of {}", keys.network, keys.library);
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    assert_eq!(file::sha256(text.as_bytes()), keys.sha256, "{} of {}", keys.network, keys.library);
}

#[test]
fn parameters_are_torchvisions_in_its_order() {
    for keys in keys_of("torchvision") {
        let (_, graph) = build(&keys.network);
        let lines: Vec<String> = graph.parameters().iter().map(|p| line(&p.name, &p.shape)).collect();
        assert_same(&keys, &lines);
    }
}

#[test]
fn the_timm_tables_cover_timms_state_dicts() {
    for keys in keys_of("timm") {
        let (architecture, graph) = build(&keys.network);
        let weights: Weights = formula::weights(&graph, 1.0);
        let timm = init::to_timm(&architecture, &graph, &weights).unwrap_or(weights);
        let mut lines: Vec<String> = timm.iter().map(|(name, array)| line(name, &array.shape)).collect();
        lines.sort();
        assert_same(&keys, &lines);
    }
}

//! `distill models`: the registry of networks, and what one of them costs.

use models::zoo::{Architecture, REGISTRY};
use serde_json::json;

use crate::args::ModelsArgs;
use crate::failure::{Failure, Result};
use crate::print::{self, Table, thousands};
use crate::settings::stem;

/// Lists the networks, or describes one.
pub fn run(args: &ModelsArgs) -> Result {
    match &args.name {
        Some(name) => describe(name, args),
        None => list(args),
    }
}

fn list(args: &ModelsArgs) -> Result {
    if args.json {
        let entries = REGISTRY.iter().map(|entry| {
            json!({ "name": entry.name, "aliases": entry.aliases, "family": entry.family, "summary": entry.summary })
        });
        print::json(&entries.collect::<Vec<_>>());
        return Ok(());
    }
    for entry in REGISTRY {
        let aliases = if entry.aliases.is_empty() {
            String::new()
        } else {
            format!(" (also {})", entry.aliases.join(", "))
        };
        print::line(format!("{:<20} {}{aliases}", entry.name, entry.summary));
    }
    print::line("\nWhat one costs: distill models NAME --cost --image-size 32");
    Ok(())
}

fn describe(name: &str, args: &ModelsArgs) -> Result {
    let architecture = Architecture::find(name).map_err(Failure::mendable)?;
    let task = models::Task::new(args.classes, args.channels, args.image_size).with_stem(stem(&args.stem)?);
    let graph = architecture.build(&task).map_err(Failure::mendable)?;
    let cost = models::cost::total(&graph);
    if args.json {
        print::json(&json!({
            "name": architecture.name(), "task": task, "parameters": cost.parameters, "macs": cost.macs,
            "activation_bytes": cost.activation_bytes,
        }));
        return Ok(());
    }
    print::line(format!("{}: {}", architecture.name(), architecture.entry().summary));
    print::line(format!(
        "input              {} x {} px, {} channels, {} classes, stem {}",
        args.image_size, args.image_size, args.channels, args.classes, args.stem
    ));
    print::line(format!("parameters         {}", thousands(cost.parameters)));
    print::line(format!("multiply-adds      {}", thousands(cost.macs)));
    print::line(format!("activations        {} bytes a picture", thousands(cost.activation_bytes)));
    if args.cost {
        nodes(&graph);
    }
    Ok(())
}

fn nodes(graph: &models::Graph) {
    let mut table = Table::new(&["node", "operation", "shape", "parameters", "multiply-adds", "bytes"]);
    for (node, cost) in graph.nodes().iter().zip(models::cost::per_node(graph)) {
        table.row([
            node.name.clone(),
            node.op.kind().into(),
            node.shape.to_string(),
            thousands(cost.parameters),
            thousands(cost.macs),
            thousands(cost.activation_bytes),
        ]);
    }
    print::line("");
    table.print();
}

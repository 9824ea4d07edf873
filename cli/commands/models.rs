//! `distill models`: the registry of networks, and what one of them costs.

use engine::WeightFormat;
use engine::memory::{self, InferenceMemory, TrainingMemory};
use models::zoo::{Architecture, REGISTRY};
use serde_json::json;
use train::Config;
use train::recipe::Recipe;

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
    let batch = args.batch_size as usize;
    let memory = Memory::of(architecture.name(), &graph, batch)?;
    if args.json {
        print::json(&json!({
            "name": architecture.name(), "task": task, "parameters": cost.parameters, "macs": cost.macs,
            "activation_bytes": cost.activation_bytes, "memory_bytes": memory.json(batch),
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
        memory.print(batch);
        nodes(&graph);
    }
    Ok(())
}

/// What training and answering take.
struct Memory {
    optimizer: &'static str,
    /// With a moving average.
    training: TrainingMemory,
    answering: InferenceMemory,
}

impl Memory {
    /// By the optimizer that the network is trained with unless something else is asked for.
    fn of(name: &str, graph: &models::Graph, batch: usize) -> Result<Self> {
        let kind = Recipe::of(name).optimizer;
        let config = Config { optimizer: Some(kind), ..Config::default() };
        let training = memory::training(graph, batch, config.engine_optimizer(), true);
        Ok(Self {
            optimizer: kind.name(),
            training: training.map_err(Failure::broken)?,
            answering: memory::inference(graph, 1, WeightFormat::F32).map_err(Failure::broken)?,
        })
    }

    fn print(&self, batch: usize) {
        let Self { optimizer, training, answering } = self;
        let without = training.total() - training.average;
        let mut table = Table::new(&["memory", "MiB"]);
        let mut row = |name: String, bytes: u64| table.row([name, mebibytes(bytes)]);
        row("parameters".into(), training.parameters);
        row("running statistics, twice".into(), training.statistics);
        row("gradient".into(), training.gradient);
        row(format!("moments of {optimizer}"), training.moments);
        row(format!("activations and their gradients, batch {batch}"), training.arena);
        row("training in all".into(), without);
        row("and a moving average (--ema)".into(), training.average);
        row("answering: folded weights".into(), answering.weights);
        row("answering: activations, one picture".into(), answering.arena);
        row("answering in all".into(), answering.total());
        print::line("");
        table.print();
        print::line("Not counted: data, loss, kernels' working memory, a method's second networks.");
    }

    fn json(&self, batch: usize) -> serde_json::Value {
        let Self { optimizer, training, answering } = self;
        json!({
            "training": {
                "batch_size": batch, "optimizer": optimizer, "parameters": training.parameters,
                "statistics": training.statistics, "gradient": training.gradient, "moments": training.moments,
                "arena": training.arena, "total": training.total() - training.average,
                "moving_average": training.average,
            },
            "inference": {
                "batch_size": 1, "weights": answering.weights, "arena": answering.arena,
                "total": answering.total(),
            },
        })
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.2}", bytes as f64 / f64::from(1 << 20))
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

//! `--profile`: where time went, as tables and as JSON, beside what this machine can do at most.

use std::path::{Path, PathBuf};

use engine::limits::Limits;
use engine::{Device, NodeProfile, Pass, Profile, Runtime};
use models::Shape;
use serde_json::{Value, json};
use train::TrainingProfile;

use crate::failure::{Failure, Result};
use crate::print::{self, Table, thousands};

/// What was asked for by `--profile` or `--profile=FILE`.
pub struct Request {
    file: Option<PathBuf>,
}

/// A network whose time was taken.
pub struct Section {
    /// The stage of a training, or the model's name.
    name: String,
    title: String,
    threads: usize,
    /// Steps of training, or answers.
    turns: u64,
    /// What a turn is called.
    turn: &'static str,
    /// Shares of the time by name, where more than the network was measured: names and seconds.
    parts: Vec<(&'static str, f64)>,
    profile: Profile,
}

/// A line of a table: a node, or all of a kind.
struct Row {
    name: String,
    operation: String,
    shapes: String,
    nodes: usize,
    forward: Pass,
    backward: Pass,
    /// Seconds that cannot be beaten.
    least: f64,
}

impl Request {
    /// The request, if there is one; its file has to be one that can be written.
    pub fn of(flag: &Option<Option<PathBuf>>) -> Result<Option<Self>> {
        let Some(file) = flag.clone() else { return Ok(None) };
        if let Some(file) = &file {
            let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
            if file.is_dir() || folder.is_some_and(|folder| !folder.is_dir()) {
                return Err(Failure::mendable(format!(
                    "--profile={}: expected a file in a folder that is there",
                    file.display()
                )));
            }
        }
        Ok(Some(Self { file }))
    }

    /// Prints tables, and writes the file if one was named.
    pub fn show(&self, sections: impl IntoIterator<Item = Section>) -> Result {
        let sections: Vec<Section> = sections.into_iter().collect();
        let limits = limits(&sections)?;
        for section in &sections {
            section.print(&limits);
        }
        match sections.is_empty() {
            true => print::note("--profile: no node was timed"),
            false => explain(&limits),
        }
        self.write(&whole(&sections, &limits))
    }

    /// The same as JSON, written to the file too if one was named.
    pub fn json(&self, sections: impl IntoIterator<Item = Section>) -> Result<Value> {
        let sections: Vec<Section> = sections.into_iter().collect();
        let value = whole(&sections, &limits(&sections)?);
        self.write(&value)?;
        Ok(value)
    }

    fn write(&self, value: &Value) -> Result {
        let Some(file) = &self.file else { return Ok(()) };
        let text = serde_json::to_string_pretty(value).map_err(Failure::broken)?;
        let wrong = |error| Failure::mendable(format!("--profile={}: {error}", file.display()));
        train::folder::write_atomically(Path::new(file), text.as_bytes()).map_err(wrong)
    }
}

impl Section {
    /// Of a training and its stage.
    pub fn of_training((stage, training): &(String, TrainingProfile)) -> Self {
        let TrainingProfile { arch, threads, steps, pictures, seconds, .. } = training;
        let [forward, backward] = training.network.seconds();
        let turns = (*steps).max(1);
        let mut parts = vec![
            ("network, forward", forward),
            ("network, backward", backward),
            ("update", training.update),
            ("waiting for data", training.waiting),
            ("loss and all else", training.rest()),
        ];
        if training.average > 0.0 {
            parts.insert(2, ("moving average, forward", training.average));
        }
        Self {
            name: stage.clone(),
            title: format!(
                "{stage}: {arch}, {} steps of {} pictures, {:.2} ms a step",
                thousands(*steps),
                pictures / turns,
                seconds * 1e3 / turns as f64
            ),
            threads: *threads,
            turns,
            turn: "step",
            parts,
            profile: training.network.clone(),
        }
    }

    /// Of a network that answers.
    pub fn of_answers(name: &str, threads: usize, profile: Profile) -> Self {
        let turns = profile.nodes.first().map_or(0, |node| node.forward.calls);
        let [seconds, _] = profile.seconds();
        let each = seconds * 1e3 / turns.max(1) as f64;
        let title = format!("{name}: {} answers, {each:.3} ms each within the nodes", thousands(turns));
        Self {
            name: name.into(),
            title,
            threads,
            turns: turns.max(1),
            turn: "answer",
            parts: Vec::new(),
            profile,
        }
    }

    fn rows(&self, limits: &Limits) -> Vec<Row> {
        let weights = self.profile.weight_bytes();
        let mut rows: Vec<Row> =
            self.profile.nodes.iter().map(|node| Row::of(node, limits, weights)).collect();
        rows.sort_by(|a, b| b.seconds().total_cmp(&a.seconds()));
        rows
    }

    fn print(&self, limits: &Limits) {
        print::line(format!("\n{}, {}", self.title, threads(self.threads)));
        if !self.parts.is_empty() {
            print::line("");
            self.parts().print();
        }
        let rows = self.rows(limits);
        let total: f64 = rows.iter().map(Row::seconds).sum();
        print::line("");
        self.table("node", &rows, total).print();
        print::line("");
        self.table("kind", &by_kind(&rows), total).print();
    }

    /// Shares of the whole time.
    fn parts(&self) -> Table {
        let whole: f64 = self.parts.iter().map(|(_, seconds)| seconds).sum();
        let mut table = Table::new(&["part of a step", "ms", "share"]);
        for (name, seconds) in &self.parts {
            let share = percent(*seconds, whole);
            table.row([(*name).into(), self.milliseconds(*seconds), share]);
        }
        table
    }

    fn table(&self, first: &str, rows: &[Row], total: f64) -> Table {
        let trains = rows.iter().any(|row| row.backward.calls > 0);
        let kinds = first == "kind";
        let mut header = vec![first];
        header.extend(if kinds { &["nodes"][..] } else { &["operation", "in -> out"] });
        header.push(if trains { "forward ms" } else { "ms" });
        header.extend(trains.then_some("backward ms"));
        header.extend(["share", "GFLOP/s", "GB/s", "of limit"]);
        let mut table = Table::new(&header).with_texts(if kinds { 1 } else { 3 });
        for row in rows {
            let mut cells = vec![row.name.clone()];
            match kinds {
                true => cells.push(row.nodes.to_string()),
                false => cells.extend([row.operation.clone(), row.shapes.clone()]),
            }
            cells.push(self.milliseconds(row.forward.seconds));
            cells.extend(trains.then(|| self.milliseconds(row.backward.seconds)));
            cells.push(percent(row.seconds(), total));
            cells.push(giga(row.flops(), row.seconds()));
            cells.push(giga(row.bytes(), row.seconds()));
            cells.push(percent(row.least, row.seconds()));
            table.row(cells);
        }
        table
    }

    /// Of a step or an answer.
    fn milliseconds(&self, seconds: f64) -> String {
        format!("{:.3}", seconds * 1e3 / self.turns as f64)
    }

    fn json(&self, limits: &Limits) -> Value {
        let weights = self.profile.weight_bytes();
        let parts: serde_json::Map<String, Value> =
            self.parts.iter().map(|(name, seconds)| ((*name).into(), json!(seconds))).collect();
        json!({
            "name": self.name,
            "title": self.title,
            "threads": self.threads,
            "turn": self.turn,
            "turns": self.turns,
            "parts_seconds": parts,
            "nodes": self.profile.nodes.iter().map(|node| node_json(node, limits, weights)).collect::<Vec<_>>(),
        })
    }
}

impl Row {
    fn of(node: &NodeProfile, limits: &Limits, all_weights: f64) -> Self {
        let operation: Vec<&str> = std::iter::once(node.kind).chain(node.fused.iter().copied()).collect();
        Self {
            name: node.name.clone(),
            operation: operation.join(" + "),
            shapes: format!("{} -> {}", shape(node.input), shape(node.output)),
            nodes: 1,
            forward: node.forward,
            backward: node.backward,
            least: [node.forward, node.backward]
                .iter()
                .map(|pass| pass.least_seconds(limits, all_weights))
                .sum(),
        }
    }

    /// A sum of nothing yet.
    fn sum_of(name: &str) -> Self {
        let (forward, backward) = (Pass::default(), Pass::default());
        let (operation, shapes) = (String::new(), String::new());
        Self { name: name.into(), operation, shapes, nodes: 0, forward, backward, least: 0.0 }
    }

    fn add(&mut self, other: &Row) {
        self.nodes += other.nodes;
        self.least += other.least;
        self.forward += other.forward;
        self.backward += other.backward;
    }

    fn seconds(&self) -> f64 {
        self.forward.seconds + self.backward.seconds
    }

    fn flops(&self) -> f64 {
        self.forward.flops + self.backward.flops
    }

    fn bytes(&self) -> f64 {
        self.forward.bytes() + self.backward.bytes()
    }
}

/// Sums over the rows whose operations begin alike, and over all.
fn by_kind(rows: &[Row]) -> Vec<Row> {
    let mut kinds: Vec<Row> = Vec::new();
    for row in rows {
        let kind = row.operation.split(" + ").next().unwrap_or_default();
        let found = kinds.iter().position(|known| known.name == kind);
        let index = found.unwrap_or_else(|| {
            kinds.push(Row::sum_of(kind));
            kinds.len() - 1
        });
        kinds[index].add(row);
    }
    kinds.sort_by(|a, b| b.seconds().total_cmp(&a.seconds()));
    let mut all = Row::sum_of("all");
    rows.iter().for_each(|row| all.add(row));
    kinds.push(all);
    kinds
}

/// What the machine can do at most with the threads of the sections.
fn limits(sections: &[Section]) -> Result<Limits> {
    let threads = sections.first().map_or(1, |section| section.threads);
    Ok(Limits::measure(&Runtime::new(Device::Cpu, threads).map_err(Failure::broken)?))
}

fn explain(limits: &Limits) {
    let rates: Vec<String> = [32usize << 10, 1 << 20, 16 << 20, 64 << 20]
        .iter()
        .map(|&bytes| {
            format!("{:.0} GB/s from {} KiB", limits.read_bandwidth(bytes as f64) / 1e9, bytes >> 10)
        })
        .collect();
    print::line(format!(
        "\nThis machine's limits now, {}: {:.0} GFLOP/s; reads {}.",
        threads(limits.threads),
        limits.flops / 1e9,
        rates.join(", ")
    ));
    print::line(
        "of limit: the time that arithmetic or memory asks for at least, whichever is longer, over the time taken. \
         Operations\nand bytes are those of the definition: Winograd multiplies less and may go beyond 100 %.",
    );
}

fn whole(sections: &[Section], limits: &Limits) -> Value {
    let reads: Vec<Value> = limits
        .reads
        .iter()
        .map(|read| json!({ "bytes": read.bytes, "bytes_per_second": read.rate }))
        .collect();
    json!({
        "limits": { "threads": limits.threads, "flops_per_second": limits.flops, "reads": reads },
        "networks": sections.iter().map(|section| section.json(limits)).collect::<Vec<_>>(),
    })
}

fn node_json(node: &NodeProfile, limits: &Limits, all_weights: f64) -> Value {
    let pass = |pass: &Pass| {
        json!({
            "calls": pass.calls,
            "pictures": pass.pictures,
            "seconds": pass.seconds,
            "flops": pass.flops,
            "weight_bytes": pass.weight_bytes,
            "read_bytes": pass.read_bytes,
            "written_bytes": pass.written_bytes,
            "least_seconds": pass.least_seconds(limits, all_weights),
        })
    };
    json!({
        "name": node.name,
        "kind": node.kind,
        "fused": node.fused,
        "input": sides(node.input),
        "output": sides(node.output),
        "forward": pass(&node.forward),
        "backward": (node.backward.calls > 0).then(|| pass(&node.backward)),
    })
}

fn sides(shape: Shape) -> Vec<usize> {
    match shape {
        Shape::Map { channels, height, width } => vec![channels, height, width],
        Shape::Flat(length) => vec![length],
    }
}

/// `16x8x8`
fn shape(shape: Shape) -> String {
    sides(shape).iter().map(usize::to_string).collect::<Vec<_>>().join("x")
}

fn threads(count: usize) -> String {
    if count == 1 { "1 thread".into() } else { format!("{count} threads") }
}

fn percent(part: f64, whole: f64) -> String {
    if whole > 0.0 { format!("{:.1} %", part / whole * 100.0) } else { "-".into() }
}

/// Billions a second; `-` for none at all.
fn giga(amount: f64, seconds: f64) -> String {
    if amount > 0.0 && seconds > 0.0 { format!("{:.1}", amount / seconds / 1e9) } else { "-".into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, kind: &'static str, seconds: f64) -> NodeProfile {
        let forward = Pass { calls: 2, seconds, flops: 4e6, read_bytes: 1e6, ..Pass::default() };
        let (input, output) = (Shape::Flat(3), Shape::Flat(2));
        NodeProfile {
            name: name.into(),
            kind,
            fused: vec!["activation"],
            input,
            output,
            forward,
            backward: Pass::default(),
        }
    }

    #[test]
    fn the_slowest_comes_first_and_kinds_are_summed() {
        let nodes = vec![node("a", "conv", 0.002), node("b", "norm", 0.001), node("c", "conv", 0.004)];
        let section = Section::of_answers("net", 1, Profile { nodes });
        let limits = Limits { threads: 1, flops: 4e9, reads: Vec::new() };
        let rows = section.rows(&limits);
        let lines = section.table("node", &rows, 0.007).lines();
        assert!(lines[0].starts_with("node") && lines[0].contains("operation"), "{lines:?}");
        assert!(lines[1].starts_with("c") && lines[1].contains("conv + activation"), "{lines:?}");
        assert!(lines[1].contains("3 -> 2") && lines[1].contains("57.1 %"), "{lines:?}");
        assert!(lines[1].ends_with("25.0 %"), "4e6 operations at 4e9 a second in 4 ms: {lines:?}");
        let kinds = section.table("kind", &by_kind(&rows), 0.007).lines();
        let cells: Vec<&str> = kinds[1].split_whitespace().collect();
        assert_eq!(cells[..4], ["conv", "2", "3.000", "85.7"], "{kinds:?}");
    }

    #[test]
    fn a_file_in_a_folder_that_is_not_there_is_refused_before_the_run() {
        let missing = PathBuf::from("no-such-folder/profile.json");
        let failure = Request::of(&Some(Some(missing))).err().unwrap();
        assert!(failure.message.contains("no-such-folder/profile.json"), "{}", failure.message);
        assert!(Request::of(&None).unwrap().is_none());
        assert!(Request::of(&Some(None)).unwrap().is_some_and(|request| request.file.is_none()));
    }
}

//! The zoo: one file per family, and one line of [`REGISTRY`] per architecture, from which help, docs, suggestions and
//! tests come. A new architecture is a file and a line.
//!
//! Names, shapes, initialization, dropout and batch norm are torchvision's wherever torchvision has the network.

mod blocks;
pub mod efficientnet;
pub mod mobilenet_v3;
pub mod resnet;
pub mod small_cnn;
pub mod wide_resnet;

use efficientnet::Scale;
use resnet::Block;

use crate::nearest::suggestion;
use crate::{Graph, GraphError, Task};

/// How an entry makes its graph.
#[derive(Clone, Copy)]
pub enum Build {
    /// One network.
    Fixed(fn(&Task) -> Result<Graph, GraphError>),
    /// A network for every choice of the numbers that stand where the entry's name has single capital letters.
    Pattern {
        /// Whether the numbers make a network; else what was expected.
        check: fn(&[usize]) -> Result<(), String>,
        /// Builds with numbers that passed the check.
        build: fn(&[usize], &Task) -> Result<Graph, GraphError>,
    },
}

/// Pairs (our module's name, the other library's) of one architecture's graph.
pub type ModuleNames = fn(&Graph) -> Vec<(String, String)>;

/// A line of the registry.
pub struct Entry {
    /// The name that runs, files and tables carry; `wrn-D-K` for a pattern.
    pub name: &'static str,
    /// Other names for it.
    pub aliases: &'static [&'static str],
    /// The family, as a reader would call it.
    pub family: &'static str,
    /// What it is, in a line.
    pub summary: &'static str,
    /// Side in pixels of the square pictures it was designed for.
    pub image_size: usize,
    /// Its graph.
    pub build: Build,
    /// timm's names for its modules, where timm has it under others than torchvision's.
    pub timm: Option<ModuleNames>,
}

const fn entry(
    name: &'static str,
    aliases: &'static [&'static str],
    family: &'static str,
    image_size: usize,
    summary: &'static str,
    build: Build,
) -> Entry {
    Entry { name, aliases, family, summary, image_size, build, timm: None }
}

impl Entry {
    const fn timm(mut self, names: ModuleNames) -> Self {
        self.timm = Some(names);
        self
    }
}

const B0: Scale = Scale::new(1.0, 1.0, 0.2);
const B1: Scale = Scale::new(1.0, 1.1, 0.2);
const B2: Scale = Scale::new(1.1, 1.2, 0.3);
const B3: Scale = Scale::new(1.2, 1.4, 0.3);
const B4: Scale = Scale::new(1.4, 1.8, 0.4);
const B5: Scale = Scale::new(1.6, 2.2, 0.4).tensorflow_norm();
const B6: Scale = Scale::new(1.8, 2.6, 0.5).tensorflow_norm();
const B7: Scale = Scale::new(2.0, 3.1, 0.5).tensorflow_norm();

use Build::Fixed;
const SMALL_CNN: &str = "small CNN";
const RESNET: &str = "ResNet";
const MOBILENET: &str = "MobileNetV3";
const EFFICIENTNET: &str = "EfficientNet";
const WIDE_RESNET: &str = "Wide ResNet";

/// Every architecture, from small to large within its family.
#[rustfmt::skip] // one architecture, one line
pub static REGISTRY: &[Entry] = &[
    entry("small-cnn-2", &[], SMALL_CNN, 32, "two convolutions of 32 and 64 channels, 1024 features", Fixed(|task| small_cnn::build(task, &[32, 64], 1024))),
    entry("small-cnn-3", &["small-cnn"], SMALL_CNN, 48, "three convolutions of 32, 64 and 128 channels, 128 features", Fixed(|task| small_cnn::build(task, &[32, 64, 128], 128))),
    entry("resnet18", &["resnet"], RESNET, 224, "8 basic blocks", Fixed(|task| resnet::build(task, Block::Basic, [2, 2, 2, 2]))),
    entry("resnet34", &[], RESNET, 224, "16 basic blocks", Fixed(|task| resnet::build(task, Block::Basic, [3, 4, 6, 3]))),
    entry("resnet50", &[], RESNET, 224, "16 bottleneck blocks", Fixed(|task| resnet::build(task, Block::Bottleneck, [3, 4, 6, 3]))),
    entry("resnet152", &[], RESNET, 224, "50 bottleneck blocks", Fixed(|task| resnet::build(task, Block::Bottleneck, [3, 8, 36, 3]))),
    entry("mobilenet-v3-small", &[], MOBILENET, 224, "11 inverted residuals, for the smallest devices", Fixed(|task| mobilenet_v3::build(task, &mobilenet_v3::SMALL))).timm(|graph| mobilenet_v3::timm_names(graph, &mobilenet_v3::SMALL)),
    entry("mobilenet-v3-large", &["mobilenet"], MOBILENET, 224, "15 inverted residuals, made for phones", Fixed(|task| mobilenet_v3::build(task, &mobilenet_v3::LARGE))).timm(|graph| mobilenet_v3::timm_names(graph, &mobilenet_v3::LARGE)),
    entry("efficientnet-b0", &["effnet"], EFFICIENTNET, 224, "the base of the family: 16 gated inverted residuals", Fixed(|task| efficientnet::build(task, B0))).timm(|graph| efficientnet::timm_names(graph, B0)),
    entry("efficientnet-b1", &[], EFFICIENTNET, 240, "b0 1.1 times as deep", Fixed(|task| efficientnet::build(task, B1))).timm(|graph| efficientnet::timm_names(graph, B1)),
    entry("efficientnet-b2", &[], EFFICIENTNET, 260, "b0 1.1 times as wide, 1.2 as deep", Fixed(|task| efficientnet::build(task, B2))).timm(|graph| efficientnet::timm_names(graph, B2)),
    entry("efficientnet-b3", &[], EFFICIENTNET, 300, "b0 1.2 times as wide, 1.4 as deep", Fixed(|task| efficientnet::build(task, B3))).timm(|graph| efficientnet::timm_names(graph, B3)),
    entry("efficientnet-b4", &[], EFFICIENTNET, 380, "b0 1.4 times as wide, 1.8 as deep", Fixed(|task| efficientnet::build(task, B4))).timm(|graph| efficientnet::timm_names(graph, B4)),
    entry("efficientnet-b5", &[], EFFICIENTNET, 456, "b0 1.6 times as wide, 2.2 as deep", Fixed(|task| efficientnet::build(task, B5))).timm(|graph| efficientnet::timm_names(graph, B5)),
    entry("efficientnet-b6", &[], EFFICIENTNET, 528, "b0 1.8 times as wide, 2.6 as deep", Fixed(|task| efficientnet::build(task, B6))).timm(|graph| efficientnet::timm_names(graph, B6)),
    entry("efficientnet-b7", &[], EFFICIENTNET, 600, "b0 twice as wide, 3.1 times as deep", Fixed(|task| efficientnet::build(task, B7))).timm(|graph| efficientnet::timm_names(graph, B7)),
    entry("wrn-D-K", &[], WIDE_RESNET, 32, "FixMatch's, depth D = 6n + 4, K times as wide (wrn-28-2)", Build::Pattern { check: wide_resnet::check, build: |numbers, task| wide_resnet::build(task, numbers[0], numbers[1]) }),
];

/// Names that help and suggestions offer where a pattern stands in the registry.
const EXAMPLES: &[&str] = &["wrn-28-2", "wrn-16-4", "wrn-28-8", "wrn-40-2"];

/// Why an architecture was not to be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ZooError {
    /// A name that is not registered.
    #[error("no architecture `{name}`{suggestion}; known: {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// `; did you mean ...?`, or nothing.
        suggestion: String,
        /// All registered names and aliases.
        known: String,
    },
    /// Numbers in a name that make no network.
    #[error("architecture `{name}`: expected {expected}")]
    Numbers {
        /// What was asked for.
        name: String,
        /// What its numbers have to be.
        expected: String,
    },
    /// A graph that cannot be built for the task.
    #[error("architecture `{name}` on {channels} x {height} x {width}: {source}")]
    Graph {
        /// The architecture.
        name: String,
        /// The picture's channels.
        channels: usize,
        /// The picture's height.
        height: usize,
        /// The picture's width.
        width: usize,
        /// The node at fault.
        source: Box<GraphError>,
    },
}

/// An architecture that was asked for by name and exists.
#[derive(Clone)]
pub struct Architecture {
    name: String,
    entry: &'static Entry,
    numbers: Vec<usize>,
}

impl Architecture {
    /// The architecture of this name or alias.
    ///
    /// # Errors
    /// [`ZooError::Unknown`] with the nearest name; [`ZooError::Numbers`] for a `wrn-D-K` that is none.
    pub fn find(name: &str) -> Result<Self, ZooError> {
        let named = |entry: &&Entry| entry.name == name || entry.aliases.contains(&name);
        if let Some(entry) = REGISTRY.iter().filter(|entry| !entry.is_pattern()).find(named) {
            return Ok(Self { name: entry.name.into(), entry, numbers: Vec::new() });
        }
        for entry in REGISTRY {
            let Build::Pattern { check, .. } = entry.build else { continue };
            let Some(numbers) = numbers_of(entry.name, name) else { continue };
            check(&numbers).map_err(|expected| ZooError::Numbers { name: name.into(), expected })?;
            return Ok(Self { name: name.into(), entry, numbers });
        }
        Err(unknown(name))
    }

    /// The registered name: an alias has been resolved.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its line in the registry.
    pub fn entry(&self) -> &'static Entry {
        self.entry
    }

    /// Its graph for `task`: normalization first, outputs `logits` and `features` (the vector that the last linear
    /// layer reads, before dropout).
    ///
    /// # Errors
    /// [`ZooError::Graph`], naming the node, for pictures too small to reach the end.
    pub fn build(&self, task: &Task) -> Result<Graph, ZooError> {
        let graph = match self.entry.build {
            Build::Fixed(build) => build(task),
            Build::Pattern { build, .. } => build(&self.numbers, task),
        };
        graph.map_err(|source| ZooError::Graph {
            name: self.name.clone(),
            channels: task.channels,
            height: task.height,
            width: task.width,
            source: Box::new(source),
        })
    }
}

impl std::fmt::Debug for Architecture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Architecture").field(&self.name).finish()
    }
}

impl Entry {
    /// Whether the name holds letters that stand for numbers.
    pub fn is_pattern(&self) -> bool {
        matches!(self.build, Build::Pattern { .. })
    }
}

/// The graph of an architecture by name or alias.
///
/// # Errors
/// Those of [`Architecture::find`] and [`Architecture::build`].
pub fn build(name: &str, task: &Task) -> Result<Graph, ZooError> {
    Architecture::find(name)?.build(task)
}

/// Every name that can be asked for, aliases included, examples in place of patterns.
pub fn names() -> impl Iterator<Item = &'static str> {
    let fixed = REGISTRY.iter().filter(|entry| !entry.is_pattern());
    let fixed = fixed.flat_map(|entry| std::iter::once(entry.name).chain(entry.aliases.iter().copied()));
    fixed.chain(EXAMPLES.iter().copied())
}

fn unknown(name: &str) -> ZooError {
    let known: Vec<&str> =
        REGISTRY.iter().flat_map(|entry| [&[entry.name], entry.aliases].concat()).collect();
    ZooError::Unknown { name: name.into(), suggestion: suggestion(name, names()), known: known.join(", ") }
}

/// The numbers of `name` where `pattern` has single capital letters, if all else agrees.
fn numbers_of(pattern: &str, name: &str) -> Option<Vec<usize>> {
    if pattern.split('-').count() != name.split('-').count() {
        return None;
    }
    let mut numbers = Vec::new();
    for (expected, found) in pattern.split('-').zip(name.split('-')) {
        match expected {
            "D" | "K" => numbers.push(parse_plain(found)?),
            _ if expected == found => {}
            _ => return None,
        }
    }
    Some(numbers)
}

/// Digits without sign or leading zero, so that a network has one name.
fn parse_plain(text: &str) -> Option<usize> {
    let plain = !text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests;

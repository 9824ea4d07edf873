//! What the bench asks of this program: accuracies on a data set, files of networks that were never saved, the command
//! line, and somebody to tell how far it is. Never a figure of its own.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use ::data::{Dataset, OpenOptions, Selection};
use ::export::quantize::{self, Calibration, Pictures};
use ::export::{ExportError, Format, export_network};
use models::{Granularity, Manifest, Weights};
use serve::bench::{Artefact, Host, MadeBy, Share, Variant};
use serve::{Card, Engine};
use tempfile::TempDir;
use train::evaluate_with;

use crate::args::BenchArgs;
use crate::failure::{Failure, Result};
use crate::print;

/// Procedural pictures that ranges of random weights come from, and that the quantized network is tried on.
const CALIBRATION: [usize; 2] = [32, 8];

/// This program, to the bench.
pub struct BenchHost {
    data: Option<String>,
    data_dir: PathBuf,
    ort_lib: Option<PathBuf>,
    /// What the rows run.
    artefacts: Vec<Artefact>,
    /// Data sets by what networks take of them.
    opened: HashMap<Taken, std::result::Result<Dataset, String>>,
    /// Where networks without a file are written; gone with this.
    folder: TempDir,
    written: usize,
    began: u64,
}

/// What a network takes of a data set: side, channels, fit, and the seed of a test part that is split off.
type Taken = (usize, usize, &'static str, u64);

impl BenchHost {
    /// For these flags and rows.
    pub fn new(args: &BenchArgs, rows: &[Variant]) -> Result<Self> {
        let began = SystemTime::now().duration_since(UNIX_EPOCH);
        Ok(Self {
            data: args.data.clone(),
            data_dir: args.data_dir.clone(),
            ort_lib: args.engine.ort_lib.clone(),
            artefacts: rows.iter().map(|row| row.entry().artefact).collect(),
            opened: HashMap::new(),
            folder: TempDir::new().map_err(Failure::mendable)?,
            written: 0,
            began: began.map_or(0, |time| time.as_secs()),
        })
    }

    fn dataset(&mut self, source: &str, card: &Card, seed: u64) -> std::result::Result<&Dataset, String> {
        let options = OpenOptions {
            data_dir: self.data_dir.clone(),
            image_size: Some(card.height),
            channels: Some(card.channels),
            fit: card.fit,
            seed,
            ..OpenOptions::default()
        };
        let taken = (card.height, card.channels, card.fit.name(), seed);
        let open = || ::data::open(source, &options).map_err(|error| error.to_string());
        self.opened.entry(taken).or_insert_with(open).as_ref().map_err(Clone::clone)
    }

    fn judged(
        &mut self,
        source: &str,
        card: &Card,
        seed: u64,
        engine: &mut dyn Engine,
    ) -> std::result::Result<Share, String> {
        if card.width != card.height {
            return Err(format!("data sets are read as squares, found {}x{}", card.height, card.width));
        }
        let dataset = self.dataset(source, card, seed)?;
        if dataset.classes != card.labels {
            let [expected, found] = [&card.labels, &dataset.classes].map(|names| names.join(", "));
            return Err(format!("{source}: expected the network's classes [{expected}], found [{found}]"));
        }
        let pictures = Selection::labeled(&dataset.test, dataset.shape);
        if pictures.is_empty() {
            return Err(format!("{source} has no labeled test part"));
        }
        let answer = |batch: &[u8]| engine.run(batch).map(<[f32]>::to_vec);
        let found = evaluate_with(&pictures, card.labels.len(), answer).map_err(|error| error.to_string())?;
        Ok(Share { top1: found.accuracy, count: found.pictures, pictures: format!("test part of {source}") })
    }
}

impl Host for BenchHost {
    fn phase(&mut self, what: &str) {
        print::note(format!("measuring: {what}"));
    }

    fn accuracy(
        &mut self,
        card: &Card,
        seed: u64,
        engine: &mut dyn Engine,
    ) -> Option<std::result::Result<Share, String>> {
        let source = self.data.clone()?;
        Some(self.judged(&source, card, seed, engine))
    }

    fn write_files(
        &mut self,
        manifest: &Manifest,
        weights: &Weights,
    ) -> std::result::Result<PathBuf, String> {
        self.written += 1;
        let folder = self.folder.path().join(format!("{}-{}", manifest.architecture, self.written));
        std::fs::create_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        models::save(&folder.join("model.safetensors"), manifest, weights)
            .map_err(|error| error.to_string())?;
        if self.artefacts.contains(&Artefact::Onnx) {
            print::note(format!("exporting {} at random weights", manifest.architecture));
            self.export(manifest, weights, &folder);
        }
        if self.artefacts.contains(&Artefact::OnnxInt8) {
            print::note(format!("quantizing {} at random weights", manifest.architecture));
            if let Err(error) = self.quantize(manifest, &folder) {
                print::note(format!("warning: no int8 file of {}: {error}", manifest.architecture));
            }
        }
        Ok(folder)
    }

    fn made_by(&self) -> MadeBy {
        MadeBy {
            version: env!("CARGO_PKG_VERSION").into(),
            commit: option_env!("DISTILL_COMMIT").map(Into::into),
            command: std::env::args().collect(),
            unix_time: self.began,
            ..MadeBy::default()
        }
    }
}

impl BenchHost {
    /// Writes the exported files; one that cannot be written is a row that says so.
    fn export(&self, manifest: &Manifest, weights: &Weights, folder: &Path) {
        let options =
            ::export::Options { ort_lib: self.ort_lib.clone(), ..::export::Options::new(Format::Onnx) };
        if let Err(error) = export_network(manifest, weights, &folder.join("model.onnx"), &options) {
            print::note(format!("warning: no ONNX file of {}: {error}", manifest.architecture));
        }
    }

    /// Writes the quantized file. Random weights have no accuracy to lose, and how fast they answer is what the rows show:
    /// so one way is tried, and the gate refuses nothing.
    fn quantize(&self, manifest: &Manifest, folder: &Path) -> std::result::Result<(), ExportError> {
        let options = quantize::Options {
            calibrations: vec![Calibration::MinMax],
            granularities: vec![Granularity::PerChannel],
            force: true,
            samples: 1,
            ort_lib: self.ort_lib.clone(),
            ..quantize::Options::default()
        };
        let pictures = Pictures::procedural(manifest.graph()?.input_shape(), CALIBRATION);
        quantize::export(folder, None, &pictures, &options).map(drop)
    }
}

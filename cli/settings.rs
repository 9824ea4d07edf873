//! Flags that training and distillation share. Each is a key of the run's `config.toml` by another spelling: flags are
//! laid over the file that `--config` names, and the library resolves what neither says.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::failure::{Failure, Result};

/// Settings of a training, as flags; what is not given is left to `--config` and then to the defaults.
#[derive(Clone, Debug, Default, Args, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Settings {
    /// Pictures: synth (built in), cifar10, cifar100, stl10, ferplus, mnist, fashion-mnist, a folder of class folders,
    /// or a Hugging Face image parquet (file or folder); default synth
    #[arg(long, value_name = "SOURCE", help_heading = "Data")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// Folder in which data sets are sought by name; default data
    #[arg(long, value_name = "DIR", help_heading = "Data")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_dir: Option<PathBuf>,
    /// Labels to train on: a count (250, as balanced as the classes allow), a share (10%, stratified), a count for each
    /// class (25/class), or all; default all, for synth 250
    #[arg(long, value_name = "N|N%|N/class|all", help_heading = "Data")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<String>,
    /// Pictures held out to select the model, in addition to --labels: a count, a share, or none (the last step is
    /// kept); default 10%, or the source's own validation part
    #[arg(long, value_name = "N|N%|none", help_heading = "Data")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val: Option<String>,
    /// Side of the pictures in pixels; default the pictures' own if all are alike and at most 96, else 224
    #[arg(long, value_name = "PX", help_heading = "Data")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_size: Option<usize>,
    /// How a picture comes to size: stretch, or crop (the middle square); default stretch
    #[arg(long, value_name = "FIT", help_heading = "Data")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fit: Option<String>,
    /// Stop at a broken picture instead of naming and skipping it
    #[arg(long, help_heading = "Data")]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub strict: bool,

    /// How to train, see `distill methods`: supervised, fixmatch, mean-teacher, comatch; default supervised
    #[arg(long, value_name = "NAME", help_heading = "Training")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Option of the method, as NAME=VALUE (see `distill methods METHOD`); may be repeated
    #[arg(long = "set", value_name = "NAME=VALUE", help_heading = "Training")]
    #[serde(skip)]
    pub set: Vec<String>,
    /// Epochs: walks over the labeled pictures, or over all pictures for methods that use the unlabeled ones;
    /// default 30
    #[arg(long, value_name = "N", help_heading = "Training", conflicts_with = "steps")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<f64>,
    /// Optimizer steps, instead of epochs
    #[arg(long, value_name = "N", help_heading = "Training")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Fit the number of steps to this time, for example 90s, 10m or 2h; measured on the first steps; default none, for
    /// a distillation on synth 140s
    #[arg(long, value_name = "TIME", help_heading = "Training", conflicts_with_all = ["steps", "epochs"])]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<String>,
    /// Pictures in a step (labeled ones, for semi-supervised methods); default 64, down to 16 where an epoch would have
    /// fewer than 16 steps
    #[arg(long, value_name = "N", help_heading = "Training")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<usize>,
    /// Learning rate at its peak; default 0.03 for sgd, 0.003 for adamw
    #[arg(long, value_name = "RATE", help_heading = "Training")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// sgd (Nesterov momentum) or adamw; default sgd, for EfficientNets adamw
    #[arg(long, value_name = "NAME", help_heading = "Training")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub optimizer: Option<String>,
    /// Momentum of sgd; default 0.9
    #[arg(long, value_name = "M", help_heading = "Training")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub momentum: Option<f64>,
    /// Weight decay, on weights alone (neither biases nor batch norm); default 5e-4 for
    /// sgd, 0.02 for adamw
    #[arg(long, value_name = "DECAY", help_heading = "Training")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f64>,
    /// Course of the learning rate: constant, cosine (to zero) or fixmatch (7/16 of a cosine); default cosine
    #[arg(long, value_name = "NAME", help_heading = "Training")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// Share of the steps in which the learning rate rises from zero; default 0.05
    #[arg(long, value_name = "SHARE", help_heading = "Training")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup: Option<f64>,
    /// Decay of the moving average of the weights, which is then what is evaluated and saved; 0 for none; default by
    /// method
    #[arg(long, value_name = "DECAY", help_heading = "Training")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ema: Option<f64>,
    /// Largest norm of the gradient, 0 for no limit; default 1 for adamw, 0 for sgd
    #[arg(long, value_name = "NORM", help_heading = "Training")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_norm: Option<f64>,
    /// Batches whose gradients are averaged into one step; default 1
    #[arg(long, value_name = "N", help_heading = "Training")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accumulate: Option<usize>,
    /// Seed of everything random: labels, weights, augmentation; default 0
    #[arg(long, value_name = "N", help_heading = "Training")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,

    /// Layout of the first layers: imagenet (the paper's), or small, which keeps resolution and is advised for
    /// pictures of 64 px or less where accuracy counts more than speed; default imagenet
    #[arg(long, value_name = "STEM", help_heading = "Network")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stem: Option<String>,
    /// Length of the features layer of the small CNNs; default 1024 or 128 as in their paper
    #[arg(long, value_name = "N", help_heading = "Network")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub features: Option<usize>,
    /// Start from these weights: a finished run, or a torchvision or timm state dict (.safetensors or .pth)
    #[arg(long, value_name = "RUN|FILE", help_heading = "Network")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<PathBuf>,

    /// Leave this node, and all below its name (features.3), as they are; may be repeated
    #[arg(long, value_name = "NODE", help_heading = "Network")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub freeze: Vec<String>,

    /// Threads that compute and load; default one per core
    #[arg(long, value_name = "N", help_heading = "Machine")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    /// cpu, cuda or cuda:N; default cpu. cuda is for builds with --features cuda; see `distill doctor`
    #[arg(long, value_name = "NAME", help_heading = "Machine")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// What networks compute in: f32, tf32 or bf16; default f32 on the CPU, which has no other, and bf16 on cuda
    #[arg(long, value_name = "NAME", help_heading = "Machine")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub precision: Option<String>,
    /// Steps between checkpoints; default about a minute of time
    #[arg(long, value_name = "N", help_heading = "Machine")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_steps: Option<u64>,
}

/// How a run is started, continued and kept.
#[derive(Clone, Debug, Default, Args)]
pub struct JobArgs {
    /// Folder of the run; default runs/NAME, after networks, method and data. An existing one is an error
    #[arg(long, value_name = "DIR", help_heading = "Run")]
    pub out: Option<PathBuf>,
    /// Continue the run in this folder, with its own settings, as if it had never stopped
    #[arg(long, value_name = "RUN", help_heading = "Run", conflicts_with_all = ["out", "config"])]
    pub resume: Option<PathBuf>,
    /// Read settings from a file: the keys are these flags, as in a run's config.toml; flags win
    #[arg(long, value_name = "FILE", help_heading = "Run")]
    pub config: Option<PathBuf>,
    /// Show where the time of the steps went, node by node, beside what this machine can do at most; with =FILE also as
    /// JSON in that file
    #[arg(long, value_name = "FILE", help_heading = "Run", num_args = 0..=1, require_equals = true)]
    pub profile: Option<Option<PathBuf>>,
}

impl Settings {
    /// These flags as keys of a configuration.
    pub fn table(&self) -> Result<toml::Table> {
        let mut table = toml::Table::try_from(self).map_err(Failure::broken)?;
        if !self.set.is_empty() {
            let options = pairs("--set", &self.set)?;
            table.insert("options".into(), toml::Table::try_from(options).map_err(Failure::broken)?.into());
        }
        Ok(table)
    }
}

/// `NAME=VALUE` flags as a map.
pub fn pairs(flag: &str, values: &[String]) -> Result<BTreeMap<String, String>> {
    let split = |text: &String| match text.split_once('=') {
        Some((name, value)) => Ok((name.trim().to_string(), value.trim().to_string())),
        None => Err(Failure::mendable(format!("{flag}: expected NAME=VALUE, found `{text}`"))),
    };
    values.iter().map(split).collect()
}

/// A stem by name.
pub fn stem(name: &str) -> Result<models::Stem> {
    match name {
        "imagenet" => Ok(models::Stem::Imagenet),
        "small" => Ok(models::Stem::Small),
        other => Err(Failure::mendable(format!("--stem: expected imagenet or small, found `{other}`"))),
    }
}

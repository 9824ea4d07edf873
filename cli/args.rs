//! The command line: every subcommand and flag, with its help. Parsing never acts.

use std::path::PathBuf;

use crate::settings::{JobArgs, Settings};
use clap::{Args, Parser, Subcommand, ValueEnum};

/// Train, distil, export, serve and measure small image classifiers from few labels.
///
/// Without a subcommand it distils: `distill --teacher effnet --student mobilenet`.
#[derive(Debug, Parser)]
#[command(name = "distill", version, arg_required_else_help = true, args_conflicts_with_subcommands = true)]
#[command(
    after_help = "The first thing to try, with no data at hand:\n  distill --teacher effnet --student mobilenet"
)]
pub struct Cli {
    /// What to do; distillation if none is given.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Flags of distillation.
    #[command(flatten)]
    pub distill: DistillArgs,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train one network, with or without unlabeled pictures
    Train(Box<TrainArgs>),
    /// Train a teacher, then a small student from its answers on all pictures (the bare form)
    Distill(Box<DistillArgs>),
    /// Accuracy of a finished run on a data set
    Eval(EvalArgs),
    /// Label pictures
    Predict(PredictArgs),
    /// Write a run as ONNX, safetensors or a bundle, and prove that the file answers as the network did
    Export(Box<ExportArgs>),
    /// Check a bundle or an exported file again: hashes, metadata, the probe, accuracy; exit code 1 if anything failed
    Verify(VerifyArgs),
    /// Put a bundle, the slim server, a systemd unit and a Containerfile into one folder
    Package(PackageArgs),
    /// Answer over HTTP
    Serve(ServeArgs),
    /// Latency and throughput, against ResNet-18 or any other network
    Bench(Box<BenchArgs>),
    /// The networks there are; with a name, what one costs
    Models(ModelsArgs),
    /// The training and distillation methods there are; with a name, its options
    Methods(MethodsArgs),
    /// What a folder or file of pictures holds: classes, counts, sizes, broken files
    Data(DataArgs),
    /// What this machine offers: processor kernels, threads, ONNX Runtime, CUDA
    Doctor(DoctorArgs),
    /// Completions for a shell, on standard output
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Flags of `train`.
#[derive(Debug, Args)]
pub struct TrainArgs {
    /// Settings of this training.
    #[command(flatten)]
    pub settings: Settings,
    /// Network to train, see `distill models`; default mobilenet-v3-large
    #[arg(long, value_name = "NAME", help_heading = "Network")]
    pub arch: Option<String>,
    /// How the run is started and stopped.
    #[command(flatten)]
    pub job: JobArgs,
}

/// Flags of `distill`, with or without the word.
#[derive(Debug, Args, Default)]
pub struct DistillArgs {
    /// Teacher: a network to be trained first, or the folder of a finished run; several, separated by commas, are averaged
    #[arg(long, value_name = "NAME|RUN", help_heading = "Teacher and student", value_delimiter = ',')]
    pub teacher: Vec<String>,
    /// Student: the network to end up with; the teacher's own name makes it self-distillation
    #[arg(long, value_name = "NAME", help_heading = "Teacher and student")]
    pub student: Option<String>,
    /// How the student learns from the teacher, see `distill methods`; default kl
    #[arg(long, value_name = "NAME", help_heading = "Teacher and student")]
    pub distillation: Option<String>,
    /// Option of the distillation, as NAME=VALUE; may be repeated
    #[arg(long, value_name = "NAME=VALUE", help_heading = "Teacher and student")]
    pub distillation_set: Vec<String>,
    /// Softmax temperature of both sides; default 1 (as --distillation-set temperature=T)
    #[arg(long, value_name = "T", help_heading = "Teacher and student")]
    pub temperature: Option<f64>,
    /// Weight of the labels' own cross-entropy, where there are labels; default 0 (as --distillation-set ce=W)
    #[arg(long, value_name = "W", help_heading = "Teacher and student")]
    pub ce: Option<f64>,
    /// Epochs of the teacher's training; default as for --epochs
    #[arg(long, value_name = "N", help_heading = "Teacher and student")]
    pub teacher_epochs: Option<f64>,
    /// Learning rate of the teacher's training; default as for --lr
    #[arg(long, value_name = "RATE", help_heading = "Teacher and student")]
    pub teacher_lr: Option<f64>,
    /// Pictures in a step of the teacher's training; default as for --batch-size
    #[arg(long, value_name = "N", help_heading = "Teacher and student")]
    pub teacher_batch_size: Option<u32>,
    /// Also train the student on the labels alone, for as many steps, to compare; on by default for synth alone
    #[arg(long, help_heading = "Teacher and student", overrides_with = "no_baseline")]
    pub baseline: bool,
    /// Leave the comparison out
    #[arg(long, help_heading = "Teacher and student")]
    pub no_baseline: bool,
    /// Settings of the trainings.
    #[command(flatten)]
    pub settings: Settings,
    /// How the job is started and stopped.
    #[command(flatten)]
    pub job: JobArgs,
}

/// Flags of `eval`.
#[derive(Debug, Args)]
pub struct EvalArgs {
    /// Folder of a finished run, a model.safetensors, or an .onnx file that `export` wrote
    #[arg(value_name = "RUN|FILE")]
    pub model: PathBuf,
    /// Data set, see `distill train --help`; default the one the run was trained on
    #[arg(long, value_name = "SOURCE")]
    pub data: Option<String>,
    /// Folder in which data sets are sought by name
    #[arg(long, value_name = "DIR", default_value = "data")]
    pub data_dir: PathBuf,
    /// Which pictures
    #[arg(long, value_enum, default_value_t = EvalPart::Test)]
    pub part: EvalPart,
    /// Threads that compute; 0 means one per core
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub threads: usize,
    /// cpu, cuda or cuda:N, for runs and model.safetensors files
    #[arg(long, value_name = "NAME", default_value = "cpu")]
    pub device: String,
    /// What the network computes in: f32, tf32 or bf16; default f32 on the CPU, which has no other, and bf16 on cuda
    #[arg(long, value_name = "NAME")]
    pub precision: Option<String>,
    /// Which engine answers for an .onnx file: native (default for int8) or ort (default for float)
    #[arg(long, value_name = "NAME")]
    pub engine: Option<String>,
    /// ONNX Runtime's shared library; default: ORT_DYLIB_PATH, beside this program, Python's onnxruntime, the system
    #[arg(long, value_name = "FILE")]
    pub ort_lib: Option<PathBuf>,
    /// Print JSON instead of tables
    #[arg(long)]
    pub json: bool,
}

/// A part of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EvalPart {
    /// The training pictures that have labels
    Train,
    /// The source's own validation part
    Val,
    /// The test part
    Test,
}

/// Flags of what answers: the engine of runs and files.
#[derive(Debug, Args)]
pub struct EngineArgs {
    /// Which engine answers: native (default for a run), ort (ONNX Runtime; default for .onnx) or candle-onnx
    /// (build feature)
    #[arg(long, value_name = "NAME")]
    pub engine: Option<String>,
    /// How the native engine stores weights: f32, or bf16, which is half as much to read where one picture at a time is
    /// answered; sums are f32
    #[arg(long, value_name = "FORMAT", default_value = "f32")]
    pub weights: String,
    /// Threads of each engine
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub threads: usize,
    /// ONNX Runtime's shared library; default: ORT_DYLIB_PATH, beside this program, Python's onnxruntime, the system
    #[arg(long, value_name = "FILE")]
    pub ort_lib: Option<PathBuf>,
}

/// Flags of `predict`.
#[derive(Debug, Args)]
pub struct PredictArgs {
    /// Folder of a finished run, a model.safetensors or an .onnx file that `export` wrote
    #[arg(value_name = "RUN|FILE")]
    pub model: PathBuf,
    /// Pictures: JPEG, PNG, WebP, BMP or GIF
    #[arg(value_name = "IMAGES", required = true)]
    pub images: Vec<PathBuf>,
    /// How many classes to show of each picture
    #[arg(long, value_name = "K", default_value_t = 5)]
    pub top: usize,
    #[command(flatten)]
    pub engine: EngineArgs,
    /// Show where the network's time goes, node by node (native engine), beside what this machine can do at most; with
    /// =FILE also as JSON in that file
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true)]
    pub profile: Option<Option<PathBuf>>,
    /// Print a JSON array: per picture `path`, `top` (`index`, `label`, `probability`) and `times_us` by stage; with
    /// --profile an object of `pictures` and `profile`
    #[arg(long)]
    pub json: bool,
}

/// Flags of `export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Folder of a finished run, or a model.safetensors
    #[arg(value_name = "RUN|FILE")]
    pub model: PathBuf,
    /// What to write: onnx, onnx-fp16, onnx-int8, safetensors, safetensors-fp16, bundle (a folder of all that with a manifest, see
    /// docs/format.md); several, separated by commas; default what the extension of --out says, else onnx
    #[arg(long, value_name = "FORMAT", value_delimiter = ',')]
    pub format: Vec<String>,
    /// File to write, for a bundle or several formats the folder; default model.onnx, bundle and so on in the run's folder
    #[arg(short, long, value_name = "PATH")]
    pub out: Option<PathBuf>,
    /// What an ONNX file takes: f32-nchw (values 0..1 in planes), or u8-nhwc (pixels; the way from them to planes is in
    /// the file)
    #[arg(long, value_name = "INPUT", default_value = "f32-nchw")]
    pub input: String,
    /// Folders of somebody else's server: triton, a model repository (NAME/VERSION/model.onnx, config.pbtxt, labels) of the
    /// ONNX format that --format names; --out is the repository, default triton in the run's folder
    #[arg(long, value_name = "LAYOUT")]
    pub layout: Option<String>,
    /// Pictures that Triton may run together
    #[arg(long, value_name = "N", default_value_t = 16, requires = "layout")]
    pub max_batch: usize,
    /// Microseconds that Triton may wait for more of them
    #[arg(long, value_name = "US", default_value_t = 100, requires = "layout")]
    pub max_delay_us: u64,
    /// What the model is called in a bundle or repository; default the run's name
    #[arg(long, value_name = "NAME", help_heading = "Bundle")]
    pub model_name: Option<String>,
    /// Which one of that name it is
    #[arg(long, value_name = "VERSION", default_value = "1", help_heading = "Bundle")]
    pub model_version: String,
    /// Seconds to measure the latency of each file on each engine in; 0 for no latency
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, help_heading = "Bundle")]
    pub latency_seconds: f64,
    /// Data set whose validation and test parts each file is measured on; default the one the run was trained on; `none`
    /// for what the run knows of itself
    #[arg(long, value_name = "SOURCE", help_heading = "Bundle")]
    pub data: Option<String>,
    /// Folder in which data sets are sought by name
    #[arg(long, value_name = "DIR", default_value = "data", help_heading = "Bundle")]
    pub data_dir: PathBuf,
    /// Fail unless ONNX Runtime was there and agrees
    #[arg(long)]
    pub require_parity: bool,
    /// ONNX Runtime's shared library; default: ORT_DYLIB_PATH, beside this program, Python's onnxruntime, the system
    #[arg(long, value_name = "FILE")]
    pub ort_lib: Option<PathBuf>,
    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
    /// Flags of int8.
    #[command(flatten)]
    pub int8: Int8Args,
}

/// Flags of `verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Folder of a bundle, an .onnx file that `export` wrote, or a model.safetensors
    #[arg(value_name = "BUNDLE|FILE")]
    pub target: PathBuf,
    /// Data set to measure the accuracies on record on once more
    #[arg(long, value_name = "SOURCE")]
    pub data: Option<String>,
    /// Folder in which data sets are sought by name
    #[arg(long, value_name = "DIR", default_value = "data")]
    pub data_dir: PathBuf,
    /// Fail where ONNX Runtime is not there to be asked
    #[arg(long)]
    pub require_ort: bool,
    /// ONNX Runtime's shared library; default: ORT_DYLIB_PATH, beside this program, Python's onnxruntime, the system
    #[arg(long, value_name = "FILE")]
    pub ort_lib: Option<PathBuf>,
    /// Threads that compute; 0 means one per core
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub threads: usize,
    /// Print the checks as JSON
    #[arg(long)]
    pub json: bool,
}

/// Flags of `package`.
#[derive(Debug, Args)]
pub struct PackageArgs {
    /// Folder of a bundle
    #[arg(value_name = "BUNDLE")]
    pub bundle: PathBuf,
    /// Folder to write; default NAME-package beside the bundle
    #[arg(short, long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// The server's program for the device, at most 15 MB; default distill-serve beside this program
    #[arg(long, value_name = "PATH")]
    pub binary: Option<PathBuf>,
    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
}

/// Flags of `export --format onnx-int8`.
#[derive(Debug, Args)]
#[command(next_help_heading = "Quantization (onnx-int8)")]
pub struct Int8Args {
    /// How ranges of maps are chosen: minmax, entropy, percentile (or percentile:99.9); several, separated by commas, are
    /// all tried; default all three
    #[arg(long, value_name = "METHOD", value_delimiter = ',')]
    pub calibration: Vec<String>,
    /// Scales of weights: per-channel, per-tensor, or both, of which the better one is kept
    #[arg(long, value_name = "WHICH", default_value = "both")]
    pub granularity: String,
    /// Data set to calibrate and judge with: training pictures for the one, validation pictures for the other; default the
    /// one that the run was trained on; `procedural` for made-up pictures, which judge nothing
    #[arg(long, value_name = "SOURCE")]
    pub calibrate: Option<String>,
    /// Pictures to calibrate with
    #[arg(long, value_name = "N", default_value_t = ::export::quantize::pictures::CALIBRATE)]
    pub calibration_pictures: usize,
    /// Most pictures to judge by
    #[arg(long, value_name = "N", default_value_t = ::export::quantize::pictures::HELD_OUT)]
    pub held_out: usize,
    /// Most points of accuracy that int8 may lose
    #[arg(long, value_name = "POINTS", default_value_t = 1.0)]
    pub max_drop: f64,
    /// Write a file that loses more, or is slower than float, all the same, and mark it
    #[arg(long)]
    pub force: bool,
}

/// Flags of `serve`: those of the slim server, which has them in a table.
#[derive(Clone, Debug, Default)]
pub struct ServeArgs {
    models: Vec<String>,
    given: Vec<(&'static str, String)>,
}

impl ServeArgs {
    /// What they ask for.
    ///
    /// # Errors
    /// A sentence that names the flag, what it takes and what was found.
    pub fn settings(&self) -> Result<serve::Settings, String> {
        let mut settings = serve::Settings { models: self.models.clone(), ..serve::Settings::default() };
        self.given.iter().try_for_each(|(name, value)| settings.set(name, value))?;
        Ok(settings)
    }
}

impl Args for ServeArgs {
    fn augment_args(command: clap::Command) -> clap::Command {
        let models = clap::Arg::new("models").value_name("[NAME=]RUN|BUNDLE|FILE").num_args(0..).help(
            "Folders of runs or bundles, model.safetensors or .onnx files; the first is the default, those of one NAME \
             are its versions",
        );
        let flag = |setting: &serve::Setting| {
            let help = format!("{} [default: {}]", capitalized(setting.help), setting.default);
            clap::Arg::new(setting.name).long(setting.name).value_name(setting.value).help(help)
        };
        command.arg(models).args(serve::SETTINGS.iter().map(flag))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for ServeArgs {
    fn from_arg_matches(matches: &clap::ArgMatches) -> Result<Self, clap::Error> {
        let mut args = Self::default();
        args.update_from_arg_matches(matches)?;
        Ok(args)
    }

    fn update_from_arg_matches(&mut self, matches: &clap::ArgMatches) -> Result<(), clap::Error> {
        self.models.extend(matches.get_many::<String>("models").into_iter().flatten().cloned());
        let given =
            |setting: &serve::Setting| Some((setting.name, matches.get_one::<String>(setting.name)?.clone()));
        self.given.extend(serve::SETTINGS.iter().filter_map(given));
        Ok(())
    }
}

fn capitalized(sentence: &str) -> String {
    let mut letters = sentence.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// Flags of `bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Runs, bundles, .onnx or .safetensors files (with what lies beside them), or names of networks (at random weights)
    #[arg(value_name = "MODEL", required_unless_present = "url")]
    pub models: Vec<String>,
    /// Rows of each model: native, native-bf16, native-int8, ort, ort-int8, candle-onnx, separated by commas; default
    /// all but native-bf16, or those of --engine and --weights
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub rows: Vec<String>,
    /// Network to compare with, at the same input and with the imagenet stem; `none` for no comparison
    #[arg(long, value_name = "NAME", default_value = "resnet18")]
    pub against: String,
    #[command(flatten)]
    pub engine: EngineArgs,
    /// How long to measure.
    #[command(flatten)]
    pub effort: BenchEffort,
    /// Networks given by name.
    #[command(flatten)]
    pub task: BenchTaskArgs,
    /// Measure each row's accuracy on this data set's test part, on its own engine and file; else what the file or its
    /// bundle recorded is shown
    #[arg(long, value_name = "SOURCE", help_heading = "Accuracy")]
    pub data: Option<String>,
    /// Folder in which data sets are sought by name
    #[arg(long, value_name = "DIR", default_value = "data", help_heading = "Accuracy")]
    pub data_dir: PathBuf,
    /// What is measured over HTTP.
    #[command(flatten)]
    pub http: BenchHttp,
    /// Write report.html, report.md, report.json and every sample into this folder
    #[arg(long, value_name = "DIR", help_heading = "Report")]
    pub report: Option<PathBuf>,
    /// Show where the time of the native engine goes, node by node, one picture at a time, beside what this machine can
    /// do at most; with =FILE also as JSON in that file
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, help_heading = "Report")]
    pub profile: Option<Option<PathBuf>>,
    /// Print JSON instead of a table; with --profile it has a `profile` too
    #[arg(long, help_heading = "Report")]
    pub json: bool,
}

/// Flags of `bench`: how long everything is measured.
#[derive(Debug, Args)]
pub struct BenchEffort {
    /// A first look, in seconds; without it minutes
    #[arg(long, help_heading = "Effort", conflicts_with = "mlperf")]
    pub quick: bool,
    /// MLPerf's least times and counts: 600 s for each row and scenario, 24,576 pictures offline
    #[arg(long, help_heading = "Effort")]
    pub mlperf: bool,
    /// Calls of the single stream, for each row, in turns with the others
    #[arg(long, value_name = "N", help_heading = "Effort")]
    pub samples: Option<usize>,
    /// Seconds of the single stream, for each row (with --samples: at most), and of each load over HTTP at most
    #[arg(long, value_name = "SECONDS", help_heading = "Effort")]
    pub seconds: Option<f64>,
    /// Pictures at once where offline throughput is measured
    #[arg(long, value_name = "N", default_value_t = 32, help_heading = "Effort")]
    pub batch_size: usize,
}

/// Flags of `bench`: what networks given by name are built for.
#[derive(Debug, Args)]
pub struct BenchTaskArgs {
    /// Side of the pictures in pixels; default what the network was made for
    #[arg(long, value_name = "PX", help_heading = "Networks given by name")]
    pub image_size: Option<usize>,
    /// Channels of the pictures: 3 for RGB, 1 for gray
    #[arg(long, value_name = "N", default_value_t = 3, help_heading = "Networks given by name")]
    pub channels: usize,
    /// Classes
    #[arg(long, value_name = "N", default_value_t = 10, help_heading = "Networks given by name")]
    pub classes: usize,
    /// Length of the features layer of small CNNs
    #[arg(long, value_name = "N", help_heading = "Networks given by name")]
    pub features: Option<usize>,
    /// First layers: imagenet or small
    #[arg(long, value_name = "STEM", default_value = "imagenet", help_heading = "Networks given by name")]
    pub stem: String,
}

/// Flags of `bench`: what is measured over HTTP.
#[derive(Debug, Args)]
pub struct BenchHttp {
    /// Leave out all that goes over HTTP
    #[arg(long, help_heading = "HTTP", conflicts_with = "url")]
    pub no_http: bool,
    /// Put a server that runs already under load, instead of one in this process
    #[arg(long, value_name = "http://HOST:PORT", help_heading = "HTTP")]
    pub url: Option<String>,
    /// Header of each request, such as 'authorization: Bearer KEY'; may be repeated
    #[arg(long, value_name = "NAME: VALUE", help_heading = "HTTP")]
    pub header: Vec<String>,
    /// Closed loop: connections that each send a request once the one before is answered
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1,16", help_heading = "HTTP")]
    pub connections: Vec<usize>,
    /// Open loop: requests per second that come whether or not those before are answered, such as 100,500,1000;
    /// default half and 80 % of what the closed loop reached
    #[arg(long, value_name = "LIST", value_delimiter = ',', help_heading = "HTTP")]
    pub rates: Vec<f64>,
    /// Connections that the open loop may use
    #[arg(long, value_name = "N", default_value_t = 64, help_heading = "HTTP")]
    pub open_connections: usize,
    /// What requests hold: png or jpeg
    #[arg(long, value_name = "FORMAT", default_value = "png", help_heading = "HTTP")]
    pub picture: String,
    /// Pictures in a request where throughput with batching is measured
    #[arg(long, value_name = "N", default_value_t = 32, help_heading = "HTTP")]
    pub pictures: usize,
    /// Seed of the open loop's arrivals
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "HTTP")]
    pub seed: u64,
}

/// Flags of `models`.
#[derive(Debug, Args)]
pub struct ModelsArgs {
    /// Network to describe
    pub name: Option<String>,
    /// Show the memory that training and answering take, and each node: shape, parameters, multiply-accumulates,
    /// activations
    #[arg(long, requires = "name")]
    pub cost: bool,
    /// Pictures in a training step (views count), for its memory
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub batch_size: u32,
    /// Side of the pictures in pixels
    #[arg(long, value_name = "PX", default_value_t = 32)]
    pub image_size: usize,
    /// Channels of the pictures: 3 for RGB, 1 for gray
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub channels: usize,
    /// Number of classes
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub classes: usize,
    /// First layers: imagenet or small
    #[arg(long, value_name = "STEM", default_value = "imagenet")]
    pub stem: String,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Flags of `methods`.
#[derive(Debug, Args)]
pub struct MethodsArgs {
    /// Method to describe
    pub name: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Flags of `data`.
#[derive(Debug, Args)]
pub struct DataArgs {
    /// Folder, file or name of a data set
    #[arg(value_name = "SOURCE")]
    pub source: String,
    /// Folder in which data sets are sought by name
    #[arg(long, value_name = "DIR", default_value = "data")]
    pub data_dir: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Flags of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// ONNX Runtime's shared library
    #[arg(long, value_name = "FILE")]
    pub ort_lib: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

//! CoMatch (Li, Xiong and Hoi 2021): class probabilities and embeddings that correct each other.
//!
//! Guesses on the weak view are aligned to the labeled classes' balance (distribution alignment over the last 32
//! batches) and smoothed by a memory bank: `q = alpha DA(p) + (1 - alpha) sum_k a_k p_k`, `a` the softmax of embedding
//! similarities at temperature t. Confident `q` train the classifier on a RandAugment view; the graph of `q` (ones on the
//! diagonal, `q_b . q_j` from the contrast threshold on, rows normalized) is the target for the graph of similarities
//! between the embeddings of that view and of a SimCLR view:
//! `L_x + lambda_u L_cls + lambda_c L_ctr`.
//!
//! Defaults are the authors' for CIFAR-10: mu 7, t 0.2, tau 0.95, contrast threshold 0.8, alpha 0.9, both weights 1, a bank
//! of 5 (mu + 1) B entries (2560), smoothing once it is full, an embedding head of 128, LeakyReLU 0.1, 64, normalized.
//! All views in one forward; the unlabeled pool leaves the labeled pictures out.
//! Claim: 93.09 % on CIFAR-10 with 40 labels (5 seeds, WRN-28-2).

use std::collections::VecDeque;

use candle_core::{Device, Tensor};
use data::{Augment, Batch, Draw, Part};
use engine::{BatchNormMode, Fwd, Grad};
use models::{Activation, Array, Graph, GraphError, Linear, Weights};

use super::{Loss, Method, MethodEntry, Nets, OptionSpec, Options, Progress};
use crate::error::{Result, TrainError};
use crate::loss;

/// The registry's line.
pub static ENTRY: MethodEntry = MethodEntry {
    name: "comatch",
    summary: "pseudo-labels and embeddings that regularize each other through graphs of the batch",
    paper: "Li, Xiong and Hoi 2021, CoMatch: Semi-supervised Learning with Contrastive Graph Regularization",
    uses_unlabeled: true,
    ema: 0.999,
    options: &[
        OptionSpec { key: "mu", default: "7", help: "unlabeled pictures per labeled one" },
        OptionSpec { key: "tau", default: "0.95", help: "confidence from which a guess counts, 0..1" },
        OptionSpec {
            key: "contrast-threshold",
            default: "0.8",
            help: "overlap from which two guesses are linked, 0..1",
        },
        OptionSpec { key: "temperature", default: "0.2", help: "of embedding similarities" },
        OptionSpec { key: "alpha", default: "0.9", help: "share of the own guess in a smoothed one, 0..1" },
        OptionSpec { key: "lambda-u", default: "1", help: "weight of the classifier's unlabeled term" },
        OptionSpec { key: "lambda-c", default: "1", help: "weight of the contrastive term" },
        OptionSpec { key: "queue", default: "5", help: "batches that the memory bank holds" },
        OptionSpec { key: "window", default: "32", help: "batches over which guesses are aligned" },
        OptionSpec { key: "dimensions", default: "64", help: "length of an embedding" },
    ],
    build: |options| Ok(Box::new(CoMatch::new(options)?)),
};

const EMBEDDING: &str = "embedding";
const HIDDEN: usize = 128;

/// The method with its constants and memories.
pub struct CoMatch {
    mu: usize,
    tau: f64,
    contrast_threshold: f64,
    temperature: f64,
    alpha: f64,
    lambda_u: f64,
    lambda_c: f64,
    dimensions: usize,
    memories: Memories,
    pending: Vec<Pending>,
}

/// What a batch adds to the memories once its step has been taken.
struct Pending {
    step: u64,
    features: Tensor,
    probabilities: Tensor,
    mean_guess: Tensor,
}

/// The pictures' answers of one batch.
struct Views<'a> {
    labels: &'a [u32],
    logits_x: Tensor,
    logits_weak: Tensor,
    logits_strong: Tensor,
    features_x: Tensor,
    features_weak: Tensor,
    features_strong: Tensor,
    features_other: Tensor,
}

impl CoMatch {
    /// From its options.
    ///
    /// # Errors
    /// A value out of range.
    pub fn new(options: &Options) -> Result<Self> {
        Ok(Self {
            mu: options.count("mu", 1)?,
            tau: options.number("tau", 0.0..=1.0)?,
            contrast_threshold: options.number("contrast-threshold", 0.0..=1.0)?,
            temperature: options.number("temperature", 1e-3..=1e3)?,
            alpha: options.number("alpha", 0.0..=1.0)?,
            lambda_u: options.number("lambda-u", 0.0..=1e6)?,
            lambda_c: options.number("lambda-c", 0.0..=1e6)?,
            dimensions: options.count("dimensions", 1)?,
            memories: Memories {
                features: Recent::new(options.count("queue", 1)?),
                probabilities: Recent::new(options.count("queue", 1)?),
                guesses: Recent::new(options.count("window", 1)?),
            },
            pending: Vec::new(),
        })
    }

    fn objective(&mut self, views: &Views<'_>, at: Progress) -> Result<Loss> {
        let classes = views.logits_x.dim(1)?;
        let labels = loss::one_hot(views.labels, classes, views.logits_x.device())?;
        let loss_x = loss::cross_entropy(&views.logits_x, &labels)?;

        let guesses = loss::softmax(&views.logits_weak.detach())?;
        let mean_guess = guesses.mean_keepdim(0)?;
        let aligned = self.memories.align(&guesses, &mean_guess)?;
        let features_weak = views.features_weak.detach();
        let smoothed = self.smooth(&aligned, &features_weak)?;
        let mask = loss::confident(&smoothed, self.tau)?;
        let loss_u = loss::weighted_cross_entropy(&views.logits_strong, &smoothed, &mask)?;

        let graph = loss::pseudo_label_graph(&smoothed, self.contrast_threshold)?;
        let similarities = loss::similarity(&views.features_strong, &views.features_other, self.temperature)?;
        let loss_c = loss::graph_cross_entropy(&graph, &similarities)?;

        let features = Tensor::cat(&[&features_weak, &views.features_x.detach()], 0)?;
        let probabilities = Tensor::cat(&[&aligned, &labels], 0)?;
        // What a skipped step left behind goes.
        self.pending.retain(|pending| pending.step == at.step);
        self.pending.push(Pending { step: at.step, features, probabilities, mean_guess });

        let total = ((&loss_x + (&loss_u * self.lambda_u)?)? + (&loss_c * self.lambda_c)?)?;
        let confident = mask.mean_all()?;
        let parts =
            [("labeled", &loss_x), ("unlabeled", &loss_u), ("contrast", &loss_c), ("confident", &confident)];
        Ok(Loss::new(total, &parts))
    }

    /// q: the own guess mixed with what the bank holds for similar embeddings; the guess alone until the bank is full.
    fn smooth(&self, aligned: &Tensor, features: &Tensor) -> Result<Tensor> {
        let Some((bank_features, bank_probabilities)) = self.memories.bank(aligned.device())? else {
            return Ok(aligned.clone());
        };
        let attention = loss::softmax(&loss::similarity(features, &bank_features, self.temperature)?)?;
        let remembered = attention.matmul(&bank_probabilities)?;
        Ok(((aligned * self.alpha)? + (remembered * (1.0 - self.alpha))?)?)
    }
}

impl Method for CoMatch {
    fn draws(&self, batch: usize) -> Vec<Draw> {
        let views = vec![Augment::Weak, Augment::Strong, Augment::SimClr];
        vec![
            Draw { part: Part::Labeled, count: batch, views: vec![Augment::Weak] },
            Draw { part: Part::Unlabeled, count: self.mu * batch, views },
        ]
    }

    fn main_draw(&self) -> usize {
        1
    }

    fn heads(&self, graph: &mut Graph) -> Result<(), GraphError> {
        let features = graph.output("features")?;
        let hidden = graph.linear("embedding.0", features, Linear::new(HIDDEN))?;
        let active = graph.activation("embedding.1", hidden, Activation::LeakyRelu(0.1))?;
        let embedding = graph.linear("embedding.2", active, Linear::new(self.dimensions))?;
        graph.set_output(EMBEDDING, embedding);
        Ok(())
    }

    fn loss(&mut self, nets: &Nets<'_>, batch: &Batch, at: Progress) -> Result<Loss> {
        let (x, u) = (&batch.draws[0], &batch.draws[1]);
        let images = nets.images(&[x.views[0], u.views[0], u.views[1], u.views[2]])?;
        let fwd = Fwd {
            grad: Grad::Params,
            bn: BatchNormMode::Train { update: true },
            want: &["logits", EMBEDDING],
            step: at.batch,
            pass: 0,
        };
        let outputs = nets.student.forward(&images, fwd)?;
        let logits = outputs.get("logits")?;
        let features = loss::unit_rows(outputs.get(EMBEDDING)?)?;
        let (b, mu_b) = (x.ids.len(), u.ids.len());
        let views = Views {
            labels: &x.labels,
            logits_x: logits.narrow(0, 0, b)?,
            logits_weak: logits.narrow(0, b, mu_b)?,
            logits_strong: logits.narrow(0, b + mu_b, mu_b)?,
            features_x: features.narrow(0, 0, b)?,
            features_weak: features.narrow(0, b, mu_b)?,
            features_strong: features.narrow(0, b + mu_b, mu_b)?,
            features_other: features.narrow(0, b + 2 * mu_b, mu_b)?,
        };
        self.objective(&views, at)
    }

    fn after_step(&mut self, at: Progress) -> Result<()> {
        for pending in std::mem::take(&mut self.pending).into_iter().filter(|pending| pending.step == at.step)
        {
            self.memories.push(&pending)?;
        }
        Ok(())
    }

    fn state(&self) -> Result<Weights> {
        let mut state = Weights::new();
        for (name, memory) in self.memories.by_name() {
            memory.save(name, &mut state)?;
        }
        Ok(state)
    }

    fn restore(&mut self, state: &Weights) -> Result<()> {
        let mut known = 0;
        for (name, memory) in self.memories.by_name_mut() {
            known += memory.restore(name, state)?;
        }
        if known == state.len() { Ok(()) } else { Err(not_a_state(state)) }
    }
}

fn not_a_state(state: &Weights) -> TrainError {
    let found: Vec<&str> = state.keys().map(String::as_str).collect();
    let expected = "rows and sizes of each of its memories";
    TrainError::setting("state of method `comatch`", expected, found.join(", "))
}

/// What the last batches have left.
struct Memories {
    /// Embeddings of all pictures but the augmented ones.
    features: Recent,
    /// Their aligned guesses or labels.
    probabilities: Recent,
    /// The mean guess of each batch.
    guesses: Recent,
}

impl Memories {
    fn push(&mut self, pending: &Pending) -> Result<()> {
        self.features.push(&pending.features)?;
        self.probabilities.push(&pending.probabilities)?;
        self.guesses.push(&pending.mean_guess)
    }

    fn by_name(&self) -> [(&'static str, &Recent); 3] {
        let Self { features, probabilities, guesses } = self;
        [("bank.features", features), ("bank.probabilities", probabilities), ("alignment", guesses)]
    }

    fn by_name_mut(&mut self) -> [(&'static str, &mut Recent); 3] {
        let Self { features, probabilities, guesses } = self;
        [("bank.features", features), ("bank.probabilities", probabilities), ("alignment", guesses)]
    }

    /// `[k, dimensions]` and `[k, classes]` once as many batches as the bank holds have been seen.
    fn bank(&self, device: &Device) -> Result<Option<(Tensor, Tensor)>> {
        match (self.features.full(device)?, self.probabilities.full(device)?) {
            (Some(features), Some(probabilities)) => Ok(Some((features, probabilities))),
            _ => Ok(None),
        }
    }

    /// Distribution alignment (ReMixMatch's, without labels' own distribution: the classes count as balanced): `guesses /
    /// mean guess of the window, this batch among it`, rows summing to one.
    fn align(&self, guesses: &Tensor, mean_guess: &Tensor) -> Result<Tensor> {
        let average = self.guesses.with(mean_guess)?.mean_keepdim(0)?.maximum(1e-8)?;
        Ok(loss::normalize_rows(&guesses.broadcast_div(&average)?)?)
    }
}

/// Rows of the last batches, oldest first. They stay where the networks are.
struct Recent {
    batches: usize,
    /// Rows of each batch.
    sizes: VecDeque<usize>,
    /// `[rows, width]`.
    rows: Option<Tensor>,
}

impl Recent {
    fn new(batches: usize) -> Self {
        Self { batches, sizes: VecDeque::new(), rows: None }
    }

    /// The rows of the last `batches`, `newest` among them.
    fn with(&self, newest: &Tensor) -> Result<Tensor> {
        let dropped = (self.sizes.len() + 1).saturating_sub(self.batches);
        let dropped: usize = self.sizes.iter().take(dropped).sum();
        let kept = self.sizes.iter().sum::<usize>() - dropped;
        match &self.rows {
            Some(rows) if kept > 0 => {
                let kept = rows.narrow(0, dropped, kept)?.to_device(newest.device())?;
                Ok(Tensor::cat(&[&kept, newest], 0)?)
            }
            _ => Ok(newest.clone()),
        }
    }

    fn push(&mut self, newest: &Tensor) -> Result<()> {
        self.rows = Some(self.with(newest)?);
        self.sizes.push_back(newest.dim(0)?);
        while self.sizes.len() > self.batches {
            self.sizes.pop_front();
        }
        Ok(())
    }

    /// All rows, once they are those of `batches` batches.
    fn full(&self, device: &Device) -> Result<Option<Tensor>> {
        match &self.rows {
            Some(rows) if self.sizes.len() == self.batches => Ok(Some(rows.to_device(device)?)),
            _ => Ok(None),
        }
    }

    fn save(&self, name: &str, state: &mut Weights) -> Result<()> {
        let Some(rows) = &self.rows else { return Ok(()) };
        let shape = [rows.dim(0)?, rows.dim(1)?];
        state.insert(format!("{name}.rows"), Array::new(shape, rows.flatten_all()?.to_vec1()?));
        let sizes = self.sizes.iter().map(|&size| size as f32).collect();
        state.insert(format!("{name}.sizes"), Array::new([self.sizes.len()], sizes));
        Ok(())
    }

    /// Takes back what [`Recent::save`] has put there; how many arrays that were.
    fn restore(&mut self, name: &str, state: &Weights) -> Result<usize> {
        let array = |part: &str| state.get(&format!("{name}.{part}"));
        let (rows, sizes) = match (array("rows"), array("sizes")) {
            (Some(rows), Some(sizes)) => (rows, sizes),
            (None, None) => {
                *self = Self::new(self.batches);
                return Ok(0);
            }
            _ => return Err(not_a_state(state)),
        };
        let sizes: VecDeque<usize> = sizes.data.iter().map(|&size| size as usize).collect();
        let fits = rows.shape.len() == 2 && rows.shape[0] == sizes.iter().sum::<usize>();
        if !fits || sizes.len() > self.batches {
            return Err(not_a_state(state));
        }
        self.rows = Some(Tensor::from_slice(&rows.data, &rows.shape[..], &Device::Cpu)?);
        self.sizes = sizes;
        Ok(2)
    }
}

// The numbers are PyTorch 2.15's for the authors' published formulas, on the values of `views`:
//   p = softmax(lw, 1); p /= stack([[.6, .4], p.mean(0)]).mean(0); p /= p.sum(1, keepdim=True)
//   A = exp(fw @ bank_f.t() / .2); p = .9 * p + .1 * (A / A.sum(1, keepdim=True)) @ bank_p
//   Q = p @ p.t(); Q.fill_diagonal_(1); Q *= Q >= .8; Q /= Q.sum(1, keepdim=True)
//   sim = exp(n0 @ n1.t() / .2); lc = -(log(sim / sim.sum(1, keepdim=True) + 1e-7) * Q).sum(1).mean()
//   lu = (-(log_softmax(ls, 1) * p).sum(1) * (p.max(1)[0] >= .95)).mean()
#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::tests_of_gradients::{constant, gradient_or_zeros, scalar, var};
    use candle_core::Var;
    use std::collections::BTreeMap;

    const AT: Progress = Progress { step: 3, steps: 10, batch: 3, seed: 0 };

    struct Inputs {
        weak: Var,
        strong: Var,
        features: [Var; 3],
    }

    fn inputs() -> Inputs {
        Inputs {
            weak: var(&[[4.0, 0.0], [3.0, -1.0], [-2.0, 2.0]]),
            strong: var(&[[1.0, 0.5], [0.0, 0.0], [0.5, 1.5]]),
            features: [
                var(&[[1.0, 0.2], [0.9, -0.1], [-0.3, 1.0]]),
                var(&[[1.0, 0.1], [0.8, 0.3], [-0.2, 1.0]]),
                var(&[[0.9, 0.0], [1.0, -0.4], [0.1, 1.0]]),
            ],
        }
    }

    fn views(inputs: &Inputs) -> Views<'static> {
        let unit = |var: &Var| loss::unit_rows(var).unwrap();
        Views {
            labels: &[0, 1],
            logits_x: constant(&[[1.0, 0.0], [0.2, 0.4]]),
            logits_weak: inputs.weak.as_tensor().clone(),
            logits_strong: inputs.strong.as_tensor().clone(),
            features_x: constant(&[[1.0, 0.0], [0.0, 1.0]]),
            features_weak: unit(&inputs.features[0]),
            features_strong: unit(&inputs.features[1]),
            features_other: unit(&inputs.features[2]),
        }
    }

    fn method() -> CoMatch {
        let options =
            Options::parse("comatch", ENTRY.options, &BTreeMap::from([("queue".into(), "1".into())]))
                .unwrap();
        let mut method = CoMatch::new(&options).unwrap();
        let bank = loss::unit_rows(&constant(&[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [-1.0, 0.5]])).unwrap();
        method.memories.features.push(&bank).unwrap();
        let probabilities = constant(&[[0.9, 0.1], [0.2, 0.8], [0.5, 0.5], [0.1, 0.9]]);
        method.memories.probabilities.push(&probabilities).unwrap();
        method.memories.guesses.push(&constant(&[[0.6, 0.4]])).unwrap();
        method
    }

    fn close(found: &[f32], expected: &[f32]) {
        let near =
            found.len() == expected.len() && found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 2e-6);
        assert!(near, "expected {expected:?}, found {found:?}");
    }

    #[test]
    fn losses_equal_the_authors_formulas() {
        let loss = method().objective(&views(&inputs()), AT).unwrap();
        let parts: Vec<f32> = loss.parts.iter().map(|(_, part)| scalar(part)).collect();
        close(&parts, &[0.455_700_28, 0.345_386_03, 0.541_720_3, 2.0 / 3.0]);
        close(&[scalar(&loss.total)], &[parts[0] + parts[1] + parts[2]]);
    }

    #[test]
    fn gradients_equal_the_authors_and_none_reaches_the_weak_view() {
        let inputs = inputs();
        let total = method().objective(&views(&inputs), AT).unwrap().total;
        let strong = [0.0, 0.0, -0.152_354_36, 0.152_354_37, 0.079_730_7, -0.079_730_68];
        close(&gradient_or_zeros(&total, &inputs.strong), &strong);
        let [weak, first, second] = &inputs.features;
        let expected = [-0.008_815_84, 0.088_158_39, -0.108_807_33, 0.290_152_85, 0.003_930_65, 0.000_786_13];
        close(&gradient_or_zeros(&total, first), &expected);
        let expected = [0.0, 0.160_602_44, -0.133_329_96, -0.333_325_15, 0.106_536_31, -0.010_653_63];
        close(&gradient_or_zeros(&total, second), &expected);
        assert_eq!(gradient_or_zeros(&total, weak), [0.0; 6]);
        assert_eq!(gradient_or_zeros(&total, &inputs.weak), [0.0; 6]);
    }

    #[test]
    fn the_bank_moves_only_once_a_step_is_taken() {
        let mut method = method();
        let before = method.state().unwrap();
        method.objective(&views(&inputs()), AT).unwrap();
        assert_eq!(method.state().unwrap(), before);
        method.after_step(AT).unwrap();
        let (features, probabilities) = method.memories.bank(&Device::Cpu).unwrap().unwrap();
        assert_eq!(features.dims(), [5, 2], "three unlabeled and two labeled embeddings");
        let probabilities: Vec<f32> = probabilities.flatten_all().unwrap().to_vec1().unwrap();
        close(&probabilities[..2], &[0.969_714_8, 0.030_285_19]);
        close(&probabilities[6..], &[1.0, 0.0, 0.0, 1.0]);
        method.objective(&views(&inputs()), AT).unwrap();
        method.after_step(Progress { step: 4, ..AT }).unwrap();
        assert_eq!(
            method.memories.guesses.sizes,
            [1, 1],
            "a step that was skipped must leave nothing behind"
        );
    }

    #[test]
    fn a_restored_method_goes_on_as_the_first_would() {
        let mut first = method();
        first.objective(&views(&inputs()), AT).unwrap();
        first.after_step(AT).unwrap();
        let options =
            Options::parse("comatch", ENTRY.options, &BTreeMap::from([("queue".into(), "1".into())]))
                .unwrap();
        let mut second = CoMatch::new(&options).unwrap();
        second.restore(&first.state().unwrap()).unwrap();
        let total = |method: &mut CoMatch| scalar(&method.objective(&views(&inputs()), AT).unwrap().total);
        assert_eq!(total(&mut first), total(&mut second));
    }

    #[test]
    fn guesses_are_not_smoothed_before_the_bank_is_full() {
        let mut method = method();
        method.memories.features.batches = 2;
        let aligned = constant(&[[0.3, 0.7]]);
        let smoothed = method.smooth(&aligned, &constant(&[[1.0, 0.0]])).unwrap();
        assert_eq!(smoothed.to_vec2::<f32>().unwrap(), aligned.to_vec2::<f32>().unwrap());
    }

    #[test]
    fn recent_rows_are_those_of_the_last_batches_oldest_first() {
        let mut recent = Recent::new(2);
        let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (batch, (seen, full)) in [
            (constant(&[[1.0], [2.0]]), (vec![1.0, 2.0], false)),
            (constant(&[[3.0]]), (vec![1.0, 2.0, 3.0], true)),
            (constant(&[[4.0], [5.0]]), (vec![3.0, 4.0, 5.0], true)),
            (constant(&[[6.0]]), (vec![4.0, 5.0, 6.0], true)),
        ] {
            assert_eq!(values(&recent.with(&batch).unwrap()), seen);
            recent.push(&batch).unwrap();
            assert_eq!(recent.full(&Device::Cpu).unwrap().is_some(), full);
        }
        let mut one = Recent::new(1);
        one.push(&constant(&[[1.0]])).unwrap();
        assert_eq!(values(&one.with(&constant(&[[2.0]])).unwrap()), [2.0]);
    }

    #[test]
    fn a_state_of_another_kind_is_refused() {
        let mut state = method().state().unwrap();
        assert_eq!(state.len(), 6);
        state.insert("bank.0000.features".into(), Array::new([1], vec![0.0]));
        let error = method().restore(&state).unwrap_err().to_string();
        assert!(error.contains("bank.0000.features"), "{error}");
        state.remove("bank.0000.features");
        state.remove("bank.features.sizes");
        assert!(method().restore(&state).is_err());
    }
}

//! Mean Teacher (Tarvainen and Valpola 2017): the student agrees with its own average on another view.
//!
//! `CE(y, p(w(x))) + c(t) d(p(w(u)), sg(p'(w'(u))))`, `p'` the moving average of the student, `w`, `w'` two weak views,
//! `d` the mean squared error of probabilities (or KL); `c(t)` grows linearly to 50 over the first 40 % of the run.
//!
//! Defaults: weight, ramp, EMA 0.999, one unlabeled picture per labeled one as in google-research/fixmatch's baseline.
//! Labeled and unlabeled pictures go through the student apart: running statistics come from the labeled forward alone;
//! the teacher normalizes by its batch and moves no statistics. The consistency term reaches the student's weights: a
//! public port that lost this gradient published results equal to supervised training's.
//! `logit-distance` (the authors' trick; 0.01 there) gives the student a second classifier for the consistency term and
//! ties the two by a squared distance of logits.
//! Claim: 87.69 % on CIFAR-10 with 4000 labels (ConvNet-13), against 79.34 % supervised.

use candle_core::Tensor;
use data::{Augment, Batch, Draw, Part};
use engine::{BatchNormMode, Fwd, Grad};
use models::{Graph, GraphError, Linear};

use super::{Loss, Method, MethodEntry, Nets, OptionSpec, Options, Progress};
use crate::error::Result;
use crate::loss;

/// The registry's line.
pub static ENTRY: MethodEntry = MethodEntry {
    name: "mean-teacher",
    summary: "agreement with the moving average of oneself on another view",
    paper: "Tarvainen and Valpola 2017, Mean teachers are better role models",
    uses_unlabeled: true,
    ema: 0.999,
    options: &[
        OptionSpec { key: "mu", default: "1", help: "unlabeled pictures per labeled one" },
        OptionSpec { key: "distance", default: "mse", help: "between probabilities: `mse` or `kl`" },
        OptionSpec { key: "weight", default: "50", help: "largest weight of the consistency term" },
        OptionSpec {
            key: "ramp",
            default: "0.4",
            help: "share of the run over which the weight grows, 0..1",
        },
        OptionSpec {
            key: "logit-distance",
            default: "0",
            help: "weight of the distance between two classifiers' logits; 0 for one classifier",
        },
    ],
    build: |options| Ok(Box::new(MeanTeacher::new(options)?)),
};

const SECOND_HEAD: &str = "consistency";

/// The method with its constants.
pub struct MeanTeacher {
    mu: usize,
    kl: bool,
    weight: f64,
    ramp: f64,
    logit_distance: f64,
}

impl MeanTeacher {
    /// From its options.
    ///
    /// # Errors
    /// A value out of range.
    pub fn new(options: &Options) -> Result<Self> {
        Ok(Self {
            mu: options.count("mu", 1)?,
            kl: options.choice("distance", &["mse", "kl"])? == 1,
            weight: options.number("weight", 0.0..=1e6)?,
            ramp: options.number("ramp", 0.0..=1.0)?,
            logit_distance: options.number("logit-distance", 0.0..=1e6)?,
        })
    }

    fn two_heads(&self) -> bool {
        self.logit_distance > 0.0
    }

    /// c(t): linear from 0 over the ramp, then constant.
    fn consistency_weight(&self, at: Progress) -> f64 {
        let ramped = if self.ramp > 0.0 { (at.fraction() / self.ramp).min(1.0) } else { 1.0 };
        self.weight * ramped
    }

    fn consistency(&self, student: &Tensor, teacher: &Tensor) -> Result<Tensor> {
        let target = loss::softmax(&teacher.detach())?;
        Ok(if self.kl { loss::kl(&target, student, 1.0)? } else { loss::softmax_mse(student, &target)? })
    }
}

impl Method for MeanTeacher {
    fn draws(&self, batch: usize) -> Vec<Draw> {
        let views = vec![Augment::Weak, Augment::Weak];
        vec![
            Draw { part: Part::Labeled, count: batch, views: vec![Augment::Weak] },
            Draw { part: Part::All, count: self.mu * batch, views },
        ]
    }

    fn main_draw(&self) -> usize {
        1
    }

    fn heads(&self, graph: &mut Graph) -> Result<(), GraphError> {
        if self.two_heads() {
            let classes = graph.node(graph.output("logits")?).shape.elements();
            let features = graph.output("features")?;
            let head = graph.linear(SECOND_HEAD, features, Linear::new(classes))?;
            graph.set_output(SECOND_HEAD, head);
        }
        Ok(())
    }

    fn loss(&mut self, nets: &Nets<'_>, batch: &Batch, at: Progress) -> Result<Loss> {
        let (x, u) = (&batch.draws[0], &batch.draws[1]);
        let want: &[&str] = if self.two_heads() { &["logits", SECOND_HEAD] } else { &["logits"] };
        let consistent = *want.last().unwrap_or(&"logits");
        let pass = |pass, grad, update| Fwd {
            grad,
            bn: BatchNormMode::Train { update },
            want,
            step: at.batch,
            pass,
        };

        let labeled = nets.student.forward(&nets.images(&x.views)?, pass(0, Grad::Params, true))?;
        let seen = nets.student.forward(&nets.images(&u.views[..1])?, pass(1, Grad::Params, false))?;
        let taught = nets.teacher()?.forward(&nets.images(&u.views[1..])?, pass(2, Grad::None, false))?;

        let targets = loss::one_hot(&x.labels, nets.classes()?, labeled.get("logits")?.device())?;
        let loss_x = loss::cross_entropy(labeled.get("logits")?, &targets)?;
        let loss_u = self.consistency(seen.get(consistent)?, taught.get("logits")?)?;
        let mut total = (&loss_x + (&loss_u * self.consistency_weight(at))?)?;
        if self.two_heads() {
            for outputs in [&labeled, &seen] {
                let apart = loss::mean_squared_error(outputs.get("logits")?, outputs.get(SECOND_HEAD)?)?;
                total = (total + (apart * self.logit_distance)?)?;
            }
        }
        Ok(Loss::new(total, &[("labeled", &loss_x), ("consistency", &loss_u)]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::tests_of_gradients::{constant, gradient_or_zeros, scalar, var};
    use std::collections::BTreeMap;

    fn method(distance: &str) -> MeanTeacher {
        let given = BTreeMap::from([("distance".to_string(), distance.to_string())]);
        MeanTeacher::new(&Options::parse("mean-teacher", ENTRY.options, &given).unwrap()).unwrap()
    }

    #[test]
    fn the_weight_grows_over_forty_percent() {
        let at = |step| Progress { step, steps: 100, batch: step, seed: 0 };
        let weights = [0, 20, 40, 99].map(|step| method("mse").consistency_weight(at(step)));
        assert_eq!(weights, [0.0, 25.0, 50.0, 50.0]);
    }

    #[test]
    fn distances_on_numbers_worked_by_hand() {
        // p = [0.75, 0.25] against [0.5, 0.5]: squares of 0.25; KL = 0.5 ln(0.5 / 0.75) + 0.5 ln(0.5 / 0.25).
        let (student, teacher) = (constant(&[[3f32.ln(), 0.0]]), constant(&[[0.0, 0.0]]));
        let mse = method("mse").consistency(&student, &teacher).unwrap();
        assert!((scalar(&mse) - 0.0625).abs() < 1e-6);
        let kl = method("kl").consistency(&student, &teacher).unwrap();
        assert!((scalar(&kl) - 0.5 * (0.5f32 / 0.75).ln() - 0.5 * 2f32.ln()).abs() < 1e-6);
    }

    #[test]
    fn the_gradient_reaches_the_student_and_not_the_teacher() {
        for distance in ["mse", "kl"] {
            let (student, teacher) = (var(&[[1.0, 0.0]]), var(&[[0.0, 0.5]]));
            let loss = method(distance).consistency(&student, &teacher).unwrap();
            assert!(gradient_or_zeros(&loss, &student).iter().all(|&g| g != 0.0));
            assert_eq!(gradient_or_zeros(&loss, &teacher), [0.0; 2]);
        }
    }
}

//! FixMatch (Sohn et al. 2020): a confident guess on the weak view is the label of the strong view.
//!
//! `CE(y, p(w(x))) + lambda_u * mean 1[max q >= tau] CE(argmax q, p(s(u)))`, `q = sg(p(w(u)))`.
//!
//! Defaults are the authors' (CIFAR-10): mu 7, tau 0.95, lambda_u 1, hard labels, EMA 0.999, the labeled pictures also in
//! the unlabeled pool. As there, labeled and both unlabeled views go through the network in one forward, so that batch
//! norm sees them together, and the mean runs over all mu B unlabeled pictures, confident or not.
//! Claim: 94.93 % on CIFAR-10 with 250 labels, 95.74 % with 4000 (WRN-28-2, 2^20 steps).

use candle_core::{D, Tensor};
use data::{Augment, Batch, Draw, Part};
use engine::{BatchNormMode, Fwd, Grad};

use super::{Loss, Method, MethodEntry, Nets, OptionSpec, Options, Progress};
use crate::error::Result;
use crate::loss;

/// The registry's line.
pub static ENTRY: MethodEntry = MethodEntry {
    name: "fixmatch",
    summary: "confident guesses on weak views are the labels of strong views",
    paper: "Sohn et al. 2020, FixMatch: Simplifying Semi-Supervised Learning with Consistency and Confidence",
    uses_unlabeled: true,
    ema: 0.999,
    options: &[
        OptionSpec { key: "mu", default: "7", help: "unlabeled pictures per labeled one" },
        OptionSpec { key: "tau", default: "0.95", help: "confidence from which a guess counts, 0..1" },
        OptionSpec { key: "lambda-u", default: "1", help: "weight of the unlabeled term" },
        OptionSpec {
            key: "pool",
            default: "all",
            help: "unlabeled pictures: `all`, the labeled ones among them, or `unlabeled` alone",
        },
    ],
    build: |options| Ok(Box::new(FixMatch::new(options)?)),
};

/// The method with its constants.
pub struct FixMatch {
    mu: usize,
    tau: f64,
    lambda_u: f64,
    pool: Part,
}

impl FixMatch {
    /// From its options.
    ///
    /// # Errors
    /// A value out of range.
    pub fn new(options: &Options) -> Result<Self> {
        Ok(Self {
            mu: options.count("mu", 1)?,
            tau: options.number("tau", 0.0..=1.0)?,
            lambda_u: options.number("lambda-u", 0.0..=1e6)?,
            pool: [Part::All, Part::Unlabeled][options.choice("pool", &["all", "unlabeled"])?],
        })
    }

    fn objective(&self, labeled: &Tensor, labels: &[u32], weak: &Tensor, strong: &Tensor) -> Result<Loss> {
        let classes = labeled.dim(1)?;
        let loss_x = loss::cross_entropy(labeled, &loss::one_hot(labels, classes, labeled.device())?)?;

        let guesses = loss::softmax(&weak.detach())?;
        let mask = loss::confident(&guesses, self.tau)?;
        let targets = loss::one_hot_of(&guesses.argmax(D::Minus1)?, classes)?;
        let loss_u = loss::weighted_cross_entropy(strong, &targets, &mask)?;

        let total = (&loss_x + (&loss_u * self.lambda_u)?)?;
        let confident = mask.mean_all()?;
        Ok(Loss::new(total, &[("labeled", &loss_x), ("unlabeled", &loss_u), ("confident", &confident)]))
    }
}

impl Method for FixMatch {
    fn draws(&self, batch: usize) -> Vec<Draw> {
        let views = vec![Augment::Weak, Augment::Strong];
        vec![
            Draw { part: Part::Labeled, count: batch, views: vec![Augment::Weak] },
            Draw { part: self.pool, count: self.mu * batch, views },
        ]
    }

    fn main_draw(&self) -> usize {
        1
    }

    fn loss(&mut self, nets: &Nets<'_>, batch: &Batch, at: Progress) -> Result<Loss> {
        let (x, u) = (&batch.draws[0], &batch.draws[1]);
        let images = nets.images(&[x.views[0], u.views[0], u.views[1]])?;
        let fwd = Fwd {
            grad: Grad::Params,
            bn: BatchNormMode::Train { update: true },
            want: &["logits"],
            step: at.batch,
            pass: 0,
        };
        let outputs = nets.student.forward(&images, fwd)?;
        let logits = outputs.get("logits")?;
        let (b, mu_b) = (x.ids.len(), u.ids.len());
        let labeled = logits.narrow(0, 0, b)?;
        let weak = logits.narrow(0, b, mu_b)?;
        let strong = logits.narrow(0, b + mu_b, mu_b)?;
        self.objective(&labeled, &x.labels, &weak, &strong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::tests_of_gradients::{constant, gradient_or_zeros, scalar, var};
    use std::collections::BTreeMap;

    fn method(tau: &str) -> FixMatch {
        let given = BTreeMap::from([("tau".to_string(), tau.to_string())]);
        FixMatch::new(&Options::parse("fixmatch", ENTRY.options, &given).unwrap()).unwrap()
    }

    #[test]
    fn the_loss_is_the_papers_on_numbers_worked_by_hand() {
        // CE of [0, 0] is ln 2. Weak [2 ln 3, 0] guesses class 0 at 0.9, weak [0, 0] at 0.5: at tau 0.8 one of two
        // counts, its strong view [ln 3, 0] costs -ln 0.75; half of that is the mean.
        let (ln3, ln2) = (3f32.ln(), 2f32.ln());
        let weak = constant(&[[2.0 * ln3, 0.0], [0.0, 0.0]]);
        let strong = constant(&[[ln3, 0.0], [5.0, -5.0]]);
        let loss = method("0.8").objective(&constant(&[[0.0, 0.0]]), &[1], &weak, &strong).unwrap();
        let unlabeled = -0.75f32.ln() / 2.0;
        assert!((scalar(&loss.total) - (ln2 + unlabeled)).abs() < 1e-6);
        assert!((scalar(&loss.parts[1].1) - unlabeled).abs() < 1e-6);
        assert_eq!(scalar(&loss.parts[2].1), 0.5);
    }

    #[test]
    fn no_gradient_reaches_the_weak_view_or_an_uncertain_strong_view() {
        let labeled = var(&[[0.3, -0.2]]);
        let weak = var(&[[4.0, 0.0], [0.1, 0.0]]);
        let strong = var(&[[0.5, 0.0], [0.5, 0.0]]);
        let loss = method("0.95").objective(&labeled, &[1], &weak, &strong).unwrap();
        assert!(gradient_or_zeros(&loss.total, &labeled).iter().all(|&g| g != 0.0));
        assert_eq!(gradient_or_zeros(&loss.total, &weak), [0.0; 4]);
        let strong = gradient_or_zeros(&loss.total, &strong);
        assert!(strong[0] != 0.0 && strong[1] != 0.0);
        assert_eq!(strong[2..], [0.0; 2]);
    }
}

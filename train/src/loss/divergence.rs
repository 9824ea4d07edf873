//! Distances between two networks' answers to the same pictures.

use candle_core::{D, Result, Tensor};

use super::{log_softmax, softmax};

/// `T^2 * mean KL(teacher || softmax(student / T))`, the batch's mean (Hinton et al. 2015). `teacher` holds
/// probabilities, already at temperature `T`; the factor keeps the gradient's size as `T` grows.
///
/// # Errors
/// candle's.
pub fn kl(teacher: &Tensor, student_logits: &Tensor, temperature: f64) -> Result<Tensor> {
    // A probability of zero contributes nothing; the floor keeps its logarithm finite.
    let teacher_log = teacher.maximum(f32::MIN_POSITIVE)?.log()?;
    let student_log = log_softmax(&(student_logits / temperature)?)?;
    let per_sample = (teacher * (teacher_log - student_log)?)?.sum(D::Minus1)?;
    per_sample.mean_all()? * (temperature * temperature)
}

/// Mean over samples and values of the squared difference.
///
/// # Errors
/// candle's.
pub fn mean_squared_error(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    (a - b)?.sqr()?.mean_all()
}

/// Mean squared difference between `softmax(logits)` and `probabilities`, over samples and classes.
///
/// # Errors
/// candle's.
pub fn softmax_mse(logits: &Tensor, probabilities: &Tensor) -> Result<Tensor> {
    mean_squared_error(&softmax(logits)?, probabilities)
}

// The numbers are PyTorch 2.15's; `a`, `b` are the logits of `check::logits`:
//   F.kl_div(F.log_softmax(a/T, 1), F.softmax(b/T, 1), reduction='batchmean') * T*T      for T = 1 and 4
//   F.mse_loss(F.softmax(a, 1), F.softmax(b, 1))
#[cfg(test)]
mod tests {
    use super::super::check::{close, constant, gradient, logits};
    use super::*;

    #[test]
    fn kl_at_temperature_one_equals_torch() {
        let (a, b) = logits();
        let loss = kl(&softmax(&b).unwrap(), &a, 1.0).unwrap();
        close(&loss, &[1.800_058_4]);
        let expected = [0.060_178_04, -0.102_807_95, 0.042_629_91, -0.056_304_25, 0.411_049_9, -0.354_745_66];
        close(&gradient(&loss, &a), &expected);
    }

    #[test]
    fn kl_at_temperature_four_equals_torch() {
        let (a, b) = logits();
        let loss = kl(&softmax(&(b / 4.0).unwrap()).unwrap(), &a, 4.0).unwrap();
        close(&loss, &[2.198_557_1]);
        let expected = [0.087_615_55, -0.215_545_56, 0.127_929_93, -0.052_080_27, 0.583_586, -0.531_505_6];
        close(&gradient(&loss, &a), &expected);
    }

    #[test]
    fn a_certain_teacher_gives_a_finite_loss() {
        let (a, _) = logits();
        let loss = kl(&constant(&[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), &a, 1.0).unwrap();
        assert!(loss.to_scalar::<f32>().unwrap().is_finite());
    }

    #[test]
    fn mse_of_softmax_equals_torch() {
        let (a, b) = logits();
        let loss = softmax_mse(&a, &softmax(&b).unwrap()).unwrap();
        close(&loss, &[0.209_323_23]);
        let expected =
            [0.004_949_69, -0.004_003_44, -0.000_946_25, -0.013_836_91, 0.016_978_4, -0.003_141_49];
        close(&gradient(&loss, &a), &expected);
    }
}

//! Updates against torch's numbers and the processor's.

use super::*;
use crate::optimizer::Optimizer;

const START: [f32; 3] = [0.5, -1.25, 2.0];
const GRADIENTS: [[f32; 3]; 3] = [[0.1, -0.2, 0.3], [0.05, 0.4, -0.6], [-0.3, 0.25, 0.125]];
const NESTEROV: Optimizer = Optimizer::Sgd { momentum: 0.9, nesterov: true };
const ADAM: Optimizer = Optimizer::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8 };

/// The vectors of a network on the device.
struct Network {
    len: usize,
    theta: Memory,
    first: Memory,
    second: Memory,
    average: Memory,
    shadow: Memory,
    squares: Memory,
    pieces: Memory,
    count: usize,
}

impl Network {
    fn new(lab: &Lab, theta: &[f32], pieces: &[Piece]) -> Self {
        let zeros = vec![0.0; theta.len()];
        let words: Vec<u32> =
            pieces.iter().flat_map(|piece| [piece.offset, piece.len, piece.flags]).collect();
        Self {
            len: theta.len(),
            theta: lab.floats(theta),
            first: lab.floats(&zeros),
            second: lab.floats(&zeros),
            average: lab.floats(theta),
            shadow: lab.scratch(2 * theta.len()),
            squares: lab.scratch(size_of::<SquareSum>()),
            pieces: lab.words(&words),
            count: pieces.len(),
        }
    }

    fn vectors(&self, gradient: &Memory, average: bool) -> Vectors {
        Vectors {
            theta: self.theta.at,
            gradient: gradient.at,
            first: self.first.at,
            second: self.second.at,
            average: if average { self.average.at } else { Ptr::NONE },
            shadow: self.shadow.at,
        }
    }

    fn update(&self, lab: &Lab, optimizer: Optimizer, gradient: &[f32], scalars: &Scalars, average: bool) {
        let (gradient, scalars) = (lab.floats(gradient), lab.bytes(&scalar_bytes(scalars), 0));
        let scratch = lab.scratch(Kernels::square_sum_scratch(self.count));
        let (vectors, squares) = (self.vectors(&gradient, average), Some(self.squares.at));
        unsafe {
            lab.kernels
                .square_sum(self.pieces.at, self.count, gradient.at, scratch.at, self.squares.at)
                .unwrap();
            lab.kernels.update(optimizer, self.pieces.at, self.count, vectors, scalars.at, squares).unwrap();
        }
        lab.read_bytes(&scratch, 8 * self.count);
    }

    fn squares(&self, lab: &Lab) -> (f64, u32) {
        let bytes = lab.read_bytes(&self.squares, size_of::<SquareSum>());
        (
            f64::from_ne_bytes(bytes[..8].try_into().unwrap()),
            u32::from_ne_bytes(bytes[8..12].try_into().unwrap()),
        )
    }

    fn theta(&self, lab: &Lab) -> Vec<f32> {
        lab.read_floats(&self.theta, self.len)
    }
}

pub(super) fn scalar_bytes(scalars: &Scalars) -> Vec<u8> {
    let numbers = [
        scalars.lr,
        scalars.weight_decay,
        scalars.scale,
        scalars.clip_norm,
        scalars.first_decay,
        scalars.second_decay,
        scalars.eps,
        scalars.step_size,
        scalars.second_scale,
        scalars.average_decay,
    ];
    let words = numbers.map(f32::to_bits).into_iter().chain([scalars.nesterov, scalars.skip]);
    let bytes: Vec<u8> = words.flat_map(u32::to_ne_bytes).collect();
    assert_eq!(bytes.len(), size_of::<Scalars>());
    bytes
}

/// Three updates; `clip` as torch's `clip_grad_norm_`.
fn three_updates(lab: &Lab, optimizer: Optimizer, lr: f32, weight_decay: f32, clip: f32) -> Network {
    let piece = Piece { offset: 0, len: 3, flags: Piece::ACTIVE | Piece::DECAYS };
    let network = Network::new(lab, &START, &[piece]);
    for (step, gradient) in GRADIENTS.iter().enumerate() {
        let scalars = Scalars::new(optimizer, lr, weight_decay, 1.0, step as u64 + 1);
        let scalars = Scalars { clip_norm: clip, average_decay: 0.9, ..scalars };
        network.update(lab, optimizer, gradient, &scalars, true);
    }
    network
}

// The expected numbers are torch 2.15's: torch.optim.SGD and AdamW on a parameter [0.5, -1.25, 2.0] whose gradient is set
// to each of GRADIENTS in turn, and ema = 0.9 ema + 0.1 w after every step.

#[test]
fn updates_are_torchs() {
    let lab = Lab::open(Format::Bf16, 0);
    let check = |kernel, found: &Memory, expected: [f32; 3]| lab.close_floats(kernel, found, &expected, 2e-6);
    let network = three_updates(&lab, NESTEROV, 0.1, 0.01, f32::INFINITY);
    check("sgd", &network.theta, [0.505_163_43, -1.327_137_6, 2.019_702]);
    check("sgd average", &network.average, [0.495_402_3, -1.255_893_7, 1.999_168_9]);
    check("sgd momentum", &network.first, [-0.161_018_22, 0.414_327_23, -0.118_111_22]);
    assert_eq!(lab.read_map(&network.shadow, 3), lab.rounded(&network.theta(&lab)));

    let plain = Optimizer::Sgd { momentum: 0.9, nesterov: false };
    check("sgd", &three_updates(&lab, plain, 0.1, 0.0, f32::INFINITY).theta, [0.493_4, -1.296_8, 2.020_2]);
    check(
        "sgd clipped",
        &three_updates(&lab, NESTEROV, 0.1, 0.01, 0.25).theta,
        [0.503_146_77, -1.260_540_2, 1.956_883_8],
    );

    let network = three_updates(&lab, ADAM, 0.01, 0.1, f32::INFINITY);
    check("adamw", &network.theta, [0.482_681_27, -1.245_519_5, 1.989_294_6]);
    check("adamw average", &network.average, [0.495_589_58, -1.247_846_1, 1.997_027_9]);
    check("adamw first moment", &network.first, [-0.017_4, 0.044_8, -0.017_2]);
    check("adamw second moment", &network.second, [1.024_775_2e-4, 2.622_600_6e-4, 4.650_851_2e-4]);
    assert_eq!(lab.read_map(&network.shadow, 3), lab.rounded(&network.theta(&lab)));
}

/// Theta of pieces with gaps between them, aligned and not, of whole vectors and not.
fn pieces() -> (usize, Vec<Piece>) {
    let (both, active) = (Piece::ACTIVE | Piece::DECAYS, Piece::ACTIVE);
    let piece = |offset, len, flags| Piece { offset, len, flags };
    let large = Piece::LARGEST as u32;
    let list = vec![
        piece(0, large, both),
        piece(large, 1003, both),
        piece(large + 1008, 5, active),
        piece(large + 1017, 40, both),
        piece(large + 1072, 64, Piece::DECAYS),
        piece(large + 1136, 300, active),
    ];
    (Piece::LARGEST + 1500, list)
}

/// One float of the update by hand, as the processor's loops do it.
fn expected(
    optimizer: Optimizer,
    s: &Scalars,
    decays: bool,
    w: f32,
    g: f32,
    moments: [f32; 2],
) -> (f32, [f32; 2]) {
    let decay = if decays { s.weight_decay } else { 0.0 };
    let [first, second] = moments;
    let g = g * s.scale;
    match optimizer {
        Optimizer::Sgd { momentum, nesterov } => {
            let g = g + decay * w;
            let first = momentum * first + g;
            (w - s.lr * if nesterov { g + momentum * first } else { first }, [first, second])
        }
        Optimizer::AdamW { beta1, beta2, eps } => {
            let first = beta1 * first + (1.0 - beta1) * g;
            let second = beta2 * second + (1.0 - beta2) * g * g;
            let w = w * (1.0 - s.lr * decay);
            (w - s.step_size * first / (second.sqrt() * s.second_scale + eps), [first, second])
        }
    }
}

#[test]
fn every_float_of_every_piece_is_updated_and_no_other() {
    let lab = Lab::open(Format::Bf16, 0);
    let (len, pieces) = pieces();
    for (optimizer, average) in [(NESTEROV, true), (NESTEROV, false), (ADAM, true), (ADAM, false)] {
        let theta = ramp(len, 1.0);
        let network = Network::new(&lab, &theta, &pieces);
        let (mut w, mut moments, mut mean) = (theta.clone(), vec![[0.0; 2]; len], theta.clone());
        for step in 1..=2 {
            let gradient: Vec<f32> = ramp(len, 0.5 * step as f32);
            let scalars = Scalars { average_decay: 0.8, ..Scalars::new(optimizer, 0.05, 0.1, 0.5, step) };
            network.update(&lab, optimizer, &gradient, &scalars, average);
            for piece in &pieces {
                for i in piece.offset as usize..(piece.offset + piece.len) as usize {
                    if piece.flags & Piece::ACTIVE != 0 {
                        let decays = piece.flags & Piece::DECAYS != 0;
                        (w[i], moments[i]) =
                            expected(optimizer, &scalars, decays, w[i], gradient[i], moments[i]);
                    }
                    mean[i] = if average { 0.8 * mean[i] + 0.2 * w[i] } else { mean[i] };
                }
            }
        }
        lab.close_floats("sgd, adamw", &network.theta, &w, 1e-6);
        lab.close_floats("sgd, adamw average", &network.average, &mean, 1e-6);
        let moment = |which: usize| moments.iter().map(|pair| pair[which]).collect::<Vec<f32>>();
        lab.close_floats("sgd, adamw first moment", &network.first, &moment(0), 1e-6);
        lab.close_floats("adamw second moment", &network.second, &moment(1), 1e-6);
        let (shadow, theta) = (lab.read_bytes(&network.shadow, 2 * len), network.theta(&lab));
        for (i, pair) in shadow.chunks_exact(2).enumerate() {
            let active = pieces.iter().any(|piece| {
                piece.flags & Piece::ACTIVE != 0
                    && (piece.offset..piece.offset + piece.len).contains(&(i as u32))
            });
            assert_eq!(
                u16::from_ne_bytes([pair[0], pair[1]]),
                if active { bf16(theta[i]) } else { 0xffff },
                "{i}"
            );
        }
    }
}

#[test]
fn squares_are_summed_over_the_active_pieces_and_say_what_is_not_finite() {
    let lab = Lab::open(Format::F32, 0);
    let (len, pieces) = pieces();
    let network = Network::new(&lab, &vec![0.0; len], &pieces);
    let mut gradient = ramp(len, 3.0);
    let exact = |gradient: &[f32]| -> f64 {
        let active = pieces.iter().filter(|piece| piece.flags & Piece::ACTIVE != 0);
        let of = |piece: &Piece| &gradient[piece.offset as usize..(piece.offset + piece.len) as usize];
        active.flat_map(of).map(|&g| f64::from(g) * f64::from(g)).sum()
    };
    let scalars = Scalars { skip: 1, ..Scalars::new(NESTEROV, 0.1, 0.0, 1.0, 1) };
    network.update(&lab, NESTEROV, &gradient, &scalars, true);
    let (sum, finite) = network.squares(&lab);
    assert!((sum / exact(&gradient) - 1.0).abs() < 1e-13 && finite == 1, "{sum}");
    let before = network.theta(&lab);
    assert_ne!(before, vec![0.0; len]);

    gradient[2] = f32::MAX;
    network.update(&lab, NESTEROV, &gradient, &scalars, true);
    assert_eq!(network.squares(&lab).1, 1, "the largest number's square is finite in f64");

    let before =
        [&network.theta, &network.first, &network.average].map(|memory| lab.read_bytes(memory, 4 * len));
    for wrong in [f32::NAN, f32::INFINITY] {
        gradient[2] = wrong;
        network.update(&lab, NESTEROV, &gradient, &scalars, true);
        assert_eq!(network.squares(&lab).1, 0);
        let after =
            [&network.theta, &network.first, &network.average].map(|memory| lab.read_bytes(memory, 4 * len));
        assert!(before == after, "an update with {wrong} is skipped");
    }
    // A number that is not finite in an inactive piece is nobody's.
    gradient[2] = 0.0;
    gradient[pieces[4].offset as usize] = f32::NAN;
    network.update(&lab, NESTEROV, &gradient, &scalars, true);
    assert_eq!(network.squares(&lab).1, 1);
}

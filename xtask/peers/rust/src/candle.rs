//! candle's side of `cargo xtask peers`: a network of the zoo built from `candle_nn`'s own layers, on candle's own
//! autograd, without our engine.
//!
//! Arguments: `train` or `infer`, architecture, picture size, batch, steps. Answers each line of its input with a
//! figure: pictures per second of training steps (forward, cross-entropy, backward, SGD), or median milliseconds of a
//! call. The environment's `RAYON_NUM_THREADS` says how many threads.
//!
//! Where candle has less, it is asked for less, in its favor: pictures come normalized, SGD has no momentum, and
//! stochastic depth is left out.

use std::collections::HashMap;
use std::error::Error;
use std::io::BufRead;
use std::time::Instant;

use candle_core::{D, Device, Result, Tensor, Var};
use candle_nn::{
    Activation, BatchNorm, Conv2d, Conv2dConfig, Dropout, Linear, Module, ModuleT, Optimizer, SGD,
};
use models::{Graph, Node, Op, Pool2d, Task, formula, zoo};

const CLASSES: usize = 10;

/// What a node became.
enum Layer {
    Nothing,
    Conv2d(Conv2d),
    BatchNorm(BatchNorm),
    Linear(Linear),
    Activation(Activation),
    Dropout(Dropout),
    MaxPool(Pool2d),
    GlobalAvgPool,
    Flatten,
    Add,
    Mul,
}

/// A graph with a layer of candle's for every node.
struct Network {
    graph: Graph,
    layers: Vec<Layer>,
    trainable: Vec<Var>,
}

impl Network {
    fn new(graph: Graph, device: &Device) -> Result<Self> {
        let mut trainable = Vec::new();
        let mut stored = HashMap::new();
        let roles = graph.parameters();
        for (parameter, array) in roles.iter().map(|parameter| (parameter, formula::array(parameter, 1.0))) {
            let variable = Var::from_vec(array.data, array.shape, device)?;
            stored.insert(parameter.name.clone(), variable.as_tensor().clone());
            if parameter.role.trainable() {
                trainable.push(variable);
            }
        }
        let layers = graph.nodes().iter().map(|node| layer(node, &stored)).collect::<Result<_>>()?;
        Ok(Self { graph, layers, trainable })
    }

    fn forward(&self, pictures: &Tensor, train: bool) -> Result<Tensor> {
        let mut values: Vec<Tensor> = Vec::with_capacity(self.layers.len());
        for (node, layer) in self.graph.nodes().iter().zip(&self.layers) {
            let input = |index: usize| node.inputs.get(index).map_or(pictures, |id| &values[id.index()]);
            let x = input(0);
            let value = match layer {
                Layer::Nothing => x.clone(),
                Layer::Conv2d(conv) => conv.forward(x)?,
                Layer::BatchNorm(norm) => norm.forward_t(x, train)?,
                Layer::Linear(linear) => linear.forward(x)?,
                Layer::Activation(activation) => activation.forward(x)?,
                Layer::Dropout(dropout) => dropout.forward(x, train)?,
                Layer::MaxPool(pool) => max_pool(x, pool, train)?,
                Layer::GlobalAvgPool => x.mean_keepdim(D::Minus1)?.mean_keepdim(D::Minus2)?,
                Layer::Flatten => x.flatten_from(1)?,
                Layer::Add => (x + input(1))?,
                Layer::Mul => x.broadcast_mul(input(1))?,
            };
            values.push(value);
        }
        values.pop().ok_or_else(|| candle_core::Error::Msg("a network without nodes".into()))
    }
}

fn layer(node: &Node, stored: &HashMap<String, Tensor>) -> Result<Layer> {
    let find = |suffix: &str| stored.get(&format!("{}.{suffix}", node.name)).cloned();
    let expect = |suffix| {
        find(suffix).ok_or_else(|| candle_core::Error::Msg(format!("{} has no {suffix}", node.name)))
    };
    Ok(match &node.op {
        Op::Input | Op::Normalize { .. } | Op::StochasticDepth(_) => Layer::Nothing,
        Op::Conv2d(conv) => {
            let (stride, padding, groups) = (conv.stride[0], conv.padding[0], conv.groups);
            let config = Conv2dConfig { stride, padding, groups, ..Conv2dConfig::default() };
            Layer::Conv2d(Conv2d::new(expect("weight")?, find("bias"), config))
        }
        Op::BatchNorm(norm) => Layer::BatchNorm(BatchNorm::new_with_momentum(
            expect("weight")?.elem_count(),
            expect("running_mean")?,
            expect("running_var")?,
            expect("weight")?,
            expect("bias")?,
            f64::from(norm.eps),
            f64::from(norm.momentum),
        )?),
        Op::Linear(_) => Layer::Linear(Linear::new(expect("weight")?, find("bias"))),
        Op::Activation(activation) => Layer::Activation(match *activation {
            models::Activation::Relu => Activation::Relu,
            models::Activation::Relu6 => Activation::Relu6,
            models::Activation::LeakyRelu(slope) => Activation::LeakyRelu(f64::from(slope)),
            models::Activation::Silu => Activation::Silu,
            models::Activation::HardSwish => Activation::HardSwish,
            models::Activation::HardSigmoid => Activation::HardSigmoid,
            models::Activation::Sigmoid => Activation::Sigmoid,
        }),
        Op::Dropout(probability) => Layer::Dropout(Dropout::new(*probability)),
        Op::MaxPool(pool) => Layer::MaxPool(*pool),
        Op::GlobalAvgPool => Layer::GlobalAvgPool,
        Op::Flatten => Layer::Flatten,
        Op::Add => Layer::Add,
        Op::Mul => Layer::Mul,
        Op::AvgPool(_) => candle_core::bail!("{}: windowed means are not translated", node.name),
    })
}

/// A maximum over windows. candle differentiates it only where windows do not overlap, and does not pad: the 3x3 window
/// at stride 2 of ResNet's stem is the maximum of four 2x2 windows in training, which start a row or column apart.
fn max_pool(x: &Tensor, pool: &Pool2d, train: bool) -> Result<Tensor> {
    let (kernel, stride, padding) = (pool.kernel[0], pool.stride[0], pool.padding[0]);
    if kernel == stride && padding == 0 {
        return x.max_pool2d(kernel);
    }
    if (kernel, stride, padding) != (3, 2, 1) || x.dim(2)? % 2 + x.dim(3)? % 2 > 0 {
        candle_core::bail!("max-pooling {kernel}/{stride}/{padding} of {:?} is not translated", x.dims());
    }
    // What is pooled comes from a ReLU, so zeros never win.
    if !train {
        return x.pad_with_zeros(2, 1, 0)?.pad_with_zeros(3, 1, 0)?.max_pool2d_with_stride(3, 2);
    }
    let shifted = |x: &Tensor, dim: usize| x.narrow(dim, 0, x.dim(dim)? - 1)?.pad_with_zeros(dim, 1, 0);
    let wide = x.max_pool2d(2)?.maximum(&shifted(x, 3)?.max_pool2d(2)?)?;
    let low = shifted(x, 2)?;
    wide.maximum(&low.max_pool2d(2)?.maximum(&shifted(&low, 3)?.max_pool2d(2)?)?)
}

fn main() -> std::result::Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kind, arch, size, batch, steps] = arguments.as_slice() else {
        return Err("expected train|infer ARCH SIZE BATCH STEPS".into());
    };
    let (size, batch, steps): (usize, usize, usize) = (size.parse()?, batch.parse()?, steps.parse()?);
    let device = Device::Cpu;
    let network = Network::new(zoo::build(arch, &Task::new(CLASSES, 3, size))?, &device)?;
    let pictures = Tensor::rand(0_f32, 1.0, (batch, 3, size, size), &device)?;
    let labels = (0..batch).map(|index| (index % CLASSES) as u32).collect::<Vec<_>>();
    let labels = Tensor::from_vec(labels, batch, &device)?;
    let mut optimizer = SGD::new(network.trainable.clone(), 0.01)?;
    let trains = kind == "train";
    let mut step = || -> Result<f64> {
        let start = Instant::now();
        let logits = network.forward(&pictures, trains)?;
        if trains {
            optimizer.backward_step(&candle_nn::loss::cross_entropy(&logits, &labels)?)?;
        }
        Ok(start.elapsed().as_secs_f64())
    };
    step()?;
    for line in std::io::stdin().lock().lines() {
        line?;
        let mut times = (0..steps).map(|_| step()).collect::<Result<Vec<f64>>>()?;
        times.sort_by(f64::total_cmp);
        println!(
            "{}",
            if trains {
                batch as f64 * steps as f64 / times.iter().sum::<f64>()
            } else {
                times[steps / 2] * 1e3
            }
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stems_maximum_is_the_same_from_four_windows() -> Result<()> {
        let values: Vec<f32> = (0..2 * 8 * 6).map(|index| (index * 37 % 101) as f32).collect();
        let x = Tensor::from_vec(values, (1, 2, 8, 6), &Device::Cpu)?;
        let pool = Pool2d::new(3).stride(2).padding(1);
        let (trained, evaluated) = (max_pool(&x, &pool, true)?, max_pool(&x, &pool, false)?);
        assert_eq!(trained.dims(), [1, 2, 4, 3]);
        assert_eq!(trained.flatten_all()?.to_vec1::<f32>()?, evaluated.flatten_all()?.to_vec1::<f32>()?);
        Ok(())
    }

    #[test]
    fn gradients_reach_every_parameter() -> std::result::Result<(), Box<dyn Error>> {
        for arch in ["small-cnn-3", "resnet18", "mobilenet-v3-small"] {
            let network = Network::new(zoo::build(arch, &Task::new(CLASSES, 3, 32))?, &Device::Cpu)?;
            let pictures = Tensor::rand(0_f32, 1.0, (4, 3, 32, 32), &Device::Cpu)?;
            let logits = network.forward(&pictures, true)?;
            assert_eq!(logits.dims(), [4, CLASSES]);
            let gradients = logits.sqr()?.sum_all()?.backward()?;
            let reached = network.trainable.iter().filter(|variable| gradients.get(variable).is_some());
            assert_eq!(reached.count(), network.trainable.len(), "{arch}");
        }
        Ok(())
    }
}

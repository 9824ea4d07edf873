//! What is measured, by names such as `train/resnet18/32/b64`, `infer/small-cnn-3/48/t1` and
//! `infer/mobilenet-v3-large/32/t1/bf16`.

use crate::Result;

/// The cases that are run unless told otherwise.
const CASES: &[&str] = &[
    "train/mobilenet-v3-large/32/b64",
    "train/efficientnet-b0/32/b64",
    "train/resnet18/32/b64",
    "train/small-cnn-3/48/b64",
    "train/wrn-28-2/32/b64",
    "infer/mobilenet-v3-large/32/t1",
    "infer/mobilenet-v3-large/32/t1/bf16",
    "infer/mobilenet-v3-large/32/t1/int8",
    "infer/mobilenet-v3-large/32/t2",
    "infer/efficientnet-b0/32/t1",
    "infer/mobilenet-v3-small/96/t1",
    "infer/small-cnn-3/48/t1",
    "infer/small-cnn-3/48/t1/int8",
    "infer/small-cnn-3/48/t2",
    "infer/resnet18/48/t1",
    "infer/resnet18/48/t1/int8",
    "infer/resnet18/224/t1",
    "infer/resnet18/224/t1/int8",
    "infer/mobilenet-v3-large/224/t1",
    "infer/mobilenet-v3-large/224/t1/int8",
    "infer/mobilenet-v3-large/224/t2",
];

/// What is done with a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Forward, loss, backward and update on a batch in memory: pictures per second.
    Train,
    /// An answer to one picture: milliseconds.
    Infer,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Train => "train",
            Kind::Infer => "infer",
        }
    }

    /// What stands before a case's number.
    fn mark(self) -> char {
        match self {
            Kind::Train => 'b',
            Kind::Infer => 't',
        }
    }

    pub fn unit(self) -> &'static str {
        match self {
            Kind::Train => "pictures/s",
            Kind::Infer => "ms",
        }
    }

    /// How our figure compares; above 1 is in our favor.
    pub fn ratio(self, ours: f64, theirs: f64) -> f64 {
        match self {
            Kind::Train => ours / theirs,
            Kind::Infer => theirs / ours,
        }
    }
}

/// How our side stores weights in inference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weights {
    F32,
    /// Peers compute with f32.
    Bf16,
    /// A quantized network; so is ONNX Runtime's.
    Int8,
}

impl Weights {
    pub fn name(self) -> &'static str {
        match self {
            Weights::F32 => "f32",
            Weights::Bf16 => "bf16",
            Weights::Int8 => "int8",
        }
    }
}

/// A network at a picture size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    pub kind: Kind,
    pub arch: String,
    /// Side of the pictures in pixels.
    pub size: usize,
    /// The batch in training, threads in inference.
    pub number: usize,
    pub weights: Weights,
}

impl Case {
    pub fn parse(name: &str) -> Option<Self> {
        let parts: Vec<&str> = name.split('/').collect();
        let (parts, weights) = match parts.as_slice() {
            [parts @ .., weights] if parts.len() == 4 => {
                (parts, [Weights::Bf16, Weights::Int8].into_iter().find(|known| known.name() == *weights)?)
            }
            parts => (parts, Weights::F32),
        };
        let &[kind, arch, size, number] = parts else { return None };
        let kind = [Kind::Train, Kind::Infer].into_iter().find(|known| known.name() == kind)?;
        if kind == Kind::Train && weights != Weights::F32 {
            return None;
        }
        let positive = |text: &str| text.parse().ok().filter(|&number| number > 0);
        let number = positive(number.strip_prefix(kind.mark())?)?;
        Some(Self { kind, arch: arch.to_string(), size: positive(size)?, number, weights })
    }

    pub fn name(&self) -> String {
        let Self { kind, arch, size, number, weights } = self;
        let name = format!("{}/{arch}/{size}/{}{number}", kind.name(), kind.mark());
        match weights {
            Weights::F32 => name,
            stored => format!("{name}/{}", stored.name()),
        }
    }

    /// Pictures at once.
    pub fn batch(&self) -> usize {
        match self.kind {
            Kind::Train => self.number,
            Kind::Infer => 1,
        }
    }

    /// Threads of every side; `training` is what training was told to use.
    pub fn threads(&self, training: usize) -> usize {
        match self.kind {
            Kind::Train => training,
            Kind::Infer => self.number,
        }
    }

    /// Steps or calls of a turn: about a second of them.
    pub fn repeats(&self) -> usize {
        match self.kind {
            Kind::Train => 20,
            Kind::Infer => (2_000_000 / (self.size * self.size)).clamp(30, 1000),
        }
    }
}

/// All listed cases.
pub fn all() -> Vec<Case> {
    CASES.iter().filter_map(|name| Case::parse(name)).collect()
}

/// The listed case of this name, or all listed ones whose names hold the text, or a new one that it names in full.
pub fn named(text: &str) -> Result<Vec<Case>> {
    if let Some(case) = Case::parse(text) {
        return Ok(vec![case]);
    }
    let listed: Vec<Case> = all().into_iter().filter(|case| case.name().contains(text)).collect();
    if listed.is_empty() {
        return Err(format!(
            "--case {text}: neither part of a listed name nor one in full; listed:\n  {}",
            CASES.join("\n  ")
        ));
    }
    Ok(listed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listed_case_reads_back_as_its_name() {
        assert_eq!(all().iter().map(Case::name).collect::<Vec<_>>(), CASES);
    }

    #[test]
    fn cases_are_found_by_a_part_or_made_by_a_full_name() {
        assert_eq!(named("train/").unwrap().len(), 5);
        assert_eq!(named("/bf16").unwrap().len(), 1);
        assert_eq!(named("infer/resnet50/64/t2").unwrap()[0].number, 2);
        assert!(named("resnet99").unwrap_err().contains("train/resnet18/32/b64"));
        assert!(named("train/resnet50/64/t2").is_err());
    }

    #[test]
    fn a_full_name_means_itself_and_not_the_longer_names_that_hold_it() {
        assert_eq!(named("infer/mobilenet-v3-large/32/t1").unwrap().len(), 1);
    }

    #[test]
    fn weights_are_a_suffix_of_inference_alone() {
        assert_eq!(Case::parse("infer/resnet18/48/t1/bf16").unwrap().weights, Weights::Bf16);
        assert_eq!(Case::parse("infer/resnet18/48/t1/int8").unwrap().weights, Weights::Int8);
        assert_eq!(Case::parse("infer/resnet18/48/t1").unwrap().weights, Weights::F32);
        for name in [
            "train/resnet18/32/b64/bf16",
            "infer/resnet18/48/t1/f8",
            "infer/resnet18/48/t1/f32",
            "infer/resnet18/48/bf16",
        ] {
            assert_eq!(Case::parse(name), None, "{name}");
        }
    }

    #[test]
    fn sizes_and_numbers_are_above_zero() {
        for name in ["infer/resnet18/0/t1", "infer/resnet18/48/t0", "train/resnet18/32/b-1"] {
            assert_eq!(Case::parse(name), None, "{name}");
        }
    }

    #[test]
    fn ratios_above_one_are_in_our_favor() {
        assert_eq!(Kind::Train.ratio(300.0, 100.0), 3.0);
        assert_eq!(Kind::Infer.ratio(1.0, 3.0), 3.0);
    }
}

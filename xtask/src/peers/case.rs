//! What is measured, by names such as `train/resnet18/32/b64` and `infer/small-cnn-3/48/t1`.

use crate::Result;

/// The cases that are run unless told otherwise.
const CASES: &[&str] = &[
    "train/mobilenet-v3-large/32/b64",
    "train/efficientnet-b0/32/b64",
    "train/resnet18/32/b64",
    "train/small-cnn-3/48/b64",
    "train/wrn-28-2/32/b64",
    "infer/mobilenet-v3-large/32/t1",
    "infer/efficientnet-b0/32/t1",
    "infer/mobilenet-v3-small/96/t1",
    "infer/small-cnn-3/48/t1",
    "infer/resnet18/48/t1",
    "infer/resnet18/224/t1",
    "infer/mobilenet-v3-large/224/t1",
    "infer/mobilenet-v3-large/224/t2",
];

/// What is done with a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Forward, loss, backward and update on a batch in memory.
    Train,
    /// An answer to one picture.
    Infer,
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
}

impl Case {
    fn parse(name: &str) -> Option<Self> {
        let parts: Vec<&str> = name.split('/').collect();
        let [kind, arch, size, number] = parts.as_slice() else { return None };
        let (kind, mark) = match *kind {
            "train" => (Kind::Train, 'b'),
            "infer" => (Kind::Infer, 't'),
            _ => return None,
        };
        let number = number.strip_prefix(mark)?.parse().ok().filter(|&number| number > 0)?;
        Some(Self { kind, arch: arch.to_string(), size: size.parse().ok()?, number })
    }

    pub fn name(&self) -> String {
        let (kind, mark) = match self.kind {
            Kind::Train => ("train", 'b'),
            Kind::Infer => ("infer", 't'),
        };
        format!("{kind}/{}/{}/{mark}{}", self.arch, self.size, self.number)
    }
}

/// All listed cases.
pub fn all() -> Vec<Case> {
    CASES.iter().filter_map(|name| Case::parse(name)).collect()
}

/// The listed cases whose names hold the text, or the one that it names in full.
pub fn named(text: &str) -> Result<Vec<Case>> {
    let listed: Vec<Case> = all().into_iter().filter(|case| case.name().contains(text)).collect();
    match (listed.is_empty(), Case::parse(text)) {
        (false, _) => Ok(listed),
        (true, Some(case)) => Ok(vec![case]),
        (true, None) => Err(format!(
            "--case {text}: neither part of a listed name nor one in full; listed:\n  {}",
            CASES.join("\n  ")
        )),
    }
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
        assert_eq!(named("infer/resnet50/64/t2").unwrap()[0].number, 2);
        assert!(named("resnet99").unwrap_err().contains("train/resnet18/32/b64"));
        assert!(named("train/resnet50/64/t2").is_err());
    }
}

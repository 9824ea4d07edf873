//! What a row's answers are worth: measured now on the row's own engine and file, or read from what the file or its
//! bundle says of that very file, or not known. Never an accuracy of another file.

use std::path::Path;

use models::Bundle;
use models::bundle::RawBundle;
use serde::{Deserialize, Serialize};

use super::files::ModelFile;

/// Share of right answers, and where it is from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "kebab-case")]
pub enum Accuracy {
    /// By this run of the bench, on the row's own engine.
    Measured(Share),
    /// By whoever wrote the file; the engine may have been another.
    Recorded(Share),
    /// Nobody said.
    NotMeasured {
        /// Why, and what mends it.
        reason: String,
    },
}

/// A share of right answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// Share of pictures whose label is the first answer, 0..1.
    pub top1: f64,
    /// Pictures it was measured on.
    pub count: usize,
    /// What pictures: `test part of cifar10`.
    pub pictures: String,
}

impl Accuracy {
    /// The share, where there is one.
    pub fn share(&self) -> Option<&Share> {
        match self {
            Accuracy::Measured(share) | Accuracy::Recorded(share) => Some(share),
            Accuracy::NotMeasured { .. } => None,
        }
    }

    /// As tables have it: `86.21 % (n 10000, measured)`.
    pub fn text(&self) -> String {
        let (share, how) = match self {
            Accuracy::Measured(share) => (share, "measured"),
            Accuracy::Recorded(share) => (share, "recorded"),
            Accuracy::NotMeasured { .. } => return "not measured".into(),
        };
        format!("{:.2} % (n {}, {how})", share.top1 * 100.0, share.count)
    }
}

/// What somebody wrote down of this very file: its bundle, if its hash is the bundle's, or the file itself.
pub(super) fn recorded(file: &ModelFile) -> Option<Accuracy> {
    let path = Path::new(&file.path);
    let folder = path.parent().unwrap_or(Path::new("."));
    let bundle = Bundle::is_at(folder).then(|| Bundle::open(folder).ok()).flatten();
    let said = match bundle {
        Some(bundle) => of_bundle(&bundle, file),
        None if file.path.ends_with(".safetensors") => of_manifest(&models::load(path).ok()?.0.accuracies),
        None => None,
    };
    said.map(Accuracy::Recorded)
}

/// What a bundle says of the file of this hash, on the test part first.
fn of_bundle(bundle: &RawBundle, file: &ModelFile) -> Option<Share> {
    let named = bundle.files.iter().find(|known| known.sha256 == file.sha256)?;
    let of = |split: &str| {
        bundle.accuracy.iter().find(|measured| measured.file == named.path && measured.split == split)
    };
    let found = of("test").or_else(|| of("val"))?;
    let pictures = format!("{} part of {} by {}, as the bundle says", found.split, found.data, found.engine);
    Some(Share { top1: found.top1, count: found.count, pictures })
}

/// What a manifest says of its own weights: the test part if it names one, else the validation part.
fn of_manifest(accuracies: &[models::manifest::Accuracy]) -> Option<Share> {
    let of = |split: &str| accuracies.iter().find(|accuracy| accuracy.split == split);
    let found = of("test").or_else(|| of("val"))?;
    let pictures = format!("{} part, as the file says", found.split);
    Some(Share { top1: found.top1, count: found.count, pictures })
}

#[cfg(test)]
mod tests {
    use super::*;
    use models::manifest::Accuracy as Said;

    #[test]
    fn the_test_part_is_preferred_and_none_is_none() {
        let said = |split: &str, top1| Said { split: split.into(), top1, top5: None, count: 50 };
        let found = Accuracy::Recorded(of_manifest(&[said("val", 0.9), said("test", 0.8)]).unwrap());
        assert_eq!((found.share().unwrap().top1, found.text().as_str()), (0.8, "80.00 % (n 50, recorded)"));
        assert_eq!(of_manifest(&[said("train", 1.0)]), None);
    }
}

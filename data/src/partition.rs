//! Which labels a run may see: `--labels`, `--val`, and the division of a data set that follows from them.
//!
//! The division depends on the data set, the two options and the seed alone. More labels with the same seed contain
//! the fewer (`--labels 100` lies within `--labels 250`), and the held-out pictures do not depend on `--labels`.
//!
//! Never here: the test part, which nothing is selected by.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    DataError, Dataset, Part, Result, Selection,
    random::{Stream, permutation},
};

/// How many labels to train on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Labels {
    /// Every label of the training part that is not held out for validation.
    All,
    /// This many, as balanced as the classes allow.
    Count(usize),
    /// A stratified share, 0 to 1, of the training part's labels (those held out counted in).
    Share(f64),
    /// This many of every class.
    PerClass(usize),
}

/// Which pictures to validate on: labels that are extra to [`Labels`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Validation {
    /// The source's own validation part, or 10 % of the training part where it has none.
    #[default]
    Auto,
    /// None: the last step is kept.
    None,
    /// This many, stratified.
    Count(usize),
    /// A stratified share, 0 to 1, of the source's own validation part, or of the training part.
    Share(f64),
}

/// Share of the training part held out when nothing is said.
const DEFAULT_VALIDATION: f64 = 0.1;

const LABELS_FORMS: &str = "`all`, a number (250), a share (10%) or a number of every class (25/class)";
const VALIDATION_FORMS: &str = "`auto`, `none`, a number (500) or a share (10%)";

impl FromStr for Labels {
    type Err = DataError;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |reason| bad_option("--labels", text, reason, LABELS_FORMS);
        let labels = match text.trim() {
            "all" => Self::All,
            given if given.ends_with('%') => Self::Share(share(given).map_err(wrong)?),
            given => match given.strip_suffix("/class") {
                Some(count) => Self::PerClass(number(count).map_err(wrong)?),
                None => Self::Count(number(given).map_err(wrong)?),
            },
        };
        match labels {
            Self::Count(0) | Self::PerClass(0) => Err(wrong("at least one label is needed")),
            Self::Share(0.0) => Err(wrong("at least one label is needed")),
            labels => Ok(labels),
        }
    }
}

impl FromStr for Validation {
    type Err = DataError;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |reason| bad_option("--val", text, reason, VALIDATION_FORMS);
        Ok(match text.trim() {
            "auto" => Self::Auto,
            "none" | "0" | "0%" => Self::None,
            given if given.ends_with('%') => match share(given).map_err(wrong)? {
                1.0 => return Err(wrong("nothing would be left to train on")),
                share => Self::Share(share),
            },
            given => Self::Count(number(given).map_err(wrong)?),
        })
    }
}

fn bad_option(option: &'static str, given: &str, reason: &str, expected: &'static str) -> DataError {
    DataError::BadOption { option, given: given.into(), reason: reason.into(), expected }
}

fn number(text: &str) -> Result<usize, &'static str> {
    text.trim().parse().map_err(|_| "not a whole number")
}

fn share(text: &str) -> Result<f64, &'static str> {
    let percent: f64 = text.trim_end_matches('%').trim().parse().map_err(|_| "not a number before `%`")?;
    if (0.0..=100.0).contains(&percent) { Ok(percent / 100.0) } else { Err("not between 0% and 100%") }
}

/// A share as percent without the noise of its binary form.
fn percent(share: f64) -> f64 {
    (share * 1e8).round() / 1e6
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Count(count) => write!(f, "{count}"),
            Self::Share(share) => write!(f, "{}%", percent(*share)),
            Self::PerClass(count) => write!(f, "{count}/class"),
        }
    }
}

impl fmt::Display for Validation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::None => f.write_str("none"),
            Self::Count(count) => write!(f, "{count}"),
            Self::Share(share) => write!(f, "{}%", percent(*share)),
        }
    }
}

impl TryFrom<String> for Labels {
    type Error = DataError;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl TryFrom<String> for Validation {
    type Error = DataError;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Labels> for String {
    fn from(labels: Labels) -> Self {
        labels.to_string()
    }
}

impl From<Validation> for String {
    fn from(validation: Validation) -> Self {
        validation.to_string()
    }
}

/// A data set divided for a run. Indices are into `dataset.train`, except `val` where the source has its own part.
/// All three lists ascend, and no picture is in two of them.
#[derive(Clone, Debug)]
pub struct Partition {
    /// The data set.
    pub dataset: Arc<Dataset>,
    /// Pictures whose labels may be trained on.
    pub labeled: Vec<u32>,
    /// Pictures trained on without their labels: the rest of the training part. (Methods that, as FixMatch's authors
    /// do, also want the labeled pictures without their labels draw from [`crate::Part::All`].)
    pub unlabeled: Vec<u32>,
    /// Held-out pictures for validation.
    pub val: Vec<u32>,
    /// Whether `val` indexes `dataset.val` rather than `dataset.train`.
    pub val_is_own: bool,
}

impl Partition {
    /// Divides a data set.
    ///
    /// # Errors
    /// [`DataError::TooFew`] where more labels are asked for than there are, with the class that lacks them.
    pub fn new(dataset: Arc<Dataset>, labels: &Labels, validation: &Validation, seed: u64) -> Result<Self> {
        let train = by_class(&dataset.train.labels, dataset.classes.len(), &[seed, TRAIN_ORDER]);
        let (val, val_is_own) = choose_validation(&dataset, &train, validation, seed)?;
        let mut taken = vec![false; dataset.train.len()];
        if !val_is_own {
            mark(&mut taken, &val);
        }
        let free: Vec<Vec<u32>> = train.iter().map(|class| keep_free(class, &taken)).collect();
        let labeled = choose_labels(&dataset, &free, labels, &train, seed)?;
        mark(&mut taken, &labeled);
        let unlabeled = (0..dataset.train.len() as u32).filter(|&id| !taken[id as usize]).collect();
        Ok(Self { dataset, labeled, unlabeled, val, val_is_own })
    }

    /// The validation pictures, in order.
    pub fn val_pictures(&self) -> Selection<'_> {
        let split = if self.val_is_own { &self.dataset.val } else { &self.dataset.train };
        Selection::of(split, self.dataset.shape, self.val.clone())
    }

    /// The labeled training pictures, in order.
    pub fn labeled_pictures(&self) -> Selection<'_> {
        Selection::of(&self.dataset.train, self.dataset.shape, self.labeled.clone())
    }

    /// Every training picture that is not held out, labeled ones first.
    pub fn all(&self) -> Vec<u32> {
        self.labeled.iter().chain(&self.unlabeled).copied().collect()
    }

    /// The pictures that a draw from `part` takes from.
    pub fn pictures(&self, part: Part) -> Vec<u32> {
        match part {
            Part::Labeled => self.labeled.clone(),
            Part::Unlabeled => self.unlabeled.clone(),
            Part::All => self.all(),
        }
    }

    /// How many labels of each class are trained on.
    pub fn labels_per_class(&self) -> Vec<usize> {
        let mut counts = vec![0; self.dataset.classes.len()];
        for label in self.labeled.iter().filter_map(|&id| self.dataset.train.labels[id as usize]) {
            counts[label as usize] += 1;
        }
        counts
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { labeled, unlabeled, val, dataset, .. } = self;
        let origin = if self.val_is_own { "the source's own part" } else { "held out, extra to --labels" };
        write!(f, "{} labels to train on, {} pictures without label, ", labeled.len(), unlabeled.len())?;
        match val.len() {
            0 => write!(f, "no validation, ")?,
            count => write!(f, "{count} to validate on ({origin}), ")?,
        }
        write!(f, "{} to test on", dataset.test.len())
    }
}

// Names of the random streams of this file.
const TRAIN_ORDER: u64 = 1;
const OWN_ORDER: u64 = 2;
const CLASS_ORDER: u64 = 3;

/// Ids of each class in random order. Validation takes from the end, labels from the front.
fn by_class(labels: &[Option<u32>], classes: usize, names: &[u64; 2]) -> Vec<Vec<u32>> {
    let mut ids = vec![Vec::new(); classes];
    for (id, label) in labels.iter().enumerate() {
        if let Some(label) = label {
            ids[*label as usize].push(id as u32);
        }
    }
    for (class, ids) in ids.iter_mut().enumerate() {
        Stream::new(&[names[0], names[1], class as u64]).shuffle(ids);
    }
    ids
}

fn mark(taken: &mut [bool], ids: &[u32]) {
    ids.iter().for_each(|&id| taken[id as usize] = true);
}

fn keep_free(ids: &[u32], taken: &[bool]) -> Vec<u32> {
    ids.iter().copied().filter(|&id| !taken[id as usize]).collect()
}

fn choose_validation(
    dataset: &Dataset,
    train: &[Vec<u32>],
    validation: &Validation,
    seed: u64,
) -> Result<(Vec<u32>, bool)> {
    let own = by_class(&dataset.val.labels, dataset.classes.len(), &[seed, OWN_ORDER]);
    let val_is_own = own.iter().any(|class| !class.is_empty());
    let pool = if val_is_own { &own } else { train };
    let available: usize = pool.iter().map(Vec::len).sum();
    let count = match *validation {
        Validation::None => return Ok((Vec::new(), false)),
        Validation::Auto if val_is_own => available,
        Validation::Auto => (available as f64 * DEFAULT_VALIDATION).round() as usize,
        Validation::Share(share) => (available as f64 * share).round() as usize,
        Validation::Count(count) => count,
    };
    if count > available || (count == available && !val_is_own) {
        return Err(DataError::TooFew {
            option: "--val",
            asked: count.to_string(),
            found: format!("there are {available} labeled pictures to take them from"),
            mend: "ask for fewer, or `none`".into(),
        });
    }
    let counts = stratified(&sizes(pool), count);
    let mut val = Vec::with_capacity(count);
    for (class, count) in pool.iter().zip(counts) {
        val.extend_from_slice(&class[class.len() - count..]);
    }
    val.sort_unstable();
    Ok((val, val_is_own))
}

fn choose_labels(
    dataset: &Dataset,
    free: &[Vec<u32>],
    labels: &Labels,
    train: &[Vec<u32>],
    seed: u64,
) -> Result<Vec<u32>> {
    let counts = match *labels {
        Labels::All => sizes(free),
        Labels::PerClass(count) => per_class(dataset, free, count)?,
        Labels::Count(count) => balanced(&sizes(free), check_count(free, count)?, seed),
        Labels::Share(share) => share_of_each(free, train, share)?,
    };
    let mut chosen: Vec<u32> =
        free.iter().zip(counts).flat_map(|(class, count)| &class[..count]).copied().collect();
    if chosen.is_empty() {
        return Err(DataError::TooFew {
            option: "--labels",
            asked: labels.to_string(),
            found: "no labeled picture is left for it".into(),
            mend: "ask for more, or hold out less with --val".into(),
        });
    }
    chosen.sort_unstable();
    Ok(chosen)
}

fn sizes(classes: &[Vec<u32>]) -> Vec<usize> {
    classes.iter().map(Vec::len).collect()
}

fn per_class(dataset: &Dataset, free: &[Vec<u32>], count: usize) -> Result<Vec<usize>> {
    match free.iter().enumerate().min_by_key(|(_, class)| class.len()) {
        Some((poorest, class)) if class.len() < count => Err(DataError::TooFew {
            option: "--labels",
            asked: format!("{count} per class"),
            found: format!("class `{}` has {}", dataset.classes[poorest], class.len()),
            mend: format!("ask for at most {}/class, or hold out less with --val", class.len()),
        }),
        _ => Ok(vec![count; free.len()]),
    }
}

fn check_count(free: &[Vec<u32>], count: usize) -> Result<usize> {
    let available: usize = free.iter().map(Vec::len).sum();
    let classes = free.iter().filter(|class| !class.is_empty()).count();
    let refuse = |found: String, mend: &str| {
        Err(DataError::TooFew { option: "--labels", asked: count.to_string(), found, mend: mend.into() })
    };
    if count > available {
        let mend = "ask for fewer, for `all`, or hold out less with --val";
        return refuse(format!("there are {available} labeled pictures outside validation"), mend);
    }
    if count < classes {
        return refuse(format!("there are {classes} classes"), "every class needs at least one label");
    }
    Ok(count)
}

/// The same number of every class; classes that have fewer give what they have and the others make up for it. A
/// remainder goes to classes in an order of the seed, so that a smaller count lies within a larger one.
fn balanced(available: &[usize], count: usize, seed: u64) -> Vec<usize> {
    let mut counts = vec![0; available.len()];
    let order = permutation(available.len(), &[seed, CLASS_ORDER]);
    let mut left = count.min(available.iter().sum());
    while left > 0 {
        let open: Vec<usize> = order
            .iter()
            .map(|&class| class as usize)
            .filter(|&class| counts[class] < available[class])
            .collect();
        let level = open.iter().map(|&class| available[class] - counts[class]).min().unwrap_or(0);
        let each = level.min(left / open.len());
        if each == 0 {
            open.iter().take(left).for_each(|&class| counts[class] += 1);
            break;
        }
        open.iter().for_each(|&class| counts[class] += each);
        left -= each * open.len();
    }
    counts
}

/// `share` of every class of the training part, at least one of each, from what validation left of it.
fn share_of_each(free: &[Vec<u32>], train: &[Vec<u32>], share: f64) -> Result<Vec<usize>> {
    let total: usize = train.iter().map(Vec::len).sum();
    let asked = (total as f64 * share).round() as usize;
    let counts = stratified(&sizes(train), asked);
    Ok(counts.iter().zip(free).map(|(&count, free)| count.max(1).min(free.len())).collect())
}

/// `count` divided in proportion to `available`, remainders to the largest fractions.
pub(crate) fn stratified(available: &[usize], count: usize) -> Vec<usize> {
    let total: usize = available.iter().sum();
    if total == 0 {
        return vec![0; available.len()];
    }
    let count = count.min(total);
    let mut counts: Vec<usize> = available.iter().map(|&class| class * count / total).collect();
    let mut order: Vec<usize> = (0..available.len()).collect();
    order.sort_by_key(|&class| std::cmp::Reverse((available[class] * count) % total));
    let left = count - counts.iter().sum::<usize>();
    order.iter().take(left).for_each(|&class| counts[class] += 1);
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PictureShape, Split};

    fn dataset(counts: &[usize], unlabeled: usize, own_val: &[usize]) -> Arc<Dataset> {
        let labels = |counts: &[usize]| -> Vec<Option<u32>> {
            let of = |(class, &count): (usize, &usize)| std::iter::repeat_n(Some(class as u32), count);
            counts.iter().enumerate().flat_map(of).collect()
        };
        let split = |labels: Vec<Option<u32>>| Split { pixels: vec![0; labels.len()], labels };
        let mut train = labels(counts);
        train.extend(std::iter::repeat_n(None, unlabeled));
        Arc::new(Dataset {
            name: "test".into(),
            classes: ["cat", "dog", "eel", "fox"][..counts.len()]
                .iter()
                .map(|name| name.to_string())
                .collect(),
            shape: PictureShape { channels: 1, height: 1, width: 1 },
            train: split(train),
            val: split(labels(own_val)),
            test: Split::default(),
            notes: Vec::new(),
        })
    }

    fn partition(data: &Arc<Dataset>, labels: &str, val: &str, seed: u64) -> Result<Partition> {
        Partition::new(data.clone(), &labels.parse()?, &val.parse()?, seed)
    }

    #[test]
    fn the_options_read_back_what_they_print() {
        for text in ["all", "250", "10%", "0.5%", "25/class", "33.3%"] {
            assert_eq!(text.parse::<Labels>().unwrap().to_string(), text);
        }
        for text in ["auto", "none", "500", "10%"] {
            assert_eq!(text.parse::<Validation>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_the_options_cannot_be_is_refused_with_the_forms() {
        for text in ["", "many", "0", "-3", "101%", "x%", "0/class", "1.5", "nan%", "0%"] {
            let error = text.parse::<Labels>().unwrap_err().to_string();
            assert!(error.contains("--labels") && error.contains("25/class"), "{text}: {error}");
        }
        for text in ["-1", "100%", "some"] {
            assert!(text.parse::<Validation>().is_err(), "{text}");
        }
    }

    #[test]
    fn parts_never_overlap_and_cover_the_training_part() {
        let data = dataset(&[30, 50, 20], 15, &[]);
        let parts = partition(&data, "12", "10%", 3).unwrap();
        let mut all = [parts.all(), parts.val.clone()].concat();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..115));
        assert_eq!((parts.labeled.len(), parts.val.len(), parts.unlabeled.len()), (12, 10, 93));
        assert_eq!(parts.labels_per_class(), [4, 4, 4]);
        assert!(!parts.val_is_own);
    }

    #[test]
    fn validation_is_stratified() {
        let data = dataset(&[30, 50, 20], 0, &[]);
        let parts = partition(&data, "all", "20", 1).unwrap();
        let labels: Vec<Option<u32>> = parts.val_pictures().batches(99).next().unwrap().labels;
        let count = |class| labels.iter().filter(|&&label| label == Some(class)).count();
        assert_eq!([count(0), count(1), count(2)], [6, 10, 4]);
        assert_eq!(parts.labeled.len(), 80);
    }

    #[test]
    fn a_poor_class_gives_what_it_has_and_the_others_make_up() {
        assert_eq!(balanced(&[2, 100, 100], 62, 0), [2, 30, 30]);
        let uneven = balanced(&[10, 10, 10], 11, 5);
        assert_eq!(uneven.iter().sum::<usize>(), 11);
        assert!(uneven.iter().all(|&count| count == 3 || count == 4));
        assert_eq!(balanced(&[1, 2, 3], 6, 0), [1, 2, 3]);
    }

    #[test]
    fn more_labels_contain_the_fewer_and_leave_validation_alone() {
        let data = dataset(&[40, 60, 50, 9], 10, &[]);
        let mut before: Vec<u32> = Vec::new();
        let val = partition(&data, "all", "auto", 9).unwrap().val;
        for labels in ["4", "5", "17", "40", "90", "all"] {
            let parts = partition(&data, labels, "auto", 9).unwrap();
            assert!(before.iter().all(|id| parts.labeled.contains(id)), "{labels}");
            assert_eq!(parts.val, val);
            before = parts.labeled;
        }
    }

    #[test]
    fn a_share_counts_the_whole_training_part() {
        let data = dataset(&[50, 100, 50], 0, &[]);
        let parts = partition(&data, "10%", "10%", 0).unwrap();
        assert_eq!(parts.labels_per_class(), [5, 10, 5]);
        assert_eq!(partition(&data, "100%", "10%", 0).unwrap().labeled.len(), 180);
    }

    #[test]
    fn the_seed_decides() {
        let data = dataset(&[50, 50], 0, &[]);
        let of = |seed| partition(&data, "10", "none", seed).unwrap().labeled;
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
    }

    #[test]
    fn a_source_with_its_own_validation_part_keeps_its_training_part() {
        let data = dataset(&[20, 20], 0, &[5, 5]);
        let parts = partition(&data, "all", "auto", 0).unwrap();
        assert!(parts.val_is_own);
        assert_eq!((parts.val.len(), parts.labeled.len()), (10, 40));
        assert_eq!(partition(&data, "all", "4", 0).unwrap().val.len(), 4);
    }

    #[test]
    fn asking_too_much_names_the_class_and_the_mend() {
        let data = dataset(&[120, 400], 0, &[]);
        let error = partition(&data, "300/class", "none", 0).unwrap_err().to_string();
        assert!(error.contains("asked 300 per class, class `cat` has 120"), "{error}");
        let error = partition(&data, "999", "none", 0).unwrap_err().to_string();
        assert!(error.contains("asked 999, there are 520"), "{error}");
        assert!(partition(&data, "1", "none", 0).unwrap_err().to_string().contains("2 classes"));
        assert!(partition(&data, "10", "520", 0).unwrap_err().to_string().contains("--val"));
    }
}

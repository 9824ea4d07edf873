//! What a source found, before any pixel is decoded, and how that becomes a [`Dataset`].
//!
//! Sources list; this file decides the size, splits a test part off where there is none, and decodes on several
//! threads. So every source treats broken pictures, memory and sizes alike.

use std::{
    borrow::Cow,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use picture::{Info, Picture, PictureError, Resizer, Size};

use crate::{
    DataError, Dataset, PictureShape, Result, Split, memory, parallel, partition::stratified, random::Stream,
    sources::OpenOptions,
};

/// Pictures up to this size are kept as they are when all have the same.
const OWN_SIZE_AT_MOST: usize = 96;
/// The size otherwise.
const DEFAULT_SIZE: usize = 224;
/// Share of the labeled pictures split off as test part where the source has none.
const TEST_SHARE: f64 = 0.2;
/// Name of the random stream of that split.
const TEST_SPLIT: u64 = 21;

/// Where the bytes of a picture are.
#[derive(Clone, Debug)]
pub enum Content {
    /// In a file, to be decoded.
    File(PathBuf),
    /// In memory, to be decoded.
    Encoded(Vec<u8>),
    /// In a part of a file, to be read and decoded by the source.
    Record {
        /// The file.
        path: PathBuf,
        /// Where the part begins.
        offset: u64,
        /// Bytes of the part.
        length: usize,
        /// What is known without reading it.
        info: Info,
        /// Its picture; `None` if it is none.
        read: fn(&[u8]) -> Option<Picture>,
    },
    /// In memory, decoded by the source.
    Decoded(Picture),
}

/// A picture that a source found.
#[derive(Clone, Debug)]
pub struct Item {
    /// What to call it when it is broken: its path, or its row.
    pub name: String,
    /// Its bytes.
    pub content: Content,
    /// Its class.
    pub label: Option<u32>,
}

/// All pictures that a source found.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// Class names, by index.
    pub classes: Vec<String>,
    /// Training pictures, unlabeled ones among them.
    pub train: Vec<Item>,
    /// The source's own validation part.
    pub val: Vec<Item>,
    /// The source's own test part.
    pub test: Vec<Item>,
    /// What the user should be told.
    pub notes: Vec<String>,
}

/// A picture that cannot be read, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Its path, or its row.
    pub name: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Why an item has no pixels.
enum Failure {
    Io(std::io::Error),
    Picture(PictureError),
    Record,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Picture(error) => error.fmt(f),
            Self::Record => f.write_str("no picture of this file's layout"),
        }
    }
}

/// A part of a file.
fn part_of(path: &Path, offset: u64, length: usize) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = vec![0; length];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

impl Item {
    fn bytes(&self) -> Result<Cow<'_, [u8]>, Failure> {
        match &self.content {
            Content::File(path) => std::fs::read(path).map(Cow::Owned).map_err(Failure::Io),
            Content::Encoded(bytes) => Ok(Cow::Borrowed(bytes)),
            Content::Record { path, offset, length, .. } => {
                part_of(path, *offset, *length).map(Cow::Owned).map_err(Failure::Io)
            }
            Content::Decoded(picture) => Ok(Cow::Borrowed(&picture.pixels)),
        }
    }

    fn probe(&self) -> Result<Info, Failure> {
        match &self.content {
            Content::Decoded(Picture { width, height, channels, .. }) => {
                Ok(Info { width: *width, height: *height, channels: *channels, format: "decoded" })
            }
            Content::Record { info, .. } => Ok(*info),
            _ => picture::probe(&self.bytes()?).map_err(Failure::Picture),
        }
    }

    fn decode(&self) -> Result<Cow<'_, Picture>, Failure> {
        match &self.content {
            Content::Decoded(picture) => Ok(Cow::Borrowed(picture)),
            Content::Record { read, .. } => read(&self.bytes()?).map(Cow::Owned).ok_or(Failure::Record),
            _ => picture::decode(&self.bytes()?).map(Cow::Owned).map_err(Failure::Picture),
        }
    }

    fn broken(&self, failure: &Failure) -> Broken {
        Broken { name: self.name.clone(), reason: failure.to_string() }
    }
}

impl Listing {
    /// All items, of all parts.
    pub fn items(&self) -> impl Iterator<Item = &Item> {
        self.train.iter().chain(&self.val).chain(&self.test)
    }

    /// Decodes everything.
    ///
    /// # Errors
    /// [`DataError::BrokenPictures`] with `strict` or when no picture is left, [`DataError::Memory`].
    pub fn load(mut self, name: &str, options: &OpenOptions) -> Result<Dataset> {
        let (infos, mut broken) = self.drop_unreadable(options.threads());
        refuse_broken(&broken, options.strict)?;
        let shape = choose_shape(&infos, &broken, name, options)?;
        memory::check(infos.len(), shape, options.memory_limit)?;
        if self.test.is_empty() {
            self.split_test(options.seed);
        }
        let Self { classes, train, val, test, mut notes } = self;
        notes.extend(lossy_note(name, &infos));
        let mut decode = |items| decode(items, shape, options, &mut broken);
        let (train, val, test) = (decode(train), decode(val), decode(test));
        refuse_broken(&broken, options.strict)?;
        notes.extend(broken_note(&broken));
        Ok(Dataset { name: name.into(), classes, shape, train, val, test, notes })
    }

    /// Reads all headers and drops the pictures that have none.
    fn drop_unreadable(&mut self, threads: usize) -> (Vec<Info>, Vec<Broken>) {
        let (mut infos, mut broken) = (Vec::new(), Vec::new());
        for part in [&mut self.train, &mut self.val, &mut self.test] {
            let mut read = probe_all(part, threads).into_iter();
            part.retain(|_| match read.next() {
                Some(Ok(info)) => {
                    infos.push(info);
                    true
                }
                Some(Err(failed)) => {
                    broken.push(failed);
                    false
                }
                None => true,
            });
        }
        (infos, broken)
    }

    /// Moves a stratified share of the labeled training pictures to the test part.
    fn split_test(&mut self, seed: u64) {
        let mut ids = vec![Vec::new(); self.classes.len()];
        for (index, item) in self.train.iter().enumerate() {
            if let Some(label) = item.label {
                ids[label as usize].push(index);
            }
        }
        let sizes: Vec<usize> = ids.iter().map(Vec::len).collect();
        let labeled: usize = sizes.iter().sum();
        let counts = stratified(&sizes, (labeled as f64 * TEST_SHARE).round() as usize);
        let mut moved = vec![false; self.train.len()];
        for (class, (ids, &count)) in ids.iter_mut().zip(&counts).enumerate() {
            Stream::new(&[seed, TEST_SPLIT, class as u64]).shuffle(ids);
            ids[..count].iter().for_each(|&index| moved[index] = true);
        }
        let (test, train) =
            moved.into_iter().zip(std::mem::take(&mut self.train)).partition::<Vec<_>, _>(|(m, _)| *m);
        let items = |pairs: Vec<(bool, Item)>| pairs.into_iter().map(|(_, item)| item).collect();
        (self.test, self.train) = (items(test), items(train));
        let count = self.test.len();
        self.notes.push(format!(
            "no test part: {count} of {labeled} labeled pictures (20 %, seed {seed}) split off"
        ));
    }
}

/// What the header of every picture says.
pub fn probe_all(items: &[Item], threads: usize) -> Vec<Result<Info, Broken>> {
    let mut answers: Vec<Option<Result<Info, Broken>>> = vec![None; items.len()];
    parallel::runs(
        &mut answers,
        threads,
        || (),
        |(), index, answer| {
            let item = &items[index];
            *answer = Some(item.probe().map_err(|failure| item.broken(&failure)));
        },
    );
    answers.into_iter().flatten().collect()
}

/// Every picture decoded and thrown away: which of them are broken.
pub fn find_broken(items: &[Item], threads: usize) -> Vec<Broken> {
    let mut answers: Vec<Option<Broken>> = vec![None; items.len()];
    parallel::runs(
        &mut answers,
        threads,
        || (),
        |(), index, answer| {
            *answer = items[index].decode().err().map(|failure| items[index].broken(&failure));
        },
    );
    answers.into_iter().flatten().collect()
}

fn choose_shape(
    infos: &[Info],
    broken: &[Broken],
    name: &str,
    options: &OpenOptions,
) -> Result<PictureShape> {
    let Some(first) = infos.first() else {
        return Err(match broken.first() {
            Some(_) => broken_error(broken, "no picture is left"),
            None => DataError::Unrecognized {
                path: name.into(),
                found: "no pictures".into(),
                expected: "at least one".into(),
            },
        });
    };
    let gray = infos.iter().all(|info| info.channels == 1);
    let channels = options.channels.unwrap_or(if gray { 1 } else { 3 });
    let uniform = infos.iter().all(|info| (info.width, info.height) == (first.width, first.height));
    let (width, height) = match options.image_size {
        Some(size) => (size, size),
        None if uniform && first.width.max(first.height) <= OWN_SIZE_AT_MOST => (first.width, first.height),
        None => (DEFAULT_SIZE, DEFAULT_SIZE),
    };
    Ok(PictureShape { channels, height, width })
}

fn decode(items: Vec<Item>, shape: PictureShape, options: &OpenOptions, broken: &mut Vec<Broken>) -> Split {
    let mut pixels = vec![0; items.len() * shape.bytes()];
    let size = Size { width: shape.width, height: shape.height };
    let mut work: Vec<(&mut [u8], Option<Broken>)> =
        pixels.chunks_exact_mut(shape.bytes()).map(|out| (out, None)).collect();
    parallel::runs(&mut work, options.threads(), Resizer::new, |resizer, index, (out, failed)| {
        match items[index].decode() {
            Ok(picture) => out.copy_from_slice(&resizer.fit(&picture, size, options.fit, shape.channels)),
            Err(failure) => *failed = Some(items[index].broken(&failure)),
        }
    });
    let failed: Vec<Option<Broken>> = work.into_iter().map(|(_, failed)| failed).collect();
    keep_good(&items, failed, pixels, shape, broken)
}

/// Closes the gaps that broken pictures left.
fn keep_good(
    items: &[Item],
    failed: Vec<Option<Broken>>,
    mut pixels: Vec<u8>,
    shape: PictureShape,
    broken: &mut Vec<Broken>,
) -> Split {
    let mut labels = Vec::with_capacity(items.len());
    for (index, (item, failed)) in items.iter().zip(failed).enumerate() {
        match failed {
            Some(failed) => broken.push(failed),
            None => {
                let (from, to) = (index * shape.bytes(), labels.len() * shape.bytes());
                pixels.copy_within(from..from + shape.bytes(), to);
                labels.push(item.label);
            }
        }
    }
    pixels.truncate(labels.len() * shape.bytes());
    Split { pixels, labels }
}

fn refuse_broken(broken: &[Broken], strict: bool) -> Result<()> {
    if strict && !broken.is_empty() {
        return Err(broken_error(broken, "mend or remove them, or leave --strict off to skip them"));
    }
    Ok(())
}

fn broken_error(broken: &[Broken], mend: &str) -> DataError {
    let (name, reason) = broken.first().map(|one| (one.name.clone(), one.reason.clone())).unwrap_or_default();
    DataError::BrokenPictures { count: broken.len(), name, reason, mend: mend.into() }
}

/// A registered set in lossy pictures is not quite the set that its name promises.
fn lossy_note(name: &str, infos: &[Info]) -> Option<String> {
    let lossless = ["cifar10", "cifar100"].contains(&name);
    let jpeg = infos.iter().any(|info| info.format == "JPEG");
    (lossless && jpeg)
        .then(|| format!("{name} (JPEG): accuracies are near, not equal to, those on the lossless pictures"))
}

/// Names listed before the rest is only counted.
const NAMED: usize = 5;

fn broken_note(broken: &[Broken]) -> Option<String> {
    if broken.is_empty() {
        return None;
    }
    let named: Vec<String> =
        broken.iter().take(NAMED).map(|one| format!("{} ({})", one.name, one.reason)).collect();
    let more = broken.len().saturating_sub(NAMED);
    let rest = if more > 0 { format!(", and {more} more") } else { String::new() };
    Some(format!("{} broken picture(s) skipped: {}{rest}", broken.len(), named.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lossless_set_in_jpegs_says_so() {
        let info = |format| Info { width: 32, height: 32, channels: 3, format };
        assert!(
            lossy_note("cifar10", &[info("PNG"), info("JPEG")])
                .is_some_and(|note| note.contains("cifar10 (JPEG)"))
        );
        assert_eq!(lossy_note("cifar10", &[info("decoded")]), None);
        assert_eq!(lossy_note("holiday", &[info("JPEG")]), None);
    }

    #[test]
    fn many_broken_pictures_are_named_in_part_and_counted_in_whole() {
        let broken: Vec<Broken> =
            (0..8).map(|n| Broken { name: format!("{n}.jpg"), reason: "truncated".into() }).collect();
        let note = broken_note(&broken).unwrap();
        assert!(
            note.starts_with("8 broken") && note.contains("4.jpg") && note.ends_with("and 3 more"),
            "{note}"
        );
        assert_eq!(broken_note(&[]), None);
    }
}

//! `mnist` and `fashion-mnist`, and any folder in their layout: IDX files (LeCun, 1998), plain or gzipped.
//!
//! A file is two zero bytes, a byte for the type of its values (8: unsigned bytes, the only one here), a byte for the
//! number of dimensions, their lengths as big-endian 32-bit numbers, and the values. Pictures are `[count, height,
//! width]` or `[count, height, width, channels]`, labels `[count]`. Class names stand in `class_names.txt` beside the
//! files, a line each; without it they are those of the set, or numbers.
//!
//! Never here: downloads, values other than bytes.

use std::{
    borrow::Cow,
    io::Read,
    path::{Path, PathBuf},
};

use flate2::read::GzDecoder;
use picture::Picture;

use crate::{
    DataError, Result,
    listing::{Content, Item, Listing},
    sources::{OpenOptions, Place, Source},
};

const UNSIGNED_BYTE: u8 = 8;
/// Dimensions of pictures in color, the most that any file here has.
const MOST_DIMENSIONS: usize = 4;
/// What a gzipped file starts with.
const GZIP: [u8; 2] = [0x1f, 0x8b];
/// Sides beyond this are no picture, and a file of them would not fit in memory.
const LARGEST_SIDE: usize = 16_384;
const NAMES_FILE: &str = "class_names.txt";

const FASHION: [&str; 10] =
    ["t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"];

/// The registry's line for MNIST, and for a path in the layout.
pub const MNIST: Source = Source {
    name: "mnist",
    about: "MNIST, 28x28 gray, 10 digits, and any folder of IDX files in its layout, plain or gzipped",
    place: Place::Path {
        holds,
        list: |path, _: &OpenOptions| list(path, &[]),
        folders: &["mnist", "MNIST/raw"],
        expected: "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and \
                   t10k-labels-idx1-ubyte, or the same with .gz",
    },
};

/// The registry's line for Fashion-MNIST, which differs from MNIST in nothing that its files say.
pub const FASHION_MNIST: Source = Source {
    name: "fashion-mnist",
    about: "Fashion-MNIST, 28x28 gray, 10 classes of clothes, in MNIST's layout",
    place: Place::Path {
        holds,
        list: |path, _: &OpenOptions| list(path, &FASHION),
        folders: &["fashion-mnist", "FashionMNIST/raw"],
        expected: "the files of https://github.com/zalandoresearch/fashion-mnist, named as MNIST's",
    },
};

fn holds(folder: &Path) -> bool {
    file(folder, "train", "images", 3).is_some()
}

/// A file of a part, under the names that it goes by.
fn file(folder: &Path, part: &str, what: &str, dimensions: usize) -> Option<PathBuf> {
    let names = ['-', '.'].map(|dash| format!("{part}-{what}{dash}idx{dimensions}-ubyte"));
    let paths = names.iter().flat_map(|name| [folder.join(name), folder.join(format!("{name}.gz"))]);
    paths.into_iter().find(|path| path.is_file())
}

fn list(folder: &Path, names: &[&str]) -> Result<Listing> {
    let train = part(folder, "train")?;
    let test = part(folder, "t10k")?;
    let highest = train.iter().chain(&test).filter_map(|item| item.label).max().unwrap_or(0);
    let classes = class_names(folder, names, highest as usize + 1)?;
    Ok(Listing { classes, train, test, ..Listing::default() })
}

/// The labeled pictures of `train` or `t10k`.
fn part(folder: &Path, part: &str) -> Result<Vec<Item>> {
    let images = file(folder, part, "images", 3).ok_or_else(|| missing(folder, part, "images-idx3-ubyte"))?;
    let labels = file(folder, part, "labels", 1).ok_or_else(|| missing(folder, part, "labels-idx1-ubyte"))?;
    let read = |path: &Path| std::fs::read(path).map_err(|error| DataError::io(path, error));
    items(&images, &read(&images)?, &labels, &read(&labels)?)
}

fn missing(folder: &Path, part: &str, what: &str) -> DataError {
    DataError::Malformed {
        path: folder.into(),
        expected: format!("{part}-{what} beside the other files, plain or with .gz"),
        found: "none".into(),
    }
}

/// The names of the file beside, else the set's own, else numbers; at least two, and one for every label.
fn class_names(folder: &Path, own: &[&str], needed: usize) -> Result<Vec<String>> {
    let path = folder.join(NAMES_FILE);
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    let mut names: Vec<String> =
        text.lines().map(str::trim).filter(|line| !line.is_empty()).map(String::from).collect();
    if names.is_empty() {
        names = own.iter().map(ToString::to_string).collect();
    }
    if names.is_empty() {
        names = (0..needed.max(2)).map(|class| class.to_string()).collect();
    }
    if names.len() < needed {
        return Err(DataError::Malformed {
            path: if text.is_empty() { folder.into() } else { path },
            expected: format!("a name for each of {needed} classes"),
            found: format!("{}", names.len()),
        });
    }
    Ok(names)
}

/// The pictures and labels that the bytes of two files hold; the paths are only what errors call them.
///
/// # Errors
/// [`DataError::Malformed`] for bytes that are no IDX file, whose length is not what the header says, or files whose
/// counts differ.
pub fn items(images: &Path, image_bytes: &[u8], labels: &Path, label_bytes: &[u8]) -> Result<Vec<Item>> {
    let pictures = Array::read(images, image_bytes, &[3, 4])?;
    let classes = Array::read(labels, label_bytes, &[1])?;
    let (count, height, width, channels) = pictures.picture_shape(images)?;
    if classes.values.len() != count {
        return Err(DataError::Malformed {
            path: labels.into(),
            expected: format!("{count} labels, one for each picture of {}", images.display()),
            found: format!("{}", classes.values.len()),
        });
    }
    let one = |(index, (pixels, &label)): (usize, (&[u8], &u8))| Item {
        name: format!("{}, picture {index}", images.display()),
        content: Content::Decoded(Picture { width, height, channels, pixels: pixels.to_vec() }),
        label: Some(u32::from(label)),
    };
    let pixels = pictures.values.chunks_exact(height * width * channels);
    Ok(pixels.zip(classes.values.iter()).enumerate().map(one).collect())
}

/// What an IDX file holds.
struct Array<'a> {
    dimensions: Vec<usize>,
    values: Cow<'a, [u8]>,
}

impl<'a> Array<'a> {
    /// Reads a file, gzipped or not, whose number of dimensions is one of `ranks`.
    fn read(path: &Path, bytes: &'a [u8], ranks: &[usize]) -> Result<Self> {
        if bytes.starts_with(&GZIP) {
            return Self::unzip(path, bytes, ranks);
        }
        let (dimensions, rest) = header(path, bytes, ranks)?;
        let values = length(path, &dimensions)?;
        if rest.len() != values {
            return Err(wrong_length(path, &dimensions, values, format!("{} bytes", rest.len())));
        }
        Ok(Self { dimensions, values: Cow::Borrowed(rest) })
    }

    /// Unpacks no more than the header announces, so that a small file cannot become a large one.
    fn unzip(path: &Path, bytes: &[u8], ranks: &[usize]) -> Result<Self> {
        let broken = |error: std::io::Error| DataError::Malformed {
            path: path.into(),
            expected: "a whole gzip file".into(),
            found: error.to_string(),
        };
        let mut unpacked = GzDecoder::new(bytes);
        let mut head = Vec::new();
        let longest = 4 + 4 * MOST_DIMENSIONS as u64;
        unpacked.by_ref().take(longest).read_to_end(&mut head).map_err(broken)?;
        let (dimensions, rest) = header(path, &head, ranks)?;
        let announced = length(path, &dimensions)?;
        let mut values = rest.to_vec();
        let left = (announced as u64 + 1).saturating_sub(values.len() as u64);
        unpacked.take(left).read_to_end(&mut values).map_err(broken)?;
        match values.len() {
            found if found == announced => Ok(Self { dimensions, values: Cow::Owned(values) }),
            found if found < announced => {
                Err(wrong_length(path, &dimensions, announced, format!("{found} bytes")))
            }
            _ => Err(wrong_length(path, &dimensions, announced, "more".into())),
        }
    }

    /// Count, height, width and channels.
    fn picture_shape(&self, path: &Path) -> Result<(usize, usize, usize, usize)> {
        let (count, height, width, channels) = match self.dimensions[..] {
            [count, height, width, channels] => (count, height, width, channels),
            [count, height, width] => (count, height, width, 1),
            _ => (0, 0, 0, 0),
        };
        let side = 1..=LARGEST_SIDE;
        if count > 0 && side.contains(&height) && side.contains(&width) && [1, 3].contains(&channels) {
            return Ok((count, height, width, channels));
        }
        Err(DataError::Malformed {
            path: path.into(),
            expected: format!(
                "at least one picture, sides of 1 to {LARGEST_SIDE} pixels, 1 channel or 3 at the end"
            ),
            found: format!("dimensions {:?}", self.dimensions),
        })
    }
}

/// The dimensions, and the bytes after them.
fn header<'b>(path: &Path, bytes: &'b [u8], ranks: &[usize]) -> Result<(Vec<usize>, &'b [u8])> {
    let [0, 0, UNSIGNED_BYTE, rank, rest @ ..] = bytes else {
        return Err(no_idx(path, ranks, &bytes[..bytes.len().min(4)]));
    };
    let rank = usize::from(*rank);
    if !ranks.contains(&rank) {
        return Err(no_idx(path, ranks, &bytes[..4]));
    }
    let Some((lengths, values)) = rest.split_at_checked(4 * rank) else {
        return Err(DataError::Malformed {
            path: path.into(),
            expected: format!("a header of {} bytes", 4 + 4 * rank),
            found: format!("{} bytes: truncated", bytes.len()),
        });
    };
    let dimensions = lengths.as_chunks::<4>().0.iter().map(|length| u32::from_be_bytes(*length) as usize);
    Ok((dimensions.collect(), values))
}

fn no_idx(path: &Path, ranks: &[usize], start: &[u8]) -> DataError {
    let ranks: Vec<String> = ranks.iter().map(ToString::to_string).collect();
    DataError::Malformed {
        path: path.into(),
        expected: format!("an IDX file of unsigned bytes, 0 0 8 and {} dimensions", ranks.join(" or ")),
        found: format!("one that starts with {start:?}"),
    }
}

/// How many values the dimensions announce.
fn length(path: &Path, dimensions: &[usize]) -> Result<usize> {
    let product = dimensions.iter().try_fold(1usize, |product, &length| product.checked_mul(length));
    product.ok_or_else(|| DataError::Malformed {
        path: path.into(),
        expected: "dimensions of a file that could exist".into(),
        found: format!("{dimensions:?}"),
    })
}

fn wrong_length(path: &Path, dimensions: &[usize], expected: usize, found: String) -> DataError {
    let dimensions: Vec<String> = dimensions.iter().map(ToString::to_string).collect();
    DataError::Malformed {
        path: path.into(),
        expected: format!("{expected} bytes for {} values", dimensions.join("x")),
        found: format!("{found}: truncated, or another file"),
    }
}

//! `cifar10` and `cifar100` in the binary layout of their authors (Krizhevsky, 2009).
//!
//! A file is a row of records: one label byte (CIFAR-100: the coarse label, then the fine one, which is used), then
//! 32x32 pixels as three planes, red, green, blue. Class names come from the text file that lies beside.
//!
//! Never here: downloads, the Python-pickle layout.

use std::path::Path;

use picture::Picture;

use crate::{
    DataError, Result,
    listing::{Content, Item, Listing},
    sources::{OpenOptions, Place, Source},
};

const SIDE: usize = 32;
const PLANE: usize = SIDE * SIDE;

/// One of the two.
struct Layout {
    train: &'static [&'static str],
    test: &'static str,
    names: &'static str,
    classes: usize,
    label_bytes: usize,
}

const CIFAR10_LAYOUT: Layout = Layout {
    train: &[
        "data_batch_1.bin",
        "data_batch_2.bin",
        "data_batch_3.bin",
        "data_batch_4.bin",
        "data_batch_5.bin",
    ],
    test: "test_batch.bin",
    names: "batches.meta.txt",
    classes: 10,
    label_bytes: 1,
};

const CIFAR100_LAYOUT: Layout = Layout {
    train: &["train.bin"],
    test: "test.bin",
    names: "fine_label_names.txt",
    classes: 100,
    label_bytes: 2,
};

/// CIFAR-10's names where no text file tells them.
const CIFAR10_NAMES: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

/// The registry's line for CIFAR-10.
pub const CIFAR10: Source = Source {
    name: "cifar10",
    about: "CIFAR-10, 32x32 RGB, 10 classes, in its authors' binary layout or as parquet",
    place: Place::Path {
        holds: |path| path.join(CIFAR10_LAYOUT.train[0]).is_file(),
        list: |path, _: &OpenOptions| CIFAR10_LAYOUT.list(path),
        folders: &["cifar10/cifar-10-batches-bin", "cifar-10-batches-bin", "cifar10"],
        expected: "data_batch_1.bin to data_batch_5.bin and test_batch.bin (unpack \
                   https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz), or train*.parquet and test*.parquet",
    },
};

/// The registry's line for CIFAR-100.
pub const CIFAR100: Source = Source {
    name: "cifar100",
    about: "CIFAR-100, 32x32 RGB, its 100 fine classes, in its authors' binary layout or as parquet",
    place: Place::Path {
        holds: |path| {
            path.join(CIFAR100_LAYOUT.train[0]).is_file() && path.join(CIFAR100_LAYOUT.test).is_file()
        },
        list: |path, _: &OpenOptions| CIFAR100_LAYOUT.list(path),
        folders: &["cifar100/cifar-100-binary", "cifar-100-binary", "cifar100"],
        expected: "train.bin and test.bin (unpack https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz), or \
                   train*.parquet and test*.parquet",
    },
};

/// The pictures that the bytes of a CIFAR-10 file hold; `path` is only what errors call it.
///
/// # Errors
/// [`DataError::Malformed`] for bytes that are no whole records, or a label beyond the classes.
pub fn cifar10(path: &Path, bytes: &[u8]) -> Result<Vec<Item>> {
    CIFAR10_LAYOUT.parse(path, bytes)
}

/// The pictures that the bytes of a CIFAR-100 file hold; `path` is only what errors call it.
///
/// # Errors
/// As [`cifar10`].
pub fn cifar100(path: &Path, bytes: &[u8]) -> Result<Vec<Item>> {
    CIFAR100_LAYOUT.parse(path, bytes)
}

impl Layout {
    fn list(&self, folder: &Path) -> Result<Listing> {
        let mut train = Vec::new();
        for file in self.train {
            train.extend(self.read(&folder.join(file))?);
        }
        let test = self.read(&folder.join(self.test))?;
        Ok(Listing { classes: self.class_names(folder), train, test, ..Listing::default() })
    }

    fn read(&self, path: &Path) -> Result<Vec<Item>> {
        self.parse(path, &std::fs::read(path).map_err(|error| DataError::io(path, error))?)
    }

    fn parse(&self, path: &Path, bytes: &[u8]) -> Result<Vec<Item>> {
        let record = self.label_bytes + 3 * PLANE;
        if bytes.is_empty() || !bytes.len().is_multiple_of(record) {
            return Err(DataError::Malformed {
                path: path.into(),
                expected: format!("records of {record} bytes"),
                found: format!(
                    "{} bytes, which is {} records and {} bytes: truncated, or another file",
                    bytes.len(),
                    bytes.len() / record,
                    bytes.len() % record
                ),
            });
        }
        bytes.chunks_exact(record).enumerate().map(|(index, record)| self.item(path, index, record)).collect()
    }

    fn item(&self, path: &Path, index: usize, record: &[u8]) -> Result<Item> {
        let (labels, planes) = record.split_at(self.label_bytes);
        let label = labels[self.label_bytes - 1];
        if usize::from(label) >= self.classes {
            return Err(DataError::Malformed {
                path: path.into(),
                expected: format!("labels of 0 to {}", self.classes - 1),
                found: format!("label {label} in record {index}"),
            });
        }
        let name = format!("{}, record {index}", path.display());
        Ok(Item { name, content: Content::Decoded(interleave(planes)), label: Some(u32::from(label)) })
    }

    /// The names of the text file beside the records, if it has one for every class.
    fn class_names(&self, folder: &Path) -> Vec<String> {
        let text = std::fs::read_to_string(folder.join(self.names)).unwrap_or_default();
        let names: Vec<String> = text.split_whitespace().map(String::from).collect();
        match self.classes {
            classes if names.len() == classes => names,
            10 => CIFAR10_NAMES.map(String::from).to_vec(),
            classes => (0..classes).map(|class| format!("class {class}")).collect(),
        }
    }
}

/// Three planes to HWC.
fn interleave(planes: &[u8]) -> Picture {
    let pixels = (0..PLANE).flat_map(|at| [planes[at], planes[PLANE + at], planes[2 * PLANE + at]]).collect();
    Picture { width: SIDE, height: SIDE, channels: 3, pixels }
}

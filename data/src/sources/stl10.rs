//! `stl10` in the binary layout of its authors (Coates, Ng and Lee, 2011).
//!
//! Files `train_X.bin`, `test_X.bin` and `unlabeled_X.bin` are rows of records: 96x96 pixels as three planes, red,
//! green, blue, each column by column. `train_y.bin` and `test_y.bin` have a byte for every record, 1 to 10. Names
//! stand in `class_names.txt`. The unlabeled part (2.7 GB) may be left out. Records are read when they are decoded, so
//! that the set is never in memory at its own size.
//!
//! Never here: downloads, the ten folds of `fold_indices.txt` (`--labels` and `--seed` choose labels here).

use std::path::Path;

use picture::{Info, Picture};

use crate::{
    DataError, Result,
    listing::{Content, Item, Listing},
    sources::{OpenOptions, Place, Source},
};

const SIDE: usize = 96;
const PLANE: usize = SIDE * SIDE;
/// Bytes of a picture.
pub const RECORD: usize = 3 * PLANE;
const CLASSES: u8 = 10;
const INFO: Info = Info { width: SIDE, height: SIDE, channels: 3, format: "record" };

const NAMES: [&str; 10] =
    ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"];

/// The registry's line.
pub const SOURCE: Source = Source {
    name: "stl10",
    about: "STL-10, 96x96 RGB, 10 classes and 100,000 unlabeled pictures, in its authors' binary layout",
    place: Place::Path {
        holds: |path| path.join("train_X.bin").is_file(),
        list,
        folders: &["stl10/stl10_binary", "stl10_binary", "stl10"],
        expected: "train_X.bin, train_y.bin, test_X.bin, test_y.bin and, if wanted, unlabeled_X.bin (unpack \
                   http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz)",
    },
};

fn list(folder: &Path, _: &OpenOptions) -> Result<Listing> {
    let mut train = labeled(folder, "train")?;
    let test = labeled(folder, "test")?;
    let unlabeled = folder.join("unlabeled_X.bin");
    let mut notes = Vec::new();
    if unlabeled.is_file() {
        train.extend(records(&unlabeled)?);
    } else {
        notes.push(format!("no unlabeled pictures: {} is not there", unlabeled.display()));
    }
    Ok(Listing { classes: class_names(folder)?, train, test, notes, ..Listing::default() })
}

/// The pictures of a part with their labels.
fn labeled(folder: &Path, part: &str) -> Result<Vec<Item>> {
    let mut items = records(&folder.join(format!("{part}_X.bin")))?;
    let path = folder.join(format!("{part}_y.bin"));
    let bytes = std::fs::read(&path).map_err(|error| DataError::io(&path, error))?;
    let labels = labels(&path, &bytes, items.len())?;
    for (item, label) in items.iter_mut().zip(labels) {
        item.label = Some(label);
    }
    Ok(items)
}

/// The records of a file, not yet read.
fn records(path: &Path) -> Result<Vec<Item>> {
    let bytes = std::fs::metadata(path).map_err(|error| DataError::io(path, error))?.len();
    let record = RECORD as u64;
    if bytes == 0 || !bytes.is_multiple_of(record) {
        return Err(DataError::Malformed {
            path: path.into(),
            expected: format!("records of {RECORD} bytes"),
            found: format!(
                "{bytes} bytes, which is {} records and {} bytes: truncated, or another file",
                bytes / record,
                bytes % record
            ),
        });
    }
    let item = |index: u64| Item {
        name: format!("{}, record {index}", path.display()),
        content: Content::Record {
            path: path.into(),
            offset: index * record,
            length: RECORD,
            info: INFO,
            read: picture,
        },
        label: None,
    };
    Ok((0..bytes / record).map(item).collect())
}

/// The classes that the bytes of a label file hold, one for each of `pictures`; `path` is only what errors call it.
///
/// # Errors
/// [`DataError::Malformed`] for another number of labels, or a label that is none of 1 to 10.
pub fn labels(path: &Path, bytes: &[u8], pictures: usize) -> Result<Vec<u32>> {
    if bytes.len() != pictures {
        return Err(DataError::Malformed {
            path: path.into(),
            expected: format!("{pictures} labels, one for each picture"),
            found: format!("{}: truncated, or another file", bytes.len()),
        });
    }
    let class = |(record, &label): (usize, &u8)| match label {
        1..=CLASSES => Ok(u32::from(label) - 1),
        _ => Err(DataError::Malformed {
            path: path.into(),
            expected: format!("labels of 1 to {CLASSES}"),
            found: format!("label {label} of record {record}"),
        }),
    };
    bytes.iter().enumerate().map(class).collect()
}

/// A record's picture: three planes, column by column, to rows of pixels. `None` for bytes that are no record.
pub fn picture(record: &[u8]) -> Option<Picture> {
    if record.len() != RECORD {
        return None;
    }
    let at = |row: usize, column: usize| (0..3).map(move |plane| plane * PLANE + column * SIDE + row);
    let places = (0..SIDE).flat_map(|row| (0..SIDE).flat_map(move |column| at(row, column)));
    let pixels = places.map(|place| record[place]).collect();
    Some(Picture { width: SIDE, height: SIDE, channels: 3, pixels })
}

/// The names of the file beside, or the set's own where there is none.
fn class_names(folder: &Path) -> Result<Vec<String>> {
    let path = folder.join("class_names.txt");
    let Ok(text) = std::fs::read_to_string(&path) else { return Ok(NAMES.map(String::from).to_vec()) };
    let names: Vec<String> = text.split_whitespace().map(String::from).collect();
    if names.len() != usize::from(CLASSES) {
        return Err(DataError::Malformed {
            path,
            expected: format!("{CLASSES} names"),
            found: format!("{}", names.len()),
        });
    }
    Ok(names)
}

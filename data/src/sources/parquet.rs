//! Hugging Face image parquet: a file, or a folder of `train*.parquet`, `validation*.parquet`, `test*.parquet` (also
//! below `data/`), as the `datasets` library writes them.
//!
//! The picture column is a struct of `bytes` and `path`, or plain binary, under any name; the label column holds whole
//! numbers, -1 for none. Class names stand in the metadata under the key `huggingface`, as
//! `info.features.<label>.names`.
//!
//! Never here: arrow, pictures that a row only names by path.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use parquet::{
    basic::{LogicalType, Type},
    column::page::{Page, PageMetadata, PageReader},
    column::reader::{ColumnReader, ColumnReaderImpl, get_column_reader},
    data_type::{ByteArray, DataType},
    errors::ParquetError,
    file::{
        metadata::ParquetMetaData,
        reader::{ChunkReader, FileReader, RowGroupReader, SerializedFileReader},
    },
    schema::types::ColumnDescriptor,
};
use serde_json::Value;

use crate::{
    DataError, Result,
    listing::{Content, Item, Listing},
    sources::{OpenOptions, Place, Source},
};

/// The registry's line.
pub const SOURCE: Source = Source {
    name: "parquet",
    about: "Hugging Face image parquet: a file, or a folder of train*, validation* and test*.parquet",
    place: Place::Path {
        holds: |path| !files(path).is_empty(),
        list,
        folders: &[],
        expected: "a parquet file, or a folder with train*.parquet",
    },
};

/// Label columns by preference; then any other whole-number column whose name speaks of labels or classes.
const LABEL_NAMES: [&str; 4] = ["label", "fine_label", "labels", "class"];
/// Picture columns by preference; then any other.
const PICTURE_NAMES: [&str; 3] = ["image", "img", "picture"];

/// Which part a file belongs to.
#[derive(Clone, Copy, PartialEq)]
enum FilePart {
    Train,
    Validation,
    Test,
    Unlabeled,
}

fn list(path: &Path, _: &OpenOptions) -> Result<Listing> {
    let mut listing = Listing::default();
    let mut highest = None;
    for file in files(path) {
        let part = part_of(&file);
        let rows = read(&file, part == FilePart::Unlabeled)?;
        if listing.classes.is_empty() {
            listing.classes = rows.classes;
        }
        highest = highest.max(rows.items.iter().filter_map(|item| item.label).max());
        match part {
            FilePart::Validation => listing.val.extend(rows.items),
            FilePart::Test => listing.test.extend(rows.items),
            FilePart::Train | FilePart::Unlabeled => listing.train.extend(rows.items),
        }
    }
    name_classes(path, &mut listing, highest)?;
    Ok(listing)
}

/// Without names in the metadata, classes are numbers; with them, no label may lie beyond.
fn name_classes(path: &Path, listing: &mut Listing, highest: Option<u32>) -> Result<()> {
    let needed = highest.map_or(0, |label| label as usize + 1);
    if listing.classes.is_empty() {
        listing.classes = (0..needed).map(|class| format!("class {class}")).collect();
    }
    if needed > listing.classes.len() {
        return Err(DataError::Malformed {
            path: path.into(),
            expected: format!("labels of 0 to {}, as the metadata names them", listing.classes.len() - 1),
            found: format!("label {}", needed - 1),
        });
    }
    if listing.classes.len() < 2 {
        return Err(DataError::Malformed {
            path: path.into(),
            expected: "at least two classes".into(),
            found: format!("{}", listing.classes.len()),
        });
    }
    Ok(())
}

/// The parquet files of a path, in order of their names.
fn files(path: &Path) -> Vec<PathBuf> {
    let is_parquet =
        |path: &PathBuf| path.extension().is_some_and(|extension| extension == "parquet") && path.is_file();
    if path.is_file() {
        return Some(path.to_path_buf()).filter(is_parquet).into_iter().collect();
    }
    for folder in [path.to_path_buf(), path.join("data")] {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let mut found: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_parquet).collect();
        if !found.is_empty() {
            found.sort();
            return found;
        }
    }
    Vec::new()
}

fn part_of(path: &Path) -> FilePart {
    let name = path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    match name {
        name if name.starts_with("test") => FilePart::Test,
        name if name.starts_with("val") => FilePart::Validation,
        name if name.starts_with("unlabeled") || name.starts_with("unsupervised") => FilePart::Unlabeled,
        _ => FilePart::Train,
    }
}

/// What one file holds.
struct Rows {
    classes: Vec<String>,
    items: Vec<Item>,
}

fn read(path: &Path, unlabeled: bool) -> Result<Rows> {
    let file = File::open(path).map_err(|error| DataError::io(path, error))?;
    read_guarded(path, file, unlabeled)
}

/// The pictures that the bytes of a parquet file hold, and the class names; `path` is only what errors call it.
///
/// # Errors
/// [`DataError::Malformed`] for bytes that are no parquet file, a damaged one, or one without pictures or labels.
pub fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<(Vec<Item>, Vec<String>)> {
    read_guarded(path, Bytes::from(bytes), false).map(|rows| (rows.items, rows.classes))
}

/// Reads a file. A damaged one is an error: the library's panics on damaged pages are caught.
fn read_guarded(path: &Path, file: impl ChunkReader + 'static, unlabeled: bool) -> Result<Rows> {
    let read = std::panic::AssertUnwindSafe(|| read_open(path, file, unlabeled));
    std::panic::catch_unwind(read).unwrap_or_else(|_| Err(damaged(path, "pages that cannot be decoded")))
}

fn damaged(path: &Path, found: impl std::fmt::Display) -> DataError {
    DataError::Malformed {
        path: path.into(),
        expected: "a whole parquet file".into(),
        found: found.to_string(),
    }
}

fn read_open(path: &Path, file: impl ChunkReader + 'static, unlabeled: bool) -> Result<Rows> {
    let length = file.len();
    let reader = SerializedFileReader::new(file).map_err(|error| damaged(path, error))?;
    check_extent(path, reader.metadata(), length)?;
    let columns = reader.metadata().file_metadata().schema_descr_ptr();
    let picture =
        picture_column(columns.columns()).ok_or_else(|| no_column(path, columns.columns(), "picture"))?;
    let label = if unlabeled { None } else { label_column(columns.columns()) };
    if label.is_none() && !unlabeled {
        return Err(no_column(path, columns.columns(), "label"));
    }
    let mut items = Vec::new();
    for group in 0..reader.num_row_groups() {
        let group = reader.get_row_group(group).map_err(|error| damaged(path, error))?;
        read_group(path, group.as_ref(), picture, label, &mut items)?;
    }
    let label_name = label.map(|index| columns.column(index).path().string());
    let metadata = reader.metadata().file_metadata().key_value_metadata();
    let hub =
        metadata.and_then(|pairs| pairs.iter().find(|pair| pair.key == "huggingface")?.value.as_deref());
    let classes = label_name.zip(hub).map(|(label, hub)| class_names(hub, &label)).unwrap_or_default();
    Ok(Rows { classes, items })
}

/// Refuses metadata that promise more than the file can hold: the library takes memory for what is promised.
fn check_extent(path: &Path, metadata: &ParquetMetaData, length: u64) -> Result<()> {
    for group in metadata.row_groups() {
        // A picture takes a byte at least.
        if u64::try_from(group.num_rows()).map_or(true, |rows| rows > length) {
            return Err(damaged(path, format!("{} rows in a file of {length} bytes", group.num_rows())));
        }
        for column in group.columns() {
            let (start, bytes) = column.byte_range();
            if start.checked_add(bytes).is_none_or(|end| end > length) {
                let name = column.column_path().string();
                return Err(damaged(
                    path,
                    format!("column {name} that ends beyond the file's {length} bytes"),
                ));
            }
        }
    }
    Ok(())
}

fn no_column(path: &Path, columns: &[std::sync::Arc<ColumnDescriptor>], what: &str) -> DataError {
    let found: Vec<String> = columns
        .iter()
        .map(|column| {
            format!("{} ({})", column.path().string(), format!("{:?}", column.physical_type()).to_lowercase())
        })
        .collect();
    let expected = match what {
        "picture" => "a column of pictures: a struct with `bytes`, or binary",
        _ => "a column of labels: whole numbers, named `label`",
    };
    DataError::Malformed {
        path: path.into(),
        expected: expected.into(),
        found: format!("columns {}", found.join(", ")),
    }
}

/// The leaf with the pictures' bytes: `NAME.bytes`, else a binary column that is no text.
fn picture_column(columns: &[std::sync::Arc<ColumnDescriptor>]) -> Option<usize> {
    let is_bytes =
        |column: &ColumnDescriptor| column.physical_type() == Type::BYTE_ARRAY && column.max_rep_level() == 0;
    let is_text = |column: &ColumnDescriptor| matches!(column.logical_type_ref(), Some(LogicalType::String));
    let rank = |column: &ColumnDescriptor| {
        let path = column.path().string();
        let name = path.split('.').next().unwrap_or_default();
        let nested = path.ends_with(".bytes");
        let preference = PICTURE_NAMES.iter().position(|known| *known == name).unwrap_or(PICTURE_NAMES.len());
        (is_bytes(column) && !is_text(column) && (nested || !path.contains('.')))
            .then_some((!nested, preference))
    };
    best(columns, rank)
}

fn label_column(columns: &[std::sync::Arc<ColumnDescriptor>]) -> Option<usize> {
    let rank = |column: &ColumnDescriptor| {
        let name = column.path().string();
        let whole =
            matches!(column.physical_type(), Type::INT32 | Type::INT64) && column.max_rep_level() == 0;
        let known = LABEL_NAMES.iter().position(|known| *known == name);
        let speaks = name.contains("label") || name.contains("class");
        known.or(speaks.then_some(LABEL_NAMES.len())).filter(|_| whole)
    };
    best(columns, rank)
}

/// The column of least rank among those that have one.
fn best<R: Ord>(
    columns: &[std::sync::Arc<ColumnDescriptor>],
    rank: impl Fn(&ColumnDescriptor) -> Option<R>,
) -> Option<usize> {
    let ranked = columns.iter().enumerate().filter_map(|(index, column)| Some((rank(column)?, index)));
    ranked.min().map(|(_, index)| index)
}

fn read_group(
    path: &Path,
    group: &dyn RowGroupReader,
    picture: usize,
    label: Option<usize>,
    items: &mut Vec<Item>,
) -> Result<()> {
    let rows = group.metadata().num_rows().max(0) as usize;
    let column = |index| -> Result<ColumnReader, ParquetError> {
        let pages = Bounded { pages: group.get_column_page_reader(index)?, rows };
        Ok(get_column_reader(group.metadata().column(index).column_descr_ptr(), Box::new(pages)))
    };
    let pictures =
        column(picture).and_then(|reader| bytes(reader, rows)).map_err(|error| damaged(path, error))?;
    let labels = match label {
        Some(index) => {
            column(index).and_then(|reader| numbers(reader, rows)).map_err(|error| damaged(path, error))?
        }
        None => vec![None; rows],
    };
    if pictures.len() != rows || labels.len() != rows {
        return Err(damaged(
            path,
            format!("{} pictures and {} labels in {rows} rows", pictures.len(), labels.len()),
        ));
    }
    for (picture, label) in pictures.into_iter().zip(labels) {
        let name = format!("{}, row {}", path.display(), items.len());
        // A row without bytes becomes an empty picture, which is reported as a broken one.
        let content = Content::Encoded(picture.map(|bytes| bytes.data().to_vec()).unwrap_or_default());
        items.push(Item { label: checked_label(path, items.len(), label)?, name, content });
    }
    Ok(())
}

/// Pages that hold what they promise: memory is taken for as many values as a page's head names, before any is read.
struct Bounded {
    pages: Box<dyn PageReader>,
    rows: usize,
}

impl Bounded {
    fn check(&self, page: &Page) -> Result<(), ParquetError> {
        // A value of a dictionary takes a byte at least; columns that are read do not repeat, so no page outnumbers the rows.
        let most = match page {
            Page::DictionaryPage { buf, .. } => buf.len(),
            Page::DataPage { .. } | Page::DataPageV2 { .. } => self.rows,
        };
        match page.num_values() as usize {
            found if found > most => {
                Err(ParquetError::General(format!("a page of {found} values where {most} have room")))
            }
            _ => Ok(()),
        }
    }
}

impl Iterator for Bounded {
    type Item = Result<Page, ParquetError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for Bounded {
    fn get_next_page(&mut self) -> Result<Option<Page>, ParquetError> {
        let page = self.pages.get_next_page()?;
        page.as_ref().map_or(Ok(()), |page| self.check(page))?;
        Ok(page)
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>, ParquetError> {
        self.pages.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<(), ParquetError> {
        self.pages.skip_next_page()
    }
}

/// A class; -1, as the `datasets` library has it, and null are none.
fn checked_label(path: &Path, row: usize, label: Option<i64>) -> Result<Option<u32>> {
    match label {
        None | Some(-1) => Ok(None),
        Some(label) => {
            u32::try_from(label).ok().filter(|&label| label < MOST_CLASSES).map(Some).ok_or_else(|| {
                let expected = format!("labels of 0 to {}, or -1 for none", MOST_CLASSES - 1);
                DataError::Malformed {
                    path: path.into(),
                    expected,
                    found: format!("label {label} in row {row}"),
                }
            })
        }
    }
}

/// A column with labels beyond this holds something else: identifiers, times.
const MOST_CLASSES: u32 = 1_000_000;

fn bytes(reader: ColumnReader, rows: usize) -> Result<Vec<Option<ByteArray>>, ParquetError> {
    match reader {
        ColumnReader::ByteArrayColumnReader(mut reader) => values(&mut reader, rows),
        _ => Err(ParquetError::General("the picture column is not binary".into())),
    }
}

fn numbers(reader: ColumnReader, rows: usize) -> Result<Vec<Option<i64>>, ParquetError> {
    match reader {
        ColumnReader::Int64ColumnReader(mut reader) => values(&mut reader, rows),
        ColumnReader::Int32ColumnReader(mut reader) => {
            Ok(values(&mut reader, rows)?.into_iter().map(|value| value.map(i64::from)).collect())
        }
        _ => Err(ParquetError::General("the label column holds no whole numbers".into())),
    }
}

/// All values of a column of a row group, nulls put back where they were left out.
fn values<T: DataType>(
    reader: &mut ColumnReaderImpl<T>,
    rows: usize,
) -> Result<Vec<Option<T::T>>, ParquetError> {
    let (mut levels, mut present) = (Vec::new(), Vec::new());
    while {
        let (records, ..) = reader.read_records(rows, Some(&mut levels), None, &mut present)?;
        records > 0
    } {}
    if levels.is_empty() || levels.len() == present.len() {
        return Ok(present.into_iter().map(Some).collect());
    }
    // No column of a picture or a label repeats, so the highest level is that of a value.
    let defined = levels.iter().copied().max().unwrap_or(0);
    let mut present = present.into_iter();
    Ok(levels.into_iter().map(|level| if level == defined { present.next() } else { None }).collect())
}

/// Names of the label's classes in the metadata that the `datasets` library writes; none where there are none.
fn class_names(metadata: &str, label: &str) -> Vec<String> {
    let parsed: Value = serde_json::from_str(metadata).unwrap_or_default();
    let names = parsed["info"]["features"][label]["names"].as_array().cloned().unwrap_or_default();
    names.iter().filter_map(|name| name.as_str().map(String::from)).collect()
}

#[cfg(test)]
mod tests {
    use parquet::basic::Encoding;

    use super::*;

    #[test]
    fn files_belong_to_the_part_their_name_starts_with() {
        let part = |name: &str| part_of(Path::new(name));
        assert!(part("train-00000-of-00001.parquet") == FilePart::Train);
        assert!(part("a/test.parquet") == FilePart::Test);
        assert!(part("validation-0.parquet") == FilePart::Validation);
        assert!(part("unlabeled.parquet") == FilePart::Unlabeled);
        assert!(part("pictures.parquet") == FilePart::Train);
    }

    #[test]
    fn class_names_come_from_the_labels_feature() {
        let metadata =
            r#"{"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}"#;
        assert_eq!(class_names(metadata, "label"), ["cat", "dog"]);
        assert!(class_names(metadata, "other").is_empty());
        assert!(class_names("not json", "label").is_empty());
    }

    #[test]
    fn pages_that_promise_more_values_than_they_hold_are_refused() {
        let bytes = include_bytes!("../../tests/fixtures/plain.parquet");
        let file = SerializedFileReader::new(Bytes::from_static(bytes)).unwrap();
        let group = file.get_row_group(0).unwrap();
        let bounded = Bounded { pages: group.get_column_page_reader(0).unwrap(), rows: 8 };
        let dictionary = |num_values| Page::DictionaryPage {
            buf: Bytes::from_static(b"12345678"),
            num_values,
            encoding: Encoding::PLAIN,
            is_sorted: false,
        };
        assert!(bounded.check(&dictionary(8)).is_ok());
        let error = bounded.check(&dictionary(u32::MAX)).unwrap_err().to_string();
        assert!(error.contains("4294967295 values where 8 have room"), "{error}");
    }

    #[test]
    fn metadata_that_promise_more_than_the_file_holds_are_refused() {
        let bytes = include_bytes!("../../tests/fixtures/plain.parquet");
        let reader = SerializedFileReader::new(Bytes::from_static(bytes)).unwrap();
        let check = |length| check_extent(Path::new("a.parquet"), reader.metadata(), length);
        assert!(check(bytes.len() as u64).is_ok());
        assert!(check(100).unwrap_err().to_string().contains("ends beyond the file's 100 bytes"));
        assert!(check(7).unwrap_err().to_string().contains("8 rows in a file of 7 bytes"));
    }
}

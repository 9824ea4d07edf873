//! A folder of class folders: directly, or below `train/`, `val/` (or `valid/`, `validation/`) and `test/`, with
//! pictures without a label in `unlabeled/` beside them.
//!
//! Class names are the folders' names, in alphabetical order. Files are found by their extension, at any depth.
//!
//! Never here: decoding.

use std::path::{Path, PathBuf};

use crate::{
    DataError, Result,
    listing::{Content, Item, Listing},
    sources::{OpenOptions, Place, Source},
};

const UNLABELED: &str = "unlabeled";
const TRAIN: [&str; 1] = ["train"];
const VALIDATION: [&str; 3] = ["val", "valid", "validation"];
const TEST: [&str; 1] = ["test"];

/// Extensions of the formats that are read.
const EXTENSIONS: [&str; 7] = ["jpg", "jpeg", "png", "webp", "bmp", "gif", "jfif"];

/// Folders in folders that are looked into: enough for any real layout, and an end for links in a circle.
const DEEPEST: usize = 12;

/// The registry's line.
pub const SOURCE: Source = Source {
    name: "folder",
    about: "class folders, directly or below train/, val/ and test/, with unlabeled/ beside them",
    place: Place::Path {
        holds: |path| subfolders(path).is_ok_and(|folders| !folders.is_empty()),
        list,
        folders: &[],
        expected: "class folders of pictures, directly or below train/, val/ and test/, with unlabeled/ beside them",
    },
};

fn list(root: &Path, _: &OpenOptions) -> Result<Listing> {
    let mut reader = Reader::default();
    let train_root = below(root, &TRAIN).unwrap_or_else(|| root.to_path_buf());
    let classes = class_names(&train_root, train_root == root)?;
    let train = reader.train(&train_root, &classes)?;
    let val = reader.other_part(below(root, &VALIDATION), &classes)?;
    let test = reader.other_part(below(root, &TEST).filter(|_| train_root != root), &classes)?;
    let mut listing = Listing { classes, train, val, test, notes: Vec::new() };
    let mut unlabeled_roots = vec![root.join(UNLABELED)];
    if train_root != root {
        unlabeled_roots.push(train_root.join(UNLABELED));
    }
    for folder in unlabeled_roots.into_iter().filter(|folder| folder.is_dir()) {
        listing.train.extend(reader.items(&folder, None)?);
    }
    listing.notes.extend(reader.note());
    Ok(listing)
}

/// The first of these folders that exists.
fn below(root: &Path, names: &[&str]) -> Option<PathBuf> {
    names.iter().map(|name| root.join(name)).find(|folder| folder.is_dir())
}

/// Names of the class folders; those of parts are none where the classes lie beside them.
fn class_names(folder: &Path, beside_parts: bool) -> Result<Vec<String>> {
    let is_part = |name: &str| name == UNLABELED || (beside_parts && VALIDATION.contains(&name));
    let mut names: Vec<String> = subfolders(folder)?.into_iter().filter(|name| !is_part(name)).collect();
    names.sort();
    if names.len() < 2 {
        return Err(DataError::Malformed {
            path: folder.into(),
            expected: "at least two class folders".into(),
            found: match names.first() {
                None => "none".into(),
                Some(name) => format!("one, `{name}`"),
            },
        });
    }
    Ok(names)
}

fn subfolders(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|error| DataError::io(folder, error))? {
        let path = entry.map_err(|error| DataError::io(folder, error))?.path();
        if path.is_dir() && !is_hidden(&path) {
            names.extend(path.file_name().map(|name| name.to_string_lossy().into_owned()));
        }
    }
    Ok(names)
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'))
}

fn is_picture(path: &Path) -> bool {
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
    extension.is_some_and(|extension| EXTENSIONS.contains(&extension.as_str()))
}

/// Reads folders and counts the files it passes over.
#[derive(Default)]
struct Reader {
    passed_over: usize,
    example: Option<PathBuf>,
}

impl Reader {
    /// Every class has at least one training picture.
    fn train(&mut self, root: &Path, classes: &[String]) -> Result<Vec<Item>> {
        let mut items = Vec::new();
        for (label, class) in classes.iter().enumerate() {
            let of_class = self.items(&root.join(class), Some(label as u32))?;
            if of_class.is_empty() {
                return Err(DataError::Malformed {
                    path: root.join(class),
                    expected: format!("pictures of class `{class}` ({})", EXTENSIONS.join(", ")),
                    found: "none; add some, or remove the folder".into(),
                });
            }
            items.extend(of_class);
        }
        Ok(items)
    }

    /// A validation or test part: its classes are among those of the training part.
    fn other_part(&mut self, root: Option<PathBuf>, classes: &[String]) -> Result<Vec<Item>> {
        let Some(root) = root else { return Ok(Vec::new()) };
        let mut items = Vec::new();
        let mut names: Vec<String> =
            subfolders(&root)?.into_iter().filter(|name| name != UNLABELED).collect();
        names.sort();
        for name in names {
            let Some(label) = classes.iter().position(|class| *class == name) else {
                return Err(DataError::Malformed {
                    path: root.join(&name),
                    expected: format!("one of the training part's classes: {}", classes.join(", ")),
                    found: format!("class `{name}`"),
                });
            };
            items.extend(self.items(&root.join(name), Some(label as u32))?);
        }
        Ok(items)
    }

    /// All pictures of a folder, in order of their paths.
    fn items(&mut self, folder: &Path, label: Option<u32>) -> Result<Vec<Item>> {
        let mut paths = Vec::new();
        self.walk(folder, DEEPEST, &mut paths)?;
        paths.sort();
        let item =
            |path: PathBuf| Item { name: path.display().to_string(), content: Content::File(path), label };
        Ok(paths.into_iter().map(item).collect())
    }

    fn walk(&mut self, folder: &Path, depth: usize, paths: &mut Vec<PathBuf>) -> Result<()> {
        for entry in std::fs::read_dir(folder).map_err(|error| DataError::io(folder, error))? {
            let path = entry.map_err(|error| DataError::io(folder, error))?.path();
            if is_hidden(&path) {
                continue;
            }
            if path.is_dir() {
                if depth > 0 {
                    self.walk(&path, depth - 1, paths)?;
                }
            } else if is_picture(&path) {
                paths.push(path);
            } else {
                self.passed_over += 1;
                self.example.get_or_insert(path);
            }
        }
        Ok(())
    }

    fn note(&self) -> Option<String> {
        let example = self.example.as_ref()?;
        let extensions = EXTENSIONS.join(", ");
        Some(format!(
            "{} file(s) without a picture's extension ({extensions}) passed over, such as {}",
            self.passed_over,
            example.display()
        ))
    }
}

//! Every source on small files in its true layout, and on files that are not what they should be.
#![allow(clippy::unwrap_used)] // a test that panics has failed

mod opening;

use std::{
    fs,
    path::{Path, PathBuf},
};

use data::{OpenOptions, PictureShape, inspect, open};
use opening::{error_of, open_path, options};
use tempfile::TempDir;

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn write(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) {
    fs::create_dir_all(path.as_ref().parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// An uncompressed BMP of one color: a picture that a test can write without a library.
fn bmp(width: u32, height: u32, [red, green, blue]: [u8; 3]) -> Vec<u8> {
    let stride = (width * 3).div_ceil(4) * 4;
    let mut bytes = b"BM".to_vec();
    for field in
        [54 + stride * height, 0, 54, 40, width, height, 1 | 24 << 16, 0, stride * height, 0, 0, 0, 0]
    {
        bytes.extend(field.to_le_bytes());
    }
    for _ in 0..height {
        let mut row = [blue, green, red].repeat(width as usize);
        row.resize(stride as usize, 0);
        bytes.extend(row);
    }
    bytes
}

/// `count` pictures in each class folder; the gray level tells class and number.
fn write_classes(root: &Path, classes: &[&str], count: u8) {
    for (class, name) in classes.iter().enumerate() {
        for number in 0..count {
            let level = 20 * class as u8 + number;
            write(root.join(name).join(format!("{number:02}.bmp")), bmp(8, 6, [level; 3]));
        }
    }
}

// CIFAR

fn cifar_record(labels: &[u8], level: u8) -> Vec<u8> {
    let plane = |offset: u8| vec![level + offset; 1024];
    [labels.to_vec(), plane(0), plane(1), plane(2)].concat()
}

fn write_cifar10(root: &Path) {
    for batch in 1..=5u8 {
        let records: Vec<u8> =
            (0..4).flat_map(|n| cifar_record(&[(batch + n) % 10], 10 * batch + n)).collect();
        write(root.join(format!("data_batch_{batch}.bin")), records);
    }
    write(root.join("test_batch.bin"), [cifar_record(&[9], 200), cifar_record(&[0], 210)].concat());
}

#[test]
fn cifar10_is_read_from_its_binary_layout() {
    let folder = TempDir::new().unwrap();
    write_cifar10(folder.path());
    let data = open_path(folder.path()).unwrap();
    assert_eq!((data.train.len(), data.val.len(), data.test.len()), (20, 0, 2));
    assert_eq!(data.shape, PictureShape { channels: 3, height: 32, width: 32 });
    assert_eq!(data.train.labels[..5], [1, 2, 3, 4, 2].map(Some));
    assert_eq!(data.train.picture(4, data.shape)[..6], [20, 21, 22, 20, 21, 22]);
    assert_eq!(data.test.labels, [Some(9), Some(0)]);
    assert_eq!(data.classes[3], "cat");
}

#[test]
fn cifar10_is_found_by_name_in_the_data_folder() {
    let folder = TempDir::new().unwrap();
    write_cifar10(&folder.path().join("cifar-10-batches-bin"));
    let options = OpenOptions { data_dir: folder.path().into(), image_size: Some(16), ..options() };
    let data = open("cifar10", &options).unwrap();
    assert_eq!((data.name.as_str(), data.shape.width), ("cifar10", 16));
    assert_eq!(data.train.picture(4, data.shape)[..3], [20, 21, 22]);
}

#[test]
fn cifar100_uses_fine_labels_and_the_names_beside() {
    let folder = TempDir::new().unwrap();
    write(folder.path().join("train.bin"), [cifar_record(&[3, 42], 1), cifar_record(&[19, 99], 2)].concat());
    write(folder.path().join("test.bin"), cifar_record(&[0, 7], 3));
    let names: String = (0..100).map(|n| format!("thing_{n}\n")).collect();
    write(folder.path().join("fine_label_names.txt"), names);
    let data = open_path(folder.path()).unwrap();
    assert_eq!(data.train.labels, [Some(42), Some(99)]);
    assert_eq!((data.classes.len(), data.classes[42].as_str()), (100, "thing_42"));
}

#[test]
fn a_missing_data_set_says_where_it_was_sought_and_what_it_consists_of() {
    let folder = TempDir::new().unwrap();
    let options = OpenOptions { data_dir: folder.path().into(), ..options() };
    let error = open("cifar10", &options).unwrap_err().to_string();
    for part in [
        "cifar10: not found",
        "cifar-10-batches-bin",
        "data_batch_1.bin",
        "cifar-10-binary.tar.gz",
        "--data-dir",
    ] {
        assert!(error.contains(part), "`{part}` is not in: {error}");
    }
}

#[test]
fn a_truncated_cifar_file_is_named_with_its_size() {
    let folder = TempDir::new().unwrap();
    write_cifar10(folder.path());
    write(folder.path().join("data_batch_3.bin"), vec![0; 3073 + 100]);
    let error = error_of(folder.path());
    assert!(error.contains("data_batch_3.bin: expected records of 3073 bytes, found 3173 bytes"), "{error}");
    write(folder.path().join("data_batch_3.bin"), "");
    assert!(error_of(folder.path()).contains("found 0 bytes"));
}

#[test]
fn a_cifar_label_beyond_the_classes_is_named_with_its_record() {
    let folder = TempDir::new().unwrap();
    write_cifar10(folder.path());
    write(folder.path().join("test_batch.bin"), [cifar_record(&[1], 1), cifar_record(&[10], 1)].concat());
    let error = error_of(folder.path());
    assert!(
        error.contains("test_batch.bin: expected labels of 0 to 9, found label 10 in record 1"),
        "{error}"
    );
}

#[test]
fn a_missing_cifar_file_is_named() {
    let folder = TempDir::new().unwrap();
    write_cifar10(folder.path());
    fs::remove_file(folder.path().join("data_batch_4.bin")).unwrap();
    assert!(error_of(folder.path()).contains("data_batch_4.bin"));
}

// Parquet

#[test]
fn hub_parquet_is_read_with_names_parts_and_broken_rows() {
    let data = open_path(&fixture("hub")).unwrap();
    assert_eq!(data.classes, ["ant", "bee", "cow"]);
    assert_eq!((data.train.len(), data.test.len()), (11, 3));
    assert_eq!(data.shape, PictureShape { channels: 3, height: 6, width: 6 });
    let labels: Vec<Option<u32>> =
        [0, 1, 2, 0, 2, 0, 1, 2, 0].map(Some).into_iter().chain([None, Some(1)]).collect();
    assert_eq!(data.train.labels, labels);
    let levels: Vec<u8> = (0..11).map(|id| data.train.picture(id, data.shape)[0]).collect();
    assert_eq!(levels, [10, 11, 12, 13, 15, 16, 17, 18, 19, 20, 21]);
    assert!(
        data.notes[0].contains("1 broken picture(s) skipped") && data.notes[0].contains("row 4"),
        "{:?}",
        data.notes
    );
}

#[test]
fn strict_refuses_a_broken_picture_by_name() {
    let strict = OpenOptions { strict: true, ..options() };
    let error = open(fixture("hub").to_str().unwrap(), &strict).unwrap_err().to_string();
    assert!(error.contains("row 4") && error.contains("starts with `no picture`"), "{error}");
}

#[test]
fn plain_binary_columns_int32_labels_and_nulls_are_read() {
    let data = open_path(&fixture("plain.parquet")).unwrap();
    assert_eq!(data.classes, ["class 0", "class 1"]);
    assert!(data.flips(), "numbers that stand for names are no digits");
    assert_eq!(data.name, "plain");
    // Seven pictures (one is null), six of them with a label, of which 20 % are the test part.
    assert_eq!((data.train.len(), data.test.len()), (6, 1));
    assert!(
        data.notes.iter().any(|note| note.contains("1 of 6 labeled pictures (20 %, seed 0)")),
        "{:?}",
        data.notes
    );
}

#[test]
fn parquet_that_lacks_a_column_says_which_it_has() {
    let error = error_of(&fixture("no_label.parquet"));
    assert!(error.contains("expected a column of labels") && error.contains("id (int64)"), "{error}");
    let error = error_of(&fixture("no_picture.parquet"));
    assert!(
        error.contains("expected a column of pictures") && error.contains("text (byte_array)"),
        "{error}"
    );
    let error = error_of(&fixture("strange_label.parquet"));
    assert!(error.contains("label -7 in row 0"), "{error}");
}

#[test]
fn damaged_parquet_is_an_error_and_never_a_panic() {
    let folder = TempDir::new().unwrap();
    let whole = fs::read(fixture("hub/train-00000-of-00001.parquet")).unwrap();
    let path = folder.path().join("train.parquet");
    for length in [0, 3, 100, whole.len() / 2, whole.len() - 1] {
        write(&path, &whole[..length]);
        assert!(error_of(&path).contains("train.parquet"), "cut to {length}");
    }
    for at in (4..whole.len()).step_by(23) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x55;
        write(&path, &bytes);
        let _ = open_path(&path);
    }
}

// Folders

#[test]
fn class_folders_are_read_and_a_test_part_is_split_off_aloud() {
    let folder = TempDir::new().unwrap();
    write_classes(folder.path(), &["dog", "cat"], 10);
    write(folder.path().join("unlabeled/deep/a.bmp"), bmp(8, 6, [1, 2, 3]));
    write(folder.path().join("cat/.DS_Store"), "x");
    write(folder.path().join("cat/notes.txt"), "x");
    let data = open_path(folder.path()).unwrap();
    assert_eq!(data.classes, ["cat", "dog"]);
    assert_eq!(data.shape, PictureShape { channels: 3, height: 6, width: 8 });
    assert_eq!((data.train.class_counts(2), data.test.class_counts(2)), (vec![8, 8], vec![2, 2]));
    assert_eq!((data.train.len(), data.train.labels[16]), (17, None));
    assert_eq!(data.train.picture(16, data.shape)[..3], [1, 2, 3]);
    assert!(data.notes.iter().any(|note| note.contains("no test part: 4 of 20")), "{:?}", data.notes);
    assert!(
        data.notes.iter().any(|note| note.contains("1 file(s)") && note.contains("notes.txt")),
        "{:?}",
        data.notes
    );
    let again = open_path(folder.path()).unwrap();
    assert_eq!(again.test.pixels, data.test.pixels);
    let other = open(folder.path().to_str().unwrap(), &OpenOptions { seed: 1, ..options() }).unwrap();
    assert_ne!(other.test.pixels, data.test.pixels);
}

#[test]
fn every_name_of_the_validation_folder_is_known() {
    for name in ["val", "valid", "validation"] {
        let folder = TempDir::new().unwrap();
        write_classes(&folder.path().join("train"), &["cat", "dog"], 5);
        write_classes(&folder.path().join(name), &["cat", "dog"], 2);
        write_classes(&folder.path().join("test"), &["dog"], 3);
        write(folder.path().join("unlabeled/a.bmp"), bmp(8, 6, [9; 3]));
        let data = open_path(folder.path()).unwrap();
        assert_eq!((data.train.len(), data.val.len(), data.test.len()), (11, 4, 3));
        assert_eq!(data.test.labels, [Some(1); 3]);
        assert!(data.notes.is_empty(), "{:?}", data.notes);
    }
}

#[test]
fn sizes_that_differ_or_are_large_become_224_unless_told() {
    let folder = TempDir::new().unwrap();
    write_classes(folder.path(), &["cat", "dog"], 3);
    write(folder.path().join("cat/odd.bmp"), bmp(9, 9, [7; 3]));
    assert_eq!(open_path(folder.path()).unwrap().shape.width, 224);
    let small = OpenOptions { image_size: Some(4), channels: Some(1), ..options() };
    let data = open(folder.path().to_str().unwrap(), &small).unwrap();
    assert_eq!(data.shape, PictureShape { channels: 1, height: 4, width: 4 });
}

#[test]
fn pictures_that_do_not_fit_in_memory_are_refused_before_decoding() {
    let folder = TempDir::new().unwrap();
    write_classes(folder.path(), &["cat", "dog"], 3);
    let tight = OpenOptions { image_size: Some(512), memory_limit: Some(1 << 20), ..options() };
    let error = open(folder.path().to_str().unwrap(), &tight).unwrap_err().to_string();
    assert!(error.contains("6 pictures of 512x512x3") && error.contains("--image-size"), "{error}");
}

#[test]
fn broken_files_are_named_and_skipped() {
    let folder = TempDir::new().unwrap();
    write_classes(folder.path(), &["cat", "dog"], 5);
    write(folder.path().join("cat/broken.jpg"), "<html>not found</html>");
    let mut cut = bmp(8, 6, [1; 3]);
    cut.truncate(100);
    write(folder.path().join("dog/cut.bmp"), cut);
    let data = open_path(folder.path()).unwrap();
    assert_eq!(data.train.len() + data.test.len(), 10);
    let note = data.notes.iter().find(|note| note.contains("broken")).unwrap();
    assert!(note.contains("2 broken") && note.contains("broken.jpg") && note.contains("cut.bmp"), "{note}");
    let strict = OpenOptions { strict: true, ..options() };
    assert!(open(folder.path().to_str().unwrap(), &strict).unwrap_err().to_string().contains("--strict"));
}

#[test]
fn layouts_that_are_no_data_set_are_described() {
    let folder = TempDir::new().unwrap();
    let error = error_of(folder.path());
    assert!(error.contains("an empty folder") && error.contains("class folders"), "{error}");
    write(folder.path().join("loose.bmp"), bmp(8, 6, [1; 3]));
    assert!(error_of(folder.path()).contains("loose.bmp"));
    assert!(error_of(&folder.path().join("loose.bmp")).contains("a file of another kind"));
    fs::create_dir(folder.path().join("only")).unwrap();
    assert!(error_of(folder.path()).contains("at least two class folders, found one, `only`"));
    write(folder.path().join("more/a.bmp"), bmp(8, 6, [1; 3]));
    let error = error_of(folder.path());
    assert!(
        error.contains("only: expected pictures of class `only`") && error.contains("found none"),
        "{error}"
    );
}

#[test]
fn a_test_class_that_is_not_trained_is_refused() {
    let folder = TempDir::new().unwrap();
    write_classes(&folder.path().join("train"), &["cat", "dog"], 2);
    write_classes(&folder.path().join("test"), &["cow"], 2);
    let error = error_of(folder.path());
    assert!(error.contains("cat, dog") && error.contains("found class `cow`"), "{error}");
}

#[test]
fn nothing_but_broken_pictures_is_an_error() {
    let folder = TempDir::new().unwrap();
    for class in ["cat", "dog"] {
        write(folder.path().join(class).join("a.png"), "nothing");
    }
    assert!(error_of(folder.path()).contains("2 broken picture(s)"));
}

#[test]
fn an_inspection_counts_classes_sizes_and_broken_files() {
    let folder = TempDir::new().unwrap();
    write_classes(&folder.path().join("train"), &["cat", "dog"], 3);
    write_classes(&folder.path().join("test"), &["cat"], 1);
    write(folder.path().join("train/dog/wide.bmp"), bmp(40, 5, [1; 3]));
    write(folder.path().join("train/dog/broken.png"), "nothing");
    write(folder.path().join("unlabeled/a.bmp"), bmp(8, 6, [1; 3]));
    let found = inspect(folder.path().to_str().unwrap(), &options()).unwrap();
    assert_eq!(found.classes, ["cat", "dog"]);
    assert_eq!(found.parts.iter().map(|part| part.name).collect::<Vec<_>>(), ["train", "test"]);
    assert_eq!(found.parts[0].per_class, [3, 5]);
    assert_eq!((found.unlabeled(), found.color, found.gray), (1, 9, 0));
    assert_eq!((found.smallest, found.largest), ((8, 5), (40, 6)));
    assert_eq!(found.broken.len(), 1);
    let text = found.to_string();
    assert!(text.contains("8x5 to 40x6") && text.contains("broken.png: not a picture"), "{text}");
}

#[test]
fn the_built_in_set_can_be_inspected_too() {
    let found = inspect("synth:50/10", &options()).unwrap();
    assert_eq!((found.color, found.parts.len(), found.parts[0].per_class.clone()), (60, 2, vec![5; 10]));
}

//! IDX, STL-10 and FER+ on small files in their authors' layouts, and on files that are not what they should be.
#![allow(clippy::unwrap_used)] // a test that panics has failed

mod opening;

use std::fs;
use std::io::Write;
use std::path::Path;

use data::{OpenOptions, PictureShape, open};
use flate2::{Compression, write::GzEncoder};
use opening::{error_of, open_path, options};
use tempfile::TempDir;

fn assert_says(error: &str, expected: &[&str]) {
    assert!(expected.iter().all(|part| error.contains(part)), "{error} lacks one of {expected:?}");
}

fn write(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join(name), bytes).unwrap();
}

// IDX

fn idx(dimensions: &[u32], values: impl IntoIterator<Item = u8>) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, dimensions.len() as u8];
    bytes.extend(dimensions.iter().flat_map(|length| length.to_be_bytes()));
    bytes.extend(values);
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut file = GzEncoder::new(Vec::new(), Compression::default());
    file.write_all(bytes).unwrap();
    file.finish().unwrap()
}

/// Six training pictures and two of the test, 3 wide and 2 high; the first pixel tells which.
fn write_mnist(folder: &Path) {
    let pictures = |count: u8| (0..count).flat_map(|n| [10 * n, 1, 2, 3, 4, 5]);
    write(folder, "train-images-idx3-ubyte", idx(&[6, 2, 3], pictures(6)));
    write(folder, "train-labels-idx1-ubyte", idx(&[6], [5, 0, 4, 1, 9, 2]));
    write(folder, "t10k-images-idx3-ubyte", idx(&[2, 2, 3], pictures(2)));
    write(folder, "t10k-labels-idx1-ubyte", idx(&[2], [7, 2]));
}

#[test]
fn mnists_files_are_read_row_by_row() {
    let folder = TempDir::new().unwrap();
    write_mnist(folder.path());
    let data = open_path(folder.path()).unwrap();
    assert_eq!(data.shape, PictureShape { channels: 1, height: 2, width: 3 });
    assert_eq!((data.train.len(), data.test.len(), data.classes.len()), (6, 2, 10));
    assert_eq!(data.train.labels[..3], [Some(5), Some(0), Some(4)]);
    assert_eq!(data.train.picture(3, data.shape), [30, 1, 2, 3, 4, 5]);
    assert!(!data.flips(), "a mirrored digit is no digit");
}

#[test]
fn gzipped_and_dotted_names_are_the_same_set() {
    let (plain, packed) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    write_mnist(plain.path());
    for entry in fs::read_dir(plain.path()).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap().replace("-idx", ".idx");
        write(packed.path(), &format!("{name}.gz"), gzip(&fs::read(entry.path()).unwrap()));
    }
    let (plain, packed) = (open_path(plain.path()).unwrap(), open_path(packed.path()).unwrap());
    assert_eq!((plain.train.pixels, plain.test.labels), (packed.train.pixels, packed.test.labels));
}

#[test]
fn names_tell_what_idx_files_do_not() {
    let folder = TempDir::new().unwrap();
    write_mnist(&folder.path().join("fashion-mnist"));
    write_mnist(&folder.path().join("mnist"));
    let named = OpenOptions { data_dir: folder.path().into(), ..options() };
    assert_eq!(open("fashion-mnist", &named).unwrap().classes[9], "ankle boot");
    assert_eq!(open("mnist", &named).unwrap().classes[9], "9");
    write(&folder.path().join("mnist"), "class_names.txt", "a b\nc\n");
    assert_says(
        &open("mnist", &named).unwrap_err().to_string(),
        &["a name for each of 10 classes", "found 2"],
    );
}

#[test]
fn an_idx_file_that_is_not_what_it_says_is_named() {
    let cases: &[(&str, Vec<u8>, &[&str])] = &[
        ("train-images-idx3-ubyte", Vec::new(), &["an IDX file of unsigned bytes", "starts with []"]),
        ("train-images-idx3-ubyte", idx(&[6, 6], [0; 36]), &["3 or 4 dimensions", "[0, 0, 8, 2]"]),
        ("train-images-idx3-ubyte", vec![0, 0, 8, 3, 0, 0], &["a header of 16 bytes", "found 6 bytes"]),
        ("train-images-idx3-ubyte", idx(&[6, 2, 3], [0; 35]), &["36 bytes for 6x2x3", "35 bytes: truncated"]),
        ("train-images-idx3-ubyte", idx(&[6, 2, 3], [0; 37]), &["36 bytes for 6x2x3", "37 bytes"]),
        ("train-images-idx3-ubyte", idx(&[u32::MAX; 3], []), &["dimensions of a file that could exist"]),
        ("train-images-idx3-ubyte", idx(&[0, 2, 3], []), &["at least one picture"]),
        ("train-images-idx3-ubyte", idx(&[6, 0, 3], []), &["sides of 1 to 16384", "[6, 0, 3]"]),
        ("train-images-idx3-ubyte", idx(&[6, 1, 3, 2], [0; 36]), &["1 channel or 3", "[6, 1, 3, 2]"]),
        ("train-labels-idx1-ubyte", idx(&[5], [0; 5]), &["6 labels", "found 5"]),
        ("train-images-idx3-ubyte", gzip(&idx(&[6, 2, 3], [0; 37])), &["36 bytes for 6x2x3", "found more"]),
        ("train-images-idx3-ubyte", gzip(&idx(&[6, 2, 3], [0; 30])), &["36 bytes", "30 bytes: truncated"]),
        ("train-images-idx3-ubyte", gzip(&idx(&[6, 2, 3], [0; 36]))[..20].to_vec(), &["a whole gzip file"]),
    ];
    for (name, bytes, expected) in cases {
        let folder = TempDir::new().unwrap();
        write_mnist(folder.path());
        write(folder.path(), name, bytes);
        assert_says(&error_of(folder.path()), &[expected, &[*name][..]].concat());
    }
}

#[test]
fn a_gzipped_bomb_is_unpacked_no_further_than_its_header_says() {
    let folder = TempDir::new().unwrap();
    write_mnist(folder.path());
    let bomb = gzip(&idx(&[6, 2, 3], std::iter::repeat_n(0, 64 << 20)));
    write(folder.path(), "train-images-idx3-ubyte", bomb);
    assert_says(&error_of(folder.path()), &["36 bytes for 6x2x3", "found more"]);
}

#[test]
fn a_missing_idx_file_is_asked_for() {
    let folder = TempDir::new().unwrap();
    write_mnist(folder.path());
    fs::remove_file(folder.path().join("t10k-labels-idx1-ubyte")).unwrap();
    assert_says(&error_of(folder.path()), &["t10k-labels-idx1-ubyte", "found none"]);
}

// STL-10

const SIDE: usize = 96;

/// A record whose pixel in column `x` and row `y` is (x, y, seed).
fn stl10_record(seed: u8) -> Vec<u8> {
    let columns = || (0..SIDE).flat_map(|x| (0..SIDE).map(move |y| (x as u8, y as u8)));
    let red = columns().map(|(x, _)| x);
    red.chain(columns().map(|(_, y)| y)).chain(columns().map(|_| seed)).collect()
}

fn write_stl10(folder: &Path) {
    write(folder, "train_X.bin", (0..4).flat_map(stl10_record).collect::<Vec<u8>>());
    write(folder, "train_y.bin", [2, 10, 1, 3]);
    write(folder, "test_X.bin", (10..12).flat_map(stl10_record).collect::<Vec<u8>>());
    write(folder, "test_y.bin", [9, 2]);
}

#[test]
fn stl10_is_read_column_by_column_with_labels_from_one() {
    let folder = TempDir::new().unwrap();
    write_stl10(folder.path());
    write(folder.path(), "unlabeled_X.bin", stl10_record(99));
    write(
        folder.path(),
        "class_names.txt",
        "airplane\nbird\ncar\ncat\ndeer\ndog\nhorse\nmonkey\nship\ntruck\n",
    );
    let data = open_path(folder.path()).unwrap();
    assert_eq!(data.shape, PictureShape { channels: 3, height: SIDE, width: SIDE });
    assert_eq!(data.train.labels, [Some(1), Some(9), Some(0), Some(2), None]);
    assert_eq!((data.test.len(), data.classes[7].as_str()), (2, "monkey"));
    let pixel = |x: usize, y: usize| 3 * (y * SIDE + x);
    assert_eq!(data.train.picture(4, data.shape)[pixel(7, 40)..][..3], [7, 40, 99]);
    assert_eq!(data.test.picture(1, data.shape)[pixel(95, 0)..][..3], [95, 0, 11]);
    assert!(data.notes.is_empty(), "{:?}", data.notes);
}

#[test]
fn stl10_without_its_unlabeled_part_says_so() {
    let folder = TempDir::new().unwrap();
    write_stl10(&folder.path().join("stl10_binary"));
    let named = OpenOptions { data_dir: folder.path().into(), image_size: Some(8), ..options() };
    let data = open("stl10", &named).unwrap();
    assert_eq!((data.train.len(), data.shape.width), (4, 8));
    assert_says(&data.notes.join("\n"), &["no unlabeled pictures", "unlabeled_X.bin"]);
}

#[test]
fn an_stl10_file_that_is_not_what_it_says_is_named() {
    let record = stl10_record(0);
    let cases: &[(&str, &[u8], &[&str])] = &[
        ("train_X.bin", &record[1..], &["records of 27648 bytes", "0 records and 27647 bytes: truncated"]),
        ("test_X.bin", b"", &["records of 27648 bytes", "found 0 bytes"]),
        ("train_y.bin", &[1, 2, 3], &["4 labels", "found 3"]),
        ("train_y.bin", &[1, 2, 0, 3], &["labels of 1 to 10", "label 0 of record 2"]),
        ("test_y.bin", &[11, 1], &["labels of 1 to 10", "label 11 of record 0"]),
        ("unlabeled_X.bin", &record[..30], &["records of 27648 bytes", "30 bytes"]),
        ("class_names.txt", b"airplane bird", &["10 names", "found 2"]),
    ];
    for (name, bytes, expected) in cases {
        let folder = TempDir::new().unwrap();
        write_stl10(folder.path());
        write(folder.path(), name, bytes);
        assert_says(&error_of(folder.path()), &[expected, &[*name][..]].concat());
    }
}

// FER+

const HEADER: &str =
    "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF\n";

fn face(level: u8) -> String {
    vec![level.to_string(); 48 * 48].join(" ")
}

/// Four training faces, one of them without a majority, one no face at all; one for validation, two for the test.
fn write_ferplus(folder: &Path) {
    let usages = ["Training", "Training", "Training", "Training", "PublicTest", "PrivateTest", "PrivateTest"];
    let rows = usages.iter().enumerate().map(|(n, usage)| format!("0,{},{usage}\n", face(10 * n as u8)));
    write(folder, "fer2013.csv", format!("emotion,pixels,Usage\n{}", rows.collect::<String>()));
    let votes = "Training,fer0000000.png,4,0,0,1,3,2,0,0,0,0\n\
                 Training,fer0000001.png,6,0,1,1,0,0,0,0,2,0\n\
                 Training,fer0000002.png,2,0,0,8,0,0,0,0,0,0\n\
                 Training,,0,0,0,0,0,0,0,0,0,10\n\
                 PublicTest,fer0000004.png,0,10,0,0,0,0,0,0,0,0\n\
                 PrivateTest,fer0000005.png,0,0,6,0,0,0,4,0,0,0\n\
                 PrivateTest,fer0000006.png,0,0,0,0,0,0,3,6,1,0\n";
    write(folder, "fer2013new.csv", format!("{HEADER}{votes}"));
}

#[test]
fn ferplus_takes_the_majority_of_the_raters() {
    let folder = TempDir::new().unwrap();
    write_ferplus(folder.path());
    let data = open_path(folder.path()).unwrap();
    assert_eq!(data.shape, PictureShape { channels: 1, height: 48, width: 48 });
    assert_eq!(data.classes[..4], ["neutral", "happiness", "surprise", "sadness"]);
    assert_eq!(data.train.labels, [Some(0), Some(3)]);
    assert_eq!((&data.val.labels[..], &data.test.labels[..]), (&[Some(1)][..], &[Some(2), Some(7)][..]));
    assert_eq!(data.train.picture(1, data.shape)[..2], [20, 20]);
    assert_says(&data.notes.join("\n"), &["2 picture(s) left out", "half of the raters' votes"]);
}

#[test]
fn a_ferplus_file_that_is_not_what_it_says_is_named() {
    type Slip = fn(String) -> String;
    let cases: [(&str, Slip, &[&str]); 9] = [
        (
            "fer2013.csv",
            |text| text.replace("pixels", "pictures"),
            &["a column `pixels`", "emotion, pictures"],
        ),
        ("fer2013new.csv", |text| text.replace(",NF", ",no face"), &["a column `NF`"]),
        ("fer2013.csv", |text| text.replacen("10 10", "10 256", 1), &["0 to 255 on line 3", "`256`"]),
        ("fer2013.csv", |text| text.replacen("10 10", "10", 1), &["2304 pixels, 48x48 on line 3", "2303"]),
        ("fer2013.csv", |text| text.replace("PublicTest", "Test"), &["PublicTest", "line 6", "found `Test`"]),
        (
            "fer2013new.csv",
            |text| text.replace("PublicTest", "PrivateTest"),
            &["`PublicTest`, as", "line 6", "found `PrivateTest`"],
        ),
        ("fer2013new.csv", |text| text.replace(",8,", ",many,"), &["a number of votes on line 4", "`many`"]),
        ("fer2013new.csv", |text| text.replace(",6,0,0,0,4,0,0,0", ""), &["at least 5 values on line 7"]),
        (
            "fer2013.csv",
            |text| text.lines().take(6).collect::<Vec<_>>().join("\n"),
            &["as many rows as", "line 7"],
        ),
    ];
    for (name, slip, expected) in cases {
        let folder = TempDir::new().unwrap();
        write_ferplus(folder.path());
        let text = fs::read_to_string(folder.path().join(name)).unwrap();
        write(folder.path(), name, slip(text));
        assert_says(&error_of(folder.path()), &[expected, &[name][..]].concat());
    }
}

#[test]
fn votes_without_pictures_and_bytes_that_are_no_text_are_named() {
    let folder = TempDir::new().unwrap();
    write_ferplus(folder.path());
    write(folder.path(), "fer2013.csv", b"emotion,pixels,Usage\n0,\xff\xfe,Training\n");
    assert_says(&error_of(folder.path()), &["fer2013.csv", "byte 23 that is no UTF-8"]);
    fs::remove_file(folder.path().join("fer2013.csv")).unwrap();
    assert_says(&error_of(folder.path()), &["fer2013.csv", "No such file"]);
}

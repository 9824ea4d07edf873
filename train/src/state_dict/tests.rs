//! The reader against files of `torch.save` and the values that torch printed of them (`train/tests/fixtures/state_dict.py`), and
//! against files that torch would not write.

use super::archive::tests::archive;
use super::*;

macro_rules! file {
    ($name:literal) => {
        include_bytes!(concat!("../../../fuzz/seeds/state_dict/", $name)).as_slice()
    };
}

/// `torch.save` of `conv.weight`, 0..4 of shape [2, 1, 1, 2], and a counter.
const PLAIN: &[u8] = file!("plain.pth");
/// The same of `{"state_dict": {"module.fc.bias": two ones in half precision}}`.
const NESTED_ONE: &[u8] = file!("nested.pth");

fn message(bytes: &[u8]) -> String {
    from_bytes(bytes).unwrap_err().to_string()
}

fn names(weights: &Weights) -> Vec<&str> {
    weights.keys().map(String::as_str).collect()
}

#[test]
fn torchs_state_dicts_are_read_plain_and_nested() {
    let plain = from_bytes(PLAIN).unwrap();
    assert_eq!(plain["conv.weight"], Array::new([2, 1, 1, 2], vec![0.0, 1.0, 2.0, 3.0]));
    assert_eq!(plain.len(), 1, "a counter is no weight");
    assert_eq!(from_bytes(NESTED_ONE).unwrap()["fc.bias"], Array::new([2], vec![1.0, 1.0]));
}

#[test]
fn views_show_what_torch_shows_of_their_storage() {
    let weights = from_bytes(file!("views.pth")).unwrap();
    let eighths = |range: std::ops::Range<i32>| range.map(|value| value as f32 / 8.0).collect::<Vec<_>>();
    let printed: [(&str, &[usize], Vec<f32>); 8] = [
        ("whole", &[3, 4], eighths(-2..10)),
        ("transposed", &[4, 3], {
            vec![-0.25, 0.25, 0.75, -0.125, 0.375, 0.875, 0.0, 0.5, 1.0, 0.125, 0.625, 1.125]
        }),
        ("row", &[4], eighths(2..6)),
        ("columns", &[2, 2], vec![0.375, 0.625, 0.875, 1.125]),
        ("expanded", &[3, 2], vec![0.75, 0.875, 0.75, 0.875, 0.75, 0.875]),
        ("scalar", &[], vec![1.125]),
        ("empty", &[0, 4], vec![]),
        ("channels_last", &[1, 2, 2, 2], vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]),
    ];
    for (name, shape, values) in &printed {
        assert_eq!(weights[*name], Array::new(*shape, values.clone()), "{name}");
    }
    assert_eq!(weights.len(), printed.len());
}

#[test]
fn every_type_of_floats_is_read_and_others_are_left_out() {
    let weights = from_bytes(file!("types.pth")).unwrap();
    assert_eq!(weights["f64"].data, [0.1, f32::NEG_INFINITY, 1e-3]);
    assert_eq!(weights["f32"].data, [1.0, -2.5, 3.140625, 65504.0]);
    assert_eq!(weights["f16"].data, [1.0, -2.5, 3.140625, 65504.0]);
    assert_eq!(weights["bf16"].data, [1.0, -2.5, 3.140625, 65536.0]);
    assert_eq!(weights["small"].data, [2f32.powi(-24), -(2f32.powi(-15))]);
    assert_eq!(names(&weights), ["bf16", "f16", "f32", "f64", "small"]);
}

#[test]
fn a_modules_state_dict_and_a_checkpoint_of_it_are_read() {
    const KEYS: [&str; 7] =
        ["0.weight", "1.bias", "1.running_mean", "1.running_var", "1.weight", "3.bias", "3.weight"];
    let fresh = from_bytes(file!("module.pth")).unwrap();
    assert_eq!(names(&fresh), KEYS);
    assert_eq!(fresh["0.weight"].shape, [2, 1, 2, 2]);
    assert_eq!(fresh["0.weight"].data[..3], [0.330_251_87, -0.373_889_1, 0.407_469_7]);
    assert_eq!(fresh["3.bias"].data, [-0.604_700_45, 0.225_339_31]);

    // After a step of AdamW, beside its state, of the module in DataParallel, among all sorts of Python's values.
    let trained = from_bytes(file!("checkpoint.pth")).unwrap();
    assert_eq!(names(&trained), KEYS);
    assert_eq!(trained["1.running_mean"].data, [0.068_375_95, -0.006_094_044_5]);
    assert_eq!(trained["3.weight"].data, [-0.659_057_6, 0.699_869_3, 0.151_510_4, 0.092_310_146]);

    let five = from_bytes(file!("checkpoint_protocol_5.pth")).unwrap();
    assert_eq!(five["fc.bias"].data, [1.0, -2.5, 3.140625, 65504.0]);
}

#[test]
fn parameters_are_tensors_too() {
    let weights = from_bytes(file!("parameters.pth")).unwrap();
    let values: Vec<_> = weights.values().map(|array| array.data.as_slice()).collect();
    assert_eq!(names(&weights), ["plain", "subclass", "tagged"]);
    assert_eq!(values, [&[0.5, -0.5][..], &[2.5], &[1.5]]);
}

#[test]
fn files_of_another_kind_are_told_from_broken_ones() {
    for (bytes, expected) in [
        (file!("whole_module.pth"), "found an object of `Linear`; save the network's weights alone"),
        (file!("legacy.pth"), "found the older format; save it again with `torch.save(torch.load(FILE"),
        (file!("views.pkl"), "found a pickle alone"),
        (b"", "found an empty file"),
        (b"\x12\0\0\0\0\0\0\0{}", "found other bytes"),
        (&PLAIN[..1000], "expected its directory at the file's end, found none: cut short?"),
        (&archive(&[("constants.pkl", b"")]), "found a TorchScript archive"),
        (&archive(&[("version", b"3")]), "data.pkl: expected an entry, found none"),
        (&archive(&[("byteorder", b"big")]), "entry `byteorder`: expected `little`; save it again"),
        (&archive(&[("data.pkl", b"\x80\x02}X\x01\0\0\0aK\x01s.")]), "found a dictionary of 1 other things"),
        (
            &archive(&[("data.pkl", b"\x80\x02}X\x05\0\0\0modelctorch.nn\nLinear\n)\x81s.")]),
            "found an object of `Linear` under `model`",
        ),
    ] {
        assert!(message(bytes).contains(expected), "{}", message(bytes));
    }
}

#[test]
fn a_tensor_that_is_larger_than_its_file_is_refused() {
    let shape = b"K\x02K\x01K\x01K\x02";
    let at = PLAIN.windows(shape.len()).position(|bytes| bytes == shape).unwrap();
    let mut bytes = PLAIN.to_vec();
    bytes[at + 1] = 255;
    bytes[at + 7] = 255;
    let error = message(&bytes);
    assert!(error.contains("`conv.weight` of shape [255, 1, 1, 255] in a file of 1877 bytes"), "{error}");
}

/// A pickle of one tensor of `storage` for every name; offset, lengths and strides as Python's numbers.
fn tensors(storage: &str, keys: &[&str], numbers: [&str; 3]) -> Vec<u8> {
    let text = |text: &str| [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat();
    let number = |number: &str| [b"\x8a\x08", &number.parse::<i64>().unwrap().to_le_bytes()[..]].concat();
    let tuple =
        |list: &str| [b"(", &list.split_whitespace().flat_map(number).collect::<Vec<_>>()[..], b"t"].concat();
    let class = format!("ctorch\n{storage}\n");
    let which = [b"(", &text("storage")[..], class.as_bytes(), &text("0"), &text("cpu"), b"K\x04tQ"].concat();
    let [offset, shape, strides] = numbers;
    let arguments = [&which[..], &number(offset), &tuple(shape), &tuple(strides), b"\x89}t"].concat();
    let tensor = [b"ctorch._utils\n_rebuild_tensor_v2\n(", &arguments[..], b"R"].concat();
    let items: Vec<u8> = keys.iter().flat_map(|key| [text(key), tensor.clone()].concat()).collect();
    [b"\x80\x02}(", &items[..], b"u."].concat()
}

/// The same as a file whose storage is four floats.
fn file_of(storage: &str, keys: &[&str], numbers: [&str; 3]) -> Vec<u8> {
    archive(&[("data.pkl", &tensors(storage, keys, numbers)), ("data/0", &[0; 16])])
}

#[test]
fn a_tensor_reads_only_within_its_storage() {
    for (storage, numbers, fits) in [
        ("FloatStorage", ["0", "2 2", "2 1"], true),
        ("FloatStorage", ["1", "2 2", "2 1"], false),
        ("FloatStorage", ["1", "1 3", "9223372036854775807 1"], true),
        ("FloatStorage", ["0", "2 3", "9223372036854775807 1"], false),
        ("FloatStorage", ["9223372036854775807", "1", "1"], false),
        ("FloatStorage", ["9223372036854775807", "0", "1"], true),
        ("FloatStorage", ["0", "5", "1"], false),
        ("FloatStorage", ["0", "5", "0"], true),
        ("DoubleStorage", ["0", "4", "1"], false),
        ("HalfStorage", ["0", "8", "1"], true),
        ("HalfStorage", ["0", "9", "1"], false),
        ("LongStorage", ["9", "9", "9"], true),
    ] {
        let read = from_bytes(&file_of(storage, &["a"], numbers));
        assert_eq!(read.is_ok(), fits, "{storage} {numbers:?}: {read:?}");
    }
    let error = message(&file_of("FloatStorage", &["a"], ["1", "2 2", "2 1"]));
    assert!(error.contains("expected a storage that holds all of it, found `data/0` of 16 bytes"), "{error}");
}

#[test]
fn lengths_beyond_all_counting_are_refused() {
    const HUGE: &str = "4611686018427387904";
    let many = format!("{HUGE} {HUGE}");
    let empty = format!("{HUGE} {HUGE} 0");
    let seventeen = "1 ".repeat(17);
    for numbers in [
        ["0", &many, "0 0"],
        ["0", &empty, "0 0 0"],
        ["0", HUGE, "0"],
        ["0", "-1", "1"],
        ["-1", "1", "1"],
        ["0", "2", "-1"],
        ["0", "2 2", "1"],
        ["0", &seventeen, &seventeen],
    ] {
        let error = message(&file_of("FloatStorage", &["a"], numbers));
        assert!(error.contains("tensor `a`"), "{numbers:?}: {error}");
    }
}

#[test]
fn a_storage_shown_many_times_is_bounded_by_the_file() {
    let file = |keys: &[&str]| file_of("FloatStorage", keys, ["0", "300", "0"]);
    assert_eq!(from_bytes(&file(&["a"])).unwrap()["a"].data, [0.0; 300]);
    let many = file(&["a", "b", "c"]);
    assert!(many.len() < 3 * 300);
    let error = message(&many);
    assert!(error.contains("of shape [300] in a file of") && error.contains("found more"), "{error}");
}

#[test]
fn names_that_would_be_copied_often_are_bounded() {
    let long = "n".repeat(LONGEST_NAME + 1);
    let error = message(&file_of("FloatStorage", &[&long], ["0", "1", "1"]));
    assert!(
        error.contains("expected a name of at most 1024 bytes, found 1025") && error.len() < 300,
        "{error}"
    );
    assert!(from_bytes(&file_of("FloatStorage", &[&long[1..]], ["0", "1", "1"])).is_ok());
}

#[test]
fn wrappers_around_a_tensor_are_bounded() {
    let tensor = tensors("FloatStorage", &["a"], ["0", "4", "1"]);
    let at = tensor.windows(6).position(|bytes| bytes == b"ctorch").unwrap();
    let wrapped = |times: usize| {
        let class = b"ctorch._utils\n_rebuild_parameter\n".repeat(times);
        let rest = &tensor[at..tensor.len() - 2];
        let pickle = [&tensor[..at], &class, rest, &b"\x85R".repeat(times), b"u."].concat();
        from_bytes(&archive(&[("data.pkl", &pickle), ("data/0", &[0; 16])]))
    };
    assert_eq!(wrapped(2).unwrap()["a"].data, [0.0; 4]);
    assert!(wrapped(MOST_WRAPPERS).unwrap_err().to_string().contains("other things"));
}

#[test]
fn every_byte_of_a_state_dict_may_be_another_and_nothing_panics() {
    for file in [PLAIN, file!("views.pth")] {
        for at in 0..file.len() {
            for turn in [0x15, 0x80] {
                let mut bytes = file.to_vec();
                bytes[at] ^= turn;
                let _ = from_bytes(&bytes); // some are values: any answer, but an answer
            }
        }
    }
}

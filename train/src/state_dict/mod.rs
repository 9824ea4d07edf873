//! PyTorch's `.pth`: the floats of a state dict out of the bytes of `torch.save`.
//!
//! A file is a zip archive (`archive.rs`) of a pickle (`pickle.rs`), which says how tensors view storages, and the storages'
//! bytes. A file may be a stranger's: no code in it is run, no length is believed, a tensor reads only within its storage,
//! and all tensors together have no more values than the file has bytes, however often they show the same ones.
//!
//! Never here: tensors of whole numbers (counters are no weights), optimizers' states, writing.

mod archive;
mod pickle;

use std::collections::BTreeMap;

use models::{Array, Weights, half};

use archive::Archive;
use pickle::{Object, Pickle, Ref};

/// Bytes that are no state dict, or not one that can be read.
#[derive(Debug, thiserror::Error)]
pub enum StateDictError {
    /// Not an archive at all.
    #[error("expected a state dict as torch.save writes it, a zip archive; found {0}")]
    NotAnArchive(&'static str),
    /// What `torch.save` wrote before PyTorch 1.6.
    #[error(
        "expected a state dict as PyTorch saves it since 1.6, found the older format; save it again with \
         `torch.save(torch.load(FILE, map_location=\"cpu\"), FILE)`"
    )]
    Legacy,
    /// What `torch.jit.save` writes.
    #[error(
        "expected a state dict, found a TorchScript archive; save its weights with \
         `torch.save(torch.jit.load(FILE, map_location=\"cpu\").state_dict(), FILE)`"
    )]
    TorchScript,
    /// An archive that is not what torch writes.
    #[error("not a PyTorch state dict: {culprit}: expected {expected}, found {found}")]
    Archive {
        /// The archive or one of its entries.
        culprit: String,
        /// What torch writes.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A pickle that is not what torch writes.
    #[error("not a PyTorch state dict: data.pkl, byte {at}: expected {expected}, found {found}")]
    Pickle {
        /// Where in the pickle.
        at: usize,
        /// What torch writes.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A pickle of something else.
    #[error(
        "expected a dictionary of tensors, itself or under one of {NESTED:?}, found {0}; save the network's weights \
         alone, `torch.save(model.state_dict(), FILE)`"
    )]
    NoWeights(String),
    /// A tensor that does not fit its storage or its file.
    #[error(
        "not a PyTorch state dict: tensor `{name}`{} in a file of {length} bytes: expected {expected}, found {found}",
        shape.as_ref().map(|shape| format!(" of shape {shape:?}")).unwrap_or_default()
    )]
    Tensor {
        /// Its key.
        name: String,
        /// Its lengths, where they can be read.
        shape: Option<Vec<usize>>,
        /// Bytes of the file.
        length: usize,
        /// What torch writes.
        expected: String,
        /// What is there.
        found: String,
    },
}

type Result<T, E = StateDictError> = std::result::Result<T, E>;

/// Keys under which training scripts keep the state dict beside other things.
const NESTED: [&str; 3] = ["state_dict", "model", "model_state_dict"];
/// What `DataParallel` puts before every name.
const WRAPPED: &str = "module.";
/// Bytes of a name at most: one text may be the key of many tensors, and of every one's array.
const LONGEST_NAME: usize = 1024;
/// Dimensions at most, for the same reason. Weights have four.
const MOST_DIMENSIONS: usize = 16;
/// Classes around a tensor at most: a parameter of a subclass has two.
const MOST_WRAPPERS: usize = 8;
/// How the magic number of the older format begins, a pickle of its own.
const LEGACY: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";

/// The tensors of floats in a file of `torch.save`, by their names there without `module.` in front.
///
/// # Errors
/// [`StateDictError`] with what is at fault.
pub fn from_bytes(bytes: &[u8]) -> Result<Weights> {
    check_kind(bytes)?;
    let archive = Archive::open(bytes)?;
    if archive.get("constants.pkl")?.is_some() {
        return Err(StateDictError::TorchScript);
    }
    check_byte_order(&archive)?;
    let pickle = Pickle::read(required(&archive, "data.pkl")?)?;
    let reader = Reader { archive, pickle: &pickle, length: bytes.len() };
    reader.weights(state_dict(&pickle)?)
}

/// A word for those whose file is of another kind.
fn check_kind(bytes: &[u8]) -> Result<()> {
    match bytes {
        [b'P', b'K', ..] => Ok(()),
        [] => Err(StateDictError::NotAnArchive("an empty file")),
        _ if bytes.starts_with(LEGACY) => Err(StateDictError::Legacy),
        [0x80, ..] => Err(StateDictError::NotAnArchive("a pickle alone")),
        _ => Err(StateDictError::NotAnArchive("other bytes")),
    }
}

/// Files of PyTorch 2.1 and later say it; those before are little-endian, as all but a few machines are.
fn check_byte_order(archive: &Archive<'_>) -> Result<()> {
    match archive.get("byteorder")? {
        None | Some(b"little") => Ok(()),
        Some(other) => Err(StateDictError::Archive {
            culprit: "entry `byteorder`".into(),
            expected: "`little`; save it again on a little-endian machine".into(),
            found: format!("`{}`", other[..other.len().min(16)].escape_ascii()),
        }),
    }
}

fn required<'a>(archive: &Archive<'a>, name: &str) -> Result<&'a [u8]> {
    let missing = || StateDictError::Archive {
        culprit: name.into(),
        expected: "an entry".into(),
        found: "none".into(),
    };
    archive.get(name)?.ok_or_else(missing)
}

/// The dictionary of tensors: what a training script keeps under one of its usual keys, else the whole. In this order,
/// since scripts keep a tensor or two beside the state dict.
fn state_dict<'p>(pickle: &'p Pickle<'_>) -> Result<&'p [(Ref, Ref)]> {
    let root = pickle.root();
    let Some(whole) = pickle.dict(root) else { return Err(StateDictError::NoWeights(kind(pickle, root))) };
    let nested = NESTED.iter().filter_map(|name| {
        let (_, value) = whole.iter().rev().find(|(key, _)| pickle.text(*key) == Some(name))?;
        pickle.dict(*value)
    });
    let mut candidates = nested.chain([whole]);
    let found = candidates.find(|dict| dict.iter().any(|&(_, value)| rebuilt(pickle, value).is_some()));
    found.ok_or_else(|| StateDictError::NoWeights(described(pickle, whole)))
}

/// What a dictionary without tensors holds instead, by the first of the usual keys: mostly a whole module.
fn described(pickle: &Pickle<'_>, dict: &[(Ref, Ref)]) -> String {
    let usual = |key: Ref| pickle.text(key).filter(|key| NESTED.contains(key));
    match dict.iter().find_map(|&(key, value)| Some((usual(key)?, value))) {
        Some((key, value)) => format!("{} under `{key}`", kind(pickle, value)),
        None => format!("a dictionary of {} other things", dict.len()),
    }
}

/// An object in words.
fn kind(pickle: &Pickle<'_>, object: Ref) -> String {
    match pickle.get(object) {
        Object::Call(callable, _) => match pickle.global(*callable) {
            Some((_, name)) => format!("an object of `{}`", shortened(name)),
            None => "an object".into(),
        },
        Object::Dict(pairs) if pairs.is_empty() => "an empty dictionary".into(),
        Object::Dict(_) => "a dictionary of no tensors".into(),
        Object::Tuple(_) => "a tuple".into(),
        _ => "something else".into(),
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(64).collect()
}

/// The arguments of torch's function that rebuilds a tensor, if that is what would be called. A tensor may be inside a
/// parameter, and either may be of a subclass.
fn rebuilt<'p>(pickle: &'p Pickle<'_>, object: Ref) -> Option<&'p [Ref]> {
    let Object::Call(mut callable, mut arguments) = *pickle.get(object) else { return None };
    for _ in 0..MOST_WRAPPERS {
        let values = pickle.tuple(arguments)?;
        (callable, arguments) = match (pickle.global(callable)?, values) {
            (("torch._utils", "_rebuild_tensor_v2"), _) => return Some(values),
            (("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state"), &[data, ..]) => {
                let Object::Call(callable, arguments) = *pickle.get(data) else { return None };
                (callable, arguments)
            }
            (("torch._tensor", "_rebuild_from_type_v2"), &[function, _, arguments, ..]) => {
                (function, arguments)
            }
            _ => return None,
        };
    }
    None
}

/// A type of floats, by its storage.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Float {
    F64,
    F32,
    F16,
    BF16,
}

impl Float {
    fn of(storage: (&str, &str)) -> Option<Self> {
        match storage {
            ("torch", "DoubleStorage") => Some(Self::F64),
            ("torch", "FloatStorage") => Some(Self::F32),
            ("torch", "HalfStorage") => Some(Self::F16),
            ("torch", "BFloat16Storage") => Some(Self::BF16),
            _ => None,
        }
    }

    fn width(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }

    /// The values that `view` shows of a storage.
    fn read(self, storage: &[u8], view: &View) -> Vec<f32> {
        match self {
            Self::F64 => view.gather(storage, |bytes| f64::from_le_bytes(bytes) as f32),
            Self::F32 => view.gather(storage, f32::from_le_bytes),
            Self::F16 => view.gather(storage, |bytes| half::decode(u16::from_le_bytes(bytes))),
            Self::BF16 => view.gather(storage, |[low, high]| f32::from_le_bytes([0, 0, low, high])),
        }
    }
}

/// Which values of a storage a tensor shows: those at `offset` plus whole numbers of its strides.
#[derive(Debug, PartialEq)]
struct View {
    offset: usize,
    shape: Vec<usize>,
    strides: Vec<usize>,
    /// Values in all, the shape's product.
    count: usize,
}

impl View {
    /// None where the shape's product, even without its zeros, is beyond all counting.
    fn new(offset: usize, shape: Vec<usize>, strides: Vec<usize>) -> Option<Self> {
        let product = shape.iter().try_fold(1usize, |product, &length| product.checked_mul(length.max(1)))?;
        let count = if shape.contains(&0) { 0 } else { product };
        Some(Self { offset, shape, strides, count })
    }

    /// How many values a storage needs for it; none if that is beyond all counting.
    fn reach(&self) -> Option<usize> {
        if self.count == 0 {
            return Some(0);
        }
        let mut steps = self.shape.iter().zip(&self.strides);
        let last = steps.try_fold(self.offset, |last, (&length, &stride)| {
            last.checked_add(stride.checked_mul(length - 1)?)
        });
        last?.checked_add(1)
    }

    fn is_dense(&self) -> bool {
        let mut expected = 1;
        self.shape.iter().zip(&self.strides).rev().all(|(&length, &stride)| {
            let fits = length == 1 || stride == expected;
            expected *= length;
            fits
        })
    }

    /// Values in row-major order, out of a storage that has as many as [`View::reach`].
    fn gather<const N: usize>(&self, storage: &[u8], value: impl Fn([u8; N]) -> f32) -> Vec<f32> {
        let stored = storage.as_chunks::<N>().0;
        if self.count == 0 {
            return Vec::new();
        }
        if self.is_dense() {
            return stored[self.offset..][..self.count].iter().map(|&bytes| value(bytes)).collect();
        }
        let mut at = Steps { view: self, index: vec![0; self.shape.len()], place: self.offset };
        (0..self.count).map(|_| value(stored[at.next()])).collect()
    }
}

/// Places of a view's values, one after the other.
struct Steps<'a> {
    view: &'a View,
    index: Vec<usize>,
    place: usize,
}

impl Steps<'_> {
    fn next(&mut self) -> usize {
        let place = self.place;
        for dimension in (0..self.index.len()).rev() {
            let stride = self.view.strides[dimension];
            if self.index[dimension] + 1 < self.view.shape[dimension] {
                self.index[dimension] += 1;
                self.place += stride;
                break;
            }
            self.place -= stride * self.index[dimension];
            self.index[dimension] = 0;
        }
        place
    }
}

/// A pickle beside the archive that holds its storages.
struct Reader<'a> {
    archive: Archive<'a>,
    pickle: &'a Pickle<'a>,
    /// Bytes of the file.
    length: usize,
}

impl<'a> Reader<'a> {
    fn weights(&self, dict: &[(Ref, Ref)]) -> Result<Weights> {
        let mut weights = BTreeMap::new();
        let mut left = self.length;
        for &(key, value) in dict {
            let (Some(name), Some(arguments)) = (self.pickle.text(key), rebuilt(self.pickle, value)) else {
                continue;
            };
            let Some(array) = self.tensor(name, arguments, &mut left)? else { continue };
            weights.insert(name.strip_prefix(WRAPPED).unwrap_or(name).to_string(), array);
        }
        Ok(weights)
    }

    /// A tensor of floats; none for one of other values. What it takes is taken from what is `left`.
    fn tensor(&self, name: &str, arguments: &[Ref], left: &mut usize) -> Result<Option<Array>> {
        let wrong = |shape: Option<&View>, expected: String, found: String| {
            let (name, shape) = (shortened(name), shape.map(|view| view.shape.clone()));
            StateDictError::Tensor { name, shape, length: self.length, expected, found }
        };
        if name.len() > LONGEST_NAME {
            let (expected, found) =
                (format!("a name of at most {LONGEST_NAME} bytes"), name.len().to_string());
            return Err(wrong(None, expected, found));
        }
        let garbled =
            || wrong(None, "a storage, an offset, lengths and strides".into(), "other arguments".into());
        let &[storage, offset, shape, strides, ..] = arguments else { return Err(garbled()) };
        let storage = self.storage(storage).ok_or_else(garbled)?;
        let Some(float) = storage.float else { return Ok(None) };
        let view = self.view(offset, shape, strides).ok_or_else(garbled)?;
        let Some(rest) = left.checked_sub(view.count) else {
            let expected = "no more values in all its tensors than it has bytes".into();
            return Err(wrong(Some(&view), expected, "more".into()));
        };
        let entry = format!("data/{}", storage.key);
        let bytes = required(&self.archive, &entry)?;
        if view.reach().is_none_or(|reach| reach > bytes.len() / float.width()) {
            let found = format!("`{entry}` of {} bytes", bytes.len());
            return Err(wrong(Some(&view), "a storage that holds all of it".into(), found));
        }
        *left = rest;
        let data = float.read(bytes, &view);
        Ok(Some(Array::new(view.shape, data)))
    }

    /// Torch's tuple: `("storage", class, key, location, length)`.
    fn storage(&self, object: Ref) -> Option<Storage<'a>> {
        let Object::Storage(which) = *self.pickle.get(object) else { return None };
        let &[_, class, key, ..] = self.pickle.tuple(which)? else { return None };
        let key = self.pickle.text(key).filter(|key| key.len() <= LONGEST_NAME)?;
        Some(Storage { float: Float::of(self.pickle.global(class)?), key })
    }

    fn view(&self, offset: Ref, shape: Ref, strides: Ref) -> Option<View> {
        let length = |object: Ref| usize::try_from(self.pickle.int(object)?).ok();
        let lengths = |object: Ref| {
            let items = self.pickle.tuple(object).filter(|items| items.len() <= MOST_DIMENSIONS)?;
            items.iter().map(|&item| length(item)).collect::<Option<Vec<_>>>()
        };
        let (shape, strides) = (lengths(shape)?, lengths(strides)?);
        (shape.len() == strides.len()).then_some(())?;
        View::new(length(offset)?, shape, strides)
    }
}

struct Storage<'a> {
    /// None of floats.
    float: Option<Float>,
    key: &'a str,
}

#[cfg(test)]
mod tests;

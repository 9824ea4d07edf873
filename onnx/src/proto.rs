//! The messages of an ONNX file that this toolkit writes and reads, as prost structs. Field numbers are those of the
//! public specification (`onnx.proto`); fields that we neither write nor need are left out and skipped when read.
//!
//! Singular attribute values are `Option`s: the format distinguishes a value of 0 from an absent one.

use prost::Message;

/// A file.
#[derive(Clone, PartialEq, Message)]
pub struct ModelProto {
    /// Version of the file format itself.
    #[prost(int64, tag = "1")]
    pub ir_version: i64,
    /// Who wrote the file.
    #[prost(string, tag = "2")]
    pub producer_name: String,
    /// The writer's version.
    #[prost(string, tag = "3")]
    pub producer_version: String,
    /// What the network is, for people.
    #[prost(string, tag = "6")]
    pub doc_string: String,
    /// The network.
    #[prost(message, optional, tag = "7")]
    pub graph: Option<GraphProto>,
    /// Operator sets in use.
    #[prost(message, repeated, tag = "8")]
    pub opset_import: Vec<OperatorSetIdProto>,
    /// Free key-value pairs: where the contract lives.
    #[prost(message, repeated, tag = "14")]
    pub metadata_props: Vec<StringStringEntryProto>,
}

/// An operator set; the empty domain is ONNX's own.
#[derive(Clone, PartialEq, Message)]
pub struct OperatorSetIdProto {
    /// Empty for ONNX's own operators.
    #[prost(string, tag = "1")]
    pub domain: String,
    /// Its version.
    #[prost(int64, tag = "2")]
    pub version: i64,
}

/// A key and its value.
#[derive(Clone, PartialEq, Message)]
pub struct StringStringEntryProto {
    /// The key.
    #[prost(string, tag = "1")]
    pub key: String,
    /// The value.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// A network: nodes in topological order, stored arrays, inputs and outputs.
#[derive(Clone, PartialEq, Message)]
pub struct GraphProto {
    /// Operations.
    #[prost(message, repeated, tag = "1")]
    pub node: Vec<NodeProto>,
    /// The graph's name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Stored arrays.
    #[prost(message, repeated, tag = "5")]
    pub initializer: Vec<TensorProto>,
    /// What a caller gives.
    #[prost(message, repeated, tag = "11")]
    pub input: Vec<ValueInfoProto>,
    /// What a caller gets.
    #[prost(message, repeated, tag = "12")]
    pub output: Vec<ValueInfoProto>,
}

/// One operation.
#[derive(Clone, PartialEq, Message)]
pub struct NodeProto {
    /// Names of the values it reads.
    #[prost(string, repeated, tag = "1")]
    pub input: Vec<String>,
    /// Names of the values it makes.
    #[prost(string, repeated, tag = "2")]
    pub output: Vec<String>,
    /// Its name.
    #[prost(string, tag = "3")]
    pub name: String,
    /// Its operator.
    #[prost(string, tag = "4")]
    pub op_type: String,
    /// The operator's settings.
    #[prost(message, repeated, tag = "5")]
    pub attribute: Vec<AttributeProto>,
    /// Empty for ONNX's own operators.
    #[prost(string, tag = "7")]
    pub domain: String,
}

/// A setting of an operator.
#[derive(Clone, PartialEq, Message)]
pub struct AttributeProto {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The value, if it is a float.
    #[prost(float, optional, tag = "2")]
    pub f: Option<f32>,
    /// The value, if it is an integer.
    #[prost(int64, optional, tag = "3")]
    pub i: Option<i64>,
    /// The value, if it is a string.
    #[prost(bytes = "vec", optional, tag = "4")]
    pub s: Option<Vec<u8>>,
    /// The value, if it is a list of floats.
    #[prost(float, repeated, tag = "7")]
    pub floats: Vec<f32>,
    /// The value, if it is a list of integers.
    #[prost(int64, repeated, tag = "8")]
    pub ints: Vec<i64>,
    /// Which of them it is: [`AttributeProto::FLOAT`] and so on.
    #[prost(int32, tag = "20")]
    pub r#type: i32,
}

impl AttributeProto {
    /// `type` of a float.
    pub const FLOAT: i32 = 1;
    /// `type` of an integer.
    pub const INT: i32 = 2;
    /// `type` of a list of integers.
    pub const INTS: i32 = 7;

    /// An integer setting.
    pub fn int(name: &str, value: i64) -> Self {
        Self { name: name.into(), i: Some(value), r#type: Self::INT, ..Self::default() }
    }

    /// A float setting.
    pub fn float(name: &str, value: f32) -> Self {
        Self { name: name.into(), f: Some(value), r#type: Self::FLOAT, ..Self::default() }
    }

    /// A list of integers.
    pub fn ints(name: &str, values: impl IntoIterator<Item = usize>) -> Self {
        let ints = values.into_iter().map(|value| value as i64).collect();
        Self { name: name.into(), ints, r#type: Self::INTS, ..Self::default() }
    }
}

/// A stored array.
#[derive(Clone, PartialEq, Message)]
pub struct TensorProto {
    /// Length of each dimension; empty for a scalar.
    #[prost(int64, repeated, tag = "1")]
    pub dims: Vec<i64>,
    /// Type of the values: [`TensorProto::FLOAT`] and so on.
    #[prost(int32, tag = "2")]
    pub data_type: i32,
    /// Name of the value.
    #[prost(string, tag = "8")]
    pub name: String,
    /// The values, little-endian, row-major.
    #[prost(bytes = "vec", tag = "9")]
    pub raw_data: Vec<u8>,
}

impl TensorProto {
    /// `data_type` of `f32`.
    pub const FLOAT: i32 = 1;
    /// `data_type` of `u8`.
    pub const UINT8: i32 = 2;
    /// `data_type` of half precision.
    pub const FLOAT16: i32 = 10;
    /// `data_type` of `i8`.
    pub const INT8: i32 = 3;
    /// `data_type` of `i32`.
    pub const INT32: i32 = 6;

    /// An `f32` array.
    pub fn floats(name: impl Into<String>, dims: &[usize], data: &[f32]) -> Self {
        Self::of(name.into(), dims, Self::FLOAT, data.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    /// A `u8` array.
    pub fn bytes(name: impl Into<String>, dims: &[usize], data: &[u8]) -> Self {
        Self::of(name.into(), dims, Self::UINT8, data.to_vec())
    }

    /// An `i8` array.
    pub fn signed_bytes(name: impl Into<String>, dims: &[usize], data: &[i8]) -> Self {
        Self::of(name.into(), dims, Self::INT8, data.iter().map(|&value| value as u8).collect())
    }

    /// An `i32` array.
    pub fn whole(name: impl Into<String>, dims: &[usize], data: &[i32]) -> Self {
        Self::of(name.into(), dims, Self::INT32, data.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    fn of(name: String, dims: &[usize], data_type: i32, raw_data: Vec<u8>) -> Self {
        Self { dims: dims.iter().map(|&dim| dim as i64).collect(), data_type, name, raw_data }
    }

    /// The values of an `f32` array.
    ///
    /// # Errors
    /// [`crate::OnnxError::Array`] if it is of another type, or not as long as its dimensions say.
    pub fn read_floats(&self) -> crate::Result<Vec<f32>> {
        self.read(Self::FLOAT, |bytes: [u8; 4]| f32::from_le_bytes(bytes))
    }

    /// The values of an array in half precision, as they are stored.
    ///
    /// # Errors
    /// As [`TensorProto::read_floats`].
    pub fn read_halves(&self) -> crate::Result<Vec<u16>> {
        self.read(Self::FLOAT16, |bytes: [u8; 2]| u16::from_le_bytes(bytes))
    }

    /// The values of a `u8` array.
    ///
    /// # Errors
    /// As [`TensorProto::read_floats`].
    pub fn read_bytes(&self) -> crate::Result<Vec<u8>> {
        self.read(Self::UINT8, |[byte]: [u8; 1]| byte)
    }

    /// The values of an `i8` array.
    ///
    /// # Errors
    /// As [`TensorProto::read_floats`].
    pub fn read_signed_bytes(&self) -> crate::Result<Vec<i8>> {
        self.read(Self::INT8, |[byte]: [u8; 1]| byte as i8)
    }

    /// The values of an `i32` array.
    ///
    /// # Errors
    /// As [`TensorProto::read_floats`].
    pub fn read_whole(&self) -> crate::Result<Vec<i32>> {
        self.read(Self::INT32, |bytes: [u8; 4]| i32::from_le_bytes(bytes))
    }

    /// The dimensions.
    ///
    /// # Errors
    /// [`crate::OnnxError::Array`] if one is negative, or there are more values than memory could hold.
    pub fn shape(&self) -> crate::Result<Vec<usize>> {
        let shape: Option<Vec<usize>> = self.dims.iter().map(|&dim| usize::try_from(dim).ok()).collect();
        let counts = |shape: &Vec<usize>| shape.iter().try_fold(1_usize, |all, &dim| all.checked_mul(dim));
        let shape = shape.filter(|shape| counts(shape).is_some());
        shape.ok_or_else(|| self.wrong("dimensions".into(), format!("{:?}", self.dims)))
    }

    fn read<const N: usize, T>(&self, data_type: i32, value: impl Fn([u8; N]) -> T) -> crate::Result<Vec<T>> {
        let count: usize = self.shape()?.iter().product();
        let expected = || format!("{count} values of type {data_type} as raw data");
        if self.data_type != data_type || Some(self.raw_data.len()) != count.checked_mul(N) {
            let found = format!("{} bytes of type {}", self.raw_data.len(), self.data_type);
            return Err(self.wrong(expected(), found));
        }
        Ok(self
            .raw_data
            .chunks_exact(N)
            .map(|bytes| value(std::array::from_fn(|index| bytes[index])))
            .collect())
    }

    fn wrong(&self, expected: String, found: String) -> crate::OnnxError {
        crate::OnnxError::Array { name: self.name.clone(), expected, found }
    }
}

/// An input or output: its name and type.
#[derive(Clone, PartialEq, Message)]
pub struct ValueInfoProto {
    /// Name of the value.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its type.
    #[prost(message, optional, tag = "2")]
    pub r#type: Option<TypeProto>,
}

/// Type of a value; only tensors are of use here.
#[derive(Clone, PartialEq, Message)]
pub struct TypeProto {
    /// The tensor's type.
    #[prost(message, optional, tag = "1")]
    pub tensor_type: Option<TensorTypeProto>,
}

/// Type and shape of a tensor.
#[derive(Clone, PartialEq, Message)]
pub struct TensorTypeProto {
    /// As [`TensorProto::data_type`].
    #[prost(int32, tag = "1")]
    pub elem_type: i32,
    /// Shape; absent if unknown.
    #[prost(message, optional, tag = "2")]
    pub shape: Option<TensorShapeProto>,
}

/// Shape of a tensor.
#[derive(Clone, PartialEq, Message)]
pub struct TensorShapeProto {
    /// One entry per dimension.
    #[prost(message, repeated, tag = "1")]
    pub dim: Vec<DimensionProto>,
}

/// One dimension.
#[derive(Clone, PartialEq, Message)]
pub struct DimensionProto {
    /// What is known of it.
    #[prost(oneof = "Dimension", tags = "1, 2")]
    pub value: Option<Dimension>,
}

/// What is known of a dimension.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Dimension {
    /// Its length.
    #[prost(int64, tag = "1")]
    Length(i64),
    /// A name: its length is the caller's choice.
    #[prost(string, tag = "2")]
    Name(String),
}

impl ValueInfoProto {
    /// An `f32` tensor of these dimensions.
    pub fn floats(name: &str, dims: Vec<Dimension>) -> Self {
        Self::tensor(name, TensorProto::FLOAT, dims)
    }

    /// A tensor of this type and these dimensions.
    pub fn tensor(name: &str, data_type: i32, dims: Vec<Dimension>) -> Self {
        let dim = dims.into_iter().map(|value| DimensionProto { value: Some(value) }).collect();
        let tensor = TensorTypeProto { elem_type: data_type, shape: Some(TensorShapeProto { dim }) };
        Self { name: name.into(), r#type: Some(TypeProto { tensor_type: Some(tensor) }) }
    }

    /// Type of the tensor's values, as [`TensorProto::data_type`]; `None` if it is unknown.
    pub fn data_type(&self) -> Option<i32> {
        Some(self.r#type.as_ref()?.tensor_type.as_ref()?.elem_type)
    }

    /// The dimensions, `None` where one is not fixed; `None` if the shape is unknown.
    pub fn dims(&self) -> Option<Vec<Option<usize>>> {
        let shape = self.r#type.as_ref()?.tensor_type.as_ref()?.shape.as_ref()?;
        let length = |dim: &DimensionProto| match dim.value {
            Some(Dimension::Length(length)) => usize::try_from(length).ok(),
            _ => None,
        };
        Some(shape.dim.iter().map(length).collect())
    }
}

impl ModelProto {
    /// Reads a file's bytes.
    ///
    /// # Errors
    /// [`crate::OnnxError::Malformed`] if they are no ONNX model with a graph.
    pub fn read(bytes: &[u8]) -> crate::Result<Self> {
        let model = Self::decode(bytes).map_err(|error| crate::OnnxError::Malformed(error.to_string()))?;
        match &model.graph {
            Some(graph) if !graph.node.is_empty() => Ok(model),
            _ => Err(crate::OnnxError::Malformed("it holds no network".into())),
        }
    }

    /// The file's bytes.
    pub fn bytes(&self) -> Vec<u8> {
        self.encode_to_vec()
    }

    /// Value of a metadata key.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata_props.iter().find(|entry| entry.key == key).map(|entry| entry.value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zero_attribute_is_written_and_a_missing_one_is_not() {
        assert_eq!(AttributeProto::int("axis", 0).encode_to_vec(), b"\x0a\x04axis\x18\x00\xa0\x01\x02");
        let absent = AttributeProto { name: "axis".into(), ..AttributeProto::default() };
        assert_eq!(absent.encode_to_vec(), b"\x0a\x04axis");
    }

    #[test]
    fn what_is_written_is_read_back() {
        let dims = vec![Dimension::Name("N".into()), Dimension::Length(3)];
        let node = NodeProto { op_type: "Relu".into(), input: vec!["input".into()], ..NodeProto::default() };
        let graph = GraphProto {
            node: vec![node],
            initializer: vec![TensorProto::floats("w", &[2], &[1.0, -2.5])],
            input: vec![ValueInfoProto::floats("input", dims)],
            ..GraphProto::default()
        };
        let model = ModelProto { ir_version: 8, graph: Some(graph), ..ModelProto::default() };
        let back = ModelProto::read(&model.bytes()).unwrap();
        assert_eq!(back, model);
        assert_eq!(back.graph.unwrap().input[0].dims().unwrap(), [None, Some(3)]);
    }

    #[test]
    fn bytes_that_are_no_model_are_refused() {
        for bytes in [&b"\x89PNG\r\n"[..], b"", b"\x08\x08"] {
            let error = ModelProto::read(bytes).unwrap_err();
            assert!(error.to_string().contains("not an ONNX model"), "{error}");
        }
    }
}

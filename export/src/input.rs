//! What an ONNX file takes: planes of values 0..1, or pixels as a decoder gives them. The second is the first with the
//! whole way from pixels to planes in front, inside the file; normalization is in the graph already.

use models::Shape;
use onnx::Element;
use onnx::proto::{AttributeProto, Dimension, ModelProto, NodeProto, TensorProto, ValueInfoProto};

use crate::ExportError;

/// The inputs by name, for options.
pub const INPUTS: &[(Element, &str)] = &[(Element::Float32, "f32-nchw"), (Element::Uint8, "u8-nhwc")];

/// The input of this name.
///
/// # Errors
/// [`ExportError::Input`] with the nearest one.
pub fn find(name: &str) -> Result<Element, ExportError> {
    let names = || INPUTS.iter().map(|(_, name)| *name);
    let found = INPUTS.iter().find(|(_, known)| *known == name);
    found.map(|(element, _)| *element).ok_or_else(|| ExportError::Input {
        name: name.into(),
        suggestion: models::nearest::suggestion(name, names()),
        known: names().collect::<Vec<_>>().join(", "),
    })
}

/// Makes a model that takes planes of `shape` take pixels: `image` uint8 [N, H, W, C].
pub fn take_pixels(model: &mut ModelProto, shape: Shape) {
    let Some(graph) = &mut model.graph else { return };
    let [height, width] = shape.spatial();
    let [a, b, c] = Element::Uint8.dims([shape.channels(), height, width]);
    let (image, planes) = (Element::Uint8.input_name(), Element::Float32.input_name());
    let lengths = [a, b, c].map(|length| Dimension::Length(length as i64));
    let dims = std::iter::once(Dimension::Name("N".into())).chain(lengths).collect();
    graph.input = vec![ValueInfoProto::tensor(image, Element::Uint8.data_type(), dims)];
    graph.initializer.push(TensorProto::floats("image.white", &[], &[255.0]));
    let to = vec![AttributeProto::int("to", TensorProto::FLOAT.into())];
    let perm = vec![AttributeProto::ints("perm", [0, 3, 1, 2])];
    let way = [
        node("Cast", &[image], "image.values", to),
        // A division, not a product with 1/255: the same bits as whoever divides outside.
        node("Div", &["image.values", "image.white"], "image.scaled", Vec::new()),
        node("Transpose", &["image.scaled"], planes, perm),
    ];
    graph.node.splice(0..0, way);
}

fn node(operator: &str, input: &[&str], output: &str, attribute: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        input: input.iter().map(|name| name.to_string()).collect(),
        output: vec![output.into()],
        name: format!("{output}.{}", operator.to_lowercase()),
        op_type: operator.into(),
        attribute,
        domain: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_found_by_name_and_a_slip_is_mended() {
        for (element, name) in INPUTS {
            assert_eq!(find(name).unwrap(), *element);
        }
        let message = find("u8-nchw").unwrap_err().to_string();
        assert!(message.contains("did you mean `u8-nhwc`?"), "{message}");
    }
}

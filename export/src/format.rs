//! The formats that are written: one line of [`FORMATS`] each, from which help and suggestions come.

use std::str::FromStr;

use crate::ExportError;

/// A format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The weights with their manifest: what `distill serve` and `--init` read.
    Safetensors,
    /// The network as ONNX, with its contract in the metadata.
    Onnx,
}

/// Every format with its name, which is also the file's extension, and what it is.
pub const FORMATS: &[(Format, &str, &str)] = &[
    (Format::Safetensors, "safetensors", "weights by torchvision's names, the manifest in the metadata"),
    (Format::Onnx, "onnx", "the network with its contract, checked against the engine's answers"),
];

impl Format {
    /// Its name in options, and its files' extension.
    pub fn name(self) -> &'static str {
        match self {
            Format::Safetensors => "safetensors",
            Format::Onnx => "onnx",
        }
    }
}

impl FromStr for Format {
    type Err = ExportError;

    fn from_str(name: &str) -> Result<Self, ExportError> {
        let names = || FORMATS.iter().map(|(_, name, _)| *name);
        let found = FORMATS.iter().find(|(_, known, _)| *known == name);
        found.map(|(format, _, _)| *format).ok_or_else(|| ExportError::Format {
            name: name.into(),
            suggestion: models::nearest::suggestion(name, names()),
            known: names().collect::<Vec<_>>().join(", "),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_is_found_by_its_name_and_a_slip_is_mended() {
        for (format, name, _) in FORMATS {
            assert_eq!((name.parse::<Format>().unwrap(), format.name()), (*format, *name));
        }
        let message = "onx".parse::<Format>().unwrap_err().to_string();
        assert!(message.contains("did you mean `onnx`?"), "{message}");
    }
}

//! The formats that are written: one line of [`FORMATS`] each, from which help and suggestions come.

use std::str::FromStr;

use models::bundle::FileRole;

use crate::ExportError;

/// A format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The weights with their manifest: what `distill serve` and `--init` read.
    Safetensors,
    /// The same with weights in half precision.
    SafetensorsFp16,
    /// The network as ONNX, with its contract in the metadata.
    Onnx,
    /// The same with weights in half precision.
    OnnxFp16,
    /// The network quantized to int8, judged before it is written.
    OnnxInt8,
    /// A folder of all that, with a manifest that says what each file is worth.
    Bundle,
}

/// A line of the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Which format.
    pub format: Format,
    /// Its name in options.
    pub name: &'static str,
    /// What a file of it is called where nobody says otherwise.
    pub file: &'static str,
    /// What such a file is in a bundle.
    pub role: FileRole,
    /// What it is, in a line.
    pub summary: &'static str,
}

/// Every format.
pub const FORMATS: &[Entry] = &[
    Entry {
        format: Format::Safetensors,
        name: "safetensors",
        file: "model.safetensors",
        role: FileRole::Weights,
        summary: "weights by torchvision's names, the manifest in the metadata",
    },
    Entry {
        format: Format::SafetensorsFp16,
        name: "safetensors-fp16",
        file: "model.fp16.safetensors",
        role: FileRole::WeightsFp16,
        summary: "the same with weights in half precision: half the file",
    },
    Entry {
        format: Format::Onnx,
        name: "onnx",
        file: "model.onnx",
        role: FileRole::Onnx,
        summary: "the network with its contract, checked against the engine's answers",
    },
    Entry {
        format: Format::OnnxFp16,
        name: "onnx-fp16",
        file: "model.fp16.onnx",
        role: FileRole::OnnxFp16,
        summary: "the same with weights in half precision, cast back where they are read: half the file",
    },
    Entry {
        format: Format::OnnxInt8,
        name: "onnx-int8",
        file: "model.int8.onnx",
        role: FileRole::OnnxInt8,
        summary: "static QDQ in int8, calibrated on pictures; refused if it loses accuracy or time",
    },
    Entry {
        format: Format::Bundle,
        name: "bundle",
        file: "bundle",
        role: FileRole::Other,
        summary: "a folder of model.safetensors, model.onnx, manifest and card, see docs/format.md",
    },
];

impl Format {
    /// Its line of the registry.
    pub fn entry(self) -> &'static Entry {
        // Every format has its line: a test goes through them.
        FORMATS.iter().find(|entry| entry.format == self).unwrap_or(&FORMATS[0])
    }

    /// Its name in options.
    pub fn name(self) -> &'static str {
        self.entry().name
    }

    /// What a file of it is called where nobody says otherwise.
    pub fn file(self) -> &'static str {
        self.entry().file
    }

    /// Whether files of it are ONNX.
    pub fn is_onnx(self) -> bool {
        self.entry().role.is_onnx()
    }
}

impl FromStr for Format {
    type Err = ExportError;

    fn from_str(name: &str) -> Result<Self, ExportError> {
        let names = || FORMATS.iter().map(|entry| entry.name);
        let found = FORMATS.iter().find(|entry| entry.name == name);
        found.map(|entry| entry.format).ok_or_else(|| ExportError::Format {
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
        for entry in FORMATS {
            assert_eq!((entry.name.parse::<Format>().unwrap(), entry.format.entry()), (entry.format, entry));
        }
        let message = "onx".parse::<Format>().unwrap_err().to_string();
        assert!(message.contains("did you mean `onnx`?"), "{message}");
    }
}

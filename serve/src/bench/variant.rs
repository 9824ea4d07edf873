//! The rows of a model: which engine runs it, from which file, in which format. One line of [`VARIANTS`] each.

use std::str::FromStr;

use engine::WeightFormat;

use crate::{EngineName, Result, ServeError};

/// A row's kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// The native engine, as trained.
    NativeF32,
    /// The native engine with weights in half the bytes.
    NativeBf16,
    /// The native engine on the quantized network.
    NativeInt8,
    /// ONNX Runtime, as trained.
    OrtF32,
    /// ONNX Runtime on the quantized network.
    OrtInt8,
    /// candle-onnx, as trained.
    CandleOnnx,
}

/// What a variant runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Artefact {
    /// `model.safetensors`
    Safetensors,
    /// `model.onnx`
    Onnx,
    /// `model.int8.onnx`
    OnnxInt8,
}

/// A line of the registry.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Which one.
    pub variant: Variant,
    /// Its name in options and reports.
    pub name: &'static str,
    /// What runs it.
    pub engine: EngineName,
    /// The file.
    pub artefact: Artefact,
    /// Format of the weights, as the report has it.
    pub format: &'static str,
    /// Whether it is measured unless the user says otherwise.
    pub usual: bool,
}

/// Every variant, in the report's order.
pub const VARIANTS: &[Entry] = &[
    Entry {
        variant: Variant::NativeF32,
        name: "native",
        engine: EngineName::Native,
        artefact: Artefact::Safetensors,
        format: "f32",
        usual: true,
    },
    Entry {
        variant: Variant::NativeBf16,
        name: "native-bf16",
        engine: EngineName::Native,
        artefact: Artefact::Safetensors,
        format: "bf16",
        usual: false,
    },
    Entry {
        variant: Variant::NativeInt8,
        name: "native-int8",
        engine: EngineName::Native,
        artefact: Artefact::OnnxInt8,
        format: "int8",
        usual: true,
    },
    Entry {
        variant: Variant::OrtF32,
        name: "ort",
        engine: EngineName::Ort,
        artefact: Artefact::Onnx,
        format: "f32",
        usual: true,
    },
    Entry {
        variant: Variant::OrtInt8,
        name: "ort-int8",
        engine: EngineName::Ort,
        artefact: Artefact::OnnxInt8,
        format: "int8",
        usual: true,
    },
    Entry {
        variant: Variant::CandleOnnx,
        name: "candle-onnx",
        engine: EngineName::CandleOnnx,
        artefact: Artefact::Onnx,
        format: "f32",
        usual: true,
    },
];

impl Variant {
    /// Its line of the registry.
    pub fn entry(self) -> &'static Entry {
        let found = VARIANTS.iter().find(|entry| entry.variant == self);
        found.unwrap_or(&VARIANTS[0])
    }

    /// The variants that are measured unless the user says otherwise.
    pub fn usual() -> Vec<Self> {
        VARIANTS.iter().filter(|entry| entry.usual).map(|entry| entry.variant).collect()
    }

    /// The usual variants of one engine, with its weights in this format; of all engines if none is given.
    pub fn of(engine: Option<EngineName>, weights: WeightFormat) -> Vec<Self> {
        let same_engine = |entry: &&Entry| engine.is_none_or(|engine| entry.engine == engine);
        let stored = |entry: &Entry| match (entry.variant, weights) {
            (Variant::NativeF32, WeightFormat::Bf16) => Variant::NativeBf16,
            (variant, _) => variant,
        };
        VARIANTS.iter().filter(|entry| entry.usual).filter(same_engine).map(stored).collect()
    }

    /// How the native engine stores the weights.
    pub(super) fn weights(self) -> WeightFormat {
        match self {
            Variant::NativeBf16 => WeightFormat::Bf16,
            _ => WeightFormat::F32,
        }
    }

    /// What the report calls it: `ort int8`.
    pub fn title(self) -> String {
        let entry = self.entry();
        format!("{} {}", entry.engine.name(), entry.format)
    }
}

impl FromStr for Variant {
    type Err = ServeError;

    fn from_str(name: &str) -> Result<Self> {
        let names = || VARIANTS.iter().map(|entry| entry.name);
        let found = VARIANTS.iter().find(|entry| entry.name == name).map(|entry| entry.variant);
        found.ok_or_else(|| ServeError::Setting {
            name: "rows",
            expected: names().collect::<Vec<_>>().join(", "),
            found: format!("`{name}`{}", models::nearest::suggestion(name, names())),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variant_is_found_by_its_name_and_a_slip_is_mended() {
        for entry in VARIANTS {
            assert_eq!(entry.name.parse::<Variant>().unwrap(), entry.variant);
            assert_eq!(entry.variant.entry().name, entry.name);
        }
        let message = "ort-int".parse::<Variant>().unwrap_err().to_string();
        assert!(message.contains("did you mean `ort-int8`?"), "{message}");
    }

    #[test]
    fn an_engine_and_a_format_choose_rows() {
        assert_eq!(
            Variant::of(Some(EngineName::Ort), WeightFormat::F32),
            [Variant::OrtF32, Variant::OrtInt8]
        );
        let native = Variant::of(Some(EngineName::Native), WeightFormat::Bf16);
        assert_eq!(native, [Variant::NativeBf16, Variant::NativeInt8]);
        assert_eq!(Variant::of(None, WeightFormat::F32), Variant::usual());
    }
}

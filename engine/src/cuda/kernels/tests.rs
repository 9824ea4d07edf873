//! Every kernel against the processor's of the same meaning, in both formats, at odd sizes, at sizes that suit vectors,
//! and with maps that are not aligned. They need a GPU or the emulator: `cargo xtask cuda test`.
//!
//! What is rounded once may differ by one rounding, and besides by 1e-5 of the larger of 1 and the value; a test says
//! where it allows more. Every comparison prints its worst error, as `worst KERNEL FORMAT ERROR`.

use cudarc::driver::{CudaSlice, DevicePtr};

use super::*;
use crate::kernels::conv::WeightFormat;
use crate::kernels::reference::ramp;

mod bandwidth;
mod depthwise;
mod elementwise;
mod norm;
mod optimizer;
mod pooling;

/// A device with the kernels.
struct Lab {
    gpu: Gpu,
    kernels: Kernels,
    format: Format,
    /// Elements that maps start behind an aligned address.
    shift: usize,
}

/// Memory of the device.
struct Memory {
    bytes: CudaSlice<u8>,
    at: Ptr,
    /// Bytes before the contents.
    start: usize,
}

/// What surrounds every array, so that a write beyond its ends shows.
const GUARD: usize = 64;
const GUARD_BYTE: u8 = 0xa5;

impl Lab {
    fn open(format: Format, shift: usize) -> Self {
        let gpu = Gpu::open(0).unwrap_or_else(|error| {
            panic!("{error}; this test needs a GPU or the emulator: run `cargo xtask cuda test`")
        });
        let kernels = Kernels::new(&gpu).unwrap();
        Self { gpu, kernels, format, shift }
    }

    /// Runs a test in both formats, with aligned maps and with others.
    fn each(mut test: impl FnMut(&Self)) {
        for format in [Format::F32, Format::Bf16] {
            for shift in [0, 1] {
                test(&Lab::open(format, shift));
            }
        }
    }

    /// Bytes that start `shift` bytes behind an aligned address.
    fn bytes(&self, contents: &[u8], shift: usize) -> Memory {
        let start = GUARD + shift;
        let mut all = vec![GUARD_BYTE; start + contents.len() + GUARD];
        all[start..start + contents.len()].copy_from_slice(contents);
        let bytes = self.gpu.stream.clone_htod(&all).unwrap();
        let at = Ptr(bytes.device_ptr(&self.gpu.stream).0).offset(start);
        Memory { bytes, at, start }
    }

    fn read_bytes(&self, memory: &Memory, len: usize) -> Vec<u8> {
        let all = self.gpu.stream.clone_dtoh(&memory.bytes).unwrap();
        let end = memory.start + len;
        let around = all[..memory.start].iter().chain(&all[all.len() - GUARD..]);
        assert!(around.copied().all(|byte| byte == GUARD_BYTE), "a kernel wrote beyond its array");
        all[memory.start..end].to_vec()
    }

    fn floats(&self, values: &[f32]) -> Memory {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_ne_bytes()).collect();
        self.bytes(&bytes, 0)
    }

    /// Room for this many bytes.
    fn scratch(&self, len: usize) -> Memory {
        self.bytes(&vec![0xff; len], 0)
    }

    fn read_floats(&self, memory: &Memory, len: usize) -> Vec<f32> {
        let bytes = self.read_bytes(memory, 4 * len);
        bytes.chunks_exact(4).map(|bytes| f32::from_ne_bytes(bytes.try_into().unwrap())).collect()
    }

    fn words(&self, values: &[u32]) -> Memory {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_ne_bytes()).collect();
        self.bytes(&bytes, 0)
    }

    fn key(&self, key: u64) -> Memory {
        self.bytes(&key.to_ne_bytes(), 0)
    }

    /// A map in the lab's format.
    fn map(&self, values: &[f32]) -> Memory {
        let bytes: Vec<u8> = match self.format {
            Format::F32 => values.iter().flat_map(|value| value.to_ne_bytes()).collect(),
            Format::Bf16 => values.iter().flat_map(|&value| bf16(value).to_ne_bytes()).collect(),
        };
        self.bytes(&bytes, self.shift * self.format.bytes())
    }

    fn read_map(&self, memory: &Memory, len: usize) -> Vec<f32> {
        match self.format {
            Format::F32 => self.read_floats(memory, len),
            Format::Bf16 => {
                let bytes = self.read_bytes(memory, 2 * len);
                let float =
                    |bytes: &[u8]| f32::from_bits(u32::from(bytes[0]) << 16 | u32::from(bytes[1]) << 24);
                bytes.chunks_exact(2).map(float).collect()
            }
        }
    }

    /// Varied numbers that the format holds.
    fn ramp(&self, len: usize, bound: f32) -> Vec<f32> {
        self.rounded(&ramp(len, bound))
    }

    /// Numbers as the format holds them.
    fn rounded(&self, values: &[f32]) -> Vec<f32> {
        match self.format {
            Format::F32 => values.to_vec(),
            Format::Bf16 => values.iter().map(|&value| WeightFormat::Bf16.round(value)).collect(),
        }
    }

    /// Asserts that a map holds what is expected, each number rounded once.
    fn close(&self, kernel: &str, found: &Memory, expected: &[f32]) {
        let rounding = if self.format == Format::Bf16 { 1.0 / 256.0 } else { 0.0 };
        self.compare(kernel, &self.read_map(found, expected.len()), expected, rounding, 1e-5);
    }

    /// Asserts that floats are as expected, within `tolerance` of the larger of 1 and the value.
    fn close_floats(&self, kernel: &str, found: &Memory, expected: &[f32], tolerance: f32) {
        self.compare(kernel, &self.read_floats(found, expected.len()), expected, 0.0, tolerance);
    }

    /// `rounding` is relative to the number itself.
    fn compare(&self, kernel: &str, found: &[f32], expected: &[f32], rounding: f32, tolerance: f32) {
        assert_eq!(found.len(), expected.len());
        let mut worst = 0.0_f32;
        for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
            let (error, size) = ((found - expected).abs(), expected.abs());
            let allowed = rounding * size + tolerance * size.max(1.0);
            assert!(
                error <= allowed,
                "{kernel} {:?} shift {} [{index}]: {found}, expected {expected}",
                self.format,
                self.shift
            );
            worst = worst.max(error / size.max(1.0));
        }
        eprintln!("worst {kernel} {:?} {worst:e}", self.format);
    }
}

/// The bits of a number rounded to bf16.
fn bf16(value: f32) -> u16 {
    (WeightFormat::Bf16.round(value).to_bits() >> 16) as u16
}

#[test]
fn the_emulators_maps_hold_what_was_put_there() {
    Lab::each(|lab| {
        let values = lab.ramp(37, 3.0);
        let memory = lab.map(&values);
        assert_eq!(memory.at.0.is_multiple_of(16), lab.shift == 0);
        assert_eq!(lab.read_map(&memory, 37), values);
    });
}

#[test]
fn sums_are_divided_by_sizes_alone_and_cover_every_row_once() {
    for (rows, channels) in
        [(1, 1), (7, 10), (3000, 33), (128 * 1024, 64), (5, 20_000), (1 << 20, 3), (1, 4096)]
    {
        let sums = Sums::of(rows, channels);
        assert!(
            sums.parts * sums.rows >= rows && (sums.parts - 1) * sums.rows < rows,
            "{rows} {channels} {sums:?}"
        );
        for width in [1, 4, 8].into_iter().filter(|width| channels % width == 0) {
            let (lanes, tiles) = Sums::lanes(channels, width);
            assert!((1..=32).contains(&lanes));
            assert!(lanes * tiles >= channels / width && lanes * (tiles - 1) < channels / width);
        }
    }
}

//! Vectors of i32 sums over products of bytes, behind one trait: AVX-512 VNNI (16 and 8 lanes), AVX-VNNI (8),
//! AVX2 (8) and portable (8).
//!
//! Every implementation computes the same integers: none saturates on the way.
//!
//! Never here: loops over more than a vector, or anything that knows a layer.
#![allow(clippy::needless_range_loop)] // indices count lanes and registers

use crate::simd::{self, Simd};

/// Bytes of weights that lie together: 16 outputs with 4 inputs each, or 16 channels with 4 taps each.
pub const LINE: usize = 64;

/// Sixteen times four weights on a cache line of their own.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Line(pub [i8; LINE]);

impl Line {
    /// Weights that add nothing.
    pub const ZERO: Line = Line([0; LINE]);
}

/// How sums become bytes: `clamp(round(real) + zero_point)`, with ties to even.
#[derive(Clone, Copy, Debug)]
pub struct Rounding {
    /// Byte of the real zero.
    pub zero_point: u8,
    /// Least byte.
    pub low: u8,
    /// Largest byte.
    pub high: u8,
}

impl Rounding {
    /// Least and largest whole number before the zero point is added.
    #[inline(always)]
    pub fn bounds(self) -> [f32; 2] {
        [self.low, self.high].map(|bound| f32::from(i16::from(bound) - i16::from(self.zero_point)))
    }
}

/// A vector of i32 sums.
///
/// As with [`Simd`], the methods may run only where the instruction set is available, that is in an instance of a kernel
/// that was chosen by [`crate::simd::ByteIsa`].
pub trait Lanes: Copy {
    /// Sums in a vector.
    const LANES: usize;
    /// As many f32.
    type Floats: Simd;
    /// Four unsigned bytes per lane, ready to be multiplied.
    type Inputs: Copy;
    /// Four signed bytes per lane, ready to be multiplied.
    type Weights: Copy;

    /// `LANES` sums.
    ///
    /// # Safety
    /// They are readable.
    unsafe fn load(from: *const i32) -> Self;
    /// Writes all sums.
    ///
    /// # Safety
    /// `LANES` are writable.
    unsafe fn store(self, to: *mut i32);
    /// The same four bytes in all lanes.
    ///
    /// # Safety
    /// They are readable.
    unsafe fn splat_four(from: *const u8) -> Self::Inputs;
    /// Four bytes per lane.
    ///
    /// # Safety
    /// They are readable.
    unsafe fn weights(from: *const i8) -> Self::Weights;
    /// Adds to each lane the sum of its four products.
    fn dot(self, inputs: Self::Inputs, weights: Self::Weights) -> Self;
    /// The nearest floats, ties to even.
    fn floats(self) -> Self::Floats;
    /// `1..=LANES` bytes as floats; anything in the other lanes.
    ///
    /// # Safety
    /// They are readable.
    unsafe fn load_bytes(from: *const u8, count: usize) -> Self::Floats;
    /// Rounds and writes the first `count` lanes, `1..=LANES`, as bytes.
    ///
    /// # Safety
    /// They are writable.
    unsafe fn store_bytes(values: Self::Floats, rounding: Rounding, to: *mut u8, count: usize);
    /// Four rows of `4 LANES` bytes as columns of four: lane `i` of vector `j` takes byte `16 (i / 4) + 4 j + i % 4` of
    /// every row.
    ///
    /// # Safety
    /// The rows are readable.
    unsafe fn interleave(rows: [*const u8; 4]) -> [Self::Inputs; 4];
    /// The same where only the first row counts: the other three bytes of a lane are zero.
    ///
    /// # Safety
    /// The row is readable.
    unsafe fn spread(row: *const u8) -> [Self::Inputs; 4];
    /// Rounds and writes the first `count` bytes, `1..=4 LANES`, of four vectors in the order of [`Lanes::interleave`].
    ///
    /// # Safety
    /// They are writable.
    unsafe fn store_interleaved(values: [Self::Floats; 4], rounding: Rounding, to: *mut u8, count: usize);

    /// Asks for a cache line that will be read.
    #[inline(always)]
    fn prefetch(_: *const i8) {}
}

/// Calls an `#[inline(always)]` function generic over [`Lanes`], compiled for the instruction set `isa`, a
/// [`crate::simd::ByteIsa`]: `dispatch_lanes!(isa, kernel(a: TypeA, b: TypeB))`.
macro_rules! dispatch_lanes {
    ($isa:expr, $kernel:ident($($name:ident : $type:ty),* $(,)?)) => {
        match $isa {
            #[cfg(target_arch = "x86_64")]
            $crate::simd::ByteIsa::Vnni => {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
                fn instance($($name: $type),*) {
                    $kernel::<$crate::kernels::int8::lanes::Vnni>($($name),*)
                }
                // SAFETY: the instruction set follows from that of a `Pool`, which has checked that it is available.
                unsafe { instance($($name),*) }
            }
            #[cfg(target_arch = "x86_64")]
            $crate::simd::ByteIsa::AvxVnni => {
                #[target_feature(enable = "avx2,fma,avxvnni")]
                fn instance($($name: $type),*) {
                    $kernel::<$crate::kernels::int8::lanes::AvxVnni>($($name),*)
                }
                // SAFETY: as above.
                unsafe { instance($($name),*) }
            }
            #[cfg(target_arch = "x86_64")]
            $crate::simd::ByteIsa::Avx2 => {
                #[target_feature(enable = "avx2,fma")]
                fn instance($($name: $type),*) {
                    $kernel::<$crate::kernels::int8::lanes::Avx2>($($name),*)
                }
                // SAFETY: as above.
                unsafe { instance($($name),*) }
            }
            _ => $kernel::<$crate::kernels::int8::lanes::Portable>($($name),*),
        }
    };
}
pub(super) use dispatch_lanes;

/// The byte of a vector and lane in the order of [`Lanes::interleave`].
pub fn interleaved(vector: usize, lane: usize) -> usize {
    16 * (lane / 4) + 4 * vector + lane % 4
}

/// Eight sums as an array.
#[derive(Clone, Copy)]
pub struct Portable([i32; 8]);

/// A float as a byte.
#[inline(always)]
pub fn byte(value: f32, rounding: Rounding) -> u8 {
    let [low, high] = rounding.bounds();
    (value.round_ties_even().clamp(low, high) as i32 + i32::from(rounding.zero_point)) as u8
}

impl Lanes for Portable {
    const LANES: usize = 8;
    type Floats = simd::Portable;
    type Inputs = [[u8; 4]; 8];
    type Weights = [[i8; 4]; 8];

    #[inline(always)]
    unsafe fn load(from: *const i32) -> Self {
        // SAFETY: readable by the caller's promise.
        Self(unsafe { from.cast::<[i32; 8]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut i32) {
        // SAFETY: writable by the caller's promise.
        unsafe { to.cast::<[i32; 8]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn splat_four(from: *const u8) -> Self::Inputs {
        // SAFETY: readable by the caller's promise.
        [unsafe { from.cast::<[u8; 4]>().read_unaligned() }; 8]
    }
    #[inline(always)]
    unsafe fn weights(from: *const i8) -> Self::Weights {
        // SAFETY: readable by the caller's promise.
        unsafe { from.cast::<[[i8; 4]; 8]>().read_unaligned() }
    }
    #[inline(always)]
    fn dot(self, inputs: Self::Inputs, weights: Self::Weights) -> Self {
        let mut sums = self.0;
        for lane in 0..8 {
            for i in 0..4 {
                sums[lane] += i32::from(inputs[lane][i]) * i32::from(weights[lane][i]);
            }
        }
        Self(sums)
    }
    #[inline(always)]
    fn floats(self) -> Self::Floats {
        simd::Portable(self.0.map(|sum| sum as f32))
    }
    #[inline(always)]
    unsafe fn load_bytes(from: *const u8, count: usize) -> Self::Floats {
        let mut bytes = [0; 8];
        // SAFETY: readable by the caller's promise; `count <= 8`.
        unsafe { std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), count) };
        simd::Portable(bytes.map(f32::from))
    }
    #[inline(always)]
    unsafe fn store_bytes(values: Self::Floats, rounding: Rounding, to: *mut u8, count: usize) {
        let bytes = values.0.map(|value| byte(value, rounding));
        // SAFETY: writable by the caller's promise; `count <= 8`.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, count) };
    }
    #[inline(always)]
    unsafe fn interleave(rows: [*const u8; 4]) -> [Self::Inputs; 4] {
        let mut inputs = [[[0; 4]; 8]; 4];
        for vector in 0..4 {
            for lane in 0..8 {
                for i in 0..4 {
                    // SAFETY: the rows have 32 bytes by the caller's promise.
                    inputs[vector][lane][i] = unsafe { *rows[i].add(interleaved(vector, lane)) };
                }
            }
        }
        inputs
    }
    #[inline(always)]
    unsafe fn spread(row: *const u8) -> [Self::Inputs; 4] {
        let mut inputs = [[[0; 4]; 8]; 4];
        for vector in 0..4 {
            for lane in 0..8 {
                // SAFETY: the row has 32 bytes by the caller's promise.
                inputs[vector][lane][0] = unsafe { *row.add(interleaved(vector, lane)) };
            }
        }
        inputs
    }
    #[inline(always)]
    unsafe fn store_interleaved(values: [Self::Floats; 4], rounding: Rounding, to: *mut u8, count: usize) {
        let mut bytes = [0; 32];
        for vector in 0..4 {
            for lane in 0..8 {
                bytes[interleaved(vector, lane)] = byte(values[vector].0[lane], rounding);
            }
        }
        // SAFETY: writable by the caller's promise; `count <= 32`.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, count) };
    }
}

#[cfg(target_arch = "x86_64")]
pub use x86::{Avx2, AvxVnni, Vnni, VnniHalf};

#[cfg(target_arch = "x86_64")]
mod x86 {
    //! The vectors of x86-64.
    //!
    //! Every `unsafe` block here has one reason: an intrinsic needs its instruction set, which the contract of [`Lanes`]
    //! promises, and memory that the method's own contract promises.
    use super::{Lanes, Rounding};
    use crate::simd::{self, Simd};
    use std::arch::x86_64::*;

    /// Above this, a float may not fit an i32; every rounding has taken it to its largest byte long before.
    const LARGE: f32 = 1e9;

    /// Sixteen sums.
    #[derive(Clone, Copy)]
    #[repr(transparent)]
    pub struct Vnni(__m512i);

    /// Eight sums with the instructions of sixteen, for what is left of a row.
    #[derive(Clone, Copy)]
    #[repr(transparent)]
    pub struct VnniHalf(__m256i);

    /// Eight sums.
    #[derive(Clone, Copy)]
    #[repr(transparent)]
    pub struct Avx2(__m256i);

    /// Eight sums, on processors that sum products of bytes without AVX-512.
    #[derive(Clone, Copy)]
    #[repr(transparent)]
    pub struct AvxVnni(__m256i);

    /// The first `count` bits, `1..=64`.
    #[inline(always)]
    fn mask64(count: usize) -> u64 {
        u64::MAX >> (64 - count.clamp(1, 64))
    }

    impl Lanes for Vnni {
        const LANES: usize = 16;
        type Floats = simd::Avx512;
        type Inputs = __m512i;
        type Weights = __m512i;

        #[inline(always)]
        fn prefetch(line: *const i8) {
            unsafe { _mm_prefetch::<_MM_HINT_T0>(line) }
        }
        #[inline(always)]
        unsafe fn load(from: *const i32) -> Self {
            Self(unsafe { _mm512_loadu_si512(from.cast()) })
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut i32) {
            unsafe { _mm512_storeu_si512(to.cast(), self.0) }
        }
        #[inline(always)]
        unsafe fn splat_four(from: *const u8) -> __m512i {
            unsafe { _mm512_set1_epi32(from.cast::<i32>().read_unaligned()) }
        }
        #[inline(always)]
        unsafe fn weights(from: *const i8) -> __m512i {
            unsafe { _mm512_loadu_si512(from.cast()) }
        }
        #[inline(always)]
        fn dot(self, inputs: __m512i, weights: __m512i) -> Self {
            Self(unsafe { _mm512_dpbusd_epi32(self.0, inputs, weights) })
        }
        #[inline(always)]
        fn floats(self) -> simd::Avx512 {
            simd::Avx512(unsafe { _mm512_cvtepi32_ps(self.0) })
        }
        #[inline(always)]
        unsafe fn load_bytes(from: *const u8, count: usize) -> simd::Avx512 {
            unsafe {
                let bytes = _mm_maskz_loadu_epi8(mask64(count) as __mmask16, from.cast());
                simd::Avx512(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes)))
            }
        }
        #[inline(always)]
        unsafe fn store_bytes(values: simd::Avx512, rounding: Rounding, to: *mut u8, count: usize) {
            let [low, high] = rounding.bounds();
            unsafe {
                let clamped = values.max(simd::Avx512::splat(low)).min(simd::Avx512::splat(high));
                let whole = _mm512_cvtps_epi32(clamped.0);
                let whole = _mm512_add_epi32(whole, _mm512_set1_epi32(i32::from(rounding.zero_point)));
                let bytes = _mm512_cvtepi32_epi8(whole);
                if count == 16 {
                    _mm_storeu_si128(to.cast(), bytes);
                } else {
                    _mm_mask_storeu_epi8(to.cast(), mask64(count) as __mmask16, bytes);
                }
            }
        }
        #[inline(always)]
        unsafe fn interleave(rows: [*const u8; 4]) -> [__m512i; 4] {
            unsafe {
                let [a, b, c, d] = rows;
                let (a, b) = (_mm512_loadu_si512(a.cast()), _mm512_loadu_si512(b.cast()));
                let (c, d) = (_mm512_loadu_si512(c.cast()), _mm512_loadu_si512(d.cast()));
                let (low, high) = (_mm512_unpacklo_epi8(a, b), _mm512_unpackhi_epi8(a, b));
                let (low2, high2) = (_mm512_unpacklo_epi8(c, d), _mm512_unpackhi_epi8(c, d));
                [
                    _mm512_unpacklo_epi16(low, low2),
                    _mm512_unpackhi_epi16(low, low2),
                    _mm512_unpacklo_epi16(high, high2),
                    _mm512_unpackhi_epi16(high, high2),
                ]
            }
        }
        #[inline(always)]
        unsafe fn spread(row: *const u8) -> [__m512i; 4] {
            unsafe {
                let (row, first) = (_mm512_loadu_si512(row.cast()), _mm512_broadcast_i32x4(spread_order(0)));
                let (second, third) =
                    (_mm512_broadcast_i32x4(spread_order(1)), _mm512_broadcast_i32x4(spread_order(2)));
                let fourth = _mm512_broadcast_i32x4(spread_order(3));
                [
                    _mm512_shuffle_epi8(row, first),
                    _mm512_shuffle_epi8(row, second),
                    _mm512_shuffle_epi8(row, third),
                    _mm512_shuffle_epi8(row, fourth),
                ]
            }
        }
        #[inline(always)]
        unsafe fn store_interleaved(
            values: [simd::Avx512; 4],
            rounding: Rounding,
            to: *mut u8,
            count: usize,
        ) {
            unsafe {
                let large = simd::Avx512::splat(LARGE);
                let [a, b, c, d] = values;
                let a = _mm512_cvtps_epi32(a.min(large).0);
                let b = _mm512_cvtps_epi32(b.min(large).0);
                let c = _mm512_cvtps_epi32(c.min(large).0);
                let d = _mm512_cvtps_epi32(d.min(large).0);

                let zero_point = _mm512_set1_epi16(i16::from(rounding.zero_point));
                let first = _mm512_adds_epi16(_mm512_packs_epi32(a, b), zero_point);
                let second = _mm512_adds_epi16(_mm512_packs_epi32(c, d), zero_point);
                let bytes = _mm512_packus_epi16(first, second);
                let bytes = _mm512_max_epu8(bytes, _mm512_set1_epi8(rounding.low as i8));
                let bytes = _mm512_min_epu8(bytes, _mm512_set1_epi8(rounding.high as i8));
                if count == 64 {
                    _mm512_storeu_si512(to.cast(), bytes);
                } else {
                    _mm512_mask_storeu_epi8(to.cast(), mask64(count), bytes);
                }
            }
        }
    }

    /// Sums of eight floats as bytes, in the low half.
    #[inline(always)]
    unsafe fn eight_bytes(values: simd::Avx2, rounding: Rounding) -> __m128i {
        let [low, high] = rounding.bounds();
        unsafe {
            let clamped = values.max(simd::Avx2::splat(low)).min(simd::Avx2::splat(high));
            let whole = _mm256_cvtps_epi32(clamped.0);
            let whole = _mm256_add_epi32(whole, _mm256_set1_epi32(i32::from(rounding.zero_point)));
            let pairs = _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256::<1>(whole));
            _mm_packus_epi16(pairs, pairs)
        }
    }

    /// Four vectors in the order of [`Lanes::interleave`] as bytes.
    #[inline(always)]
    unsafe fn interleaved_bytes(values: [simd::Avx2; 4], rounding: Rounding) -> __m256i {
        unsafe {
            let large = simd::Avx2::splat(LARGE);
            let [a, b, c, d] = values;
            let a = _mm256_cvtps_epi32(a.min(large).0);
            let b = _mm256_cvtps_epi32(b.min(large).0);
            let c = _mm256_cvtps_epi32(c.min(large).0);
            let d = _mm256_cvtps_epi32(d.min(large).0);

            let zero_point = _mm256_set1_epi16(i16::from(rounding.zero_point));
            let first = _mm256_adds_epi16(_mm256_packs_epi32(a, b), zero_point);
            let second = _mm256_adds_epi16(_mm256_packs_epi32(c, d), zero_point);
            let bytes = _mm256_packus_epi16(first, second);
            let bytes = _mm256_max_epu8(bytes, _mm256_set1_epi8(rounding.low as i8));
            _mm256_min_epu8(bytes, _mm256_set1_epi8(rounding.high as i8))
        }
    }

    /// Four rows of 32 bytes as columns of four.
    #[inline(always)]
    unsafe fn columns_of_four(rows: [*const u8; 4]) -> [__m256i; 4] {
        unsafe {
            let [a, b, c, d] = rows;
            let (a, b) = (_mm256_loadu_si256(a.cast()), _mm256_loadu_si256(b.cast()));
            let (c, d) = (_mm256_loadu_si256(c.cast()), _mm256_loadu_si256(d.cast()));
            let (low, high) = (_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b));
            let (low2, high2) = (_mm256_unpacklo_epi8(c, d), _mm256_unpackhi_epi8(c, d));
            [
                _mm256_unpacklo_epi16(low, low2),
                _mm256_unpackhi_epi16(low, low2),
                _mm256_unpacklo_epi16(high, high2),
                _mm256_unpackhi_epi16(high, high2),
            ]
        }
    }

    /// For vector `j` of [`Lanes::spread`]: bytes `4 j..4 j + 4` of sixteen, each followed by three zeros.
    #[inline(always)]
    unsafe fn spread_order(j: i32) -> __m128i {
        let first = (0x8080_8000_u32 as i32) | (4 * j);
        unsafe { _mm_setr_epi32(first, first | 1, first | 2, first | 3) }
    }

    /// A row of 32 bytes, each followed by three zeros.
    #[inline(always)]
    unsafe fn spread_row(row: *const u8) -> [__m256i; 4] {
        unsafe {
            let row = _mm256_loadu_si256(row.cast());
            [
                _mm256_shuffle_epi8(row, _mm256_broadcastsi128_si256(spread_order(0))),
                _mm256_shuffle_epi8(row, _mm256_broadcastsi128_si256(spread_order(1))),
                _mm256_shuffle_epi8(row, _mm256_broadcastsi128_si256(spread_order(2))),
                _mm256_shuffle_epi8(row, _mm256_broadcastsi128_si256(spread_order(3))),
            ]
        }
    }

    /// `count` of the 32 bytes of a vector.
    #[inline(always)]
    unsafe fn store_some(bytes: __m256i, to: *mut u8, count: usize) {
        let mut all = [0_u8; 32];
        unsafe {
            _mm256_storeu_si256(all.as_mut_ptr().cast(), bytes);
            std::ptr::copy_nonoverlapping(all.as_ptr(), to, count);
        }
    }

    impl Lanes for VnniHalf {
        const LANES: usize = 8;
        type Floats = simd::Avx2;
        type Inputs = __m256i;
        type Weights = __m256i;

        #[inline(always)]
        unsafe fn load(from: *const i32) -> Self {
            Self(unsafe { _mm256_loadu_si256(from.cast()) })
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut i32) {
            unsafe { _mm256_storeu_si256(to.cast(), self.0) }
        }
        #[inline(always)]
        unsafe fn splat_four(from: *const u8) -> __m256i {
            unsafe { _mm256_set1_epi32(from.cast::<i32>().read_unaligned()) }
        }
        #[inline(always)]
        unsafe fn weights(from: *const i8) -> __m256i {
            unsafe { _mm256_loadu_si256(from.cast()) }
        }
        #[inline(always)]
        fn dot(self, inputs: __m256i, weights: __m256i) -> Self {
            Self(unsafe { _mm256_dpbusd_epi32(self.0, inputs, weights) })
        }
        #[inline(always)]
        fn floats(self) -> simd::Avx2 {
            simd::Avx2(unsafe { _mm256_cvtepi32_ps(self.0) })
        }
        #[inline(always)]
        unsafe fn load_bytes(from: *const u8, count: usize) -> simd::Avx2 {
            unsafe {
                let bytes = _mm_maskz_loadu_epi8(mask64(count) as __mmask16, from.cast());
                simd::Avx2(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)))
            }
        }
        #[inline(always)]
        unsafe fn store_bytes(values: simd::Avx2, rounding: Rounding, to: *mut u8, count: usize) {
            unsafe {
                _mm_mask_storeu_epi8(to.cast(), mask64(count) as __mmask16, eight_bytes(values, rounding))
            }
        }
        #[inline(always)]
        unsafe fn interleave(rows: [*const u8; 4]) -> [__m256i; 4] {
            unsafe { columns_of_four(rows) }
        }
        #[inline(always)]
        unsafe fn spread(row: *const u8) -> [__m256i; 4] {
            unsafe { spread_row(row) }
        }
        #[inline(always)]
        unsafe fn store_interleaved(values: [simd::Avx2; 4], rounding: Rounding, to: *mut u8, count: usize) {
            unsafe {
                let bytes = interleaved_bytes(values, rounding);
                _mm256_mask_storeu_epi8(to.cast(), mask64(count) as __mmask32, bytes);
            }
        }
    }

    /// What vectors of eight have in common where there are no masks.
    macro_rules! eight_lanes {
        () => {
            const LANES: usize = 8;
            type Floats = simd::Avx2;

            #[inline(always)]
            fn prefetch(line: *const i8) {
                unsafe { _mm_prefetch::<_MM_HINT_T0>(line) }
            }
            #[inline(always)]
            unsafe fn load(from: *const i32) -> Self {
                Self(unsafe { _mm256_loadu_si256(from.cast()) })
            }
            #[inline(always)]
            unsafe fn store(self, to: *mut i32) {
                unsafe { _mm256_storeu_si256(to.cast(), self.0) }
            }
            #[inline(always)]
            fn floats(self) -> simd::Avx2 {
                simd::Avx2(unsafe { _mm256_cvtepi32_ps(self.0) })
            }
            #[inline(always)]
            unsafe fn load_bytes(from: *const u8, count: usize) -> simd::Avx2 {
                let mut bytes = [0_u8; 8];
                unsafe {
                    if count == 8 {
                        let bytes = _mm_loadl_epi64(from.cast());
                        return simd::Avx2(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)));
                    }
                    std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), count);
                    let bytes = _mm_loadl_epi64(bytes.as_ptr().cast());
                    simd::Avx2(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)))
                }
            }
            #[inline(always)]
            unsafe fn store_bytes(values: simd::Avx2, rounding: Rounding, to: *mut u8, count: usize) {
                unsafe {
                    let bytes = eight_bytes(values, rounding);
                    if count == 8 {
                        _mm_storel_epi64(to.cast(), bytes);
                    } else {
                        store_some(_mm256_castsi128_si256(bytes), to, count);
                    }
                }
            }
            #[inline(always)]
            unsafe fn store_interleaved(
                values: [simd::Avx2; 4],
                rounding: Rounding,
                to: *mut u8,
                count: usize,
            ) {
                unsafe {
                    let bytes = interleaved_bytes(values, rounding);
                    if count == 32 {
                        _mm256_storeu_si256(to.cast(), bytes);
                    } else {
                        store_some(bytes, to, count);
                    }
                }
            }
        };
    }

    impl Lanes for Avx2 {
        eight_lanes!();
        /// The even and the odd bytes, widened.
        type Inputs = [__m256i; 2];
        /// The even and the odd bytes, widened.
        type Weights = [__m256i; 2];

        #[inline(always)]
        unsafe fn splat_four(from: *const u8) -> [__m256i; 2] {
            unsafe { widened(_mm256_set1_epi32(from.cast::<i32>().read_unaligned())) }
        }
        #[inline(always)]
        unsafe fn weights(from: *const i8) -> [__m256i; 2] {
            unsafe {
                let bytes = _mm256_loadu_si256(from.cast());
                let even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(bytes));
                [even, _mm256_srai_epi16::<8>(bytes)]
            }
        }
        #[inline(always)]
        fn dot(self, inputs: [__m256i; 2], weights: [__m256i; 2]) -> Self {
            unsafe {
                let even = _mm256_madd_epi16(inputs[0], weights[0]);
                let odd = _mm256_madd_epi16(inputs[1], weights[1]);
                Self(_mm256_add_epi32(self.0, _mm256_add_epi32(even, odd)))
            }
        }
        #[inline(always)]
        unsafe fn interleave(rows: [*const u8; 4]) -> [[__m256i; 2]; 4] {
            unsafe {
                let [a, b, c, d] = columns_of_four(rows);
                [widened(a), widened(b), widened(c), widened(d)]
            }
        }
        #[inline(always)]
        unsafe fn spread(row: *const u8) -> [[__m256i; 2]; 4] {
            unsafe {
                let [a, b, c, d] = spread_row(row);
                [widened(a), widened(b), widened(c), widened(d)]
            }
        }
    }

    impl Lanes for AvxVnni {
        eight_lanes!();
        type Inputs = __m256i;
        type Weights = __m256i;

        #[inline(always)]
        unsafe fn splat_four(from: *const u8) -> __m256i {
            unsafe { _mm256_set1_epi32(from.cast::<i32>().read_unaligned()) }
        }
        #[inline(always)]
        unsafe fn weights(from: *const i8) -> __m256i {
            unsafe { _mm256_loadu_si256(from.cast()) }
        }
        #[inline(always)]
        fn dot(self, inputs: __m256i, weights: __m256i) -> Self {
            Self(unsafe { _mm256_dpbusd_avx_epi32(self.0, inputs, weights) })
        }
        #[inline(always)]
        unsafe fn interleave(rows: [*const u8; 4]) -> [__m256i; 4] {
            unsafe { columns_of_four(rows) }
        }
        #[inline(always)]
        unsafe fn spread(row: *const u8) -> [__m256i; 4] {
            unsafe { spread_row(row) }
        }
    }

    /// Even and odd unsigned bytes as 16 bits.
    #[inline(always)]
    unsafe fn widened(bytes: __m256i) -> [__m256i; 2] {
        unsafe {
            let even = _mm256_and_si256(bytes, _mm256_set1_epi16(0xff));
            [even, _mm256_srli_epi16::<8>(bytes)]
        }
    }
}

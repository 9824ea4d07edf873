//! Vectors of f32 in three widths behind one trait: AVX-512 (16 lanes), AVX2 with FMA (8) and portable (8).
//!
//! A kernel is written once as an `#[inline(always)]` function generic over [`Simd`] and instantiated for each
//! instruction set by `dispatch!`, which chooses at run time:
//!
//! ```ignore
//! #[inline(always)]
//! fn scale_kernel<V: Simd>(factor: f32, x: &mut [f32]) {
//!     let factor = V::splat(factor);
//!     simd::map_in_place::<V>(x, |v| v.mul(factor));
//! }
//!
//! pub fn scale(isa: Isa, factor: f32, x: &mut [f32]) {
//!     dispatch!(isa, scale_kernel(factor: f32, x: &mut [f32]))
//! }
//! ```
//!
//! Never here: loops over more than one slice's length, or anything that knows a node.

/// An instruction set that kernels are built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// AVX-512 F, BW, DQ and VL: 16 lanes.
    Avx512,
    /// AVX2 with FMA: 8 lanes.
    Avx2,
    /// Whatever the compiler makes of arrays of 8.
    Portable,
}

impl Isa {
    /// All, the fastest first.
    pub const ALL: [Isa; 3] = [Isa::Avx512, Isa::Avx2, Isa::Portable];

    /// The fastest that this machine has.
    pub fn detect() -> Self {
        Self::ALL.into_iter().find(|isa| isa.is_available()).unwrap_or(Isa::Portable)
    }

    /// Whether this machine has it.
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && Isa::Avx2.is_available()
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx512 | Isa::Avx2 => false,
            Isa::Portable => true,
        }
    }

    /// `avx512`, `avx2` or `portable`.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Avx512 => "avx512",
            Isa::Avx2 => "avx2",
            Isa::Portable => "portable",
        }
    }
}

/// How a machine sums products of bytes; goes with an [`Isa`] and leaves the arithmetic of f32 alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteIsa {
    /// AVX-512 with VNNI: four products and their sum in one instruction, 16 sums at once.
    Vnni,
    /// AVX2 with the same instruction for 8 sums.
    AvxVnni,
    /// AVX2: bytes widened to 16 bits, which no product of two bytes leaves.
    Avx2,
    /// Whatever the compiler makes of arrays of 8.
    Portable,
}

impl ByteIsa {
    /// All, the fastest first.
    pub const ALL: [ByteIsa; 4] = [ByteIsa::Vnni, ByteIsa::AvxVnni, ByteIsa::Avx2, ByteIsa::Portable];

    /// The fastest that goes with `isa` on this machine.
    pub fn of(isa: Isa) -> Self {
        let fits = |bytes: &ByteIsa| bytes.goes_with(isa) && bytes.is_available();
        Self::ALL.into_iter().find(fits).unwrap_or(ByteIsa::Portable)
    }

    /// Whether the instructions stand beside those of `isa`.
    pub fn goes_with(self, isa: Isa) -> bool {
        match self {
            ByteIsa::Vnni => isa == Isa::Avx512,
            ByteIsa::AvxVnni | ByteIsa::Avx2 => isa != Isa::Portable,
            ByteIsa::Portable => true,
        }
    }

    /// Whether this machine has it.
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            ByteIsa::Vnni => Isa::Avx512.is_available() && is_x86_feature_detected!("avx512vnni"),
            #[cfg(target_arch = "x86_64")]
            ByteIsa::AvxVnni => Isa::Avx2.is_available() && is_x86_feature_detected!("avxvnni"),
            #[cfg(not(target_arch = "x86_64"))]
            ByteIsa::Vnni | ByteIsa::AvxVnni => false,
            ByteIsa::Avx2 => Isa::Avx2.is_available(),
            ByteIsa::Portable => true,
        }
    }

    /// `vnni`, `avx-vnni`, `avx2` or `portable`.
    pub fn name(self) -> &'static str {
        match self {
            ByteIsa::Vnni => "vnni",
            ByteIsa::AvxVnni => "avx-vnni",
            ByteIsa::Avx2 => "avx2",
            ByteIsa::Portable => "portable",
        }
    }
}

/// A vector of f32.
///
/// The methods of an implementation may run only where its instruction set is available, that is below `dispatch!`: they
/// are not `unsafe` because kernels consist of little else. The module is hidden from the crate's users.
pub trait Simd: Copy {
    /// Numbers in a vector.
    const LANES: usize;

    /// The same number in all lanes.
    fn splat(x: f32) -> Self;
    /// `LANES` numbers.
    ///
    /// # Safety
    /// They are readable.
    unsafe fn load(from: *const f32) -> Self;
    /// The first `count <= LANES` numbers; zero in the other lanes.
    ///
    /// # Safety
    /// They are readable.
    unsafe fn load_partial(from: *const f32, count: usize) -> Self;
    /// `LANES` numbers in bf16.
    ///
    /// # Safety
    /// They are readable.
    unsafe fn load_bf16(from: *const u16) -> Self;
    /// Writes all lanes.
    ///
    /// # Safety
    /// `LANES` numbers are writable.
    unsafe fn store(self, to: *mut f32);
    /// Writes the first `count <= LANES` lanes.
    ///
    /// # Safety
    /// They are writable.
    unsafe fn store_partial(self, to: *mut f32, count: usize);
    /// `self + other`
    fn add(self, other: Self) -> Self;
    /// `self - other`
    fn sub(self, other: Self) -> Self;
    /// `self * other`
    fn mul(self, other: Self) -> Self;
    /// `self / other`
    fn div(self, other: Self) -> Self;
    /// `1 / self` within a unit in the last place; 0 where that is below the smallest normal number.
    #[inline(always)]
    fn reciprocal(self) -> Self {
        Self::splat(1.0).div(self)
    }
    /// `self * factor + term`, with one rounding where the processor has it.
    fn mul_add(self, factor: Self, term: Self) -> Self;
    /// The larger; `other` if one is not a number.
    fn max(self, other: Self) -> Self;
    /// The smaller; `other` if one is not a number.
    fn min(self, other: Self) -> Self;
    /// Square root.
    fn sqrt(self) -> Self;
    /// To the nearest whole number, ties to even.
    fn round(self) -> Self;
    /// `yes` where `self > bound`, else `no`.
    fn if_greater(self, bound: Self, yes: Self, no: Self) -> Self;
    /// `self * 2^n` for whole `n` in -126..=127.
    fn scale_by_power_of_two(self, n: Self) -> Self;
    /// Sum of the lanes, in an order that is fixed for the type.
    fn sum(self) -> f32;
    /// Transposes a square of `LANES` rows, `from_step` and `to_step` floats apart.
    ///
    /// # Safety
    /// All rows are readable or writable.
    unsafe fn transpose(from: *const f32, from_step: usize, to: *mut f32, to_step: usize);

    /// Asks for a cache line that will be written.
    #[inline(always)]
    fn prefetch_write(_: *const f32) {}

    /// All lanes zero.
    #[inline(always)]
    fn zero() -> Self {
        Self::splat(0.0)
    }
}

/// Calls an `#[inline(always)]` function generic over [`Simd`], compiled for the instruction set `isa`.
///
/// `dispatch!(isa, kernel(a: TypeA, b: TypeB))`, with `-> Type` for a result and `kernel[3, true]` for further generic
/// arguments, which come after the vector type.
macro_rules! dispatch {
    ($isa:expr, $kernel:ident $([$($generic:tt),*])? ($($name:ident : $type:ty),* $(,)?) $(-> $result:ty)?) => {
        match $isa {
            #[cfg(target_arch = "x86_64")]
            $crate::simd::Isa::Avx512 => {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                #[allow(clippy::too_many_arguments)] // as many as the kernel has
                fn instance($($name: $type),*) $(-> $result)? {
                    $kernel::<$crate::simd::Avx512 $($(, $generic)*)?>($($name),*)
                }
                // SAFETY: a value of `Isa` reaches kernels through `Pool`, which has checked that it is available.
                unsafe { instance($($name),*) }
            }
            #[cfg(target_arch = "x86_64")]
            $crate::simd::Isa::Avx2 => {
                #[target_feature(enable = "avx2,fma")]
                #[allow(clippy::too_many_arguments)] // as many as the kernel has
                fn instance($($name: $type),*) $(-> $result)? {
                    $kernel::<$crate::simd::Avx2 $($(, $generic)*)?>($($name),*)
                }
                // SAFETY: as above.
                unsafe { instance($($name),*) }
            }
            _ => $kernel::<$crate::simd::Portable $($(, $generic)*)?>($($name),*),
        }
    };
}
#[allow(unused_imports)] // in this file the macro is known by its place
pub(crate) use dispatch;

/// Eight lanes as an array.
#[derive(Clone, Copy)]
pub struct Portable(pub(crate) [f32; 8]);

macro_rules! lanewise {
    ($self:ident, $lane:ident => $value:expr) => {{
        let mut result = $self.0;
        let mut $lane = 0;
        while $lane < 8 {
            result[$lane] = $value;
            $lane += 1;
        }
        Portable(result)
    }};
}

impl Simd for Portable {
    const LANES: usize = 8;

    #[inline(always)]
    fn splat(x: f32) -> Self {
        Self([x; 8])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: readable by the caller's promise.
        Self(unsafe { from.cast::<[f32; 8]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn load_partial(from: *const f32, count: usize) -> Self {
        let mut lanes = [0.0; 8];
        // SAFETY: readable by the caller's promise; `count <= 8`.
        unsafe { std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), count) };
        Self(lanes)
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Self {
        // SAFETY: readable by the caller's promise.
        let bits = unsafe { from.cast::<[u16; 8]>().read_unaligned() };
        Self(bits.map(|bits| f32::from_bits(u32::from(bits) << 16)))
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: writable by the caller's promise.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn store_partial(self, to: *mut f32, count: usize) {
        // SAFETY: writable by the caller's promise; `count <= 8`.
        unsafe { std::ptr::copy_nonoverlapping(self.0.as_ptr(), to, count) }
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        lanewise!(self, i => self.0[i] + other.0[i])
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        lanewise!(self, i => self.0[i] - other.0[i])
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        lanewise!(self, i => self.0[i] * other.0[i])
    }
    #[inline(always)]
    fn div(self, other: Self) -> Self {
        lanewise!(self, i => self.0[i] / other.0[i])
    }
    #[inline(always)]
    fn mul_add(self, factor: Self, term: Self) -> Self {
        lanewise!(self, i => self.0[i] * factor.0[i] + term.0[i])
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        lanewise!(self, i => if self.0[i] > other.0[i] { self.0[i] } else { other.0[i] })
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        lanewise!(self, i => if self.0[i] < other.0[i] { self.0[i] } else { other.0[i] })
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        lanewise!(self, i => self.0[i].sqrt())
    }
    #[inline(always)]
    fn round(self) -> Self {
        lanewise!(self, i => self.0[i].round_ties_even())
    }
    #[inline(always)]
    fn if_greater(self, bound: Self, yes: Self, no: Self) -> Self {
        lanewise!(self, i => if self.0[i] > bound.0[i] { yes.0[i] } else { no.0[i] })
    }
    #[inline(always)]
    fn scale_by_power_of_two(self, n: Self) -> Self {
        lanewise!(self, i => self.0[i] * f32::from_bits(((n.0[i] as i32 + 127) << 23) as u32))
    }
    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_step: usize, to: *mut f32, to_step: usize) {
        for row in 0..8 {
            for column in 0..8 {
                // SAFETY: inside both squares.
                unsafe { *to.add(column * to_step + row) = *from.add(row * from_step + column) };
            }
        }
    }
    #[inline(always)]
    fn sum(self) -> f32 {
        let x = self.0;
        ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]))
    }
}

#[cfg(target_arch = "x86_64")]
pub use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    //! The two widths of x86-64.
    //!
    //! Every `unsafe` block here has one reason: an intrinsic needs its instruction set, which the contract of
    //! [`Simd`] promises, and memory that the method's own contract promises.
    use super::Simd;
    use std::arch::x86_64::*;

    /// Sixteen lanes.
    #[derive(Clone, Copy)]
    #[repr(transparent)]
    pub struct Avx512(pub(crate) __m512);

    /// The first `count` lanes.
    #[inline(always)]
    fn mask16(count: usize) -> __mmask16 {
        ((1_u32 << count) - 1) as __mmask16
    }

    impl Simd for Avx512 {
        const LANES: usize = 16;

        #[inline(always)]
        fn splat(x: f32) -> Self {
            Self(unsafe { _mm512_set1_ps(x) })
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            Self(unsafe { _mm512_loadu_ps(from) })
        }
        #[inline(always)]
        unsafe fn load_partial(from: *const f32, count: usize) -> Self {
            Self(unsafe { _mm512_maskz_loadu_ps(mask16(count), from) })
        }
        #[inline(always)]
        unsafe fn load_bf16(from: *const u16) -> Self {
            unsafe {
                let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
                Self(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits)))
            }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            unsafe { _mm512_storeu_ps(to, self.0) }
        }
        #[inline(always)]
        unsafe fn store_partial(self, to: *mut f32, count: usize) {
            unsafe { _mm512_mask_storeu_ps(to, mask16(count), self.0) }
        }
        #[inline(always)]
        fn add(self, other: Self) -> Self {
            Self(unsafe { _mm512_add_ps(self.0, other.0) })
        }
        #[inline(always)]
        fn sub(self, other: Self) -> Self {
            Self(unsafe { _mm512_sub_ps(self.0, other.0) })
        }
        #[inline(always)]
        fn mul(self, other: Self) -> Self {
            Self(unsafe { _mm512_mul_ps(self.0, other.0) })
        }
        #[inline(always)]
        fn div(self, other: Self) -> Self {
            Self(unsafe { _mm512_div_ps(self.0, other.0) })
        }
        #[inline(always)]
        fn reciprocal(self) -> Self {
            unsafe {
                // Exact to 14 bits, then to twice as many by a step of Newton's.
                let near = _mm512_rcp14_ps(self.0);
                let error = _mm512_fnmadd_ps(self.0, near, _mm512_set1_ps(1.0));
                Self(_mm512_fmadd_ps(near, error, near))
            }
        }
        #[inline(always)]
        fn mul_add(self, factor: Self, term: Self) -> Self {
            Self(unsafe { _mm512_fmadd_ps(self.0, factor.0, term.0) })
        }
        #[inline(always)]
        fn max(self, other: Self) -> Self {
            Self(unsafe { _mm512_max_ps(self.0, other.0) })
        }
        #[inline(always)]
        fn min(self, other: Self) -> Self {
            Self(unsafe { _mm512_min_ps(self.0, other.0) })
        }
        #[inline(always)]
        fn sqrt(self) -> Self {
            Self(unsafe { _mm512_sqrt_ps(self.0) })
        }
        #[inline(always)]
        fn round(self) -> Self {
            Self(unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0) })
        }
        #[inline(always)]
        fn if_greater(self, bound: Self, yes: Self, no: Self) -> Self {
            Self(unsafe {
                let greater = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(self.0, bound.0);
                _mm512_mask_blend_ps(greater, no.0, yes.0)
            })
        }
        #[inline(always)]
        fn scale_by_power_of_two(self, n: Self) -> Self {
            Self(unsafe { _mm512_scalef_ps(self.0, n.0) })
        }
        #[inline(always)]
        fn sum(self) -> f32 {
            unsafe { _mm512_reduce_add_ps(self.0) }
        }
        #[inline(always)]
        fn prefetch_write(line: *const f32) {
            unsafe { _mm_prefetch::<_MM_HINT_ET0>(line.cast()) }
        }
        #[inline(always)]
        unsafe fn transpose(from: *const f32, from_step: usize, to: *mut f32, to_step: usize) {
            unsafe {
                let mut fours = [_mm512_setzero_ps(); 16];
                for four in 0..4 {
                    let start = from.add(4 * four * from_step);
                    let (a, b) = (_mm512_loadu_ps(start), _mm512_loadu_ps(start.add(from_step)));
                    let (c, d) = (
                        _mm512_loadu_ps(start.add(2 * from_step)),
                        _mm512_loadu_ps(start.add(3 * from_step)),
                    );
                    let (low, high) = (_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
                    let (low2, high2) = (_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
                    fours[4 * four] = pairs_low(low, low2);
                    fours[4 * four + 1] = pairs_high(low, low2);
                    fours[4 * four + 2] = pairs_low(high, high2);
                    fours[4 * four + 3] = pairs_high(high, high2);
                }
                // Vector `4 f + j` now has, in its quarter `q`, column `4 q + j` of rows `4 f..4 f + 4`.
                for j in 0..4 {
                    let even = _mm512_shuffle_f32x4::<0x88>(fours[j], fours[4 + j]);
                    let odd = _mm512_shuffle_f32x4::<0xdd>(fours[j], fours[4 + j]);
                    let even2 = _mm512_shuffle_f32x4::<0x88>(fours[8 + j], fours[12 + j]);
                    let odd2 = _mm512_shuffle_f32x4::<0xdd>(fours[8 + j], fours[12 + j]);
                    _mm512_storeu_ps(to.add(j * to_step), _mm512_shuffle_f32x4::<0x88>(even, even2));
                    _mm512_storeu_ps(to.add((4 + j) * to_step), _mm512_shuffle_f32x4::<0x88>(odd, odd2));
                    _mm512_storeu_ps(to.add((8 + j) * to_step), _mm512_shuffle_f32x4::<0xdd>(even, even2));
                    _mm512_storeu_ps(to.add((12 + j) * to_step), _mm512_shuffle_f32x4::<0xdd>(odd, odd2));
                }
            }
        }
    }

    /// The lower pairs of both, by quarters.
    #[inline(always)]
    unsafe fn pairs_low(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b))) }
    }

    /// The upper pairs of both, by quarters.
    #[inline(always)]
    unsafe fn pairs_high(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b))) }
    }

    /// Eight lanes with fused multiply-add.
    #[derive(Clone, Copy)]
    #[repr(transparent)]
    pub struct Avx2(pub(crate) __m256);

    /// The first `count` lanes.
    #[inline(always)]
    fn mask8(count: usize) -> __m256i {
        static WINDOW: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
        debug_assert!(count <= 8);
        unsafe { _mm256_loadu_si256(WINDOW.as_ptr().wrapping_add(8 - count).cast()) }
    }

    impl Simd for Avx2 {
        const LANES: usize = 8;

        #[inline(always)]
        fn splat(x: f32) -> Self {
            Self(unsafe { _mm256_set1_ps(x) })
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            Self(unsafe { _mm256_loadu_ps(from) })
        }
        #[inline(always)]
        unsafe fn load_partial(from: *const f32, count: usize) -> Self {
            Self(unsafe { _mm256_maskload_ps(from, mask8(count)) })
        }
        #[inline(always)]
        unsafe fn load_bf16(from: *const u16) -> Self {
            unsafe {
                let bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
                Self(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits)))
            }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            unsafe { _mm256_storeu_ps(to, self.0) }
        }
        #[inline(always)]
        unsafe fn store_partial(self, to: *mut f32, count: usize) {
            unsafe { _mm256_maskstore_ps(to, mask8(count), self.0) }
        }
        #[inline(always)]
        fn add(self, other: Self) -> Self {
            Self(unsafe { _mm256_add_ps(self.0, other.0) })
        }
        #[inline(always)]
        fn sub(self, other: Self) -> Self {
            Self(unsafe { _mm256_sub_ps(self.0, other.0) })
        }
        #[inline(always)]
        fn mul(self, other: Self) -> Self {
            Self(unsafe { _mm256_mul_ps(self.0, other.0) })
        }
        #[inline(always)]
        fn div(self, other: Self) -> Self {
            Self(unsafe { _mm256_div_ps(self.0, other.0) })
        }
        #[inline(always)]
        fn mul_add(self, factor: Self, term: Self) -> Self {
            Self(unsafe { _mm256_fmadd_ps(self.0, factor.0, term.0) })
        }
        #[inline(always)]
        fn max(self, other: Self) -> Self {
            Self(unsafe { _mm256_max_ps(self.0, other.0) })
        }
        #[inline(always)]
        fn min(self, other: Self) -> Self {
            Self(unsafe { _mm256_min_ps(self.0, other.0) })
        }
        #[inline(always)]
        fn sqrt(self) -> Self {
            Self(unsafe { _mm256_sqrt_ps(self.0) })
        }
        #[inline(always)]
        fn prefetch_write(line: *const f32) {
            unsafe { _mm_prefetch::<_MM_HINT_ET0>(line.cast()) }
        }
        #[inline(always)]
        fn round(self) -> Self {
            Self(unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0) })
        }
        #[inline(always)]
        fn if_greater(self, bound: Self, yes: Self, no: Self) -> Self {
            Self(unsafe {
                let greater = _mm256_cmp_ps::<_CMP_GT_OQ>(self.0, bound.0);
                _mm256_blendv_ps(no.0, yes.0, greater)
            })
        }
        #[inline(always)]
        fn scale_by_power_of_two(self, n: Self) -> Self {
            Self(unsafe {
                let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n.0), _mm256_set1_epi32(127));
                _mm256_mul_ps(self.0, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent)))
            })
        }
        #[inline(always)]
        unsafe fn transpose(from: *const f32, from_step: usize, to: *mut f32, to_step: usize) {
            unsafe {
                let mut fours = [_mm256_setzero_ps(); 8];
                for four in 0..2 {
                    let start = from.add(4 * four * from_step);
                    let (a, b) = (_mm256_loadu_ps(start), _mm256_loadu_ps(start.add(from_step)));
                    let (c, d) = (
                        _mm256_loadu_ps(start.add(2 * from_step)),
                        _mm256_loadu_ps(start.add(3 * from_step)),
                    );
                    let (low, high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
                    let (low2, high2) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
                    fours[4 * four] = _mm256_shuffle_ps::<0x44>(low, low2);
                    fours[4 * four + 1] = _mm256_shuffle_ps::<0xee>(low, low2);
                    fours[4 * four + 2] = _mm256_shuffle_ps::<0x44>(high, high2);
                    fours[4 * four + 3] = _mm256_shuffle_ps::<0xee>(high, high2);
                }
                for j in 0..4 {
                    let (first, second) = (fours[j], fours[4 + j]);
                    _mm256_storeu_ps(to.add(j * to_step), _mm256_permute2f128_ps::<0x20>(first, second));
                    _mm256_storeu_ps(
                        to.add((4 + j) * to_step),
                        _mm256_permute2f128_ps::<0x31>(first, second),
                    );
                }
            }
        }
        #[inline(always)]
        fn sum(self) -> f32 {
            let mut x = [0.0_f32; 8];
            unsafe { _mm256_storeu_ps(x.as_mut_ptr(), self.0) };
            ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]))
        }
    }
}

/// `e^x` within 2 units in the last place for `x` in -87..88; beyond, the value at the bound.
#[inline(always)]
pub fn exp<V: Simd>(x: V) -> V {
    let x = x.max(V::splat(-87.0)).min(V::splat(88.0));
    let n = x.mul(V::splat(std::f32::consts::LOG2_E)).round();
    // ln 2 in two parts, the first with few digits, so that `x - n ln 2` is exact to the last place.
    let r = n.mul_add(V::splat(-0.693_359_4), x);
    let r = n.mul_add(V::splat(2.121_944_4e-4), r);
    // The rest of the exponential series on |r| <= ln 2 / 2, coefficients fitted to the interval (Cephes).
    let mut sum = V::splat(1.987_569_1e-4);
    sum = sum.mul_add(r, V::splat(1.398_2e-3));
    sum = sum.mul_add(r, V::splat(8.333_452e-3));
    sum = sum.mul_add(r, V::splat(4.166_579_6e-2));
    sum = sum.mul_add(r, V::splat(0.166_666_65));
    sum = sum.mul_add(r, V::splat(0.5));
    sum = sum.mul_add(r.mul(r), r.add(V::splat(1.0)));
    sum.scale_by_power_of_two(n)
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub fn sigmoid<V: Simd>(x: V) -> V {
    V::splat(1.0).add(exp(V::zero().sub(x))).reciprocal()
}

/// Value of an activation.
#[inline(always)]
pub fn activate<V: Simd>(activation: models::Activation, x: V) -> V {
    use models::Activation as A;
    // The operands stand so that what is not a number stays so: a broken network must not look sound.
    let relu6 = |x: V| V::splat(6.0).min(V::zero().max(x));
    let three = V::splat(3.0);
    match activation {
        A::Relu => V::zero().max(x),
        A::Relu6 => relu6(x),
        A::LeakyRelu(slope) => x.if_greater(V::zero(), x, x.mul(V::splat(slope))),
        A::Silu => x.mul(sigmoid(x)),
        A::HardSwish => x.mul(relu6(x.add(three))).mul(V::splat(1.0 / 6.0)),
        A::HardSigmoid => relu6(x.add(three)).mul(V::splat(1.0 / 6.0)),
        A::Sigmoid => sigmoid(x),
    }
}

/// Replaces every element of `x` by `f` of it.
#[inline(always)]
pub fn map_in_place<V: Simd>(x: &mut [f32], f: impl Fn(V) -> V) {
    let start = x.as_mut_ptr();
    let whole = x.len() - x.len() % V::LANES;
    let mut i = 0;
    while i < whole {
        // SAFETY: `i + LANES <= len`.
        unsafe { f(V::load(start.add(i))).store(start.add(i)) };
        i += V::LANES;
    }
    let rest = x.len() - whole;
    if rest > 0 {
        // SAFETY: `rest` elements remain.
        unsafe { f(V::load_partial(start.add(i), rest)).store_partial(start.add(i), rest) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every method on numbers with known answers, written to `out` by lane.
    #[inline(always)]
    fn methods_kernel<V: Simd>(out: &mut Vec<Vec<f32>>) {
        let numbers: Vec<f32> = (0..16).map(|i| i as f32 - 3.5).collect();
        // SAFETY: sixteen numbers are at least LANES.
        let x = unsafe { V::load(numbers.as_ptr()) };
        let two = V::splat(2.0);
        let three = V::splat(3.0);
        let results = [
            x.add(two),
            x.sub(two),
            x.mul(two),
            x.div(two),
            x.mul_add(two, three),
            x.max(two),
            x.min(two),
            x.mul(x).sqrt(),
            x.round(),
            x.if_greater(two, three, V::zero()),
            x.scale_by_power_of_two(three),
            V::splat(x.sum()),
        ];
        for result in results {
            let mut lanes = vec![0.0; V::LANES];
            // SAFETY: LANES are writable.
            unsafe { result.store(lanes.as_mut_ptr()) };
            out.push(lanes);
        }
    }

    fn methods(isa: Isa) -> Vec<Vec<f32>> {
        let mut out = Vec::new();
        let borrowed = &mut out;
        dispatch!(isa, methods_kernel(borrowed: &mut Vec<Vec<f32>>));
        out
    }

    #[test]
    fn methods_match_scalar_arithmetic() {
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            let found = methods(isa);
            let lanes = found[0].len();
            let x: Vec<f32> = (0..lanes).map(|i| i as f32 - 3.5).collect();
            let sum: f32 = x.iter().sum();
            let scalar: [&dyn Fn(f32) -> f32; 12] = [
                &|x| x + 2.0,
                &|x| x - 2.0,
                &|x| x * 2.0,
                &|x| x / 2.0,
                &|x| x * 2.0 + 3.0,
                &|x| x.max(2.0),
                &|x| x.min(2.0),
                &|x| x.abs(),
                &|x| x.round_ties_even(),
                &|x| if x > 2.0 { 3.0 } else { 0.0 },
                &|x| x * 8.0,
                &|_| sum,
            ];
            for (method, (found, scalar)) in found.iter().zip(scalar).enumerate() {
                let expected: Vec<f32> = x.iter().map(|&x| scalar(x)).collect();
                assert_eq!(found, &expected, "{} method {method}", isa.name());
            }
        }
    }

    #[inline(always)]
    fn partial_kernel<V: Simd>(from: &[f32], to: &mut [f32]) {
        // SAFETY: the test passes slices of at most LANES, of one length.
        unsafe { V::load_partial(from.as_ptr(), from.len()).store_partial(to.as_mut_ptr(), to.len()) }
    }

    #[test]
    fn partial_access_moves_the_counted_lanes_alone() {
        let numbers: Vec<f32> = (1..=16).map(|i| i as f32).collect();
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            let lanes = if isa == Isa::Avx512 { 16 } else { 8 };
            for count in 0..=lanes {
                let mut all = [0.0; 17];
                let (from, to) = (&numbers[..count], &mut all[..count]);
                dispatch!(isa, partial_kernel(from: &[f32], to: &mut [f32]));
                assert_eq!(all[..count], numbers[..count]);
                assert!(all[count..].iter().all(|&x| x == 0.0));
            }
        }
    }

    #[inline(always)]
    fn transpose_kernel<V: Simd>(from: &[f32], to: &mut [f32]) {
        // SAFETY: the test passes squares of 16, rows 16 and 18 apart.
        unsafe { V::transpose(from.as_ptr(), 16, to.as_mut_ptr(), 18) }
    }

    #[test]
    fn transposition_swaps_rows_and_columns() {
        let from: Vec<f32> = (0..256).map(|i| i as f32).collect();
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            let lanes = if isa == Isa::Avx512 { 16 } else { 8 };
            let mut all = vec![-1.0; 16 * 18];
            let (from, to) = (&from[..], &mut all[..]);
            dispatch!(isa, transpose_kernel(from: &[f32], to: &mut [f32]));
            for (place, found) in all.iter().enumerate() {
                let (row, column) = (place / 18, place % 18);
                let inside = row < lanes && column < lanes;
                assert_eq!(
                    *found,
                    if inside { (column * 16 + row) as f32 } else { -1.0 },
                    "{} {place}",
                    isa.name()
                );
            }
        }
    }

    #[inline(always)]
    fn activate_kernel<V: Simd>(activation: models::Activation, x: &mut [f32]) {
        map_in_place::<V>(x, |v| activate(activation, v));
    }

    #[inline(always)]
    fn exp_kernel<V: Simd>(x: &mut [f32]) {
        map_in_place::<V>(x, exp);
    }

    #[test]
    fn exp_is_exact_to_two_units() {
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            let x: Vec<f32> = (0..4001).map(|i| (i as f32 - 2000.0) * 0.043).collect();
            let mut found = x.clone();
            let slice = &mut found[..];
            dispatch!(isa, exp_kernel(slice: &mut [f32]));
            for (x, found) in x.iter().zip(&found) {
                let exact = f64::from(*x).exp();
                let error = (f64::from(*found) - exact).abs() / exact;
                assert!(error < 2.0 * f64::from(f32::EPSILON), "{} exp({x}) = {found}", isa.name());
            }
        }
    }

    #[inline(always)]
    fn reciprocal_kernel<V: Simd>(x: &mut [f32]) {
        map_in_place::<V>(x, |v| v.reciprocal());
    }

    #[test]
    fn reciprocals_are_exact_to_a_unit() {
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            let x: Vec<f32> =
                (0..4001).map(|i| 1.01_f32.powi(i - 2000) * 1.3).map(|x| x.clamp(1e-30, 1e37)).collect();
            let mut found = x.clone();
            let slice = &mut found[..];
            dispatch!(isa, reciprocal_kernel(slice: &mut [f32]));
            for (x, found) in x.iter().zip(&found) {
                let exact = 1.0 / f64::from(*x);
                let error = (f64::from(*found) - exact).abs() / exact;
                assert!(error < 1.01 * f64::from(f32::EPSILON), "{} 1 / {x} = {found}", isa.name());
            }
        }
    }

    #[test]
    fn activations_keep_what_is_not_a_number() {
        use models::Activation as A;
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            for activation in [A::Relu, A::Relu6, A::LeakyRelu(0.1), A::HardSwish, A::HardSigmoid] {
                let mut x = [f32::NAN; 19];
                let slice = &mut x[..];
                dispatch!(isa, activate_kernel(activation: models::Activation, slice: &mut [f32]));
                assert!(x.iter().all(|x| x.is_nan()), "{activation:?} {}", isa.name());
            }
        }
    }

    #[test]
    fn activations_match_their_definitions() {
        use models::Activation as A;
        let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
        let relu6 = |x: f32| x.clamp(0.0, 6.0);
        let cases: [(A, &dyn Fn(f32) -> f32); 7] = [
            (A::Relu, &|x| x.max(0.0)),
            (A::Relu6, &relu6),
            (A::LeakyRelu(0.1), &|x| if x > 0.0 { x } else { 0.1 * x }),
            (A::Silu, &|x| x * sigmoid(x)),
            (A::HardSwish, &|x| x * relu6(x + 3.0) / 6.0),
            (A::HardSigmoid, &|x| relu6(x + 3.0) / 6.0),
            (A::Sigmoid, &sigmoid),
        ];
        let x: Vec<f32> = (0..99).map(|i| (i as f32 - 49.0) * 0.21).collect();
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            for (activation, definition) in cases {
                let mut found = x.clone();
                let slice = &mut found[..];
                dispatch!(isa, activate_kernel(activation: models::Activation, slice: &mut [f32]));
                for (&x, found) in x.iter().zip(&found) {
                    let expected = definition(x);
                    assert!(
                        (found - expected).abs() <= 1e-6 * expected.abs().max(1.0),
                        "{activation:?}({x}) = {found}"
                    );
                }
            }
        }
    }
}

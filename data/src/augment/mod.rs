//! Views of a picture, on `u8` pixels in HWC order, RGB or gray.
//!
//! Each operation equals Pillow's within one level of 255 (fixtures beside the tests); which operations a view holds,
//! and how far they go, is the method's paper. New augmentation: a file, a variant of [`Augment`], an arm in [`apply`].
//!
//! Never here: a global random generator, normalization, a change of size.

pub mod affine;
pub mod color;
pub mod rand_augment;
pub mod simclr;
pub mod weak;

use crate::{Augment, PictureShape, random::Stream};

/// What is shown where a moved picture leaves its frame, and in the hole of cutout: mid-gray, as CoMatch's authors.
pub const FILL: u8 = 128;

/// Buffers that augmentations reuse; one per thread.
#[derive(Debug, Default)]
pub struct Scratch {
    bytes: Vec<u8>,
    resizer: picture::Resizer,
}

/// Writes one view of `picture` to `out`, both `[height, width, channels]`. `flip` says whether mirroring is allowed;
/// the values drawn from `random` do not depend on it.
pub fn apply(
    kind: Augment,
    picture: &[u8],
    shape: PictureShape,
    flip: bool,
    random: &mut Stream,
    scratch: &mut Scratch,
    out: &mut [u8],
) {
    match kind {
        Augment::None => out.copy_from_slice(picture),
        Augment::Weak => weak::weak(picture, shape, flip, random, out),
        Augment::Strong => {
            weak::weak(picture, shape, flip, random, out);
            rand_augment::rand_augment(out, shape, random, scratch);
            rand_augment::cutout(out, shape, random);
        }
        Augment::SimClr => simclr::simclr(picture, shape, flip, random, scratch, out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [Augment; 4] = [Augment::None, Augment::Weak, Augment::Strong, Augment::SimClr];

    fn picture(shape: PictureShape) -> Vec<u8> {
        (0..shape.bytes()).map(|n| (n * 37 % 251) as u8).collect()
    }

    /// Every kind on odd shapes, down to one pixel: no panic, same bytes for the same stream.
    #[test]
    fn every_view_works_on_every_shape_and_repeats() {
        for (height, width) in [(1, 1), (2, 3), (7, 5), (32, 32), (48, 31)] {
            for channels in [1, 3] {
                let shape = PictureShape { channels, height, width };
                let picture = picture(shape);
                let mut scratch = Scratch::default();
                for kind in KINDS {
                    for sample in 0..40 {
                        let mut view = |out: &mut [u8]| {
                            apply(
                                kind,
                                &picture,
                                shape,
                                true,
                                &mut Stream::new(&[9, sample]),
                                &mut scratch,
                                out,
                            );
                        };
                        let (mut once, mut twice) = (vec![0; shape.bytes()], vec![255; shape.bytes()]);
                        view(&mut once);
                        view(&mut twice);
                        assert_eq!(once, twice, "{kind:?} {shape:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn views_differ_between_streams_and_none_is_the_picture() {
        let shape = PictureShape { channels: 3, height: 32, width: 32 };
        let picture = picture(shape);
        let mut scratch = Scratch::default();
        for kind in KINDS {
            let mut different = std::collections::HashSet::new();
            for sample in 0..50 {
                let mut out = vec![0; shape.bytes()];
                apply(kind, &picture, shape, true, &mut Stream::new(&[sample]), &mut scratch, &mut out);
                different.insert(out);
            }
            match kind {
                Augment::None => assert!(different.contains(&picture) && different.len() == 1),
                kind => assert!(different.len() > 30, "{kind:?}: {} views of 50", different.len()),
            }
        }
    }
}

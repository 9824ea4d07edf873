//! Views of pictures against `data::augment::weak::move_by` and numbers worked by hand.

use super::*;

/// `data`'s `move_by` with a hole, pixel by pixel.
fn view(
    picture: &[u8],
    [height, width, channels]: [usize; 3],
    pick: &Pick,
    border: Border,
    fill: u8,
) -> Vec<u8> {
    let reflect = |place: i32, size: usize| {
        let last = size as i32 - 1;
        let folded = if last == 0 { 0 } else { place.rem_euclid(2 * last) };
        (if folded > last { 2 * last - folded } else { folded }) as usize
    };
    let mut out = Vec::new();
    for (y, x) in (0..height * width).map(|i| (i / width, i % width)) {
        let (down, right) = (y as i32 - pick.down, x as i32 - pick.right);
        let inside = (0..height as i32).contains(&down) && (0..width as i32).contains(&right);
        let hole = (pick.hole_rows[0]..pick.hole_rows[1]).contains(&(y as u32))
            && (pick.hole_columns[0]..pick.hole_columns[1]).contains(&(x as u32));
        let (row, column) = (reflect(down, height), reflect(right, width));
        let column = if pick.mirrored == 1 { width - 1 - column } else { column };
        for channel in 0..channels {
            out.push(match border {
                _ if hole => fill,
                Border::Fill(value) if !inside => value,
                _ => picture[(row * width + column) * channels + channel],
            });
        }
    }
    out
}

fn augment(lab: &Lab, sizes: [usize; 3], data: &[u8], picks: &[Pick], border: Border, fill: u8) -> Vec<u8> {
    let words: Vec<u32> = picks
        .iter()
        .flat_map(|pick| {
            let [down, right] = [pick.down, pick.right].map(|shift| shift as u32);
            let ([top, bottom], [left, end]) = (pick.hole_rows, pick.hole_columns);
            [pick.index, pick.mirrored, down, right, top, bottom, left, end]
        })
        .collect();
    let len = picks.len() * sizes.iter().product::<usize>();
    let (data, picks_at, y) = (lab.bytes(data, 0), lab.words(&words), lab.scratch(len));
    unsafe { lab.kernels.augment(sizes, data.at, picks_at.at, picks.len(), border, fill, y.at) }.unwrap();
    lab.read_bytes(&y, len)
}

#[test]
fn shifts_reflect_without_repeating_the_border_as_those_of_the_processor() {
    let lab = Lab::open(Format::F32, 0);
    let row = |mirrored: bool, right: i32, border: Border| {
        let pick = Pick { mirrored: u32::from(mirrored), right, ..Pick::default() };
        augment(&lab, [1, 5, 1], &[1, 2, 3, 4, 5], &[pick], border, 0)
    };
    // The first four are the numbers of data's own tests.
    assert_eq!(row(false, 2, Border::Reflect), [3, 2, 1, 2, 3]);
    assert_eq!(row(false, -1, Border::Reflect), [2, 3, 4, 5, 4]);
    assert_eq!(row(true, 0, Border::Reflect), [5, 4, 3, 2, 1]);
    assert_eq!(row(true, 1, Border::Reflect), [4, 5, 4, 3, 2]);
    assert_eq!(row(false, 2, Border::Fill(0)), [0, 0, 1, 2, 3]);
    assert_eq!(row(true, -2, Border::Fill(7)), [3, 2, 1, 7, 7]);
    let pick = Pick { mirrored: 1, down: 1, ..Pick::default() };
    let found = augment(&lab, [3, 1, 3], &[1, 2, 3, 4, 5, 6, 7, 8, 9], &[pick], Border::Reflect, 0);
    assert_eq!(found, [4, 5, 6, 1, 2, 3, 4, 5, 6]);
}

#[test]
fn every_pick_shows_its_picture_moved_and_cut() {
    let lab = Lab::open(Format::F32, 0);
    for sizes @ [height, width, channels] in [[8, 8, 3], [5, 7, 1], [1, 1, 3], [2, 9, 4]] {
        let len = height * width * channels;
        let data: Vec<u8> = (0..6 * len).map(|n| (n * 37 % 251) as u8).collect();
        let picks: Vec<Pick> = (0..20_u32)
            .map(|n| Pick {
                index: n * 5 % 6,
                mirrored: n % 2,
                down: n as i32 % 7 - 3,
                right: n as i32 % 5 - 2,
                hole_rows: [n % 3, if n % 4 == 0 { n % 3 } else { height as u32 }],
                hole_columns: [n % 2, (n % 5).min(width as u32)],
            })
            .collect();
        for border in [Border::Reflect, Border::Fill(0), Border::Fill(255)] {
            let found = augment(&lab, sizes, &data, &picks, border, 128);
            for (pick, found) in picks.iter().zip(found.chunks_exact(len)) {
                let picture = &data[pick.index as usize * len..][..len];
                assert_eq!(found, view(picture, sizes, pick, border, 128), "{sizes:?} {pick:?} {border:?}");
            }
        }
    }
}

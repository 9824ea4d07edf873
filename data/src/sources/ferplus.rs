//! `ferplus`: the faces of FER2013 (Goodfellow et al., 2013) with the labels of FER+ (Barsoum et al., 2016,
//! arXiv:1608.01041).
//!
//! `fer2013.csv` has the 48x48 gray pixels of each face as text, `fer2013new.csv` the votes of ten raters on the same
//! rows. The class is FER+'s majority: an emotion with a single vote counts as none, and what is left has to have more
//! than half of the votes. Faces without such a majority, and those that the raters call unknown or no face, are left
//! out and counted. Training, PublicTest and PrivateTest are training, validation and test part.
//!
//! Never here: downloads, FER2013's own labels, FER+'s label distributions.

use std::path::Path;

use picture::Picture;

use crate::{
    DataError, Result,
    listing::{Content, Item, Listing},
    sources::{OpenOptions, Place, Source},
};

const SIDE: usize = 48;
const PICTURES: &str = "fer2013.csv";
const VOTES: &str = "fer2013new.csv";

/// The columns of votes that are classes, in FER+'s order.
const EMOTIONS: [&str; 8] =
    ["neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt"];
/// The columns of votes that are none: not recognizable, and not a face.
const NO_EMOTIONS: [&str; 2] = ["unknown", "NF"];

/// The registry's line.
pub const SOURCE: Source = Source {
    name: "ferplus",
    about: "FER+, faces in 48x48 gray, 8 emotions by the majority of ten raters, as its authors' CSV files",
    place: Place::Path {
        holds: |path| path.join(VOTES).is_file(),
        list,
        folders: &["ferplus", "fer2013"],
        expected: "fer2013.csv (Kaggle's Challenges in Representation Learning) and fer2013new.csv beside it \
                   (https://github.com/microsoft/FERPlus)",
    },
};

fn list(folder: &Path, _: &OpenOptions) -> Result<Listing> {
    let (pictures, votes) = (folder.join(PICTURES), folder.join(VOTES));
    let read = |path: &Path| std::fs::read(path).map_err(|error| DataError::io(path, error));
    from_bytes(&pictures, &read(&pictures)?, &votes, &read(&votes)?)
}

/// The pictures that the bytes of the two files hold; the paths are only what errors call them.
///
/// # Errors
/// [`DataError::Malformed`] naming file and line for a missing column or row, pixels that are not 48x48 bytes, votes
/// that are no numbers, and parts that the two files do not agree on.
pub fn from_bytes(pictures: &Path, picture_bytes: &[u8], votes: &Path, vote_bytes: &[u8]) -> Result<Listing> {
    let pictures = Table::read(pictures, picture_bytes)?;
    let votes = Table::read(votes, vote_bytes)?;
    let columns = Columns::of(&pictures, &votes)?;
    let (mut picture_rows, mut vote_rows) = (pictures.rows(), votes.rows());
    let mut listing = Listing { classes: EMOTIONS.map(String::from).to_vec(), ..Listing::default() };
    let mut left_out = 0;
    loop {
        match (picture_rows.next(), vote_rows.next()) {
            (None, None) => break,
            (Some(picture), Some(vote)) => match columns.item(&picture, &vote)? {
                (part, Some(item)) => part.of(&mut listing).push(item),
                (_, None) => left_out += 1,
            },
            (Some(row), None) => return Err(row.unmatched(&votes)),
            (None, Some(row)) => return Err(row.unmatched(&pictures)),
        }
    }
    if left_out > 0 {
        listing.notes.push(format!(
            "{left_out} picture(s) left out: no emotion has more than half of the raters' votes"
        ));
    }
    Ok(listing)
}

/// The emotion that FER+'s majority rule gives to a row of votes, the last two of them for no emotion.
fn majority(votes: &[u32; EMOTIONS.len() + NO_EMOTIONS.len()]) -> Option<usize> {
    let counted = votes.map(|votes| if votes <= 1 { 0 } else { u64::from(votes) });
    let all: u64 = counted.iter().sum();
    // More than half: there is one such column at most.
    let winner = counted.iter().position(|&votes| 2 * votes > all)?;
    (winner < EMOTIONS.len()).then_some(winner)
}

/// A part of the set.
#[derive(Clone, Copy, PartialEq)]
enum Usage {
    Train,
    Validation,
    Test,
}

impl Usage {
    fn of(self, listing: &mut Listing) -> &mut Vec<Item> {
        match self {
            Self::Train => &mut listing.train,
            Self::Validation => &mut listing.val,
            Self::Test => &mut listing.test,
        }
    }
}

/// Where what is needed stands in the two files.
struct Columns {
    pixels: usize,
    picture_usage: usize,
    vote_usage: usize,
    votes: [usize; EMOTIONS.len() + NO_EMOTIONS.len()],
}

impl Columns {
    fn of(pictures: &Table<'_>, votes: &Table<'_>) -> Result<Self> {
        let mut places = [0; EMOTIONS.len() + NO_EMOTIONS.len()];
        for (place, name) in places.iter_mut().zip(EMOTIONS.iter().chain(&NO_EMOTIONS)) {
            *place = votes.column(name)?;
        }
        Ok(Self {
            pixels: pictures.column("pixels")?,
            picture_usage: pictures.column("Usage")?,
            vote_usage: votes.column("Usage")?,
            votes: places,
        })
    }

    /// The part of a row, and its picture if the raters agree on it.
    fn item(&self, picture: &Row<'_>, vote: &Row<'_>) -> Result<(Usage, Option<Item>)> {
        let usage = picture.usage(self.picture_usage)?;
        if vote.usage(self.vote_usage)? != usage {
            let expected = format!("`{}`, as {} says", picture.field(self.picture_usage)?, picture.place());
            return Err(vote.wrong(expected, format!("`{}`", vote.field(self.vote_usage)?)));
        }
        let mut votes = [0; EMOTIONS.len() + NO_EMOTIONS.len()];
        for (count, &column) in votes.iter_mut().zip(&self.votes) {
            *count = vote.count(column)?;
        }
        let Some(label) = majority(&votes) else { return Ok((usage, None)) };
        let pixels = picture.pixels(self.pixels)?;
        let content = Content::Decoded(Picture { width: SIDE, height: SIDE, channels: 1, pixels });
        Ok((usage, Some(Item { name: picture.place(), content, label: Some(label as u32) })))
    }
}

/// A file of comma-separated values with names of its columns on the first line.
struct Table<'a> {
    path: &'a Path,
    names: Vec<&'a str>,
    rest: &'a str,
}

impl<'a> Table<'a> {
    fn read(path: &'a Path, bytes: &'a [u8]) -> Result<Self> {
        let text = std::str::from_utf8(bytes).map_err(|error| DataError::Malformed {
            path: path.into(),
            expected: "comma-separated text".into(),
            found: format!("byte {} that is no UTF-8", error.valid_up_to()),
        })?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let (head, rest) = text.split_once('\n').unwrap_or((text, ""));
        Ok(Self { path, names: fields(head).collect(), rest })
    }

    fn column(&self, name: &str) -> Result<usize> {
        self.names.iter().position(|found| *found == name).ok_or_else(|| DataError::Malformed {
            path: self.path.into(),
            expected: format!("a column `{name}`"),
            found: format!("columns {}", excerpt(&self.names.join(", "))),
        })
    }

    /// The rows, empty lines left out.
    fn rows(&self) -> impl Iterator<Item = Row<'a>> {
        let path = self.path;
        let lines = self.rest.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        // Lines count from 1, and the first is the names'.
        lines.map(move |(index, line)| Row { path, line: index + 2, fields: fields(line).collect() })
    }
}

/// The fields of a line. None of these files' fields holds a comma; quotes around one are taken off.
fn fields(line: &str) -> impl Iterator<Item = &str> {
    line.split(',').map(|field| field.trim().trim_matches('"'))
}

struct Row<'a> {
    path: &'a Path,
    line: usize,
    fields: Vec<&'a str>,
}

impl<'a> Row<'a> {
    fn place(&self) -> String {
        format!("{}, line {}", self.path.display(), self.line)
    }

    fn field(&self, column: usize) -> Result<&'a str> {
        let short =
            || self.wrong(format!("at least {} values", column + 1), format!("{}", self.fields.len()));
        self.fields.get(column).copied().ok_or_else(short)
    }

    fn usage(&self, column: usize) -> Result<Usage> {
        match self.field(column)? {
            "Training" => Ok(Usage::Train),
            "PublicTest" => Ok(Usage::Validation),
            "PrivateTest" => Ok(Usage::Test),
            other => Err(self.wrong("Training, PublicTest or PrivateTest", format!("`{}`", excerpt(other)))),
        }
    }

    fn count(&self, column: usize) -> Result<u32> {
        let text = self.field(column)?;
        text.parse().map_err(|_| self.wrong("a number of votes", format!("`{}`", excerpt(text))))
    }

    fn pixels(&self, column: usize) -> Result<Vec<u8>> {
        let values = self.field(column)?.split_ascii_whitespace();
        let pixel = |text: &str| {
            text.parse().map_err(|_| self.wrong("pixels of 0 to 255", format!("`{}`", excerpt(text))))
        };
        let pixels = values.map(pixel).collect::<Result<Vec<u8>>>()?;
        if pixels.len() != SIDE * SIDE {
            let expected = format!("{} pixels, {SIDE}x{SIDE}", SIDE * SIDE);
            return Err(self.wrong(expected, pixels.len().to_string()));
        }
        Ok(pixels)
    }

    fn wrong(&self, expected: impl Into<String>, found: impl Into<String>) -> DataError {
        DataError::Malformed {
            path: self.path.into(),
            expected: format!("{} on line {}", expected.into(), self.line),
            found: found.into(),
        }
    }

    /// The row of one file that the other file has no match for.
    fn unmatched(&self, other: &Table<'_>) -> DataError {
        DataError::Malformed {
            path: other.path.into(),
            expected: format!("as many rows as {}", self.path.display()),
            found: format!("no row for its line {}: truncated, or another version", self.line),
        }
    }
}

fn excerpt(text: &str) -> String {
    text.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn majorities_as_the_authors_reader_has_them() {
        // The first rows of fer2013new.csv and what FER+'s own reader makes of them, by hand.
        let rows = [
            ([4, 0, 0, 1, 3, 2, 0, 0, 0, 0], None), // 4 of 9: single votes do not count, and no half
            ([6, 0, 1, 1, 0, 0, 0, 0, 2, 0], Some(0)),
            ([5, 0, 0, 3, 1, 0, 0, 0, 1, 0], Some(0)),
            ([4, 0, 0, 4, 1, 0, 0, 0, 1, 0], None), // a tie
            ([2, 0, 0, 8, 0, 0, 0, 0, 0, 0], Some(3)),
            ([0, 0, 6, 0, 0, 0, 4, 0, 0, 0], Some(2)),
            ([0, 0, 0, 0, 0, 0, 0, 0, 0, 10], None), // not a face
            ([0, 0, 0, 2, 0, 0, 0, 0, 8, 0], None),  // unknown
            ([1, 1, 1, 1, 1, 1, 1, 1, 1, 1], None),  // nothing but single votes
            ([5, 0, 0, 5, 0, 0, 0, 0, 0, 0], None),  // exactly half is no majority
        ];
        for (votes, expected) in rows {
            assert_eq!(majority(&votes), expected, "{votes:?}");
        }
    }
}

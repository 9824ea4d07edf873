//! What can be wrong with the bytes of a picture.

/// Bytes that are no picture for us. Every variant is the sender's to mend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PictureError {
    /// No bytes at all.
    #[error("not a picture: no bytes")]
    Empty,
    /// Bytes that no known format starts with.
    #[error("not a picture: starts with {start}; expected JPEG, PNG, WebP, BMP or GIF")]
    NotAPicture {
        /// The first bytes, as text where they are text.
        start: String,
    },
    /// A picture of a known format that is not read here.
    #[error("{format} pictures are not read; expected JPEG, PNG, WebP, BMP or GIF")]
    Unsupported {
        /// Its format.
        format: String,
    },
    /// A picture that ends early.
    #[error("truncated: the {format} ends early, after {bytes} bytes")]
    Truncated {
        /// Its format.
        format: &'static str,
        /// How many bytes there are.
        bytes: usize,
    },
    /// More pixels than allowed; nothing was decoded.
    #[error("too large: {width}x{height} exceeds {limit} pixels")]
    TooLarge {
        /// Columns.
        width: u32,
        /// Rows.
        height: u32,
        /// Pixels allowed.
        limit: u64,
    },
    /// A picture whose content makes no sense.
    #[error("broken {format}: {reason}")]
    Broken {
        /// Its format.
        format: &'static str,
        /// What the decoder says.
        reason: String,
    },
}

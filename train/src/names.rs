//! Names that a user typed: which known one was probably meant.

/// The known name nearest to `typed`, if it is near enough to be a slip of the keyboard.
pub fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = 1 + typed.len() / 3;
    known
        .into_iter()
        .map(|name| (edits(typed, name), name))
        .filter(|(distance, name)| *distance <= limit || (typed.len() > 2 && name.starts_with(typed)))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// `; did you mean X?` or nothing.
pub(crate) fn suggestion<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(typed, known).map_or_else(String::new, |name| format!("; did you mean `{name}`?"))
}

/// Insertions, deletions and replacements between two names (Levenshtein).
fn edits(a: &str, b: &str) -> usize {
    let mut previous: Vec<usize> = (0..=b.chars().count()).collect();
    for (row, from) in a.chars().enumerate() {
        let mut current = vec![row + 1];
        for (column, to) in b.chars().enumerate() {
            let replaced = previous[column] + usize::from(from != to);
            current.push(replaced.min(previous[column + 1] + 1).min(current[column] + 1));
        }
        previous = current;
    }
    previous.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_name_and_nonsense_finds_none() {
        let known = ["supervised", "fixmatch", "mean-teacher", "comatch"];
        assert_eq!(nearest("fixmach", known), Some("fixmatch"));
        assert_eq!(nearest("meanteacher", known), Some("mean-teacher"));
        assert_eq!(nearest("fix", known), Some("fixmatch"));
        assert_eq!(nearest("zzz", known), None);
        assert_eq!(edits("kitten", "sitting"), 3);
    }
}

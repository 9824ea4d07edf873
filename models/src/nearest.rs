//! The registered name that somebody who mistyped most likely meant. Never decides for the user: it only suggests.

/// The candidate with the fewest edits (insert, delete, replace a letter) from `name`, if they are at most a third of
/// the longer word, or the first that begins with `name`.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = name.to_lowercase().replace('_', "-");
    let mut best: Option<(usize, &'a str)> = None;
    for candidate in candidates {
        let length = wanted.chars().count().max(candidate.chars().count());
        let begins = wanted.len() > 2 && candidate.starts_with(&wanted);
        let edits = if begins { 1 } else { distance(&wanted, candidate) };
        if edits * 3 <= length && best.is_none_or(|(fewest, _)| edits < fewest) {
            best = Some((edits, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// `; did you mean ...?` for the end of a message, or nothing.
pub fn suggestion<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    nearest(name, candidates).map_or_else(String::new, |found| format!("; did you mean `{found}`?"))
}

/// Levenshtein's distance, one row at a time.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for j in 0..b.len() {
            let replaced = diagonal + usize::from(letter != b[j]);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_worked_by_hand() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("resnet18", "resnet18"), 0);
    }

    #[test]
    fn a_slip_is_mended_and_nonsense_is_not() {
        let known = ["resnet18", "resnet50", "mobilenet-v3-large", "efficientnet-b0"];
        assert_eq!(nearest("resnt18", known), Some("resnet18"));
        assert_eq!(nearest("EfficientNet_B0", known), Some("efficientnet-b0"));
        assert_eq!(nearest("mobilenet", known), Some("mobilenet-v3-large"));
        assert_eq!(nearest("banana", known), None);
        assert_eq!(suggestion("banana", known), "");
    }
}

//! "Did you mean": the nearest known word to an unknown one.

/// Longer words are not compared: nobody meant a known one, and the comparison costs their product.
const MAX_WORD_LEN: usize = 64;

/// The candidate that `word` is most likely a misspelling of.
pub(super) fn nearest<'c>(
    word: &str,
    candidates: impl Iterator<Item = &'c str>,
) -> Option<&'c str> {
    if word.len() > MAX_WORD_LEN {
        return None;
    }
    // Half of the letters may be wrong; two in short words, where swaps are most of the typos.
    let bound = (word.chars().count() / 2).max(2);
    let distances = candidates
        .filter(|candidate| candidate.len() <= 2 * MAX_WORD_LEN)
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate));
    let (distance, candidate) = distances.min_by_key(|(distance, _)| *distance)?;
    (distance <= bound && distance < candidate.chars().count()).then_some(candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_finds_its_word_and_a_foreign_word_finds_none() {
        let known = ["address", "addresses", "key", "certificate"];
        assert_eq!(nearest("adress", known.into_iter()), Some("address"));
        assert_eq!(nearest("addressess", known.into_iter()), Some("addresses"));
        assert_eq!(nearest("kye", known.into_iter()), Some("key"));
        assert_eq!(nearest("ab", known.into_iter()), None);
        assert_eq!(nearest("timeout", known.into_iter()), None);
        assert_eq!(nearest(&"key".repeat(1000), known.into_iter()), None);
    }
}

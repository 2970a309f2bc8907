//! man/vm.conf.5 against the parser: no word of the language is missing there.

use config::Keyword;

const MANUAL: &str = include_str!("../../../man/vm.conf.5");

/// Reserved for what older versions had; no statement uses them.
const UNUSED: [&str; 3] = ["add", "id", "size"];

#[test]
fn every_word_of_the_language_is_in_the_manual() {
    let reserved = Keyword::ALL.iter().map(|keyword| keyword.text()).filter(|word| !UNUSED.contains(word));
    for word in reserved.chain(["initrd", "cmdline", "inet", "nat"]) {
        let marked = MANUAL
            .lines()
            .filter(|line| line.starts_with('.'))
            .any(|line| line.split([' ', '|', '(', ')']).any(|part| part == word));
        assert!(marked, "{word}");
    }
}

//! A row per clause: section, input, expected reason.

mod api_key;
mod api_key_timing;
pub(crate) mod certificate;
pub(crate) mod dpop;
mod jwt;
pub(crate) mod opaque;
pub(crate) mod status;

/// Every threat of the page has a row here, those apart that are about fetching keys (T12).
#[test]
fn every_threat_about_credentials_has_its_rows() {
    fn texts(folder: &std::path::Path, all: &mut String) {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            match entry.path() {
                path if path.is_dir() => texts(&path, all),
                path if path.ends_with("conformance/mod.rs") => {}
                path => all.push_str(&std::fs::read_to_string(path).unwrap()),
            }
        }
    }
    let mut all = String::new();
    texts(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite/conformance"), &mut all);
    let words: std::collections::BTreeSet<&str> = all.split(|c: char| !c.is_ascii_alphanumeric()).collect();
    for threat in (1..=36).filter(|threat| *threat != 12) {
        assert!(words.contains(format!("T{threat}").as_str()), "T{threat}");
    }
}

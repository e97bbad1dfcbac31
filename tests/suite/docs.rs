//! Documents that must say what the code says.

use std::path::Path;

use portreeve::core::policy::Reason;

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

#[test]
fn the_reasons_table_is_the_code() {
    let text = read("docs/reasons.md");
    let rows: Vec<_> = text.lines().filter(|line| line.starts_with("| `")).collect();
    let written: Vec<(String, u16)> = rows
        .iter()
        .map(|row| {
            let cells: Vec<_> = row.split('|').map(str::trim).collect();
            (cells[1].trim_matches('`').to_owned(), cells[2].parse().unwrap())
        })
        .collect();
    let known: Vec<_> = Reason::ALL.iter().map(|r| (r.code().to_owned(), r.status())).collect();
    assert_eq!(written, known);
}

#[test]
fn every_decision_record_is_numbered_once() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/decisions");
    let mut numbers: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap()[..4].parse::<u32>().unwrap())
        .collect();
    // Records made side by side have their numbers beforehand: a gap is one that is still under way.
    numbers.sort_unstable();
    assert!(numbers.windows(2).all(|pair| pair[0] != pair[1]), "a number twice: {numbers:?}");
    assert_eq!(numbers.first(), Some(&1));
}

/// The fenced YAML of a page, with what stands before it.
fn samples(page: &str) -> Vec<(String, String)> {
    let parts: Vec<_> = page.split("```").collect();
    let pairs = parts.chunks_exact(2).filter_map(|pair| Some((pair[0], pair[1].strip_prefix("yaml\n")?)));
    pairs.map(|(before, sample)| (before.to_owned(), sample.to_owned())).collect()
}

#[test]
fn the_configurations_of_the_guide_are_valid() {
    let folder = tempfile::tempdir().unwrap();
    let samples = samples(&read("docs/running.md"));
    for name in ["hub.yaml", "proxy.yaml"] {
        let named = |(before, _): &&(String, String)| before.contains(&format!("`{name}`"));
        let (_, sample) = samples.iter().find(named).expect("a sample");
        let file = folder.path().join(name);
        std::fs::write(&file, sample).unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let arguments = ["portreeve", "check", "--config", file.to_str().unwrap()];
        let exit = portreeve::cli::run_with(arguments, &mut out, &mut err);
        assert_eq!(exit.code(), 0, "{name}: {}", String::from_utf8_lossy(&err));
    }
}

#[test]
fn every_link_leads_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages: Vec<_> =
        ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"].map(|name| root.join(name)).into();
    for folder in ["docs", "docs/decisions"] {
        let entries = std::fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().path());
        pages.extend(entries.filter(|path| path.extension().is_some_and(|end| end == "md")));
    }
    for page in pages {
        let text = std::fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
            let path = link.split('#').next().unwrap_or_default();
            let there = path.is_empty() || link.contains("://") || page.parent().unwrap().join(path).exists();
            assert!(there, "{}: `{link}` leads nowhere", page.display());
        }
    }
}

/// A promise of the README that names a test by its path breaks when the test is renamed.
#[test]
fn every_test_that_a_promise_names_exists() {
    let text = read("README.md");
    let promises = text.split("## Promises").nth(1).unwrap().split("\n## ").next().unwrap();
    let mut named = 0;
    for name in promises.split('`').skip(1).step_by(2).filter(|name| name.starts_with("pipeline::")) {
        let (file, test) = name.split_once("::").unwrap();
        assert!(read(&format!("tests/suite/{file}.rs")).contains(&format!("fn {test}()")), "{name}");
        named += 1;
    }
    assert!(named > 2, "the table was read");
}

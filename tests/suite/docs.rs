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
    numbers.sort_unstable();
    let count = u32::try_from(numbers.len()).unwrap();
    assert_eq!(numbers, (1..=count).collect::<Vec<_>>(), "numbers run from 0001 without a gap");
}

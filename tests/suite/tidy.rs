//! The shape of the source, held by tests: who may use whom, what the core must not touch, which
//! room may see a foreign type, sizes, names, owners of TODOs, and no paths of a build machine.
//!
//! The rules read text, not syntax trees: comments and literals are blanked first ([`source`]), and
//! what is left is searched. Each rule is a function from one file to its complaints, and has a
//! test in `can_fail` that shows it can fail. Deliberately absent: anything clippy already checks.

mod can_fail;
mod source;

use std::fs;
use std::path::{Path, PathBuf};

use source::{Source, words};

/// Which rooms a room may use. A new room brings its row here, and a decision.
const ROOMS: &[(&str, &[&str])] = &[
    ("core", &[]),
    ("files", &[]),
    ("pipeline", &["core"]),
    ("wire", &["core"]),
    ("mtls", &["files", "core"]),
    ("outbound", &["mtls", "core"]),
    ("jwks", &["outbound", "core"]),
    ("pep", &["pipeline", "wire", "mtls", "outbound", "core", "telemetry"]),
    ("spool", &["wire", "core", "telemetry"]),
    ("state", &["files", "spool", "wire", "mtls", "core", "telemetry"]),
    ("sink", &["spool", "wire", "core", "telemetry"]),
    ("workload", &["wire", "mtls", "core"]),
    ("hub", &["files", "pipeline", "spool", "wire", "mtls", "outbound", "jwks", "core", "telemetry"]),
    ("config", &["core"]),
    ("admin", &["core", "telemetry"]),
    ("telemetry", &["core"]),
    (
        "app",
        &[
            "core",
            "files",
            "pipeline",
            "wire",
            "mtls",
            "outbound",
            "jwks",
            "pep",
            "spool",
            "state",
            "workload",
            "sink",
            "hub",
            "config",
            "admin",
            "telemetry",
        ],
    ),
    ("cli", &["app", "config", "spool", "wire", "core"]),
    ("main", &["cli", "app", "config"]),
    ("lib", &[]),
];

/// What `src/core` must not contain, outside comments and literals.
const NOT_IN_CORE: &[(&str, &str)] = &[
    ("async", "decide synchronously; the edge awaits"),
    (".await", "decide synchronously; the edge awaits"),
    ("tokio", "tasks belong to the edges"),
    ("std::fs", "read the file at an edge and pass its contents"),
    ("fs::", "read the file at an edge and pass its contents"),
    ("std::net::Tcp", "sockets belong to the edges"),
    ("std::net::Udp", "sockets belong to the edges"),
    ("std::os::unix::net", "sockets belong to the edges"),
    ("TcpStream", "sockets belong to the edges"),
    ("TcpListener", "sockets belong to the edges"),
    ("UdpSocket", "sockets belong to the edges"),
    ("UnixStream", "sockets belong to the edges"),
    ("UnixListener", "sockets belong to the edges"),
    ("UnixDatagram", "sockets belong to the edges"),
    ("SystemTime::now", "take the time as an argument"),
    ("Instant::now", "take the time as an argument"),
    ("rand::", "take random bytes or a key as an argument"),
    ("tracing", "put what is worth saying into the verdict"),
];

/// Crates whose types stay behind a border, and the path prefixes (below `src/`) they may appear in.
const BORDERS: &[(&[&str], &[&str])] = &[
    (&["cedar_policy"], &["core/policy/cedar.rs", "core/policy/cedar/"]),
    (&["prost", "prost_types", "tonic_prost"], PROTOBUF_MAY),
    (
        &["tonic", "tonic_health"],
        &["wire", "state", "hub", "pep", "app", "workload", "telemetry/traces/export"],
    ),
    (&["opentelemetry", "opentelemetry_otlp", "opentelemetry_sdk"], &["telemetry/traces/"]),
    (
        &["axum", "hyper", "hyper_util", "http", "http_body", "http_body_util"],
        &["pep", "hub", "admin", "cli", "outbound"],
    ),
];

/// Where generated protobuf types (`crate::wire::proto`) may appear.
const PROTOBUF_MAY: &[&str] = &["wire", "state", "hub", "pep/ext_authz", "spool", "sink"];

/// Lines of a file outside its tests.
const FILE_LINES: usize = 500;

/// Lines of a function, signature and closing brace included.
const FUNCTION_LINES: usize = 70;

/// File names that say the file has not been understood yet.
const EMPTY_NAMES: &[&str] = &["util", "utils", "common", "helper", "helpers", "misc"];

/// Directories that are not the repository's text.
const SKIPPED: &[&str] = &["target", ".git", "node_modules", ".venv"];

#[test]
fn rooms_use_only_what_the_table_allows() {
    hold(layering);
}

#[test]
fn core_stays_pure() {
    hold(purity);
}

#[test]
fn foreign_types_stay_behind_their_borders() {
    hold(borders);
}

#[test]
fn files_and_functions_stay_small() {
    hold(sizes);
}

#[test]
fn names_todos_and_exceptions_are_in_order() {
    hold(manners);
}

#[test]
fn no_text_names_a_build_machine() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut seen = 0;
    let mut complaints = Vec::new();
    for path in walk(root) {
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        seen += 1;
        let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        complaints.extend(machine_paths(&name, &text));
    }
    assert!(seen > 10, "only {seen} text files found under {}", root.display());
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// Applies one rule to every file of `src`, and fails with all complaints at once.
fn hold(rule: fn(&Source) -> Vec<String>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files: Vec<PathBuf> =
        walk(&root).into_iter().filter(|p| p.extension().is_some_and(|e| e == "rs")).collect();
    assert!(files.len() > 10, "only {} source files found under {}", files.len(), root.display());
    let mut complaints = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("source files are UTF-8");
        let name =
            file.strip_prefix(&root).expect("walked from the root").to_string_lossy().replace('\\', "/");
        complaints.extend(rule(&Source::new(&name, &text)));
    }
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("directory is readable") {
        let entry = entry.expect("directory entry is readable");
        let kind = entry.file_type().expect("directory entry has a type");
        if SKIPPED.iter().any(|s| entry.file_name() == *s) {
            continue;
        } else if kind.is_dir() {
            found.extend(walk(&entry.path()));
        } else if kind.is_file() {
            found.push(entry.path());
        }
    }
    found.sort();
    found
}

// ---- the rules ---------------------------------------------------------------

fn layering(file: &Source) -> Vec<String> {
    let Some((room, may)) = ROOMS.iter().find(|(room, _)| *room == file.room()) else {
        return vec![format!(
            "src/{}: `{}` is not a room; add its row to ROOMS, with a decision",
            file.name,
            file.room()
        )];
    };
    let own_paths = file.own_paths();
    let foreign =
        own_paths.iter().filter(|(_, segments)| segments[0] != *room && !may.contains(&segments[0].as_str()));
    let mut complaints: Vec<String> = foreign
        .map(|(at, segments)| {
            let used = &segments[0];
            let remedy = if ROOMS.iter().any(|(known, _)| known == used) {
                "let it come through a trait in `core`, wired in `app.rs`"
            } else {
                "name the room it lives in; a new room needs a row in ROOMS and a decision"
            };
            file.complain(*at, &format!("`{room}` may not use `{used}`: {remedy}"))
        })
        .collect();
    complaints.dedup();
    complaints
}

fn purity(file: &Source) -> Vec<String> {
    if file.room() != "core" {
        return Vec::new();
    }
    let mut complaints = Vec::new();
    let mut lines = Vec::new();
    for (word, remedy) in NOT_IN_CORE {
        for at in file.words(word) {
            if lines.contains(&file.line(at)) {
                continue;
            }
            lines.push(file.line(at));
            complaints.push(file.complain(at, &format!("`{word}` in the core: {remedy}")));
        }
    }
    complaints
}

fn borders(file: &Source) -> Vec<String> {
    let within = |places: &[&str]| {
        places.iter().any(|place| match file.name.strip_prefix(place) {
            Some(rest) => place.contains('/') || rest.starts_with('/') || rest == ".rs",
            None => false,
        })
    };
    let mut complaints = Vec::new();
    for (crates, places) in BORDERS {
        for name in crates.iter().filter(|_| !within(places)) {
            for at in file.external(name) {
                complaints.push(
                    file.complain(at, &format!("`{name}` stays in {}: convert there", places.join(", "))),
                );
            }
        }
    }
    for (at, segments) in file.own_paths() {
        if segments.starts_with(&["wire".to_owned(), "proto".to_owned()]) && !within(PROTOBUF_MAY) {
            complaints.push(file.complain(
                at,
                &format!("generated protobuf stays in {}: use the core type", PROTOBUF_MAY.join(", ")),
            ));
        }
    }
    complaints
}

fn sizes(file: &Source) -> Vec<String> {
    if file.name.ends_with("/tests.rs") {
        return Vec::new();
    }
    let tests = file.test_spans();
    let in_tests: usize = tests.iter().map(|span| file.line(span.end) - file.line(span.start) + 1).sum();
    let lines = file.text.lines().count().saturating_sub(in_tests);
    let mut complaints = Vec::new();
    if lines > FILE_LINES {
        complaints.push(format!(
            "src/{}: {lines} lines without tests, at most {FILE_LINES}: split it by idea",
            file.name
        ));
    }
    for (name, span) in file.functions() {
        let length = file.line(span.end) - file.line(span.start) + 1;
        if length > FUNCTION_LINES && !tests.iter().any(|test| test.contains(&span.start)) {
            complaints.push(file.complain(
                span.start,
                &format!("`fn {name}` has {length} lines, at most {FUNCTION_LINES}: split it by step"),
            ));
        }
    }
    complaints
}

fn manners(file: &Source) -> Vec<String> {
    let mut complaints = Vec::new();
    for part in file.name.trim_end_matches(".rs").split('/') {
        if EMPTY_NAMES.contains(&part) {
            complaints
                .push(format!("src/{}: `{part}` says nothing; name the file for what it holds", file.name));
        }
    }
    for at in words(&file.text, "TODO") {
        let owner = file.text[at + 4..].strip_prefix('(').and_then(|rest| rest.split_once(')'));
        let owned = owner.is_some_and(|(name, _)| {
            !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_#.".contains(c))
        });
        if !owned {
            complaints.push(file.complain(at, "a TODO has an owner: write `TODO(name): …`"));
        }
    }
    for (at, attribute) in file.attributes() {
        if words(attribute, "allow").iter().any(|i| attribute[i + 5..].trim_start().starts_with('(')) {
            complaints.push(file.complain(at, "`allow` is refused: write `#[expect(…, reason = \"…\")]`"));
        }
    }
    complaints
}

fn machine_paths(name: &str, text: &str) -> Vec<String> {
    let needles = [concat!("/", "work", "/"), concat!("/", "tmp", "/", "bash")];
    let mut complaints = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for needle in needles {
            let is_root =
                |at: usize| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-}*".contains(c));
            if line.match_indices(needle).any(|(at, _)| is_root(at)) {
                complaints.push(format!(
                    "{name}:{}: `{needle}` is a path of one machine: make it relative",
                    number + 1
                ));
            }
        }
    }
    complaints
}

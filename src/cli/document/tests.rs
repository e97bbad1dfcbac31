//! Documents, good and bad, row by row.

use super::*;

fn tenant() -> Name {
    Name::parse("default").expect("a name")
}

fn refused(text: &str, file: &str) -> String {
    let error = parse(text, Path::new(file), &tenant()).expect_err(text);
    error.to_string()
}

#[test]
fn several_documents_in_order_with_their_lines() {
    let text = "# first\nkind: identity\ntenant: demo\nname: ledger\nspec: { type: workload, end: 2027-05-01 }\n---\n\
                kind: resource\nname: orders\nspec:\n  routes:\n    - { path: \"/orders/**\", requires: \"orders:read\" }\n";
    let documents = parse(text, Path::new("records.yaml"), &tenant()).expect("documents");
    let seen: Vec<_> = documents
        .iter()
        .map(|d| (d.kind.as_str(), d.tenant.as_str(), d.name.as_str(), d.place.line))
        .collect();
    assert_eq!(seen, [("identity", "demo", "ledger", Some(2)), ("resource", "default", "orders", Some(7))]);
    assert_eq!(documents.first().map(|d| &d.spec), Some(&json!({ "type": "workload", "end": "2027-05-01" })));
    let route = documents.last().and_then(|d| d.spec.pointer("/routes/0/requires"));
    assert_eq!(route, Some(&json!("orders:read")));
}

#[test]
fn json_holds_one_or_a_list() {
    let one = r#"{"kind":"identity","name":"a","spec":{}}"#;
    for (text, count) in [(one.to_owned(), 1), (format!("[{one},{one}]"), 2), ("[]".to_owned(), 0)] {
        let documents = parse(&text, Path::new("r.json"), &tenant()).expect("documents");
        assert_eq!(documents.len(), count, "{text}");
    }
}

#[test]
fn faults_name_file_document_and_line() {
    let good = "kind: identity\nname: a\nspec: {}\n---\n";
    for (text, place, why) in [
        ("kind: thing\nname: a\nspec: {}\n", "r.yaml: document 2, line 5", "unknown kind `thing`"),
        ("kind: identity\nname: A\nspec: {}\n", "r.yaml: document 2, line 5", "`name`: malformed name `A`"),
        (
            "kind: identity\ntenant: A\nname: a\nspec: {}\n",
            "r.yaml: document 2, line 5",
            "`tenant`: malformed",
        ),
        ("kind: identity\nname: a\nspec: text\n", "r.yaml: document 2, line 5", "`spec`: expected a mapping"),
        ("kind: identity\nname: a\nextra: 1\nspec: {}\n", "r.yaml: document 2, line 7", "extra"),
        ("kind: identity\nname: a\n", "r.yaml: document 2", "spec"),
        ("kind: identity\nname: a\nname: b\nspec: {}\n", "r.yaml: document 2, line 7", "duplicate"),
        ("kind: [\n", "r.yaml: document 2", ""),
    ] {
        let message = refused(&format!("{good}{text}"), "r.yaml");
        assert!(message.starts_with(place), "{message}");
        assert!(message.contains(why), "{message}");
        assert!(!message.contains('\n'), "{message}");
    }
    for (text, place, why) in [
        ("{\"kind\":\n1}", "r.json: document 1, line 2", "string"),
        (r#"[{"kind":"identity","name":"a","spec":{}},{"kind":"x"}]"#, "r.json: document 2", "missing field"),
        ("", "r.json: document 1", "EOF"),
    ] {
        let message = refused(text, "r.json");
        assert!(message.starts_with(place) && message.contains(why), "{message}");
    }
}

#[test]
fn a_folder_is_read_by_name_and_keys_come_from_beside_the_document() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("written");
    write("b.yaml", "kind: issuer\nname: main\nspec: { iss: x, keys: { file: keys.jwks } }\n");
    write("a.json", r#"{"kind":"identity","name":"a","spec":{}}"#);
    write("notes.txt", "not a record");
    write("keys.jwks", r#"{"keys":[{"kty":"EC"}]}"#);
    let paths = [folder.path().to_owned()];
    let documents = load(&paths, &tenant()).expect("documents");
    assert_eq!(documents.iter().map(|d| d.name.as_str()).collect::<Vec<_>>(), ["a", "main"]);
    let keys = documents.last().and_then(|d| d.spec.get("keys"));
    assert_eq!(keys, Some(&json!({ "inline": { "keys": [{ "kty": "EC" }] } })));

    write("keys.jwks", r#"{"keys":[{"kty":"EC","d":"secret"}]}"#);
    let failure = load(&paths, &tenant()).expect_err("a private key");
    assert!(failure.message().contains("holds a private or secret key"), "{failure}");
    assert_eq!(failure.exit().code(), 3);

    write("b.yaml", "kind: identity\nname: a\nspec: {}\n");
    let failure = load(&paths, &tenant()).expect_err("twins");
    assert!(failure.message().contains("`a` of tenant `default` stands already at"), "{failure}");
}

#[test]
fn what_cannot_be_read_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    for path in [folder.path().to_owned(), folder.path().join("absent.yaml")] {
        let failure = load(std::slice::from_ref(&path), &tenant()).expect_err("nothing to read");
        assert!(failure.message().contains(&path.display().to_string()), "{failure}");
        assert_eq!(failure.exit().code(), 3);
    }
}

#[test]
fn a_fault_of_the_hub_is_placed_in_the_file() {
    let text = "kind: identity\nname: a\nspec: {}\n---\nkind: identity\nname: b\nspec: {}\n";
    let documents = parse(text, Path::new("r.yaml"), &tenant()).expect("documents");
    for (line, expected) in [
        ("documents[1].spec.type: missing", "r.yaml: document 2, line 5 (identity `b`): spec.type: missing"),
        ("documents[1]: no", "r.yaml: document 2, line 5 (identity `b`): no"),
        ("documents[2].spec: no", "documents[2].spec: no"),
        ("something else", "something else"),
    ] {
        assert_eq!(placed(line, &documents), expected);
    }
}

#[test]
fn many_documents_fit_in_one_file() {
    let text: String = (0..5000).map(|n| format!("---\nkind: identity\nname: n{n}\nspec: {{}}\n")).collect();
    assert_eq!(parse(&text, Path::new("r.yaml"), &tenant()).map(|d| d.len()), Ok(5000));
}

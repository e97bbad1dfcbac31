//! The mass-revocation guard from a shell: what is held, by whom it is let through, and how commands end.

use std::fs;
use std::process::Output;

use serde_json::{Value, json};

use super::Site;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// How a command ended, and what it said on standard output and error.
fn ended(output: &Output) -> (i32, String, String) {
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

/// The name of what a command said is held.
fn held_id(said: &str) -> String {
    let after = said.split("revocation approve ").nth(1).unwrap_or_else(|| panic!("nothing held: {said}"));
    after.split_whitespace().next().unwrap().to_owned()
}

#[test]
fn what_is_too_much_at_once_waits_for_another_principal() {
    let site = Site::new(([127, 0, 0, 1], 9).into());
    let file = site.folder.path().join("hub.yaml");
    let guarded = fs::read_to_string(&file).unwrap().replace(
        &format!("api: {{ address: \"{}\" }}", site.api),
        &format!(
            "api: {{ address: \"{}\", admins: [{{ name: night, token_file: night.token }}] }}\n\
             revocation: {{ guard: {{ count: 1, percent: 0, window: 1h }} }}",
            site.api
        ),
    );
    fs::write(&file, guarded).unwrap();
    let mut hub = site.start("hub");
    hub.says("the hub is running");
    site.apply_records();
    let third = site.folder.path().join("third.yaml");
    fs::write(&third, "kind: identity\nname: scan\nspec: { type: workload, environment: prod }\n").unwrap();
    site.command(&["apply", "-f", third.to_str().unwrap()]);
    let night = site.folder.path().join("hub/night.token");
    let as_night = |arguments: &[&str]| {
        let whole = [arguments, &["--token-file", night.to_str().unwrap()]].concat();
        ended(&site.output(&whole))
    };
    let run = |arguments: &[&str]| ended(&site.output(arguments));
    let listed = || -> Vec<Value> {
        let page = site.command(&["--output", "json", "revocation", "held"]);
        serde_json::from_str::<Value>(&page).unwrap()["items"].as_array().unwrap().clone()
    };
    let revocations = || -> usize {
        let page = site.command(&["--output", "json", "revocation", "list"]);
        let page: Value = serde_json::from_str(&page).unwrap();
        page.as_array().or(page["items"].as_array()).unwrap().len()
    };

    // One is nothing out of the ordinary; the second would be two within the window.
    assert_eq!(run(&["revoke", "identity", "ledger", "--reason", "left"]).0, 0);
    let (code, out, said) = run(&["revoke", "identity", "batch", "--reason", "left"]);
    assert_eq!((code, &*out), (1, ""), "{said}");
    assert!(said.contains("held for a second approval, nothing is revoked yet"), "{said}");
    assert!(said.contains("identity `batch`") && said.contains("as another principal"), "{said}");
    let id = held_id(&said);
    assert_eq!(revocations(), 1);
    let table = site.command(&["revocation", "held"]);
    assert!(table.contains(&id) && table.contains("held") && table.contains("admin"), "{table}");
    let first = &listed()[0];
    assert_eq!((&first["id"], &first["state"], &first["denied"]), (&json!(id), &json!("held"), &json!(2)));

    // Whoever asked is not another; whoever is, lets it through.
    let (code, _, said) = run(&["revocation", "approve", &id, "--reason", "mine"]);
    assert_eq!((code, revocations()), (1, 1), "{said}");
    assert!(said.contains("another"), "{said}");
    let (code, out, said) = as_night(&["revocation", "approve", &id, "--reason", "incident 42"]);
    assert_eq!((code, revocations()), (0, 2), "{said}");
    assert!(
        out.contains("committed as revision") && said.contains("portreeve fleet receipts"),
        "{out} {said}"
    );
    let done = &listed()[0];
    assert_eq!((&done["answered_by"], &done["state"]), (&json!("night"), &json!("released")));
    let (code, _, said) = as_night(&["revocation", "approve", &id, "--reason", "twice"]);
    assert_eq!((code, revocations()), (1, 2), "{said}");

    // As JSON: what failed is said the same way, on standard error.
    let (code, out, said) =
        run(&["--output", "json", "revoke", "identity", "scan", "--reason", "wrong", "--wait"]);
    assert_eq!((code, &*out), (1, ""), "{said}");
    let id = held_id(&said);
    let rejecting = ["--output", "json", "revocation", "reject", &id, "--reason", "wrong list"];
    let (code, out, said) = run(&rejecting);
    let answer: Value = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out} {said}"));
    assert_eq!((code, &answer["held"]["state"]), (0, &json!("rejected")), "{said}");
    assert_eq!(as_night(&["revocation", "approve", &id, "--reason", "late"]).0, 1);
    assert_eq!(revocations(), 2);

    // Alone, on record.
    let (code, out, said) = run(&["revoke", "identity", "scan", "--reason", "now", "--break-glass"]);
    assert_eq!((code, revocations()), (0, 3), "{said}");
    assert!(out.contains("revoked identity `scan`"), "{out}");
    let broken = listed().into_iter().find(|held| held["break_glass"] == json!(true)).expect("on record");
    assert_eq!((&broken["state"], &broken["requested_by"]), (&json!("released"), &json!("admin")));

    for (id, code) in [("h0000000000", 1), ("not/one", 3)] {
        assert_eq!(run(&["revocation", "reject", id, "--reason", "x"]).0, code, "{id}");
    }
    hub.stop();
}

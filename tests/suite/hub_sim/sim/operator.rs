//! The operator: makes records, changes, revokes, reinstates, and restores the store when it is lost.

use portreeve::core::id::{Name, Position};
use portreeve::core::identity::IdentityStatus;
use portreeve::hub::store::StateStore as _;
use serde_json::{Value, json};

use super::Broken;
use super::host::{MS, SECOND, WALL_START_US};
use super::hubs::{Answer, Asked};
use super::issuer;
use super::oracle::problem;
use super::truth::Token;
use super::world::{Then, World};

const TENANTS: [&str; 2] = ["alpha", "beta"];
const IDENTITIES: [&str; 4] = ["ledger", "batch", "report", "scan"];

impl World {
    /// Makes the first tenant, and waits until it is made.
    pub(crate) fn set_up(&mut self) {
        let documents = tenant("alpha");
        self.change("POST", "/v1/apply", json!({ "documents": documents }));
        self.run_until(SECOND);
        assert!(!self.truth.lock().now().identities.is_empty(), "the first records were refused");
        for identity in IDENTITIES {
            self.take_token("alpha", identity);
        }
    }

    fn take_token(&mut self, tenant: &str, identity: &str) {
        let (tenant, identity) = (Name::parse(tenant).unwrap(), Name::parse(identity).unwrap());
        let token = self.issue(&tenant, &identity);
        self.tokens.push(token);
    }

    fn change(&mut self, method: &str, path: &str, body: Value) {
        self.trace(format_args!("{method} {path}"));
        let hub = self.primary;
        self.step(hub);
        self.hubs[hub].ask(Asked::Change, method, path, Some(body));
    }

    /// A change was answered.
    pub(crate) fn changed(&mut self, answer: &Answer) {
        self.report.count(if answer.status < 300 { "change made" } else { "change refused" });
        if answer.status >= 300 {
            self.trace(format_args!("refused: {}", problem(&answer.body)));
        }
    }

    /// Does one thing or another.
    pub(crate) fn operate(&mut self) {
        let view = self.truth.lock().now();
        let everyone: Vec<_> = view.identities.keys().cloned().collect();
        if everyone.is_empty() {
            return;
        }
        let (tenant, identity) = self.random.pick(&everyone).clone();
        let status = view.identities[&(tenant.clone(), identity.clone())].status;
        let revoked = view.revocations_of(&tenant, &identity);
        let revocations = format!("/v1/tenants/{tenant}/revocations");
        match self.random.below(100) {
            0..25 => {
                self.report.count("revoke an identity");
                let body = json!({ "target": { "identity": identity.as_str() }, "reason": "sim" });
                self.change("POST", &revocations, body);
            }
            25..35 => {
                self.report.count("revoke what was issued before");
                let target = json!({ "identity": identity.as_str(), "issued_before": self.wall_text(0) });
                self.change("POST", &revocations, json!({ "target": target, "reason": "sim" }));
            }
            35..45 => {
                self.report.count("revoke a token");
                let of_it = |t: &&super::truth::Token| t.tenant == tenant;
                let Some(token) = self.tokens.iter().rfind(of_it).cloned() else { return };
                let target = json!({ "issuer": "main", "jti": token.jti, "expires": self.wall_text(3600) });
                self.change("POST", &revocations, json!({ "target": target, "reason": "sim" }));
            }
            45..55 if status == IdentityStatus::Active => {
                self.report.count("suspend");
                self.transition(&tenant, &identity, "suspended", &[]);
            }
            45..70 => {
                self.report.count("reinstate");
                self.transition(&tenant, &identity, "active", &revoked);
            }
            70..75 => self.take_token(tenant.as_str(), identity.as_str()),
            75..80 if everyone.iter().all(|(tenant, _)| tenant.as_str() == "alpha") => {
                self.report.count("make a tenant");
                self.change("POST", "/v1/apply", json!({ "documents": self::tenant(TENANTS[1]) }));
                self.take_token(TENANTS[1], IDENTITIES[0]);
            }
            _ => {
                self.report.count("edit");
                let entitled = self.random.percent(60);
                let document = document(
                    tenant.as_str(),
                    "identity",
                    identity.as_str(),
                    identity_spec(identity.as_str(), entitled, self.now),
                );
                self.change("POST", "/v1/apply", json!({ "documents": [document] }));
            }
        }
    }

    /// A token of an identity, issued now.
    pub(crate) fn issue(&self, tenant: &Name, identity: &Name) -> Token {
        // Tokens tell whole seconds.
        let issued_us = (WALL_START_US + self.now.cast_signed()).div_euclid(1_000_000) * 1_000_000;
        let jti = format!("{tenant}-{identity}-{}", self.now);
        Token { tenant: tenant.clone(), identity: identity.clone(), issued_us, jti }
    }

    fn transition(&mut self, tenant: &Name, identity: &Name, status: &str, lifts: &[Name]) {
        let path = format!("/v1/tenants/{tenant}/identity/{identity}/status");
        let lifts: Vec<_> = lifts.iter().map(Name::as_str).collect();
        self.change("POST", &path, json!({ "status": status, "reason": "sim", "lifts": lifts }));
    }

    /// True time, as people write it.
    fn wall_text(&self, later_s: i64) -> String {
        let us = WALL_START_US + self.now.cast_signed() + later_s * 1_000_000;
        jiff::Timestamp::from_microsecond(us).unwrap().to_string()
    }

    /// Keeps a copy of the store, and of what every enforcement point has on disk.
    pub(crate) fn back_up(&mut self) {
        let disk = &self.hubs[self.primary].disk;
        self.backups.push((disk.contents(), disk.head()));
        self.copy_edges();
    }

    /// Puts a backup back, without telling anybody.
    pub(crate) fn roll_back(&mut self) -> bool {
        let hub = self.primary;
        self.step(hub);
        let now = self.hubs[hub].disk.head();
        let older: Vec<_> =
            self.backups.iter().filter(|(_, at)| at.epoch == now.epoch && *at < now).cloned().collect();
        if older.is_empty() {
            return false;
        }
        let (contents, at) = self.random.pick(&older).clone();
        self.hubs[hub].kill(&self.net);
        self.hubs[hub].disk.put_back(contents);
        self.truth.lock().roll_back(self.now, at.revision);
        self.settled.clear();
        self.rolled_back = true;
        self.lost_members_until = self.now + 6 * SECOND;
        self.report.count("store rolled back");
        self.trace(format_args!("rolled back from {} to {}", now.revision, at.revision));
        true
    }

    /// Begins a new epoch on what the disk holds, as `portreeve hub restore` does.
    pub(crate) fn restore(&mut self, witnessed: Option<Position>) {
        let hub = self.primary;
        self.step(hub);
        self.hubs[hub].kill(&self.net);
        let clock = self.hubs[hub].host.clock.clone();
        let store = self.hubs[hub].disk.open_plainly(clock);
        let minted = store.mint_epoch(witnessed).unwrap();
        self.report.count("epoch minted");
        self.trace(format_args!("minted {} at {}", minted.position.epoch, minted.position.revision));
        self.rolled_back = false;
        self.backups.clear();
        self.forget_witness(hub);
        if self.options.broken == Some(Broken::ForgetsAtNewEpoch) {
            self.forget_edges();
        }
        self.start_hub(hub);
    }

    /// Enforcement points that lose what they hold, but not what they have put on record.
    fn forget_edges(&mut self) {
        for edge in 0..self.edges.len() {
            self.step(self.edges[edge].place);
            self.edges[edge].kill();
            std::fs::remove_dir_all(&self.edges[edge].settings.folder).ok();
            self.edges[edge].seen.clear();
            self.after(10, 500, Then::StartEdge(edge));
        }
    }

    /// What lies beside the store and would tell of its rollback is gone, too.
    pub(crate) fn forget_witness(&mut self, hub: usize) {
        self.hubs[hub].forget_witness();
    }

    /// Edits one identity of every tenant.
    pub(crate) fn edit_everything(&mut self) {
        for tenant in TENANTS {
            let known = self.truth.lock().now().identities.keys().any(|(held, _)| held.as_str() == tenant);
            if known {
                let spec = identity_spec(IDENTITIES[0], true, self.now);
                let document = document(tenant, "identity", IDENTITIES[0], spec);
                self.change("POST", "/v1/apply", json!({ "documents": [document] }));
            }
        }
    }

    /// Several changes at once.
    pub(crate) fn operate_much(&mut self) {
        for place in 0..12 {
            self.at(self.now + place * 30 * MS, super::world::Event::Operate);
        }
    }
}

fn document(tenant: &str, kind: &str, name: &str, spec: Value) -> Value {
    json!({ "kind": kind, "tenant": tenant, "name": name, "spec": spec })
}

fn identity_spec(subject: &str, entitled: bool, ticket: u64) -> Value {
    let entitlements = if entitled { json!([{ "name": "orders:read", "source": "sim" }]) } else { json!([]) };
    json!({
        "type": "workload", "environment": "prod", "ticket": format!("OPS-{ticket}"),
        "owner": { "team": "payments", "contact": "payments@example.com" },
        "review_due": "2028-05-01",
        "bindings": [{ "issuer": "main", "subject": subject }],
        "entitlements": entitlements,
    })
}

fn tenant(name: &str) -> Vec<Value> {
    let resource = json!({
        "environment": "prod",
        "routes": [{ "methods": ["GET"], "path": "/orders/**", "requires": "orders:read" }],
    });
    let mut documents = vec![
        document(name, "issuer", "main", issuer::spec()),
        document(name, "resource", "orders", resource),
    ];
    documents.extend(IDENTITIES.map(|id| document(name, "identity", id, identity_spec(id, true, 0))));
    documents
}

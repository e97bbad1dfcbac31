//! The URL of a PostgreSQL database. It may hold a password, so no part of it is shown.

use std::path::PathBuf;

use tokio_postgres::config::{Config, Host};

use crate::config::key::Key;
use crate::config::run::check::Check;

/// A PostgreSQL database.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Database {
    /// Hosts, database, user and password.
    pub connection: Config,
    /// The authorities that vouch for the server's certificate; `None`: the connection is in clear.
    pub roots: Option<PathBuf>,
}

const FORM: &str = "`postgresql://USER@HOST[:PORT]/DATABASE?sslmode=verify-full&sslrootcert=FILE`";
const SHOWN: &str = "a PostgreSQL URL";

pub(super) fn database(check: &mut Check<'_>, key: &Key, text: &str) -> Option<Database> {
    let (rest, mode, roots) = take_tls(check, key, text)?;
    let parsed = rest.parse::<Config>();
    let Ok(mut connection) = parsed else {
        let remedy = "correct it; what is no letter or digit in a user, password or name is written as `%XX`";
        check.refuse(key, SHOWN, FORM, remedy);
        return None;
    };
    for (is_there, what) in [
        (!connection.get_hosts().is_empty(), "host"),
        (connection.get_user().is_some(), "user"),
        (connection.get_dbname().is_some(), "database"),
    ] {
        if !is_there {
            check.refuse(key, format!("{SHOWN} without a {what}"), FORM, format!("name the {what}"));
            return None;
        }
    }
    if connection.get_password().is_none()
        && let Some(password) = (check.environment.variables)("PGPASSWORD")
    {
        connection.password(password);
    }
    let is_local = connection.get_hosts().iter().all(is_local);
    match (mode, roots) {
        (Some(Mode::VerifyFull), Some(roots)) => Some(Database { connection, roots: Some(roots) }),
        (Some(Mode::VerifyFull), None) => {
            let remedy = "add `sslrootcert=FILE`, the authorities that vouch for its certificate";
            check.refuse(key, format!("{SHOWN} with `sslmode=verify-full` alone"), FORM, remedy);
            None
        }
        (Some(Mode::Disable), Some(_)) | (None, Some(_)) => {
            check.refuse(key, format!("{SHOWN} with `sslrootcert` alone"), FORM, "add `sslmode=verify-full`");
            None
        }
        (None, None) if !is_local => {
            let remedy =
                "add `sslmode=verify-full&sslrootcert=FILE`; `sslmode=disable` sends everything in clear";
            check.refuse(key, format!("{SHOWN} of another machine without `sslmode`"), FORM, remedy);
            None
        }
        (mode, None) => {
            if mode.is_some() && !is_local {
                check.warn(key, "`sslmode=disable`: whoever is on the way to the database can change state");
            }
            Some(Database { connection, roots: None })
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    Disable,
    VerifyFull,
}

type Taken = (String, Option<Mode>, Option<PathBuf>);

/// Takes what is about TLS out of a URL; the rest is the driver's.
fn take_tls(check: &mut Check<'_>, key: &Key, text: &str) -> Option<Taken> {
    let (base, query) = text.split_once('?').unwrap_or((text, ""));
    let (mut mode, mut roots, mut rest) = (None, None, Vec::new());
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        match parameter.split_once('=') {
            Some(("sslmode", "disable")) => mode = Some(Mode::Disable),
            Some(("sslmode", "verify-full")) => mode = Some(Mode::VerifyFull),
            Some(("sslmode", _)) => {
                let found = format!("{SHOWN} with another `sslmode`");
                check.refuse(
                    key,
                    found,
                    "`verify-full` or `disable`",
                    "use `verify-full`: others verify nothing",
                );
                return None;
            }
            Some(("sslrootcert", file)) => roots = Some(check.path(key, file)?),
            _ => rest.push(parameter),
        }
    }
    let rest = if rest.is_empty() { base.to_owned() } else { format!("{base}?{}", rest.join("&")) };
    Some((rest, mode, roots))
}

fn is_local(host: &Host) -> bool {
    match host {
        Host::Tcp(name) => {
            name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        }
        Host::Unix(_) => true,
    }
}
